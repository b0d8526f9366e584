"""Whatever comes in whatever order, a request gets what it gets alone, and the pages come back.

The engine is stepped by hand, with a KV cache so small that requests wait, push each other out and
find what others left behind.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gptoss import SamplingParams, _core
from support.engines import (
    CASE,
    CONTEXT,
    Output,
    alone,
    array,
    make_engine,
    outputs_of,
    score,
    submit,
)

VOCAB = CASE.config.vocab_size


@functools.cache
def beginning(seed: int) -> list[int]:
    """Return a text that many prompts begin with."""
    return np.random.default_rng(seed).integers(0, VOCAB, CONTEXT).tolist()


@st.composite
def prompts(draw: st.DrawFn) -> tuple[int, ...]:
    """Draw a prompt: a beginning that others share, and an end of its own, which may be empty."""
    shared = beginning(draw(st.integers(0, 2)))[: draw(st.sampled_from([0, 1, 40, 64, 100, 190]))]
    own = draw(st.lists(st.integers(0, VOCAB - 1), min_size=0 if shared else 1, max_size=40))
    return (*shared, *own)


params = st.builds(
    SamplingParams,
    max_tokens=st.integers(1, 120),
    temperature=st.sampled_from([0.0, 1.0]),
    top_p=st.sampled_from([1.0, 0.8]),
    seed=st.integers(0, 3),
    n=st.sampled_from([1, 1, 1, 2, 4]),
    stop_token_ids=st.lists(st.integers(0, VOCAB - 1), max_size=8),
    logprobs=st.sampled_from([None, 2]),
    frequency_penalty=st.sampled_from([0.0, 1.0]),
    ignore_eos=st.booleans(),
)


@functools.lru_cache(maxsize=256)
def logits_alone(tokens: tuple[int, ...], kv_cache_dtype: str) -> npt.NDArray[np.float32]:
    """Return the logits of a text's last token, from an engine of its own."""
    engine = make_engine(max_step_tokens=512, kv_cache_dtype=kv_cache_dtype)
    return score(engine, 1, array(tokens), 512)


@dataclasses.dataclass
class Live:
    """A request that is not finished."""

    prompt: tuple[int, ...]
    params: SamplingParams
    outputs: list[Output] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Scored:
    """A text whose logits are being computed."""

    tokens: tuple[int, ...]
    logits: npt.NDArray[np.float32]


class Traffic(RuleBasedStateMachine):
    @initialize(
        pages=st.integers(4, 9),
        max_step_tokens=st.sampled_from([1, 7, 24, 64, 200]),
        max_sequences=st.integers(1, 6),
        prefix_cache=st.sampled_from([True, True, True, False]),
        speculative=st.booleans(),
        kv_cache_dtype=st.sampled_from(["auto", "auto", "int8"]),
    )
    def begin(self, max_step_tokens: int, kv_cache_dtype: str, **options: Any) -> None:
        self.max_sequences = options["max_sequences"]
        self.kv_cache_dtype = kv_cache_dtype
        self.max_step_tokens = max_step_tokens
        self.engine = make_engine(
            max_step_tokens=max_step_tokens, kv_cache_dtype=kv_cache_dtype, **options
        )
        self.live: dict[int, Live] = {}
        self.scored: dict[int, Scored] = {}
        self.ids = 0
        self.ended: list[int] = []
        self.stepped = True  # whether the counters are those of the latest step

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.all_finish()

    @rule(prompt=prompts(), params=params)
    def submit(self, prompt: tuple[int, ...], params: SamplingParams) -> None:
        for index in range(params.n):
            self.ids += 1
            sample = params.for_sample(index)
            submit(self.engine, self.ids, array(prompt), sample)
            self.live[self.ids] = Live(prompt, sample)

    @rule(several=st.lists(st.tuples(prompts(), params), min_size=3, max_size=6))
    def submit_several(self, several: list[tuple[tuple[int, ...], SamplingParams]]) -> None:
        for prompt, params in several:
            self.submit(prompt, params)

    @rule(length=st.integers(CONTEXT, CONTEXT + 3))
    def submit_what_never_fits(self, length: int) -> None:
        before = self.engine.stats()
        with pytest.raises(ValueError, match=f"the prompt has {length} tokens, and the context"):
            submit(self.engine, 10**6, array([1] * length), SamplingParams(seed=0))
        assert self.engine.stats() == before

    @rule(place=st.integers(0, 30), then_step=st.booleans())
    def cancel(self, place: int, then_step: bool) -> None:
        # In the order of their coming; past the end what is finished, or has never been.
        requests = [*self.live, *self.scored, *self.ended]
        request = requests[place] if place < len(requests) else 10**7
        self.engine.cancel(request)
        if (self.live.pop(request, None) or self.scored.pop(request, None)) is not None:
            self.ended.append(request)
            self.stepped = False
        if then_step:
            self.step(1)
            if not self.live and not self.scored:
                self.all_pages_are_back()

    @rule(count=st.integers(1, 20))
    def step(self, count: int) -> None:
        for _ in range(count):
            if self.engine.idle():
                assert not self.live
                assert not self.scored
            before = self.engine.stats()
            events = self.engine.step()
            self.take_scores(events)
            outputs = [output for made in events for output in outputs_of(made)]
            for request, output, cached in outputs:
                live = self.live[request]  # nothing comes for what is cancelled or finished
                live.outputs.append(output)
                assert cached < len(live.prompt)
                if output.finish_reason is not None:
                    assert live.outputs == alone(live.prompt, live.params, self.kv_cache_dtype)
                    del self.live[request]
                    self.ended.append(request)
            stats = self.engine.stats()
            computed = [s["prompt_tokens"] + s["generated_tokens"] for s in (before, stats)]
            recomputed = stats["preemptions"] > 0
            if (self.live or self.scored) and not recomputed:
                assert computed[1] > computed[0]
        self.stepped = True

    @rule(tokens=prompts(), chunk=st.integers(1, 200))
    def score(self, tokens: tuple[int, ...], chunk: int) -> None:
        self.ids += 1
        logits = np.full((1, VOCAB), np.nan, np.float32)
        self.engine.submit_logits(
            self.ids,
            array(tokens),
            array([len(tokens) - 1]),
            min(chunk, self.max_step_tokens),
            logits,
            _core.RequestParams(SamplingParams()),
        )
        self.scored[self.ids] = Scored(tokens, logits)

    def take_scores(self, events: list[_core.Event]) -> None:
        for made in events:
            scored = self.scored.pop(made.request, None)
            if scored is not None:
                assert (made.finish_reason, made.token_ids, made.error) == ("stop", [], "")
                expected = logits_alone(scored.tokens, self.kv_cache_dtype)
                assert np.array_equal(scored.logits[0], expected)
                self.ended.append(made.request)

    @rule()
    def all_finish(self) -> None:
        # The oldest running request computes something in every step, and loses nothing.
        bound = 3 + sum(
            [len(live.prompt) + (live.params.max_tokens or 0) for live in self.live.values()]
            + [len(scored.tokens) for scored in self.scored.values()]
        ) * (1 + len(self.live) + len(self.scored))
        while not self.engine.idle():
            self.step(1)
            bound -= 1
            assert bound > 0, "no progress"
        assert not self.live
        assert not self.scored
        stats = self.engine.stats()
        if stats["preemptions"]:
            event("preempted")
        if stats["cached_tokens"]:
            event("cached")
        if stats["accepted_tokens"]:
            event("guessed right")
        self.all_pages_are_back()

    def all_pages_are_back(self) -> None:
        stats = self.engine.stats()
        for kind in ("full_pages", "window_pages"):
            pages = stats[kind]
            assert pages["free"] + pages["cached"] == pages["total"]

    @invariant()
    def counters_agree(self) -> None:
        if not hasattr(self, "engine"):
            return
        stats = self.engine.stats()
        assert 0 <= stats["running"] <= self.max_sequences
        for kind in ("full_pages", "window_pages"):
            pages = stats[kind]
            assert 0 <= pages["free"] + pages["cached"] <= pages["total"]
        if self.stepped:
            assert stats["running"] + stats["waiting"] == len(self.live) + len(self.scored)


class TestTraffic(Traffic.TestCase):  # type: ignore[misc]
    settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@pytest.mark.slow
class TestMuchTraffic(Traffic.TestCase):  # type: ignore[misc]
    settings = settings(
        max_examples=1000,
        stateful_step_count=50,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
