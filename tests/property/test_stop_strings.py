"""Stop strings are found wherever the text is cut into tokens, and never shown."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gptoss.engine.request import TextOutput

# Few letters, so that stop strings occur, overlap and begin again.
texts = st.text("abc", max_size=12)


class PieceTokenizer:
    """Token i is the i-th piece; tokens from 1000 on are special."""

    def __init__(self, pieces: list[str]) -> None:
        self.pieces = pieces

    def special_name(self, token_id: int) -> str | None:
        return "<|special|>" if token_id >= 1000 else None

    def incremental_decoder(self) -> Any:
        tokenizer = self

        class Decoder:
            def push(self, token_id: int) -> str:
                return tokenizer.pieces[token_id]

            def flush(self) -> str:
                return ""

        return Decoder()


def expected(text: str, stop: list[str]) -> tuple[str, str | None]:
    """Read character by character until a stop string is complete; the longest if several are."""
    for end in range(len(text) + 1):
        complete = [s for s in stop if text[:end].endswith(s)]
        if complete:
            longest = max(complete, key=len)
            return text[: end - len(longest)], longest
    return text, None


@given(st.lists(texts, max_size=6), st.lists(st.text("abc", min_size=1, max_size=5), max_size=3))
def test_as_if_character_by_character(pieces: list[str], stop: list[str]) -> None:
    whole, found = expected("".join(pieces), stop)
    output = TextOutput(PieceTokenizer(pieces), stop)  # type: ignore[arg-type]
    shown = ""
    for token_id in range(len(pieces)):
        assert output.push_one(1000) == ""  # special tokens in between change nothing
        shown += output.push_one(token_id)
        assert whole.startswith(shown)
        if output.found is not None:
            break
        # No more is held back than can still become a stop string.
        held = "".join(pieces[: token_id + 1])[len(shown) :]
        assert not held or any(s.startswith(held) for s in stop)
    assert shown + output.flush() == whole
    assert output.found == found
