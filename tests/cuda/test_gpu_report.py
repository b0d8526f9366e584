"""bench/gpu_report.sh from beginning to end, so that it works the first time on a card."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import gpu_report
from cuda.card import KERNELS_FILE
from gptoss import _core

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(bool(KERNELS_FILE), reason="runs these tests itself")


def lines_of(folder: Path) -> dict[str, dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "report.jsonl").read_text().splitlines()]
    return {line["name"]: line for line in lines}


def test_report_of_an_emulated_card(tmp_path: Path) -> None:
    command = [str(ROOT / "bench/gpu_report.sh"), "--out", str(tmp_path), "--size", "tiny"]
    # The build that is loaded here, for what tools/emulated.sh compiles it for; so nothing is left
    # to compile, and other tests find it as it was.
    architectures = "compute_80;compute_90"
    command += ["--build", str(Path(_core.__file__).resolve().parent)]
    done = subprocess.run(
        [*command, "--", "-k", "test_embed"],
        env=os.environ | {"GPTOSS_REPORT_ARCHITECTURES": architectures, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = lines_of(tmp_path)
    for line in lines.values():
        assert "error" not in line, line
        assert "skipped" not in line, line
    assert "4 passed" in lines["pytest -m cuda"]["value"]
    assert "Emulated A100" in lines["device"]["value"]
    assert 0 < lines["two layers beside the CPU"]["value"] < 0.02
    plan = gpu_report.PLANS["tiny"]
    rates = [f"{model}: decode at 8" for model in ("20b", "20b q8", "120b")]
    rates += [f"20b: decode at {n}" for n in plan.contexts[1:]]
    rates += [f"20b: {n} together at 8" for n in plan.batches]
    for name in rates:
        assert lines[name]["value"] > 0
        assert lines[name]["of_copy"] > 0
    assert lines["20b: served, 3 requests, 8 in, 4 out"]["made_tokens"] == 12
    table = (tmp_path / "report.md").read_text().splitlines()
    assert len(table) == 2 + len(lines)
    assert all(row.count("|") == 7 for row in table)


def test_without_time_every_line_says_so(tmp_path: Path) -> None:
    assert gpu_report.main(["--out", str(tmp_path), "--size", "tiny", "--seconds", "0"]) == 0
    lines = lines_of(tmp_path)
    assert "value" in lines["device"]
    assert "0 s left" in lines["20b: load"]["skipped"]


def test_a_device_that_errs_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = gpu_report.PLANS["tiny"]
    monkeypatch.setattr(gpu_report, "_MOST_ERROR", 1e-9)
    with pytest.raises(ValueError, match="logits err by"):
        gpu_report.check(plan.checked, plan, "cuda")


def test_an_error_costs_one_line(tmp_path: Path) -> None:
    report = gpu_report.Report(tmp_path, 60)

    def fail() -> dict[str, Any]:
        raise RuntimeError("no luck | today")

    report.line("first", fail)
    report.line("second", lambda: {"value": 2.0, "unit": "tok/s"})
    lines = lines_of(tmp_path)
    assert lines["first"]["error"] == "RuntimeError: no luck | today"
    assert lines["second"]["value"] == 2.0
    assert "no luck / today" in (tmp_path / "report.md").read_text()


def test_clocks_are_those_of_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\n"
        'case "$*" in *clocks_event_reasons*) exit 2 ;; *-lms*) ;; *) exit 0 ;; esac\n'
        "echo '1755, 3201, 41, 305.5, 0x0000000000000004'\n"
        "echo '1740, 3201, 44, 311.0, 0x0000000000000020'\n"
        "exec sleep 60\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    clocks = gpu_report.Clocks()
    try:
        while clocks.mark() < 2:
            pass
        assert clocks.since(0) == {
            "sm_mhz": 1740.0,
            "memory_mhz": 3201.0,
            "celsius": 44.0,
            "watts": 311.0,
            "throttle": "0x24",
        }
        assert clocks.since(2) == {}
    finally:
        clocks.close()
