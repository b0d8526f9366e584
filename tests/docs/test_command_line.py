"""docs/command-line.md is what the parser says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from gptoss.cli import make_parser
from gptoss.cli.conversation import COMMANDS

ROOT = Path(__file__).resolve().parents[2]


def test_it_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("make_cli_docs", ROOT / "tools/make_cli_docs.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    text = (ROOT / "docs" / "command-line.md").read_text()
    assert text == script.document(), "stale: python tools/make_cli_docs.py"


def test_it_has_everything() -> None:
    text = (ROOT / "docs" / "command-line.md").read_text()
    for name, parser in make_parser().commands().items():
        section = text.partition(f"\n## gptoss {name}\n")[2].partition("\n## ")[0]
        for action in (*parser.options(), *parser.positionals()):
            names = action.option_strings or [str(action.metavar)]
            assert all(f"`{n}" in section or n in ("-h", "--help") for n in names), (name, names)
            assert action.help, (name, names)
    for command in COMMANDS:
        assert f"`{command}" in text
