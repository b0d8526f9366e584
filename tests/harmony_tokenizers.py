"""Tokenizers for the Harmony tests, in the shape that `HarmonyEncoding` asks for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

HARMONY_SPECIALS = (
    "<|start|>",
    "<|end|>",
    "<|message|>",
    "<|channel|>",
    "<|constrain|>",
    "<|return|>",
    "<|call|>",
    "<|endoftext|>",
    "<|reserved_1|>",
)


class ByteTokenizer:
    """One token per byte, or per word of `words`; specials follow, then nothing."""

    def __init__(self, words: Sequence[str] = (), specials: Sequence[str] = HARMONY_SPECIALS):
        self._pieces = [bytes([byte]) for byte in range(256)] + [w.encode() for w in words]
        self._words = sorted(self._pieces[256:], key=len, reverse=True)
        self.special_tokens: Mapping[str, int] = {
            name: len(self._pieces) + i for i, name in enumerate(specials)
        }
        self._ids = {piece: i for i, piece in enumerate(self._pieces)}
        self._pieces += [name.encode() for name in specials]

    @property
    def vocab_size(self) -> int:
        return len(self._pieces)

    def encode(
        self,
        text: str,
        allowed_special: Collection[str] = (),
        disallowed_special: Collection[str] = (),
    ) -> list[int]:
        data = text.encode()
        ids = []
        at = 0
        while at < len(data):
            special = next((s for s in allowed_special if data.startswith(s.encode(), at)), None)
            if special is not None:
                ids.append(self.special_tokens[special])
                at += len(special.encode())
                continue
            word = next((w for w in self._words if data.startswith(w, at)), data[at : at + 1])
            ids.append(self._ids[word])
            at += len(word)
        return ids

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        for token in ids:
            if not 0 <= token < len(self._pieces):
                raise ValueError(f"unknown id {token}")
        return b"".join(self._pieces[token] for token in ids)


class JsonTokenizer:
    """A published byte-level BPE `tokenizer.json`, read with the tokenizers library."""

    def __init__(self, path: Path):
        import tokenizers

        self._inner = tokenizers.Tokenizer.from_file(str(path))
        self._inner.encode_special_tokens = True
        added = self._inner.get_added_tokens_decoder()
        self.special_tokens: Mapping[str, int] = {t.content: i for i, t in added.items()}
        self.vocab_size = self._inner.get_vocab_size(with_added_tokens=True)
        self._names = {i: t.content.encode() for i, t in added.items()}
        shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
        hidden = [byte for byte in range(256) if byte not in shown]
        self._byte_of = {chr(byte): byte for byte in shown}
        self._byte_of |= {chr(256 + i): byte for i, byte in enumerate(hidden)}

    def encode(
        self,
        text: str,
        allowed_special: Collection[str] = (),
        disallowed_special: Collection[str] = (),
    ) -> list[int]:
        import re

        if not allowed_special:
            return list(self._inner.encode(text, add_special_tokens=False).ids)
        ids: list[int] = []
        for part in re.split("(" + "|".join(map(re.escape, allowed_special)) + ")", text):
            ids += [self.special_tokens[part]] if part in allowed_special else self.encode(part)
        return ids

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        out = bytearray()
        for token in ids:
            if token in self._names:
                out += self._names[token]
                continue
            piece = self._inner.id_to_token(token)
            if piece is None:
                raise ValueError(f"unknown id {token}")
            out += bytes(self._byte_of[char] for char in piece)
        return bytes(out)
