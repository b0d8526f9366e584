"""The error texts that docs/troubleshooting.md explains are those that the package has."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "troubleshooting.md").read_text()
# What no part of this package says.
NOT_OURS = {"Killed", "arguments_valid", "finish_reason"}

HEADINGS = re.findall(r"^### (.*)$", TEXT, re.M)
QUOTED = [text for heading in HEADINGS for text in re.findall(r"`(.+?)`", heading)]


@cache
def messages() -> list[str]:
    """All strings of the package, with a gap for each value that is put into them."""
    found = []
    for path in (ROOT / "python" / "gptoss").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [
                    str(part.value) if isinstance(part, ast.Constant) else "\0"
                    for part in node.values
                ]
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    for path in (ROOT / "csrc").rglob("*.cpp"):
        joined = re.sub(r'"\s*\n\s*"', "", path.read_text())
        found += re.findall(r'"((?:[^"\\\n]|\\.)*)"', joined)
    return found


def is_said(text: str) -> bool:
    """Whether there are messages with each of the pieces between the gaps."""
    pieces = [piece.strip(" ;:,?'") for piece in text.split("…")]
    return all(any(piece in message for message in messages()) for piece in pieces)


@pytest.mark.parametrize("text", [text for text in QUOTED if text not in NOT_OURS])
def test_it_is_an_error_of_this_package(text: str) -> None:
    assert is_said(text)


def test_the_check_can_fail() -> None:
    assert len(QUOTED) > 20
    assert not is_said("there is no such text …, or is there")
    assert not is_said("the file is cut off … and then some")
