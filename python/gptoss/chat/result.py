"""What a chat returns."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from gptoss.chat import openai
from gptoss.chat.messages import ChatMessage
from gptoss.engine.outputs import Timings, TokenLogprob, Usage
from gptoss.harmony import Message, Repair
from gptoss.harmony.recipients import FUNCTIONS

ChatFinishReason = Literal["stop", "length", "tool_calls"]
DeltaKind = Literal["reasoning", "preamble", "text", "tool_call", "end"]


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
        What the model wrote, as it is. For the built-in `python` it is code.
    builtin : bool
        Whether it goes to a built-in tool that was declared: `python` may be one, and may be the
        name of a function.
    """

    id: str
    recipient: str
    arguments: str
    builtin: bool = False

    @property
    def name(self) -> str:
        """The function's name; of any other recipient, all of it."""
        return self.recipient.removeprefix(FUNCTIONS) or self.recipient

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
        """Whether the arguments are a JSON object, or code for the built-in `python`."""
        is_code = self.builtin and self.recipient == "python"
        return is_code or self.parsed_arguments is not None

    def to_openai(self) -> dict[str, Any]:
        """The call as it stands in an assistant's message."""
        return openai.call_dict(self.id, self.recipient, self.name, self.arguments)


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
    index : int
        Which of the `n` answers it belongs to, counted from 0; each has its own end.
    logprobs : list of TokenLogprob or None
        Those of the tokens whose text begins in it, if they were asked for.
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
    _logprobs: list[Any] | None = field(default=None, repr=False)
    _total: Usage | None = field(default=None, repr=False)
    index: int = 0
    logprobs: list[TokenLogprob] | None = field(default=None, repr=False)

    def to_openai(self) -> dict[str, Any]:
        """The dict that the openai package's ChatCompletionChunk parses.

        Preamble and text are both its content, and reasoning has a field of its own. With
        `logprobs` a piece of content has those of its tokens. The very last one has the usage, of
        all `n` answers together.
        """
        choice = openai.chunk_choice(self.index, self._openai, self.finish_reason, self._logprobs)
        return openai.chunk_dict(self._head, choice, self._total)

    def joined(self, more: ChatDelta) -> ChatDelta | None:
        """This delta and the next one as one; None unless they are pieces of the same text."""
        call, rest = self.tool_call, more.tool_call
        if (self.kind, self.index) != (more.kind, more.index) or self.kind == "end":
            return None
        if call is not None and rest is not None:
            if rest.id is not None or rest.index != call.index:
                return None
            call = dataclasses.replace(call, arguments=call.arguments + rest.arguments)
        return dataclasses.replace(
            self,
            text=self.text + more.text,
            reasoning=self.reasoning + more.reasoning,
            preamble=self.preamble + more.preamble,
            tool_call=call,
            logprobs=_joined(self.logprobs, more.logprobs),
            _openai=openai.joined_delta(self._openai, more._openai),
            _logprobs=_joined(self._logprobs, more._logprobs),
        )


@dataclass(frozen=True)
class ChatResult:
    """A finished answer.

    Attributes
    ----------
    text : str
        The answer: what the model wrote on the final channel. In a turn without any, and without
        a call, what stands last on a channel that is misspelt or missing is taken for it.
    reasoning : str
        What it wrote on the analysis channel, and on what is no channel of the format.
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
        The messages of the answer, one by one, as they were read; without a call that is not
        complete.
    message : dict
        The assistant's message, to be appended for the next turn; with `continue_final_message`
        it takes the place of the one that was continued.
    messages : list
        The conversation with the answer: what to append the next turn to.
    other_samples : tuple of ChatResult
        With `SamplingParams.n` above 1 this is the first answer, and these are the others.
    reasoning_logprobs : list of TokenLogprob or None
        Those of the tokens of `reasoning`, without markup, if asked for; deltas of the kind
        "reasoning" have them as they come.
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
    message: dict[str, Any]
    _head: dict[str, Any] = field(repr=False)
    _content: str = field(repr=False)
    _content_logprobs: list[Any] | None = field(repr=False)
    other_samples: tuple[ChatResult, ...] = ()
    reasoning_logprobs: list[TokenLogprob] | None = None

    @property
    def samples(self) -> list[ChatResult]:
        """All `n` answers, each with its own usage and timings; this one comes first."""
        return [self, *self.other_samples]

    @property
    def total_usage(self) -> Usage:
        """The usage of all `n` answers, whose prompt is counted once, as OpenAI's API does."""
        return Usage(
            self.usage.prompt_tokens,
            sum(sample.usage.completion_tokens for sample in self.samples),
            sum(sample.usage.reasoning_tokens for sample in self.samples),
            self.usage.cached_tokens,
        )

    def to_openai(self) -> dict[str, Any]:
        """The dict that the openai package's ChatCompletion parses.

        Preamble and text are both its content, and reasoning has a field of its own. Its
        log-probabilities, if they were asked for, are those of the content's tokens. Each of the
        `n` answers is a choice.
        """
        choices = [sample._choice(index) for index, sample in enumerate(self.samples)]
        return openai.completion_dict(self._head, choices, self.total_usage)

    def _choice(self, index: int) -> dict[str, Any]:
        calls = [call.to_openai() for call in self.tool_calls]
        message = openai.message_dict(self._content, self.reasoning, "", calls)
        return openai.choice_dict(index, message, self.finish_reason, self._content_logprobs)


def _joined(first: list[Any] | None, more: list[Any] | None) -> list[Any] | None:
    return first if more is None else [*(first or ()), *more]


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
