"""What decides on an answer that must follow a schema or a grammar, whatever the model says.

A grammar holds in the final message, or in the arguments of a strict tool's call. Around it the
messages are those of the format and no others, so that nothing is left for lenient reading:
reasoning, and what a model tells the user before a call, are free, and headers are chosen among
those that may stand there. Of headers the model makes the choice; the rest is written for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from gptoss.chat.channels import Kind, read_header
from gptoss.chat.format import Opening, OpeningChoice, ReasoningBudget, end_of_reasoning
from gptoss.chat.messages import Prompt, assistant_start, call_fields, call_header, header
from gptoss.chat.response_format import ResponseFormat
from gptoss.engine.constraints import ConstraintFactory, Decision
from gptoss.harmony import HarmonyEncoding
from gptoss.structured import Grammar, Matcher, lexicon, schema_grammar

_END_OF: dict[Kind, str] = {
    "reasoning": "<|end|>",
    "preamble": "<|end|>",
    "text": "<|return|>",
    "tool_call": "<|call|>",
}


@dataclass(frozen=True)
class Grammars:
    """What parts of an answer must be.

    Attributes
    ----------
    answer : Grammar or None
        The final message.
    calls : dict of str to Grammar
        The arguments of calls, by recipient.
    """

    answer: Grammar | None = None
    calls: dict[str, Grammar] = field(default_factory=dict)


def compile_grammars(
    encoding: HarmonyEncoding, prompt: Prompt, response_format: ResponseFormat | None
) -> Grammars:
    """Compile what an answer may be held to, in milliseconds; the first time in a second.

    Raises
    ------
    ImportError
        llguidance is not installed.
    TypeError, ValueError
        A schema or a grammar cannot be enforced.
    """
    answer = None if response_format is None else response_format.compile(encoding)
    calls = {
        recipient: schema_grammar(encoding, schema, f"tools: the parameters of {recipient}")
        for recipient, schema in prompt.strict.items()
    }
    return Grammars(answer, calls)


def openings_of(
    encoding: HarmonyEncoding, prompt: Prompt, max_reasoning_tokens: int | None
) -> list[list[int]]:
    """How an answer may begin after the start of the assistant's message: one at least."""
    if prompt.openings:
        return prompt.openings
    return [header(encoding, "final") if max_reasoning_tokens == 0 else []]


def constraint_of(
    encoding: HarmonyEncoding,
    prompt: Prompt,
    max_reasoning_tokens: int | None,
    grammars: Grammars,
) -> ConstraintFactory | None:
    """What makes whatever decides on an answer; None if nothing has to.

    Raises
    ------
    ValueError
        The message that is to be continued is none of those that a grammar allows.
    """
    openings = openings_of(encoding, prompt, max_reasoning_tokens)
    if grammars.answer is not None or grammars.calls:
        structure = _Structure(encoding, prompt, grammars, openings, max_reasoning_tokens)
        StructuredAnswer(structure)  # raises what it has to raise before anything is submitted
        return lambda: StructuredAnswer(structure)
    if len(openings) > 1:
        return lambda: OpeningChoice(openings)  # of calls, which no reasoning follows
    if max_reasoning_tokens is None:
        return None
    opening, recipients = openings[0], prompt.declared.recipients

    def budget() -> ReasoningBudget:
        return ReasoningBudget(encoding, opening, recipients, max_reasoning_tokens)

    return None if budget().is_over else budget


@dataclass(frozen=True)
class _Message:
    """A message that the model may begin.

    Attributes
    ----------
    kind : str
        What it is.
    opening : list of int
        Its header after the start of the assistant's message.
    grammar : Grammar or None
        What its content must be.
    content : list of int
        What of that stands in the prompt.
    """

    kind: Kind
    opening: list[int]
    grammar: Grammar | None = None
    content: list[int] = field(default_factory=list)


class _Structure:
    """What the answers to a prompt have in common.

    Attributes
    ----------
    first : list of _Message
        How an answer may begin, if that is decided.
    final : _Message
    """

    def __init__(
        self,
        encoding: HarmonyEncoding,
        prompt: Prompt,
        grammars: Grammars,
        openings: Sequence[Sequence[int]],
        max_reasoning_tokens: int | None,
    ) -> None:
        self.encoding = encoding
        self.lexicon = lexicon(encoding)
        self.max_reasoning_tokens = max_reasoning_tokens
        self.final = _Message("text", header(encoding, "final"), grammars.answer)
        self._reasoning = _Message("reasoning", header(encoding, "analysis"))
        self._preamble = _Message("preamble", header(encoding, "commentary"))
        self._calls = [
            _Message(
                "tool_call",
                call_header(encoding, *call_fields(recipient)),
                grammars.calls.get(recipient),
            )
            for recipient in prompt.callable
        ]
        if prompt.continued:
            self.first = [self._continued(prompt)]
        else:
            known = [self.final, *self._calls]
            self.first = [each for each in known if each.opening in openings]

    def messages(self, *, may_reason: bool, must_call: bool) -> list[_Message]:
        """Those that may come next; after a preamble there must be a call.

        What is told before an answer would be part of it: of its content in the API's own form.
        """
        found = [self._reasoning] if may_reason else []
        if not must_call:
            found.append(self.final)
        return [*found, *([self._preamble] if self._calls else []), *self._calls]

    def _continued(self, prompt: Prompt) -> _Message:
        """The message that stands in the prompt and goes on."""
        kind = read_header(prompt.continued[-1], []).kind
        if kind is None:
            raise ValueError(
                "continue_final_message: with a response_format or strict tools the last message "
                "must be on a channel of the format"
            )
        (opening,) = prompt.openings
        end = opening.index(self.encoding.special_id("<|message|>")) + 1
        grammar = self.final.grammar if kind == "text" else None
        return _Message(kind, opening[:end], grammar, opening[end:])


class StructuredAnswer:
    """Holds an answer to its grammars: a `Constraint` for one answer."""

    def __init__(self, structure: _Structure) -> None:
        self._structure = structure
        self._encoding = structure.encoding
        self._reasoning_left = structure.max_reasoning_tokens
        self._must_call = False
        self._pending: list[int] = []  # that come before the header
        self._message: _Message | None = None  # whose content comes next; None within a header
        self._matcher: Matcher | None = None
        if structure.first:
            self._choose(structure.first)
            self._opening.take_common()  # stands in the prompt
            self._enter_if_chosen()
        else:
            self._choose(self._next_messages())

    def accept(self, token_ids: list[int]) -> Decision:
        """Take them, and decide what is certain to follow."""
        for token in token_ids:
            self._take(token)
        message = self._message
        if message is None:
            forced = [*self._pending, *self._opening.take_common()]
            self._pending = []
            self._enter_if_chosen()
            return Decision(forced, counted=False)
        if message.kind == "reasoning" and self._reasoning_left == 0:
            self._enter(self._structure.final)
            return Decision(end_of_reasoning(self._encoding), counted=False)
        if self._matcher is None:
            return Decision()
        forced = self._matcher.forced()
        if self._matcher.is_over:
            forced.append(self._end)
        return Decision(forced)

    def fill(self, mask: npt.NDArray[np.uint32]) -> None:
        """Allow what may come next of a header, of text, or of a text that follows a grammar."""
        if self._message is None:
            mask[:] = 0
            _allow(mask, *self._opening.allowed)
            return
        lexicon = self._structure.lexicon
        row = lexicon.text
        is_end = True
        if self._matcher is not None:
            row = np.empty(lexicon.words, np.uint32)
            self._matcher.fill(row)
            is_end = self._matcher.is_complete
            if not is_end and not row.any():
                raise ValueError(f"{self._matcher.where}: nothing that is valid can follow")
        words = min(len(mask), len(row))
        mask[:words] = row[:words]
        mask[words:] = 0
        if is_end:
            _allow(mask, self._end)

    @property
    def _end(self) -> int:
        """The token that ends the message."""
        assert self._message is not None
        return self._encoding.special_id(_END_OF[self._message.kind])

    def _take(self, token: int) -> None:
        message = self._message
        if message is None:
            self._opening.take(token)
        elif token != self._end:
            if self._matcher is not None:
                self._matcher.take([token])
            if message.kind == "reasoning" and self._reasoning_left is not None:
                self._reasoning_left -= 1
        elif message.kind in ("reasoning", "preamble"):
            self._must_call |= message.kind == "preamble"
            self._pending = assistant_start(self._encoding)
            self._choose(self._next_messages())

    def _next_messages(self) -> list[_Message]:
        may_reason = self._reasoning_left is None or self._reasoning_left > 0
        return self._structure.messages(may_reason=may_reason, must_call=self._must_call)

    def _choose(self, messages: Iterable[_Message]) -> None:
        self._message = self._matcher = None
        self._choices = {tuple(message.opening): message for message in messages}
        self._opening = Opening(list(self._choices))

    def _enter_if_chosen(self) -> None:
        if not self._opening.allowed:
            self._enter(self._choices[tuple(self._opening.chosen)])

    def _enter(self, message: _Message) -> None:
        """Begin the content of a message."""
        self._message = message
        self._matcher = None if message.grammar is None else message.grammar.matcher()
        if self._matcher is not None and message.content:
            self._matcher.take(message.content)


def _allow(mask: npt.NDArray[np.uint32], *token_ids: int) -> None:
    for token in token_ids:
        mask[token // 32] |= np.uint32(1 << token % 32)
