"""Answering: a conversation begun so that it fits, and the response while it is written."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncGenerator, Sequence
from typing import Any
from weakref import WeakValueDictionary

from gptoss.chat import ChatStream
from gptoss.errors import ContextLengthError
from gptoss.llm import LLM
from gptoss.openai_requests.fields import RequestError
from gptoss.server.chat import deltas
from gptoss.server.errors import api_error
from gptoss.server.responses.events import Event, EventWriter
from gptoss.server.responses.input import chat_messages, droppable_turns
from gptoss.server.responses.objects import Item
from gptoss.server.responses.request import ResponseRequest
from gptoss.server.responses.store import Record, ResponseStore
from gptoss.server.service import Call
from gptoss.server.streams import sse

_log = logging.getLogger("gptoss.server")

# Where old turns may be left out, so many tokens are kept for the answer, if the context has four
# times as many.
_ANSWER_TOKENS = 1024
# Events of responses in the background that are kept after their end, for those who come late.
_KEPT_EVENTS_BYTES = 16 << 20

# What `LLM.chat` calls things that have other names here.
_PARAMS = {"messages": "input", "response_format": "text.format", "tools": "tools"}


def begin_chat(
    llm: LLM, asked: ResponseRequest, history: Sequence[Item], adapter: dict[str, Any]
) -> ChatStream:
    """Begin to answer a request that follows on `history`; `adapter` as `Call` has it.

    Raises
    ------
    RequestError
        The conversation does not fit, or is none.
    """
    messages: list[dict[str, Any]] = chat_messages([*history, *asked.items], asked.tools)
    if asked.instructions is not None:
        messages.insert(0, {"role": "developer", "content": asked.instructions})
    try:
        chat = {**asked.chat, **adapter}
        if not asked.may_drop:
            return llm.chat(messages, stream=True, **chat)
        return _begin_with_room(llm, messages, chat)
    except ContextLengthError as error:
        raise RequestError(str(error), "input", "context_length_exceeded") from error
    except RequestError:
        raise
    except (ValueError, TypeError) as error:
        found = re.match(r"(\w+)(?=[\[:. ])", str(error))
        name = found.group(1) if found else ""
        message = re.sub(r"^messages\[\d+\]", "input", str(error))
        raise RequestError(message, _PARAMS.get(name)) from error


def _begin_with_room(
    llm: LLM, messages: Sequence[dict[str, Any]], chat: dict[str, Any]
) -> ChatStream:
    """Begin with as few of the oldest turns left out as leave room for an answer."""
    wanted = min(chat.get("max_tokens", _ANSWER_TOKENS), llm.context_length // 4)
    turns = droppable_turns(messages)

    def begin(dropped: int) -> ChatStream | None:
        gone = {index for turn in turns[:dropped] for index in turn}
        kept = [message for index, message in enumerate(messages) if index not in gone]
        try:
            stream = llm.chat(kept, stream=True, **chat)
        except ContextLengthError:
            return None
        if stream.room_tokens >= wanted:
            return stream
        stream.close()
        return None

    stream = begin(0)
    if stream is not None:
        return stream
    # The fewest that are enough: `low` are too few, `high` may be.
    low, high = 0, len(turns)
    while high - low > 1:
        middle = (low + high) // 2
        if (tried := begin(middle)) is None:
            low = middle
        else:
            tried.close()
            high = middle
    gone = {index for turn in turns[:high] for index in turn}
    kept = [message for index, message in enumerate(messages) if index not in gone]
    return llm.chat(kept, stream=True, **chat)


class Answer:
    """A response while it is written.

    Attributes
    ----------
    writer : EventWriter
        Has the response as it is now.
    """

    def __init__(
        self,
        call: Call,
        stream: ChatStream,
        asked: ResponseRequest,
        history: list[Item],
        store: ResponseStore,
    ) -> None:
        service = call.service
        self.call = call
        self._stream = stream
        self._asked = asked
        self._history = history
        self._store = store
        self._is_kept = asked.store
        self.writer = EventWriter(
            asked.new_response(call.model),
            asked.tools,
            shows_reasoning=asked.shows_reasoning and service.settings.reasoning == "show",
            has_logprobs=asked.has_logprobs,
        )

    @property
    def id(self) -> str:
        """The response's."""
        return str(self.writer.response["id"])

    def record(self) -> Record:
        """The response as it is now, and all that it was made of."""
        writer = self.writer
        return Record(dict(writer.response), self._history, self._asked.items, writer.items)

    async def events(self) -> AsyncGenerator[Event, None]:
        """Answer; the response is kept before its last event is out."""
        for event in self.writer.begin():
            yield event
        async with contextlib.aclosing(deltas(self.call, self._stream)) as source:
            async for delta in source:
                if delta.kind == "end":
                    events = self.writer.end(delta)
                    await self.keep(events)
                else:
                    events = self.writer.take(delta)
                for event in events:
                    yield event

    def close(self) -> None:
        """Give up the answer."""
        self._stream.close()

    def forget(self) -> None:
        """Do not keep the response."""
        self._is_kept = False

    async def keep(self, events: Sequence[Event] = ()) -> None:
        """Put the response into the store, if it is to be kept.

        One that cannot be written is not kept, and the last of `events` says so: it was computed,
        and somebody waits for it.
        """
        if not self._is_kept:
            return
        try:
            is_kept = await self.call.service.in_worker(self._store.put, self.record())
        except OSError as error:
            _log.error("a response is not kept: %s", error)
            is_kept = False
        if not is_kept:
            self.writer.response["store"] = False
            for event in events[-1:]:
                event["response"]["store"] = False


def encoded(event: Event) -> bytes:
    """An event as it is sent."""
    return sse(event, event["type"])


class Background:
    """A response that is written whether or not somebody reads it.

    Attributes
    ----------
    answer : Answer
        What it is.
    events : list of bytes
        All that have come.
    has_ended : bool
        Whether no more events come.
    """

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.events: list[bytes] = []
        self.has_ended = False
        self._is_cancelled = False
        self._task: asyncio.Task[None] | None = None
        self._has_more = asyncio.Event()
        self._add(answer.writer.queue())

    @property
    def size_bytes(self) -> int:
        """Bytes of the events."""
        return sum(map(len, self.events))

    def start(self) -> asyncio.Task[None]:
        """Begin to write it."""
        self._task = asyncio.create_task(self._run())
        return self._task

    async def cancel(self) -> None:
        """End it before its time; it is kept as it is."""
        assert self._task is not None
        if not self.answer.writer.has_ended:
            self._is_cancelled = True
            self._task.cancel()
        await asyncio.wait({self._task})

    async def follow(self, first: int = 0) -> AsyncGenerator[bytes, None]:
        """The events from that number on, as they come."""
        index = first
        while True:
            while index < len(self.events):
                yield self.events[index]
                index += 1
            if self.has_ended:
                return
            self._has_more.clear()
            await self._has_more.wait()

    async def _run(self) -> None:
        answer, writer = self.answer, self.answer.writer
        try:
            await asyncio.wait_for(self._write(), answer.call.left_s)
        except asyncio.CancelledError:
            if self._is_cancelled:
                await self._end(writer.cancel())
            elif not writer.has_ended:
                await self._end(writer.fail("the server is shutting down"))
        except asyncio.TimeoutError:
            await self._end(writer.fail(str(answer.call.timeout())))
        except Exception as error:
            await self._end(writer.fail(str(api_error(error))))
        finally:
            answer.close()
            answer.call.release()
            self.has_ended = True
            self._has_more.set()

    async def _write(self) -> None:
        async with contextlib.aclosing(self.answer.events()) as source:
            async for event in source:
                self._add([event])

    async def _end(self, events: list[Event]) -> None:
        await self.answer.keep(events)
        self._add(events)

    def _add(self, events: list[Event]) -> None:
        self.events += map(encoded, events)
        self._has_more.set()


class Running:
    """The responses that are being written, and the events of those in the background.

    Those events are kept for a while after the end, for who comes late.
    """

    def __init__(self) -> None:
        self._answers: WeakValueDictionary[str, Answer] = WeakValueDictionary()
        self._backgrounds: dict[str, Background] = {}

    def add(self, answer: Answer) -> None:
        """Take note of an answer, for as long as somebody has it."""
        self._answers[answer.id] = answer

    def add_background(self, background: Background) -> None:
        """Take note of one in the background, and forget the oldest that have ended."""
        self._backgrounds[background.answer.id] = background
        ended = [each for each in self._backgrounds.values() if each.has_ended]
        size_bytes = sum(each.size_bytes for each in ended)
        for each in ended:
            if size_bytes <= _KEPT_EVENTS_BYTES:
                break
            size_bytes -= each.size_bytes
            del self._backgrounds[each.answer.id]

    def answer(self, response_id: str) -> Answer | None:
        """One that is being written."""
        answer = self._answers.get(response_id)
        return None if answer is None or answer.writer.has_ended else answer

    def background(self, response_id: str) -> Background | None:
        """One whose events are there."""
        return self._backgrounds.get(response_id)

    def forget(self, response_id: str) -> None:
        """Drop the events of one."""
        self._backgrounds.pop(response_id, None)
