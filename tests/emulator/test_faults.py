"""Planted faults: each is reported with the right class, the instruction and the other side."""

from __future__ import annotations

import os
import re
from functools import cache
from typing import Any

import numpy as np
import pytest

from emulator import cluster_faults, corpus, faults
from emulator.device import Device, Report, Result, ptx
from emulator.faults import Planted, Small, plant

PLANTED = faults.PLANTED | cluster_faults.PLANTED
SMALL = faults.SMALL | cluster_faults.SMALL
SEEDS = range(int(os.environ.get("GPTOSS_EMULATOR_SEEDS", "4")))


def _planted_text(name: str, fault: Planted) -> str:
    text = ptx(corpus.file_of(fault.case))
    if name == "rmsnorm with a shared array too small":
        # Module-level in PTX: the array stands outside the kernel.
        changed = re.sub(r"(\.b8 _ZZ7rmsnormE4part)\[32\]", r"\1[28]", text)
        assert changed != text
        return changed
    return plant(text, fault.kernel or fault.case, fault.edits)


def _find(result: Result, classes: set[str], access: str, other: str) -> Report | None:
    for report in result.reports:
        if report.name not in classes:
            continue
        sides = [report.access, report.other]
        if access and not (sides[0] and re.search(access, sides[0].text)):
            continue
        if other and not (sides[1] and re.search(other, sides[1].text)):
            continue
        return report
    return None


@cache
def _outcomes(name: str) -> list[corpus.Outcome]:
    fault = PLANTED[name]
    text = _planted_text(name, fault)
    return [corpus.run(fault.case, text, seed=seed) for seed in list(SEEDS)[:4]]


@pytest.mark.parametrize("name", PLANTED)
def test_planted_fault_is_reported(name: str) -> None:
    fault = PLANTED[name]
    outcomes = _outcomes(name)
    reports = [_find(o.result, fault.classes, fault.access, fault.other) for o in outcomes]
    found = [r for r in reports if r]
    said = "\n".join(r.text for o in outcomes for r in o.result.reports)
    assert found, f"expected one of {sorted(fault.classes)}, found:\n{said}"
    report = found[0]
    assert report.access is not None
    # Line of the source, where the kernel has one; lane and warp always.
    assert report.access.source_line > 0
    assert report.access.file
    assert report.access.warp >= 0
    assert report.access.lane >= 0
    if fault.other:
        assert report.other is not None
        assert report.other.source_line > 0
    if fault.numbers == "right":
        assert any(o.is_right for o in outcomes), "the values show this fault, too"


def test_many_faults_leave_the_numbers_right() -> None:
    hidden = [
        name for name in PLANTED if any(o.result.errors and o.is_right for o in _outcomes(name))
    ]
    assert len(hidden) >= 25, hidden


def _run_small(case: Small, line: str, options: dict[str, object], seed: int) -> Result:
    device = Device()
    x = device.buffer(np.arange(128, dtype=np.uint32) + 1, "x")
    out = device.empty(128, np.uint32, "out")
    module = device.load(case.text(line))
    chosen: dict[str, Any] = {"grid": 2, "block": 64} | options | case.always
    grid, block = chosen.pop("grid"), chosen.pop("block")
    return module.launch("k", grid, block, x, out, 128, seed=seed, **chosen)


@pytest.mark.parametrize("name", SMALL)
def test_small_fault_is_reported(name: str) -> None:
    case = SMALL[name]
    results = [_run_small(case, case.wrong, case.options, seed) for seed in list(SEEDS)[:4]]
    reports = [r for r in (_find(x, case.classes, "", case.other) for x in results) if r]
    said = "\n".join(r.text for x in results for r in x.reports)
    assert reports, f"expected one of {sorted(case.classes)}, found:\n{said or 'nothing'}"
    if case.other:
        assert reports[0].other is not None


@pytest.mark.parametrize("name", SMALL)
def test_small_kernel_without_the_fault_is_clean(name: str) -> None:
    case = SMALL[name]
    keeps = {"max_warp_instructions", "profile"}
    options = {k: v for k, v in case.options.items() if k in keeps}
    for seed in SEEDS:
        result = _run_small(case, case.right, options, seed)
        assert result.fault == "none", result.reports[0].text
        assert not result.reports, result.reports[0].text


def test_faults_are_of_many_classes() -> None:
    caught = {
        name
        for fault in PLANTED.values()
        for o in _outcomes(next(n for n, f in PLANTED.items() if f is fault))
        for name in o.result.classes & fault.classes
    }
    for case in SMALL.values():
        caught |= _run_small(case, case.wrong, case.options, 0).classes & case.classes
    # As docs/emulator.md says, with the faults of test_tensor.py, which are of one class more.
    assert len(caught) == 45, caught
    assert (len(PLANTED), len(SMALL)) == (148, 74)
    assert not faults.PLANTED.keys() & cluster_faults.PLANTED.keys()
    assert not faults.SMALL.keys() & cluster_faults.SMALL.keys()


# One thread of each block adds to x[0]; that of block 0 accesses it before, weakly or not.
_BEHIND_ATOMIC = """
  or.b32 %r11, %r2, %r3;
  setp.eq.u32 %p1, %r11, 0;
  setp.eq.u32 %p2, %r2, 0;
  @%p1 {};
  @%p2 atom.global.add.u32 %r21, [%rd1], 1;
  @%p2 st.global.u32 [%rd5], %r21;"""


@pytest.mark.parametrize(
    ("first", "is_weak"),
    [
        ("st.global.u32 [%rd1], %r2", True),
        ("ld.global.u32 %r20, [%rd1]", True),
        ("st.relaxed.gpu.global.u32 [%rd1], %r2", False),
        ("ld.relaxed.gpu.global.u32 %r20, [%rd1]", False),
    ],
)
def test_an_atomic_does_not_hide_what_its_thread_did_before(first: str, is_weak: bool) -> None:
    """Whichever block comes first: the other's atomic races with the weak access."""
    case = Small(_BEHIND_ATOMIC, first, first, {"race-mixed"})
    for seed in range(12):
        result = _run_small(case, first, {}, seed)
        assert result.classes == ({"race-mixed"} if is_weak else set()), seed
        if is_weak:
            texts = [s.text for s in (result.reports[0].access, result.reports[0].other) if s]
            assert any("atom" in t for t in texts)
            assert any(first.split()[0] in t for t in texts)


def test_use_after_free_names_the_allocation() -> None:
    device = Device()
    x = device.buffer(np.zeros(128, np.uint32), "weights")
    out = device.empty(128, np.uint32, "out")
    module = device.load(SMALL["misaligned"].text("%rd1+4"))
    x.free()
    result = module.launch("k", 2, 64, x, out, 128)
    assert result.fault == "illegal-address"
    assert result.classes == {"use-after-free"}
    assert "weights+4 of 512 bytes" in result.reports[0].message


def test_a_fault_stops_the_launch_with_its_error() -> None:
    expected = {
        "null": "illegal-address",
        "misaligned": "misaligned-address",
        "barrier 16": "illegal-instruction",
        "a trap": "trap",
        "an endless loop": "timeout",
        "too many threads": "invalid-launch",
        "too many cooperating blocks": "cooperative-too-large",
    }
    for name, fault in expected.items():
        case = SMALL[name]
        assert _run_small(case, case.wrong, case.options, 0).fault == fault, name


def test_a_report_says_how_to_repeat_it() -> None:
    result = _run_small(SMALL["null"], SMALL["null"].wrong, {}, 11)
    assert "seed 11" in result.reports[0].text
    assert result.reports[0].text.startswith("error null in k: null pointer: address 0x10")
