"""One model among asyncio tasks, event loops and threads."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest

import gptoss
from gptoss import LLM
from support.scripted_model import ScriptedModel

T = TypeVar("T")

CONTEXT = 50_000
ENDLESS: dict[str, Any] = {"ignore_eos": True}
SOME: dict[str, Any] = {"ignore_eos": True, "max_tokens": 20, "seed": 7}
PROMPTS = ["Hello", [1, 2, 3], "a longer prompt, " * 5, [7]] * 5


@pytest.fixture(scope="module")
def llm(tiny_checkpoint: Callable[[str], Path]) -> Iterator[LLM]:
    with gptoss.load(tiny_checkpoint("hf"), threads=2, context_length=CONTEXT) as model:
        yield model


def run(main: Coroutine[Any, Any, T], timeout: float = 60) -> T:
    """Run a coroutine in a loop of its own; fail rather than hang."""

    async def limited() -> T:
        return await asyncio.wait_for(main, timeout)

    return asyncio.run(limited())


def wait_until_idle(llm: LLM) -> None:
    deadline = time.monotonic() + 10
    while (stats := llm.stats()).running or stats.waiting:
        assert time.monotonic() < deadline, stats
        time.sleep(0.001)
    assert stats.full_pages.used == 0


class TestResults:
    def test_agenerate_is_generate(self, llm: LLM) -> None:
        one = llm.generate("a", **SOME)
        several = llm.generate(PROMPTS, **SOME)
        assert run(llm.agenerate("a", **SOME)).token_ids == one.token_ids
        found = run(llm.agenerate(PROMPTS, **SOME))
        assert [r.token_ids for r in found] == [r.token_ids for r in several]

    def test_awaiting_a_request(self, llm: LLM) -> None:
        async def main() -> gptoss.GenerationResult:
            request = llm.submit("a", **SOME)
            await anext(request)
            return await request

        assert run(main()).token_ids == llm.generate("a", **SOME).token_ids

    def test_async_for(self, llm: LLM) -> None:
        async def tokens() -> list[int]:
            return [t async for chunk in llm.astream("a", **SOME) for t in chunk.token_ids]

        assert run(tokens()) == llm.generate("a", **SOME).token_ids

    def test_many_tasks_run_together(self, llm: LLM) -> None:
        expected = [llm.generate(prompt, **SOME).token_ids for prompt in PROMPTS]

        async def main() -> tuple[list[list[int]], int]:
            tasks = [asyncio.create_task(llm.agenerate(prompt, **SOME)) for prompt in PROMPTS]
            most = 0
            while not all(task.done() for task in tasks):
                most = max(most, llm.stats().running)
                await asyncio.sleep(0)
            return [(await task).token_ids for task in tasks], most

        found, most = run(main())
        assert found == expected
        assert most > 1

    def test_several_loops_and_threads_share_a_model(self, llm: LLM) -> None:
        expected = [llm.generate(prompt, **SOME).token_ids for prompt in PROMPTS]

        def in_loop(prompts: list[Any]) -> list[list[int]]:
            async def main() -> list[list[int]]:
                results = await asyncio.gather(*(llm.agenerate(p, **SOME) for p in prompts))
                return [r.token_ids for r in results]

            return run(main())

        def in_thread(prompts: list[Any]) -> list[list[int]]:
            return [r.token_ids for r in llm.generate(prompts, **SOME)]

        with ThreadPoolExecutor(4) as pool:
            futures = [pool.submit(kind, PROMPTS) for kind in (in_loop, in_thread) * 2]
            assert [future.result() for future in futures] == [expected] * 4

    def test_mistakes(self, llm: LLM) -> None:
        with pytest.raises(ValueError, match="the prompt is empty"):
            run(llm.agenerate(""))
        with pytest.raises(ValueError, match="the prompt is empty"):
            llm.astream("")
        with pytest.raises(TypeError, match="did you mean max_tokens"):
            run(llm.agenerate("a", max_new_tokens=1))


class TestCancelling:
    @pytest.mark.parametrize("kind", ["agenerate", "list", "await", "async for"])
    def test_a_cancelled_task_cancels_its_requests(self, llm: LLM, kind: str) -> None:
        async def work() -> None:
            if kind == "agenerate":
                await llm.agenerate("a", **ENDLESS)
            elif kind == "list":
                await llm.agenerate(["a", "b"] * 50, **ENDLESS, n=2)
            elif kind == "await":
                await llm.submit("a", **ENDLESS)
            else:
                async for _ in llm.astream("a", **ENDLESS):
                    pass

        async def main() -> int:
            task = asyncio.create_task(work())
            while not llm.stats().generated_tokens > before or not llm.stats().running:
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            at_cancel = llm.stats()
            while llm.stats().running:
                await asyncio.sleep(0)
            # One step may be under way, and one may have ended since the counters were read.
            return llm.stats().generated_tokens - at_cancel.generated_tokens

        before = llm.stats().generated_tokens
        assert run(main()) <= 2 * 16
        wait_until_idle(llm)

    def test_another_task_or_thread_may_cancel(self, llm: LLM) -> None:
        async def main(from_thread: bool) -> None:
            request = llm.submit([1] * (CONTEXT - 1), **ENDLESS)
            task = asyncio.create_task(_result(request))
            await asyncio.sleep(0.02)
            if from_thread:
                await asyncio.to_thread(request.cancel)
            else:
                request.cancel()
            with pytest.raises(RuntimeError, match="the request was cancelled before its end"):
                await task

        for from_thread in (False, True):
            run(main(from_thread), timeout=10)
        wait_until_idle(llm)

    def test_a_timeout_cancels(self, llm: LLM) -> None:
        async def main() -> None:
            await asyncio.wait_for(llm.agenerate("a", **ENDLESS), 0.05)

        with pytest.raises(asyncio.TimeoutError):
            run(main())
        wait_until_idle(llm)

    def test_leaving_the_loop_cancels(self, llm: LLM) -> None:
        async def main() -> None:
            async for _ in llm.astream("a", **ENDLESS):
                break

        run(main())
        gc.collect()
        wait_until_idle(llm)

    def test_the_loop_ends_in_the_middle(self, llm: LLM) -> None:
        async def forget() -> None:
            task = asyncio.create_task(llm.agenerate("a", **ENDLESS))
            await asyncio.sleep(0.02)
            assert not task.done()

        asyncio.run(forget())  # cancels what is left
        wait_until_idle(llm)

    def test_a_loop_that_is_closed_disturbs_nobody(self, llm: LLM) -> None:
        expected = llm.generate("b", **SOME).token_ids
        loop = asyncio.new_event_loop()
        request = llm.submit("a", ignore_eos=True, max_tokens=3000, seed=1)

        async def take_some() -> None:
            for _ in range(3):
                await anext(request)

        loop.run_until_complete(take_some())
        waiting = loop.create_task(request.__anext__())
        # It now waits in a loop that does not run any more.
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()
        assert llm.generate("b", **SOME).token_ids == expected
        # The request goes on, and another loop may take what is left of it.
        result = run(_result(request))
        assert len(result.token_ids) == 3000
        waiting._log_destroy_pending = False  # type: ignore[attr-defined]

    def test_a_loop_that_is_busy_does_not_hold_the_engine(self, llm: LLM) -> None:
        done = threading.Event()

        async def main() -> None:
            request = llm.submit("a", **ENDLESS)
            await anext(request)
            with ThreadPoolExecutor() as pool:
                other = pool.submit(llm.generate, "b", **SOME)
                # Blocks the loop: nothing but the engine's own thread can make this come true.
                done.wait(0.05)
                assert other.result(timeout=30).finish_reason == "length"
            request.cancel()

        run(main())
        wait_until_idle(llm)

    def test_two_tasks_cannot_wait_for_one_request(self, llm: LLM) -> None:
        async def main() -> None:
            request = llm.submit([1] * 20_000, ignore_eos=True, max_tokens=2)
            first = asyncio.create_task(anext(request))
            await asyncio.sleep(0.01)
            with pytest.raises(RuntimeError, match="another task is waiting for this request"):
                await anext(request)
            first.cancel()

        run(main())
        wait_until_idle(llm)

    def test_other_tasks_have_their_turn(self, llm: LLM) -> None:
        async def main() -> int:
            request = llm.submit("a", ignore_eos=True, max_tokens=300)
            await asyncio.sleep(0.5)  # now there is always a letter
            turns = 0

            async def count() -> None:
                nonlocal turns
                while not request.finished:
                    turns += 1
                    await asyncio.sleep(0)

            counter = asyncio.create_task(count())
            await request
            await counter
            return turns

        assert run(main()) >= 290


async def _result(request: gptoss.Request) -> gptoss.GenerationResult:
    return await request


class TestChat:
    MESSAGES = ({"role": "user", "content": "Hi"},)
    ANSWER = (
        "<|channel|>analysis<|message|>Hm.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>Hello world<|return|>"
    )

    def test_whole(self) -> None:
        result = run(ScriptedModel(self.ANSWER).achat(self.MESSAGES))
        assert (result.text, result.reasoning) == ("Hello world", "Hm.")

    def test_streamed(self) -> None:
        async def main() -> tuple[str, str]:
            stream = await ScriptedModel(self.ANSWER).achat(self.MESSAGES, stream=True)
            text = "".join([delta.text async for delta in stream])
            assert stream.result is not None
            return text, stream.result.text

        assert run(main()) == ("Hello world", "Hello world")

    def test_a_forced_choice_between_tools(self) -> None:
        tools = [
            {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
            for name in ("get_weather", "get_time")
        ]
        chat: dict[str, Any] = {"tools": tools, "tool_choice": "required"}
        scripts = ("get_time", "{}<|call|>")
        sync = ScriptedModel(*scripts).chat(self.MESSAGES, **chat)
        found = run(ScriptedModel(*scripts).achat(self.MESSAGES, **chat))
        assert [c.name for c in found.tool_calls] == [c.name for c in sync.tool_calls]
        assert found.tool_calls[0].name == "get_time"

    def test_with_a_model(self) -> None:
        messages = [{"role": "user", "content": "What is 7 + 5?"}]
        params: dict[str, Any] = {"temperature": 0, "max_tokens": 60}
        with gptoss.load("demo", context_length=1000) as llm:
            expected = llm.chat(messages, **params)

            async def main() -> list[gptoss.chat.ChatResult]:
                return await asyncio.gather(*(llm.achat(messages, **params) for _ in range(5)))

            for result in run(main()):
                assert result.token_ids == expected.token_ids
                assert result.text == expected.text

            async def cancelled() -> None:
                # It says nothing but "a".
                bias = {llm.tokenizer.encode("a")[0]: 1000.0}
                task = asyncio.create_task(llm.achat(messages, logit_bias=bias))
                while not llm.stats().running:
                    await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

            run(cancelled())
            wait_until_idle(llm)


@pytest.mark.parametrize("kind", ["threads", "asyncio"])
def test_the_process_ends_with_requests_in_flight(
    tiny_checkpoint: Callable[[str], Path], kind: str
) -> None:
    script = f"""
import asyncio, threading, time
import gptoss
llm = gptoss.load({str(tiny_checkpoint("hf"))!r}, context_length={CONTEXT})
requests = [llm.submit("a", ignore_eos=True, n=3) for _ in range(5)]
next(requests[0])
if {kind!r} == "threads":
    # Python ends a process in which a daemon thread holds stderr at the end.
    threading.excepthook = lambda _: None
    for request in requests[1:]:
        threading.Thread(target=request.result, daemon=True).start()
    time.sleep(0.05)
else:
    async def main():
        global tasks
        tasks = [asyncio.ensure_future(llm.agenerate("b", ignore_eos=True)) for _ in range(5)]
        async for chunk in requests[1]:
            break
        await anext(requests[2])
    asyncio.run(main())
print("end", flush=True)
"""
    start = time.monotonic()
    command = [sys.executable, "-c", script]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (found.returncode, found.stdout) == (0, "end\n"), found.stderr
    if kind == "asyncio":
        assert found.stderr == ""
    assert time.monotonic() - start < 30
