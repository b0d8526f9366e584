"""/v1/chat/completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gptoss.chat import ChatDelta, ChatStream
from gptoss.openai_requests import ChatRequest
from gptoss.openai_requests.fields import RequestError
from gptoss.server.errors import bad_request
from gptoss.server.responding import JsonResponse
from gptoss.server.service import Call, Service, read_json
from gptoss.server.streams import DONE, EventStream, sse


def routes(service: Service) -> list[Route]:
    """The endpoints of this module."""

    async def create(request: Request) -> Response:
        body = await read_json(service, request)
        try:
            asked = ChatRequest.read(body)
        except RequestError as error:
            raise bad_request(error) from error
        service.check_model(asked.model)
        call = service.call(request)
        shows = asked.sends_reasoning and service.settings.reasoning == "show"
        call.admit(asked.n, "n")
        try:
            stream = await call.begin_chat(asked.messages, **asked.arguments)
            if asked.stream:
                events = _events(call, stream, asked, shows_reasoning=shows)
                return EventStream(call, events)
            answer = await call.run(_answer(call, stream, shows_reasoning=shows))
            call.release()
            return JsonResponse(answer)
        except BaseException:
            call.release()
            raise

    return [Route("/v1/chat/completions", create, methods=["POST"])]


async def deltas(call: Call, stream: ChatStream) -> AsyncGenerator[ChatDelta, None]:
    """An answer as it comes; closing this ends the request."""
    with stream:
        async for delta in stream:
            yield delta


async def _answer(call: Call, stream: ChatStream, *, shows_reasoning: bool) -> dict[str, Any]:
    with stream:
        async for _ in stream:
            pass
    assert stream.result is not None
    answer = stream.result.to_openai()
    answer["model"] = call.service.model_names[0]
    for choice in answer["choices"]:
        _show_reasoning(choice["message"], shows_reasoning=shows_reasoning)
    return answer


async def _events(
    call: Call, stream: ChatStream, asked: ChatRequest, *, shows_reasoning: bool
) -> AsyncGenerator[bytes, None]:
    model = call.service.model_names[0]
    async for delta in deltas(call, stream):
        chunk = delta.to_openai()
        chunk["model"] = model
        usage = chunk.pop("usage", None)
        if asked.include_usage:
            chunk["usage"] = None
        if not shows_reasoning and delta.kind == "reasoning":
            continue
        for choice in chunk["choices"]:
            _show_reasoning(choice["delta"], shows_reasoning=shows_reasoning)
        yield sse(chunk)
        if usage is not None and asked.include_usage:
            yield sse({**chunk, "choices": [], "usage": usage})
    yield DONE


def _show_reasoning(message: dict[str, Any], *, shows_reasoning: bool) -> None:
    """Send reasoning under both names that clients know, or not at all."""
    if "reasoning" in message:
        if shows_reasoning:
            message["reasoning_content"] = message["reasoning"]
        else:
            del message["reasoning"]
