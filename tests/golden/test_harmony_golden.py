"""gptoss.harmony against frozen results of openai-harmony; needs neither it nor its vocabulary."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

import support.harmony_cases as cases
from gptoss import harmony

_FOLDER = Path(__file__).parent / "harmony"


def _read(name: str) -> Any:
    return json.loads(gzip.decompress((_FOLDER / f"{name}.json.gz").read_bytes()))


RENDER = _read("render")
PARSE = _read("parse")


class FrozenTokenizer:
    """Knows the texts and ids of the golden cases, and nothing else."""

    def __init__(self, golden: Any) -> None:
        self.special_tokens = golden["special"]
        self.vocab_size = 201_088
        self._encodings = golden["encodings"]
        pieces = golden.get("pieces", {})
        self._pieces = {int(token): piece.encode("latin-1") for token, piece in pieces.items()}

    def encode(self, text: str, allowed_special: Any = (), disallowed_special: Any = ()) -> Any:
        return self._encodings[text]

    def decode_bytes(self, ids: Any) -> bytes:
        if any(token not in self._pieces for token in ids):
            raise ValueError("unknown id")
        return b"".join(self._pieces[token] for token in ids)


def test_the_golden_files_say_where_they_come_from():
    for golden in (RENDER, PARSE):
        assert golden["provenance"]["judge"].startswith("openai-harmony 0.0.8")


def test_the_golden_files_hold_the_cases_of_today():
    frozen = {name: case["messages"] for name, case in RENDER["conversations"].items()}
    assert frozen == json.loads(json.dumps(cases.CONVERSATIONS))
    assert PARSE["sequences"].keys() == cases.SEQUENCES.keys()


@pytest.mark.parametrize("name", RENDER["conversations"])
def test_rendering(name):
    case = RENDER["conversations"][name]
    encoding = harmony.HarmonyEncoding(FrozenTokenizer(RENDER))
    assert cases.rendered(harmony, encoding, case["messages"]) == case["rendered"]


@pytest.mark.parametrize("name", PARSE["sequences"])
def test_strict_parsing(name):
    case = PARSE["sequences"][name]
    encoding = harmony.HarmonyEncoding(FrozenTokenizer(PARSE))
    got = cases.parsed(harmony, encoding, case["role"], case["tokens"])
    assert json.loads(json.dumps(got)) == {"steps": case["steps"], "messages": case["messages"]}
