"""What a token costs around the device: the engine's loop, its thread, requests, text and asyncio.

    python bench/bench_loop.py path/to/tokenizer.json

The engine is the real one, on a device that takes no time: it gives every sequence tokens of this
repository's own prose in turn. What is left is what is paid for each token above a device.

generate: tokens per second of one call with 128 prompts; of 128 tasks that each iterate over a
stream; and of the engine alone, stepped in a loop. Text, usage and finish reasons are looked at.
latency: from the end of a step to the chunk in the hands of the one stream's thread, or task; and,
for comparison, what handing over anything takes: from a thread to one that waits at a bare queue,
or to a task that waits for a bare future. Medians of rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from gptoss import GenerationResult, SamplingParams, _core
from gptoss.engine.loop import EngineLoop
from gptoss.text_engine import TextEngine
from gptoss.tokenizer import Tokenizer
from timing import print_results

ROOT = Path(__file__).resolve().parent.parent
VOCAB = 201_088
CONTEXT = 8192


class Bench:
    """One model without a model."""

    def __init__(self, tokenizer: Tokenizer, sequences: int, new: int) -> None:
        prose = "\n".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))
        self.script = tokenizer.encode(prose)
        self.params = SamplingParams(max_tokens=new, temperature=0)
        self.prompts = [[1000 + i, *range(20)] for i in range(sequences)]
        self.new = new
        self.loop = EngineLoop(self.engine(sequences))
        self.text = TextEngine(self.loop, VOCAB, tokenizer, "fake")

    def engine(self, sequences: int) -> _core.Engine:
        """Make an engine on the device that takes no time."""
        return _core.make_fake_engine(
            vocab_size=VOCAB,
            script=self.script,
            max_sequences=sequences,
            context_length=CONTEXT,
        )

    def check(self, result: GenerationResult) -> None:
        """See that all is there."""
        assert result.finish_reason == "length"
        assert result.usage.completion_tokens == len(result.token_ids) == self.new
        assert len(result.text) > self.new

    def engine_alone(self) -> float:
        """Tokens per second of stepping it."""
        engine = self.engine(len(self.prompts))
        params = _core.RequestParams(self.params)
        for i, prompt in enumerate(self.prompts):
            engine.submit(i + 1, np.array(prompt, np.int32), params, i)
        start = time.perf_counter()
        count = 0
        while not engine.idle():
            count += len(engine.step())
        assert count == self.new * len(self.prompts)
        return count / (time.perf_counter() - start)

    def generate(self) -> float:
        """Tokens per second of one call."""
        start = time.perf_counter()
        results: Any = self.text.generate(self.prompts, self.params, False)
        seconds = time.perf_counter() - start
        for result in results:
            self.check(result)
        return len(results) * self.new / seconds

    def streams(self) -> float:
        """Tokens per second of as many tasks as there are prompts."""

        async def consume(prompt: list[int]) -> GenerationResult:
            request = self.text.submit(prompt, self.params, None)
            pieces = []
            async for chunk in request:
                pieces.append(chunk.text)
            result = await request
            assert "".join(pieces) == result.text
            return result

        async def all_streams() -> list[GenerationResult]:
            return await asyncio.gather(*map(consume, self.prompts))

        start = time.perf_counter()
        results = asyncio.run(all_streams())
        seconds = time.perf_counter() - start
        for result in results:
            self.check(result)
        return len(results) * self.new / seconds


class Slow:
    """An engine whose steps take a while, and that notes when each has ended."""

    def __init__(self, engine: _core.Engine, step_s: float) -> None:
        self._engine = engine
        self._step_s = step_s
        self.ended_s = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def step(self) -> list[_core.Event]:
        """Step, after a while."""
        time.sleep(self._step_s)
        events = self._engine.step()
        self.ended_s = time.perf_counter()
        return events


def latencies(bench: Bench, step_s: float) -> tuple[float, float]:
    """Median seconds from a step's end to the chunk, of a thread and of a task."""
    slow = Slow(bench.engine(1), step_s)
    loop = EngineLoop(slow)  # type: ignore[arg-type]
    text = TextEngine(loop, VOCAB, bench.text.tokenizer, "fake")
    found: list[float] = []

    def note(_: object) -> None:
        found.append(time.perf_counter() - slow.ended_s)

    for chunk in text.submit([1, 2], bench.params, None):
        note(chunk)
    thread_s = statistics.median(found)
    found.clear()

    async def consume() -> None:
        async for chunk in text.submit([1, 2], bench.params, None):
            note(chunk)

    asyncio.run(consume())
    loop.close()
    return thread_s, statistics.median(found)


def bare_latencies(count: int, pause_s: float) -> tuple[float, float]:
    """Median seconds of handing over nothing, to a thread and to a task."""
    found: list[float] = []
    queue: SimpleQueue[float] = SimpleQueue()

    def give() -> None:
        for _ in range(count):
            time.sleep(pause_s)
            queue.put(time.perf_counter())

    giver = threading.Thread(target=give)
    giver.start()
    for _ in range(count):
        sent_s = queue.get()
        found.append(time.perf_counter() - sent_s)
    giver.join()
    thread_s = statistics.median(found)
    found.clear()

    async def take() -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[float] = loop.create_future()

        def set_result(sent_s: float) -> None:
            future.set_result(sent_s)

        def give() -> None:
            for _ in range(count):
                time.sleep(pause_s)
                loop.call_soon_threadsafe(set_result, time.perf_counter())

        giver = threading.Thread(target=give)
        giver.start()
        for _ in range(count):
            sent_s = await future
            found.append(time.perf_counter() - sent_s)
            future = loop.create_future()
        giver.join()

    asyncio.run(take())
    return thread_s, statistics.median(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tokenizer", type=Path, help="tokenizer.json of the published vocabulary")
    parser.add_argument("--sequences", type=int, default=128)
    parser.add_argument("--new", type=int, default=256, metavar="TOKENS")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--step-ms", type=float, default=2.0, help="of the steps behind a latency")
    args = parser.parse_args()

    bench = Bench(Tokenizer.from_file(args.tokenizer), args.sequences, args.new)
    kinds: dict[str, Callable[[], float]] = {
        "engine alone": bench.engine_alone,
        "generate": bench.generate,
        "async streams": bench.streams,
    }
    speeds: dict[str, list[float]] = {kind: [] for kind in kinds}
    delays, bare = [], []
    for _ in range(args.rounds):
        for kind, measure in kinds.items():
            speeds[kind].append(measure())
        delays.append(latencies(bench, args.step_ms / 1e3))
        bare.append(bare_latencies(args.new, args.step_ms / 1e3))
    bench.loop.close()
    rows = [
        {
            "tokens": f"{kind} of {args.sequences}",
            "tok/s": (tps := statistics.median(found)),
            "us each": 1e6 / tps,
            "best tok/s": max(found),
        }
        for kind, found in speeds.items()
    ]
    print_results("Tokens around a device that takes no time", rows)
    waits = [
        {
            "from a step's end to": what,
            "us": 1e6 * statistics.median(found),
            "best us": 1e6 * min(found),
            "bare us": 1e6 * statistics.median(empty),
        }
        for what, found, empty in zip(
            ("a thread's chunk", "a task's chunk"),
            zip(*delays, strict=True),
            zip(*bare, strict=True),
            strict=True,
        )
    ]
    print_results("One stream", waits, sequences=args.sequences, new=args.new, throughput=rows)


if __name__ == "__main__":
    main()
