"""Checkpoints in other forms: the published layout, GGUF."""

from gptoss.convert.convert_model import Converted, Rounding, Target, convert
from gptoss.convert.gguf_writer import GgufDense, write_gguf
from gptoss.convert.safetensors_writer import ExpertsDtype

__all__ = [
    "Converted",
    "ExpertsDtype",
    "GgufDense",
    "Rounding",
    "Target",
    "convert",
    "write_gguf",
]
