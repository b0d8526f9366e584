"""A server with the chat page and, in place of a model, answers that a test has written."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from gptoss.server import page

# What an answer is made of: deltas, seconds to wait, an error ({"error": …}), which is the last
# thing that is sent, and BREAK, where the connection ends.
BREAK = "break"
Step = dict[str, Any] | float | str


def text(*pieces: str) -> list[Step]:
    """Deltas of content."""
    return [{"content": piece} for piece in pieces]


def reasoning(*pieces: str) -> list[Step]:
    """Deltas of reasoning."""
    return [{"reasoning": piece, "reasoning_content": piece} for piece in pieces]


def call(name: str, *arguments: str) -> list[Step]:
    """A call of a tool, its arguments in pieces."""
    function = {"name": name, "arguments": ""}
    begin = {"index": 0, "id": "call_1", "type": "function", "function": function}
    more = [{"index": 0, "function": {"arguments": piece}} for piece in arguments]
    return [{"tool_calls": [piece]} for piece in (begin, *more)]


@dataclass
class StandIn:
    """A running stand-in.

    Attributes
    ----------
    url : str
        Of the page.
    answer : callable
        From the body of a request to the steps of its answer.
    key : str or None
        Asked for if it is not None.
    bodies : list of dict
        The requests so far.
    left : list of dict
        Those whose client left before the end.
    """

    url: str
    answer: Callable[[dict[str, Any]], Iterable[Step]] = lambda _: text("Hello")
    key: str | None = None
    bodies: list[dict[str, Any]] = field(default_factory=list)
    left: list[dict[str, Any]] = field(default_factory=list)


def _chunk(**fields: Any) -> bytes:
    head = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": "stand-in",
    }
    return f"data: {json.dumps({**head, **fields})}\n\n".encode()


async def _events(stand_in: StandIn, body: dict[str, Any]) -> AsyncIterator[bytes]:
    finish, tokens = "stop", 0
    behind = 0.0  # seconds that are still to be waited: sleeps are never as short as was asked
    try:
        for step in stand_in.answer(body):
            if step == BREAK:
                raise ConnectionResetError("as the test wants it")
            if isinstance(step, float):
                behind += step
                if behind > 0.01:
                    begin = time.perf_counter()
                    await asyncio.sleep(behind)
                    behind -= time.perf_counter() - begin
                continue
            delta = cast("dict[str, Any]", step)
            if "error" in delta:
                yield f"data: {json.dumps(delta)}\n\n".encode()
                return
            tokens += 1
            if "tool_calls" in delta:
                finish = "tool_calls"
            yield _chunk(choices=[{"index": 0, "delta": delta, "finish_reason": None}], usage=None)
    except (asyncio.CancelledError, GeneratorExit):
        stand_in.left.append(body)
        raise
    usage = {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens}
    yield _chunk(choices=[{"index": 0, "delta": {}, "finish_reason": finish}], usage=None)
    yield _chunk(choices=[], usage=usage)
    yield b"data: [DONE]\n\n"


def _refused(status: int, message: str) -> Response:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return JSONResponse({"error": error}, status)


def _app(stand_in: StandIn) -> Starlette:
    def is_allowed(request: Request) -> bool:
        given = request.headers.get("authorization")
        return stand_in.key is None or given == f"Bearer {stand_in.key}"

    async def chat(request: Request) -> Response:
        body = await request.json()
        if not is_allowed(request):
            return _refused(401, "a key is needed")
        stand_in.bodies.append(body)
        return StreamingResponse(_events(stand_in, body), media_type="text/event-stream")

    async def models(request: Request) -> Response:
        if not is_allowed(request):
            return _refused(401, "a key is needed")
        return JSONResponse({"object": "list", "data": [{"id": "stand-in", "object": "model"}]})

    routes = [
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/models", models),
        *page.routes(cast("Any", None)),  # the page asks nothing of the service
    ]
    return Starlette(routes=routes)


@contextmanager
def running() -> Iterator[StandIn]:
    """Run a stand-in on a free port of this machine."""
    listener = socket.create_server(("127.0.0.1", 0))
    stand_in = StandIn(f"http://127.0.0.1:{listener.getsockname()[1]}/")
    config = uvicorn.Config(_app(stand_in), log_config=None, lifespan="off", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield stand_in
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)
        listener.close()
