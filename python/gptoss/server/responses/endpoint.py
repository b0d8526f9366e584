"""/v1/responses, and what belongs to a response that is kept."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gptoss.openai_requests.fields import RequestError
from gptoss.server.errors import ApiError, bad_request
from gptoss.server.responding import JsonResponse
from gptoss.server.responses.answer import Answer, Background, Running, begin_chat, encoded
from gptoss.server.responses.objects import Item, deleted_object, item_page
from gptoss.server.responses.request import ResponseRequest, read_request
from gptoss.server.responses.store import Record, ResponseStore
from gptoss.server.service import Service, read_json
from gptoss.server.streams import EventStream

_PAGE_ITEMS = 20
_MAX_PAGE_ITEMS = 100


def routes(service: Service) -> list[Route]:
    """The endpoints of this module; ValueError if the store's file is none."""
    settings = service.settings
    store = ResponseStore(
        settings.store_path,
        max_entries=settings.store_entries,
        max_bytes=settings.store_bytes,
        ttl_s=settings.store_ttl_s,
    )
    service.on_close(store.close)
    weakref.finalize(service, store.close)  # where an application is embedded, and never told
    endpoints = _Responses(service, store)
    path = "/v1/responses"
    return [
        Route(path, endpoints.create, methods=["POST"]),
        Route(f"{path}/{{id}}", endpoints.retrieve, methods=["GET"]),
        Route(f"{path}/{{id}}", endpoints.delete, methods=["DELETE"]),
        Route(f"{path}/{{id}}/cancel", endpoints.cancel, methods=["POST"]),
        Route(f"{path}/{{id}}/input_items", endpoints.input_items, methods=["GET"]),
    ]


class _Responses:
    def __init__(self, service: Service, store: ResponseStore) -> None:
        self._service = service
        self._store = store
        self._running = Running()

    async def create(self, request: Request) -> Response:
        body = await read_json(self._service, request)
        call = self._service.call(request)
        asked, history = await call.check(self._read, body)
        self._service.check_model(asked.model)
        call.set_model(asked.model)
        call.admit(1, "input")
        try:
            stream = await call.check(begin_chat, call.llm, asked, history, call.adapter)
            answer = Answer(call, stream, asked, history, self._store)
            if asked.background:
                return await self._in_background(answer, is_streamed=asked.stream)
            if asked.store:
                self._running.add(answer)
            if asked.stream:
                return EventStream(call, _events(answer), lambda error: _failed(answer, error))
            await call.run(_finished(answer))
            call.release()
            return JsonResponse(answer.writer.response)
        except BaseException:
            call.release()
            raise

    async def retrieve(self, request: Request) -> Response:
        response_id = request.path_params["id"]
        if _flag(request.query_params, "stream"):
            return self._follow(request, response_id)
        answer = self._running.answer(response_id)
        if answer is not None:
            return JsonResponse(answer.writer.response)
        return JsonResponse((await self._record(response_id)).response)

    async def delete(self, request: Request) -> Response:
        response_id = request.path_params["id"]
        answer = self._running.answer(response_id)
        background = self._running.background(response_id)
        if answer is not None:
            answer.forget()
        if background is not None:
            await background.cancel()
            self._running.forget(response_id)
        was_there = await self._service.in_worker(self._store.delete, response_id)
        if not was_there and answer is None:
            raise _not_found(response_id)
        return JsonResponse(deleted_object(response_id))

    async def cancel(self, request: Request) -> Response:
        response_id = request.path_params["id"]
        background = self._running.background(response_id)
        if background is not None:
            await background.cancel()
            return JsonResponse(background.answer.writer.response)
        response = (await self._record(response_id)).response
        if not response["background"]:
            raise ApiError(
                400, "only a response that was created with background: true can be cancelled"
            )
        return JsonResponse(response)

    async def input_items(self, request: Request) -> Response:
        query = request.query_params
        limit = _integer(query, "limit", 1, _MAX_PAGE_ITEMS, _PAGE_ITEMS)
        order = query.get("order", "desc")
        if order not in ("asc", "desc"):
            raise ApiError(400, f"order must be asc or desc, got {order!r:.100}", param="order")
        record = await self._record(request.path_params["id"])
        items = [*record.history, *record.input]
        if order == "desc":
            items.reverse()
        after = query.get("after")
        if after is not None:
            places = [index for index, item in enumerate(items) if item["id"] == after]
            if not places:
                raise ApiError(400, f"after: no item has the id {after!r:.100}", param="after")
            items = items[places[0] + 1 :]
        return JsonResponse(item_page(items[:limit], len(items) > limit))

    # -- parts ---------------------------------------------------------------------------

    def _read(self, body: Mapping[str, Any]) -> tuple[ResponseRequest, list[Item]]:
        """Check a body, and find what it follows on; reads the store."""
        asked = read_request(body, self._store.item)
        previous = asked.previous_response_id
        if previous is None:
            return asked, []
        record = self._store.get(previous)
        if record is None:
            raise RequestError(
                f"no response has the id {previous!r:.100}, or it is not kept any more",
                "previous_response_id",
                "previous_response_not_found",
            )
        if record.response["status"] in ("queued", "in_progress"):
            raise RequestError(
                f"the response {previous!r:.100} is not finished", "previous_response_id"
            )
        return asked, record.conversation

    async def _in_background(self, answer: Answer, *, is_streamed: bool) -> Response:
        call = answer.call
        background = Background(answer)
        queued = dict(answer.writer.response)
        self._running.add(answer)
        self._running.add_background(background)
        await answer.keep()
        self._service.add_task(background.start())
        if not is_streamed:
            return JsonResponse(queued)
        return EventStream(self._service.call(call.request), background.follow())

    def _follow(self, request: Request, response_id: str) -> Response:
        first = _integer(request.query_params, "starting_after", 0, 2**63, -1) + 1
        background = self._running.background(response_id)
        if background is None:
            raise ApiError(
                400,
                f"there are no events of a response {response_id!r:.100}: those of responses in "
                "the background are kept for a while; ask without stream",
                param="stream",
            )
        return EventStream(self._service.call(request), background.follow(first))

    async def _record(self, response_id: str) -> Record:
        record = await self._service.in_worker(self._store.get, response_id)
        if record is None:
            raise _not_found(response_id)
        return record


async def _events(answer: Answer) -> AsyncGenerator[bytes, None]:
    try:
        async for event in answer.events():
            yield encoded(event)
    finally:
        answer.close()


async def _finished(answer: Answer) -> None:
    try:
        async for _ in answer.events():
            pass
    finally:
        answer.close()


def _failed(answer: Answer, error: ApiError) -> bytes:
    """The last events of a stream that breaks off."""
    if answer.writer.has_ended:
        return b""
    events = answer.writer.fail(str(error))
    answer.call.service.add_task(asyncio.create_task(answer.keep()))
    return b"".join(map(encoded, events))


def _not_found(response_id: str) -> ApiError:
    return ApiError(404, f"no response has the id {response_id!r:.100}", code="not_found")


def _flag(query: Mapping[str, str], name: str) -> bool:
    value = query.get(name, "false")
    if value not in ("true", "false"):
        raise ApiError(400, f"{name} must be true or false, got {value!r:.100}", param=name)
    return value == "true"


def _integer(query: Mapping[str, str], name: str, low: int, high: int, default: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    value = int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else -1
    if not low <= value <= high:
        raise bad_request(
            RequestError(f"{name} must be an integer from {low} to {high}, got {text!r:.100}", name)
        )
    return value
