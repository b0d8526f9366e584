"""Answers as server-sent events."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gptoss.server.errors import ApiError, api_error, unavailable
from gptoss.server.service import Call, until_left

_COMMENT = b":\n\n"
DONE = b"data: [DONE]\n\n"
# Made once: it is needed for every token.
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
# A client that takes nothing for so long is given up on. Its answer has been computed meanwhile.
_STALLED_S = 120.0


def json_bytes(value: Any) -> bytes:
    """Compact JSON; a lone surrogate, which no UTF-8 has, becomes a question mark."""
    return _encode(value).encode(errors="replace")


def sse(value: Mapping[str, Any], event: str | None = None) -> bytes:
    """An event of a stream."""
    name = b"" if event is None else b"event: " + event.encode() + b"\n"
    return name + b"data: " + json_bytes(value) + b"\n\n"


def error_event(error: ApiError) -> bytes:
    """How Chat Completions and completions say that a stream has failed."""
    return sse(error.body())


class EventStream(Response):
    """Sends events as they come.

    Events are taken from their source as soon as they are there, whether or not the client reads:
    its places in the queue are free again when the engine is done. A client that leaves closes the
    source at once; silence is filled with comments; what the source raises becomes the last event.

    Parameters
    ----------
    call : Call
        The request, whose places are released at the end of the events.
    events : async generator of bytes
        As `sse` makes them.
    on_error : callable
        Makes the last event of an error.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        call: Call,
        events: AsyncGenerator[bytes, None],
        on_error: Callable[[ApiError], bytes] = error_event,
    ) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no"})
        self._call = call
        self._events = events
        self._on_error = on_error
        self._buffer: list[bytes] = []
        self._has_more = asyncio.Event()
        self._ended = False
        self._is_late = False
        self._sent_s = time.monotonic()
        self._is_sending = False
        self._gone: asyncio.Future[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all events; returns early if the client leaves."""
        loop = asyncio.get_running_loop()
        self._gone = loop.create_future()
        pump = asyncio.create_task(self._pump())
        sender = asyncio.create_task(self._send(send))
        watch = asyncio.create_task(until_left(self._call.request))
        self._call.service.add_task(pump)
        left_s = self._call.left_s
        deadline = None if left_s is None else loop.call_later(left_s, self._end_late, pump)
        tick = loop.call_later(self._call.service.settings.keep_alive_s, self._tick)
        self._timer = tick
        try:
            await asyncio.wait({sender, watch, self._gone}, return_when=asyncio.FIRST_COMPLETED)
            if sender.done():
                sender.result()
            else:
                self._call.log.reason = "client_left"
        except OSError:
            self._call.log.reason = "client_left"
        finally:
            self._timer.cancel()
            if deadline is not None:
                deadline.cancel()
            for task in (pump, sender, watch):
                task.cancel()
            await asyncio.gather(pump, sender, watch, return_exceptions=True)

    async def _pump(self) -> None:
        """Take the events from their source."""
        try:
            async for event in self._events:
                self._put(event)
        except asyncio.CancelledError:
            if self._is_late:
                self._fail(self._call.timeout())
            elif not self._call.service.accepting:
                self._fail(unavailable("the server is shutting down", "shutting_down"))
            else:
                raise
        except Exception as error:
            self._fail(api_error(error))
        finally:
            await self._events.aclose()
            self._call.release()
            self._ended = True
            self._has_more.set()

    def _put(self, event: bytes) -> None:
        self._buffer.append(event)
        self._has_more.set()

    def _fail(self, error: ApiError) -> None:
        self._call.log.reason = str(error.body()["error"]["code"] or "error")
        self._put(self._on_error(error))

    async def _send(self, send: Send) -> None:
        """Send what has come, all of it at a time."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        while True:
            await self._has_more.wait()
            self._has_more.clear()
            is_last = self._ended
            data = b"".join(self._buffer)
            self._buffer.clear()
            self._is_sending = True
            await send({"type": "http.response.body", "body": data, "more_body": not is_last})
            self._is_sending = False
            self._sent_s = time.monotonic()
            if is_last:
                return

    def _tick(self) -> None:
        """Fill a silence; give up on a client that takes nothing."""
        silent_s = time.monotonic() - self._sent_s
        keep_alive_s = self._call.service.settings.keep_alive_s
        if self._is_sending:
            if silent_s > _STALLED_S and self._gone is not None and not self._gone.done():
                self._gone.set_result(None)
        elif silent_s >= keep_alive_s / 2:
            self._put(_COMMENT)
        self._timer = asyncio.get_running_loop().call_later(keep_alive_s, self._tick)

    def _end_late(self, pump: asyncio.Task[None]) -> None:
        self._is_late = True
        pump.cancel()
