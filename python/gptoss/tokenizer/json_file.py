"""A tokenizer.json and its added tokens, read without parsing the megabytes around them."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptoss._files import HEAD_BYTES, read_bytes, what_it_is
from gptoss.errors import CheckpointError

TOKENIZER = "tokenizer.json"

# A string, also one that the end of the file cuts off, or a bracket. Never tries a place twice.
_STRING_OR_BRACKET = re.compile(r'"[^"\\]*(?:\\.?[^"\\]*)*"?|[\[\]{}]', re.DOTALL)


@dataclass(frozen=True)
class AddedToken:
    """A token outside of the BPE vocabulary; `special` ones are never made from plain text."""

    id: int
    content: str
    special: bool


@dataclass(frozen=True)
class TokenizerJson:
    """The text of a tokenizer.json and the added tokens that it lists.

    The library `tokenizers` counts added tokens on from its vocabulary and ignores the ids that
    the file gives them. They are therefore read here, and kept from it.

    Attributes
    ----------
    text : str
        The whole file.
    source : str
        The file's name, for error messages.
    sha256 : str
        Of the file, in hexadecimal.
    added : tuple of AddedToken
        As the file lists them.
    """

    text: str = field(repr=False)
    source: str
    sha256: str
    added: tuple[AddedToken, ...] = field(repr=False)
    _begin: int = field(repr=False)
    _end: int = field(repr=False)

    @classmethod
    def parse(cls, text: str, *, source: str) -> TokenizerJson:
        """Find the added tokens in the text of a file.

        Raises
        ------
        CheckpointError
            The list is damaged, repeats an id or a content, or has a token that also takes the
            white space around it or only matches whole words.
        """
        return cls._make(text, text.encode(errors="surrogatepass"), source)

    @classmethod
    def read(cls, path: Path) -> TokenizerJson:
        """Read a file; raises CheckpointError as `parse` does, and where it cannot be read."""
        data = read_bytes(path)
        other = what_it_is(data[:HEAD_BYTES])
        if other is not None:
            raise CheckpointError(f"{path}: expected a tokenizer, found {other}")
        try:
            return cls._make(data.decode(), data, str(path))
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{path}: expected UTF-8 text, found {error}") from error

    @classmethod
    def _make(cls, text: str, data: bytes, source: str) -> TokenizerJson:
        sha256 = hashlib.sha256(data).hexdigest()
        span = _value_span(text, "added_tokens", source)
        if span is None:
            return cls(text, source, sha256, (), len(text), len(text))
        entries, begin, end = span
        return cls(text, source, sha256, _added_tokens(entries, source), begin, end)

    @property
    def rest(self) -> str:
        """The text with an empty list in place of the added tokens."""
        if self._begin == self._end:
            return self.text
        return f"{self.text[: self._begin]}[]{self.text[self._end :]}"


def _added_tokens(entries: object, source: str) -> tuple[AddedToken, ...]:
    if not isinstance(entries, list):
        raise CheckpointError(
            f"{source}: field added_tokens: expected a list, found {type(entries).__name__}"
        )
    added = tuple(
        _added_token(entry, f"{source}: field added_tokens[{i}]") for i, entry in enumerate(entries)
    )
    for attribute in ("id", "content"):
        counts = Counter(getattr(token, attribute) for token in added)
        repeated, times = max(counts.items(), key=lambda item: item[1], default=("", 0))
        if times > 1:
            raise CheckpointError(
                f"{source}: field added_tokens: expected each {attribute} once, found {repeated!r} "
                f"{times} times"
            )
    return added


def _value_span(text: str, key: str, source: str) -> tuple[Any, int, int] | None:
    """Find a key of the outermost object: its value, and where that begins and ends.

    One pass over the strings and brackets before it; what lies between them is not looked at.
    """
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        token = match[0]
        if token in "[{":
            depth += 1
        elif token in "]}":
            depth -= 1
        elif depth == 1 and _is_key(text, match, key):
            begin = _skip_space(text, _skip_space(text, match.end()) + 1)
            try:
                value, end = json.JSONDecoder().raw_decode(text, begin)
            except (ValueError, RecursionError) as error:
                raise CheckpointError(
                    f"{source}: field {key}: expected JSON, found {error}"
                ) from error
            return value, begin, end
    return None


def _is_key(text: str, match: re.Match[str], key: str) -> bool:
    # A key is followed by a colon, and a string that is a value is not. Escapes may spell it too.
    if not text.startswith(":", _skip_space(text, match.end())):
        return False
    try:
        return bool(json.loads(match[0]) == key)
    except ValueError:
        return False


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\n\r":
        at += 1
    return at


def _added_token(entry: object, where: str) -> AddedToken:
    if not isinstance(entry, dict):
        raise CheckpointError(f"{where}: expected an object, found {type(entry).__name__}")
    token_id, content, special = entry.get("id"), entry.get("content"), entry.get("special", False)
    if type(token_id) is not int or not 0 <= token_id < 1 << 31:
        raise CheckpointError(f"{where}: expected an id below 2^31, found {token_id!r:.100}")
    if not isinstance(content, str) or not content:
        raise CheckpointError(f"{where}: expected content, found {content!r:.100}")
    try:
        content.encode()
    except UnicodeEncodeError as error:
        raise CheckpointError(f"{where}: expected content in Unicode, found {error}") from error
    for flag in ("single_word", "lstrip", "rstrip"):
        if entry.get(flag, False) is not False:
            raise CheckpointError(f"{where}: expected {flag} false, found {entry[flag]!r:.100}")
    if not isinstance(special, bool):
        raise CheckpointError(f"{where}: expected special true or false, found {special!r:.100}")
    return AddedToken(token_id, content, special)
