"""The Responses API's answers and events, held to the types of the openai package."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pydantic
from openai.types.responses import Response, ResponseItem, ResponseStreamEvent
from openai.types.responses.response_item_list import ResponseItemList

_EVENT: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(ResponseStreamEvent)
_ITEM: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(ResponseItem)

_TERMINAL = ("response.completed", "response.incomplete", "response.failed", "error")


def check_response(body: Mapping[str, Any]) -> None:
    """Hold an answer to `Response`."""
    Response.model_validate(body)


def check_item_list(body: Mapping[str, Any]) -> None:
    """Hold a page of items to its type, and each item to that of its own."""
    ResponseItemList.model_validate(body)
    for item in body["data"]:
        assert _ITEM.validate_python(item).type == item["type"]


def check_events(events: Iterable[Mapping[str, Any]], *, first: int = 0) -> list[str]:
    """Hold a stream to the types and to what clients rely on; return the events' types.

    Sequence numbers count from `first`; one item is open at a time, at the next place of the
    output; its texts are the deltas put together; the last event has all of it.
    """
    events = list(events)
    opened: Mapping[str, Any] | None = None
    pieces: list[str] = []
    done: list[Mapping[str, Any]] = []
    for number, event in enumerate(events, first):
        assert _EVENT.validate_python(event).type == event["type"]
        assert event["sequence_number"] == number
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert opened is None
            assert event["output_index"] == len(done)
            opened, pieces = event["item"], []
            assert opened["status"] == "in_progress"
        elif kind == "output_item.done":
            assert opened is not None
            assert event["item"]["id"] == opened["id"]
            assert event["output_index"] == len(done)
            assert _text(event["item"]) == "".join(pieces)
            done.append(event["item"])
            opened = None
        elif "item_id" in event:
            assert opened is not None
            assert event["item_id"] == opened["id"]
            assert event["output_index"] == len(done)
            if kind.endswith(".delta"):
                pieces.append(event["delta"])
            elif kind == "function_call_arguments.done":
                assert event["arguments"] == "".join(pieces)
            elif kind in ("output_text.done", "reasoning_text.done"):
                assert event["text"] == "".join(pieces)
        assert (event["type"] in _TERMINAL) == (event is events[-1])
    assert opened is None
    if events[-1]["type"] != "error":
        assert events[-1]["response"]["output"] == done
    return [event["type"] for event in events]


def _text(item: Mapping[str, Any]) -> str:
    if item["type"] == "function_call":
        return str(item["arguments"])
    return "".join(part["text"] for part in item["content"])
