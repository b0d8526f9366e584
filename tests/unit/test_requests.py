"""Requests: several samples, cancelling, long lists, counters."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gptoss
from gptoss import LLM, SamplingParams

CONTEXT = 20_000
PROMPT = np.random.default_rng(5).integers(0, 256, 150).tolist()
ENDLESS: dict[str, Any] = {"ignore_eos": True}
SOME: dict[str, Any] = {"ignore_eos": True, "max_tokens": 20, "seed": 7}
LETTERS = dict.fromkeys(b"abcdefgh", 30.0)  # so that the output is text


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Callable[[str], Path]) -> Path:
    return tiny_checkpoint("hf")


@pytest.fixture(scope="module")
def llm(checkpoint: Path) -> Iterator[LLM]:
    with gptoss.load(checkpoint, threads=2, context_length=CONTEXT) as model:
        yield model


def wait_until_idle(llm: LLM) -> gptoss.EngineStats:
    deadline = time.monotonic() + 10
    while (stats := llm.stats()).running or stats.waiting:
        assert time.monotonic() < deadline, stats
        time.sleep(0.001)
    return stats


class TestRequest:
    def test_result_is_that_of_generate(self, llm: LLM) -> None:
        expected = llm.generate("a", **SOME)
        request = llm.submit("a", **SOME)
        assert request.result().token_ids == expected.token_ids
        assert request.finished
        assert request.result() is not None  # again
        assert list(request) == []

    def test_chunks_and_result_mix(self, llm: LLM) -> None:
        expected = llm.generate("a", **SOME)
        request = llm.submit("a", SamplingParams(**SOME))
        first = next(request)
        assert request.result(timeout=30).token_ids == expected.token_ids
        assert first.token_ids == expected.token_ids[:1]

    def test_many_at_once(self, llm: LLM) -> None:
        expected = [r.token_ids for r in llm.generate(["a", "b", "c"] * 10, **SOME)]
        requests = [llm.submit(prompt, **SOME) for prompt in ["a", "b", "c"] * 10]
        assert [r.result().token_ids for r in reversed(requests)] == expected[::-1]

    def test_timeout_lets_it_go_on(self, llm: LLM) -> None:
        request = llm.submit("a", ignore_eos=True, max_tokens=4000, seed=1)
        with pytest.raises(TimeoutError, match=r"the request is not finished after 0.001 s"):
            request.result(timeout=Fraction(1, 1000))  # type: ignore[arg-type]
        assert not request.finished
        assert len(request.result().token_ids) == 4000

    def test_cancel_takes_a_step(self, llm: LLM) -> None:
        request = llm.submit(PROMPT, **ENDLESS)
        next(request)
        before = llm.stats().generated_tokens
        request.cancel()
        stats = wait_until_idle(llm)
        # One step may be under way, and one may have ended since the counters were read.
        assert stats.generated_tokens <= before + 2
        assert stats.full_pages.used == stats.window_pages.used == stats.kv_used_bytes == 0
        assert request.finished
        assert list(request) == []
        with pytest.raises(RuntimeError, match="the request was cancelled before its end"):
            request.result()

    def test_dropping_and_leaving_cancel(self, llm: LLM) -> None:
        request = llm.submit("a", **ENDLESS)
        del request
        with llm.submit("a", **ENDLESS) as inside:
            next(inside)
        for _ in llm.stream("a", **ENDLESS):
            break
        wait_until_idle(llm)
        assert inside.finished

    def test_another_thread_may_cancel(self, llm: LLM) -> None:
        # The first waits for a token that never comes, the second takes tokens meanwhile.
        for prompt in ([1] * (CONTEXT - 1), [1]):
            request = llm.submit(prompt, **ENDLESS)
            timer = threading.Timer(0.05, request.cancel)
            with ThreadPoolExecutor() as pool:
                waiting = pool.submit(lambda request: [*request], request)
                timer.start()
                assert bool(waiting.result(timeout=10)) == (prompt == [1])
            wait_until_idle(llm)

    def test_a_failure_comes_to_all_who_ask(self, checkpoint: Path) -> None:
        llm = gptoss.load(checkpoint, context_length=CONTEXT)
        request = llm.submit("a", **ENDLESS)
        llm.close()
        for _ in range(2):
            with pytest.raises(RuntimeError, match="the model is closed"):
                request.result()


class TestSamples:
    def test_the_first_is_that_of_one_and_the_others_have_seeds_of_their_own(
        self, llm: LLM
    ) -> None:
        one = llm.generate("a", **SOME)
        result = llm.generate("a", **SOME, n=4)
        samples = result.samples
        assert len(samples) == 4
        assert samples[0] is result
        assert result.token_ids == one.token_ids
        assert len({tuple(sample.token_ids) for sample in samples}) == 4
        params = SamplingParams(**SOME, n=4)
        for index, sample in enumerate(samples):
            alone = params.for_sample(index)
            assert alone.n == 1
            assert llm.generate("a", alone).token_ids == sample.token_ids
        assert [s.token_ids for s in llm.generate("a", params).samples] == [
            s.token_ids for s in samples
        ]
        assert one.samples == [one]
        assert pickle.loads(pickle.dumps(result)) == result

    def test_seeds_do_not_repeat_those_of_neighbours(self) -> None:
        seeds = {
            SamplingParams(seed=s, n=9).for_sample(i).seed for s in range(50) for i in range(9)
        }
        assert len(seeds) == 450

    def test_without_a_seed_they_differ(self, llm: LLM) -> None:
        results = llm.generate(["a", "a"], n=3, max_tokens=20, ignore_eos=True)
        assert len({tuple(s.token_ids) for r in results for s in r.samples}) == 6

    def test_greedy_samples_are_equal(self, llm: LLM) -> None:
        result = llm.generate("a", n=3, temperature=0, max_tokens=8, ignore_eos=True)
        assert len({tuple(sample.token_ids) for sample in result.samples}) == 1

    @pytest.mark.parametrize("length", [2, 40, 64, 130])
    def test_the_prompt_is_computed_once(self, checkpoint: Path, length: int) -> None:
        with gptoss.load(checkpoint, context_length=CONTEXT) as llm:
            samples = llm.generate(PROMPT[:length], **SOME, n=12).samples
            stats = llm.stats()
        assert [s.usage.cached_tokens for s in samples] == [0] + [length - 1] * 11
        assert stats.prompt_tokens == length + 11
        assert stats.requested_tokens == 12 * length
        assert stats.cached_tokens == 11 * (length - 1)
        assert stats.cache_hit_rate == 11 * (length - 1) / (12 * length)

    def test_chunks_tell_which_sample_they_belong_to(self, llm: LLM) -> None:
        expected = llm.generate("a", **SOME, n=3)
        request = llm.stream("a", **SOME, n=3)
        found: dict[int, list[int]] = {}
        ends = []
        for chunk in request:
            found.setdefault(chunk.index, []).extend(chunk.token_ids)
            if chunk.finish_reason is not None:
                ends.append(chunk.index)
        assert found == {i: s.token_ids for i, s in enumerate(expected.samples)}
        assert sorted(ends) == [0, 1, 2]
        assert [s.token_ids for s in request.result().samples] == [*found.values()]

    def test_each_ends_for_itself(self, llm: LLM) -> None:
        params: dict[str, Any] = {"logit_bias": LETTERS, "seed": 3, "max_tokens": 60, "n": 6}
        free = llm.generate("x", **params)
        stop = free.text[10:13]
        result = llm.generate(["x", "x"], stop=stop, **params)[1]
        for sample, whole in zip(result.samples, free.samples, strict=True):
            assert sample.text == whole.text.split(stop)[0]
            assert sample.finish_reason == ("stop" if stop in whole.text else "length")
        assert result.finish_reason == "stop"
        assert {s.finish_reason for s in result.samples} == {"stop", "length"}
        wait_until_idle(llm)

    def test_cancelling_ends_all(self, llm: LLM) -> None:
        request = llm.submit("a", **ENDLESS, n=5)
        next(request)
        request.cancel()
        wait_until_idle(llm)

    @pytest.mark.parametrize("n", [0, -1, 1.5, True])
    def test_mistakes(self, n: Any) -> None:
        with pytest.raises((ValueError, TypeError), match="n must be"):
            SamplingParams(n=n)

    def test_other_names(self) -> None:
        with pytest.raises(TypeError, match="num_return_sequences: did you mean n"):
            SamplingParams(num_return_sequences=2)  # type: ignore[call-arg]


class TestLongLists:
    def test_some_dozens_are_with_the_engine_at_a_time(self, llm: LLM) -> None:
        prompts = [[i % 256, i // 256, 5] for i in range(600)]
        most = 0
        with ThreadPoolExecutor() as pool:
            future = pool.submit(llm.generate, prompts, max_tokens=4, temperature=0)
            while not future.done():
                stats = llm.stats()
                most = max(most, stats.running + stats.waiting)
        assert 16 < most <= 64
        results = future.result()
        assert [r.prompt_token_ids for r in results] == prompts
        for index in (0, 63, 64, 599):
            alone = llm.generate(prompts[index], max_tokens=4, temperature=0)
            assert results[index].token_ids == alone.token_ids

    def test_what_can_never_run_is_refused_before_anything_begins(self, llm: LLM) -> None:
        before = wait_until_idle(llm).requested_tokens
        good: list[Any] = ["a"] * 200
        with pytest.raises(ValueError, match=rf"prompts\[200\]: the prompt has {CONTEXT} tokens"):
            llm.generate([*good, [1] * CONTEXT])
        with pytest.raises(TypeError, match=r"prompts\[200\]: token ids must be integers"):
            llm.generate([*good, [1.5]])
        with pytest.raises(ValueError, match=r"stop_token_ids has id 512, outside the vocabulary"):
            llm.generate(good, stop_token_ids=[512])
        assert llm.stats().requested_tokens == before


class TestRoom:
    """A cache of 1,000 tokens, of which a request may use all."""

    @pytest.fixture
    def small(self, checkpoint: Path) -> Iterator[LLM]:
        with gptoss.load(checkpoint, context_length=1000, kv_cache_memory=10**6) as whole:
            page_bytes = whole.stats().full_pages.page_bytes
        with gptoss.load(checkpoint, context_length=1000, kv_cache_memory=16 * page_bytes) as model:
            assert model.stats().full_pages.total == 16
            yield model

    def test_what_does_not_fit_now_waits(self, llm: LLM, small: LLM) -> None:
        prompts = [np.random.default_rng(i).integers(0, 256, 600).tolist() for i in range(4)]
        expected = [r.token_ids for r in llm.generate(prompts, **SOME)]
        assert [r.token_ids for r in small.generate(prompts, **SOME)] == expected

    def test_what_never_fits_is_refused_with_the_numbers(self, small: LLM) -> None:
        for act in (small.generate, small.submit, small.stream, small.astream):
            with pytest.raises(ValueError, match="the prompt has 1000 tokens, and the context of"):
                act([1] * 1000)
        with pytest.raises(ValueError, match="the sequence has 1001 tokens, more than the context"):
            small.logits([1] * 1001)

    def test_scoring_waits_for_room_like_any_request(self, llm: LLM, small: LLM) -> None:
        tokens = np.random.default_rng(9).integers(0, 256, 1000).tolist()
        expected = llm.generate(PROMPT, ignore_eos=True, max_tokens=700, seed=1).token_ids
        request = small.submit(PROMPT, ignore_eos=True, max_tokens=700, seed=1)
        next(request)
        assert np.array_equal(small.logits(tokens, [-1]), llm.logits(tokens, [-1]))
        assert request.result().token_ids == expected
        assert small.stats().preemptions == 0


class TestStats:
    def test_counters(self, checkpoint: Path) -> None:
        with gptoss.load(checkpoint, context_length=CONTEXT) as llm:
            stats = llm.stats()
            assert stats.full_pages.free == stats.full_pages.total == 2 * -(-CONTEXT // 64)
            assert stats.cache_hit_rate == stats.prefill_tps == stats.decode_tps == 0.0
            assert stats.kv_cache_bytes == sum(
                pages.total * pages.page_bytes for pages in (stats.full_pages, stats.window_pages)
            )
            for _ in range(2):
                llm.generate(PROMPT, **SOME)
            stats = wait_until_idle(llm)
            assert (stats.running, stats.waiting, stats.preemptions) == (0, 0, 0)
            assert stats.requested_tokens == 300
            assert stats.cached_tokens == 149
            assert stats.prompt_tokens == 151
            assert stats.generated_tokens == 40
            assert stats.full_pages.used == stats.window_pages.used == 0
            assert stats.full_pages.cached >= 3
            assert stats.kv_used_bytes == 0
            for tps in ("prefill_tps", "recent_prefill_tps", "decode_tps", "recent_decode_tps"):
                assert getattr(stats, tps) > 0
            assert set(stats.phase_seconds) > {"attention_in", "attend", "experts_in", "unembed"}
            assert stats.phase_seconds.pop("constrain") == 0
            assert stats.phase_seconds.pop("device") == 0
            assert all(seconds > 0 for seconds in stats.phase_seconds.values())
            assert stats.sequences == 2
            assert stats.steps == 40
            with llm.submit(PROMPT, **ENDLESS) as request:
                next(request)
                stats = llm.stats()
                assert stats.running == 1
                assert stats.full_pages.used >= 3
                assert stats.kv_used_bytes > 0
