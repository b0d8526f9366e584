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
ONE_ARCHITECTURE, FAMILY = 0x100000, 0x1200000


def _fatbin(*entries: tuple[int, int, bytes, int]) -> bytes:
    """Return a fat binary of (kind, architecture, payload, flags)."""
    body = b""
    for kind, architecture, payload, flags in entries:
        payload += bytes(-len(payload) % 8 + 8)
        body += struct.pack(
            "<HHIQIIHHIIIQQQ",
            kind,
            0x101,
            64,
            len(payload),
            0,
            0,
            0,
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
    missing = ctypes.c_int(-1)
    assert (
        lib.cuGetProcAddress_v2(b"cuNoSuch", ctypes.byref(address), 12000, 0, ctypes.byref(missing))
        == 500
    )
    assert missing.value == 1


@needs_cuda_h
def test_entry_points_are_as_old_as_cuda_h_says() -> None:
    typedefs = (TOOLKIT / "cudaTypedefs.h").read_text() if TOOLKIT else ""
    lib = _driver()
    names = [line.split("\t")[0] for line in lib.emulatorEntryPoints().decode().splitlines()]
    address = ctypes.c_void_p()
    for name in names:
        versions = {int(v) for v in re.findall(rf"\bPFN_{name}_v(\d+)(?:_ptsz)?\)", typedefs)}
        assert versions, name
        found = lib.cuGetProcAddress_v2(name.encode(), ctypes.byref(address), 12000, 0, None) == 0
        assert found == (min(versions) <= 12000), name
        asked = max(12000, min(versions))
        assert lib.cuGetProcAddress_v2(name.encode(), ctypes.byref(address), asked, 0, None) == 0


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
entries = [lib.cuGetProcAddress_v2(n.encode(), ctypes.byref(address), v, 0, None) for n, v in asked]
print(version.value, count.value, found, entries)
"""


def _old_driver(name: str, devices: str, *images: bytes) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", OLD_DRIVERS, LIBRARY],
        env=os.environ
        | {
            "GPTOSS_EMULATOR_DRIVER": name,
            "GPTOSS_EMULATOR_DEVICES": devices,
            "GPTOSS_EMULATOR_QUIET": "0",
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
    assert _old_driver("525", "H100", *images)[0] == f"{first} [500, 1, 1]"
    first = (
        f"12040 1 {[loaded, loaded, too_new, *same, invalid, too_new, nothing, invalid, nothing]}"
    )
    said, errors = _old_driver("550", "H100", *images)
    assert said == f"{first} [500, 0, 0]"
    assert "PTX of version 9.0, driver 550 compiles up to 8.4" in errors
    assert "machine code of ABI 0x41, 8, which driver 550 does not load" in errors
    first = f"13000 1 {[loaded, loaded, loaded, *same, loaded, loaded, nothing, nothing, nothing]}"
    assert _old_driver("580", "H100", *images)[0] == f"{first} [500, 0, 0]"


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
print(retain(0), retain(1), retain(1), lib.emulatorContexts())
assert [lib.cuDevicePrimaryCtxRelease_v2(1) for _ in range(2)] == [0, 0]
print(retain(1), lib.emulatorContexts())
"""


def test_contexts_are_counted_and_may_not_be_had() -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNAVAILABLE, LIBRARY],
        env=os.environ | {"GPTOSS_EMULATOR_DEVICES": "A100:unavailable;A100"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout.split("\n")[:2] == ["46 0 0 1", "0 2"], done.stderr


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
assert lib.cuCtxEnablePeerAccess(contexts[1], 0) == 0
assert lib.cuModuleLoadData(ctypes.byref(module), image) == 0
assert lib.cuModuleGetFunction(ctypes.byref(function), module, b"rmsnorm") == 0
values = [memories[1], memories[1], memories[0], ctypes.c_int(16), ctypes.c_float(1e-5)]
arguments = (ctypes.c_void_p * 5)(*(ctypes.addressof(v) for v in values))
sizes = [ctypes.c_uint(v) for v in (1, 1, 1, 256, 1, 1, 0)]
current(1)
print(lib.cuLaunchKernel(function, *sizes, streams[1], arguments, None))  # another's function
current(0)
print(lib.cuLaunchKernel(function, *sizes, streams[1], arguments, None))  # another's stream
print(lib.cuLaunchKernel(function, *sizes, streams[0], arguments, None))
print(lib.cuStreamSynchronize(streams[0]))  # another's memory
current(1)
print(lib.cuStreamSynchronize(streams[1]))  # a context of its own
print(lib.cuMemcpyPeer(memories[1], contexts[1], memories[0], contexts[0], size))
"""


def test_a_kernel_stays_on_its_device() -> None:
    code = KERNEL.format(ptx=str(DATA / "corpus.ptx"))
    found = _peers(code, GPTOSS_EMULATOR_PEERS="1", GPTOSS_EMULATOR_QUIET="1")
    assert found == ["201", "400", "0", "700", "0", "700"]


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
