"""Reading what a user types: several lines, and what was typed before."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from gptoss.cli.options import as_text

_MAX_ENTRIES = 1000
_FENCE = '"""'


class Prompt:
    """Reads messages from the terminal.

    A message is a line; a line that ends with a backslash goes on in the next; and what stands
    between two `\"\"\"` is one message, too. What is entered is kept in a file, for this and later
    sessions. The arrow keys bring it back where the system's `input` can (readline, libedit, the
    console of Windows), and `entries` everywhere.

    Attributes
    ----------
    entries : list of str
        What was entered, the latest last.
    """

    def __init__(self, path: Path | None) -> None:
        self.entries: list[str] = []
        self._path = path
        self._readline: Any = None
        with contextlib.suppress(ImportError):
            import readline

            self._readline = readline
            # Of a message of several lines the whole is kept, not each line.
            readline.set_auto_history(False)
        if path is not None:
            self.entries = _read(path)
        if self._readline is not None:
            for entry in self.entries:
                with contextlib.suppress(UnicodeEncodeError):
                    self._readline.add_history(entry)

    def read(self, prompt: str = "> ") -> str:
        """Read one message.

        Raises
        ------
        EOFError
            There is no more.
        KeyboardInterrupt
            Ctrl-C: what was begun is forgotten.
        """
        line = _line(prompt)
        if line.lstrip().startswith(_FENCE):
            return self._fenced(line.lstrip()[len(_FENCE) :])
        lines = []
        while line.endswith("\\"):
            lines.append(line[:-1])
            try:
                line = _line(". ")
            except EOFError:
                line = ""
        return "\n".join([*lines, line])

    def _fenced(self, line: str) -> str:
        lines = []
        while not line.rstrip().endswith(_FENCE):
            lines.append(line)
            try:
                line = _line(". ")
            except EOFError:
                line = _FENCE
        lines.append(line.rstrip()[: -len(_FENCE)])
        return "\n".join(lines).strip("\n")

    def add(self, text: str) -> None:
        """Keep what was entered; what cannot be written is kept for this session."""
        if self.entries and self.entries[-1] == text:
            return
        self.entries.append(text)
        if self._readline is not None:
            with contextlib.suppress(UnicodeEncodeError):  # a lone surrogate
                self._readline.add_history(text)
        if self._path is not None:
            with contextlib.suppress(OSError):
                _append(self._path, text)


def history_path() -> Path | None:
    """The history's file: GPTOSS_HISTORY (empty: none), or else where the system keeps such."""
    named = os.environ.get("GPTOSS_HISTORY")
    if named is not None:
        return Path(named).expanduser() if named else None
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
    else:
        base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    if not base:
        return None
    try:
        return Path(base).expanduser() / "gptoss" / "history.jsonl"
    except RuntimeError:  # there is no home
        return None


def _read(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    entries = []
    for line in lines:
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, str):
                entries.append(entry)
    if len(entries) > 2 * _MAX_ENTRIES:
        entries = entries[-_MAX_ENTRIES:]
        text = "".join(json.dumps(entry) + "\n" for entry in entries)
        with contextlib.suppress(OSError):
            path.write_text(text, encoding="utf-8")
    return entries


def _append(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(json.dumps(text) + "\n")


def _line(prompt: str) -> str:
    """What is typed, with bytes that are no text replaced."""
    return as_text(input(prompt))
