"""Show which models fit this machine and about how fast, what it offers, and what is missing."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterator
from typing import TYPE_CHECKING, get_args

import numpy as np

import gptoss
from gptoss import _core
from gptoss.checkpoint.memory import estimate_config
from gptoss.checkpoint.traffic import decode_bytes
from gptoss.config import ModelConfig
from gptoss.errors import BackendError
from gptoss.measure import DECODE_SHARE, PROBE_BYTES, ReadProbe, cpu_name
from gptoss.options import Dense, KvCacheDtype
from gptoss.published import PUBLISHED

if TYPE_CHECKING:
    from rich.console import Console

_NEEDED = ("instruction set", "threads")
_USUAL_CONTEXT = 8192
_CONTEXT_STEP = 1024
# Of the free memory, what the probe of its speed may take.
_PROBE_SHARE = 0.1
_KV_CACHES = get_args(KvCacheDtype)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--verbose", "-v", action="store_true", help="all instruction sets, and versions"
    )


def run(options: argparse.Namespace) -> int:
    """Print tables; the exit code is 2 if no model could run."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    findings = list(_findings(options.verbose))
    usable = not any(name in _NEEDED and good is False for name, good, _ in findings)
    console = Console(highlight=False)
    if usable:
        _print_what_fits(console, _core.available_memory_bytes())
        console.print()
    table = Table(show_header=False)
    for name, good, detail in findings:
        mark = Text("ok", "green") if good else Text("no", "red")
        table.add_row(name, "" if good is None else mark, Text(detail))
    console.print(table)
    if not options.verbose:
        console.print("All instruction sets, and versions: gptoss doctor --verbose", style="dim")
    return 0 if usable else 2


def _print_what_fits(console: Console, available_bytes: int) -> None:
    """Which of the published models fit, in which form, with which context, about how fast."""
    from rich.table import Table
    from rich.text import Text

    gb_s = ReadProbe(min(PROBE_BYTES, int(_PROBE_SHARE * available_bytes))).gb_s()
    console.print(
        f"{cpu_name()}, {_core.default_threads()} threads, {available_bytes / 1e9:.1f} GB of "
        f"memory free, read at {gb_s:.0f} GB/s",
        markup=False,
    )
    table = Table()
    table.add_column("model", no_wrap=True)
    table.add_column("dense")
    for heading in ("memory", "longest context", "tokens/s"):
        table.add_column(heading, justify="right")
    for repo_id, config in PUBLISHED.items():
        name = repo_id.partition("/")[2]
        contexts = {
            dense: [longest_context(config, available_bytes, dense, kv) for kv in _KV_CACHES]
            for dense in get_args(Dense)
        }
        fits = any(map(any, contexts.values()))
        verdict = f"fits: gptoss chat {repo_id}" if fits else "does not fit into the free memory"
        console.print(f"{name} {verdict}", style="bold" if fits else "", markup=False)
        for dense, (longest, longest_int8) in contexts.items():
            needed = estimate_config(name, config, _USUAL_CONTEXT, dense=dense).total_bytes
            rate = DECODE_SHARE[dense] * gb_s * 1e9 / decode_bytes(config, dense=dense)
            if longest_int8:
                context = f"{longest:,}" if longest else "none"
                if longest < longest_int8:
                    context += f", int8 cache: {longest_int8:,}"
                row = [context, f"about {rate:.2g}"]
            else:
                row = [f"{(needed - available_bytes) / 1e9:.1f} GB short", ""]
            table.add_row(Text(name), dense, f"{needed / 1e9:.1f} GB", *row)
        table.add_section()
    console.print(table)
    console.print(
        f"Memory is for one request with a context of {_USUAL_CONTEXT:,}; dense: how attention and "
        "unembedding are held (--dense). Tokens per second are estimated from memory's speed, for "
        "one request; `gptoss bench MODEL` measures.",
        style="dim",
    )


def longest_context(
    config: ModelConfig, available_bytes: int, dense: Dense, kv_cache_dtype: KvCacheDtype
) -> int:
    """The longest context, in steps of 1,024 tokens, that fits into some memory; 0 for none."""

    def fits(steps: int) -> bool:
        estimate = estimate_config(
            "", config, steps * _CONTEXT_STEP, dense=dense, kv_cache_dtype=kv_cache_dtype
        )
        return estimate.total_bytes <= available_bytes

    good, bad = 0, config.max_position_embeddings // _CONTEXT_STEP + 1
    while bad - good > 1:
        middle = (good + bad) // 2
        if fits(middle):
            good = middle
        else:
            bad = middle
    return good * _CONTEXT_STEP


def _findings(verbose: bool) -> Iterator[tuple[str, bool | None, str]]:
    """Yield name, whether it can be used (None: does not apply), and what there is to say."""
    yield "gptoss", None, gptoss.__version__
    if verbose:
        yield "Python", None, f"{platform.python_version()} on {platform.platform()}"
        yield "numpy", None, np.__version__
    for name, available, detail in _core.backends():
        yield f"backend {name}", available, detail
    try:
        yield "instruction set", True, f"{_core.selected_isa()}{_set_by('GPTOSS_ISA')}"
    except BackendError as error:
        yield "instruction set", False, str(error)
    if verbose:
        for name, supported, missing in _core.isas():
            yield f"  {name}", supported, "" if supported else f"missing {missing}"
    try:
        yield "threads", True, f"{_core.default_threads()}{_set_by('GPTOSS_NUM_THREADS')}"
    except ValueError as error:
        yield "threads", False, str(error)
    if verbose:
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
