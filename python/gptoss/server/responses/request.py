"""The body of a POST to /v1/responses, checked, as what `LLM.chat` is asked."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gptoss.openai_requests.chat import EFFORTS
from gptoss.openai_requests.fields import RequestError
from gptoss.openai_requests.sampling import sampling_of
from gptoss.server.responses.fields import RESPONSES
from gptoss.server.responses.input import FindItem, read_items
from gptoss.server.responses.objects import Item, new_id
from gptoss.server.responses.tools import Tools, read_choice, read_tools

_LOGPROBS = "message.output_text.logprobs"
_ECHOED = ("max_output_tokens", "max_tool_calls", "prompt_cache_key", "safety_identifier", "user")
# OpenAI's own bounds of metadata: pairs, and characters of a key and of a value.
_MAX_PAIRS = 16
_MAX_KEY = 64
_MAX_VALUE = 512


@dataclass(frozen=True)
class ResponseRequest:
    """What is asked.

    Attributes
    ----------
    model : str or None
        The model that is asked for.
    items : list of dict
        Those of the input.
    instructions : str or None
        For this response alone.
    previous_response_id : str or None
        What it follows on.
    tools : Tools
        Those of the request.
    chat : dict
        Keywords of `LLM.chat`, but for the messages.
    settings : dict
        What the response says of the request.
    stream, store, background : bool
        How it is answered.
    may_drop : bool
        Whether old turns may be left out.
    shows_reasoning : bool
        Whether the reasoning is part of the answer.
    """

    model: str | None
    items: list[Item]
    instructions: str | None
    previous_response_id: str | None
    tools: Tools
    chat: dict[str, Any]
    settings: dict[str, Any]
    stream: bool
    store: bool
    background: bool
    may_drop: bool
    shows_reasoning: bool

    @property
    def has_logprobs(self) -> bool:
        """Whether log-probabilities are part of the answer."""
        return "logprobs" in self.chat

    def new_response(self, model: str) -> dict[str, Any]:
        """The response as it begins, answered by the model of this name."""
        return {
            "id": new_id("resp"),
            "object": "response",
            "created_at": int(time.time()),
            "completed_at": None,
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "model": model,
            "output": [],
            "usage": None,
            **self.settings,
        }


def read_request(body: Mapping[str, Any], find: FindItem) -> ResponseRequest:
    """Check the body of a request.

    Parameters
    ----------
    body : mapping
        The request; a null is as if the field were not there, and so is a field that is unknown.
    find : callable
        The item of an id that an earlier answer had.

    Raises
    ------
    RequestError
        A field is wrong, and which.
    """
    given = RESPONSES.check(body)
    if "input" not in given and "previous_response_id" not in given:
        raise RequestError("you must provide input, or previous_response_id", "input")
    background, store = given.get("background", False), given.get("store", True)
    if background and not store:
        raise RequestError("background needs store: the answer is asked for later", "background")
    tools = read_tools(given.get("tools", []))
    choice, functions = read_choice(given.get("tool_choice", "auto"), tools)
    reasoning, text = given.get("reasoning", {}), given.get("text", {})
    effort = reasoning.get("effort") or "medium"
    text_format = _format(text.get("format") or {"type": "text"})
    chat = sampling_of(given)
    chat["reasoning_effort"] = EFFORTS[effort]
    if "max_output_tokens" in given:
        chat["max_tokens"] = given["max_output_tokens"]
    if "max_reasoning_tokens" in given:
        chat["max_reasoning_tokens"] = given["max_reasoning_tokens"]
    if given.get("top_logprobs") or _LOGPROBS in given.get("include", ()):
        chat["logprobs"] = given.get("top_logprobs", 0)
    if functions:
        chat |= {"tools": functions, "tool_choice": choice}
    if text_format["type"] != "text":
        chat["response_format"] = _response_format(text_format)
    settings = {
        "background": background,
        "instructions": given.get("instructions"),
        "metadata": _metadata(given.get("metadata", {})),
        "parallel_tool_calls": given.get("parallel_tool_calls", True),
        "previous_response_id": given.get("previous_response_id"),
        "reasoning": {"effort": effort, "summary": None},
        "service_tier": "default",
        "store": store,
        "temperature": given.get("temperature", 1.0),
        "text": {"format": text_format, "verbosity": text.get("verbosity") or "medium"},
        "tool_choice": given.get("tool_choice", "auto"),
        "tools": tools.shown,
        "top_logprobs": given.get("top_logprobs", 0),
        "top_p": given.get("top_p", 1.0),
        "truncation": given.get("truncation", "disabled"),
        **{name: given.get(name) for name in _ECHOED},
    }
    return ResponseRequest(
        model=given.get("model"),
        items=read_items(given.get("input", []), find),
        instructions=given.get("instructions"),
        previous_response_id=given.get("previous_response_id"),
        tools=tools,
        chat=chat,
        settings=settings,
        stream=given.get("stream", False),
        store=store,
        background=background,
        may_drop=settings["truncation"] == "auto",
        shows_reasoning=not reasoning.get("exclude"),
    )


def _format(given: Mapping[str, Any]) -> dict[str, Any]:
    """What `text.format` says, without nulls."""
    kind = given["type"]
    if kind != "json_schema":
        return {"type": kind}
    for name in ("name", "schema"):
        if given.get(name) is None:
            raise RequestError(f"text.format must have a {name}", f"text.format.{name}")
    names = ("type", "name", "description", "schema", "strict")
    return {name: given[name] for name in names if given.get(name) is not None}


def _response_format(text_format: Mapping[str, Any]) -> dict[str, Any]:
    """The same as Chat Completions have it."""
    kind = text_format["type"]
    rest = {name: value for name, value in text_format.items() if name != "type"}
    return {"type": kind, kind: rest} if rest else {"type": kind}


def _metadata(given: Mapping[str, Any]) -> dict[str, str]:
    if len(given) > _MAX_PAIRS:
        raise RequestError(f"metadata may have {_MAX_PAIRS} pairs, got {len(given)}", "metadata")
    for key, value in given.items():
        if len(key) > _MAX_KEY or not isinstance(value, str) or len(value) > _MAX_VALUE:
            raise RequestError(
                f"metadata: values must be strings of at most {_MAX_VALUE} characters, under names "
                f"of at most {_MAX_KEY}, got {value!r:.100} under {key!r:.100}",
                "metadata",
            )
    return dict(given)
