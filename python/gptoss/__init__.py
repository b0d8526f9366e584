"""Run OpenAI's open-weight models gpt-oss-20b and gpt-oss-120b on this machine.

>>> import gptoss
>>> with gptoss.load("openai/gpt-oss-20b") as llm:
...     print(llm.generate("The capital of France is", max_tokens=20).text)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

# First, because it refuses subinterpreters, of which numpy would warn at length.
from gptoss import _core as _core

# isort: split
from gptoss import chat, harmony, ops
from gptoss.chat import tool_schema
from gptoss.checkpoint import MemoryEstimate, estimate_memory
from gptoss.config import ModelConfig, RopeConfig
from gptoss.engine.constraints import Constraint, Decision
from gptoss.engine.request import Request
from gptoss.engine.sampling import SamplingParams
from gptoss.errors import BackendError, CheckpointError
from gptoss.export import save_jsonl
from gptoss.llm import LLM
from gptoss.load import generate, load
from gptoss.outputs import (
    EngineStats,
    GenerationChunk,
    GenerationResult,
    PageStats,
    Timings,
    TokenLogprob,
    TopLogprob,
    Usage,
)
from gptoss.trace import Trace

if TYPE_CHECKING:
    from gptoss.tokenizer import Tokenizer as Tokenizer

    __version__: str

__all__ = [
    "LLM",
    "BackendError",
    "CheckpointError",
    "Constraint",
    "Decision",
    "EngineStats",
    "GenerationChunk",
    "GenerationResult",
    "MemoryEstimate",
    "ModelConfig",
    "PageStats",
    "Request",
    "RopeConfig",
    "SamplingParams",
    "Timings",
    "TokenLogprob",
    "Tokenizer",
    "TopLogprob",
    "Trace",
    "Usage",
    "__version__",
    "chat",
    "estimate_memory",
    "generate",
    "harmony",
    "load",
    "ops",
    "save_jsonl",
    "tool_schema",
]


def __getattr__(name: str) -> object:
    """Import what takes a while only when it is asked for."""
    if name == "Tokenizer":
        from gptoss.tokenizer import Tokenizer

        return Tokenizer
    if name == "__version__":
        from importlib import metadata

        try:
            return metadata.version("gptoss-native")
        except metadata.PackageNotFoundError:
            return "unknown"  # a source tree that was not installed
    raise AttributeError(f"module 'gptoss' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
