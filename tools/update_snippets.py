"""Run the examples of README.md, CONTRIBUTING.md and docs/, and write down what they print.

python tools/update_snippets.py              all pages, where what is shown is not what comes
python tools/update_snippets.py README.md    these pages
python tools/update_snippets.py --check      change nothing; exit 1 if something would be

A page is run from top to bottom in a process and an empty folder of its own, as its reader would:

```python            runs, in one namespace for the page; `await` may stand outside of functions
```console           lines that begin with `$ ` run in a shell, what follows is their output
```output            what the block above it prints
```python theirs     code for another package: only parsed
```json              only parsed
```text              a picture, a pattern: nothing to run

Whatever else is fenced has one of these invisible comments on the line above:

<!-- not run: REASON -->     e.g. needs a download; the tests count these and list their reasons
<!-- not shown: REASON -->   runs, but what it prints is not on the page
<!-- file: NAME -->          is written to a file, for what follows
<!-- serves: PORT -->        a command that runs on beside what follows, until the page ends; in
                             place of the port it gets a free one
<!-- run -->, <!-- test -->, <!-- offline: … -->     run by .ci/run and tools/check_offline.sh

`<!-- setup: … -->`, of any number of lines, is Python that runs and that the reader does not see.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import contextlib
import inspect
import io
import itertools
import json
import os
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

# What runs in place of the large models. Its answers are those that are shown.
STANDS_FOR = {"openai/gpt-oss-20b": "demo", "openai/gpt-oss-120b": "demo"}
# One instruction set that is everywhere, so that all machines show the same tokens.
ISA = "scalar"
# Lines of the command line that tell how fast it went: left out.
_SPEED = re.compile(r"^\d[\d,]* prompt tokens, .* tok/s.*\n", re.M)

_BLOCK = re.compile(
    r"(?P<fence>^ *```+)(?P<kind>[^`\n]*)\n(?P<body>.*?)^ *```+$\n?"
    r"|^<!-- setup:(?P<setup>.*?)-->$\n"
    r"|^<!-- (?P<mark>not run|not shown|file|serves|run|test|offline)(?:: (?P<value>.+?))? -->$\n",
    re.M | re.S,
)
_RUN_ELSEWHERE = ("run", "test", "offline")
_NOTHING_TO_RUN = ("text", "output", "python theirs", "json")


@dataclass(frozen=True)
class Block:
    """A fenced block, or hidden setup.

    Attributes
    ----------
    kind : str
        The words behind the fence; "setup" for hidden code.
    body : str
        What is in it, without indentation.
    start, end : int
        Where it is in the page's text, the fences included.
    line : int
        Of its beginning, from 1.
    mark, value : str
        The comment above it, and what stands behind its colon; empty without.
    """

    kind: str
    body: str
    start: int
    end: int
    line: int
    mark: str = ""
    value: str = ""


class SnippetError(Exception):
    """An example that does not run, with its page and line."""


def pages() -> list[Path]:
    """All pages that have examples, or may have some."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(text: str) -> list[Block]:
    """The blocks of a page, each with its mark; ValueError for one that cannot be understood."""
    found: list[Block] = []
    pending: re.Match[str] | None = None
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        if match["mark"]:
            pending = match
            continue
        mark, value = "", ""
        if pending is not None:
            if text[pending.end() : match.start()].strip():
                raise ValueError(f"line {line}: the comment {pending[0]!r} stands above no block")
            mark, value = pending["mark"], pending["value"] or ""
            pending = None
        if match["setup"] is not None:
            kind, body = "setup", match["setup"]
        else:
            kind, body = match["kind"].strip(), match["body"]
        body = textwrap.dedent(body)
        block = Block(kind, body, match.start(), match.end(), line, mark, value)
        if mark in ("not run", "not shown", "file", "serves") and not value:
            raise ValueError(f"line {line}: {mark!r} without a reason or a name")
        if kind not in ("python", "console", "setup", *_NOTHING_TO_RUN) and not mark:
            raise ValueError(
                f"line {line}: {kind or 'a block without a kind'!r} is neither run nor marked: "
                "see tools/update_snippets.py"
            )
        if kind == "output" and not (found and found[-1].kind == "python"):
            raise ValueError(f"line {line}: output without Python above it")
        found.append(block)
    return found


def refreshed(page: Path) -> str:
    """The text of a page with what its examples print now.

    Raises
    ------
    SnippetError
        An example fails, or prints nothing where it should, in the page's process.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "page.md"
        home = Path(folder) / "home"
        home.mkdir()
        done = subprocess.run(
            [sys.executable, str(Path(__file__).resolve()), "--run", str(page.resolve()), str(out)],
            cwd=home,
            env={**environment(home), "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            timeout=900,
        )
        if done.returncode:
            name = page.relative_to(ROOT) if page.is_relative_to(ROOT) else page
            raise SnippetError(f"{name}: {done.stderr.strip()}")
        return out.read_text(encoding="utf-8")


def environment(home: Path) -> dict[str, str]:
    """Variables under which all machines print the same."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("GPTOSS_", "HF_"))}
    return {
        **inherited,
        "GPTOSS_ISA": ISA,
        "GPTOSS_HISTORY": "",
        "GPTOSS_NUM_THREADS": "2",
        "HF_HUB_OFFLINE": "1",
        "HOME": str(home),
        "COLUMNS": "96",
        "PYTHONPATH": os.pathsep.join(str(Path(p).resolve()) for p in sys.path if p),
    }


def without_speed(printed: str) -> str:
    """What the command line printed, but for how fast it went."""
    return _SPEED.sub("", printed)


def write_command(folder: Path) -> None:
    """Put a command `gptoss` into a folder, that prints the same in every run."""
    file = folder / "gptoss"
    file.write_text(
        f"#!{sys.executable}\nimport sys\n"
        f"sys.path.insert(0, {str(Path(__file__).resolve().parent)!r})\n"
        "import update_snippets\nupdate_snippets.command_line()\n"
    )
    file.chmod(0o755)


def _run_page(page: Path) -> str:
    """Run a page in this process, and return its text with the output of now."""
    text = page.read_text(encoding="utf-8")
    found = blocks(text)
    parts: list[str] = []
    at = 0
    with _reader() as reader:
        for index, block in enumerate(found):
            follows = found[index + 1] if index + 1 < len(found) else None
            shown = follows if follows is not None and follows.kind == "output" else None
            try:
                printed = reader.run(block)
            except Exception as error:
                raise SnippetError(f"line {block.line}: {type(error).__name__}: {error}") from error
            if printed is None:
                continue
            if block.mark == "not shown":
                if shown is not None:
                    raise SnippetError(f"line {shown.line}: output that is 'not shown'")
                continue
            if block.kind == "console":
                parts += [text[at : block.start], f"```console\n{printed}```\n"]
                at = block.end
            elif not printed and shown is not None:
                raise SnippetError(f"line {block.line}: it prints nothing, and output is shown")
            elif printed:
                if "`" * 3 in printed:
                    raise SnippetError(f"line {block.line}: it prints a fence")
                between = "" if shown is None else text[block.end : shown.start]
                gap = between or "\n"
                parts += [text[at : block.end], gap, f"```output\n{printed.rstrip()}\n```\n"]
                at = block.end if shown is None else shown.end
    return "".join(parts) + text[at:]


class _Reader:
    """Does what a reader of a page would do, in the folder where the process is."""

    def __init__(self, bin_folder: Path, loop: asyncio.AbstractEventLoop) -> None:
        self._names: dict[str, Any] = {"__name__": "__main__"}
        self._loop = loop
        self._path = f"{bin_folder}{os.pathsep}{os.environ['PATH']}"
        self._stands_for = dict(STANDS_FOR)
        self._servers: list[subprocess.Popen[bytes]] = []

    def close(self) -> None:
        """End what serves."""
        for server in self._servers:
            server.terminate()
        for server in self._servers:
            server.wait(30)

    def run(self, block: Block) -> str | None:
        """What a block prints; for a console also its commands. None if there is nothing to run."""
        body = self._replaced(block.body)
        if block.mark == "serves":
            self._serve(block)
            return None
        if block.mark == "file":
            Path(block.value).write_text(body, encoding="utf-8")
            return None
        if block.kind in ("python", "python theirs"):
            ast.parse(body)
        if block.kind == "json":
            json.loads(body)
        if block.mark in ("not run", *_RUN_ELSEWHERE) or block.kind in _NOTHING_TO_RUN:
            return None
        if block.kind == "console":
            return self._shell(block.body)
        return self._python(body, f"line {block.line}")

    def _python(self, code: str, where: str) -> str:
        compiled = compile(code, where, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            if compiled.co_flags & inspect.CO_COROUTINE:
                coroutine = eval(compiled, self._names)
                self._loop.run_until_complete(coroutine)
            else:
                exec(compiled, self._names)
        return _without_trailing_blanks(printed.getvalue())

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, "PATH": self._path}

    def _replaced(self, text: str) -> str:
        for name, stand_in in self._stands_for.items():
            text = text.replace(name, stand_in)
        return text

    def _serve(self, block: Block) -> None:
        (command,) = _commands(block.body)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        for address in ("localhost", "127.0.0.1"):
            self._stands_for[f"{address}:{block.value}"] = f"127.0.0.1:{port}"
        server = subprocess.Popen(
            [*shlex.split(self._replaced(command)), "--port", str(port)],
            env=self._environment,
            executable=shutil.which(shlex.split(command)[0], path=self._path),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._servers.append(server)
        deadline = time.monotonic() + 300
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
                return
            if server.poll() is not None or time.monotonic() > deadline:
                raise SnippetError(f"{command!r} does not answer at port {port}")
            time.sleep(0.1)

    def _shell(self, session: str) -> str:
        parts = []
        for command in _commands(session):
            parts.append(f"$ {command}\n".replace("\n", "\n> ", command.count("\n")))
            done = subprocess.run(
                ["bash", "-c", self._replaced(command)],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=300,
            )
            if done.returncode:
                raise SnippetError(f"{command!r} ends with {done.returncode}:\n{done.stdout}")
            parts.append(_without_trailing_blanks(without_speed(done.stdout)))
        return "".join(parts)


def _without_trailing_blanks(text: str) -> str:
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def _commands(session: str) -> Iterator[str]:
    """What is typed in a console's block: behind `$ `, and behind `> ` in the next lines."""
    lines = session.splitlines()
    if not lines or not lines[0].startswith("$ "):
        raise SnippetError("a console begins with a command, behind '$ '")
    for index, line in enumerate(lines):
        if line.startswith("$ "):
            rest = itertools.takewhile(lambda n: n.startswith("> "), lines[index + 1 :])
            yield "\n".join([line[2:], *(n[2:] for n in rest)])


@contextlib.contextmanager
def _reader() -> Iterator[_Reader]:
    _make_repeatable()
    _stay_here()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_command(folder)
        loop = asyncio.new_event_loop()
        stack.callback(loop.close)
        sys.path.insert(0, str(Path.cwd()))  # for modules that a page has the reader write
        reader = _Reader(folder, loop)
        stack.callback(reader.close)
        yield reader


def command_line() -> None:
    """The command `gptoss`, for consoles."""
    _make_repeatable()
    _stay_here()
    from gptoss.cli import main

    sys.exit(main())


def _make_repeatable() -> None:
    """Have seeds and ids that nobody gave be the same in every run."""
    counter = itertools.count(1)
    secrets.randbits = lambda k: next(counter) % 2**k
    secrets.token_hex = lambda nbytes=None: f"{next(counter):0{2 * (nbytes or 16)}x}"


def _stay_here() -> None:
    """Refuse what asks the network: examples are for machines without one, too."""

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.connect" and isinstance(arguments[1], tuple):
            address = str(arguments[1][0])
            if address not in ("127.0.0.1", "::1", "localhost"):
                raise SnippetError(f"the network was asked: {arguments[1]}")

    sys.addaudithook(refuse)


def main() -> int:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pages", nargs="*", type=Path, metavar="PAGE")
    parser.add_argument("--check", action="store_true", help="change nothing")
    parser.add_argument("--run", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        page, out = args.pages
        try:
            out.write_text(_run_page(page), encoding="utf-8")
        except (SnippetError, ValueError) as error:
            print(error, file=sys.stderr)
            return 1
        return 0
    stale = failed = 0
    for page in args.pages or pages():
        try:
            text = refreshed(page.resolve())
        except SnippetError as error:
            print(error, file=sys.stderr)
            failed += 1
            continue
        if text != page.read_text(encoding="utf-8"):
            stale += 1
            print(f"{page}: {'stale' if args.check else 'written'}", file=sys.stderr)
            if not args.check:
                page.write_text(text, encoding="utf-8")
    return int(bool(failed or (args.check and stale)))


if __name__ == "__main__":
    sys.exit(main())
