"""What a terminal shows after a program has written to it: as much of one as rich needs."""

from __future__ import annotations

import io
import re

_PIECE = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)|(\x1b)")


class Screen:
    """A terminal of `height` lines above which everything scrolls away, to stay there."""

    def __init__(self, height: int) -> None:
        self._height = height
        self._lines = [""]
        self._row = 0
        self._column = 0

    def write(self, text: str) -> None:
        """Take what a program prints."""
        for csi, command, move, plain, other in _PIECE.findall(text):
            assert not other, f"an escape sequence that is not known: {text!r}"
            if plain:
                line = self._lines[self._row].ljust(self._column)
                end = self._column + len(plain)
                self._lines[self._row] = line[: self._column] + plain + line[end:]
                self._column = end
            elif move == "\r":
                self._column = 0
            elif move == "\n":
                self._row += 1
                self._column = 0
                if self._row == len(self._lines):
                    self._lines.append("")
            elif command == "A":
                top = max(0, len(self._lines) - self._height)
                self._row = max(top, self._row - int(csi or 1))
            elif command == "K":
                assert csi == "2", csi
                self._lines[self._row] = ""
            else:
                assert command in "mhl", f"CSI {csi}{command}"

    @property
    def text(self) -> str:
        """All lines, with those that scrolled away, without blanks at their ends."""
        return "\n".join(line.rstrip() for line in self._lines).strip("\n") + "\n"


class Terminal(io.StringIO):
    """A file that a console takes for a terminal."""

    def __init__(self, height: int = 50) -> None:
        super().__init__()
        self.screen = Screen(height)

    def write(self, text: str) -> int:
        self.screen.write(text)
        return super().write(text)

    def isatty(self) -> bool:
        return True
