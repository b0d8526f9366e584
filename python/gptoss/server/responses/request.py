"""The body of a POST to /v1/responses, checked, as what `LLM.chat` is asked."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gptoss.engine.sampling import SamplingParams
from gptoss.openai_requests import RequestError
from gptoss.server.responses.input import FindItem, read_items
from gptoss.server.responses.objects import Item, new_id
from gptoss.server.responses.tools import Tools, read_choice, read_tools

INCLUDABLE = (
    *("file_search_call.results", "web_search_call.results", "web_search_call.action.sources"),
    *("message.input_image.image_url", "computer_call_output.output.image_url"),
    *("code_interpreter_call.outputs", "reasoning.encrypted_content"),
    "message.output_text.logprobs",
)
# Fields of `SamplingParams` that are not OpenAI's here.
SAMPLING = (
    *("seed", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"),
    *("min_tokens", "stop", "logit_bias"),
)
# What OpenAI's models know, as the three that gpt-oss was trained with.
EFFORTS = {
    **{"none": "low", "minimal": "low", "low": "low", "medium": "medium", "high": "high"},
    **{"xhigh": "high", "max": "high"},
}
_ECHOED = ("prompt_cache_key", "safety_identifier", "user")
_MAX_METADATA = (16, 64, 512)  # pairs, characters of a key, of a value: OpenAI's own


@dataclass(frozen=True)
class ResponseRequest:
    """What is asked.

    Attributes
    ----------
    response : dict
        The response as it begins.
    items : list of dict
        Of the input.
    instructions : str or None
        For this response alone.
    previous_response_id : str or None
        What it follows on.
    tools : Tools
        Those of the request.
    chat : dict
        Keywords of `LLM.chat`, but for the messages.
    stream, store, background, may_drop, shows_reasoning, has_logprobs : bool
        How to answer; `may_drop` is truncation.
    """

    response: dict[str, Any]
    items: list[Item]
    instructions: str | None
    previous_response_id: str | None
    tools: Tools
    chat: dict[str, Any]
    stream: bool
    store: bool
    background: bool
    may_drop: bool
    shows_reasoning: bool
    has_logprobs: bool


def read_request(
    body: Mapping[str, Any], find: FindItem, *, model: str, hides_reasoning: bool = False
) -> ResponseRequest:
    """Check the body of a request.

    Parameters
    ----------
    body : mapping
        The request; a null is as if the field were not there, and so is a field that is unknown.
    find : callable
        The item of an id that an earlier answer had.
    model : str
        The name under which the model answers.
    hides_reasoning : bool
        Whether reasoning is kept from all who ask.

    Raises
    ------
    RequestError
        A field is wrong, and which.
    """
    given = {name: value for name, value in body.items() if value is not None}
    if "input" not in given and "previous_response_id" not in given:
        raise RequestError("you must provide input or previous_response_id", "input")
    items = read_items(given.get("input", []), find)
    tools = read_tools(given.get("tools"))
    choice, functions = read_choice(given.get("tool_choice"), tools)
    reasoning = _mapping(given, "reasoning")
    effort = _one_of(reasoning, "effort", EFFORTS, "medium", "reasoning.effort")
    exclude = _flag(reasoning, "exclude", False, "reasoning.exclude")
    for name in ("summary", "generate_summary"):
        _one_of(reasoning, name, ("auto", "concise", "detailed"), "auto", f"reasoning.{name}")
    text_format, response_format = _format(_mapping(given, "text"))
    verbosity = _one_of(
        _mapping(given, "text"), "verbosity", ("low", "medium", "high"), "medium", "text.verbosity"
    )
    top_logprobs = _integer(given, "top_logprobs", 0, 20)
    included = _include(given)
    has_logprobs = "message.output_text.logprobs" in included or bool(top_logprobs)
    background = _flag(given, "background", False)
    store = _flag(given, "store", True)
    if background and not store:
        raise RequestError("background needs store: it is asked for later", "background")
    _flag(_mapping(given, "stream_options"), "include_obfuscation", False, "stream_options")
    max_output_tokens = _integer(given, "max_output_tokens", 1)
    max_tool_calls = _integer(given, "max_tool_calls", 0)
    truncation = _one_of(given, "truncation", ("auto", "disabled"), "disabled")
    sampling = _sampling(given, max_output_tokens, (top_logprobs or 0) if has_logprobs else None)
    chat: dict[str, Any] = {"params": sampling, "reasoning_effort": EFFORTS[effort]}
    if "max_reasoning_tokens" in given:
        chat["max_reasoning_tokens"] = _integer(given, "max_reasoning_tokens", 0)
    elif effort == "none" and not functions:
        chat["max_reasoning_tokens"] = 0
    if functions:
        chat |= {"tools": functions, "tool_choice": choice}
    if response_format is not None:
        chat["response_format"] = response_format
    instructions = _text(given, "instructions")
    previous = _text(given, "previous_response_id")
    response = {
        "id": new_id("resp"),
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": background,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "instructions": instructions,
        "max_output_tokens": max_output_tokens,
        "max_tool_calls": max_tool_calls,
        "metadata": _metadata(given),
        "model": model,
        "output": [],
        "parallel_tool_calls": _flag(given, "parallel_tool_calls", True),
        "previous_response_id": previous,
        "reasoning": {"effort": effort, "summary": None},
        "service_tier": "default",
        "store": store,
        "temperature": sampling.temperature,
        "text": {"format": text_format, "verbosity": verbosity},
        "tool_choice": given.get("tool_choice", "auto"),
        "tools": tools.shown,
        "top_logprobs": top_logprobs or 0,
        "top_p": sampling.top_p,
        "truncation": truncation,
        "usage": None,
        **{name: _text(given, name) for name in _ECHOED},
    }
    return ResponseRequest(
        response=response,
        items=items,
        instructions=instructions,
        previous_response_id=previous,
        tools=tools,
        chat=chat,
        stream=_flag(given, "stream", False),
        store=store,
        background=background,
        may_drop=truncation == "auto",
        shows_reasoning=not (exclude or hides_reasoning),
        has_logprobs=has_logprobs,
    )


def _sampling(
    given: Mapping[str, Any], max_tokens: int | None, logprobs: int | None
) -> SamplingParams:
    names = ("temperature", "top_p", *SAMPLING)
    found = {name: given[name] for name in names if name in given}
    try:
        return SamplingParams(max_tokens=max_tokens, logprobs=logprobs, **found)
    except (ValueError, TypeError) as error:
        param = next((name for name in names if str(error).startswith(name)), None)
        raise RequestError(str(error), param) from error


def _format(text: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """What `text.format` says, as the response shows it and as `LLM.chat` takes it."""
    given = _mapping(text, "format", "text.format")
    kind = given.get("type", "text")
    if kind == "text":
        return {"type": "text"}, None
    if kind == "json_object":
        return {"type": kind}, {"type": kind}
    if kind != "json_schema":
        raise RequestError(
            f"text.format: type must be text, json_object or json_schema, got {kind!r:.100}",
            "text.format.type",
        )
    name, schema = given.get("name"), given.get("schema")
    if not isinstance(name, str) or not name:
        raise RequestError(
            f"text.format: name must be a string, got {name!r:.100}", "text.format.name"
        )
    if not isinstance(schema, dict):
        raise RequestError(
            f"text.format: schema must be a JSON schema, got {schema!r:.100}", "text.format.schema"
        )
    found: dict[str, Any] = {"name": name, "schema": schema}
    description = _text(given, "description", "text.format.description")
    if description is not None:
        found["description"] = description
    if "strict" in given and given["strict"] is not None:
        found["strict"] = _flag(given, "strict", False, "text.format.strict")
    return {"type": kind, **found}, {"type": kind, "json_schema": found}


def _include(given: Mapping[str, Any]) -> list[str]:
    """What else the response should have; what only tools that are not served have is not there."""
    include = given.get("include", [])
    if not isinstance(include, list):
        raise RequestError(f"include must be a list, got {include!r:.100}", "include")
    for index, value in enumerate(include):
        if value not in INCLUDABLE:
            raise RequestError(
                f"include may have {', '.join(INCLUDABLE)}, got {value!r:.100}", f"include[{index}]"
            )
    return include


def _metadata(given: Mapping[str, Any]) -> dict[str, str]:
    metadata = _mapping(given, "metadata")
    pairs, key_length, value_length = _MAX_METADATA
    for key, value in metadata.items():
        if not isinstance(value, str) or len(value) > value_length or len(key) > key_length:
            raise RequestError(
                f"metadata: values must be strings of at most {value_length} characters, with keys "
                f"of at most {key_length}, got {value!r:.100} under {key!r:.100}",
                "metadata",
            )
    if len(metadata) > pairs:
        raise RequestError(
            f"metadata has {len(metadata)} pairs, at most {pairs} are kept", "metadata"
        )
    return dict(metadata)


def _mapping(given: Mapping[str, Any], name: str, param: str | None = None) -> Mapping[str, Any]:
    value = given.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        param = param or name
        raise RequestError(f"{param} must be an object, got {value!r:.100}", param)
    return value


def _text(given: Mapping[str, Any], name: str, param: str | None = None) -> str | None:
    value = given.get(name)
    if value is not None and not isinstance(value, str):
        param = param or name
        raise RequestError(f"{param} must be a string, got {value!r:.100}", param)
    return value


def _flag(given: Mapping[str, Any], name: str, default: bool, param: str | None = None) -> bool:
    value = given.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        param = param or name
        raise RequestError(f"{param} must be true or false, got {value!r:.100}", param)
    return value


def _integer(given: Mapping[str, Any], name: str, low: int, high: int = 2**31 - 1) -> int | None:
    value = given.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RequestError(
            f"{name} must be an integer from {low} to {high}, got {value!r:.100}", name
        )
    return value


def _one_of(
    given: Mapping[str, Any], name: str, allowed: Any, default: str, param: str | None = None
) -> str:
    value = given.get(name)
    if value is None:
        return default
    if not isinstance(value, str) or value not in allowed:
        param = param or name
        raise RequestError(
            f"{param} must be one of {', '.join(allowed)}, got {value!r:.100}", param
        )
    return value
