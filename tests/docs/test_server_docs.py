"""docs/server.md says what the server does."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from gptoss.cli import make_parser
from gptoss.server.openapi import POSTS

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "server.md").read_text()

SCRIPTS = ("check_server", "try_codex")


def test_its_tables_are_up_to_date() -> None:
    path = ROOT / "tools" / "make_server_docs.py"
    spec = importlib.util.spec_from_file_location("make_server_docs", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.document(TEXT) == TEXT, "stale: python tools/make_server_docs.py"
    for path, (table, _) in POSTS.items():
        has_own_page = path.startswith(("/v1/responses", "/v1/messages"))
        assert (table.markdown() in TEXT) == (not has_own_page)


def test_its_options_are_there() -> None:
    options = {
        name for a in make_parser().commands()["serve"].options() for name in a.option_strings
    }
    named = set(re.findall(r"`(--[a-z-]+)", TEXT))
    assert len(named) > 10
    assert named <= options


def test_its_metrics_are_there() -> None:
    from gptoss.server import measures

    source = Path(measures.__file__).read_text()
    section = TEXT.partition("## Metrics\n")[2].partition("\n## ")[0]
    for name in re.findall(r"`([a-z0-9_]+)`", section.partition("|---|")[2]):
        if name not in ("finished_reason", "handler", "method", "status"):
            assert name.removesuffix("_total") in source, name


def test_its_clients_are_those_that_are_checked() -> None:
    rows = re.findall(r"^\| ([\w-]+)(?: \(\w+\))? \| (\d[\w.]+) \|", TEXT, re.MULTILINE)
    assert len(rows) == 9
    folder = ROOT / "tests" / "clients"
    pinned = "".join(path.read_text() for path in sorted(folder.glob("requirements*.txt")))
    scripts = "".join((ROOT / "tools" / f"{name}.sh").read_text() for name in SCRIPTS)
    for name, version in rows:
        in_python = re.search(rf"^{name}(-slim)?=={re.escape(version)}$", pinned, re.MULTILINE)
        assert in_python or f"{name}@{version}" in scripts, name
