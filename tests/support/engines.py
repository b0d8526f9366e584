"""The engine alone, without threads or text, over a small random checkpoint."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gptoss import SamplingParams, _core
from gptoss.checkpoint import Checkpoint, open_checkpoint
from gptoss.checkpoint.layout import tensors_by_role
from support.model_cases import CASES

CASE = CASES[0]  # window of 16 tokens, 4 layers
EOS = 7
CONTEXT = 256  # 4 pages


class Output(NamedTuple):
    """A token that a request got."""

    token_id: int
    finish_reason: str | None
    logprob: float
    top_logprobs: tuple[tuple[int, float], ...]


@functools.cache
def _checkpoint() -> Checkpoint:
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    return open_checkpoint(CASE.build(folder / "model"))


def make_engine(
    *,
    max_step_tokens: int = 64,
    max_sequences: int = 8,
    pages: int = 64,
    context_length: int = CONTEXT,
    kv_cache_dtype: str = "auto",
    **more: Any,
) -> _core.Engine:
    """Make an engine with room for so many pages of 64 tokens."""
    return _engine(
        max_step_tokens=max_step_tokens,
        max_sequences=max_sequences,
        context_length=context_length,
        kv_memory_bytes=pages * _page_bytes(kv_cache_dtype),
        kv_cache_dtype=kv_cache_dtype,
        **more,
    )


def _engine(**options: Any) -> _core.Engine:
    checkpoint = _checkpoint()
    return _core.Engine(
        checkpoint.config,
        tensors_by_role(checkpoint.config, checkpoint.tensors),
        [EOS],
        device="cpu",
        threads=1,
        precision="auto",
        **options,
    )


@functools.cache
def _page_bytes(kv_cache_dtype: str) -> int:
    engine = _engine(
        context_length=64,
        max_step_tokens=1,
        max_sequences=1,
        kv_memory_bytes=2**20,
        kv_cache_dtype=kv_cache_dtype,
    )
    size: int = engine.stats()["full_pages"]["page_bytes"]
    return size


def step(engine: _core.Engine) -> list[tuple[int, Output, int]]:
    """Return what a step makes: request, token, cached tokens of the prompt."""
    return [
        (request, Output(token, reason, logprob, tuple(top)), cached)
        for request, token, reason, logprob, top, cached in engine.step()
    ]


def array(tokens: tuple[int, ...] | list[int]) -> npt.NDArray[np.int32]:
    """Return token ids as the engine takes them."""
    return np.array(tokens, np.int32)


@functools.lru_cache(maxsize=4096)
def alone(
    prompt: tuple[int, ...], params: SamplingParams, kv_cache_dtype: str = "auto"
) -> list[Output]:
    """Return what a request gets from an engine of its own."""
    engine = make_engine(max_step_tokens=512, prefix_cache=False, kv_cache_dtype=kv_cache_dtype)
    engine.submit(1, array(prompt), params)
    outputs = []
    while not engine.idle():
        outputs += [output for _, output, _ in step(engine)]
    return outputs
