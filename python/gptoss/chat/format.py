"""What the format decides on in an answer: how it begins, and when its reasoning ends.

The engine asks for it while it generates, so that an answer is one request.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gptoss.chat.channels import read_header
from gptoss.chat.messages import assistant_start, header
from gptoss.engine.constraints import ConstraintFactory, Decision
from gptoss.engine.sampling import SamplingParams
from gptoss.harmony import (
    Author,
    HarmonyEncoding,
    Message,
    Role,
    StreamableParser,
    StreamState,
)

_MOST_TOKENS = 2**31 - 1  # the core's integers: more than any context has


class Opening:
    """The beginnings that an answer may have, narrowed down as its tokens come.

    Parameters
    ----------
    openings : sequence of sequence of int
        One at least; none of them is the beginning of another.

    Attributes
    ----------
    choices : list of set of int
        For each, the places at which it differs from others that begin like it.
    """

    def __init__(self, openings: Sequence[Sequence[int]]) -> None:
        self._left = [list(opening) for opening in openings]
        self._place = 0
        self.choices = [_differences(opening, self._left) for opening in self._left]

    @property
    def allowed(self) -> set[int]:
        """The tokens that may come next; none if it is complete."""
        return {opening[self._place] for opening in self._left if self._place < len(opening)}

    def take(self, token: int) -> None:
        """Take the next token.

        Raises
        ------
        ValueError
            None of them goes on with it.
        """
        left = [opening for opening in self._left if opening[self._place] == token]
        if not left:
            raise ValueError(
                f"tool_choice: the model chose token {token}, which begins none of the tools' "
                "names: logit_bias must not ban all of them"
            )
        self._left = left
        self._place += 1

    @property
    def chosen(self) -> list[int]:
        """The one that is left; the first of those that are."""
        return self._left[0]

    def take_common(self) -> list[int]:
        """Take what comes before the next choice, or the end, and return it."""
        taken: list[int] = []
        while len(allowed := self.allowed) == 1:
            taken += allowed
            self._place += 1
        return taken


def _differences(opening: Sequence[int], others: Sequence[Sequence[int]]) -> set[int]:
    """The places at which an opening is the first to differ from one of the others."""
    found = set()
    for other in others:
        pairs = enumerate(zip(opening, other, strict=False))
        found.update([place for place, (token, its) in pairs if token != its][:1])
    return found


class OpeningChoice:
    """Lets the model choose between openings: a `Constraint` for one answer.

    It masks the tokens at which they differ, and forces those between. What all of them begin with
    stands in the prompt.
    """

    def __init__(self, openings: Sequence[Sequence[int]]) -> None:
        self._opening = Opening(openings)
        self._opening.take_common()

    def accept(self, token_ids: list[int]) -> Decision:
        """Narrow them down."""
        for token in token_ids:
            if self._opening.allowed:
                self._opening.take(token)
        forced = self._opening.take_common()
        return Decision(forced, counted=False, free=0 if self._opening.allowed else _MOST_TOKENS)

    def fill(self, mask: npt.NDArray[np.uint32]) -> None:
        """Allow the tokens with which an opening goes on."""
        mask[:] = 0
        for token in self._opening.allowed:
            mask[token // 32] |= np.uint32(1 << token % 32)


class ReasoningBudget:
    """Ends reasoning after so many tokens, and begins the answer: a `Constraint` for one answer.

    Parameters
    ----------
    encoding : HarmonyEncoding
        The model's.
    opening : sequence of int
        What stands in the prompt after the start of the assistant's message.
    recipients : sequence of str
        Whom the model may call.
    max_tokens : int
        Tokens of reasoning.

    Attributes
    ----------
    is_over : bool
        Whether there will be no more reasoning: a final message or a call ends the turn.
    """

    def __init__(
        self,
        encoding: HarmonyEncoding,
        opening: Sequence[int],
        recipients: Sequence[str],
        max_tokens: int,
    ) -> None:
        self.is_over = False
        self._encoding = encoding
        self._left = max_tokens
        # Reads as the one of the answer does, which may be behind: both read the same tokens.
        self._parser = StreamableParser(
            encoding, Role.ASSISTANT, strict=False, recipients=recipients
        )
        self._messages = 0  # that were complete when the one that is read began
        self._is_read = False
        self._is_reasoning = False
        for token in opening:
            self._process(token)

    def accept(self, token_ids: list[int]) -> Decision:
        """Count them, and end the reasoning in time."""
        for token in token_ids:
            if self.is_over:
                break
            if self._is_reasoning and not self._encoding.is_special_token(token):
                self._left -= 1
            self._process(token)
        if self.is_over:
            return Decision(free=_MOST_TOKENS)
        if not self._is_reasoning:
            # One more at least, <|message|>, begins a message.
            return Decision(free=max(0, self._left) + 1)
        if self._left > 0:
            return Decision(free=self._left)
        self.is_over = True
        return Decision(end_of_reasoning(self._encoding), counted=False, free=_MOST_TOKENS)

    def fill(self, mask: npt.NDArray[np.uint32]) -> None:
        """Allow all: the next token is free wherever it is not forced."""

    def _process(self, token: int) -> None:
        self._parser.process(token)
        if self._parser.state is not StreamState.CONTENT:
            self._is_read = self._is_reasoning = False
            return
        messages = len(self._parser.messages)
        if self._is_read and messages == self._messages:
            return
        self._is_read, self._messages = True, messages
        kind = read_header(message_header(self._parser), self._parser.header_repairs).kind
        self._is_reasoning = kind == "reasoning"
        self.is_over = kind in ("text", "tool_call")


def message_header(parser: StreamableParser) -> Message:
    """The message whose content a parser reads, without it."""
    return Message(
        Author(parser.current_role or Role.ASSISTANT),
        [],
        parser.current_channel,
        parser.current_recipient,
        parser.current_content_type,
    )


def end_of_reasoning(encoding: HarmonyEncoding) -> list[int]:
    """The tokens that end a message of reasoning and begin the answer."""
    end = encoding.special_id("<|end|>")
    return [end, *assistant_start(encoding), *header(encoding, "final")]


def request_params(
    params: SamplingParams,
    stop_token_ids: Sequence[int],
    openings: Sequence[Sequence[int]],
    constraint: ConstraintFactory | None,
) -> SamplingParams:
    """The parameters of an answer's request.

    Parameters
    ----------
    params : SamplingParams
        Those of the chat.
    stop_token_ids : sequence of int
        What ends an answer besides its own.
    openings, constraint
        How it may begin, and what decides on that and on what follows.

    Raises
    ------
    ValueError
        The chat's own parameters do not go together with that.
    """
    if constraint is not None and params.constraint is not None:
        raise ValueError(
            "constraint: max_reasoning_tokens, a tool_choice between several functions, a "
            "response_format and strict tools are constraints themselves, and an answer has one"
        )
    changed: dict[str, object] = {}
    if len(openings) > 1:
        choices = Opening(openings).choices
        pairs = zip(openings, choices, strict=True)
        chosen = {opening[place] for opening, places in pairs for place in places}
        stops = chosen.intersection(params.stop_token_ids)
        if stops:
            raise ValueError(
                f"stop_token_ids: tool_choice lets the model choose between tokens, {min(stops)} "
                "among them"
            )
        # The tokens that are chosen are no part of the answer, which counts its own.
        extra = max(map(len, choices))
        for name in ("min_tokens", "max_tokens"):
            if value := getattr(params, name):
                changed[name] = min(value + extra, _MOST_TOKENS)
    return dataclasses.replace(
        params,
        stop=(),  # of the answer's text alone
        stop_token_ids=(*stop_token_ids, *params.stop_token_ids),
        ignore_eos=True,
        constraint=params.constraint if constraint is None else constraint,
        **changed,  # type: ignore[arg-type]
    )
