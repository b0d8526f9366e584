"""With steps in flight a sequence gets what it gets alone: the scheduler over a fake device.

The device makes logits of a hash of what its block tables lead to. Thousands of random scenarios
are in tests/native/test_scheduler.cpp; here a few hundred are shrunk where one fails.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss import SamplingParams, _core

VOCAB = 61
CONTEXT = 192


@dataclasses.dataclass(frozen=True)
class Job:
    """A sequence, and when it comes and goes, in steps."""

    prompt: tuple[int, ...]
    params: SamplingParams
    comes: int
    goes: int | None


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    beginning = draw(st.sampled_from([0, 10, 64, 100]))
    shared = np.random.default_rng(draw(st.integers(0, 1))).integers(0, VOCAB, beginning).tolist()
    own = draw(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=12))
    most = draw(st.integers(1, 40))
    params = SamplingParams(
        max_tokens=most,
        min_tokens=draw(st.integers(0, most)),
        temperature=draw(st.sampled_from([0.0, 1.0])),
        top_k=draw(st.sampled_from([0, 5])),
        repetition_penalty=draw(st.sampled_from([1.0, 1.4])),
        stop_token_ids=draw(st.lists(st.integers(0, VOCAB - 1), max_size=3)),
        logprobs=draw(st.sampled_from([None, 1])),
        prompt_logprobs=draw(st.sampled_from([None, None, 0])),
        seed=draw(st.integers(0, 3)),
    )
    goes = draw(st.one_of(st.none(), st.none(), st.integers(1, 30)))
    return Job((*shared, *own), params, draw(st.integers(0, 6)), goes)


def run(engine: _core.Engine, work: list[Job]) -> list[dict[str, Any]]:
    """Run the jobs together; return what each got."""
    got: list[dict[str, Any]] = [
        {"tokens": [], "logprobs": [], "prompt": [], "finish": None} for _ in work
    ]
    step = 0
    while step <= max(job.comes for job in work) or not engine.idle():
        for index, job in enumerate(work):
            if job.comes == step:
                prompt = np.array(job.prompt, np.int32)
                seed = job.params.seed
                assert seed is not None
                engine.submit(index, prompt, _core.RequestParams(job.params), seed)
            if job.goes is not None and job.comes + job.goes == step:
                engine.cancel(index)
        for event in engine.step():
            mine = got[event.request]
            assert mine["finish"] is None
            mine["tokens"] += event.token_ids
            mine["logprobs"] += event.logprobs
            mine["prompt"] += event.prompt_logprobs
            mine["finish"] = event.finish_reason
        step += 1
        assert step < 3000
    return got


@settings(max_examples=300, deadline=None)
@given(
    work=st.lists(jobs(), min_size=1, max_size=6),
    ahead=st.integers(0, 2),
    sequences=st.integers(1, 4),
    step_tokens=st.integers(1, 80),
    pages=st.integers(3, 9),
    prefix_cache=st.booleans(),
    speculative=st.booleans(),
)
def test_sequences_get_what_they_get_alone(
    work: list[Job],
    ahead: int,
    sequences: int,
    step_tokens: int,
    pages: int,
    prefix_cache: bool,
    speculative: bool,
) -> None:
    engine = _core.make_fake_engine(
        vocab_size=VOCAB,
        max_sequences=sequences,
        context_length=CONTEXT,
        max_steps_ahead=ahead,
        max_step_tokens=step_tokens,
        pages=pages,
        prefix_cache=prefix_cache,
        speculative=speculative,
    )
    for job, mine in zip(work, run(engine, work), strict=True):
        alone = _core.make_fake_engine(
            vocab_size=VOCAB, max_sequences=1, context_length=CONTEXT, pages=3, prefix_cache=False
        )
        (expected,) = run(alone, [dataclasses.replace(job, comes=0, goes=None)])
        if mine["finish"] == "abort":
            assert job.goes is not None
            expected = {
                name: expected[name][: len(mine[name])] for name in ("tokens", "logprobs")
            } | {"prompt": mine["prompt"] and expected["prompt"], "finish": "abort"}
        assert mine == expected
    stats = engine.stats()
    for group in (stats["full_pages"], stats["window_pages"]):
        assert group["free"] + group["cached"] == group["total"]
