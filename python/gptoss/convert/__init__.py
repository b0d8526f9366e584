"""Checkpoints in other forms."""

from gptoss.convert.gguf_writer import GgufDense, write_gguf

__all__ = ["GgufDense", "write_gguf"]
