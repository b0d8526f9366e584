"""The documentation names what is there: files, variables, public names."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

import pytest

import gptoss

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
READ = re.compile(
    r"""(?:getenv\(|environ\.get\(|environ\[)\s*["']((?:GPTOSS|HF)_\w+)["']"""
    r"""|\$\{(GPTOSS_\w+):-"""
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert {page for page in pages if f"]({page})" not in index} == set()


def test_every_variable_is_documented_and_read() -> None:
    sources = [
        path
        for folder in ("python", "csrc", "tests", "bench", "tools")
        for path in (ROOT / folder).rglob("*")
        # The emulator's own are in docs/emulator.md.
        if path.suffix in (".py", ".cpp", ".h") or (folder == "bench" and path.suffix == ".sh")
    ]
    read = {"".join(names) for path in sources for names in READ.findall(path.read_text())}
    table = (ROOT / "docs" / "environment.md").read_text()
    cells = re.findall(r"^\| (`GPTOSS_[^|]*)\|", table, re.M)
    assert read == {name for cell in cells for name in re.findall(r"`(GPTOSS_\w+)`", cell)}
    assert "GPTOSS_ISA" in read


def test_public_names_are_there() -> None:
    text = (ROOT / "docs" / "stability.md").read_text()
    names = set(re.findall(r"`(gptoss(?:\.\w+)+)`", text))
    assert "gptoss.chat.Model" in names
    for name in names:
        pkgutil.resolve_name(name)  # raises if there is no such module or attribute
    for room in (gptoss, gptoss.chat, gptoss.harmony, gptoss.ops, gptoss.outputs):
        assert all(hasattr(room, name) for name in room.__all__)
