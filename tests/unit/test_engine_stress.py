"""Threads, tasks, cancels, errors and constraints at the same time: everyone gets what is theirs.

The engine is the real one, on the device of csrc/testing/fake_backend.h, whose tokens depend on
all that a sequence has seen, and on which a step takes next to no time.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gptoss import Decision, SamplingParams, _core
from gptoss.engine.loop import EngineLoop
from gptoss.text_engine import TextEngine
from support.checkpoints import MICRO

VOCAB = 97
WORKERS, ROUNDS = 8, 25


def make_text(max_sequences: int, max_steps_ahead: int) -> tuple[EngineLoop, TextEngine]:
    engine = _core.make_fake_engine(
        vocab_size=VOCAB,
        script=[],
        max_sequences=max_sequences,
        context_length=256,
        max_steps_ahead=max_steps_ahead,
    )
    loop = EngineLoop(engine)
    return loop, TextEngine(loop, dataclasses.replace(MICRO, vocab_size=VOCAB), None, "fake")


class OddsAndEvens:
    """Lets odd and even tokens alternate, and puts a token of its own after every fifth."""

    def __init__(self) -> None:
        self._count = 0

    def accept(self, token_ids: list[int]) -> Decision:
        before, self._count = self._count, self._count + len(token_ids)
        if before // 5 < self._count // 5:
            return Decision([self._count % VOCAB], counted=self._count % 2 == 0)
        return Decision()

    def fill(self, mask: npt.NDArray[np.uint32]) -> None:
        mask[:] = 0x55555555 if self._count % 2 else 0xAAAAAAAA


class Breaks(OddsAndEvens):
    """Raises after some tokens."""

    def fill(self, mask: npt.NDArray[np.uint32]) -> None:
        super().fill(mask)
        if self._count >= 7:
            raise LookupError("this one's own")


def request(seed: int) -> tuple[list[int], SamplingParams]:
    """Draw a prompt and its parameters."""
    rng = random.Random(seed)
    prompt = [3] * rng.choice([0, 20, 70]) + [rng.randrange(VOCAB) for _ in range(1 + seed % 40)]
    params: dict[str, Any] = {"seed": seed, "max_tokens": rng.randrange(8, 40), "n": 1}
    kind = rng.randrange(5)
    if kind == 0:
        params["constraint"] = OddsAndEvens
    elif kind == 1:
        params["constraint"] = Breaks
    elif kind == 2:
        params["n"] = 3
    elif kind == 3:
        params["logprobs"] = 2
    return prompt, SamplingParams(**params)


Outcome = list[tuple[list[int], int, Any]] | str


def outcome_of(result: Any) -> Outcome:
    return [(s.token_ids, s.usage.completion_tokens, s.logprobs) for s in result.samples]


@pytest.fixture(scope="module")
def alone() -> dict[int, Outcome]:
    """What each request gets from a model of its own."""
    loop, text = make_text(1, 0)
    found: dict[int, Outcome] = {}
    for seed in range(WORKERS * ROUNDS):
        prompt, params = request(seed)
        try:
            found[seed] = outcome_of(text.generate(prompt, params, False))
        except LookupError as error:
            found[seed] = str(error)
    loop.close()
    assert "this one's own" in found.values()
    return found


@pytest.mark.parametrize("max_steps_ahead", [0, 2])
def test_all_at_once(alone: dict[int, Outcome], max_steps_ahead: int) -> None:
    loop, text = make_text(6, max_steps_ahead)
    found: dict[int, Outcome] = {}

    def in_thread(seed: int) -> None:
        prompt, params = request(seed)
        try:
            if seed % 2:
                found[seed] = outcome_of(text.generate(prompt, params, False))
            else:
                stream = text.submit(prompt, params, None)
                by_sample: dict[int, list[int]] = {}
                for chunk in stream:
                    by_sample.setdefault(chunk.index, []).extend(chunk.token_ids)
                found[seed] = outcome_of(stream.result())
                assert [by_sample[i] for i in range(params.n)] == [s[0] for s in found[seed]]
        except LookupError as error:
            found[seed] = str(error)

    async def in_task(seed: int) -> None:
        prompt, params = request(seed)
        try:
            found[seed] = outcome_of(await text.submit(prompt, params, None))
        except LookupError as error:
            found[seed] = str(error)

    async def cancelled(seed: int) -> None:
        prompt, params = request(seed)
        task = asyncio.ensure_future(_result(text.submit(prompt, params, None)))
        await asyncio.sleep(0.0005 * (seed % 5))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def tasks(seeds: list[int]) -> None:
        await asyncio.gather(*map(in_task, seeds), *map(cancelled, seeds))

    def work(worker: int) -> None:
        seeds = [*range(worker, WORKERS * ROUNDS, WORKERS)]
        if worker % 2:
            asyncio.run(tasks(seeds))
            return
        for seed in seeds:
            in_thread(seed)
            dropped = text.submit(*request(seed), None)
            if seed % 3:
                next(dropped, None)
            dropped.cancel()

    def score(stop: threading.Event) -> int:
        count = 0
        while not stop.is_set():
            logits = text.logits([1, 2, 3, count % VOCAB])
            assert np.isfinite(logits).all()
            count += 1
        return count

    stop = threading.Event()
    with ThreadPoolExecutor(WORKERS + 1) as pool:
        scoring = pool.submit(score, stop)
        try:
            for future in [pool.submit(work, worker) for worker in range(WORKERS)]:
                future.result(timeout=120)
        finally:
            stop.set()
        assert scoring.result(timeout=30) > 0
    assert found == alone
    deadline = threading.Event()
    for _ in range(1000):
        stats = loop.stats()
        if not stats.running and not stats.waiting:
            break
        deadline.wait(0.01)
    assert (stats.running, stats.waiting) == (0, 0)
    assert stats.full_pages.used == stats.window_pages.used == 0
    assert loop._hub._constraints == {}
    assert loop._mailboxes == {}
    loop.close()


async def _result(request: Any) -> Any:
    return await request
