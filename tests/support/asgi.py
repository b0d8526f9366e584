"""Talks to an ASGI application in this process, as a client that may be slow, or leave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Reply:
    """A response, as far as it has come.

    Attributes
    ----------
    pieces : list of bytes
        What the application has sent, call by call.
    ended : bool
        Whether it has sent all.
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    pieces: list[bytes] = field(default_factory=list)
    ended: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error object, which has all of its keys."""
        body = self.json
        assert list(body) == ["error"]
        error: dict[str, Any] = body["error"]
        assert list(error) == ["message", "type", "param", "code"]
        assert isinstance(error["message"], str)
        assert "\n" not in error["message"]
        return error

    @property
    def events(self) -> list[Any]:
        """The data of all events: dicts, and "[DONE]"."""
        assert self.headers["content-type"].startswith("text/event-stream")
        found: list[Any] = []
        for block in self.body.decode().split("\n\n"):
            lines = [line for line in block.split("\n") if line and not line.startswith(":")]
            for line in lines:
                if line.startswith("data: "):
                    data = line.removeprefix("data: ")
                    found.append(data if data == "[DONE]" else json.loads(data))
        return found


class Client:
    """One request to an application.

    Parameters
    ----------
    app : ASGI application
    method, path : str
    body : any, optional
        Bytes as they are, anything else as JSON.
    headers : dict
    chunks : sequence of bytes, optional
        The body in pieces, without a content-length.
    """

    def __init__(
        self,
        app: Any,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        chunks: Sequence[bytes] | None = None,
    ) -> None:
        self.reply = Reply()
        self.has_left = asyncio.Event()
        self.reads = asyncio.Event()  # whether the client takes what is sent
        self.reads.set()
        self._app = app
        if chunks is None:
            data = body if isinstance(body, bytes) else b"" if body is None else json_bytes(body)
            chunks = [data]
            length = {"content-length": str(len(data))}
        else:
            length = {}
        self._chunks = list(chunks)
        sent = {"host": "testserver", **length, **(headers or {})}
        path, _, query = path.partition("?")
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(k.lower().encode(), v.encode("latin-1")) for k, v in sent.items()],
            "client": ("127.0.0.1", 5),
            "server": ("testserver", 80),
            "state": {},
        }

    async def run(self) -> Reply:
        """Send the request and take the whole response."""
        await self._app(self._scope, self._receive, self._send)
        return self.reply

    async def _receive(self) -> dict[str, Any]:
        if self._chunks:
            chunk = self._chunks.pop(0)
            return {"type": "http.request", "body": chunk, "more_body": bool(self._chunks)}
        await self.has_left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            assert not self.reply.status, "a second response"
            self.reply.status = message["status"]
            self.reply.headers = {k.decode(): v.decode() for k, v in message["headers"]}
            return
        assert message["type"] == "http.response.body"
        assert not self.reply.ended, "more after the end"
        await self.reads.wait()
        if self.has_left.is_set():
            raise OSError("the client has left")
        self.reply.pieces.append(message.get("body", b""))
        self.reply.ended = not message.get("more_body", False)


def json_bytes(value: Any) -> bytes:
    """A body."""
    return json.dumps(value).encode()


async def fetch(app: Any, method: str, path: str, body: Any = None, **more: Any) -> Reply:
    """Send one request."""
    return await Client(app, method, path, body, **more).run()


def ask(app: Any, method: str, path: str, body: Any = None, **more: Any) -> Reply:
    """Send one request, from outside of asyncio."""
    return asyncio.run(fetch(app, method, path, body, **more))


def post(app: Any, path: str, body: Any, **more: Any) -> Reply:
    """POST from outside of asyncio."""
    return ask(app, "POST", path, body, **more)
