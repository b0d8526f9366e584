"""A small tokenizer for the Harmony tests, in the shape that `HarmonyEncoding` asks for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

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
