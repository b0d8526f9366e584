"""Make the pictures of the documents, in docs/images.

python tools/make_images.py            write them
python tools/make_images.py --check    exit 1 if one is not what would be written

recording.svg   a terminal with the demo: the commands run, and what they print is drawn
memory.svg      memory by context, from the package's own estimate
speed.svg       the first table of docs/speed.md
experts.svg     which experts fire for which tokens of the demo
attention.svg   attention of a banded and a full layer of the demo, with the sink's share
"""

from __future__ import annotations

import argparse
import os
import pty
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch
from xml.sax.saxutils import escape

from rich.console import Console
from rich.text import Text

from gptoss.checkpoint.memory import estimate_config
from gptoss.cli.chart import Panel, bar_chart
from gptoss.published import PUBLISHED
from inside_pictures import attention, experts
from update_snippets import ISA, environment, without_speed, write_command

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"

# The commands of the recording.
SESSION = (
    'gptoss chat demo "What is 17 + 25?" --show-reasoning',
    'gptoss chat demo "What is gptoss?"',
    'gptoss chat demo "Does it work offline?"',
)

_CONSOLE = Console()
_KEY_S, _WORD_S, _PAUSE_S = 0.035, 0.06, 0.9  # the pace at which it is shown
_WIDTH_CHARACTERS = 84
_SIZE, _ADVANCE, _LINE = 14, 8.43, 20
_LEFT, _TOP = 18, 58
_PAPER, _BAR, _INK, _DIM, _PROMPT = "#12161c", "#1f2630", "#e6e9ee", "#8b95a3", "#6cc08b"

_STYLE = f"""\
text {{ font: {_SIZE}px ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  fill: {_INK}; white-space: pre }}
.d {{ fill: {_DIM} }}
.p {{ fill: {_PROMPT} }}
tspan {{ animation: show 1ms backwards }}
@keyframes show {{ from {{ fill-opacity: 0 }} }}
@media (prefers-reduced-motion: reduce) {{ tspan {{ animation: none }} }}"""


def recording() -> str:
    """A terminal in which the commands are typed and answered; without animation, all of it."""
    drawing = _Terminal()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_command(folder)
        for command in SESSION:
            drawing.type(command)
            for line in _printed(command, folder):
                drawing.print(line)
            drawing.wait()
    return drawing.svg()


def _printed(command: str, folder: Path) -> list[Text]:
    """The lines that a command leaves on a terminal, with their styles."""
    ours, its = pty.openpty()
    with subprocess.Popen(
        ["bash", "-c", command],
        cwd=folder,
        env={
            **environment(folder),
            "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
            "COLUMNS": str(_WIDTH_CHARACTERS),
            "TERM": "xterm-256color",
        },
        stdin=subprocess.DEVNULL,
        stdout=its,
        stderr=its,
    ) as process:
        os.close(its)
        parts = []
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # Linux: the other end is closed
                break
            if not part:
                break
            parts.append(part)
    os.close(ours)
    text = b"".join(parts).decode().replace("\r\n", "\n")
    if process.returncode:
        raise SystemExit(f"{command!r} ends with {process.returncode}:\n{text}")
    # Between hiding and showing the cursor something is drawn that is erased at its end.
    text = re.sub(r"\x1b\[\?25l.*?\x1b\[\?25h\r(\x1b\[1A\x1b\[2K)+", "", text, flags=re.S)
    text = without_speed(text)
    lines = [Text.from_ansi(line) for line in text.splitlines()]
    strange = [line.plain for line in lines if "\x1b" in line.plain]
    if strange:
        raise SystemExit(f"{command!r} moves the cursor: {strange}")
    wrapped = []
    for line in lines:
        while len(line) > _WIDTH_CHARACTERS:
            at = line.plain.rfind(" ", 0, _WIDTH_CHARACTERS) + 1 or _WIDTH_CHARACTERS
            wrapped.append(line[:at])
            line = line[at:]
        wrapped.append(line)
    return wrapped


class _Terminal:
    """What is on the screen, and when it came."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._now_s = 0.4

    def type(self, command: str) -> None:
        parts = [self._span("$ ", "p")]
        for key in command:
            self._now_s += _KEY_S
            parts.append(self._span(key))
        self._lines.append("".join(parts))
        self._now_s += _PAUSE_S / 2

    def print(self, line: Text) -> None:
        parts = []
        for start, end in ((m.start(), m.end()) for m in re.finditer(r"\s*\S+", line.plain)):
            style = line.get_style_at_offset(_CONSOLE, end - 1)
            parts.append(self._span(line.plain[start:end], "d" if style.dim else ""))
            self._now_s += _WORD_S
        self._lines.append("".join(parts))

    def wait(self) -> None:
        self._now_s += _PAUSE_S

    def _span(self, text: str, name: str = "") -> str:
        chosen = f" class='{name}'" if name else ""
        delay = f" style='animation-delay:{self._now_s:.2f}s'"
        return f"<tspan{chosen}{delay}>{escape(text)}</tspan>"

    def svg(self) -> str:
        width = round(2 * _LEFT + _ADVANCE * _WIDTH_CHARACTERS)
        height = _TOP + _LINE * len(self._lines)
        dots = "".join(
            f"<circle cx='{20 + 20 * i}' cy='17' r='6' fill='{color}'/>"
            for i, color in enumerate(("#ff5f57", "#febc2e", "#28c840"))
        )
        text = "\n".join(
            f"<text x='{_LEFT}' y='{_TOP + _LINE * i}' xml:space='preserve'>{line}</text>"
            for i, line in enumerate(self._lines)
        )
        return (
            f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' "
            f"width='{width}' height='{height}' role='img' aria-label='gptoss in a terminal'>\n"
            f"<style>\n{_STYLE}\n</style>\n"
            f"<rect width='{width}' height='{height}' rx='8' fill='{_PAPER}'/>\n"
            f"<path d='M0 34V8a8 8 0 0 1 8-8H{width - 8}a8 8 0 0 1 8 8V34z' fill='{_BAR}'/>\n"
            f"{dots}\n{text}\n</svg>\n"
        )


def memory() -> str:
    """Memory of both models by context, in the largest and the smallest form."""
    contexts = (8_192, 32_768, 131_072)
    forms: dict[str, dict[str, Any]] = {
        "as published": {},
        'dense="q8", kv_cache_dtype="int8"': {"dense": "q8", "kv_cache_dtype": "int8"},
    }
    panels = []
    for name, config in PUBLISHED.items():
        # A step's workspace depends on the instruction set.
        with patch.dict(os.environ, GPTOSS_ISA=ISA):
            series = {
                title: [
                    estimate_config(name, config, n, **form).total_bytes / 1e9 for n in contexts
                ]
                for title, form in forms.items()
            }
        labels = [f"{n:,} tokens" for n in contexts]
        panels.append(Panel(f"{name.partition('/')[2]} (GB)", labels, series))
    return bar_chart("Memory by context", "estimate for one request on the CPU", panels)


def speed() -> str:
    """The figures of the first table of docs/speed.md that are in tokens per second."""
    lines = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8").splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines[first : lines.index("", first)]
    ]
    names = [name.replace("`", "") for name in rows[0][1:]]
    del rows[:2]
    panels = []
    for title, begins in (("Reading (tokens/s)", "a prompt of "), ("Writing (tokens/s)", "")):
        values: dict[str, list[float | None]] = {}
        while rows and rows[0][0].startswith(begins) and rows[0][0].endswith(", tok/s"):
            what, *cells = rows.pop(0)
            values[what.removeprefix(begins).removesuffix(", tok/s")] = [
                float(cell.partition(" (")[0]) if cell else None for cell in cells
            ]
        if not values:
            raise SystemExit(f"docs/speed.md: no figures for {title!r}")
        series = {name: [cells[i] for cells in values.values()] for i, name in enumerate(names)}
        panels.append(Panel(title, list(values), series))
    return bar_chart(
        "gpt-oss-20b, all programs on the same weights", "2 cores of an AMD EPYC (Zen 4)", panels
    )


IMAGES_MADE: dict[str, Callable[[], str]] = {
    "recording.svg": recording,
    "memory.svg": memory,
    "speed.svg": speed,
    "experts.svg": experts,
    "attention.svg": attention,
}


def main() -> int:
    """Write the pictures, or check them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = 0
    IMAGES.mkdir(exist_ok=True)
    for name, make in IMAGES_MADE.items():
        path, text = IMAGES / name, make()
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        print(f"{path}: {'stale' if check else 'written'}", file=sys.stderr)
        if not check:
            path.write_text(text, encoding="utf-8")
    return int(check and stale > 0)


if __name__ == "__main__":
    sys.exit(main())
