"""docs/python-api.md is what the docstrings say."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import gptoss

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "python-api.md").read_text(encoding="utf-8")


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_api_docs", ROOT / "tools/make_api_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_is_up_to_date() -> None:
    assert script().document() == TEXT, "stale: python tools/make_api_docs.py"


def test_it_has_everything() -> None:
    headings = set(re.findall(r"^#+ (\S+)$", TEXT, re.M))
    assert script().missing() == []
    for room in (gptoss.chat, gptoss.harmony, gptoss.ops):
        names = set(room.__all__) - {"Tokenizer", "tool_schema"}  # which stand under gptoss
        assert {f"{room.__name__}.{name}" for name in names} <= headings
    methods = {name for name in vars(gptoss.LLM) if not name.startswith("_")}
    assert {f"LLM.{name}" for name in methods} <= headings


def test_each_entry_says_something() -> None:
    for entry in re.split(r"^###+ ", TEXT, flags=re.M)[1:]:
        said = re.sub(r"```.*?```", "", entry.partition("\n")[2], flags=re.S)
        said = re.sub(r"^Attribute, .*$|^#.*$", "", said, flags=re.M)
        assert said.strip(), f"no docstring: {entry.partition(chr(10))[0]}"
