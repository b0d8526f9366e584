"""A model among threads, signals, forks and other models; and its end."""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import gptoss
from gptoss import LLM, SamplingParams, _core
from gptoss.engine.loop import Delivery, EngineLoop, Mailbox, new_sequence

# Long enough that whatever is interrupted is still under way: some seconds.
CONTEXT = 50_000
PARAMS: dict[str, Any] = {"ignore_eos": True, "max_tokens": 40}


@pytest.fixture(scope="module")
def llm(tiny_checkpoint: Callable[[str], Path]) -> Iterator[LLM]:
    with gptoss.load(tiny_checkpoint("hf"), threads=2, context_length=CONTEXT) as model:
        yield model


def assert_nothing_runs(llm: LLM) -> None:
    deadline = time.monotonic() + 10
    while (stats := llm.stats()).running or stats.waiting:
        assert time.monotonic() < deadline, stats
        time.sleep(0.001)


def run_script(script: str, **more: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **more)


def press_ctrl_c() -> None:
    """Interrupt the main thread, from any."""
    if sys.platform == "win32":  # where os.kill ends the process
        signal.raise_signal(signal.SIGINT)
    else:
        os.kill(os.getpid(), signal.SIGINT)


class TestInterrupt:
    @pytest.fixture(autouse=True)
    def _ctrl_c_interrupts(self) -> Iterator[None]:
        """Undo what a shell does to processes in the background: they ignore Ctrl-C."""
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
        signal.signal(signal.SIGINT, before)

    def interrupt_when_running(self, llm: LLM, requests: int = 1) -> threading.Thread:
        """Press Ctrl-C once so many requests run: the last must be the main thread's."""

        def press() -> None:
            deadline = time.monotonic() + 20
            while llm.stats().running < requests and time.monotonic() < deadline:
                time.sleep(0.001)
            press_ctrl_c()

        assert_nothing_runs(llm)
        thread = threading.Thread(target=press, daemon=True)
        thread.start()
        return thread

    @pytest.mark.parametrize("prompts", ["a", ["a", "b", "c"] * 8], ids=["one", "many"])
    def test_generate(self, llm: LLM, prompts: Any) -> None:
        expected = llm.generate("a", seed=1, **PARAMS)
        thread = self.interrupt_when_running(llm)
        with pytest.raises(KeyboardInterrupt):
            llm.generate(prompts, ignore_eos=True)
        thread.join()
        assert_nothing_runs(llm)
        assert llm.generate("a", seed=1, **PARAMS).token_ids == expected.token_ids

    def test_stream(self, llm: LLM) -> None:
        thread = self.interrupt_when_running(llm)
        with pytest.raises(KeyboardInterrupt):
            list(llm.stream("a", ignore_eos=True))
        thread.join()
        assert_nothing_runs(llm)

    def test_logits(self, llm: LLM) -> None:
        timer = threading.Timer(0.5, press_ctrl_c)
        start = time.monotonic()
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            llm.logits([1] * (CONTEXT - 1), [0])
        # The pass that nobody waits for any more is not in the way of the next.
        llm.logits([1, 2, 3])
        assert time.monotonic() - start < 5

    def test_while_nothing_comes(self) -> None:
        timer = threading.Timer(0.3, press_ctrl_c)
        start = time.monotonic()
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            Mailbox().get(timeout=30)
        assert time.monotonic() - start < 10

    @pytest.mark.parametrize("seed", range(40))
    def test_at_any_moment(self, llm: LLM, seed: int) -> None:
        delay_s = random.Random(seed).uniform(0, 0.02)
        timer = threading.Timer(delay_s, press_ctrl_c)

        # No streams: Python drops what is raised in a __del__.
        def generate_and_score() -> None:
            timer.start()
            while True:
                llm.generate(["a", [1, 2], "b"], max_tokens=2)
                llm.logits([1, 2, 3])

        with pytest.raises(KeyboardInterrupt):
            generate_and_score()
        assert len(llm.generate("a", max_tokens=3, ignore_eos=True).token_ids) == 3

    def test_another_threads_request_goes_on(self, llm: LLM) -> None:
        expected = llm.generate("b", seed=2, ignore_eos=True, max_tokens=8000).token_ids
        with ThreadPoolExecutor() as pool:
            thread = self.interrupt_when_running(llm, requests=2)
            other = pool.submit(llm.generate, "b", seed=2, ignore_eos=True, max_tokens=8000)
            with pytest.raises(KeyboardInterrupt):
                llm.generate("a", ignore_eos=True)
            thread.join()
            assert other.result().token_ids == expected


class TestMailbox:
    """Also as on Windows, where nothing is waited for in one piece."""

    @pytest.fixture(params=[None, 0.02], ids=["in one piece", "in pieces"])
    def mailbox(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Mailbox:
        monkeypatch.setattr("gptoss.engine.loop._MAX_WAIT_S", request.param)
        return Mailbox()

    @pytest.mark.parametrize("timeout", [None, 30.0])
    def test_what_comes_later(self, mailbox: Mailbox, timeout: float | None) -> None:
        letter = MemoryError()
        timer = threading.Timer(0.1, mailbox.put, (letter,))
        timer.start()
        assert mailbox.get(timeout) is letter

    def test_nothing_comes(self, mailbox: Mailbox) -> None:
        for timeout in (0.0, 0.07):
            start = time.monotonic()
            with pytest.raises(Empty):
                mailbox.get(timeout)
            tick = time.get_clock_info("monotonic").resolution
            assert time.monotonic() - start >= timeout - tick

    def test_what_is_there(self, mailbox: Mailbox) -> None:
        mailbox.put(None)
        assert mailbox.get(0) is None


class TestThreads:
    def test_other_python_threads_run_on(self, llm: LLM) -> None:
        gaps = []
        done = threading.Event()

        def tick() -> None:
            last = time.perf_counter()
            while not done.is_set():
                time.sleep(0.001)
                gaps.append(time.perf_counter() - last)
                last += gaps[-1]

        thread = threading.Thread(target=tick, daemon=True)
        thread.start()
        start = time.perf_counter()
        llm.logits([1] * 5_000, [0])
        duration = time.perf_counter() - start
        done.set()
        thread.join()
        assert max(gaps) < duration / 3

    def test_several_threads_share_a_model(self, llm: LLM) -> None:
        prompts = [f"prompt {i}" for i in range(24)]

        def tokens(i: int) -> list[int]:
            if i % 3 == 0:
                stream = llm.stream(prompts[i], seed=i, **PARAMS)
                return [t for chunk in stream for t in chunk.token_ids]
            if i % 3 == 1:
                return llm.generate([prompts[i], "x"], seed=i, **PARAMS)[0].token_ids
            return llm.logits(llm.tokenizer.encode(prompts[i])).argmax(axis=1).tolist()  # type: ignore[no-any-return]

        alone = [tokens(i) for i in range(len(prompts))]
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(tokens, range(len(prompts)))) == alone

    def test_two_models_at_once(self, llm: LLM, tiny_checkpoint: Callable[[str], Path]) -> None:
        expected = llm.generate("a", seed=1, **PARAMS).token_ids
        with (
            gptoss.load(tiny_checkpoint("original"), threads=2, context_length=500) as other,
            ThreadPoolExecutor() as pool,
        ):
            found = [
                pool.submit(model.generate, "a", seed=1, **PARAMS) for model in (llm, other) * 5
            ]
            assert [f.result().token_ids for f in found] == [expected] * 10


class TestSpawn:
    """How processes begin on macOS, Windows, and since 3.14 everywhere."""

    def test_a_spawned_process_loads_its_own(
        self, llm: LLM, tiny_checkpoint: Callable[[str], Path]
    ) -> None:
        params = {"seed": 1, **PARAMS}
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            model = tiny_checkpoint("hf")
            result = pool.apply(gptoss.generate, ("a",), {"model": model, **params})
        assert result.token_ids == llm.generate("a", **params).token_ids


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
class TestFork:
    def test_a_forked_process_is_told(self, tiny_checkpoint: Callable[[str], Path]) -> None:
        script = f"""
import os, warnings
warnings.simplefilter("ignore")  # newer releases of Python warn of every fork beside threads
import gptoss
llm = gptoss.load({str(tiny_checkpoint("hf"))!r}, context_length=100)
llm.generate("a", max_tokens=1)
stream = llm.stream("a", max_tokens=50, ignore_eos=True)
child = os.fork()
if child == 0:
    for act in (lambda: llm.generate("a"), lambda: llm.stream("a"), lambda: llm.logits([1]),
                lambda: llm.stats()):
        try:
            act()
        except gptoss.BackendError as error:
            print(error, flush=True)
    stream.close()
    llm.close()
    raise SystemExit(3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
assert len(list(stream)) == 50
print(llm.generate("a", max_tokens=1).finish_reason)
"""
        found = run_script(script)
        assert found.returncode == 0, found.stderr
        lines = found.stdout.splitlines()
        assert len(lines) == 5
        assert lines[-1] == "length"
        for line in lines[:-1]:
            assert line.startswith("this process was forked from process ")
            assert "load the model in the process that uses it" in line

    def test_a_request_of_before_says_so_too(self, tiny_checkpoint: Callable[[str], Path]) -> None:
        script = f"""
import asyncio, os, warnings
warnings.simplefilter("ignore")
import gptoss
llm = gptoss.load({str(tiny_checkpoint("hf"))!r}, context_length=1000)
requests = [llm.submit("a", max_tokens=500, ignore_eos=True) for _ in range(4)]
next(requests[0])
child = os.fork()
if child == 0:
    for act in (lambda: next(requests[0]), lambda: next(requests[1]), lambda: requests[2].result(),
                lambda: asyncio.run(anext(requests[3]))):
        try:
            act()
        except gptoss.BackendError as error:
            print(error, flush=True)
    os._exit(3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
print(len(requests[0].result().token_ids))
"""
        found = run_script(script)
        assert found.returncode == 0, found.stderr
        *lines, last = found.stdout.splitlines()
        assert last == "500"
        assert len(lines) == 4
        for line in lines:
            assert line.startswith("this process was forked from process ")


class TestEnd:
    def test_a_request_keeps_its_model(self, tiny_checkpoint: Callable[[str], Path]) -> None:
        before = threading.active_count()
        folder = tiny_checkpoint("hf")

        def begin() -> gptoss.Request:
            return gptoss.load(folder, context_length=100).submit("a", **PARAMS)

        request = begin()
        gc.collect()
        assert len(list(request)) == 40
        # And no longer than it runs.
        gc.collect()
        assert threading.active_count() == before
        assert len(request.result().token_ids) == 40
        assert len(list(gptoss.load(folder, context_length=100).stream("a", **PARAMS))) == 40
        dropped = begin()
        next(dropped)
        del dropped
        gc.collect()
        assert threading.active_count() == before

    def test_an_interrupt_while_the_thread_begins_leaves_none(
        self, tiny_checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = threading.active_count()
        start = threading.Thread.start

        def interrupted(thread: threading.Thread) -> None:
            start(thread)
            if thread.name == "gptoss engine":
                raise KeyboardInterrupt  # what a Ctrl-C in Thread.start does

        monkeypatch.setattr(threading.Thread, "start", interrupted)
        llm = gptoss.load(tiny_checkpoint("hf"), context_length=100)
        with pytest.raises(KeyboardInterrupt):
            llm.generate("a", **PARAMS)
        # It has begun all the same, and serves the next.
        assert len(llm.generate("a", **PARAMS).token_ids) == 40
        assert threading.active_count() == before + 1
        del llm
        gc.collect()
        assert threading.active_count() == before

    def test_an_interrupted_close_is_finished_later(
        self, tiny_checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = threading.active_count()
        llm = gptoss.load(tiny_checkpoint("hf"), context_length=100)
        llm.generate("a", max_tokens=1)
        with monkeypatch.context() as patch:

            def interrupted(self: EngineLoop, *_: object) -> None:
                raise KeyboardInterrupt

            patch.setattr(EngineLoop, "_fail", interrupted)
            with pytest.raises(KeyboardInterrupt):
                llm.close()
        llm.close()
        assert threading.active_count() == before

    def test_a_closed_model_says_so(self, tiny_checkpoint: Callable[[str], Path]) -> None:
        llm = gptoss.load(tiny_checkpoint("hf"), context_length=CONTEXT)
        stream = llm.stream("a", ignore_eos=True)
        next(stream)
        with ThreadPoolExecutor() as pool:
            scoring = pool.submit(llm.logits, [1] * 40_000, [0])
            running = pool.submit(llm.generate, "a", ignore_eos=True)
            time.sleep(0.02)
            llm.close()
            for future in (scoring, running):
                with pytest.raises(RuntimeError, match="the model is closed"):
                    future.result()
        with pytest.raises(RuntimeError, match="the model is closed"):
            for _ in stream:
                pass
        for act in (
            lambda: llm.generate("a"),
            lambda: llm.stream("a"),
            lambda: llm.logits([1]),
            lambda: llm.stats(),
        ):
            with pytest.raises(RuntimeError, match="the model is closed"):
                act()
        llm.close()
        assert llm.config.vocab_size == 512

    def test_a_dropped_model_ends_its_thread(self, tiny_checkpoint: Callable[[str], Path]) -> None:
        before = threading.active_count()
        llm = gptoss.load(tiny_checkpoint("hf"), context_length=100)
        llm.generate("a", max_tokens=1)
        assert threading.active_count() == before + 1
        gone = weakref.ref(llm)
        del llm
        gc.collect()
        assert gone() is None
        assert threading.active_count() == before

    def test_the_process_ends_in_the_middle(self, tiny_checkpoint: Callable[[str], Path]) -> None:
        script = f"""
import gptoss
llm = gptoss.load({str(tiny_checkpoint("hf"))!r}, context_length={CONTEXT})
stream = llm.stream("a", ignore_eos=True)
next(stream)
"""
        start = time.monotonic()
        found = run_script(script)
        assert (found.returncode, found.stderr) == (0, "")
        assert time.monotonic() - start < 30


class Flaky:
    """An engine whose next step fails when told to."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.error: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def step(self) -> Any:
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return self._engine.step()


class TestFailure:
    @pytest.fixture
    def flaky(self, tiny_checkpoint: Callable[[str], Path]) -> Iterator[SimpleNamespace]:
        llm = gptoss.load(tiny_checkpoint("hf"), context_length=100)
        engine = Flaky(llm._loop._engine)
        loop = EngineLoop(engine)  # type: ignore[arg-type]
        yield SimpleNamespace(engine=engine, loop=loop)
        loop.close()
        llm.close()

    def submit(self, loop: EngineLoop, mailbox: Mailbox) -> int:
        sequence = new_sequence()
        params = _core.RequestParams(SamplingParams(max_tokens=3, ignore_eos=True))
        loop.submit(sequence, np.array([1], np.int32), params, 0, mailbox)
        return sequence

    def test_a_failed_step_reaches_all_and_ends_nothing_else(self, flaky: SimpleNamespace) -> None:
        mailbox, other = Mailbox(), Mailbox()
        flaky.engine.error = MemoryError("full")
        self.submit(flaky.loop, mailbox)
        assert isinstance(mailbox.get(timeout=10), MemoryError)
        sequence = self.submit(flaky.loop, other)
        for reason in (None, None, "length"):
            letter = other.get(timeout=10)
            assert isinstance(letter, Delivery)
            (event,) = letter.events
            assert (event.request, event.finish_reason) == (sequence, reason)

    def read(
        self,
        loop: EngineLoop,
        tokens: npt.NDArray[np.int32],
        logits: npt.NDArray[np.float32],
        chunk_tokens: int = 512,
    ) -> None:
        params = _core.RequestParams(SamplingParams())
        loop.read(
            lambda engine, sequence: engine.submit_logits(
                sequence, tokens, tokens[:1], chunk_tokens, logits, params
            )
        )

    def test_a_failed_step_reaches_who_waits_for_logits(self, flaky: SimpleNamespace) -> None:
        tokens = np.array([1, 2], np.int32)
        logits = np.empty((1, 512), np.float32)
        flaky.engine.error = MemoryError("full")
        with pytest.raises(MemoryError, match="full"):
            self.read(flaky.loop, tokens, logits)
        self.read(flaky.loop, tokens, logits)
        assert np.isfinite(logits).all()

    def test_a_refused_text_concerns_its_caller_only(self, flaky: SimpleNamespace) -> None:
        tokens = np.array([1, 2], np.int32)
        logits = np.empty((1, 512), np.float32)
        with pytest.raises(ValueError, match="chunk_tokens must be between 1 and 512, got 513"):
            self.read(flaky.loop, tokens, logits, chunk_tokens=513)
        self.read(flaky.loop, tokens, logits)
        assert np.isfinite(logits).all()
