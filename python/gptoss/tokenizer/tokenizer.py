"""Text to token ids and back, over the tokenizer.json of a checkpoint."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Collection, Iterable, Mapping
from operator import index
from types import MappingProxyType
from typing import Literal

from gptoss.errors import CheckpointError
from gptoss.tokenizer.bpe import read_bpe
from gptoss.tokenizer.find import read_tokenizer
from gptoss.tokenizer.json_file import TOKENIZER, AddedToken, TokenizerJson

SpecialNames = Literal["all"] | Collection[str]

# The published vocabulary writes this id under one of its two names only.
_SECOND_NAMES = {("<|endofprompt|>", 200018): "<|reserved_200018|>"}

# No UTF-8 has it, and on its own it decodes to one U+FFFD.
_NEVER_UTF8 = b"\xff"


class Tokenizer:
    """A byte-level BPE tokenizer; safe to share between threads, and picklable.

    Parameters
    ----------
    source : str, path or TokenizerJson
        A model as for `load`: "demo", a folder, a GGUF file or a Hub id; a tokenizer.json; its
        text, which begins with a brace; or what is read of it.

    Raises
    ------
    CheckpointError
        There is no such file, or it holds no byte-level BPE with all 256 bytes.
    """

    def __init__(self, source: str | os.PathLike[str] | TokenizerJson) -> None:
        if isinstance(source, TokenizerJson):
            file = source
        elif isinstance(source, str) and source.lstrip().startswith("{"):
            file = TokenizerJson.parse(source, source=TOKENIZER)
        else:
            file = read_tokenizer(source)
        added = file.added
        self._bpe, vocab = read_bpe(file)
        # The vocabulary may list the added tokens as well.
        listed = [token for token in added if vocab.get(token.content) == token.id]
        for token in listed:
            del vocab[token.content]
        _check_ids(added, vocab.values(), file.source)
        self._vocab_size = 1 + max([*vocab.values(), *(token.id for token in added)])
        self._added = {token.id: token.content.encode() for token in added}
        # As in transformers, added tokens that are not special are made from text always.
        self._always = {token.content: token.id for token in added if not token.special}
        self._special = {token.content: token.id for token in added if token.special}
        # Of tokens that are whole characters, as they are decoded.
        self._texts: dict[int, str] = {}
        self._special_names = {token_id: name for name, token_id in self._special.items()}
        for (name, token_id), second_name in _SECOND_NAMES.items():
            if self._special.get(name) == token_id:
                self._special.setdefault(second_name, token_id)
        for token in listed:
            if token.id in self._bpe.encode(token.content):
                raise CheckpointError(
                    f"{file.source}: added token {token.content!r}: expected plain text not to "
                    "become it, found a vocabulary whose merges make it"
                )

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Read a tokenizer.json.

        Parameters
        ----------
        path : str or path
            The file, or a model as for `load`.

        Raises
        ------
        CheckpointError
            The file cannot be read, or holds no byte-level BPE with all 256 bytes.
        """
        return cls(read_tokenizer(path))

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo: str | os.PathLike[str],
        *,
        revision: str | None = None,
        local_files_only: bool = False,
    ) -> Tokenizer:
        """Read the tokenizer of a model; of a Hub id nothing else is downloaded.

        Parameters
        ----------
        path_or_repo, revision, local_files_only
            As for `load`.

        Raises
        ------
        CheckpointError
            There is no such model, or its tokenizer holds no byte-level BPE with all 256 bytes.
        """
        return cls(read_tokenizer(path_or_repo, revision, local_files_only))

    def __repr__(self) -> str:
        return f"Tokenizer(vocab_size={self.vocab_size})"

    @property
    def vocab_size(self) -> int:
        """One more than the highest id; a model's padded vocabulary may be larger."""
        return self._vocab_size

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Ids of the special tokens by name; two names may have the same id."""
        return MappingProxyType(self._special)

    def special_name(self, token_id: int) -> str | None:
        """Name of a special token, or None for every other id."""
        return self._special_names.get(token_id)

    def encode(
        self,
        text: str,
        allowed_special: SpecialNames = (),
        disallowed_special: SpecialNames = (),
    ) -> list[int]:
        """Turn text into token ids.

        Parameters
        ----------
        text : str
            Surrogates are handled as in tiktoken: a pair is the character that it means, a lone
            one is U+FFFD.
        allowed_special : "all" or collection of str
            Names of special tokens that become their ids. All others are plain text.
        disallowed_special : "all" or collection of str
            Names that must not occur in the text; "all" means all but the allowed ones.

        Returns
        -------
        list of int
            The text between special tokens is encoded piece by piece, as if each stood alone.

        Raises
        ------
        ValueError
            The text holds a disallowed name; an argument holds a name that is not one of a
            special token; or the text has a run of some ten million like characters, beyond
            what the pattern that splits it can match.
        """
        allowed = self._names("allowed_special", allowed_special)
        disallowed = self._names("disallowed_special", disallowed_special)
        if disallowed_special == "all":
            disallowed = set(disallowed).difference(allowed)
        if disallowed and (found := _any_of(disallowed).search(text)):
            raise ValueError(
                f"[encode] the text holds the special token {found[0]!r}, which is disallowed; "
                "encode it as text (disallowed_special=()) or as a token (allowed_special)"
            )
        try:
            text.encode()
        except UnicodeEncodeError:
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        cut_out = self._always | {name: self._special[name] for name in allowed}
        if not cut_out:
            return self._bpe.encode(text)
        ids: list[int] = []
        start = 0
        for match in _any_of(cut_out).finditer(text):
            ids += self._bpe.encode(text[start : match.start()])
            ids.append(cut_out[match[0]])
            start = match.end()
        return ids + self._bpe.encode(text[start:])

    def decode(self, ids: Iterable[int]) -> str:
        """Turn token ids into text; special tokens become their names.

        Never fails on what a model put out: bytes that are not UTF-8 become U+FFFD as in
        `bytes.decode(errors="replace")`, and so does an id without a token. `decode_bytes` is
        the strict counterpart.
        """
        return b"".join(map(self._lossy_bytes, ids)).decode(errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Turn token ids into bytes, exactly; special tokens become their names.

        Raises
        ------
        ValueError
            An id has no token.
        """
        return b"".join(map(self.token_bytes, ids))

    def token_bytes(self, token_id: int) -> bytes:
        """Bytes of one token, a special one's being its name; ValueError if there is no token."""
        found = self._bytes_or_none(token_id)
        if found is None:
            raise ValueError(f"no token has the id {token_id}")
        return found

    def incremental_decoder(self) -> IncrementalDecoder:
        """Make a decoder that takes one id at a time."""
        return IncrementalDecoder(self)

    def _names(self, argument: str, names: SpecialNames) -> Collection[str]:
        if names == "all":
            return self._special.keys()
        if isinstance(names, str):
            raise ValueError(f'[encode] {argument} must be "all" or a collection, got {names!r}')
        for name in names:
            if name not in self._special:
                raise ValueError(f"[encode] {argument}: {name!r} is not a special token")
        return names

    def _bytes_or_none(self, token_id: int) -> bytes | None:
        token_id = index(token_id)
        if (added := self._added.get(token_id)) is not None:
            return added
        return self._bpe.token_bytes(token_id)

    def _lossy_bytes(self, token_id: int) -> bytes:
        found = self._bytes_or_none(token_id)
        return _NEVER_UTF8 if found is None else found


class IncrementalDecoder:
    """Decodes ids one by one; what it returns, joined, is `Tokenizer.decode` of all ids.

    Made by `Tokenizer.incremental_decoder`.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._texts = tokenizer._texts
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._is_inside = False  # a character whose first bytes have come

    def push(self, token_id: int) -> str:
        """Take one id and return the text that it completes: whole characters, or none."""
        if not self._is_inside and (text := self._texts.get(token_id)) is not None:
            return text  # most tokens, and ten times as fast
        return self._push_bytes(token_id, self._tokenizer._lossy_bytes(token_id))

    def flush(self) -> str:
        """Return what is left, U+FFFD for a character that was never completed, and reset."""
        if not self._is_inside:
            return ""
        self._is_inside = False
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest

    def _push_bytes(self, token_id: int, data: bytes) -> str:
        if not self._is_inside:
            try:
                text = data.decode()
            except UnicodeDecodeError:
                pass
            else:
                self._texts[token_id] = text
                return text
        text = self._decoder.decode(data)
        self._is_inside = bool(self._decoder.getstate()[0])
        return text


def _any_of(names: Collection[str]) -> re.Pattern[str]:
    # The longest first, for names that begin alike.
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))))


def _check_ids(added: Iterable[AddedToken], taken: Iterable[int], source: str) -> None:
    twice = {token.id for token in added}.intersection(taken)
    for token in added:
        if token.id in twice:
            raise CheckpointError(
                f"{source}: added token {token.content!r}: expected an id of its own, found "
                f"{token.id}, which the vocabulary has too"
            )
