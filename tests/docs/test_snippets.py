"""Every Python example of these documents runs, on the demo in place of the large models."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
CHECKED = ("coming-from.md", "model.md", "offline.md", "server.md", "troubleshooting.md")

_FENCE = re.compile(r"^```(python(?: theirs)?)\n(.*?)^```$", re.M | re.S)


def snippets(kind: str) -> list[Any]:
    """The fenced blocks of a kind, named by document and line."""
    found = []
    for name in CHECKED:
        text = (DOCS / name).read_text()
        for match in _FENCE.finditer(text):
            if match[1] == kind:
                line = text.count("\n", 0, match.start()) + 1
                found.append(pytest.param(match[2], id=f"{name}:{line}"))
    return found


@pytest.mark.parametrize("code", snippets("python"))
def test_it_runs(
    code: str,
    no_network: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert '"openai/gpt-oss-20b"' in code or "gptoss" in code
    names: dict[str, Any] = {"__name__": "__main__"}
    try:
        exec(code.replace('"openai/gpt-oss-20b"', '"demo"'), names)
    finally:
        if "llm" in names:
            names["llm"].close()
    # An example that prints shows something.
    assert ("print(" in code) == bool(capsys.readouterr().out.strip())


@pytest.mark.parametrize("code", snippets("python theirs"))
def test_what_is_written_elsewhere_is_python(code: str) -> None:
    ast.parse(code)


def test_each_program_has_both_sides() -> None:
    text = (DOCS / "coming-from.md").read_text()
    for section in text.split("\n## ")[1:]:
        kinds = [match[1] for match in _FENCE.finditer(section)]
        assert kinds == ["python theirs", "python"], section.partition("\n")[0]
