"""Check a model's files against their checksums: what is damaged, cut or missing.

Of a model in the Hub's cache, and of a folder into which `hf download` put it, the repository's own
checksums are known, without a network (of single files in a cache without links, as on Windows,
they may not be: the report says so). For any folder there may be a SHA256SUMS in it, which --write
makes, and --against asks the Hub.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gptoss.checkpoint.open import local_model
from gptoss.cli.options import format_bytes

if TYPE_CHECKING:
    from gptoss.checkpoint.verify import VerifyReport

_STYLES = {"ok": "green", "unknown": "yellow", "wrong": "red", "missing": "red"}
_DIFFERS = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="a folder, a GGUF file, a Hub id, or `demo`")
    parser.add_argument("--against", metavar="HUB-ID", help="ask the Hub for the checksums of this")
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit on the Hub")
    parser.add_argument(
        "--write", action="store_true", help="write SHA256SUMS into the folder, and check nothing"
    )
    parser.add_argument("--quiet", "-q", action="store_true", help="print what is wrong only")


def run(options: argparse.Namespace) -> int:
    """Print a line for each file; the exit code is 1 if something is wrong."""
    from rich.console import Console

    from gptoss.checkpoint.verify import verify_model, write_sums

    console = Console(highlight=False, soft_wrap=True)
    if options.write:
        model = local_model(options.model)
        if model is None:
            raise ValueError(
                f"--write needs a folder or a GGUF file, got the Hub id {options.model}"
            )
        with _progress(options.quiet) as on_bytes:
            path = write_sums(model, on_bytes)
        if not options.quiet:
            console.print(f"wrote {path}", markup=False)
        return 0
    with _progress(options.quiet) as on_bytes:
        report = verify_model(
            options.model, revision=options.revision, against=options.against, on_bytes=on_bytes
        )
    width = max((len(file.name) for file in report.files), default=0)
    for file in report.files:
        if options.quiet and file.state in ("ok", "unknown"):
            continue
        size = format_bytes(file.nbytes) if file.state != "missing" else ""
        console.print(f"[{_STYLES[file.state]}]{file.state:<8}[/]", end="")
        console.print(f"{file.name:<{width}}  {size:>10}  {file.detail}", markup=False)
    if report.problem is not None:
        console.print(f"[red]{'wrong':<8}[/]", end="")
        console.print(report.problem, markup=False)
    if not options.quiet:
        here = options.model if local_model(options.model) is not None else report.folder
        console.print(_verdict(report, str(here)), markup=False)
    return 0 if report.good else _DIFFERS


def _verdict(report: VerifyReport, here: str) -> str:
    if not report.good:
        return "Not as it should be: fetch what is wrong again (hf download resumes)."
    unknown = sum(file.state == "unknown" for file in report.files)
    if not unknown:
        return f"As it should be: {len(report.files)} files."
    known = (
        f"As it should be, as far as checksums are known: of {unknown} files they are not."
        if unknown < len(report.files)
        else "Complete and readable; no checksums are known, so that damage may be unseen."
    )
    return (
        f"{known} With a network: --against HUB-ID. For later: `gptoss verify {_quoted(here)} "
        "--write` makes a SHA256SUMS of what is there now."
    )


def _quoted(path: str) -> str:
    """A path for the shell: cmd.exe knows no single quotes."""
    return subprocess.list2cmdline([path]) if sys.platform == "win32" else shlex.quote(path)


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on the terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    console = Console(stderr=True)
    with Progress(
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    ) as bar:
        task = bar.add_task("", total=None)

        def update(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield update
