"""What a message of the model is, told by its header alone; and calls written as text."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gptoss.chat.messages import is_call
from gptoss.harmony import Message, Repair
from gptoss.harmony.recipients import Recipients

Kind = Literal["reasoning", "preamble", "text", "tool_call"]

CHANNEL_OF: dict[Kind, str] = {
    "reasoning": "analysis",
    "preamble": "commentary",
    "text": "final",
}
_KIND_OF = {channel: kind for kind, channel in CHANNEL_OF.items()}

# Words that models put in a channel's place, by what they mean with them.
_MEANING: dict[str, Kind] = {
    **dict.fromkeys(
        ("final", "finale", "answer", "response", "reply", "result", "output", "conclusion"), "text"
    ),
    **dict.fromkeys(
        (
            *("analysis", "analyse", "analyze", "think", "thinking", "thought", "thoughts"),
            *("reason", "reasoning", "plan", "planning", "reflection", "scratchpad"),
        ),
        "reasoning",
    ),
}
_NEAR = 0.8  # of difflib's ratio: one or two letters in a word of the length of "analysis"

# Keys under which models write a call as one JSON object.
_NAME_KEYS = ("name", "recipient_name", "recipient", "tool", "tool_name", "function")
_ARGUMENT_KEYS = ("arguments", "parameters", "args", "input", "tool_input")


@dataclass(frozen=True)
class Reading:
    """How a message is to be read.

    Attributes
    ----------
    kind : str or None
        What it is; None if that depends on what the rest of the turn is.
    is_answer : bool
        With None: whether its channel most likely means the final one.
    misread : str or None
        A channel that the format does not have.
    """

    kind: Kind | None
    is_answer: bool = False
    misread: str | None = None


def read_header(message: Message, repairs: list[Repair]) -> Reading:
    """Tell what a message of the assistant is.

    Parameters
    ----------
    message : Message
        Its header; the content does not matter.
    repairs : list of Repair
        Those of its header.
    """
    if is_call(message):
        return Reading("tool_call")
    channel = message.channel
    is_misspelt = any(repair.kind == "bad_channel" for repair in repairs)
    if channel is None:
        return Reading(None)
    kind = _KIND_OF.get(channel)
    if kind is None:
        kind = _meaning(channel)
        misread = None if is_misspelt else channel
        if kind == "reasoning":
            return Reading(kind, misread=misread)
        return Reading(None, is_answer=kind == "text", misread=misread)
    if not is_misspelt or kind == "reasoning":
        return Reading(kind)
    # "finale" may be an answer, and "commentary?" is nothing to show to the user.
    return Reading(None, is_answer=True) if kind == "text" else Reading("reasoning")


def _meaning(channel: str) -> Kind | None:
    """What a channel that is not of the format most likely means, None if that is not clear."""
    found = set()
    for word in re.findall(r"[a-z]+", channel.lower()):
        near = difflib.get_close_matches(word, _MEANING, n=1, cutoff=_NEAR)
        if near:
            found.add(_MEANING[near[0]])
    return found.pop() if len(found) == 1 else None


def may_be_call(text: str) -> bool:
    """Whether a text, as far as it has come, may be a call that is written as JSON."""
    begun = text.lstrip()
    return not begun or begun.startswith("{")


def call_in_text(text: str, recipients: Recipients) -> tuple[str, str] | None:
    """The recipient and the arguments of a call that is written as a JSON object.

    None if it is no such object, or does not name a declared tool.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict):
        return None
    name = _first(value, _NAME_KEYS)
    recipient = recipients.match(name) if isinstance(name, str) else None
    if recipient is None:
        return None
    arguments = _first(value, _ARGUMENT_KEYS)
    if isinstance(arguments, str):
        return recipient, arguments
    if arguments is None:
        return (recipient, "{}") if len(value) == 1 else None
    return recipient, json.dumps(arguments, ensure_ascii=False)


def _first(value: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    return next((value[key] for key in keys if key in value), None)
