"""The objects of the Responses API: a response, its items and their parts, as dicts."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from gptoss.engine.outputs import Usage

Item: TypeAlias = dict[str, Any]


def new_id(prefix: str) -> str:
    """An id that nobody guesses."""
    return f"{prefix}_{secrets.token_hex(24)}"


def output_text(text: str, logprobs: Sequence[Mapping[str, Any]] = ()) -> Item:
    """A part of an assistant's message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


def reasoning_text(text: str) -> Item:
    """A part of a reasoning item."""
    return {"type": "reasoning_text", "text": text}


def reasoning_item(item_id: str, status: str, content: Sequence[Item]) -> Item:
    """What the model thought; it writes no summaries."""
    return {
        "id": item_id,
        "type": "reasoning",
        "status": status,
        "summary": [],
        "content": list(content),
    }


def message_item(item_id: str, status: str, phase: str, content: Sequence[Item]) -> Item:
    """What the model told the user; `phase` is "commentary" before a call, or "final_answer"."""
    return {
        "id": item_id,
        "type": "message",
        "status": status,
        "role": "assistant",
        "phase": phase,
        "content": list(content),
    }


def call_item(
    item_id: str, status: str, call_id: str, namespace: str | None, name: str, arguments: str
) -> Item:
    """A function that the model wants called."""
    item = {
        "id": item_id,
        "type": "function_call",
        "status": status,
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
    }
    if namespace is not None:
        item["namespace"] = namespace
    return item


def usage_object(usage: Usage) -> dict[str, Any]:
    """Token counts under the names of this API."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": 0,  # nobody is billed for them
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def deleted_object(response_id: str) -> dict[str, Any]:
    """The answer to a DELETE."""
    return {"id": response_id, "object": "response", "deleted": True}


def item_page(items: Sequence[Item], has_more: bool) -> dict[str, Any]:
    """A page of items."""
    return {
        "object": "list",
        "data": list(items),
        "first_id": items[0]["id"] if items else "",
        "last_id": items[-1]["id"] if items else "",
        "has_more": has_more,
    }
