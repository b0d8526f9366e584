"""Times and tables that the benchmarks share."""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table


def median_s(work: Callable[[], Any], rounds: int = 5) -> float:
    """Median seconds of `work()`, after one call that is not counted."""
    work()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def peak_memory_gb() -> float:
    """Most memory that this process has had resident, in GB (mapped files included)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def print_results(title: str, rows: list[dict[str, Any]], **facts: Any) -> None:
    """Print rows as a table, then everything as one line of JSON."""
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*(f"{v:,.4g}" if isinstance(v, float) else str(v) for v in row.values()))
    # Where the output goes to a file there is no width to keep to.
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    print(json.dumps({**facts, "rows": rows}))
