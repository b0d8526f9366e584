"""A device behind the driver, with the face of emulator.device: the same tests of kernels run on a
card, with the kernels as a build has them. What the emulator alone can do (seeds, hostile tensor
cores, reports) is left out.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import cuda_driver
from cuda_driver import Driver
from emulator.device import Result

# A build's gptoss_kernels.fatbin: says that tests run on a device.
KERNELS_FILE = os.environ.get("GPTOSS_CUDA_TEST_KERNELS", "")


class CardBuffer:
    """An array in the device's memory."""

    def __init__(self, driver: Driver, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._driver, self.shape, self.dtype = driver, shape, dtype
        self._nbytes = int(np.prod(shape)) * dtype.itemsize
        self.address = driver.allocate(self._nbytes)
        weakref.finalize(self, driver.free, self.address)

    def numpy(self) -> np.ndarray[Any, Any]:
        """Copy the array to the host."""
        out = np.empty(self.shape, self.dtype)
        if out.nbytes:
            self._driver.read(self.address, out)
        return out

    def write(self, array: np.ndarray[Any, Any]) -> None:
        """Copy an array of the same size to the device."""
        raw = np.ascontiguousarray(array)
        if raw.nbytes:
            self._driver.write(self.address, raw)

    def poison(self) -> None:
        """Fill with what makes numbers NaN."""
        self._driver.fill(self.address, 0xFF, self._nbytes)


class Card:
    """The device, with every kernel of the build."""

    def __init__(self) -> None:
        self._driver = cuda_driver.driver()
        images = cuda_driver.split_images(Path(KERNELS_FILE).read_bytes())
        self._modules = [self._driver.load(image) for image in images]
        self._functions: dict[str, ctypes.c_void_p] = {}

    def empty(self, shape: int | Sequence[int], dtype: Any, name: str = "") -> CardBuffer:
        """Allocate an array that is poisoned."""
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        out = CardBuffer(self._driver, shape, np.dtype(dtype))
        out.poison()
        return out

    def buffer(self, array: Any, name: str = "") -> CardBuffer:
        """Allocate an array with the values of `array`."""
        raw = np.ascontiguousarray(array)
        out = CardBuffer(self._driver, raw.shape if raw.shape else (1,), raw.dtype)
        out.write(raw)
        return out

    def launch(
        self,
        kernel: str,
        grid: int | Sequence[int],
        threads: int,
        parameters: bytes,
        *,
        shared: int = 0,
        **_emulated: Any,
    ) -> Result:
        """Run a kernel to its end."""
        if kernel not in self._functions:
            found = (self._driver.function(module, kernel) for module in self._modules)
            self._functions[kernel] = next(f for f in found if f is not None)
        blocks = (grid,) if isinstance(grid, int) else grid
        self._driver.launch(self._functions[kernel], blocks, threads, shared, parameters)
        return Result("none", [], {}, "")


@cache
def card() -> Card:
    """Return the process's one."""
    return Card()
