"""The model inside a FastAPI application: answers streamed as server-sent events.

    pip install -r examples/requirements.txt
    python examples/web_app.py demo
    python examples/web_app.py openai/gpt-oss-20b --port 8000

    curl -N localhost:8000/chat -H 'Content-Type: application/json' \
        -d '{"messages": [{"role": "user", "content": "What is 17 + 25?"}], "effort": "low"}'

The model is loaded when the application starts and shared by all its requests, which the engine
computes together. A client that goes away cancels its request. There is no authentication here:
listen on localhost, or put it behind what you have.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

import gptoss
from gptoss.chat import ChatStream


class Conversation(BaseModel):
    """The body of a request."""

    messages: list[dict[str, Any]]
    effort: Literal["low", "medium", "high"] = "medium"
    temperature: float = Field(1.0, ge=0, le=2)
    max_tokens: int = Field(1000, ge=1, le=8192)


async def events(stream: ChatStream) -> AsyncIterator[str]:
    """An answer's pieces as server-sent events; the last one has how it ended."""
    # Left early, as when the client has gone away, `with` cancels the request.
    with stream:
        try:
            async for delta in stream:
                if delta.reasoning or delta.text:
                    yield event(reasoning=delta.reasoning, text=delta.text)
                elif delta.kind == "end":
                    yield event(finish_reason=delta.finish_reason)
        except gptoss.BackendError as error:  # the status 200 is sent already
            yield event(error=str(error))


def event(**values: str | None) -> str:
    """A server-sent event with what is not empty, as JSON."""
    kept = {name: value for name, value in values.items() if value}
    return f"data: {json.dumps(kept, ensure_ascii=False)}\n\n"


def create_app(model: str, **options: Any) -> FastAPI:
    """An application that serves a model; `options` are those of `gptoss.load`."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # In a thread: loading must not keep the event loop from anything else.
        with await asyncio.to_thread(gptoss.load, model, **options) as llm:
            app.state.llm = llm
            yield

    app = FastAPI(title="gptoss", lifespan=lifespan)

    @app.post("/chat")
    async def chat(body: Conversation) -> StreamingResponse:
        llm: gptoss.LLM = app.state.llm
        try:
            stream = await llm.achat(
                body.messages,
                stream=True,
                reasoning_effort=body.effort,
                temperature=body.temperature,
                max_tokens=body.max_tokens,
            )
        except (ValueError, TypeError) as error:  # a message that is not as it should be
            raise HTTPException(400, str(error)) from error
        return StreamingResponse(events(stream), media_type="text/event-stream")

    @app.get("/health")
    async def health() -> dict[str, int | str]:
        stats = app.state.llm.stats()
        return {"model": app.state.llm.name, "running": stats.running, "waiting": stats.waiting}

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help='"demo", a Hub id or a folder')
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    args = parser.parse_args()

    import uvicorn  # needed here only: an application has its own server

    uvicorn.run(create_app(args.model), host=args.host, port=args.port)


if __name__ == "__main__":
    main()
