"""Grids that overlap: programmatic dependent launch, what it promises and what it does not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from emulator.device import BUILD, Call, Device, Module, Report, Result, launch_chain

SEEDS = range(int(os.environ.get("GPTOSS_EMULATOR_SEEDS", "12")))
LIBRARY = Path(BUILD) / "csrc/emulator/driver/libcuda.so.1"
BLOCKS, THREADS = 5, 64
COUNT = BLOCKS * THREADS

LAUNCH, WAIT = "griddepcontrol.launch_dependents;", "griddepcontrol.wait;"


def kernel(name: str, body: str) -> str:
    """Return a kernel: %rd4, %rd5, %rd6 point into x, y, z at the thread's number, %r5."""
    return f"""
.entry {name}(.param .u64 x, .param .u64 y, .param .u64 z) {{
  .reg .pred %p<4>; .reg .b32 %r<20>; .reg .b64 %rd<12>;
  ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [y]; ld.param.u64 %rd3, [z];
  mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x;
  mad.lo.u32 %r5, %r2, %r3, %r1;
  mul.wide.u32 %rd7, %r5, 4;
  add.u64 %rd4, %rd1, %rd7; add.u64 %rd5, %rd2, %rd7; add.u64 %rd6, %rd3, %rd7;
{body}
  ret;
}}
"""


def module(device: Device, *kernels: str) -> Module:
    """Load kernels for sm_90."""
    return device.load(".version 8.6\n.target sm_90\n.address_size 64\n" + "".join(kernels))


LOAD, STORE = "ld.global.u32 %r6, [%rd4];", "st.global.u32 [%rd5], %r6;"
PLUS = "add.u32 %r6, %r6, 1;"
# y = x + 1, beginning and letting others begin as early as possible.
STEP = f"{LAUNCH} {WAIT} {LOAD} {PLUS} {STORE}"


def run(bodies: list[str], buffers: list[tuple[int, int, int]], seed: int,
        programmatic: bool = True) -> tuple[list[Result], list[np.ndarray]]:  # fmt: skip
    """Run kernels one behind the other on the numbered buffers; return what is in those then."""
    device = Device()
    loaded = module(device, *(kernel(f"k{i}", b) for i, b in enumerate(bodies)))
    arrays = [device.buffer(np.arange(COUNT, dtype=np.uint32) + 100 * i, f"b{i}") for i in range(6)]
    calls = [
        Call(loaded, f"k{i}", BLOCKS, THREADS, [arrays[a] for a in which], programmatic and i > 0)
        for i, which in enumerate(buffers)
    ]
    results = launch_chain(calls, seed=seed, profile="H100")
    return results, [a.numpy() for a in arrays]


def races(results: list[Result]) -> list[Report]:
    """Return the reports of overlapping grids; nothing else may have been reported."""
    reports = [r for result in results for r in result.reports]
    assert {r.name for r in reports} <= {"race-grids"}, reports[0].text
    assert all(result.fault == "none" for result in results)
    return reports


INPUT = np.arange(COUNT, dtype=np.uint32)


@pytest.mark.parametrize("length", [2, 3, 9])
def test_kernels_that_wait_are_right_and_clean(length: int) -> None:
    """0 -> 1 -> 2 -> ... each reading what the one before wrote."""
    chain = [(i % 6, (i + 1) % 6, 0) for i in range(length)]
    for seed in SEEDS:
        results, arrays = run([STEP] * length, chain, seed)
        assert not races(results), races(results)[0].text
        assert np.array_equal(arrays[length % 6], INPUT + length)


def test_in_place_updates_that_wait_are_right_and_clean() -> None:
    for seed in SEEDS:
        results, arrays = run([STEP] * 5, [(0, 0, 0)] * 5, seed)
        assert not races(results)
        assert np.array_equal(arrays[0], INPUT + 5)


def test_weights_may_be_read_before_the_wait() -> None:
    early = f"{LAUNCH} ld.global.u32 %r7, [%rd6]; {WAIT} {LOAD} add.u32 %r6, %r6, %r7; {STORE}"
    for seed in SEEDS:
        results, arrays = run([early] * 3, [(0, 1, 5), (1, 2, 5), (2, 3, 5)], seed)
        assert not races(results)
        assert np.array_equal(arrays[3], INPUT + 3 * (INPUT + 500))


def test_one_thread_may_wait_for_its_block() -> None:
    one = f"{LAUNCH} setp.eq.u32 %p1, %r1, 17; @%p1 {WAIT} bar.sync 0; {LOAD} {PLUS} {STORE}"
    for seed in SEEDS:
        results, arrays = run([STEP, one], [(0, 1, 0), (1, 2, 0)], seed)
        assert not races(results)
        assert np.array_equal(arrays[2], INPUT + 2)


def test_a_launch_without_the_attribute_is_ordered() -> None:
    plain = f"{LAUNCH} {LOAD} {PLUS} {STORE}"
    for seed in SEEDS:
        results, arrays = run([plain] * 3, [(0, 1, 0), (1, 2, 0), (2, 0, 0)], seed, False)
        assert not races(results)
        assert np.array_equal(arrays[0], INPUT + 3)


def test_flags_order_grids_without_a_wait() -> None:
    """The first thread releases a counter that the later grid acquires; both run at once."""
    first = f"""{LAUNCH} {LOAD} {PLUS} {STORE} bar.sync 0;
  setp.eq.u32 %p1, %r1, 0; @%p1 red.release.gpu.global.add.u32 [%rd3], 1;"""
    second = f"""SPIN: ld.acquire.gpu.global.u32 %r8, [%rd3]; setp.lt.u32 %p2, %r8, {BLOCKS};
  @%p2 bra SPIN; {LOAD} {PLUS} {STORE}"""
    for seed in SEEDS:
        device = Device()
        loaded = module(device, kernel("a", first), kernel("b", second))
        x = device.buffer(INPUT)
        y, z = device.empty(COUNT, np.uint32), device.empty(COUNT, np.uint32)
        flag = device.buffer(np.zeros(1, np.uint32))
        calls = [
            Call(loaded, "a", BLOCKS, THREADS, [x, y, flag]),
            Call(loaded, "b", BLOCKS, THREADS, [y, z, flag], True),
        ]
        assert not races(launch_chain(calls, seed=seed))
        assert np.array_equal(z.numpy(), INPUT + 2)


# What is wrong, on which buffers, and the instructions on both sides.
FAULTS = {
    "reads before the wait": (
        [STEP, f"{LOAD} {WAIT} {PLUS} {STORE}"], [(0, 1, 0), (1, 2, 0)], "ld", "st"),
    "reads without a wait": (
        [STEP, f"{LOAD} {PLUS} {STORE}"], [(0, 1, 0), (1, 2, 0)], "ld", "st"),
    "reads without a wait what is written before dependents are launched": (
        [f"{LOAD} {PLUS} {STORE} {LAUNCH}", f"{LOAD} {PLUS} {STORE}"], [(0, 1, 0), (1, 2, 0)],
        "ld", "st"),
    "reads without a wait, though nothing is launched early": (
        [f"{LOAD} {PLUS} {STORE}", f"{LOAD} {PLUS} {STORE}"], [(0, 1, 0), (1, 2, 0)], "ld", "st"),
    "writes before the wait what the grid before reads": (
        [STEP, f"mov.u32 %r6, 5; {STORE} {WAIT}"], [(0, 1, 0), (2, 0, 0)], "st", "ld"),
    "writes before the wait what the grid before writes": (
        [STEP, f"mov.u32 %r6, 5; {STORE} {WAIT}"], [(0, 1, 0), (2, 1, 0)], "st", "st"),
    "the grid between does not wait": (
        [STEP, f"{LAUNCH} ld.global.u32 %r6, [%rd6]; {STORE}", STEP],
        [(0, 1, 0), (0, 2, 5), (1, 3, 0)], "ld", "st"),
    "one warp waits and no barrier follows": (
        [STEP, f"setp.lt.u32 %p1, %r1, 32; @%p1 {WAIT} {LOAD} {PLUS} {STORE}"],
        [(0, 1, 0), (1, 2, 0)], "ld", "st"),
    "a thread waits behind a barrier": (
        [STEP, f"setp.eq.u32 %p1, %r1, 0; bar.sync 0; @%p1 {WAIT} {LOAD} {PLUS} {STORE}"],
        [(0, 1, 0), (1, 2, 0)], "ld", "st"),
    "reads before the wait what the grid before the last one wrote": (
        [STEP, STEP, f"ld.global.u32 %r6, [%rd6]; {WAIT} {STORE}"],
        [(0, 1, 0), (1, 2, 0), (2, 3, 1)], "ld", "st"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_reported_with_both_sides(name: str) -> None:
    bodies, buffers, access, other = FAULTS[name]
    last = f"k{len(bodies) - 1}"
    for seed in SEEDS:
        reports = races(run(bodies, buffers, seed)[0])
        assert reports, f"seed {seed}"
        report = reports[0]
        assert report.access is not None
        assert report.other is not None
        # Whichever came second found it.
        sides = [(report.access.kernel or f"{report.text}".split(" in ")[1].split(":")[0],
                  report.access.text), (report.other.kernel, report.other.text)]  # fmt: skip
        sides.sort(key=lambda side: side[0] != last)
        assert sides[0][0] == last
        assert sides[1][0] < last
        assert re.match(access, sides[0][1])
        assert re.match(other, sides[1][1])


# Reads x through the read-only path behind the wait.
READ_ONLY = f"{LAUNCH} {WAIT} ld.global.nc.u32 %r6, [%rd4]; {PLUS} {STORE}"


def _read_only(bodies: list[str], buffers: list[tuple[int, int, int]],
               programmatic: bool = True) -> set[bool]:  # fmt: skip
    """Return what was found under the seeds: whether the last kernel's read was reported."""
    found = set()
    for seed in SEEDS:
        results, arrays = run(bodies, buffers, seed, programmatic)
        reports = [r for result in results for r in result.reports]
        for report in reports:
            assert report.name == "read-only-written"
            assert report.access is not None
            assert report.other is not None
            assert report.access.text.startswith("ld.global.nc")
            assert report.other.text.startswith("st.")
            assert report.other.kernel == "k0"
            assert "had not ended when this one began" in report.message
        assert np.array_equal(arrays[buffers[-1][1]], INPUT + len(bodies))
        found.add(bool(reports))
    return found


def test_the_read_only_path_is_not_for_what_a_grid_beside_this_one_writes() -> None:
    """However well this one waits; under seeds where it began before the other had ended."""
    two = [(0, 1, 0), (1, 2, 0)]
    assert True in _read_only([STEP, READ_ONLY], two)
    # A plain load, and grids that do not overlap: one is not launched early, or none is.
    assert _read_only([STEP, STEP], two) == {False}
    late = f"{WAIT} {LOAD} {PLUS} {STORE}"
    assert _read_only([late, READ_ONLY], two) == {False}
    assert _read_only([STEP, READ_ONLY], two, False) == {False}


def test_the_read_only_path_is_for_what_had_ended_before() -> None:
    """The grid between waits before it launches its dependents, or does not."""
    three = [(0, 1, 0), (1, 2, 0), (2, 3, 1)]
    last = f"{LAUNCH} {WAIT} ld.global.nc.u32 %r7, [%rd6]; {LOAD} {PLUS} {STORE}"
    assert _read_only([STEP, f"{WAIT} {LAUNCH} {LOAD} {PLUS} {STORE}", last], three) == {False}
    assert True in _read_only([STEP, STEP, last], three)


def test_weights_may_be_read_through_the_read_only_path() -> None:
    early = f"{LAUNCH} ld.global.nc.u32 %r7, [%rd6]; {WAIT} {LOAD} {PLUS} {STORE}"
    chain = [(i, i + 1, 5) for i in range(4)]
    assert _read_only([early] * 4, chain) == {False}


def test_the_values_show_that_grids_overlap() -> None:
    """Without the wait some blocks read what was there before, and some what was written."""
    seen = set()
    for seed in range(30):
        arrays = run([STEP, f"{LOAD} {PLUS} {STORE}"], [(0, 1, 0), (1, 2, 0)], seed)[1]
        for block in range(BLOCKS):
            part = slice(block * THREADS, (block + 1) * THREADS)
            seen.add(bool(np.array_equal(arrays[2][part], INPUT[part] + 2)))
    assert seen == {True, False}


def test_a_grid_that_launches_nothing_is_not_overlapped() -> None:
    late = f"{WAIT} {LOAD} {PLUS} {STORE}"
    for seed in range(20):
        arrays = run([late, f"{LOAD} {PLUS} {STORE}"], [(0, 1, 0), (1, 2, 0)], seed)[1]
        assert np.array_equal(arrays[2], INPUT + 2)


def test_every_block_must_launch_or_end_before_the_next_grid_begins() -> None:
    """Only block 2 launches its dependents: the others' end is what counts."""
    one = f"setp.eq.u32 %p1, %r2, 2; @%p1 {LAUNCH} {LOAD} {PLUS} {STORE}"
    for seed in range(20):
        arrays = run([one, f"{LOAD} {PLUS} {STORE}"], [(0, 1, 0), (1, 2, 0)], seed)[1]
        others = np.arange(COUNT) // THREADS != 2
        assert np.array_equal(arrays[2][others], (INPUT + 2)[others])


def test_waiting_for_a_grid_that_waits_for_this_one_ends() -> None:
    spins = f"""{LAUNCH}
SPIN: ld.acquire.gpu.global.u32 %r8, [%rd3]; setp.eq.u32 %p2, %r8, 0; @%p2 bra SPIN;"""
    sets = f"{WAIT} mov.u32 %r8, 1; st.release.gpu.global.u32 [%rd3], %r8;"
    device = Device()
    loaded = module(device, kernel("a", spins), kernel("b", sets))
    flag = device.buffer(np.zeros(1, np.uint32))
    calls = [Call(loaded, n, 1, 32, [flag] * 3, n == "b") for n in "ab"]
    results = launch_chain(calls, seed=1)
    assert results[0].fault == "timeout"
    assert results[0].classes == {"endless-spin"}
    assert results[1].fault == "none"


def test_a_fault_ends_the_chain() -> None:
    bodies = [STEP, "mov.u64 %rd8, 16; st.global.u32 [%rd8], %r1;", STEP]
    results, arrays = run(bodies, [(0, 1, 0), (1, 2, 0), (2, 3, 0)], 1)
    assert [r.fault for r in results] == ["none", "illegal-address", "none"]
    assert not results[2].counters["ctas"]
    assert np.array_equal(arrays[3], INPUT + 300)


DRIVER = f"""
import ctypes, sys
import numpy as np

lib = ctypes.CDLL(sys.argv[1])
lib.emulatorTakeReports.restype = ctypes.c_char_p
assert lib.cuInit(0) == 0
context, module = ctypes.c_void_p(), ctypes.c_void_p()
assert lib.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
assert lib.cuCtxSetCurrent(context) == 0
image = open(sys.argv[2], "rb").read()
assert lib.cuModuleLoadData(ctypes.byref(module), image) == 0
way, body = sys.argv[3], sys.argv[4]
functions = []
for name in ("step", body):
    functions.append(ctypes.c_void_p())
    assert lib.cuModuleGetFunction(ctypes.byref(functions[-1]), module, name.encode()) == 0
x, y = ctypes.c_uint64(), ctypes.c_uint64()
count = {COUNT}
for p in (x, y):
    assert lib.cuMemAlloc_v2(ctypes.byref(p), 4 * count) == 0
assert lib.cuMemsetD32_v2(x, 0, count) == 0
assert lib.cuMemsetD32_v2(y, 0, count) == 0
stream = ctypes.c_void_p()
assert lib.cuStreamCreate(ctypes.byref(stream), 1) == 0


class Attribute(ctypes.Structure):
    _fields_ = [("id", ctypes.c_int), ("pad", ctypes.c_char * 4), ("value", ctypes.c_int * 16)]


class Config(ctypes.Structure):
    _fields_ = [("dims", ctypes.c_uint * 7), ("stream", ctypes.c_void_p),
                ("attributes", ctypes.c_void_p), ("count", ctypes.c_uint)]


class Node(ctypes.Structure):
    _fields_ = [("function", ctypes.c_void_p), ("dims", ctypes.c_uint * 7),
                ("parameters", ctypes.c_void_p), ("extra", ctypes.c_void_p),
                ("kernel", ctypes.c_void_p), ("context", ctypes.c_void_p)]


dims = (ctypes.c_uint * 7)({BLOCKS}, 1, 1, {THREADS}, 1, 1, 0)
pointers = [(x, y, y), (y, x, x)]
packed = [(ctypes.c_void_p * 3)(*(ctypes.addressof(v) for v in row)) for row in pointers]


def launch(i):
    attribute = Attribute(6)
    attribute.value[0] = way != "plain"
    config = Config(dims, stream, ctypes.addressof(attribute), 1)
    return lib.cuLaunchKernelEx(ctypes.byref(config), functions[i % 2], packed[i % 2], None)


graph, run = ctypes.c_void_p(), ctypes.c_void_p()
if way in ("stream", "plain"):
    for i in range(4):
        assert launch(i) == 0
else:
    if way == "capture":
        assert lib.cuStreamBeginCapture_v2(stream, 0) == 0
        for i in range(4):
            assert launch(i) == 0
        assert lib.cuStreamEndCapture(stream, ctypes.byref(graph)) == 0
    else:
        assert lib.cuGraphCreate(ctypes.byref(graph), 0) == 0
        nodes = []
        for i in range(4):
            nodes.append(ctypes.c_void_p())
            node = Node(functions[i % 2], dims, ctypes.addressof(packed[i % 2]))
            assert lib.cuGraphAddKernelNode_v2(
                ctypes.byref(nodes[-1]), graph, None, ctypes.c_size_t(0), ctypes.byref(node)) == 0
        add = lib.cuGraphAddDependencies_v2
        one = ctypes.c_size_t(1)

        def edge(i, data):
            pair = [ctypes.byref(ctypes.c_void_p(nodes[j].value)) for j in (i, i + 1)]
            return add(graph, *pair, (ctypes.c_ubyte * 8)(*data), one)

        # A port without the type, the type without the port, a port of the target, launch order.
        assert edge(0, [1, 0, 0]) == 1
        assert edge(0, [0, 0, 1]) == 1
        assert edge(0, [1, 1, 1]) == 1
        assert edge(0, [1, 0, 1, 7]) == 1
        assert edge(0, [2, 0, 1]) == 801
        empty = ctypes.c_void_p()
        assert lib.cuGraphAddEmptyNode(ctypes.byref(empty), graph, None, ctypes.c_size_t(0)) == 0
        nodes.append(empty)
        assert edge(3, [1, 0, 1]) == 1
        for i in range(3):
            assert edge(i, [1, 0, 1] if way == "graph" else [0, 0, 0]) == 0
    assert lib.cuGraphInstantiateWithFlags(ctypes.byref(run), graph, ctypes.c_ulonglong(0)) == 0
    assert lib.cuGraphLaunch(run, stream) == 0
status = lib.cuStreamSynchronize(stream)
sys.stdout.write(lib.emulatorTakeReports().decode())
assert status in (0, 719), status
if status == 0:
    out = np.zeros(count, np.uint32)
    assert lib.cuMemcpyDtoH_v2(ctypes.c_void_p(out.ctypes.data), x, ctypes.c_size_t(4 * count)) == 0
    assert (out == 4).all(), out
sys.stdout.write("status %d" % status)
"""


def _drive(tmp_path: Path, way: str, body: str, device: str = "H100", seed: int = 1) -> str:
    image = tmp_path / "grids.ptx"
    target = "sm_90" if device == "H100" else "sm_80"
    steps = [kernel("step", STEP), kernel("hasty", f"{LAUNCH} {LOAD} {WAIT} {PLUS} {STORE}")]
    plain = [kernel("step", f"{LOAD} {PLUS} {STORE}")]
    image.write_text(
        f".version 8.6\n.target {target}\n.address_size 64\n"
        + "".join(steps if device == "H100" else plain)
    )
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, LIBRARY, image, way, body],
        env=os.environ | {"GPTOSS_EMULATOR_DEVICES": device, "GPTOSS_EMULATOR_QUIET": "1",
                          "GPTOSS_EMULATOR_SEED": str(seed)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("way", ["stream", "capture", "graph"])
def test_the_driver_overlaps_what_it_is_told_to(tmp_path: Path, way: str) -> None:
    for seed in (1, 2, 3):
        assert _drive(tmp_path, way, "step", seed=seed) == "status 0"
    said = _drive(tmp_path, way, "hasty")
    assert "error race-grids in " in said
    assert "by step, CTA" in said or "by hasty, CTA" in said
    assert said.endswith("status 719")


@pytest.mark.parametrize("way", ["plain", "full"])
def test_the_driver_orders_everything_else(tmp_path: Path, way: str) -> None:
    assert _drive(tmp_path, way, "hasty") == "status 0"


@pytest.mark.parametrize("way", ["stream", "graph"])
def test_older_cards_run_one_grid_after_the_other(tmp_path: Path, way: str) -> None:
    assert _drive(tmp_path, way, "step", device="A100") == "status 0"
