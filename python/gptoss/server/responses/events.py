"""An answer's deltas as the typed events of a streamed response, in their exact order."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from gptoss.chat.openai import SEPARATOR
from gptoss.chat.result import ChatDelta, DeltaKind
from gptoss.server.responses.objects import (
    Item,
    call_item,
    message_item,
    new_id,
    output_text,
    reasoning_item,
    reasoning_text,
    usage_object,
)
from gptoss.server.responses.tools import Tools

Event: TypeAlias = dict[str, Any]

_PREFIX = {"reasoning": "rs", "preamble": "msg", "text": "msg", "tool_call": "fc"}
_PHASE = {"preamble": "commentary", "text": "final_answer"}
_TERMINAL = ("completed", "incomplete", "failed", "cancelled")


@dataclass
class _Open:
    """The item that is being written.

    Attributes
    ----------
    kind, call_index
        Which deltas are its own.
    index : int or None
        Its place in the output; None if it is not shown.
    pieces : list of str
        Its text, or the arguments of the call.
    """

    kind: DeltaKind
    call_index: int
    item_id: str
    index: int | None
    call_id: str = ""
    namespace: str | None = None
    name: str = ""
    pieces: list[str] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)

    def part(self, *, is_empty: bool = False) -> Item:
        text = "" if is_empty else "".join(self.pieces)
        if self.kind == "reasoning":
            return reasoning_text(text)
        return output_text(text, () if is_empty else self.logprobs)

    def item(self, status: str, *, is_empty: bool = False) -> Item:
        if self.kind == "tool_call":
            arguments = "" if is_empty else "".join(self.pieces)
            return call_item(
                self.item_id, status, self.call_id, self.namespace, self.name, arguments
            )
        content = [] if is_empty else [self.part()]
        if self.kind == "reasoning":
            return reasoning_item(self.item_id, status, content)
        return message_item(self.item_id, status, _PHASE[self.kind], content)


class EventWriter:
    """Writes the events of one response: `begin`, `take` each delta, and once one of the ends.

    Parameters
    ----------
    response : dict
        The response as it begins, with its settings; it becomes the writer's own.
    tools : Tools
        Under which names functions were declared.
    shows_reasoning : bool
        False: reasoning has no events and is not in the output, only in `items`.
    has_logprobs : bool
        Whether to show the log-probabilities of a text's tokens.

    Attributes
    ----------
    response : dict
        As it is now.
    items : list of dict
        All that is complete, with reasoning in any case: what the next turn's prompt is made of.
    """

    def __init__(
        self,
        response: dict[str, Any],
        tools: Tools,
        *,
        shows_reasoning: bool = True,
        has_logprobs: bool = False,
    ) -> None:
        self.response = response
        self.items: list[Item] = []
        self._tools = tools
        self._shows_reasoning = shows_reasoning
        self._has_logprobs = has_logprobs
        self._output: list[Item] = []
        self._open: _Open | None = None
        self._seen: set[str] = set()
        self._count = 0

    @property
    def has_ended(self) -> bool:
        """Whether the last event was written."""
        return self.response["status"] in _TERMINAL

    def queue(self) -> list[Event]:
        """The response waits for its turn."""
        self.response["status"] = "queued"
        return [self._snapshot("created"), self._snapshot("queued")]

    def begin(self) -> list[Event]:
        """The response is on its way."""
        self.response["status"] = "in_progress"
        kinds = ["in_progress"] if self._count else ["created", "in_progress"]
        return [self._snapshot(kind) for kind in kinds]

    def take(self, delta: ChatDelta) -> list[Event]:
        """More of the answer; none for what is not shown, and for the end, which has its own."""
        if delta.kind == "end":
            return []
        call_index = delta.tool_call.index if delta.tool_call is not None else -1
        events: list[Event] = []
        if self._open is None or (self._open.kind, self._open.call_index) != (
            delta.kind,
            call_index,
        ):
            events = [*self._close("completed"), *self._begin(delta, call_index)]
        return [*events, *self._more(delta)]

    def end(self, delta: ChatDelta) -> list[Event]:
        """The answer is over; `delta` is its last one, of kind "end"."""
        is_cut = delta.finish_reason == "length"
        events = self._close("incomplete" if is_cut else "completed")
        if not is_cut and not any(item["type"] != "reasoning" for item in self.items):
            # An answer, if an empty one: without any the next turn would not follow on one.
            events += [*self._begin(ChatDelta("text"), -1), *self._close("completed")]
        assert delta.usage is not None
        self.response["usage"] = usage_object(delta.usage)
        if is_cut:
            self.response["incomplete_details"] = {"reason": "max_output_tokens"}
        else:
            self.response["completed_at"] = int(time.time())
        return [*events, self._last("incomplete" if is_cut else "completed")]

    def fail(self, message: str, code: str = "server_error") -> list[Event]:
        """The answer breaks off."""
        events = self._close("incomplete")
        self.response["error"] = {"code": code, "message": message}
        return [*events, self._last("failed")]

    def cancel(self) -> list[Event]:
        """Somebody has cancelled it."""
        events = self._close("incomplete")
        return [*events, self._last("cancelled")]

    # -- items ---------------------------------------------------------------------------

    def _begin(self, delta: ChatDelta, call_index: int) -> list[Event]:
        is_shown = delta.kind != "reasoning" or self._shows_reasoning
        index = len(self._output) if is_shown else None
        opened = _Open(delta.kind, call_index, new_id(_PREFIX[delta.kind]), index)
        if delta.tool_call is not None:
            opened.call_id = delta.tool_call.id or new_id("call")
            name = delta.tool_call.name or ""
            opened.namespace, opened.name = self._tools.original_name(name)
        self._open = opened
        if not is_shown:
            return []
        item = opened.item("in_progress", is_empty=True)
        events = [self._event("output_item.added", output_index=index, item=item)]
        if opened.kind != "tool_call":
            events.append(self._of_part("content_part.added", part=opened.part(is_empty=True)))
        return events

    def _more(self, delta: ChatDelta) -> list[Event]:
        opened = self._open
        assert opened is not None
        if delta.tool_call is not None:
            text = delta.tool_call.arguments
        else:
            text = {"reasoning": delta.reasoning, "preamble": delta.preamble}.get(
                delta.kind, delta.text
            )
            # Texts of one kind are one text there, and items of their own here.
            if not opened.pieces and opened.kind in self._seen:
                text = text.removeprefix(SEPARATOR)
            self._seen.add(opened.kind)
        if not text:
            return []
        opened.pieces.append(text)
        if opened.index is None:
            return []
        if opened.kind == "tool_call":
            return [self._of_item("function_call_arguments.delta", delta=text)]
        if opened.kind == "reasoning":
            return [self._of_part("reasoning_text.delta", delta=text)]
        logprobs = self._logprobs(delta)
        opened.logprobs += logprobs
        return [self._of_part("output_text.delta", delta=text, logprobs=logprobs)]

    def _close(self, status: str) -> list[Event]:
        opened = self._open
        if opened is None:
            return []
        item = opened.item(status)
        events: list[Event] = []
        if opened.index is not None:
            text = "".join(opened.pieces)
            if opened.kind == "tool_call":
                events.append(
                    self._of_item("function_call_arguments.done", arguments=text, name=opened.name)
                )
            else:
                if opened.kind == "reasoning":
                    events.append(self._of_part("reasoning_text.done", text=text))
                else:
                    logprobs = list(opened.logprobs)
                    events.append(self._of_part("output_text.done", text=text, logprobs=logprobs))
                events.append(self._of_part("content_part.done", part=opened.part()))
            events.append(self._event("output_item.done", output_index=opened.index, item=item))
            self._output.append(item)
        self.items.append(item)
        self._open = None
        return events

    def _logprobs(self, delta: ChatDelta) -> list[Any]:
        if not self._has_logprobs:
            return []
        (choice,) = delta.to_openai()["choices"]
        entries = (choice["logprobs"] or {}).get("content") or []
        return [
            {**_with_bytes(entry), "top_logprobs": list(map(_with_bytes, entry["top_logprobs"]))}
            for entry in entries
        ]

    # -- events --------------------------------------------------------------------------

    def _event(self, kind: str, **fields: Any) -> Event:
        event = {"type": f"response.{kind}", "sequence_number": self._count, **fields}
        self._count += 1
        return event

    def _of_item(self, kind: str, **fields: Any) -> Event:
        opened = self._open
        assert opened is not None
        return self._event(kind, item_id=opened.item_id, output_index=opened.index, **fields)

    def _of_part(self, kind: str, **fields: Any) -> Event:
        return self._of_item(kind, content_index=0, **fields)

    def _snapshot(self, kind: str) -> Event:
        self.response["output"] = list(self._output)
        return self._event(kind, response=dict(self.response))

    def _last(self, status: str) -> Event:
        self.response["status"] = status
        # There is no event for what was cancelled: it is not complete.
        return self._snapshot("incomplete" if status == "cancelled" else status)


def _with_bytes(entry: dict[str, Any]) -> dict[str, Any]:
    return {**entry, "bytes": entry["bytes"] or []}
