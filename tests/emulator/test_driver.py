"""The stand-in driver: a host program runs unmodified, and the interface is the real one's."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import struct
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from emulator.device import BUILD, DATA, ptx
from emulator.faults import BAR, plant

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
LIBRARY = Path(BUILD) / "csrc/emulator/driver/libcuda.so.1"
COMPILER = shutil.which("c++") or shutil.which("g++")
TOOLKIT = next((p for p in (Path("/usr/local/cuda/include"),) if (p / "cuda.h").exists()), None)

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")
needs_cuda_h = pytest.mark.skipif(TOOLKIT is None, reason="needs cuda.h of the CUDA toolkit")
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")


PTX_ENTRY, CUBIN_ENTRY = 1, 2
ONE_ARCHITECTURE, FAMILY, COMPRESSED = 0x100000, 0x1200000, 0x8000


def _fatbin(*entries: tuple[int, int, bytes, int]) -> bytes:
    """Return a fat binary of (kind, architecture, payload, flags)."""
    body = b""
    for kind, architecture, payload, flags in entries:
        minor = payload[8] if kind == CUBIN_ENTRY else 0
        if flags & COMPRESSED:
            payload = b"zzzz" + payload[4:]
        payload += bytes(-len(payload) % 8 + 8)
        body += struct.pack(
            "<HHIQIIHHIIIQQQ",
            kind,
            0x101,
            64,
            len(payload),
            0,
            0,
            minor,
            9,
            architecture,
            0,
            0,
            flags,
            0,
            0,
        )
        body += payload
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def _cubin(os_abi: int, version: int) -> bytes:
    """Return the beginning of machine code, with what its header says of its ABI."""
    return b"\x7fELF\x02\x01\x01" + bytes([os_abi, version]) + bytes(55)


def _compile(source: Path, out: Path, *options: str) -> Path:
    assert COMPILER
    command = [
        COMPILER,
        "-std=c++17",
        "-Wall",
        "-Wextra",
        *options,
        str(source),
        "-o",
        str(out),
        "-ldl",
    ]
    subprocess.run(command, check=True)
    return out


def _run_host(program: Path, image: Path, seed: int = 1) -> None:
    environment = {
        **os.environ,
        "GPTOSS_EMULATOR_DEVICES": "A100:memory=256M;RTX 4090:memory=64M:sms=6",
        "GPTOSS_EMULATOR_SEED": str(seed),
    }
    done = subprocess.run(
        [program, LIBRARY, DATA / "corpus.ptx", image],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def host_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The host program, built against the stand-in's own header."""
    out = tmp_path_factory.mktemp("host") / "host_program"
    return _compile(HERE / "host_program.cpp", out, f"-I{CSRC}")


@pytest.fixture(scope="module")
def fat_binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Machine code, compressed PTX, PTX for a newer device, and PTX that can run."""
    out = tmp_path_factory.mktemp("image") / "corpus.fatbin"
    text = ptx("corpus").encode()
    out.write_bytes(
        _fatbin(
            (2, 80, _cubin(0x33, 7), 0x11),
            (1, 75, b"zzzz", 0x8011),
            (1, 90, b"none", 0x11),
            (1, 80, text, 0x11),
        )
    )
    return out


@needs_compiler
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_host_program_runs(host_program: Path, fat_binary: Path, seed: int) -> None:
    _run_host(host_program, fat_binary, seed)


@needs_compiler
@needs_cuda_h
def test_host_program_runs_when_built_with_cuda_h(tmp_path: Path, fat_binary: Path) -> None:
    program = _compile(
        HERE / "host_program.cpp", tmp_path / "program", f"-I{TOOLKIT}", "-DGPTOSS_CUDA_H"
    )
    _run_host(program, fat_binary)


@needs_compiler
@needs_nvcc
def test_host_program_runs_on_a_fat_binary_of_nvcc(host_program: Path, tmp_path: Path) -> None:
    image = tmp_path / "corpus.fatbin"
    command = [
        "nvcc",
        "-gencode",
        "arch=compute_80,code=[sm_80,compute_80]",
        "--no-compress",
        "-fatbin",
    ]
    subprocess.run([*command, DATA / "cuda/corpus.cu", "-o", image], check=True)
    _run_host(host_program, image)


def _numbers(tmp_path: Path, *options: str) -> str:
    header = (CSRC / "emulator/driver/cuda_abi.h").read_text()
    names = re.findall(r"\b(CU(?:DA)?_[A-Z0-9_]+) = ", header)
    structures = re.findall(r"^\} (CU\w+);", header, re.MULTILINE)
    assert len(names) > 100
    assert len(structures) > 8
    lines = [f'  std::printf("{n} %lld\\n", static_cast<long long>({n}));' for n in names]
    lines += [f'  std::printf("{s} %zu\\n", sizeof({s}));' for s in structures]
    for structure, members in {
        "CUlaunchConfig": ["sharedMemBytes", "hStream", "attrs", "numAttrs"],
        "CUlaunchAttribute": ["id", "value"],
        "CUDA_KERNEL_NODE_PARAMS": [
            "gridDimX",
            "sharedMemBytes",
            "kernelParams",
            "extra",
            "kern",
            "ctx",
        ],
        "CUDA_MEMSET_NODE_PARAMS": ["dst", "pitch", "value", "elementSize", "width", "height"],
        "CUDA_MEMCPY3D": [
            "srcHost",
            "srcDevice",
            "srcPitch",
            "dstHost",
            "dstDevice",
            "WidthInBytes",
        ],
        "CUDA_MEMCPY2D": [
            "srcHost",
            "srcDevice",
            "srcPitch",
            "dstHost",
            "dstDevice",
            "WidthInBytes",
        ],
    }.items():
        for member in members:
            lines.append(f'  std::printf("{member} %zu\\n", offsetof({structure}, {member}));')
    source = tmp_path / "numbers.cpp"
    source.write_text(
        "#ifdef GPTOSS_CUDA_H\n#include <cuda.h>\n#else\n"
        '#include "emulator/driver/cuda_abi.h"\n#endif\n'
        "#include <cstddef>\n#include <cstdio>\nint main() {\n" + "\n".join(lines) + "\n}\n"
    )
    program = _compile(source, tmp_path / "numbers", *options)
    return subprocess.run([program], check=True, capture_output=True, text=True).stdout


@needs_compiler
@needs_cuda_h
def test_interface_is_that_of_cuda_h(tmp_path: Path) -> None:
    own = _numbers(tmp_path, f"-I{CSRC}")
    assert own == _numbers(tmp_path, f"-I{TOOLKIT}", "-DGPTOSS_CUDA_H")


@cache
def _driver() -> ctypes.CDLL:
    os.environ["GPTOSS_EMULATOR_QUIET"] = "1"
    lib = ctypes.CDLL(str(LIBRARY))
    lib.emulatorEntryPoints.restype = ctypes.c_char_p
    lib.emulatorTakeReports.restype = ctypes.c_char_p
    assert lib.cuInit(0) == 0
    context = ctypes.c_void_p()
    assert lib.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
    assert lib.cuCtxSetCurrent(context) == 0
    return lib


def test_every_entry_point_is_found_and_described() -> None:
    lib = _driver()
    lines = [line.split("\t") for line in lib.emulatorEntryPoints().decode().splitlines()]
    assert len(lines) >= 110
    address = ctypes.c_void_p()
    for name, symbol, _models in lines:
        if name in ("cuFuncGetName", "cuFuncGetParamInfo"):  # newer than CUDA 12.0
            continue
        assert lib.cuGetProcAddress_v2(name.encode(), ctypes.byref(address), 12000, 0, None) == 0, (
            name
        )
        assert address.value == ctypes.cast(getattr(lib, symbol), ctypes.c_void_p).value
    for name, symbol in {
        "cuCtxCreate": "cuCtxCreate_v4",
        "cuEventElapsedTime": "cuEventElapsedTime_v2",
        "cuFuncGetName": "cuFuncGetName",
        "cuFuncGetParamInfo": "cuFuncGetParamInfo",
        "cuGraphAddDependencies": "cuGraphAddDependencies_v2",
    }.items():
        assert lib.cuGetProcAddress_v2(name.encode(), ctypes.byref(address), 13000, 0, None) == 0
        assert address.value == ctypes.cast(getattr(lib, symbol), ctypes.c_void_p).value
    # Nothing is exported that the list leaves out, but other versions of its entries.
    shown = subprocess.run(
        ["nm", "-D", "--defined-only", LIBRARY], check=True, capture_output=True, text=True
    )
    exported = set(re.findall(r" T (cu\w+)", shown.stdout))
    known = {name for line in lines for name in line[:2]}
    others = {re.sub(r"_v\d$", "", name) for name in exported - known}
    assert others <= {re.sub(r"_v\d$", "", name) for name in known}
    # What there is not is no error, but null.
    status = ctypes.c_int(-1)
    for name, reason in ((b"cuNoSuch", 1), (b"cuFuncGetName", 2)):
        asked = (name, ctypes.byref(address), 12000, 0, ctypes.byref(status))
        assert lib.cuGetProcAddress_v2(*asked) == 0
        assert (address.value, status.value) == (None, reason)
    assert lib.cuGetProcAddress(b"cuNoSuch", ctypes.byref(address), 12000, 0) == 500


@needs_cuda_h
def test_entry_points_are_as_old_as_cuda_h_says() -> None:
    typedefs = (TOOLKIT / "cudaTypedefs.h").read_text() if TOOLKIT else ""
    lib = _driver()
    names = [line.split("\t")[0] for line in lib.emulatorEntryPoints().decode().splitlines()]
    address = ctypes.c_void_p()
    for name in names:
        versions = {int(v) for v in re.findall(rf"\bPFN_{name}_v(\d+)(?:_ptsz)?\)", typedefs)}
        assert versions, name
        assert lib.cuGetProcAddress_v2(name.encode(), ctypes.byref(address), 12000, 0, None) == 0
        assert bool(address.value) == (min(versions) <= 12000), name
        asked = max(12000, min(versions))
        assert lib.cuGetProcAddress_v2(name.encode(), ctypes.byref(address), asked, 0, None) == 0
        assert address.value


# What each driver says of: its version, a device of compute capability 9.0 that it should know and
# a family's, PTX of two versions, fat binaries of machine code and PTX, entry points.
OLD_DRIVERS = """
import ctypes, sys
lib = ctypes.CDLL(sys.argv[1])
images = [bytes.fromhex(line) for line in sys.stdin.read().split()]
found, version, context, count = [], ctypes.c_int(), ctypes.c_void_p(), ctypes.c_int()
lib.cuDriverGetVersion(ctypes.byref(version))
assert lib.cuInit(0) == 0
lib.cuDeviceGetCount(ctypes.byref(count))
assert lib.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
assert lib.cuCtxSetCurrent(context) == 0
for image in images:
    module = ctypes.c_void_p()
    found.append(lib.cuModuleLoadData(ctypes.byref(module), image + bytes(8)))
asked = (("cuFuncGetName", 12000), ("cuFuncGetName", 12030), ("cuGraphAddDependencies", 12030))
address = ctypes.c_void_p()
entries = []
for name, asked_version in asked:
    result = lib.cuGetProcAddress_v2(name.encode(), ctypes.byref(address), asked_version, 0, None)
    entries.append(result if result or address.value else None)
print(version.value, count.value, found, entries)
"""


def _old_driver(name: str, devices: str, *images: bytes, quiet: str = "0") -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", OLD_DRIVERS, LIBRARY],
        env=os.environ
        | {
            "GPTOSS_EMULATOR_DRIVER": name,
            "GPTOSS_EMULATOR_DEVICES": devices,
            "GPTOSS_EMULATOR_QUIET": quiet,
        },
        input="\n".join(image.hex() for image in images),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.stdout.rstrip("\n"), done.stderr


def test_a_driver_loads_what_it_is_new_enough_for() -> None:
    def text(version: str, target: str = "80") -> bytes:
        return f".version {version}\n.target sm_{target}\n.address_size 64\n".encode()

    ok = (PTX_ENTRY, 80, text("8.0"), 0x11)
    images = (
        text("8.0"),
        text("8.4"),
        text("9.0"),
        _fatbin(ok, (CUBIN_ENTRY, 90, _cubin(0x33, 7), 0x11 | ONE_ARCHITECTURE)),
        # Of another card, whatever they are, but not of this.
        _fatbin(ok, (CUBIN_ENTRY, 89, _cubin(0x41, 8), 0x11)),
        _fatbin(ok, (CUBIN_ENTRY, 100, _cubin(0x41, 8), 0x11 | FAMILY)),
        _fatbin(ok, (CUBIN_ENTRY, 90, _cubin(0x41, 8), 0x11 | ONE_ARCHITECTURE)),
        _fatbin((PTX_ENTRY, 80, text("9.0"), 0x11)),
        _cubin(0x33, 7),
        _cubin(0x41, 8),
        _fatbin((PTX_ENTRY, 100, text("8.8", "100f"), 0x11 | FAMILY)),
    )
    loaded, too_new, invalid, nothing = 0, 222, 200, 209
    same = [loaded, loaded, loaded]
    first = (
        f"12000 1 {[loaded, too_new, too_new, *same, invalid, too_new, nothing, invalid, nothing]}"
    )
    assert _old_driver("525", "H100", *images)[0] == f"{first} [None, 1, 1]"
    first = (
        f"12040 1 {[loaded, loaded, too_new, *same, invalid, too_new, nothing, invalid, nothing]}"
    )
    said, errors = _old_driver("550", "H100", *images)
    assert said == f"{first} [None, 0, 0]"
    assert "PTX of version 9.0, driver 550 compiles up to 8.4" in errors
    assert "machine code of ABI 0x41, 8, which driver 550 does not load" in errors
    first = f"13000 1 {[loaded, loaded, loaded, *same, loaded, loaded, nothing, nothing, nothing]}"
    assert _old_driver("580", "H100", *images)[0] == f"{first} [None, 0, 0]"
    assert _old_driver("550", "H100", *images, quiet="1") == (said, "")


def test_a_driver_takes_the_machine_code_that_is_nearest() -> None:
    """In whatever order, compressed or not; what it would not take does not matter."""
    ptx_entry = (PTX_ENTRY, 80, b".version 8.0\n.target sm_80\n.address_size 64\n", 0x11)
    for flags in (0x11, 0x11 | COMPRESSED):
        old, new = ((80, _cubin(0x33, 7)), (86, _cubin(0x41, 8)))
        older, newer = ((86, old[1]), (80, new[1]))
        images = [
            _fatbin(ptx_entry, *((CUBIN_ENTRY, *cubin, flags) for cubin in cubins))
            for cubins in ((older, newer), (newer, older), (old, new), (new, old))
        ]
        said, errors = _old_driver("525", "RTX 3090", *images)
        assert said == "12000 1 [0, 0, 200, 200] [None, 1, 1]"
        assert errors.count("machine code of ABI 0x41, 8, which driver 525 does not load") == 2
        assert _old_driver("580", "RTX 3090", *images)[0] == "13000 1 [0, 0, 0, 0] [None, 0, 0]"


def test_a_driver_knows_no_card_that_came_later() -> None:
    said, errors = _old_driver("550", "A100;RTX 5090")
    assert said.startswith("12040 1 ")
    assert "driver 550 does not know RTX 5090" in errors
    assert _old_driver("570", "A100;RTX 5090")[0].startswith("12080 2 ")
    assert _old_driver("570", "A100;GB10")[0].startswith("12080 1 ")
    said, errors = _old_driver("471", "A100")
    assert "unknown driver 471" in errors
    assert said == ""


def test_work_is_put_off_until_somebody_waits() -> None:
    lib = _driver()
    stream, memory, host = ctypes.c_void_p(), ctypes.c_uint64(), ctypes.c_void_p()
    assert lib.cuStreamCreate(ctypes.byref(stream), 1) == 0
    assert lib.cuMemAlloc_v2(ctypes.byref(memory), 64) == 0
    assert lib.cuMemAllocHost_v2(ctypes.byref(host), 64) == 0
    values = np.ctypeslib.as_array(ctypes.cast(host, ctypes.POINTER(ctypes.c_uint32)), (16,))
    assert lib.cuMemsetD32Async(memory, 7, 16, stream) == 0
    assert lib.cuMemcpyDtoHAsync_v2(host, memory, 64, stream) == 0
    assert (values == 0xA5A5A5A5).all(), "pinned memory holds poison until the stream has run"
    assert lib.cuStreamSynchronize(stream) == 0
    assert (values == 7).all()
    # A pinned source may not change while its copy is still on the way.
    assert lib.cuMemcpyHtoDAsync_v2(memory, host, 64, stream) == 0
    values[:] = 9
    back = np.zeros(16, np.uint32)
    assert lib.cuStreamSynchronize(stream) == 0
    assert lib.cuMemcpyDtoH_v2(ctypes.c_void_p(back.ctypes.data), memory, 64) == 0
    assert (back == 9).all()


def test_pageable_memory_is_touched_at_any_time() -> None:
    lib = _driver()
    stream, memory = ctypes.c_void_p(), ctypes.c_uint64()
    values = np.zeros(16, np.uint32)
    host, size = ctypes.c_void_p(values.ctypes.data), ctypes.c_size_t(64)
    assert lib.cuStreamCreate(ctypes.byref(stream), 1) == 0
    assert lib.cuMemAlloc_v2(ctypes.byref(memory), 64) == 0
    read, written = set(), set()
    for _ in range(20):
        values[:] = 1
        assert lib.cuMemcpyHtoDAsync_v2(memory, host, size, stream) == 0
        values[:] = 2
        assert lib.cuStreamSynchronize(stream) == 0
        assert lib.cuMemcpyDtoH_v2(host, memory, size) == 0
        read.add(int(values[0]))
        assert lib.cuMemsetD32Async(memory, 3, 16, stream) == 0
        assert lib.cuMemcpyDtoHAsync_v2(host, memory, size, stream) == 0
        written.add(int(values[0]) == 3)
        assert lib.cuStreamSynchronize(stream) == 0
        assert (values == 3).all()
    assert read == {1, 2}
    assert written == {True, False}
    other = np.zeros(16, np.uint32)  # within the host a copy is done when the call returns
    target = ctypes.c_uint64(other.ctypes.data)
    for i in range(8):
        values[:] = i
        source = ctypes.c_uint64(values.ctypes.data)
        assert lib.cuMemcpyAsync(target, source, size, stream) == 0
        assert (other == i).all()


STRICT = """
import ctypes, os, sys
lib = ctypes.CDLL(sys.argv[1])
context, stream, event, host = (ctypes.c_void_p() for _ in range(4))
by = ctypes.byref
assert lib.cuInit(0) == 0
assert lib.cuDevicePrimaryCtxRetain(by(context), 0) == 0
assert lib.cuCtxSetCurrent(context) == 0
assert lib.cuStreamCreate(by(stream), 1) == 0
print("flags", [lib.cuEventCreate(by(event), flags) for flags in (8, 4, 6, 3)],
      [lib.cuMemHostAlloc(by(host), ctypes.c_size_t(64), flags) for flags in (8, 7)],
      [lib.cuStreamWaitEvent(stream, event, flags) for flags in (1, 0)])
called = []
CALL = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
call = CALL(lambda _: called.append(lib.cuStreamQuery(stream)))
assert lib.cuLaunchHostFunc(stream, call, None) == 0
print("host", lib.cuStreamSynchronize(stream), called)

graphs, nodes = [ctypes.c_void_p(), ctypes.c_void_p()], [ctypes.c_void_p() for _ in range(4)]
for graph in graphs:
    assert lib.cuGraphCreate(by(graph), 0) == 0
array = ctypes.c_void_p * 2
def add(node, graph, *after):
    return lib.cuGraphAddEmptyNode(by(nodes[node]), graphs[graph], array(*after), len(after))
print("nodes", add(0, 0), add(1, 0, nodes[0]), add(2, 1), add(3, 0, nodes[2]),
      add(3, 0, nodes[0], nodes[0]))
def join(graph, source, target):
    ends = array(nodes[source]), array(nodes[target])
    return lib.cuGraphAddDependencies(graphs[graph], *ends, ctypes.c_size_t(1))
made = ctypes.c_void_p()
def make(flags):
    return lib.cuGraphInstantiateWithFlags(by(made), graphs[0], ctypes.c_uint64(flags))
print("edges", join(0, 0, 1), join(0, 0, 2), join(1, 0, 1), join(0, 0, 0),
      lib.cuGraphAddDependencies(graphs[0], None, None, ctypes.c_size_t(1)))
print("graphs", [make(flags) for flags in (0, 2, 4, 8)], join(0, 1, 0), make(0))

print("contexts", lib.cuCtxPushCurrent_v2(stream), lib.cuCtxSetCurrent(stream))
assert lib.cuDevicePrimaryCtxRelease_v2(0) == 0
print("released", lib.cuStreamQuery(stream), lib.cuCtxPushCurrent_v2(context))
child = os.fork()
if child == 0:
    os._exit(lib.cuInit(0) * 10 + lib.cuDevicePrimaryCtxRetain(by(context), 0))
print("fork", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_what_the_real_driver_refuses() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STRICT, LIBRARY],
        env=os.environ | {"GPTOSS_EMULATOR_DEVICES": "A100"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "flags [1, 1, 0, 0] [1, 0] [1, 0]",
        "host 0 [800]",
        "nodes 0 0 0 1 1",
        "edges 1 1 1 1 1",
        "graphs [0, 1, 801, 0] 0 1",
        "contexts 201 201",
        "released 709 201",
        "fork 33",
    ], done.stderr


CAPTURES = """
import threading
current(0)
graph = ctypes.c_void_p()

def unsafe():
    current(0)
    memory = ctypes.c_uint64()
    calls = lib.cuMemAlloc_v2(ctypes.byref(memory), 64), lib.cuEventQuery(events[0])
    return *calls, lib.cuMemFree_v2(memory) if memory.value else None

def elsewhere(mode):
    def run():
        exchanged = ctypes.c_int(mode)
        assert lib.cuThreadExchangeStreamCaptureMode(ctypes.byref(exchanged)) == 0
        assert exchanged.value == 0
        found.append(unsafe())
    found = []
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]

for mode in (0, 1, 2):
    for act in (unsafe, lambda: elsewhere(0), lambda: elsewhere(1), lambda: elsewhere(2)):
        assert lib.cuStreamBeginCapture_v2(streams[0], mode) == 0
        print(mode, act(), lib.cuStreamEndCapture(streams[0], ctypes.byref(graph)))
wrong = ctypes.c_int(3)
print(lib.cuThreadExchangeStreamCaptureMode(ctypes.byref(wrong)))
"""


def test_a_capture_forbids_what_is_not_safe() -> None:
    refused, done = "(900, 900, None) 901", "(0, 0, 0) 0"
    assert _peers(CAPTURES) == [
        *(f"0 {said}" for said in (refused, refused, done, done)),
        *(f"1 {said}" for said in (refused, done, done, done)),
        *(f"2 {said}" for said in (done, done, done, done)),
        "1",
    ]


ENDLESS = """
import threading
current(1)
assert lib.cuMemsetD32Async(memories[1], 7, 16, streams[1]) == 0
assert lib.cuEventRecord(events[1], streams[1]) == 0
current(0)
assert lib.cuStreamWaitEvent(streams[0], events[1], 0) == 0
assert lib.cuMemsetD32Async(memories[0], 8, 16, streams[0]) == 0
assert lib.emulatorLoseDevice(1, 0)
print([lib.cuStreamQuery(streams[0]) for _ in range(5)][-1], lib.cuEventQuery(events[1]))
def wait():
    current(0)
    lib.cuStreamSynchronize(streams[0])
thread = threading.Thread(target=wait, daemon=True)
thread.start()
thread.join(0.3)
print(thread.is_alive(), lib.cuStreamQuery(streams[0]))
current(1)
print(lib.cuStreamSynchronize(streams[1]))
sys.stdout.flush()
os._exit(0)
"""


def test_work_that_waits_for_a_lost_device_may_never_end() -> None:
    code = "import os\n" + ENDLESS
    assert _peers(code, GPTOSS_EMULATOR_ENDLESS="1") == ["600 600", "True 600", "214"]
    assert _peers(code) == ["0 0", "False 0", "214"]


def test_a_race_fails_the_launch_and_is_reported() -> None:
    lib = _driver()
    broken = plant(ptx("corpus"), "rmsnorm", [(BAR, 0, "")])
    module, function, x, out = (
        ctypes.c_void_p(),
        ctypes.c_void_p(),
        ctypes.c_uint64(),
        ctypes.c_uint64(),
    )
    assert lib.cuModuleLoadData(ctypes.byref(module), broken.encode()) == 0
    assert lib.cuModuleGetFunction(ctypes.byref(function), module, b"rmsnorm") == 0
    assert lib.cuMemAlloc_v2(ctypes.byref(x), 4096) == 0
    assert lib.cuMemAlloc_v2(ctypes.byref(out), 4096) == 0
    assert lib.cuMemsetD32_v2(x, 0x3F800000, 1024) == 0
    values = [x, x, out, ctypes.c_int(1024), ctypes.c_float(1e-5)]
    arguments = (ctypes.c_void_p * 5)(*(ctypes.addressof(v) for v in values))
    lib.emulatorTakeReports()
    launch = [ctypes.c_uint(v) for v in (1, 1, 1, 256, 1, 1, 0)]
    assert lib.cuLaunchKernel(function, *launch, None, arguments, None) == 0
    assert lib.cuCtxSynchronize() == 719
    reports = lib.emulatorTakeReports().decode()
    assert "race-shared-read-after-write in rmsnorm" in reports
    assert "corpus.cu:" in reports
    assert lib.cuCtxSynchronize() == 719, "the error sticks"
    assert lib.cuDevicePrimaryCtxReset_v2(0) == 0
    assert lib.cuCtxSynchronize() == 0


def test_tensor_maps_are_checked_as_the_driver_does() -> None:
    lib = _driver()
    memory = ctypes.c_uint64()
    assert lib.cuMemAlloc_v2(ctypes.byref(memory), 1 << 16) == 0
    space = ctypes.create_string_buffer(256)
    out = (ctypes.addressof(space) + 127) // 128 * 128

    def make(
        *, kind: int = 9, sizes: tuple[int, ...] = (64, 32), strides: tuple[int, ...] = (128,),
        box: tuple[int, ...] = (64, 8), steps: tuple[int, ...] = (1, 1), swizzle: int = 3,
        offset: int = 0, interleave: int = 0, fill: int = 0, at: int = out,
    ) -> int:  # fmt: skip
        rank = len(sizes)
        result: int = lib.cuTensorMapEncodeTiled(
            ctypes.c_void_p(at), kind, ctypes.c_uint32(rank),
            ctypes.c_void_p((memory.value or 0) + offset), (ctypes.c_uint64 * rank)(*sizes),
            (ctypes.c_uint64 * rank)(*strides), (ctypes.c_uint32 * rank)(*box),
            (ctypes.c_uint32 * rank)(*steps), interleave, swizzle, 0, fill,
        )  # fmt: skip
        return result

    assert make() == 0
    assert space.raw.strip(b"\0")
    assert make(box=(32, 8), swizzle=2) == 0
    assert make(kind=7, box=(32, 8)) == 0
    bad = [
        {"at": out + 8}, {"offset": 8}, {"sizes": (0, 32)}, {"strides": (120,)},
        {"strides": (1 << 40,)}, {"box": (64, 0)}, {"box": (64, 257)}, {"box": (4, 8)},
        {"swizzle": 2}, {"box": (128, 8)}, {"steps": (1, 0)}, {"steps": (1, 9)},
        {"sizes": (8,) * 6, "strides": (128,) * 5, "box": (8,) * 6, "steps": (1,) * 6},
    ]  # fmt: skip
    for change in bad:
        assert make(**change) == 1, change
    for change in ({"steps": (1, 2)}, {"interleave": 1}, {"swizzle": 4}, {"fill": 1}, {"kind": 13}):
        assert make(**change) == 801, change
    assert lib.cuMemFree_v2(memory) == 0


ROUNDING = """
import ctypes, sys
import numpy as np

lib = ctypes.CDLL(sys.argv[1])
image = open(sys.argv[2], "rb").read()
assert lib.cuInit(0) == 0
m, n, k = 40, 24, 96
random = np.random.default_rng(3)
inputs = [random.normal(size=s).astype("f4").view("u4") >> 16 for s in ((m, k), (k, n))]
inputs = [array.astype("u2") for array in inputs]
for ordinal in (0, 0, 1, 0, 2, 0):
    context, module, function = (ctypes.c_void_p() for _ in range(3))
    assert lib.cuDevicePrimaryCtxRetain(ctypes.byref(context), ordinal) == 0
    assert lib.cuCtxSetCurrent(context) == 0
    assert lib.cuModuleLoadData(ctypes.byref(module), image) == 0
    assert lib.cuModuleGetFunction(ctypes.byref(function), module, b"matmul") == 0
    values = []
    for array in inputs:
        values.append(ctypes.c_uint64())
        assert lib.cuMemAlloc_v2(ctypes.byref(values[-1]), array.nbytes) == 0
        pointer = ctypes.c_void_p(array.ctypes.data)
        assert lib.cuMemcpyHtoD_v2(values[-1], pointer, ctypes.c_size_t(array.nbytes)) == 0
    out, back = ctypes.c_uint64(), np.zeros((m, n), "f4")
    assert lib.cuMemAlloc_v2(ctypes.byref(out), back.nbytes) == 0
    values += [out, ctypes.c_int(m), ctypes.c_int(n), ctypes.c_int(k)]
    arguments = (ctypes.c_void_p * 6)(*(ctypes.addressof(v) for v in values))
    sizes = [ctypes.c_uint(v) for v in (2, 2, 1, 128, 1, 1, 0)]
    assert lib.cuLaunchKernel(function, *sizes, None, arguments, None) == 0
    assert lib.cuCtxSynchronize() == 0
    assert lib.cuMemcpyDtoH_v2(ctypes.c_void_p(back.ctypes.data), out, back.nbytes) == 0
    print(back.tobytes().hex())
"""


def _products(hostile: str, seed: int) -> list[str]:
    """Return the products of two A100 (launches 0, 1, 3, 5 and 4) and of an RTX 4090 (2)."""
    done = subprocess.run(
        [sys.executable, "-c", ROUNDING, LIBRARY, DATA / "corpus.ptx"],
        env=os.environ
        | {"GPTOSS_EMULATOR_DEVICES": "A100;RTX 4090;A100", "GPTOSS_EMULATOR_HOSTILE": hostile}
        | {"GPTOSS_EMULATOR_SEED": str(seed)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_card_rounds_in_one_way() -> None:
    ways = [_products("1", seed) for seed in range(1, 7)]
    for products in ways:
        assert len({products[i] for i in (0, 1, 3, 4, 5)}) == 1
    assert len({products[0] for products in ways}) > 2, "by the seed"
    assert any(products[2] != products[0] for products in ways), "by the card"
    assert len(set(_products("launch", 1))) > 2
    assert len(set(_products("0", 1))) == 1


PEERS = """
import ctypes, sys
import numpy as np

lib = ctypes.CDLL(sys.argv[1])
assert lib.cuInit(0) == 0
lib.emulatorPeerCopies.restype = ctypes.c_uint64
contexts, memories, streams, events = [], [], [], []
for ordinal in (0, 1):
    context, memory, stream, event = (ctypes.c_void_p() for _ in range(4))
    memory = ctypes.c_uint64()
    assert lib.cuDevicePrimaryCtxRetain(ctypes.byref(context), ordinal) == 0
    assert lib.cuCtxSetCurrent(context) == 0
    assert lib.cuMemAlloc_v2(ctypes.byref(memory), 64) == 0
    assert lib.cuStreamCreate(ctypes.byref(stream), 1) == 0
    assert lib.cuEventCreate(ctypes.byref(event), 2) == 0
    for handles, handle in zip(
        (contexts, memories, streams, events), (context, memory, stream, event)
    ):
        handles.append(handle)
size, back = ctypes.c_size_t(64), np.zeros(16, "u4")
host = ctypes.c_void_p(back.ctypes.data)

def current(device):
    assert lib.cuCtxSetCurrent(contexts[device]) == 0

def read(device):
    current(device)
    assert lib.cuMemcpyDtoH_v2(host, memories[device], size) == 0
    return sorted(set(back.tolist()))
"""


def _peers(code: str, **environment: str) -> list[str]:
    """Run code on two devices, each with memory, a stream and an event: the lines it prints."""
    done = subprocess.run(
        [sys.executable, "-c", PEERS + code, LIBRARY],
        env=os.environ | {"GPTOSS_EMULATOR_DEVICES": "A100;RTX 3090"} | environment,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


COPIES = """
def copy(to, source, stream, to_context=None, source_context=None):
    return lib.cuMemcpyPeerAsync(
        memories[to],
        contexts[to if to_context is None else to_context],
        memories[source],
        contexts[source if source_context is None else source_context],
        size,
        stream,
    )

current(0)
assert lib.cuMemsetD32Async(memories[0], 7, 16, streams[0]) == 0
assert copy(1, 0, streams[0]) == 0
assert lib.cuEventRecord(events[0], streams[0]) == 0
assert lib.cuMemsetD32Async(memories[0], 8, 16, streams[0]) == 0  # behind the copy
current(1)
assert lib.cuStreamWaitEvent(streams[1], events[0], 0) == 0
assert copy(0, 1, streams[1]) == 0
assert lib.cuStreamSynchronize(streams[1]) == 0
print(read(1), lib.emulatorPeerCopies())
# Whose memory it is must be right, and events and launches stay with their own streams.
print(copy(1, 0, streams[1], to_context=0), copy(1, 0, streams[1], source_context=1))
print(lib.cuEventRecord(events[0], streams[1]))
current(0)
print(lib.cuMemcpyPeer(memories[1], contexts[1], memories[0], ctypes.c_void_p(8), size))
assert lib.cuMemcpyPeer(memories[1], contexts[1], memories[0], contexts[0], size) == 0
"""


@pytest.mark.parametrize("seed", ["1", "2", "3"])
@pytest.mark.parametrize("peers", ["0", "1"])
def test_copies_between_contexts(seed: str, peers: str) -> None:
    found = _peers(COPIES, GPTOSS_EMULATOR_SEED=seed, GPTOSS_EMULATOR_PEERS=peers)
    assert found == ["[7] 2", "1 1", "400", "201"]


FAULTS = """
def fills(device, n):
    current(device)
    return [lib.cuMemsetD32Async(memories[device], 7, 16, streams[device]) for _ in range(n)]

fail = lambda at_call, after, error: lib.emulatorFail(1, at_call, ctypes.c_uint64(after), error)
fail(1, 1, 2)
print(fills(1, 3), lib.cuStreamSynchronize(streams[1]))
fail(0, 1, 700)
print(fills(1, 2), lib.cuStreamSynchronize(streams[1]), lib.cuStreamQuery(streams[1]), fills(1, 1))
print(fills(0, 1), lib.cuStreamSynchronize(streams[0]))
"""


def test_faults_that_are_asked_for() -> None:
    # A call that fails is told once; work that fails is told from then on, of its device alone.
    assert _peers(FAULTS) == ["[0, 2, 0] 0", "[0, 0] 700 700 [700]", "[0] 0"]


UNAVAILABLE = """
import ctypes, sys
lib, context = ctypes.CDLL(sys.argv[1]), ctypes.c_void_p()
lib.emulatorContexts.restype = ctypes.c_uint64
assert lib.cuInit(0) == 0
retain = lambda ordinal: lib.cuDevicePrimaryCtxRetain(ctypes.byref(context), ordinal)
create = lambda ordinal: lib.cuCtxCreate_v2(ctypes.byref(context), 0, ordinal)
print(retain(0), retain(1), retain(1), lib.emulatorContexts())
assert [lib.cuDevicePrimaryCtxRelease_v2(1) for _ in range(2)] == [0, 0]
print(retain(1), lib.emulatorContexts())
print(create(0), create(1))
assert lib.emulatorLoseDevice(1, 0)
print(retain(1), create(1))
"""


def test_contexts_are_counted_and_may_not_be_had() -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNAVAILABLE, LIBRARY],
        env=os.environ | {"GPTOSS_EMULATOR_DEVICES": "A100:unavailable;A100"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["46 0 0 1", "0 2", "46 0", "46 46"], done.stderr


ACCESS = """
can = ctypes.c_int(-1)
assert lib.cuDeviceCanAccessPeer(ctypes.byref(can), 0, 1) == 0
current(0)
print(can.value, lib.cuDeviceCanAccessPeer(ctypes.byref(can), 0, 0), can.value)
uses = [
    lambda: lib.cuMemcpyDtoDAsync_v2(memories[0], memories[1], size, streams[0]),
    lambda: lib.cuMemcpyHtoD_v2(memories[1], host, size),
    lambda: lib.cuMemcpyDtoH_v2(host, memories[1], size),
    lambda: lib.cuMemsetD8Async(memories[1], 1, size, streams[0]),
]
print([use() for use in uses])
print(lib.cuCtxDisablePeerAccess(contexts[1]), lib.cuCtxEnablePeerAccess(contexts[0], 0))
print(lib.cuCtxEnablePeerAccess(contexts[1], 1), lib.cuCtxEnablePeerAccess(None, 0))
print(lib.cuCtxEnablePeerAccess(contexts[1], 0), lib.cuCtxEnablePeerAccess(contexts[1], 0))
print([use() for use in uses])
print(lib.cuCtxDisablePeerAccess(contexts[1]), [use() for use in uses])
current(1)  # access has a direction
print(lib.cuMemsetD8Async(memories[0], 1, size, streams[1]))
"""


def test_memory_of_another_device_needs_access() -> None:
    every, none = "[0, 0, 0, 0]", "[1, 1, 1, 1]"
    assert _peers(ACCESS, GPTOSS_EMULATOR_PEERS="1") == [
        "1 0 0",
        none,
        "705 217",
        "1 201",
        "0 704",
        every,
        f"0 {none}",
        "1",
    ]
    without = _peers(ACCESS)
    assert without[0] == "0 0 0"
    assert without[4] == "217 217"
    assert without[5] == none


KERNEL = """
image = open({ptx!r}, "rb").read()
module, function = ctypes.c_void_p(), ctypes.c_void_p()
current(0)
{access}
assert lib.cuModuleLoadData(ctypes.byref(module), image) == 0
assert lib.cuModuleGetFunction(ctypes.byref(function), module, b"scan") == 0
values = [memories[1], memories[1]]
arguments = (ctypes.c_void_p * 2)(*(ctypes.addressof(v) for v in values))
sizes = [ctypes.c_uint(v) for v in (1, 1, 1, 256, 1, 1, 0)]
current(1)
lib.cuMemFree_v2(memories[1])
assert lib.cuMemAlloc_v2(ctypes.byref(memories[1]), 1024) == 0
assert lib.cuMemsetD32_v2(memories[1], 3, 256) == 0
print(lib.cuLaunchKernel(function, *sizes, streams[1], arguments, None))  # another's function
current(0)
print(lib.cuLaunchKernel(function, *sizes, streams[1], arguments, None))  # another's stream
print(lib.cuLaunchKernel(function, *sizes, streams[0], arguments, None))
print(lib.cuStreamSynchronize(streams[0]))  # another's memory
current(1)
print(lib.cuStreamSynchronize(streams[1]))  # a context of its own
sums = np.zeros(256, "u4")
assert lib.cuMemcpyDtoH_v2(ctypes.c_void_p(sums.ctypes.data), memories[1], 1024) == 0
print(bool((sums == 3 * np.arange(1, 257)).all()), bool((sums == 3).all()))
print(lib.cuMemcpyPeer(memories[1], contexts[1], memories[0], contexts[0], size))
"""


def test_a_kernel_uses_the_memory_of_a_peer() -> None:
    access = "assert lib.cuCtxEnablePeerAccess(contexts[1], 0) == 0"
    code = KERNEL.format(ptx=str(DATA / "corpus.ptx"), access=access)
    for seed in "12":
        found = _peers(code, GPTOSS_EMULATOR_PEERS="1", GPTOSS_EMULATOR_SEED=seed)
        assert found == ["201", "400", "0", "0", "0", "True False", "0"]
    # The checks look there, too.
    removed = "assert lib.cuCtxDisablePeerAccess(contexts[1]) == 0"
    for nothing in ("", f"{access}; {removed}"):
        code = KERNEL.format(ptx=str(DATA / "corpus.ptx"), access=nothing)
        found = _peers(code, GPTOSS_EMULATOR_PEERS="1", GPTOSS_EMULATOR_QUIET="1")
        assert found == ["201", "400", "0", "700", "0", "False True", "700"]


def test_races_in_the_memory_of_a_peer_are_reported() -> None:
    code = """
lib.emulatorTakeReports.restype = ctypes.c_char_p
image = {text!r}.encode()
module, function = ctypes.c_void_p(), ctypes.c_void_p()
current(0)
assert lib.cuCtxEnablePeerAccess(contexts[1], 0) == 0
assert lib.cuModuleLoadData(ctypes.byref(module), image) == 0
assert lib.cuModuleGetFunction(ctypes.byref(function), module, b"k") == 0
values = [memories[1]]
arguments = (ctypes.c_void_p * 1)(ctypes.addressof(values[0]))
sizes = [ctypes.c_uint(v) for v in (2, 1, 1, 1, 1, 1, 0)]
assert lib.cuLaunchKernel(function, *sizes, streams[0], arguments, None) == 0
print(lib.cuStreamSynchronize(streams[0]))
print(lib.emulatorTakeReports().decode().count("race-global"))
"""
    text = """.version 8.0
.target sm_80
.address_size 64
.entry k(.param .u64 x) {
  .reg .b32 %r<4>; .reg .b64 %rd<4>;
  ld.param.u64 %rd1, [x]; mov.u32 %r1, %ctaid.x; st.global.u32 [%rd1], %r1; ret;
}
"""
    found = _peers(code.format(text=text), GPTOSS_EMULATOR_PEERS="1", GPTOSS_EMULATOR_QUIET="1")
    assert found == ["719", "1"]


LOST = """
lib.emulatorLoseDevice.restype = ctypes.c_bool
image = open({ptx!r}, "rb").read()
functions = []
for device in (0, 1):
    current(device)
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    assert lib.cuModuleLoadData(ctypes.byref(module), image) == 0
    assert lib.cuModuleGetFunction(ctypes.byref(function), module, b"scan") == 0
    lib.cuMemFree_v2(memories[device])
    assert lib.cuMemAlloc_v2(ctypes.byref(memories[device]), 1024) == 0
    assert lib.cuMemsetD32_v2(memories[device], 3, 256) == 0
    functions.append(function)
sizes = [ctypes.c_uint(v) for v in (1, 1, 1, 256, 1, 1, 0)]

def launch(device):
    current(device)
    arguments = (ctypes.c_void_p * 2)(*[ctypes.addressof(memories[device])] * 2)
    launched = lib.cuLaunchKernel(functions[device], *sizes, streams[device], arguments, None)
    return launched, lib.cuStreamSynchronize(streams[device])

def calls():
    other = ctypes.c_uint64()
    stream, event = ctypes.c_void_p(), ctypes.c_void_p()
    return [
        lib.cuCtxSynchronize(), lib.cuMemAlloc_v2(ctypes.byref(other), 64),
        lib.cuMemcpyDtoH_v2(host, memories[1], size), lib.cuMemFree_v2(memories[1]),
        lib.cuStreamCreate(ctypes.byref(stream), 1), lib.cuEventRecord(events[1], streams[1]),
        lib.cuEventQuery(events[1]), lib.cuModuleLoadData(ctypes.byref(stream), image),
    ]

print(launch(1), launch(0))
{lose}
print(launch(1), launch(0))
current(1)
print(sorted(set(calls())))
print(lib.cuDevicePrimaryCtxReset_v2(1), lib.cuDevicePrimaryCtxReset_v2(0), set(calls()))
fresh, count = ctypes.c_void_p(), ctypes.c_int()
made = ctypes.byref(fresh)
print(lib.cuDevicePrimaryCtxRetain(made, 1), lib.cuCtxCreate_v2(made, 0, 1))
print(lib.cuDeviceGetCount(ctypes.byref(count)), count.value)
current(0)
print(lib.cuMemcpyPeer(memories[1], contexts[1], memories[0], contexts[0], size))
print(launch(0), lib.cuMemcpyDtoH_v2(host, memories[0], size), lib.cuMemFree_v2(memories[0]))
"""


@pytest.mark.parametrize(
    ("environment", "lose", "error"),
    [
        ("1@2", "", 214),
        ("1@2:719", "", 719),
        ("", "print(lib.emulatorLoseDevice(1, 0), lib.emulatorLoseDevice(7, 0))", 214),
        ("", "print(lib.emulatorLoseDevice(1, 999), lib.emulatorLoseDevice(7, 0))", 999),
        ("", "lib.emulatorLoseAfter(1, ctypes.c_uint64(0))", 214),
    ],
)
def test_a_lost_device_stays_lost_and_the_other_goes_on(
    environment: str, lose: str, error: int
) -> None:
    code = LOST.format(ptx=str(DATA / "corpus.ptx"), lose=lose)
    found = _peers(code, GPTOSS_EMULATOR_LOSE=environment)
    expected = ["(0, 0) (0, 0)"]
    # In a launch the loss shows when it is waited for; otherwise with the next call.
    at_once = "emulatorLoseDevice" in lose
    expected += ["True False", f"({error}, {error}) (0, 0)"] if at_once else []
    expected += [] if at_once else [f"(0, {error}) (0, 0)"]
    expected += [f"[{error}]", f"{error} 0 {{{error}}}", "46 46", "0 2", str(error), "(0, 0) 0 0"]
    assert found == expected


def test_a_loss_that_cannot_be_planned_is_said() -> None:
    planned = {"GPTOSS_EMULATOR_DEVICES": "A100", "GPTOSS_EMULATOR_LOSE": "0@x;3@1;0@4:2"}
    done = subprocess.run(
        [sys.executable, "-c", VISIBLE, LIBRARY],
        env=os.environ | planned,
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    said = [line for line in done.stderr.splitlines() if "GPTOSS_EMULATOR_LOSE" in line]
    assert [line.rsplit(" ", 1)[1] for line in said] == ["0@x", "3@1"]


CLUSTERS = """
class Attribute(ctypes.Structure):
    _fields_ = [("id", ctypes.c_int), ("pad", ctypes.c_int), ("value", ctypes.c_uint * 16)]

class Config(ctypes.Structure):
    _fields_ = [
        ("grid", ctypes.c_uint * 3), ("block", ctypes.c_uint * 3), ("shared", ctypes.c_uint),
        ("stream", ctypes.c_void_p), ("attributes", ctypes.c_void_p), ("count", ctypes.c_uint),
    ]

def config(grid, block, cluster, stream=None):
    attribute = Attribute(4, 0, (ctypes.c_uint * 16)(*cluster))
    out = Config((ctypes.c_uint * 3)(*grid), (ctypes.c_uint * 3)(*block), 0, stream)
    out.attributes, out.count = ctypes.addressof(attribute), 1
    out.keep = attribute
    return out

image = open({ptx!r}, "rb").read()
module, ring, fixed = (ctypes.c_void_p() for _ in range(3))
current(0)
assert lib.cuModuleLoadData(ctypes.byref(module), image) == 0
assert lib.cuModuleGetFunction(ctypes.byref(ring), module, b"cluster_ring") == 0
assert lib.cuModuleGetFunction(ctypes.byref(fixed), module, b"cluster_sum") == 0
x, out = ctypes.c_uint64(), ctypes.c_uint64()
for memory in (x, out):
    assert lib.cuMemAlloc_v2(ctypes.byref(memory), 16 * 256) == 0
    assert lib.cuMemsetD32_v2(memory, 2, 16 * 64) == 0
arguments = (ctypes.c_void_p * 2)(ctypes.addressof(x), ctypes.addressof(out))

def launch(blocks, cluster, stream=None):
    c = config((blocks, 1, 1), (64, 1, 1), cluster, stream)
    return lib.cuLaunchKernelEx(ctypes.byref(c), ring, arguments, None)

def rows(count):
    back = np.zeros((count, 64), "u4")
    assert lib.cuMemcpyDtoH_v2(ctypes.c_void_p(back.ctypes.data), out, back.nbytes) == 0
    return back[:, 0].tolist()

print(launch(4, (4, 1, 1)), lib.cuCtxSynchronize(), rows(5))
# Sizes: no multiple, none, too large, large after opting in.
print(launch(4, (3, 1, 1)), launch(4, (0, 1, 1)), launch(16, (16, 1, 1)))
print(lib.cuFuncSetAttribute(ring, 14, 1), launch(16, (16, 1, 1)), lib.cuCtxSynchronize(), rows(2))
# The same in a graph.
graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
assert lib.cuMemsetD32_v2(out, 0, 16 * 64) == 0
assert lib.cuStreamBeginCapture_v2(streams[0], 0) == 0
assert launch(8, (8, 1, 1), streams[0]) == 0
assert lib.cuStreamEndCapture(streams[0], ctypes.byref(graph)) == 0
assert lib.cuGraphInstantiateWithFlags(ctypes.byref(executable), graph, ctypes.c_ulonglong(0)) == 0
assert lib.cuGraphLaunch(executable, streams[0]) == 0
print(lib.cuStreamSynchronize(streams[0]), rows(8))
# What is known of functions and devices.
value, found = ctypes.c_int(), []
for attribute in (10, 11, 12, 13, 14):
    assert lib.cuFuncGetAttribute(ctypes.byref(value), attribute, fixed) == 0
    found.append(value.value)
for device in (0, 1):
    assert lib.cuDeviceGetAttribute(ctypes.byref(value), 120, device) == 0
    found.append(value.value)
print(found)
c = config((4, 1, 1), (1024, 1, 1), (4, 1, 1))
where = ctypes.byref(value)
print(lib.cuOccupancyMaxActiveClusters(where, ring, ctypes.byref(c)), value.value)
print(lib.cuOccupancyMaxPotentialClusterSize(where, ring, ctypes.byref(c)), value.value)
print(lib.cuOccupancyMaxPotentialClusterSize(where, fixed, ctypes.byref(c)), value.value)
# A kernel that says its size.
c = config((4, 1, 1), (128, 1, 1), (2, 1, 1))
three = (ctypes.c_void_p * 3)(*arguments, ctypes.addressof(value))
print(lib.cuLaunchKernelEx(ctypes.byref(c), fixed, three, None))
"""


def test_clusters_of_a_launch() -> None:
    code = CLUSTERS.format(ptx=str(DATA / "cluster.ptx"))
    found = _peers(code, GPTOSS_EMULATOR_DEVICES="H100:memory=64M;A100", GPTOSS_EMULATOR_QUIET="1")
    assert found == [
        "0 0 [2, 4, 6, 8, 2]",
        "912 1 912",
        "0 0 0 [2, 4]",
        "0 [2, 4, 6, 8, 10, 12, 14, 16]",
        "[0, 4, 1, 1, 0, 1, 0]",
        "0 2",  # two blocks of 1,024 threads on each of four multiprocessors
        "0 8",
        "0 8",
        "912",
    ]


VISIBLE = """
import ctypes, sys
lib = ctypes.CDLL(sys.argv[1])
count, names = ctypes.c_int(), []
if lib.cuInit(0) == 0:
    lib.cuDeviceGetCount(ctypes.byref(count))
for ordinal in range(count.value):
    name = ctypes.create_string_buffer(64)
    assert lib.cuDeviceGetName(name, 64, ordinal) == 0
    names.append(name.value.decode().removeprefix("Emulated "))
print(*names, sep=",")
"""


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("0,1,2", "A100,T4,H100"),
        ("2,0", "H100,A100"),
        ("1", "T4"),
        ("0,7,1", "A100"),  # what is behind one that is none is not shown
        ("", ""),
        ("-1", ""),
        ("GPU-e0e0e0e0-e0e0-e0e0-e0e0-e0e0e0e0e002", "H100"),
        ("GPU-e0e0", ""),  # of all
        ("1,1", "T4"),
    ],
)
def test_visible_devices(visible: str, expected: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", VISIBLE, LIBRARY],
        env=os.environ
        | {"GPTOSS_EMULATOR_DEVICES": "A100;T4;H100", "CUDA_VISIBLE_DEVICES": visible},
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == expected
