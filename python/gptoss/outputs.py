"""What requests give back, under the path that callers know; it is made in `gptoss.engine`."""

from gptoss.engine.outputs import (
    EngineStats,
    FinishReason,
    GenerationChunk,
    GenerationResult,
    PageStats,
    Timings,
    TokenLogprob,
    TopLogprob,
    Usage,
)

__all__ = [
    "EngineStats",
    "FinishReason",
    "GenerationChunk",
    "GenerationResult",
    "PageStats",
    "Timings",
    "TokenLogprob",
    "TopLogprob",
    "Usage",
]
