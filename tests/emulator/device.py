"""The emulator for tests: devices, buffers, kernels and what a launch reports."""

from __future__ import annotations

import ctypes
import json
import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

BUILD = os.environ.get("GPTOSS_EMULATOR_BUILD", "")
DATA = Path(__file__).parent / "data"


@cache
def library() -> ctypes.CDLL:
    """Return the emulator's library, built by tools/check_emulator.sh."""
    lib = ctypes.CDLL(str(Path(BUILD) / "csrc/emulator/libgptoss_emulator.so"))
    text, pointer, u64 = ctypes.c_char_p, ctypes.c_void_p, ctypes.c_uint64
    lib.emulator_error.restype = text
    lib.emulator_open.argtypes, lib.emulator_open.restype = [u64], pointer
    lib.emulator_close.argtypes = [pointer]
    lib.emulator_allocate.argtypes, lib.emulator_allocate.restype = [pointer, u64, text], u64
    lib.emulator_free.argtypes, lib.emulator_free.restype = [pointer, u64], ctypes.c_bool
    lib.emulator_write.argtypes = [pointer, u64, pointer, u64]
    lib.emulator_write.restype = ctypes.c_bool
    lib.emulator_read.argtypes = [pointer, pointer, u64, u64]
    lib.emulator_read.restype = ctypes.c_bool
    lib.emulator_load.argtypes, lib.emulator_load.restype = [pointer, text], pointer
    lib.emulator_unload.argtypes = [pointer]
    lib.emulator_parameters.argtypes, lib.emulator_parameters.restype = [pointer, text], text
    lib.emulator_variable.argtypes, lib.emulator_variable.restype = [pointer, text], u64
    lib.emulator_launch.argtypes = [pointer, text, pointer, u64, pointer]
    lib.emulator_launch.restype = text
    lib.emulator_launch_chain.argtypes = [u64] + [pointer] * 6
    lib.emulator_launch_chain.restype = text
    lib.emulator_tensor_map.argtypes = [pointer, u64, ctypes.c_uint32, ctypes.c_uint32]
    lib.emulator_tensor_map.argtypes += [pointer] * 3 + [ctypes.c_uint32]
    lib.emulator_tensor_map.restype = ctypes.c_bool
    lib.emulator_forms.restype = text
    lib.emulator_coverage.argtypes, lib.emulator_coverage.restype = [text], text
    return lib


class LoadError(ValueError):
    """PTX that the emulator does not load."""


class _Options(ctypes.Structure):
    _fields_ = [
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("cluster", ctypes.c_uint32 * 3),
        ("dynamic_shared_bytes", ctypes.c_uint32),
        ("check_races", ctypes.c_uint32),
        ("check_uninitialised", ctypes.c_uint32),
        ("count_memory", ctypes.c_uint32),
        ("hostile_tensor_cores", ctypes.c_uint32),
        ("cooperative", ctypes.c_uint32),
        ("large_clusters", ctypes.c_uint32),
        ("multiprocessors", ctypes.c_uint32),
        ("max_resident_warps", ctypes.c_uint32),
        ("seed", ctypes.c_uint64),
        ("max_warp_instructions", ctypes.c_uint64),
        ("profile", ctypes.c_char_p),
    ]


@dataclass(frozen=True)
class Site:
    """One side of a report."""

    kernel: str  # empty: the report's
    what: str
    file: str
    source_line: int
    ptx_line: int
    text: str
    cta: tuple[int, ...]
    warp: int
    lane: int


@dataclass(frozen=True)
class Report:
    """What a check says."""

    name: str  # the class: "race-warp"
    is_warning: bool
    message: str
    access: Site | None
    other: Site | None
    times: int
    text: str


@dataclass
class Result:
    """What a launch leaves behind."""

    fault: str
    reports: list[Report]
    counters: dict[str, Any]
    output: str

    @property
    def errors(self) -> list[Report]:
        """The reports that are no warnings."""
        return [r for r in self.reports if not r.is_warning]

    @property
    def classes(self) -> set[str]:
        """Names of the reports' classes."""
        return {r.name for r in self.reports}


def _site(raw: dict[str, Any] | None) -> Site | None:
    return None if raw is None else Site(**{**raw, "cta": tuple(raw["cta"])})


def _report(raw: dict[str, Any]) -> Report:
    return Report(
        name=raw["class"],
        is_warning=raw["is_warning"],
        message=raw["message"],
        access=_site(raw["access"]),
        other=_site(raw["other"]),
        times=raw["times"],
        text=raw["text"],
    )


@dataclass
class Buffer:
    """An array in the memory of a device."""

    device: Device
    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def numpy(self) -> np.ndarray[Any, Any]:
        """Copy the array to the host."""
        out = np.empty(self.shape, self.dtype)
        assert library().emulator_read(
            self.device.handle, out.ctypes.data, self.address, out.nbytes
        )
        return out

    def write(self, array: np.ndarray[Any, Any]) -> None:
        """Copy an array of the same size to the device."""
        raw = np.ascontiguousarray(array)
        assert library().emulator_write(
            self.device.handle, self.address, raw.ctypes.data, raw.nbytes
        )

    def tensor_map(self, box: Sequence[int], swizzle: int = 0) -> bytes:
        """Return a map of the whole array.

        Parameters
        ----------
        box
            Elements per dimension, in the array's order: the last one is contiguous.
        swizzle
            0, 32, 64 or 128 bytes.
        """
        rank, size = len(self.shape), self.dtype.itemsize
        strides = [size * int(np.prod(self.shape[i + 1 :])) for i in range(rank)]
        out = ctypes.create_string_buffer(128)
        if not library().emulator_tensor_map(
            out, self.address, size, rank,
            (ctypes.c_uint64 * rank)(*reversed(self.shape)),
            (ctypes.c_uint64 * rank)(*reversed(strides[:-1])),
            (ctypes.c_uint32 * rank)(*reversed(box)),
            {0: 0, 32: 1, 64: 2, 128: 3}[swizzle],
        ):  # fmt: skip
            raise ValueError(library().emulator_error().decode())
        return out.raw

    def free(self) -> None:
        """Free the memory; its address stays known as freed."""
        assert library().emulator_free(self.device.handle, self.address)


@dataclass
class Device:
    """A device of its own, with `memory_bytes` of memory."""

    memory_bytes: int = 1 << 30
    handle: int = field(init=False)

    def __post_init__(self) -> None:
        self.handle = library().emulator_open(self.memory_bytes)
        assert self.handle, library().emulator_error()
        weakref.finalize(self, library().emulator_close, self.handle)

    def empty(self, shape: int | Sequence[int], dtype: Any, name: str = "buffer") -> Buffer:
        """Allocate an array that was never written."""
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        kind = np.dtype(dtype)
        size = int(np.prod(shape)) * kind.itemsize
        address = library().emulator_allocate(self.handle, size, name.encode())
        if not address:
            raise MemoryError(f"{size} bytes")
        return Buffer(self, address, shape, kind)

    def buffer(self, array: Any, name: str = "buffer") -> Buffer:
        """Allocate an array with the values of `array`."""
        raw = np.ascontiguousarray(array)
        out = self.empty(raw.shape if raw.shape else 1, raw.dtype, name)
        out.write(raw)
        return out

    def load(self, ptx: str) -> Module:
        """Load a module.

        Raises
        ------
        LoadError
            If an instruction is not modelled or the text is not PTX.
        """
        handle = library().emulator_load(self.handle, ptx.encode())
        if not handle:
            raise LoadError(library().emulator_error().decode())
        return Module(self, handle)


@dataclass
class Module:
    """Kernels of one PTX text, on a device."""

    device: Device
    handle: int

    def __post_init__(self) -> None:
        weakref.finalize(self, library().emulator_unload, self.handle)

    def variable(self, name: str, shape: int | Sequence[int], dtype: Any) -> Buffer:
        """Return a global variable of the module."""
        address = library().emulator_variable(self.handle, name.encode())
        assert address, name
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        return Buffer(self.device, address, shape, np.dtype(dtype))

    def _pack(self, kernel: str, arguments: Sequence[Any]) -> bytes:
        raw = library().emulator_parameters(self.handle, kernel.encode())
        assert raw is not None, f"no kernel {kernel}"
        places = [tuple(map(int, line.split())) for line in raw.decode().splitlines()]
        assert len(places) == len(arguments), (kernel, len(places), len(arguments))
        block = bytearray(places[-1][0] + places[-1][1] if places else 0)
        for (offset, size), value in zip(places, arguments, strict=True):
            if isinstance(value, Buffer):
                data = value.address.to_bytes(8, "little")
            elif isinstance(value, bytes):
                data = value
            elif isinstance(value, np.generic):
                data = value.tobytes()
            elif isinstance(value, float):
                data = np.float32(value).tobytes() if size == 4 else np.float64(value).tobytes()
            else:
                data = int(value).to_bytes(size, "little", signed=value < 0)
            assert len(data) == size, (kernel, offset, size, value)
            block[offset : offset + size] = data
        return bytes(block)

    def launch(
        self,
        kernel: str,
        grid: int | Sequence[int],
        block: int | Sequence[int],
        *arguments: Any,
        **options: Any,
    ) -> Result:
        """Run a kernel to its end; the options are those of `launch_options`."""
        packed = self._pack(kernel, arguments)
        raw = library().emulator_launch(
            self.handle,
            kernel.encode(),
            packed,
            len(packed),
            ctypes.byref(launch_options(grid, block, **options)),
        )
        assert raw is not None, library().emulator_error()
        return _result(json.loads(raw))


def launch_options(
    grid: int | Sequence[int],
    block: int | Sequence[int],
    *,
    cluster: int | Sequence[int] | None = None,
    large_clusters: bool = False,
    shared: int = 0,
    seed: int = 0,
    races: bool = True,
    hostile: bool = False,
    cooperative: bool = False,
    multiprocessors: int = 0,
    max_resident_warps: int = 0,
    max_warp_instructions: int = 0,
    count_memory: bool = True,
    profile: str | None = None,
) -> _Options:
    """Return the options of a launch."""

    def dims(value: int | Sequence[int]) -> Any:
        values = [value] if isinstance(value, int) else list(value)
        return (ctypes.c_uint32 * 3)(*(values + [1] * (3 - len(values))))

    return _Options(
        grid=dims(grid),
        block=dims(block),
        cluster=dims(cluster) if cluster is not None else (ctypes.c_uint32 * 3)(0, 0, 0),
        large_clusters=large_clusters,
        dynamic_shared_bytes=shared,
        check_races=races,
        check_uninitialised=1,
        count_memory=count_memory,
        hostile_tensor_cores=hostile,
        cooperative=cooperative,
        multiprocessors=multiprocessors,
        max_resident_warps=max_resident_warps,
        seed=seed,
        max_warp_instructions=max_warp_instructions,
        profile=profile.encode() if profile else None,
    )


def _result(raw: dict[str, Any]) -> Result:
    return Result(
        raw["fault"], [_report(r) for r in raw["reports"]], raw["counters"], raw["output"]
    )


@dataclass
class Call:
    """A launch in a chain."""

    module: Module
    kernel: str
    grid: int | Sequence[int]
    block: int | Sequence[int]
    arguments: Sequence[Any]
    programmatic: bool = False  # depends on the one before by griddepcontrol only


def launch_chain(calls: Sequence[Call], **options: Any) -> list[Result]:
    """Run launches that follow each other, of which programmatic ones may begin early."""
    count = len(calls)
    packed = [c.module._pack(c.kernel, c.arguments) for c in calls]
    raw = library().emulator_launch_chain(
        count,
        (ctypes.c_void_p * count)(*(c.module.handle for c in calls)),
        (ctypes.c_char_p * count)(*(c.kernel.encode() for c in calls)),
        (ctypes.c_char_p * count)(*packed),
        (ctypes.c_uint64 * count)(*(len(p) for p in packed)),
        (_Options * count)(*(launch_options(c.grid, c.block, **options) for c in calls)),
        (ctypes.c_uint32 * count)(*(c.programmatic for c in calls)),
    )
    assert raw is not None, library().emulator_error()
    return [_result(r) for r in json.loads(raw)]


def forms() -> list[dict[str, str]]:
    """Return the table of instruction forms."""
    table: list[dict[str, str]] = json.loads(library().emulator_forms())
    return table


def coverage(ptx: str) -> dict[str, Any]:
    """Return which rows of the table a PTX text uses, and what no row matches."""
    raw = library().emulator_coverage(ptx.encode())
    if raw is None:
        raise LoadError(library().emulator_error().decode())
    out: dict[str, Any] = json.loads(raw)
    return out


def ptx(name: str) -> str:
    """Return the PTX file `name` of the test data."""
    return (DATA / f"{name}.ptx").read_text()
