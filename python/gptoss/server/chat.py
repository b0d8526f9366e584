"""/v1/chat/completions."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gptoss.chat import ChatDelta, ChatResult, ChatStream
from gptoss.chat.openai import usage_dict
from gptoss.engine.outputs import Usage
from gptoss.openai_requests import ChatRequest
from gptoss.server.responding import bytes_response
from gptoss.server.service import Call, Service, read_request
from gptoss.server.streams import DONE, EventStream, json_bytes, sse


def routes(service: Service) -> list[Route]:
    """The endpoints of this module."""

    async def create(request: Request) -> Response:
        asked = await read_request(service, request, ChatRequest.read)
        call = service.call(request, asked.model)
        shows_reasoning = asked.sends_reasoning and service.settings.reasoning == "show"
        call.admit(asked.n, "n")
        try:
            stream = await call.begin_chat(asked.messages, **asked.arguments)
            if asked.stream:
                return EventStream(call, _events(call, stream, asked, shows_reasoning))
            result = await call.run(drained(call, stream))
            call.release()
            data = await service.in_worker(_body, call, result, shows_reasoning)
            return bytes_response(data)
        except BaseException:
            call.release()
            raise

    return [Route("/v1/chat/completions", create, methods=["POST"])]


async def deltas(call: Call, stream: ChatStream) -> AsyncGenerator[ChatDelta, None]:
    """An answer as it comes, `stream_interval` tokens at a time; closing this ends the request."""
    joiner = Joiner(call.service.settings.stream_interval)
    with stream:
        async for delta in stream:
            if delta.kind != "end":
                call.saw_token(delta.index)
            for ready in joiner.take(delta):
                yield ready
    _note_end(call, stream)


async def drained(call: Call, stream: ChatStream) -> ChatResult:
    """All of an answer."""
    with stream:
        async for delta in stream:
            if delta.kind != "end":
                call.saw_token(delta.index)
    return _note_end(call, stream)


def _note_end(call: Call, stream: ChatStream) -> ChatResult:
    result = stream.result
    assert result is not None
    if call.log.first_token_s is None:  # nothing was to be seen of it
        call.saw_first(result.timings.time_to_first_token_s)
    call.finish(total_usage(result), result.finish_reason)
    return result


class Joiner:
    """Makes one delta of up to `interval` that follow each other; a sample's first goes alone."""

    def __init__(self, interval: int) -> None:
        self._interval = interval
        self._held: dict[int, tuple[ChatDelta, int]] = {}  # by sample, with how many it is of
        self._begun: set[int] = set()

    def take(self, delta: ChatDelta) -> list[ChatDelta]:
        """Take the next delta; return what is to be sent now."""
        if self._interval == 1:
            return [delta]
        sample = delta.index
        ready = []
        count = 1
        if sample in self._held:
            before, count_before = self._held.pop(sample)
            both = before.joined(delta)
            if both is None:
                ready.append(before)
            else:
                delta, count = both, count_before + 1
        if sample not in self._begun or delta.kind == "end" or count >= self._interval:
            self._begun.add(sample)
            ready.append(delta)
        else:
            self._held[sample] = delta, count
        return ready


def total_usage(result: ChatResult) -> Usage:
    """What all samples took; their prompt counts once."""
    samples = [result.usage, *(other.usage for other in result.other_samples)]
    return Usage(
        result.usage.prompt_tokens,
        sum(usage.completion_tokens for usage in samples),
        sum(usage.reasoning_tokens for usage in samples),
        result.usage.cached_tokens,
    )


def _body(call: Call, result: ChatResult, shows_reasoning: bool) -> bytes:
    answer = result.to_openai()
    answer["model"] = call.model
    for choice in answer["choices"]:
        _show_reasoning(choice["message"], shows_reasoning)
        choice["message"].setdefault("refusal", None)
    return json_bytes(answer)


async def _events(
    call: Call, stream: ChatStream, asked: ChatRequest, shows_reasoning: bool
) -> AsyncGenerator[bytes, None]:
    model = call.model
    more: dict[str, Any] = {"usage": None} if asked.include_usage else {}
    begun: set[int] = set()
    chunk: dict[str, Any] = {}
    async with contextlib.aclosing(deltas(call, stream)) as found:
        async for delta in found:
            chunk = {**delta.to_openai(), "model": model, **more}
            if not asked.include_usage:
                chunk.pop("usage", None)
            (choice,) = chunk["choices"]
            choice["delta"].pop("role", None)
            if choice["index"] not in begun:
                begun.add(choice["index"])
                first = {"role": "assistant", "content": ""}
                yield sse({**chunk, "choices": [_beginning(choice, first)]})
            if delta.kind == "reasoning" and not shows_reasoning:
                continue
            _show_reasoning(choice["delta"], shows_reasoning)
            yield sse(chunk)
    if asked.include_usage and stream.result is not None:
        usage = usage_dict(total_usage(stream.result))
        yield sse({**chunk, "choices": [], "usage": usage})
    yield DONE


def _beginning(choice: dict[str, Any], delta: dict[str, Any]) -> dict[str, Any]:
    return {**choice, "delta": delta, "finish_reason": None, "logprobs": None}


def _show_reasoning(message: dict[str, Any], shows_reasoning: bool) -> None:
    """Send reasoning under both names that clients know, or not at all."""
    if "reasoning" in message:
        if shows_reasoning:
            message["reasoning_content"] = message["reasoning"]
        else:
            del message["reasoning"]
