"""A demo model, an application on it, and a server in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import gptoss
from gptoss.server import ServerSettings, app


@pytest.fixture(scope="session")
def llm() -> Iterator[gptoss.LLM]:
    with gptoss.load("demo", context_length=4096, threads=1) as llm:
        yield llm


@pytest.fixture(scope="session")
def demo(llm: gptoss.LLM) -> Any:
    """An application with the default settings."""
    return app(llm)


@pytest.fixture(scope="session")
def make(llm: gptoss.LLM) -> Callable[..., Any]:
    """Make an application with other settings on the same model."""

    def make(**settings: Any) -> Any:
        return app(llm, ServerSettings(**settings))

    return make


class Process:
    """`gptoss serve`, as a process; used as a context manager it is ended.

    Attributes
    ----------
    url : str
        Where it is.
    lines : list of str
        What it has written to stderr, once it has ended.
    """

    def __init__(self, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gptoss", "serve", "demo", "--port", "0", *arguments],
            env={**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path)), **(env or {})},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        self.lines.append(line)
        # Read at once, as a full pipe would hold the server up.
        self._reader = threading.Thread(
            target=self.lines.extend, args=(self.process.stderr,), daemon=True
        )
        self._reader.start()
        found = re.search(r" at (http://\S+)/v1", line)
        if found is None:
            self.end()
            raise AssertionError(self.lines)
        self.url = found[1]
        self.port = int(self.url.rpartition(":")[2])

    def end(self) -> int:
        """Wait for its end, of its own or by force; return the exit code."""
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            self.lines.append("killed: it did not end")
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return self.process.returncode

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.end()


@pytest.fixture(scope="session")
def server() -> Iterator[Process]:
    """One that is shared; its model has 4,096 tokens of context."""
    with Process("--context-length", "4096", "--threads", "1") as process:
        yield process
