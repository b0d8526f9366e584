"""Answer the requests of a file, many at a time.

The file has a request in each line, as those for OpenAI's batch API have: custom_id, method, url
(/v1/chat/completions or /v1/completions) and body. The output has a line for each, in the same
order, with the response or the error. If the output is there already, it is gone on with where it
ends: after an interruption run the same command again.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptoss.checkpoint.open import local_model
from gptoss.cli import options as shared
from gptoss.errors import CheckpointError

if TYPE_CHECKING:
    from gptoss.batch import BatchLine

_SOME_FAILED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("input", metavar="IN.jsonl", help="the requests")
    parser.add_argument("output", metavar="OUT.jsonl", help="where the answers go")
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help="a folder, a GGUF file, a Hub id, or `demo`, which answers all requests whatever "
        "model they name; by default GPTOSS_MODEL, or else the one that they all name",
    )
    parser.add_argument(
        "--in-flight", type=int, default=32, metavar="N", help="most requests at a time"
    )
    parser.add_argument("--overwrite", action="store_true", help="begin anew")
    parser.add_argument("--quiet", "-q", action="store_true", help="print nothing but errors")
    shared.add_loading_options(parser)


def run(options: argparse.Namespace) -> int:
    """Answer all lines; the exit code is 1 if some have an error instead."""
    from gptoss.batch import BatchOutput, read_batch, run_batch

    if options.in_flight < 1:
        raise ValueError(f"--in-flight must be at least 1, got {options.in_flight}")
    lines = read_batch(Path(options.input))
    path = Path(options.output)
    if path.exists() and path.samefile(options.input):
        raise ValueError(f"{path}: the output must be another file than the input")
    options.model = options.model or os.environ.get("GPTOSS_MODEL") or _named_model(lines)
    if options.overwrite:
        path.unlink(missing_ok=True)
    with BatchOutput(path, lines) as output:
        before = output.done
        if before < len(lines):
            with (
                shared.load(options) as llm,
                _Progress(len(lines), before, shown=not options.quiet) as bar,
            ):
                try:
                    asyncio.run(
                        run_batch(
                            llm, lines, output, in_flight=options.in_flight, on_answer=bar.advance
                        )
                    )
                except KeyboardInterrupt:
                    print(
                        f"gptoss: {output.done} of {len(lines)} requests are answered in {path}; "
                        "the same command goes on from there",
                        file=sys.stderr,
                    )
                    raise
            summary = bar.summary()
        else:
            summary = "all of them before"
        if not options.quiet:
            failed = f", {output.failed} of them with an error" if output.failed else ""
            print(f"{output.done} requests answered{failed}; {summary}", file=sys.stderr)
    return _SOME_FAILED if output.failed else 0


def _named_model(lines: list[BatchLine]) -> str:
    names = {str(line.body["model"]) for line in lines if line.body and line.body.get("model")}
    if len(names) != 1:
        listed = ", ".join(sorted(names)[:5]) or "none"
        raise ValueError(f"which model? The requests name {listed}: pass --model MODEL")
    (name,) = names
    try:
        local_model(name)
    except CheckpointError:
        raise ValueError(
            f"which model? The requests name {name}, which is no folder, no GGUF file and no Hub "
            "id: pass --model MODEL"
        ) from None
    return name


class _Progress:
    """Requests done, tokens per second and the time that is left, on a terminal."""

    def __init__(self, total: int, done: int, *, shown: bool) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("Answering"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[tps]:.1f} tok/s"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not (shown and console.is_terminal),
        )
        self._task = self._bar.add_task("", total=total, completed=done, tps=0.0)
        self._done = done
        self._tokens = 0
        self._start_s = time.perf_counter()

    def advance(self, answer: dict[str, Any]) -> None:
        """Count an answer."""
        body = (answer["response"] or {}).get("body", {})
        self._tokens += body.get("usage", {}).get("completion_tokens", 0)
        self._done += 1
        self._bar.update(self._task, completed=self._done, tps=self._tokens / self._seconds())

    def _seconds(self) -> float:
        return max(time.perf_counter() - self._start_s, 1e-9)

    def summary(self) -> str:
        """What was generated, and how fast."""
        seconds = self._seconds()
        return f"{self._tokens} tokens in {seconds:.1f} s, {self._tokens / seconds:.1f} tok/s"

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
