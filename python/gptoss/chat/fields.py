"""Which keys the objects of a chat may have: what is not understood is never ignored in silence."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

# Other names of one thing: in MCP, Anthropic's API, the AI SDK and OpenAI's other API.
SCHEMA = ("parameters", "inputSchema", "input_schema")
CALL_ID = ("id", "call_id")
ANSWERED_ID = ("tool_call_id", "call_id", "tool_use_id", "toolCallId")

# What is understood. An object's other keys are an error, unless they say nothing at all (None,
# False, empty), or nothing to the model.
_KNOWN: dict[str, tuple[str, ...]] = {
    "system message": ("role", "content", "name"),
    "user message": ("role", "content", "name"),
    "assistant message": (
        *("role", "content", "tool_calls", "reasoning", "reasoning_content", "thinking"),
        *("reasoning_details", "thinking_blocks", "refusal", "function_call", "preamble", "name"),
    ),
    "tool message": ("role", "content", *ANSWERED_ID, "name", "tool_name"),
    "Harmony message": ("role", "name", "content", "channel", "recipient", "content_type"),
    "content part": ("type", "text", "refusal", "thinking", "reasoning", "summary"),
    "reasoning detail": ("type", "text", "summary"),
    "tool call": (*CALL_ID, "type", "function", "recipient"),
    "called function": ("name", "arguments"),
    "tool": ("type", "function", "name", "description", "strict", *SCHEMA),
    "function": ("name", "description", "strict", *SCHEMA),
    "tool choice": ("type", "function", "name"),
    "response format": ("type", "json_schema", "pattern", "syntax", "definition"),
    "json_schema": ("name", "description", "schema", "strict"),
}

# What clients put into any of them for themselves: who and when, and how to store or bill it.
_MEANINGLESS = re.compile(
    r"id|\w+_id|\w+Id|uuid|index|key|object|version|status|model|_\w*|x[-_][\w-]*"
    r"|user|username|user_name|sender|author|session|thread|trace|done|feedback|rating"
    r"|timestamp|time|date|created|updated|\w+_(?:at|ts)|\w+At|duration|cost|tokens|token_count"
    r"|cache[\w-]*|annotations|citations|logprobs|usage|(?:native_)?finish_reason|stop_reason"
    r"|extra_content|weight|parsed"
    r"|\w*[mM]etadata|meta|provider_?\w*|providerOptions|client\w*|source|tags|signature|format"
    r"|strict|title|icons|output_?[sS]chema|execution"
)


def as_mapping(value: Any) -> Mapping[str, Any] | None:
    """A dict, or an object of this package, of openai's or of openai-harmony's as one."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, type):
        return None
    for method in ("to_openai", "to_dict", "model_dump"):
        if callable(getattr(value, method, None)):
            found = getattr(value, method)()
            return found if isinstance(found, Mapping) else None
    return None


def read_fields(value: Any, kind: str, where: str) -> dict[str, Any]:
    """The fields of an object that are understood, without those that are None.

    Parameters
    ----------
    value : mapping or object
    kind : str
        What it is, one of the keys of the table above.
    where : str
        What errors call it.

    Raises
    ------
    ValueError
        It is no such object, or has a key that would have to be ignored.
    """
    mapping = as_mapping(value)
    if mapping is None:
        raise ValueError(f"{where}: must be a dict or an object that has one, got {value!r:.100}")
    known = _KNOWN[kind]
    for key, item in mapping.items():
        if key not in known and not _says_nothing(key, item):
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            article = "an" if kind[0] in "aeio" else "a"
            raise ValueError(
                f"{where}: {article} {kind} has a key that is not understood, {key!r:.50}{hint}; "
                f"it may have {', '.join(known)}"
            )
    return {key: mapping[key] for key in known if mapping.get(key) is not None}


def one_of(fields: Mapping[str, Any], names: Sequence[str], where: str) -> Any:
    """The value that stands under one of several names, None if there is none.

    Raises
    ------
    ValueError
        Two of them say different things.
    """
    found = [name for name in names if name in fields]
    for name in found[1:]:
        if fields[name] != fields[found[0]]:
            raise ValueError(f"{where}: {found[0]} and {name} are different: pass one of them")
    return fields[found[0]] if found else None


def _says_nothing(key: Any, value: Any) -> bool:
    if value is None or value is False or (hasattr(value, "__len__") and len(value) == 0):
        return True
    if key == "type" and value == "message":  # as OpenAI's other API and Anthropic's say
        return True
    return isinstance(key, str) and _MEANINGLESS.fullmatch(key) is not None
