"""Write docs/command-line.md from the command line's own parser.

python tools/make_cli_docs.py            write it
python tools/make_cli_docs.py --check    exit 1 if it is not what would be written
"""

from __future__ import annotations

import argparse
import inspect
import sys
from pathlib import Path

from gptoss.cli import make_parser
from gptoss.cli.conversation import COMMANDS as CHAT_COMMANDS
from gptoss.cli.parser import CommandParser

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "command-line.md"

_HEAD = """\
# Command line

<!-- Made by tools/make_cli_docs.py from the parser: change that, and run it again. -->

`gptoss COMMAND …`, or `python -m gptoss COMMAND …`. Options may stand before, between and behind
the other arguments, and may be shortened as long as it is clear which is meant. What follows `--`
is never an option. MODEL is the same everywhere: `demo`, a folder in either published layout, or
a Hub id such as `openai/gpt-oss-20b`. Before gigabytes are downloaded a command asks, unless
there is `--yes`; where nobody can be asked, it ends with an error that says so.

Answers go to stdout, all else to stderr. An error is one line. Exit codes: 0; 1 where the command
did its work and something is amiss (`verify`, `batch`); 2 for an error; 130 for Ctrl-C.

| command | |
|---|---|
"""

_CHAT = """\
In a conversation, these are commands:

| | |
|---|---|
"""

_CHAT_END = """
A line that ends with a backslash goes on in the next, and so does all that stands between two
lines with `\"\"\"`; a text that is pasted may have several lines where the system's `input`
allows that. A line that begins with a blank, or with a path such as `/etc/hosts`, is no command.
Ctrl-C stops an answer.

On a terminal the answer's Markdown is rendered while it is written (`--plain` leaves it as it
is); a pipe gets the text. What was entered is kept in `~/.local/state/gptoss/history.jsonl`
(`GPTOSS_HISTORY` names another file, or none if it is empty); the arrow keys bring it back where
Python has readline or the console of Windows does so, `/history` everywhere.
"""


def document() -> str:
    """The whole text."""
    commands = make_parser().commands()
    parts = [_HEAD]
    for name, parser in commands.items():
        summary = (parser.description or "").partition("\n")[0]
        parts.append(f"| [`{_usage(parser)}`](#gptoss-{name}) | {_cell(summary)} |\n")
    for name, parser in commands.items():
        parts.append(_section(name, parser))
    return "".join(parts)


def _section(name: str, parser: CommandParser) -> str:
    parts = [f"\n## gptoss {name}\n{inspect.cleandoc(parser.description or '')}\n"]
    parts.append(f"\n```text\n{_usage(parser)} [OPTIONS]\n```\n")
    rows = [
        (f"`{action.metavar or action.dest}`", _help(action)) for action in parser.positionals()
    ]
    if rows:
        parts.append(_table("argument", rows))
    for title, actions in parser.option_groups().items():
        heading = "option" if title in ("options", "optional arguments") else f"option: {title}"
        parts.append(_table(heading, [(_spelling(a), _help(a)) for a in actions]))
    if name == "chat":
        rows = [
            (f"`{_cell(f'{command} {argument}')}`", text)
            for command, (argument, text) in CHAT_COMMANDS.items()
        ]
        parts.append("\n" + _CHAT + "".join(f"| {a} | {_cell(b)} |\n" for a, b in rows))
        parts.append(_CHAT_END)
    return "".join(parts)


def _usage(parser: CommandParser) -> str:
    words = [parser.prog]
    for action in parser.positionals():
        name = str(action.metavar or action.dest)
        words.append(f"[{name}]" if action.nargs == argparse.OPTIONAL else name)
    return " ".join(words)


def _spelling(action: argparse.Action) -> str:
    value = ""
    if action.nargs != 0:
        shown = "\\|".join(action.choices) if action.choices else action.metavar
        value = f" {shown or action.dest.upper()}"
    return ", ".join(f"`{name}{value}`" for name in action.option_strings)


def _help(action: argparse.Action) -> str:
    text = action.help or ""
    told = "default" in text
    if action.default not in (None, False, argparse.SUPPRESS) and action.nargs != 0 and not told:
        text += f" (default {action.default})"
    return _cell(text)


def _table(heading: str, rows: list[tuple[str, str]]) -> str:
    lines = [f"| {name} | {text} |\n" for name, text in rows]
    return f"\n| {heading} | |\n|---|---|\n" + "".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> int:
    """Write the document, or check it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true")
    text = document()
    if not parser.parse_args().check:
        DOCUMENT.write_text(text, encoding="utf-8")
        return 0
    if DOCUMENT.is_file() and DOCUMENT.read_text(encoding="utf-8") == text:
        return 0
    print(f"{DOCUMENT} is stale: python tools/make_cli_docs.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
