"""What this machine can do at most: memory reads, FMA, bf16 and int8 products.

    python bench/hw_limits.py

Every other benchmark states its figures as a share of these. x86-64 with a C++ compiler only.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

UNITS = {
    "read_gb_s_4k_pages": "memory read, 4 kB pages, GB/s",
    "read_gb_s_huge_pages": "memory read, huge pages, GB/s",
    "fma_gflop_s": "f32 FMA, GFLOP/s",
    "bf16_gflop_s": "bf16 products, GFLOP/s",
    "int16_chain_gop_s": "int8 products added up in 16 bits, Gop/s",
    "fma_256_gflop_s": "f32 FMA in registers of 256 bits, GFLOP/s",
    "int16_chain_256_gop_s": "int8 products added up in 16 bits, registers of 256 bits, Gop/s",
    "int8_gop_s": "int8 products added up in 32 bits by one instruction, Gop/s",
    "int8_256_gop_s": "the same in registers of 256 bits, Gop/s",
    "amx_bf16_gflop_s": "bf16 products in AMX tiles, GFLOP/s",
    "amx_int8_gop_s": "int8 products in AMX tiles, Gop/s",
}


@contextlib.contextmanager
def measuring_program() -> Iterator[Path]:
    """Build hw_limits.cpp, whose first lines tell how it is called."""
    source = Path(__file__).with_suffix(".cpp")
    options = ["-O3", "-march=native", "-std=c++20", "-pthread", "-Wno-ignored-attributes"]
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "hw_limits"
        compiler = os.environ.get("CXX", "c++")
        subprocess.run([compiler, *options, "-o", str(program), str(source)], check=True)
        yield program


def hw_limits(threads: int | None = None) -> dict[str, list[float]]:
    """Measure; each list has an entry for 1, 2, ... `threads` threads (default: all CPUs)."""
    with measuring_program() as program:
        return limits_by(program, threads)


def limits_by(program: Path, threads: int | None = None) -> dict[str, list[float]]:
    """Measure as `hw_limits` does, with a program that is built already."""
    n = threads or len(os.sched_getaffinity(0))
    output = subprocess.run([program, str(n)], check=True, capture_output=True, text=True)
    return json.loads(output.stdout)


def read_gb_s(limits: dict[str, list[float]]) -> float:
    """Return how fast all threads read memory, on the pages that are faster."""
    return max(limits["read_gb_s_huge_pages"][-1], limits["read_gb_s_4k_pages"][-1])


def main() -> None:
    limits = hw_limits()
    table = Table("limit", *(f"{t + 1} threads" for t in range(len(limits["read_gb_s_4k_pages"]))))
    for name, values in limits.items():
        table.add_row(UNITS[name], *(f"{value:,.1f}" for value in values))
    Console().print(table)
    print(json.dumps(limits))


if __name__ == "__main__":
    main()
