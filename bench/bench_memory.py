"""A model in less memory than it wants: peak, speed, and what is read again from the disk.

    python bench/make_checkpoint.py --preset 20b /path/to/20b
    python bench/bench_memory.py /path/to/20b --limits 13 12 10 --dense bf16 q8

Each case is a process in a control group of its own with a limit on its memory, and begins with
nothing of the model in the page cache, so that its pages count as the group's. It needs the right
to make groups (root): a folder in the process's own group of version 1, or systemd-run for those
of version 2. Swap is not used.

"read" is what came from the disk, "faults" the times that a page was waited for. The group's peak
counts the page cache with it: it is the limit where the weights do not fit. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from compare_workers import anonymous_gb, files_of
from timing import print_results

_CGROUP = Path("/sys/fs/cgroup")
_FIRST_PROMPT_TOKENS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--limits", type=float, nargs="+", default=[13, 12, 10], metavar="GB")
    parser.add_argument("--dense", nargs="+", default=["bf16", "q8"], metavar="FORM")
    parser.add_argument("--context", type=int, default=8192, metavar="TOKENS")
    parser.add_argument("--prompt", type=int, default=512, metavar="TOKENS")
    parser.add_argument("--new", type=int, default=32, metavar="TOKENS")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        _work(args)
        return
    rows = []
    for limit in args.limits:
        for dense in args.dense:
            rows.append(_case(args, limit, dense))
            print(rows[-1], file=sys.stderr)
    print_results(f"{args.model}, context of {args.context}", rows, model=str(args.model))


def _case(args: argparse.Namespace, limit_gb: float, dense: str) -> dict[str, Any]:
    """Run one case in a process and a group of its own."""
    _drop(args.model)
    command = [sys.executable, __file__, str(args.model), "--worker", "--dense", dense]
    command += ["--context", str(args.context), "--prompt", str(args.prompt)]
    command += ["--new", str(args.new)]
    if args.threads:
        command += ["--threads", str(args.threads)]
    with _limited(command, int(limit_gb * 1e9)) as (limited, group):
        process = subprocess.run(limited, stdout=subprocess.PIPE, text=True, check=False)
        facts = {} if group is None else _group_facts(group)
    row: dict[str, Any] = {"limit GB": limit_gb, "dense": dense}
    if process.returncode:
        return row | {"failed": process.returncode}
    return row | json.loads(process.stdout.splitlines()[-1]) | facts


@contextlib.contextmanager
def _limited(command: list[str], limit_bytes: int) -> Iterator[tuple[list[str], Path | None]]:
    """Give the command that runs another in a new group, and the group where it can be read."""
    own = _own_group()
    if own is None:
        properties = [f"-pMemoryMax={limit_bytes}", "-pMemorySwapMax=0"]
        yield ["systemd-run", "--scope", "--quiet", *properties, *command], None
        return
    group = own / f"gptoss-bench-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(limit_bytes))
        # The shell joins the group, and becomes the command.
        enter = f'echo $$ > "{group}/cgroup.procs" && exec "$@"'
        yield ["sh", "-c", enter, "sh", *command], group
    finally:
        group.rmdir()


def _own_group() -> Path | None:
    """The folder of this process's memory group, of version 1."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return _CGROUP / "memory" / path.lstrip("/")
    return None


def _group_facts(group: Path) -> dict[str, Any]:
    peak = int((group / "memory.max_usage_in_bytes").read_text())
    return {"group's peak GB": peak / 1e9}


def _drop(model: Path) -> None:
    for file in files_of(model):
        with file.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class _Reads:
    """What has come from the disk so far."""

    def __init__(self) -> None:
        lines = Path("/proc/self/io").read_text().splitlines()
        counts = dict(line.split(": ") for line in lines)
        self.gb = int(counts["read_bytes"]) / 1e9
        self.faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt


def _work(args: argparse.Namespace) -> None:
    """Measure in this process: loading, a short prompt, a long one, decoding after it."""
    import gptoss

    (dense,) = args.dense
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    with gptoss.load(
        args.model, dense=dense, context_length=args.context, threads=args.threads
    ) as llm:
        load_s = time.perf_counter() - start

        def prompt(count: int) -> list[int]:
            return rng.integers(0, llm.config.vocab_size, count).tolist()

        def seconds(tokens: list[int], new: int) -> float:
            began = time.perf_counter()
            llm.generate(tokens, max_tokens=new, temperature=0, ignore_eos=True)
            return time.perf_counter() - began

        # Enough tokens to use nearly every expert of every layer.
        cold_s = seconds(prompt(_FIRST_PROMPT_TOKENS), 1)
        before = _Reads()
        tokens = prompt(args.prompt)
        warm_s = seconds(tokens, 1)
        between = _Reads()
        # Of the second request only decoding is left: the prompt's keys and values are there.
        decode_s = seconds(tokens, args.new)
        after = _Reads()
        status = Path("/proc/self/status").read_text().split()
        row = {
            "load s": load_s,
            "first prompt s": cold_s,
            "prompt tok/s": args.prompt / warm_s,
            "read GB": between.gb - before.gb,
            "decode tok/s": args.new / decode_s,
            "read GB/token": (after.gb - between.gb) / args.new,
            "faults/token": (after.faults - between.faults) / args.new,
            "resident GB": int(status[status.index("VmHWM:") + 1]) * 1024 / 1e9,
            "anonymous GB": anonymous_gb(),
        }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
