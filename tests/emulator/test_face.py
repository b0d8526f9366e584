"""The command line tool, and the limits of the device profiles."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from emulator.device import BUILD, DATA, Device, ptx

TOOL = Path(BUILD) / "csrc/emulator/gptoss-emulator"


def _tool(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([TOOL, *words], capture_output=True, text=True, check=False, timeout=60)


def test_run_prints_what_the_kernel_writes() -> None:
    done = _tool(
        "run", DATA / "corpus.ptx", "scan", "--grid", "1", "--block", "256", "--seeds", "3",
        "s32[256]=2", "out:s32[256]",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    counters, values = done.stdout.splitlines()
    assert values.split() == [str(2 * (i + 1)) for i in range(256)]
    assert json.loads(counters)["barriers"] == 8


def test_run_reports_and_fails() -> None:
    done = _tool("run", DATA / "corpus.ptx", "scan", "--block", "256", "s32[255]", "out:s32[256]")
    assert done.returncode == 1
    assert "error out-of-bounds-global in scan" in done.stdout
    assert "argument 0+1020 of 1020 bytes" in done.stdout
    assert "corpus.cu:" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "no_such_file.ptx", "k"], "cannot read no_such_file.ptx"),
        (["run", DATA / "corpus.ptx", "no_such_kernel"], "no kernel no_such_kernel"),
        (["run", DATA / "corpus.ptx", "scan", "s32:1"], "the kernel takes 2 arguments"),
        (["run", DATA / "corpus.ptx", "scan", "--profile", "GTX 480"], "unknown device profile"),
        (["fly"], "usage:"),
    ],
)
def test_wrong_usage_is_explained(words: list[str | Path], message: str) -> None:
    done = _tool(*words)
    assert done.returncode == 2
    assert message in done.stderr


def test_coverage_names_what_is_missing(tmp_path: Path) -> None:
    assert _tool("coverage", DATA / "corpus.ptx", DATA / "triton_matmul.ptx").returncode == 0
    later = tmp_path / "later.ptx"
    later.write_text(
        ".version 8.0\n.target sm_90\n.address_size 64\n"
        ".entry k() {\n  tcgen05.wait::ld.sync.aligned;\n  ret;\n}\n"
    )
    done = _tool("coverage", later)
    assert done.returncode == 1
    assert '"tcgen05.wait::ld.sync.aligned": [5]' in done.stdout


@pytest.mark.parametrize(
    ("profile", "most_kib", "at_once"),
    [
        ("A100", 163, 2), ("H100", 227, 2), ("H200", 227, 2), ("B200", 227, 2), ("Orin", 163, 2),
        ("RTX 3060", 99, 1), ("RTX 3090", 99, 1), ("RTX 4090", 99, 1), ("RTX 5090", 99, 1),
        ("GB10", 99, 1), ("T4", 64, 1),
    ],
)  # fmt: skip
def test_profiles_limit_launches(profile: str, most_kib: int, at_once: int) -> None:
    device = Device()
    module = device.load(ptx("corpus"))
    x = device.buffer(np.arange(256, dtype=np.int32), "x")
    out = device.empty(256, "i4", "out")
    static = 256 * 4 + 8 * 4

    def launch(shared: int) -> str:
        result = module.launch("scan", 1, 256, x, out, shared=shared, profile=profile)
        return result.fault

    assert launch(most_kib * 1024 - static) == "none"
    assert launch(most_kib * 1024 - static + 16) == "invalid-launch"
    # Blocks of a cooperative launch must all be resident, here on one multiprocessor.
    grid = {"cooperative": True, "multiprocessors": 1}
    for blocks, fault in ((at_once, "none"), (at_once + 4, "cooperative-too-large")):
        middle = device.empty(64 * blocks, "i4")
        result = module.launch(
            "grid_phases", blocks, 64, x, middle, out, 64, shared=60 * 1024, profile=profile, **grid
        )
        assert result.fault == fault, blocks
