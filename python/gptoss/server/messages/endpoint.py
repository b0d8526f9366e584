"""/v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gptoss.chat import ChatStream, build_prompt
from gptoss.chat.response_format import read_response_format
from gptoss.llm import LLM
from gptoss.openai_requests.fields import RequestError
from gptoss.server.chat import deltas
from gptoss.server.errors import ApiError, bad_request
from gptoss.server.messages.events import MessageWriter
from gptoss.server.messages.request import MessagesRequest, read_request
from gptoss.server.responding import JsonResponse
from gptoss.server.service import Call, Service, read_json
from gptoss.server.streams import EventStream, sse

_ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
# What a prompt is made of, of the keywords of `LLM.chat`.
_PROMPT = ("tools", "tool_choice", "reasoning_effort")


def routes(service: Service) -> list[Route]:
    """The endpoints of this module."""

    async def create(request: Request) -> Response:
        asked = read_request(await read_json(service, request))
        call = service.call(request, asked.model)
        call.admit(1, "messages")
        try:
            stream = await call.begin_chat(asked.messages, **asked.chat)
            shows_thinking = asked.shows_thinking and service.settings.reasoning == "show"
            writer = MessageWriter(call.model, shows_thinking=shows_thinking)
            events = _events(call, stream, writer)
            if asked.stream:
                return EventStream(call, events, _error_event)
            await call.run(_finish(events))
            call.release()
            return JsonResponse(writer.message)
        except BaseException:
            call.release()
            raise

    async def count(request: Request) -> Response:
        asked = read_request(await read_json(service, request))
        with service.call(request, asked.model) as call:
            return JsonResponse({"input_tokens": await call.check(_count, call.llm, asked)})

    return [
        Route("/v1/messages", _answering(create), methods=["POST"]),
        Route("/v1/messages/count_tokens", _answering(count), methods=["POST"]),
    ]


def _answering(
    endpoint: Callable[[Request], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint whose errors are in the form of this API."""

    @functools.wraps(endpoint)
    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except RequestError as error:
            return _error_response(bad_request(error))
        except ApiError as error:
            return _error_response(error)

    return answer


async def _events(
    call: Call, stream: ChatStream, writer: MessageWriter
) -> AsyncGenerator[bytes, None]:
    for event in writer.begin():
        yield sse(event, event["type"])
    async with contextlib.aclosing(deltas(call, stream)) as found:
        async for delta in found:
            for event in writer.take(delta):
                yield sse(event, event["type"])


async def _finish(events: AsyncGenerator[bytes, None]) -> None:
    async with contextlib.aclosing(events):
        async for _ in events:
            pass


def _count(llm: LLM, asked: MessagesRequest) -> int:
    chat = {name: asked.chat[name] for name in _PROMPT if name in asked.chat}
    wanted = read_response_format(asked.chat.get("response_format"))
    prompt = build_prompt(llm.harmony, asked.messages, response_format=wanted, **chat)
    return len(prompt.token_ids)


def _error_body(error: ApiError) -> dict[str, Any]:
    kind = _ERROR_TYPES.get(
        error.status, "invalid_request_error" if error.status < 500 else "api_error"
    )
    return {"type": "error", "error": {**error.body()["error"], "type": kind}}


def _error_response(error: ApiError) -> Response:
    return JsonResponse(_error_body(error), error.status, error.headers)


def _error_event(error: ApiError) -> bytes:
    return sse(_error_body(error), "error")
