"""What may follow: masks and forced tokens, decided outside of the engine.

The engine knows bits and tokens, not grammars. It asks once per step, for all sequences together,
and always in the state after the last token that a sequence was given: nothing is ever rolled back.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt

_MAX_ID = 2**31 - 1  # the core's integers
_ALL = np.uint32(2**32 - 1)


class Decision(NamedTuple):
    """What a constraint says after it has seen a sequence's latest tokens.

    Attributes
    ----------
    forced : sequence of int
        Tokens that must follow now. They join the output without being sampled, with a
        log-probability of 0, and their random numbers are skipped, not moved on to others. What
        ends a sequence (`max_tokens`, a full context; if `counted`, a stop token) ends it among
        them too.
    counted : bool
        Whether the forced tokens are part of the answer. Those that are not, such as the headers
        of a format, count neither in `completion_tokens` nor against `max_tokens`.
    free : int
        So many of the next tokens will be neither masked nor forced. They may be sampled, and
        guessed, before the constraint is asked again, so that a device need not wait for it.
        Forcing a token after all is an error of the request.
    """

    forced: Sequence[int] = ()
    counted: bool = True
    free: int = 0


class Constraint(Protocol):
    """Decides what may follow in one sequence; given as `SamplingParams.constraint`.

    It is called by the thread that runs the model, which waits, and other requests with it: it must
    be quick, and must not itself wait for a request of the same model. Whatever it raises ends its
    own request, which raises the same exception, and no other.
    """

    def accept(self, token_ids: list[int]) -> Decision:
        """Take the tokens that were sampled since the last call, and decide what follows.

        First called with an empty list, when the sequence begins and before anything is sampled.
        Then after every step that sampled tokens for it, one or, where guesses were right,
        several. Tokens that it forced are not reported back to it. The call after the last token
        is left out: whoever is not asked again has ended.
        """

    def fill(self, mask: npt.NDArray[np.uint32]) -> None:
        """Clear the bits of the tokens that may not come next.

        Parameters
        ----------
        mask : numpy.ndarray
            (ceil(V / 32)) uint32, all bits set: bit t % 32 of word t // 32 stands for token t. Of
            use during the call only. Not asked for where the next token is forced or free. If no
            token is left, together with `allowed_token_ids`, the request ends with an error.
        """


ConstraintFactory: TypeAlias = Callable[[], Constraint]


def is_constraint(value: object) -> TypeGuard[Constraint]:
    """Tell an object that decides on a sequence from what makes such objects, a class included."""
    return not isinstance(value, type) and hasattr(value, "accept") and hasattr(value, "fill")


def constraint_for_sequence(value: Constraint | ConstraintFactory) -> Constraint:
    """Return what decides on one more sequence.

    Raises
    ------
    TypeError
        What a function has made is no constraint.
    """
    if is_constraint(value):
        return value
    made: object = value()  # type: ignore[operator]
    if not is_constraint(made):
        raise TypeError(
            f"constraint must make an object with the methods accept and fill, got {made!r}"
        )
    return made


class Hub:
    """All constraints of an engine, by the ids of their sequences, as the binding asks for them."""

    def __init__(self) -> None:
        self._constraints: dict[int, Constraint] = {}
        self._errors: dict[int, BaseException] = {}
        self._mask = np.empty(0, np.uint32)

    def add(self, sequence: int, constraint: Constraint) -> None:
        """Let a constraint decide on a sequence, before it is submitted.

        Raises
        ------
        ValueError
            It decides on another one, which is still running.
        """
        if any(other is constraint for other in list(self._constraints.values())):
            raise ValueError(
                "a constraint decides on one sequence: this one is in use; for several, pass a "
                "function that makes one for each"
            )
        self._constraints[sequence] = constraint

    def remove(self, sequence: int) -> BaseException | None:
        """Forget a sequence's constraint; return what it has raised."""
        self._constraints.pop(sequence, None)
        return self._errors.pop(sequence, None)

    def accept(self, news: list[tuple[int, list[int]]]) -> list[tuple[list[int], bool, int, str]]:
        """Return what each sequence's constraint decides: forced, counted, free, error."""
        return [self._accept(sequence, token_ids) for sequence, token_ids in news]

    def fill(self, sequences: list[int], masks: npt.NDArray[np.uint32]) -> list[str]:
        """Fill the masks (sequences, words); return an error, or "", for each."""
        return [self._fill(*pair) for pair in zip(sequences, masks, strict=True)]

    def _accept(self, sequence: int, token_ids: list[int]) -> tuple[list[int], bool, int, str]:
        constraint = self._constraints.get(sequence)
        if constraint is None:
            return [], True, 0, ""  # cancelled
        try:
            decision = constraint.accept(token_ids)
            if not isinstance(decision, Decision):
                raise TypeError(f"accept must return a Decision, got {type(decision).__name__}")
            forced = [_token_id(token_id) for token_id in decision.forced]
            free = min(max(0, operator.index(decision.free)), _MAX_ID)
            return forced, bool(decision.counted), free, ""
        except BaseException as error:  # whatever it is, it is not the engine's
            return [], True, 0, self._keep(sequence, error)

    def _fill(self, sequence: int, mask: npt.NDArray[np.uint32]) -> str:
        constraint = self._constraints.get(sequence)
        if constraint is None:
            return ""
        # An array of our own: the engine's is gone after the call, and who knows what keeps it.
        if self._mask.shape != mask.shape:
            self._mask = np.empty_like(mask)
        self._mask.fill(_ALL)
        try:
            constraint.fill(self._mask)
        except BaseException as error:
            return self._keep(sequence, error)
        mask[:] = self._mask
        return ""

    def _keep(self, sequence: int, error: BaseException) -> str:
        self._errors[sequence] = error
        return f"{type(error).__name__}: the constraint failed"


def _token_id(value: object) -> int:
    token_id = operator.index(value)  # type: ignore[arg-type]
    if not 0 <= token_id <= _MAX_ID:
        raise ValueError(f"the constraint forces token id {token_id}, which no vocabulary has")
    return token_id
