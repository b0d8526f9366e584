"""The CUDA driver from Python: what tests and measurements on a card need of it, and no more.

Every call runs in the device's primary context, which the package and PyTorch use as well.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

_OLDEST_CAPABILITY = (8, 0)
_MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_CAPABILITY_MAJOR, _CAPABILITY_MINOR, _MULTIPROCESSORS = 75, 76, 16  # CU_DEVICE_ATTRIBUTE_...
_FATBIN_MAGIC = 0xBA55ED50


class DriverError(RuntimeError):
    """A call of the driver has failed."""


@dataclass(frozen=True)
class DeviceInfo:
    """The first device that can run the kernels.

    Attributes
    ----------
    name : str
    capability : tuple of int
        Major and minor.
    multiprocessors : int
    memory_bytes : int
    driver : int
        Version of CUDA that the driver is made for, as 12040.
    """

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    memory_bytes: int
    driver: int


class Driver:
    """The driver, with the context of the first device of compute capability 8.0 or newer."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")
        self._check("cuInit", 0)
        version, count = ctypes.c_int(), ctypes.c_int()
        self._check("cuDriverGetVersion", ctypes.byref(version))
        self._check("cuDeviceGetCount", ctypes.byref(count))
        for ordinal in range(count.value):
            device = ctypes.c_int()
            self._check("cuDeviceGet", ctypes.byref(device), ordinal)
            capability = (
                self._attribute(_CAPABILITY_MAJOR, device),
                self._attribute(_CAPABILITY_MINOR, device),
            )
            if capability >= _OLDEST_CAPABILITY:
                break
        else:
            raise DriverError(f"none of {count.value} devices has compute capability 8.0 or newer")
        name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
        self._check("cuDeviceGetName", name, len(name), device)
        self._check("cuDeviceTotalMem_v2", ctypes.byref(memory), device)
        self.device = DeviceInfo(
            name.value.decode(),
            capability,
            self._attribute(_MULTIPROCESSORS, device),
            memory.value,
            version.value,
        )
        self._context = ctypes.c_void_p()
        self._check("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)

    def _check(self, name: str, *arguments: Any) -> None:
        result = getattr(self._library, name)(*arguments)
        if result != 0:
            text = ctypes.c_char_p()
            self._library.cuGetErrorName(result, ctypes.byref(text))
            raise DriverError(f"{name}: {(text.value or str(result).encode()).decode()}")

    def _attribute(self, which: int, device: ctypes.c_int) -> int:
        value = ctypes.c_int()
        self._check("cuDeviceGetAttribute", ctypes.byref(value), which, device)
        return value.value

    def call(self, name: str, *arguments: Any) -> None:
        """Call an entry point with the context current. Raises DriverError."""
        old = ctypes.c_void_p()
        self._check("cuCtxPushCurrent_v2", self._context)
        try:
            self._check(name, *arguments)
        finally:
            self._check("cuCtxPopCurrent_v2", ctypes.byref(old))

    def allocate(self, nbytes: int) -> int:
        """Return the address of device memory."""
        address = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(1, nbytes)))
        return address.value

    def free(self, address: int) -> None:
        """Give device memory back."""
        self.call("cuMemFree_v2", ctypes.c_uint64(address))

    def fill(self, address: int, byte: int, nbytes: int) -> None:
        """Set every byte."""
        if nbytes:
            value = ctypes.c_ubyte(byte)
            self.call("cuMemsetD8_v2", ctypes.c_uint64(address), value, ctypes.c_size_t(nbytes))

    def write(self, address: int, array: npt.NDArray[Any]) -> None:
        """Copy a contiguous array to the device."""
        pointer, size = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
        self.call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), pointer, size)

    def read(self, address: int, array: npt.NDArray[Any]) -> None:
        """Copy from the device into a contiguous array."""
        pointer, size = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
        self.call("cuMemcpyDtoH_v2", pointer, ctypes.c_uint64(address), size)

    def load(self, image: bytes) -> ctypes.c_void_p:
        """Load a module: PTX, machine code or a fat binary."""
        module = ctypes.c_void_p()
        aligned = np.frombuffer(image + bytes(-len(image) % 8 + 8), np.uint64)
        self.call("cuModuleLoadData", ctypes.byref(module), ctypes.c_void_p(aligned.ctypes.data))
        return module

    def launch(
        self,
        function: ctypes.c_void_p,
        grid: Sequence[int],
        threads: int,
        shared_bytes: int,
        parameters: bytes,
    ) -> None:
        """Run a kernel with one parameter to its end."""
        if shared_bytes > 48 << 10:
            self.call("cuFuncSetAttribute", function, _MAX_DYNAMIC_SHARED, shared_bytes)
        block = ctypes.create_string_buffer(parameters, len(parameters))
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(block))
        sizes = [ctypes.c_uint(n) for n in (*grid, *[1] * (3 - len(grid)), threads, 1, 1)]
        self.call(
            "cuLaunchKernel", function, *sizes, ctypes.c_uint(shared_bytes), None, pointers, None
        )
        self.call("cuCtxSynchronize")

    def function(self, module: ctypes.c_void_p, name: str) -> ctypes.c_void_p | None:
        """Find a kernel in a module."""
        function = ctypes.c_void_p()
        try:
            self.call("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
        except DriverError:
            return None
        return function

    def copy_gb_s(self, nbytes: int, rounds: int = 5) -> float:
        """Copy within the device's memory: the most bytes read and written per second."""
        source, target = self.allocate(nbytes), self.allocate(nbytes)
        begin, end = ctypes.c_void_p(), ctypes.c_void_p()
        for event in (begin, end):
            self.call("cuEventCreate", ctypes.byref(event), 0)
        best = 0.0
        try:
            self.fill(source, 1, nbytes)
            for _ in range(rounds + 1):  # the first warms up
                size = ctypes.c_size_t(nbytes)
                self.call("cuEventRecord", begin, None)
                self.call(
                    "cuMemcpyDtoDAsync_v2",
                    ctypes.c_uint64(target),
                    ctypes.c_uint64(source),
                    size,
                    None,
                )
                self.call("cuEventRecord", end, None)
                self.call("cuEventSynchronize", end)
                milliseconds = ctypes.c_float()
                self.call("cuEventElapsedTime", ctypes.byref(milliseconds), begin, end)
                best = max(best, 2 * nbytes / max(milliseconds.value, 1e-6) / 1e6)
        finally:
            for event in (begin, end):
                self.call("cuEventDestroy_v2", event)
            self.free(source)
            self.free(target)
        return best


@cache
def driver() -> Driver:
    """Return the process's one. Raises OSError without a driver, DriverError without a device."""
    return Driver()


def split_images(kernels: bytes) -> list[bytes]:
    """Split a file of fat binaries, one after the other, as builds make it (cmake/cuda.cmake)."""
    images, at = [], 0
    while at < len(kernels):
        magic = int.from_bytes(kernels[at : at + 4], "little")
        header = int.from_bytes(kernels[at + 6 : at + 8], "little")
        size = header + int.from_bytes(kernels[at + 8 : at + 16], "little")
        if magic != _FATBIN_MAGIC or at + size > len(kernels):
            raise ValueError(f"no fat binary at byte {at}")
        images.append(kernels[at : at + size])
        at += size
    return images
