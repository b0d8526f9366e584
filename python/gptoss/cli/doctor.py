"""Show what this machine offers, and what is missing and why."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterator

import numpy as np

import gptoss
from gptoss import _core
from gptoss.errors import BackendError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments: none."""
    del parser


def run(options: argparse.Namespace) -> int:
    """Print a table; the exit code is 2 if no model could run."""
    del options
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False)
    usable = True
    for name, good, detail in _findings():
        mark = Text("ok", "green") if good else Text("no", "red")
        table.add_row(name, "" if good is None else mark, Text(detail))
        usable = usable and not (name in _NEEDED and good is False)
    Console().print(table)
    return 0 if usable else 2


_NEEDED = ("instruction set", "threads")


def _findings() -> Iterator[tuple[str, bool | None, str]]:
    """Yield name, whether it can be used (None: does not apply), and what there is to say."""
    yield "gptoss", None, gptoss.__version__
    yield "Python", None, f"{platform.python_version()} on {platform.platform()}"
    yield "numpy", None, np.__version__
    for name, available, detail in _core.backends():
        yield f"backend {name}", available, detail
    try:
        yield "instruction set", True, f"{_core.selected_isa()}{_set_by('GPTOSS_ISA')}"
    except BackendError as error:
        yield "instruction set", False, str(error)
    for name, supported, missing in _core.isas():
        yield f"  {name}", supported, "" if supported else f"missing {missing}"
    try:
        yield "threads", True, f"{_core.default_threads()}{_set_by('GPTOSS_NUM_THREADS')}"
    except ValueError as error:
        yield "threads", False, str(error)
    yield "memory", None, f"{_core.available_memory_bytes() / 1e9:.1f} GB available"
    yield from _hub()


def _hub() -> Iterator[tuple[str, bool | None, str]]:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        yield "Hub downloads", False, "offline mode, by HF_HUB_OFFLINE"
    else:
        yield "Hub downloads", True, "not tried here"
    yield "Hub cache", None, constants.HF_HUB_CACHE


def _set_by(variable: str) -> str:
    return f", set by {variable}" if os.environ.get(variable) else ""
