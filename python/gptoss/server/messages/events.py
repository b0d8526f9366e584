"""An answer's deltas as the events, and as the message, of Anthropic's API."""

from __future__ import annotations

import json
import secrets
from typing import Any

from gptoss.chat.openai import SEPARATOR
from gptoss.chat.result import ChatDelta
from gptoss.engine.outputs import Usage

Event = dict[str, Any]

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


class MessageWriter:
    """Writes the events of one message: `begin`, then `take` for each delta.

    Attributes
    ----------
    message : dict
        As it is now.
    """

    def __init__(self, model: str, *, shows_thinking: bool) -> None:
        self.message: dict[str, Any] = {
            "id": f"msg_{secrets.token_hex(12)}",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage(Usage(0, 0)),
        }
        self._shows_thinking = shows_thinking
        self._open: tuple[str, int] | None = None
        self._pieces: list[str] = []
        self._seen: set[tuple[str, int]] = set()

    def begin(self) -> list[Event]:
        """The message is on its way; its prompt is counted at the end."""
        return [{"type": "message_start", "message": {**self.message, "content": []}}]

    def take(self, delta: ChatDelta) -> list[Event]:
        """More of the answer, or its end."""
        if delta.kind == "end":
            assert delta.usage is not None
            self.message["stop_reason"] = _STOP_REASONS[delta.finish_reason or "stop"]
            self.message["usage"] = _usage(delta.usage)
            changes = {"stop_reason": self.message["stop_reason"], "stop_sequence": None}
            return [
                *self._close(),
                {"type": "message_delta", "delta": changes, "usage": self.message["usage"]},
                {"type": "message_stop"},
            ]
        if delta.kind == "reasoning" and not self._shows_thinking:
            return []
        call = delta.tool_call
        kind = {"reasoning": "thinking", "tool_call": "tool_use"}.get(delta.kind, "text")
        key = delta.kind, -1 if call is None else call.index
        piece = delta.reasoning or delta.preamble or delta.text
        events: list[Event] = []
        if self._open != key:
            if key in self._seen:  # texts of one kind are one text there, and blocks here
                piece = piece.removeprefix(SEPARATOR)
            self._seen.add(key)
            events = self._close()
            self._open = key
            block: dict[str, Any] = {"type": kind, "text": ""}
            if kind == "thinking":
                block = {"type": kind, "thinking": "", "signature": ""}
            elif call is not None:
                block = {"type": kind, "id": call.id, "name": call.name, "input": {}}
            self.message["content"].append(block)
            events.append(self._event("content_block_start", content_block=dict(block)))
        changed = {"type": f"{kind}_delta", kind: piece}
        if call is not None:
            piece = call.arguments
            changed = {"type": "input_json_delta", "partial_json": piece}
        if not piece:
            return events
        self._pieces.append(piece)
        return [*events, self._event("content_block_delta", delta=changed)]

    def _close(self) -> list[Event]:
        if self._open is None:
            return []
        block, text = self.message["content"][-1], "".join(self._pieces)
        if block["type"] == "tool_use":
            block["input"] = _input(text)
        else:
            block[block["type"]] = text
        self._open, self._pieces = None, []
        return [self._event("content_block_stop")]

    def _event(self, kind: str, **fields: Any) -> Event:
        return {"type": kind, "index": len(self.message["content"]) - 1, **fields}


def _input(arguments: str) -> dict[str, Any]:
    """What a tool is called with: an object, also where the model wrote something else."""
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"arguments": arguments}


def _usage(usage: Usage) -> dict[str, int]:
    """Token counts; the prompt's are those that were not in the cache."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "output_tokens": usage.completion_tokens,
    }
