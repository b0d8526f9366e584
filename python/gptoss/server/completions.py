"""/v1/completions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from gptoss.chat.openai import usage_dict
from gptoss.engine.outputs import GenerationChunk, GenerationResult
from gptoss.engine.request import Request
from gptoss.openai_requests.completions import (
    CompletionRequest,
    TextOffsets,
    completion_dict,
    completion_head,
    logprobs_dict,
    total_usage,
)
from gptoss.server.responding import bytes_response
from gptoss.server.service import Call, Service, read_request
from gptoss.server.streams import DONE, EventStream, json_bytes, sse


def routes(service: Service) -> list[Route]:
    """The endpoints of this module."""

    async def create(request: HttpRequest) -> Response:
        asked = await read_request(service, request, CompletionRequest.read)
        call = service.call(request, asked.model)
        call.admit(asked.cost, "n" if len(asked.prompts) == 1 else "prompt")
        try:
            requests = await call.check(_begin, call, asked)
            if asked.stream:
                return EventStream(call, _events(call, asked, requests))
            results = await call.run(_results(call, requests))
            call.release()
            _note_end(call, results)
            return bytes_response(await service.in_worker(_body, call, asked, results))
        except BaseException:
            call.release()
            raise

    return [Route("/v1/completions", create, methods=["POST"])]


def _begin(call: Call, asked: CompletionRequest) -> list[Request]:
    """Check all prompts, then begin them."""
    encoded = asked.encoded(call.llm)
    return [call.llm.submit(ids, asked.params, **call.adapter) for ids in encoded]


def _body(call: Call, asked: CompletionRequest, results: Sequence[GenerationResult]) -> bytes:
    answer = completion_dict(call.llm, asked, results)
    answer["model"] = call.model
    return json_bytes(answer)


async def _results(call: Call, requests: Sequence[Request]) -> list[GenerationResult]:
    try:
        return [await request for request in requests]
    finally:
        for request in requests:
            request.cancel()


def _note_end(call: Call, results: Sequence[GenerationResult]) -> None:
    if call.log.first_token_s is None:  # of no stream
        call.saw_first(min(result.timings.time_to_first_token_s for result in results))
    call.finish(total_usage(results), results[0].finish_reason)


class _Choice:
    """One choice of a stream: what was not sent of it."""

    def __init__(self, call: Call, asked: CompletionRequest, place: int, index: int) -> None:
        prompt = asked.prompt_text(place, call.llm.tokenizer) if asked.echo else ""
        self._interval = call.service.settings.stream_interval
        self._call = call
        self._index = index
        self._has_logprobs = asked.params.logprobs is not None
        self._offsets = TextOffsets(call.llm.tokenizer, len(prompt)) if self._has_logprobs else None
        self._text = prompt
        self._tokens: list[Any] = []
        self._is_first = True

    def take(self, chunk: GenerationChunk) -> dict[str, Any] | None:
        """Take a chunk; return what is to be sent now."""
        self._call.saw_token(self._index)
        self._text += chunk.text
        self._tokens += chunk.logprobs or chunk.token_ids
        is_last = chunk.finish_reason is not None
        if not (is_last or self._is_first or len(self._tokens) >= self._interval):
            return None
        if not (is_last or self._text or self._has_logprobs):
            return None  # a part of a character
        self._is_first = False
        found = {
            "text": self._text,
            "index": self._index,
            "logprobs": None,
            "finish_reason": chunk.finish_reason,
        }
        if self._offsets is not None:
            ids = [score.token_id for score in self._tokens]
            found["logprobs"] = logprobs_dict(self._offsets, ids, self._tokens)
        self._text, self._tokens = "", []
        return found


async def _events(
    call: Call, asked: CompletionRequest, requests: Sequence[Request]
) -> AsyncGenerator[bytes, None]:
    head = completion_head(call.model)
    count = asked.params.n
    choices = [
        _Choice(call, asked, place, place * count + sample)
        for place in range(len(requests))
        for sample in range(count)
    ]
    async with contextlib.aclosing(_chunks(requests)) as chunks:
        async for place, chunk in chunks:
            choice = choices[place * count + chunk.index].take(chunk)
            if choice is not None:
                more = {"usage": None} if asked.include_usage else {}
                yield sse({**head, "choices": [choice], **more})
    results = [await request for request in requests]
    _note_end(call, results)
    if asked.include_usage:
        yield sse({**head, "choices": [], "usage": usage_dict(total_usage(results))})
    yield DONE


async def _chunks(
    requests: Sequence[Request],
) -> AsyncGenerator[tuple[int, GenerationChunk], None]:
    """The chunks of all requests as they come, each with the request's place."""
    queue: asyncio.Queue[tuple[int, GenerationChunk] | BaseException | None] = asyncio.Queue()

    async def read(place: int, request: Request) -> None:
        try:
            async for chunk in request:
                queue.put_nowait((place, chunk))
            queue.put_nowait(None)
        except Exception as error:
            queue.put_nowait(error)

    readers = [asyncio.create_task(read(*item)) for item in enumerate(requests)]
    try:
        unfinished = len(readers)
        while unfinished:
            item = await queue.get()
            if item is None:
                unfinished -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        for request in requests:
            request.cancel()
