"""What a chat returns."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from gptoss.chat.messages import ChatMessage, tool_name
from gptoss.engine.outputs import Timings, TokenLogprob, Usage
from gptoss.harmony import Message, Repair

ChatFinishReason = Literal["stop", "length", "tool_calls"]
DeltaKind = Literal["reasoning", "preamble", "text", "tool_call", "end"]

# Between two messages of the model that become one text.
SEPARATOR = "\n\n"


@dataclass(frozen=True)
class ToolCall:
    """A tool that the model wants called.

    Attributes
    ----------
    id : str
        What the answer's `tool_call_id` must be; drawn at random.
    recipient : str
        To whom the model wrote: "functions.NAME", "python", "browser.search", ...
    arguments : str
        What the model wrote, as it is. For `python` it is code.
    """

    id: str
    recipient: str
    arguments: str

    @property
    def name(self) -> str:
        """The function's name; of any other recipient, all of it."""
        return tool_name(self.recipient)

    @property
    def parsed_arguments(self) -> dict[str, Any] | None:
        """The arguments as a dict, None if they are no JSON object."""
        try:
            value = json.loads(self.arguments, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None

    @property
    def arguments_valid(self) -> bool:
        """Whether the arguments are a JSON object, or code for `python`."""
        return self.recipient == "python" or self.parsed_arguments is not None

    def to_openai(self) -> dict[str, Any]:
        """The call as it stands in an assistant's message."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}


@dataclass(frozen=True)
class ToolCallDelta:
    """A piece of a tool call.

    Attributes
    ----------
    index : int
        Which call of the answer it is.
    id, name : str or None
        Set on a call's first piece.
    arguments : str
        More of the arguments.
    """

    index: int
    id: str | None
    name: str | None
    arguments: str


@dataclass(frozen=True)
class ChatDelta:
    """What came next in an answer; one of its texts is set, according to `kind`.

    Attributes
    ----------
    kind : {"reasoning", "preamble", "text", "tool_call", "end"}
        What this is.
    text, reasoning, preamble : str
        More of the answer, of the model's reasoning, of what it tells the user before a call.
    tool_call : ToolCallDelta or None
        The beginning of a call, or more of its arguments.
    finish_reason, usage
        Set on the last one, of kind "end", as in `ChatResult`.
    """

    kind: DeltaKind
    text: str = ""
    reasoning: str = ""
    preamble: str = ""
    tool_call: ToolCallDelta | None = None
    finish_reason: ChatFinishReason | None = None
    usage: Usage | None = None
    _head: dict[str, Any] = field(default_factory=dict, repr=False)
    _openai: dict[str, Any] = field(default_factory=dict, repr=False)

    def to_openai(self) -> dict[str, Any]:
        """The dict that the openai package's ChatCompletionChunk parses.

        Preamble and text are both its content, and reasoning has a field of its own.
        """
        choice = {
            "index": 0,
            "delta": dict(self._openai),
            "finish_reason": self.finish_reason,
            "logprobs": None,
        }
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": [choice]}
        if self.usage is not None:
            chunk["usage"] = openai_usage(self.usage)
        return chunk


@dataclass(frozen=True)
class ChatResult:
    """A finished answer.

    Attributes
    ----------
    text : str
        The answer: what the model wrote on the final channel.
    reasoning : str
        What it wrote on the analysis channel.
    preamble : str
        What it told the user on the commentary channel, before a call.
    tool_calls : list of ToolCall
        At most one: the format has no parallel calls.
    finish_reason : {"stop", "length", "tool_calls"}
        "length": the text, or the call's arguments, are not complete.
    usage : Usage
        `prompt_tokens` of the conversation with what was opened for the model;
        `completion_tokens` that the model made, and those of them that are reasoning.
    timings : Timings
        Speed.
    token_ids, prompt_token_ids : list of int
        The prompt, and all that followed it; see `LLM.chat` for tokens that are not the model's.
    logprobs : list of TokenLogprob or None
        One entry for each of `token_ids`, if asked for; 0 for tokens that are not the model's.
    repairs : list of Repair
        What was not well-formed in the model's output, and how it was read.
    harmony_messages : list of Message
        The messages of the answer, one by one, but for a call that is not complete.
    messages : list
        The conversation with the answer: what to append the next turn to.
    """

    text: str
    reasoning: str
    preamble: str
    tool_calls: list[ToolCall]
    finish_reason: ChatFinishReason
    usage: Usage
    timings: Timings
    token_ids: list[int]
    prompt_token_ids: list[int]
    logprobs: list[TokenLogprob] | None
    repairs: list[Repair]
    harmony_messages: list[Message]
    messages: list[ChatMessage]
    _head: dict[str, Any] = field(repr=False)
    _content: str = field(repr=False)

    @property
    def message(self) -> dict[str, Any]:
        """The assistant's message, to be appended for the next turn."""
        return openai_message(
            self.text,
            self.reasoning,
            self.preamble,
            self.tool_calls if self.finish_reason == "tool_calls" else [],
        )

    def to_openai(self) -> dict[str, Any]:
        """The dict that the openai package's ChatCompletion parses.

        Preamble and text are both its content, and reasoning has a field of its own.
        """
        choice = {
            "index": 0,
            "message": openai_message(self._content, self.reasoning, "", self.tool_calls),
            "finish_reason": self.finish_reason,
            "logprobs": None,
        }
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [choice],
            "usage": openai_usage(self.usage),
        }


def openai_message(
    text: str, reasoning: str, preamble: str, tool_calls: list[ToolCall]
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
        message["tool_calls"] = [call.to_openai() for call in tool_calls]
    return message


def openai_usage(usage: Usage) -> dict[str, Any]:
    """Token counts under OpenAI's names."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
