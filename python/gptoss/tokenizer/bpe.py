"""Byte-level BPE: text without special tokens to token ids, by the libraries that are good at it.

`Library` reads any byte-level tokenizer.json with `tokenizers`. `Published` reads the one file that
gpt-oss is published with, known by its digest, with `tiktoken`, whose vocabulary it is. That takes
half of the time, for which a model's first token waits, and encodes three times as fast.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Any, Protocol

import tokenizers
from tokenizers import models, pre_tokenizers

from gptoss.errors import CheckpointError
from gptoss.tokenizer.json_file import TokenizerJson

# Of gpt-oss-20b's tokenizer.json. In this file every split of a token into two tokens is a merge,
# and merges are in the order of ids, so that ids alone tell what to merge.
_PUBLISHED_SHA256 = "0614fe83cadab421296e664e1f48f4261fa8fef6e03e63bb75c20f38e37d07d3"

# tiktoken gives up at a million characters of white space without a line break: it remembers each
# as a place to return to.
_LONG_RUN = 900_000
_SPACES = re.compile(r"[^\S\r\n]+")

# From so many characters on, `tokenizers` is asked for a batch of one: only then does it let other
# threads of Python's run meanwhile. Shorter texts take less than some milliseconds, and leave its
# thread pool, which complains when a process is forked, alone.
_LONG_TEXT = 4096

# Byte-level BPE writes each byte as one character: printable Latin-1 as itself, the other bytes,
# in order, as U+0100 on.
_PRINTABLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_CHARACTERS = {byte: byte for byte in _PRINTABLE} | {
    byte: 0x100 + i for i, byte in enumerate(sorted(set(range(256)) - _PRINTABLE))
}
_TO_LATIN1 = {character: byte for byte, character in _CHARACTERS.items()}


class Bpe(Protocol):
    """What makes tokens of text, and bytes of tokens."""

    def encode(self, text: str) -> list[int]:
        """Turn text into ids; ValueError where the pattern that splits it gives up."""

    def token_bytes(self, token_id: int) -> bytes | None:
        """Bytes of a token, or None where there is none."""


def read_bpe(file: TokenizerJson) -> tuple[Bpe, dict[str, int]]:
    """Read the vocabulary and merges of a tokenizer.json.

    Parameters
    ----------
    file : TokenizerJson
        The vocabulary may list the added tokens as well, and any characters in them.

    Returns
    -------
    bpe : Bpe
        Safe to share between threads, and picklable.
    ids : dict of str to int
        The vocabulary: ids of tokens, spelt in the characters of byte-level BPE.

    Raises
    ------
    CheckpointError
        It holds no byte-level BPE with all 256 bytes.
    """
    if file.sha256 == _PUBLISHED_SHA256:
        ids = _value_of(file.text, "vocab")
        return Published(ids, _value_of(file.text, "Regex")), ids
    try:
        inner = tokenizers.Tokenizer.from_str(file.rest)
    except Exception as error:  # the library raises nothing more specific
        raise CheckpointError(f"{file.source}: expected a tokenizer, found: {error}") from error
    ids = inner.get_vocab()
    added = {token.content: token.id for token in file.added}
    own = [piece for piece, token_id in ids.items() if added.get(piece) != token_id]
    _check_byte_level(inner, own, file.source)
    # What a file may ask for and that would lose text.
    inner.no_truncation()
    inner.no_padding()
    return Library(inner), ids


class Library:
    """Any byte-level BPE."""

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        self._inner = inner

    def encode(self, text: str) -> list[int]:
        try:
            if len(text) < _LONG_TEXT:
                return list(self._inner.encode(text, add_special_tokens=False).ids)
            (found,) = self._inner.encode_batch_fast([text], add_special_tokens=False)
            return list(found.ids)
        except BaseException as error:
            if not _is_panic(error):
                raise
            raise ValueError(
                f"[encode] a text of {len(text)} characters cannot be split: {error}"
            ) from None

    def token_bytes(self, token_id: int) -> bytes | None:
        # Outside of 32 bits the library raises OverflowError.
        piece = self._inner.id_to_token(token_id) if 0 <= token_id < 1 << 32 else None
        return None if piece is None else _bytes_of(piece)


class Published:
    """The published vocabulary."""

    def __init__(self, ids: Mapping[str, int], pattern: str) -> None:
        import tiktoken  # here, because other vocabularies do without it

        self._pattern = pattern
        self._pieces = {token_id: _bytes_of(piece) for piece, token_id in ids.items()}
        self._encoding = tiktoken.Encoding(
            "gpt-oss",
            pat_str=pattern,
            mergeable_ranks={piece: token_id for token_id, piece in self._pieces.items()},
            special_tokens={},
        )

    def encode(self, text: str) -> list[int]:
        # Too much for tiktoken, which says so at length on stderr, and not for `tokenizers`.
        if len(text) >= _LONG_RUN and max(map(len, _SPACES.findall(text)), default=0) >= _LONG_RUN:
            return self._library.encode(text)
        try:
            return self._encoding.encode_ordinary(text)
        except BaseException as error:
            if not _is_panic(error):
                raise
            return self._library.encode(text)

    def token_bytes(self, token_id: int) -> bytes | None:
        return self._pieces.get(token_id)

    @cached_property
    def _library(self) -> Library:
        ids = {
            piece.decode("latin-1").translate(_CHARACTERS): token_id
            for token_id, piece in self._pieces.items()
        }
        # As the file has them: all splits of a token, in the order of its parts' ids.
        merges: list[tuple[str, str]] = []
        for piece in sorted(ids, key=ids.__getitem__):
            splits = ((piece[:i], piece[i:]) for i in range(1, len(piece)))
            known = [split for split in splits if split[0] in ids and split[1] in ids]
            merges += sorted(known, key=lambda split: (ids[split[0]], ids[split[1]]))
        inner = tokenizers.Tokenizer(models.BPE(ids, merges, ignore_merges=True))
        split = pre_tokenizers.Split(tokenizers.Regex(self._pattern), "isolated")
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        inner.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
        return Library(inner)


def _bytes_of(piece: str) -> bytes:
    return piece.translate(_TO_LATIN1).encode("latin-1")


def _value_of(text: str, key: str) -> Any:
    """Read the value of the first such key, without parsing what is around it."""
    name = f'"{key}":'
    begin = text.index(name) + len(name)
    while text[begin].isspace():
        begin += 1
    value, _ = json.JSONDecoder().raw_decode(text, begin)
    return value


def _is_panic(error: BaseException) -> bool:
    # The libraries panic, past `except Exception`, where their regular expressions give up.
    return type(error).__name__ == "PanicException"


def _check_byte_level(inner: Any, pieces: Collection[str], source: str) -> None:
    """Refuse other kinds, whose tokens are not the bytes of the text."""
    kind = type(inner.model).__name__
    decoder = type(inner.decoder).__name__
    if kind != "BPE" or decoder != "ByteLevel":
        raise CheckpointError(
            f"{source}: expected the model BPE with the decoder ByteLevel, found {kind} with "
            f"{decoder}"
        )
    known = set(pieces)
    missing = [byte for byte, character in _CHARACTERS.items() if chr(character) not in known]
    if missing:
        raise CheckpointError(
            f"{source}: expected a token for every byte, found none for {len(missing)}, the first "
            f"of them 0x{min(missing):02x}"
        )
    unknown = set(map(ord, set("".join(pieces)))) - _TO_LATIN1.keys()
    if unknown:
        raise CheckpointError(
            f"{source}: expected tokens of byte-level characters, found U+{min(unknown):04X} in one"
        )
