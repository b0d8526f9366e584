"""Text to token ids and back: a checkpoint's tokenizer.json, its vocabulary, its special tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gptoss.tokenizer.tokenizer import IncrementalDecoder, Tokenizer

__all__ = ["IncrementalDecoder", "Tokenizer"]


def __getattr__(name: str) -> object:
    """Import the libraries that encode only where text is used; checkpoints need `json_file`."""
    if name in __all__:
        from gptoss.tokenizer import tokenizer

        return getattr(tokenizer, name)
    raise AttributeError(f"module 'gptoss.tokenizer' has no attribute {name!r}")
