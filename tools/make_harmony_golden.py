"""Freeze what openai-harmony makes of the hand-made cases in tests/support/harmony_cases.py.

    python tools/make_harmony_golden.py [DATA]

DATA is the folder with o200k_base.tiktoken (default: what the tests use). Needs the package
openai-harmony 0.0.8 and an installed gptoss, which says what texts it encodes and what ids
it decodes: what the official vocabulary answers is frozen with the results, so that the
golden tests need neither that package nor the vocabulary. Writes tests/golden/harmony/*.json.gz.
"""

from __future__ import annotations

import gzip
import importlib.metadata
import json
import os
import sys
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_ROOT / "tests"))

import support.harmony_cases as cases  # noqa: E402
from gptoss import harmony  # noqa: E402


class _Recorder:
    """A tokenizer that asks the official encoding and remembers the answers."""

    vocab_size = 201_088

    def __init__(self, official: Any, special: dict[str, int]) -> None:
        self._official = official
        self.special_tokens = special
        self.encodings: dict[str, list[int]] = {}
        self.pieces: dict[int, str] = {}

    def encode(self, text: str, allowed_special: Any = (), disallowed_special: Any = ()) -> Any:
        self.encodings[text] = self._official.encode(text, disallowed_special=())
        return self.encodings[text]

    def decode_bytes(self, ids: list[int]) -> bytes:
        for token in ids:
            if token >= self.vocab_size:
                raise ValueError(f"unknown id {token}")
            piece = bytes(self._official._inner.decode_bytes([token]))
            self.pieces[token] = piece.decode("latin-1")
        return b"".join(self.pieces[token].encode("latin-1") for token in ids)


def _write(name: str, content: dict[str, Any]) -> None:
    provenance = {
        "made_by": "tools/make_harmony_golden.py",
        "judge": f"openai-harmony {importlib.metadata.version('openai-harmony')}, HarmonyGptOss",
    }
    path = _ROOT / "tests" / "golden" / "harmony" / f"{name}.json.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    data = json.dumps({"provenance": provenance, **content}, separators=(",", ":")).encode()
    path.write_bytes(gzip.compress(data, compresslevel=9, mtime=0))
    print(f"{path.relative_to(_ROOT)}: {len(data)} bytes, {path.stat().st_size} compressed")


def main() -> None:
    """Write the golden files."""
    default = os.environ.get("GPTOSS_TEST_DATA", _ROOT.parent / "shared" / "data")
    os.environ["TIKTOKEN_ENCODINGS_BASE"] = str(sys.argv[1] if len(sys.argv) > 1 else default)
    import openai_harmony

    official = openai_harmony.load_harmony_encoding("HarmonyGptOss")
    names = [*harmony.encoding.SPECIALS, "<|endoftext|>"]
    special = {
        name: official.encode(name, allowed_special="all", disallowed_special=())[0]
        for name in names
    }

    recorder = _Recorder(official, special)
    conversations = {}
    for name, messages in cases.CONVERSATIONS.items():
        results = cases.rendered(openai_harmony, official, messages)
        cases.rendered(harmony, harmony.HarmonyEncoding(recorder), messages)
        conversations[name] = {"messages": messages, "rendered": results}
    _write(
        "render",
        {"special": special, "encodings": recorder.encodings, "conversations": conversations},
    )

    recorder = _Recorder(official, special)
    encoding = harmony.HarmonyEncoding(recorder)
    sequences = {}
    for name, (role, parts) in cases.SEQUENCES.items():
        tokens = cases.to_tokens(parts, recorder.encode, special)
        cases.parsed(harmony, encoding, role, tokens)
        parsed = cases.parsed(openai_harmony, official, role, tokens)
        sequences[name] = {"role": role, "tokens": tokens, **parsed}
    _write(
        "parse",
        {
            "special": special,
            "encodings": recorder.encodings,
            "pieces": recorder.pieces,
            "sequences": sequences,
        },
    )


if __name__ == "__main__":
    main()
