"""The dicts of the OpenAI chat API; nothing here looks at the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gptoss.engine.outputs import TokenLogprob, Usage
from gptoss.harmony import HarmonyEncoding
from gptoss.harmony.recipients import FUNCTIONS, is_trained

# Between two messages of the model that become one text.
SEPARATOR = "\n\n"

# JSON has no infinity; this is what the API itself reports for a token that is all but impossible.
_LEAST_LOGPROB = -9999.0


def call_dict(call_id: str, recipient: str, name: str, arguments: str) -> dict[str, Any]:
    """A call as it stands in an assistant's message.

    A recipient that its name alone does not tell stands there too, so that in the next prompt the
    built-in `python` and a function of that name are still two.
    """
    function = {"name": name, "arguments": arguments}
    call: dict[str, Any] = {"id": call_id, "type": "function", "function": function}
    if recipient != FUNCTIONS + name or is_trained(name):
        call["recipient"] = recipient
    return call


def message_dict(
    text: str, reasoning: str, preamble: str, tool_calls: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """An assistant's message; a preamble without text is its content if a call follows."""
    message: dict[str, Any] = {"role": "assistant", "content": text or None}
    if preamble and tool_calls and not text:
        message["content"] = preamble
    elif preamble:
        message["preamble"] = preamble
    if reasoning:
        message["reasoning"] = reasoning
    if tool_calls:
        message["tool_calls"] = list(tool_calls)
    if len(message) == 2 and not text:
        message["content"] = ""  # an answer, if an empty one: None alone is no message
    return message


def usage_dict(usage: Usage) -> dict[str, Any]:
    """Token counts under OpenAI's names."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def logprob_dicts(encoding: HarmonyEncoding, entries: Sequence[TokenLogprob]) -> list[Any]:
    """Log-probabilities of tokens, each with its text and bytes."""
    return [
        {
            **_logprob(encoding, entry.token_id, entry.logprob),
            "top_logprobs": [
                _logprob(encoding, top.token_id, top.logprob) for top in entry.top_logprobs
            ],
        }
        for entry in entries
    ]


def _logprob(encoding: HarmonyEncoding, token_id: int, logprob: float) -> dict[str, Any]:
    piece = encoding.piece(token_id)
    return {
        "token": "" if piece is None else piece.decode(errors="replace"),
        "bytes": None if piece is None else list(piece),
        "logprob": max(logprob, _LEAST_LOGPROB),
    }


class DeltaWriter:
    """Writes the deltas of one answer: the first has the role, and content is one text."""

    def __init__(self) -> None:
        self._has_begun = False
        self._shown: set[str] = set()

    def text(self, field: str, text: str, *, is_first: bool) -> dict[str, Any]:
        """More of the content or the reasoning; `is_first` at the beginning of a message."""
        if is_first and field in self._shown:
            text = SEPARATOR + text
        self._shown.add(field)
        return self._begun({field: text})

    def call(self, index: int, call: Mapping[str, Any] | None, arguments: str) -> dict[str, Any]:
        """The beginning of a call, or more of its arguments."""
        piece = {"function": {"arguments": arguments}} if call is None else call
        return self._begun({"tool_calls": [{"index": index, **piece}]})

    def end(self) -> dict[str, Any]:
        """The last one."""
        return self._begun({})

    def _begun(self, delta: dict[str, Any]) -> dict[str, Any]:
        if not self._has_begun:
            delta = {"role": "assistant", **delta}
        self._has_begun = True
        return delta


def joined_delta(delta: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Two pieces of the same text, or of the arguments of the same call, as one."""
    found = dict(delta)
    for field in ("content", "reasoning"):
        if field in more:
            found[field] = found[field] + more[field]
    if "tool_calls" in more:
        (call,), (rest,) = found["tool_calls"], more["tool_calls"]
        function = dict(call["function"])
        function["arguments"] += rest["function"]["arguments"]
        found["tool_calls"] = [{**call, "function": function}]
    return found


def chunk_choice(
    index: int, delta: Mapping[str, Any], finish_reason: str | None, logprobs: list[Any] | None
) -> dict[str, Any]:
    """More of one of the answers."""
    return {
        "index": index,
        "delta": dict(delta),
        "finish_reason": finish_reason,
        "logprobs": _content_logprobs(logprobs),
    }


def chunk_dict(
    head: Mapping[str, Any], choice: Mapping[str, Any], usage: Usage | None
) -> dict[str, Any]:
    """What the openai package's ChatCompletionChunk parses."""
    chunk = {**head, "object": "chat.completion.chunk", "choices": [dict(choice)]}
    if usage is not None:
        chunk["usage"] = usage_dict(usage)
    return chunk


def choice_dict(
    index: int, message: Mapping[str, Any], finish_reason: str, logprobs: list[Any] | None
) -> dict[str, Any]:
    """One of the answers."""
    return {
        "index": index,
        "message": dict(message),
        "finish_reason": finish_reason,
        "logprobs": _content_logprobs(logprobs),
    }


def completion_dict(
    head: Mapping[str, Any], choices: Sequence[Mapping[str, Any]], usage: Usage
) -> dict[str, Any]:
    """What the openai package's ChatCompletion parses."""
    return {
        **head,
        "object": "chat.completion",
        "choices": list(choices),
        "usage": usage_dict(usage),
    }


def _content_logprobs(logprobs: list[Any] | None) -> dict[str, Any] | None:
    return None if logprobs is None else {"content": logprobs, "refusal": None}
