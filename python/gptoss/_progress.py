"""The progress bar of a list of prompts."""

from __future__ import annotations

import time
from typing import Any


class ProgressBar:
    """Prompts done and tokens per second, if shown at all."""

    def __init__(self, total: int, *, shown: bool) -> None:
        self._bar: Any = None
        if shown:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            self._bar = Progress(
                TextColumn("Generating"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[tps]:.1f} tok/s"),
                transient=True,
            )
            self._task = self._bar.add_task("", total=total, tps=0.0)
        self._tokens = 0
        self._start_s = time.perf_counter()

    def advance(self, *, finished: int) -> None:
        """Count one token."""
        self._tokens += 1
        if self._bar is not None:
            seconds = time.perf_counter() - self._start_s
            self._bar.update(self._task, completed=finished, tps=self._tokens / seconds)

    def __enter__(self) -> ProgressBar:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
