"""Many clients, and clients that leave, stall, or come too late; one engine for all."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

import gptoss
from gptoss.server import ServerSettings
from gptoss.server import app as make_application
from gptoss.server.app import make_app, make_service
from support.asgi import Client, Reply, fetch
from support.scripted_model import ScriptedModel

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
# Goes on until it is stopped.
ENDLESS = {"prompt": "1, 2, 3,", "max_tokens": 4000, "ignore_eos": True, "stream": True}


@pytest.fixture(scope="module")
def small() -> Iterator[gptoss.LLM]:
    """Two samples at a time."""
    with gptoss.load("demo", context_length=4096, threads=1, max_sequences=2) as llm:
        yield llm


async def until(condition: Callable[[], Any], seconds: float = 20) -> None:
    end_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end_s, "it did not happen"
        await asyncio.sleep(0.002)


async def begin(app: Any, body: dict[str, Any], path: str = COMPLETIONS) -> tuple[Client, Any]:
    """Begin a stream, and return once it has said something."""
    client = Client(app, "POST", path, body)
    task = asyncio.create_task(client.run())
    await until(lambda: client.reply.body)
    return client, task


async def leave(client: Client, task: Awaitable[Reply]) -> None:
    client.has_left.set()
    await task


class TestTheQueue:
    def test_a_full_one(self, small: gptoss.LLM) -> None:
        async def script() -> None:
            app = make_application(small, ServerSettings(max_waiting=1))
            running = [await begin(app, ENDLESS) for _ in range(2)]
            waiting = Client(app, "POST", COMPLETIONS, ENDLESS)
            task = asyncio.create_task(waiting.run())
            await until(lambda: waiting.reply.status == 200)
            reply = await fetch(app, "POST", COMPLETIONS, ENDLESS)
            assert (reply.status, reply.error["code"]) == (429, "queue_full")
            assert reply.error["type"] == "rate_limit_error"
            assert reply.headers["retry-after"] == "1"
            for client, other in running:
                await leave(client, other)
            await until(lambda: waiting.reply.body)  # its turn has come
            assert (await fetch(app, "POST", COMPLETIONS, {"prompt": "a"})).status == 200
            await leave(waiting, task)
            await until(lambda: small.stats().running == small.stats().waiting == 0)

        asyncio.run(script())

    @pytest.mark.parametrize(
        ("path", "body", "param"),
        [
            (COMPLETIONS, {"prompt": "a", "n": 6}, "n"),
            (COMPLETIONS, {"prompt": ["a"] * 6}, "prompt"),
            (COMPLETIONS, {"prompt": ["a"] * 3, "n": 2}, "prompt"),
            (CHAT, {"messages": [{"role": "user", "content": "a"}], "n": 6}, "n"),
        ],
    )
    def test_samples_and_prompts_count(
        self, small: gptoss.LLM, path: str, body: Any, param: str
    ) -> None:
        async def script() -> None:
            app = make_application(small, ServerSettings(max_waiting=3))
            reply = await fetch(app, "POST", path, body)
            assert (reply.status, reply.error["param"]) == (400, param)
            assert "needs 6 places, and the server has 5" in reply.error["message"]
            enough = make_application(small, ServerSettings(max_waiting=4))
            client, task = await begin(enough, ENDLESS)
            assert (await fetch(enough, "POST", path, body)).status == 429
            await leave(client, task)

        asyncio.run(script())

    def test_places_are_given_back(self, small: gptoss.LLM) -> None:
        """After answers, errors of all kinds, and clients that left."""

        async def script() -> None:
            service = make_service(ServerSettings(max_waiting=0))
            service.set_model(small)
            app = make_app(service)
            bodies: list[dict[str, Any]] = [
                {"prompt": "a", "max_tokens": 2},
                {"prompt": "a", "max_tokens": 2, "stream": True},
                {"prompt": [10**9]},
                {"prompt": "a b " * 5000},
                {"prompt": 5},
                {"prompt": "a", "temperature": "x"},
            ]
            for body in bodies * 3:
                await fetch(app, "POST", COMPLETIONS, body)
                await fetch(app, "POST", CHAT, {"messages": [{"role": "user"}], **body})
            for stream in (True, False):
                client = Client(app, "POST", COMPLETIONS, {**ENDLESS, "stream": stream})
                task = asyncio.create_task(client.run())
                await until(lambda: small.stats().running)
                await leave(client, task)
            assert service._places == 0
            assert service._tasks == set()
            await until(lambda: small.stats().running == 0)

        asyncio.run(script())


class TestClientsThatLeave:
    @pytest.mark.parametrize("stream", [True, False])
    @pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
    def test_the_slot_is_free_within_two_steps(
        self, small: gptoss.LLM, stream: bool, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Complaint 10: what nobody reads is not computed."""
        body: dict[str, Any] = {**ENDLESS, "stream": stream}
        if path == CHAT:
            del body["prompt"], body["ignore_eos"]
            message = {"role": "user", "content": "Say it again and again."}
            # Nothing ends it: its stop tokens are banned.
            bias = {str(i): -1e30 for i in small.harmony.tokenizer.special_tokens.values()}
            body |= {"messages": [message], "max_reasoning_tokens": 0, "logit_bias": bias}

        cancelled: list[int] = []  # steps that were computed by then
        cancel = small._loop.cancel

        def noted(*sequences: int) -> None:
            cancelled.append(small.stats().steps)
            cancel(*sequences)

        monkeypatch.setattr(small._loop, "cancel", noted)

        async def script() -> None:
            app = make_application(small)
            client = Client(app, "POST", path, body)
            before = small.stats().generated_tokens
            task = asyncio.create_task(client.run())
            await until(lambda: small.stats().generated_tokens > before + 10)
            assert small.stats().running == 1
            assert cancelled == []
            client.has_left.set()
            for _ in range(10):  # rounds of the event loop, without waiting for anything
                await asyncio.sleep(0)
            assert len(cancelled) == 1
            await task
            await until(lambda: small.stats().running == 0)
            assert small.stats().steps - cancelled[0] <= 2
            assert not client.reply.ended

        asyncio.run(script())

    def test_while_it_waits(self, small: gptoss.LLM) -> None:
        async def script() -> None:
            app = make_application(small)
            running = [await begin(app, ENDLESS) for _ in range(2)]
            client = Client(app, "POST", COMPLETIONS, ENDLESS)
            task = asyncio.create_task(client.run())
            await until(lambda: small.stats().waiting == 1)
            await leave(client, task)
            await until(lambda: small.stats().waiting == 0)
            for other, running_task in running:
                await leave(other, running_task)

        asyncio.run(script())

    def test_while_the_body_comes(self, small: gptoss.LLM) -> None:
        async def script() -> None:
            client = Client(make_application(small), "POST", CHAT, None, chunks=[b'{"a', b""])
            client._chunks.pop()
            client._chunks[0] = b'{"a'

            async def receive() -> dict[str, Any]:
                if client._chunks:
                    return {
                        "type": "http.request",
                        "body": client._chunks.pop(),
                        "more_body": True,
                    }
                return {"type": "http.disconnect"}

            client._receive = receive  # type: ignore[method-assign]
            assert (await client.run()).status in (0, 499)

        asyncio.run(script())


class TestSlowReaders:
    def test_one_holds_up_nobody(self, small: gptoss.LLM) -> None:
        """Its answer is computed, and its place free, while it takes nothing."""

        async def script() -> None:
            service = make_service(ServerSettings(max_waiting=0))
            service.set_model(small)
            app = make_app(service)
            body = {**ENDLESS, "max_tokens": 200}
            slow = Client(app, "POST", COMPLETIONS, body)
            slow.reads.clear()
            task = asyncio.create_task(slow.run())
            await until(lambda: small.stats().running)
            await until(lambda: small.stats().running == 0)
            await until(lambda: service._places == 0)
            assert slow.reply.pieces == []
            both = [fetch(app, "POST", COMPLETIONS, {**body, "stream": False}) for _ in range(2)]
            replies = await asyncio.gather(*both)
            assert [reply.status for reply in replies] == [200, 200]
            slow.reads.set()
            reply = await task
            text = "".join(e["choices"][0]["text"] for e in reply.events if e != "[DONE]")
            assert text == replies[0].json["choices"][0]["text"] or len(text) > 50
            assert len(reply.pieces) < 20  # what had waited was sent together
            assert reply.events[-1] == "[DONE]"

        asyncio.run(script())

    def test_one_that_takes_nothing_at_all_is_given_up_on(
        self, small: gptoss.LLM, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("gptoss.server.streams._STALLED_S", 0.1)

        async def script() -> None:
            app = make_application(small, ServerSettings(keep_alive_s=0.05))
            slow = Client(app, "POST", COMPLETIONS, {**ENDLESS, "max_tokens": 5})
            slow.reads.clear()
            await asyncio.wait_for(slow.run(), 20)
            assert not slow.reply.ended

        asyncio.run(script())


class TestDeadlines:
    @pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
    def test_an_answer(self, small: gptoss.LLM, path: str) -> None:
        async def script() -> None:
            app = make_application(small, ServerSettings(timeout_s=0.1))
            body = {**ENDLESS, "stream": False}
            if path == CHAT:
                bias = {str(i): -1e30 for i in small.harmony.tokenizer.special_tokens.values()}
                message = {"role": "user", "content": "Count."}
                body = {"messages": [message], "logit_bias": bias, "max_reasoning_tokens": 0}
            reply = await fetch(app, "POST", path, body)
            assert (reply.status, reply.error["code"]) == (504, "timeout")
            assert "0.1 s" in reply.error["message"]
            await until(lambda: small.stats().running == 0)

        asyncio.run(script())

    def test_a_stream(self, small: gptoss.LLM) -> None:
        async def script() -> None:
            app = make_application(small, ServerSettings(timeout_s=0.3))
            reply = await fetch(app, "POST", COMPLETIONS, ENDLESS)
            assert reply.status == 200
            assert reply.ended
            *events, last = reply.events
            assert events
            assert last["error"]["code"] == "timeout"
            await until(lambda: small.stats().running == 0)

        asyncio.run(script())

    def test_a_body_that_stops_coming(
        self, small: gptoss.LLM, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("gptoss.server.service._BODY_TIMEOUT_S", 0.05)

        async def script() -> None:
            client = Client(make_application(small), "POST", CHAT, None, chunks=[b"{", b"}"])

            async def receive() -> dict[str, Any]:
                if len(client._chunks) == 2:
                    return {
                        "type": "http.request",
                        "body": client._chunks.pop(),
                        "more_body": True,
                    }
                await asyncio.sleep(3600)
                raise AssertionError

            client._receive = receive  # type: ignore[method-assign]
            assert (await client.run()).status == 408

        asyncio.run(script())


class Silent(ScriptedModel):
    """Answers when it is told to."""

    def stream(self, *args: Any, **named: Any) -> Any:
        return _Silent(super().stream(*args, **named), self)

    may_speak: asyncio.Event


class _Silent:
    def __init__(self, inner: Any, model: Silent) -> None:
        self._inner = inner
        self._model = model

    async def __anext__(self) -> Any:
        await self._model.may_speak.wait()
        return next(self._inner)

    def close(self) -> None:
        self._inner.close()


def test_silence_is_filled_with_comments() -> None:
    async def script() -> None:
        model = Silent("<|channel|>final<|message|>Hello<|return|>")
        model.may_speak = asyncio.Event()
        scripted: Any = model
        app = make_application(scripted, ServerSettings(keep_alive_s=0.02))
        body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
        client = Client(app, "POST", CHAT, body)
        task = asyncio.create_task(client.run())
        await until(lambda: len(client.reply.pieces) >= 3)
        assert set(client.reply.pieces) == {b":\n\n"}
        model.may_speak.set()
        reply = await task
        assert reply.events[-1] == "[DONE]"

    asyncio.run(script())


class TestTheEventLoop:
    def test_it_goes_on_while_a_long_prompt_is_read(self) -> None:
        """600 kB of text take long to parse, check and tokenize; others do not wait for it."""

        async def script(llm: gptoss.LLM) -> None:
            app = make_application(llm)
            text = "The quick brown fox jumps over 17 lazy dogs. Déjà vu! " * 11_000
            assert len(text) > 590_000
            bodies = {
                "/tokenize": {"prompt": text},
                COMPLETIONS: {"prompt": text},
                CHAT: {"messages": [{"role": "user", "content": text}]},
                "/detokenize": {"tokens": [10**9] * 600_000},
            }
            for path, body in bodies.items():
                worst_s, took_s = await self.lag(fetch(app, "POST", path, body))
                assert worst_s < max(0.15, took_s / 2), (path, worst_s, took_s)

        with gptoss.load("demo", context_length=1024, threads=1) as llm:
            asyncio.run(script(llm))

    @staticmethod
    async def lag(work: Any) -> tuple[float, float]:
        """The longest time for which the loop did not go round while something was done."""
        task = asyncio.ensure_future(work)
        start_s = last_s = time.perf_counter()
        worst_s = 0.0
        while not task.done():
            await asyncio.sleep(0.001)
            now_s = time.perf_counter()
            worst_s, last_s = max(worst_s, now_s - last_s), now_s
        assert (await task).status in (200, 400)
        return worst_s, last_s - start_s

    def test_one_wake_for_each_step(self, llm: gptoss.LLM) -> None:
        """However many streams there are: a step's tokens wake the loop together."""
        count = 12

        async def script() -> int:
            app = make_application(llm)
            loop = asyncio.get_running_loop()
            wakes = 0
            inner = loop.call_soon_threadsafe

            def counted(*args: Any, **named: Any) -> Any:
                nonlocal wakes
                wakes += threading.current_thread().name == "gptoss engine"
                return inner(*args, **named)

            loop.call_soon_threadsafe = counted  # type: ignore[method-assign]
            body = {**ENDLESS, "max_tokens": 50}
            steps = llm.stats().steps
            replies = await asyncio.gather(
                *(fetch(app, "POST", COMPLETIONS, body) for _ in range(count))
            )
            assert all(reply.events[-1] == "[DONE]" for reply in replies)
            steps = llm.stats().steps - steps
            assert steps < count * 50 / 2, "they were to run together"
            assert wakes <= steps
            return wakes

        # A loop that is behind, on a busy machine, need not be woken.
        assert any(asyncio.run(script()) for _ in range(5))

    def test_answers_are_the_same_as_alone(self, llm: gptoss.LLM) -> None:
        async def script() -> None:
            app = make_application(llm)

            def body(i: int) -> dict[str, Any]:
                message = {"role": "user", "content": f"What is {i} + {i * 7}?"}
                return {"messages": [message], "seed": i, "max_tokens": 40}

            alone = [(await fetch(app, "POST", CHAT, body(i))).json["choices"] for i in range(8)]
            together = await asyncio.gather(*(fetch(app, "POST", CHAT, body(i)) for i in range(8)))
            assert [reply.json["choices"] for reply in together] == alone

        asyncio.run(script())


class TestTheEnd:
    def test_running_answers_are_finished(self, small: gptoss.LLM) -> None:
        async def script() -> None:
            service = make_service(ServerSettings(drain_s=60))
            service.set_model(small)
            app = make_app(service)
            client, task = await begin(app, {**ENDLESS, "max_tokens": 100})
            service.drain()
            late = await fetch(app, "POST", COMPLETIONS, ENDLESS)
            assert (late.status, late.error["code"]) == (503, "shutting_down")
            assert (await fetch(app, "GET", "/health")).json == {"status": "shutting_down"}
            reply = await task
            assert reply.events[-1] == "[DONE]"
            assert client.reply.ended

        asyncio.run(script())

    def test_what_takes_too_long_is_ended(self, small: gptoss.LLM) -> None:
        async def script() -> None:
            service = make_service(ServerSettings(drain_s=0.05))
            service.set_model(small)
            app = make_app(service)
            _, stream = await begin(app, ENDLESS)
            whole = asyncio.create_task(
                fetch(app, "POST", COMPLETIONS, {**ENDLESS, "stream": False})
            )
            await until(lambda: small.stats().running == 2)
            service.drain()
            reply = await stream
            assert reply.ended
            assert reply.events[-1]["error"]["code"] == "shutting_down"
            assert (await whole).error["code"] == "shutting_down"
            await until(lambda: small.stats().running == 0)

        asyncio.run(script())
