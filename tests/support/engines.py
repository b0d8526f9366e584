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


def submit(
    engine: _core.Engine, request: int, prompt: npt.NDArray[np.int32], params: SamplingParams
) -> None:
    """Submit one sample of a request; `params` has its seed."""
    assert params.seed is not None
    engine.submit(request, prompt, _core.RequestParams(params), params.seed)


def outputs_of(event: _core.Event) -> list[tuple[int, Output, int]]:
    """Return an event's tokens: request, token, cached tokens of the prompt."""
    if event.finish_reason in ("abort", "stop") and not event.token_ids:
        return []  # cancelled, or scored
    assert event.error == ""
    count = len(event.token_ids)
    assert count > 0, "an event without a token"
    reasons = [None] * (count - 1) + [event.finish_reason]
    logprobs = event.logprobs or [0.0] * count  # where none were asked for
    top = [tuple(entries) for entries in event.top_logprobs] or [()] * count
    outputs = map(Output, event.token_ids, reasons, logprobs, top)
    return [(event.request, output, event.cached_tokens) for output in outputs]


def step(engine: _core.Engine) -> list[tuple[int, Output, int]]:
    """Return what a step makes, token by token."""
    return [output for event in engine.step() for output in outputs_of(event)]


def score(
    engine: _core.Engine, request: int, tokens: npt.NDArray[np.int32], chunk_tokens: int
) -> npt.NDArray[np.float32]:
    """Return the logits (V) after a text, from an engine that has nothing else to do."""
    out = np.full((1, CASE.config.vocab_size), np.nan, np.float32)
    params = _core.RequestParams(SamplingParams())
    places = array([len(tokens) - 1])
    engine.submit_logits(request, tokens, places, chunk_tokens, out, params)
    while not engine.idle():
        for event in engine.step():
            assert (event.request, event.finish_reason, event.error) == (request, "stop", "")
    return out[0]


def array(tokens: tuple[int, ...] | list[int]) -> npt.NDArray[np.int32]:
    """Return token ids as the engine takes them."""
    return np.array(tokens, np.int32)


@functools.lru_cache(maxsize=4096)
def alone(
    prompt: tuple[int, ...], params: SamplingParams, kv_cache_dtype: str = "auto"
) -> list[Output]:
    """Return what a request gets from an engine of its own."""
    engine = make_engine(max_step_tokens=512, prefix_cache=False, kv_cache_dtype=kv_cache_dtype)
    submit(engine, 1, array(prompt), params)
    outputs = []
    while not engine.idle():
        outputs += [output for _, output, _ in step(engine)]
    return outputs
