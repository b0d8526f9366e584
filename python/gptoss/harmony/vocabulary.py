"""A tokenizer as Harmony sees it: the special tokens by name, the bytes of each id."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from .messages import HarmonyError

SPECIALS = (
    "<|start|>",
    "<|end|>",
    "<|message|>",
    "<|channel|>",
    "<|constrain|>",
    "<|return|>",
    "<|call|>",
)


class Tokenizer(Protocol):
    """What Harmony needs of a tokenizer."""

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Ids of the special tokens by name."""

    @property
    def vocab_size(self) -> int:
        """One more than the highest id."""

    def encode(
        self,
        text: str,
        allowed_special: Collection[str] = (),
        disallowed_special: Collection[str] = (),
    ) -> list[int]:
        """Ids of a text, where only the names in `allowed_special` become special tokens."""

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The bytes of ids, special tokens by name; ValueError for an unknown id."""


class Vocabulary:
    """What rendering and parsing both need of a tokenizer.

    Parameters
    ----------
    tokenizer : Tokenizer
        Any tokenizer with the seven Harmony specials; ids are taken from it, none is fixed.

    Attributes
    ----------
    special_names : dict of int to str
        Names of the special tokens by id.
    texts : dict of int to str
        Of the ids that `piece` has been asked for, those that are whole text.

    Raises
    ------
    ValueError
        If a Harmony special is missing.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._special = dict(tokenizer.special_tokens)
        missing = [name for name in SPECIALS if name not in self._special]
        if missing:
            raise ValueError(f"[{type(self).__name__}] the tokenizer lacks {', '.join(missing)}")
        self.special_names = {token: name for name, token in self._special.items()}
        self._pieces: dict[int, bytes | None] = {}
        self.texts: dict[int, str] = {}

    @property
    def special_tokens_set(self) -> set[str]:
        return set(self._special)

    def special_id(self, name: str) -> int:
        """The id of a special token; KeyError if the tokenizer does not have it."""
        return self._special[name]

    def is_special_token(self, token: int) -> bool:
        return token in self.special_names

    def piece(self, token: int) -> bytes | None:
        """The bytes of one id, None if it is unknown; remembered, as parsers ask for each."""
        if token in self._pieces:
            return self._pieces[token]
        piece: bytes | None
        try:
            piece = self.tokenizer.decode_bytes([token])
        except (ValueError, OverflowError):
            piece = None
        self._pieces[token] = piece
        if piece is not None:
            with contextlib.suppress(UnicodeDecodeError):
                self.texts[token] = piece.decode()
        return piece

    def decode_utf8(self, tokens: Sequence[int]) -> str:
        """The text of tokens.

        Parameters
        ----------
        tokens : sequence of int

        Returns
        -------
        str
            Special tokens stand in it by name.

        Raises
        ------
        HarmonyError
            If an id is unknown or the bytes are not UTF-8.
        """
        try:
            return self._decode_bytes(tokens).decode()
        except UnicodeDecodeError as error:
            raise HarmonyError(f"[decode_utf8] {error}") from error

    def decode(self, tokens: Sequence[int], errors: str = "replace") -> str:
        """The text of tokens, of a part of a character too.

        Parameters
        ----------
        tokens : sequence of int
        errors : str
            What becomes of bytes that are not UTF-8, as for `bytes.decode`.

        Returns
        -------
        str
            Special tokens stand in it by name.

        Raises
        ------
        HarmonyError
            If an id is unknown.
        """
        return self._decode_bytes(tokens).decode(errors=errors)

    def _decode_bytes(self, tokens: Sequence[int]) -> bytes:
        try:
            return self.tokenizer.decode_bytes(list(tokens))
        except (ValueError, OverflowError) as error:
            raise HarmonyError(f"[decode] {error}") from error

    def stop_tokens(self) -> list[int]:
        """The ids that end a message: <|call|>, <|end|>, <|return|>."""
        return [self._special[name] for name in ("<|call|>", "<|end|>", "<|return|>")]

    def stop_tokens_for_assistant_actions(self) -> list[int]:
        """The ids after which the model waits: <|call|>, <|return|>."""
        return [self._special[name] for name in ("<|call|>", "<|return|>")]
