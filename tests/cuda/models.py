"""Whole models on a CUDA device: what their tests share."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from cuda.card import KERNELS_FILE
from gptoss import _core
from support.model_cases import ModelCase, golden_path

STATE = {name: (available, detail) for name, available, detail in _core.backends()}["cuda"]
needs_device = pytest.mark.skipif(not STATE[0], reason=f"tools/check_cuda.sh has one: {STATE[1]}")
emulated = pytest.mark.skipif(bool(KERNELS_FILE), reason="only the emulator has such devices")

SMALL: dict[str, Any] = {"context_length": 128, "max_step_tokens": 64, "max_sequences": 4}


def golden_of(case: ModelCase) -> dict[str, npt.NDArray[np.generic]]:
    with np.load(golden_path(case)) as arrays:
        return dict(arrays)


def graph_launches() -> int:
    """Return how many graphs the stand-in has launched."""
    count = ctypes.CDLL("libcuda.so.1").emulatorGraphLaunches
    count.restype = ctypes.c_uint64
    return int(count())


class Driver:
    """The stand-in, as another library of the process would use it."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL("libcuda.so.1")
        self.context = ctypes.c_void_p()
        self.call("cuInit", 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(self.context), 0)

    def call(self, name: str, *arguments: Any) -> None:
        assert getattr(self.library, name)(*arguments) == 0, name

    def free_bytes(self) -> int:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        old = ctypes.c_void_p()
        self.call("cuCtxPushCurrent_v2", self.context)
        self.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        self.call("cuCtxPopCurrent_v2", ctypes.byref(old))
        return free.value

    def current(self) -> int | None:
        context = ctypes.c_void_p()
        self.call("cuCtxGetCurrent", ctypes.byref(context))
        return context.value


def run_and_say(
    code: str, devices: str = "A100", timeout_s: float = 600, **environment: str
) -> tuple[str, str]:
    """Run Python code in a process of its own: what it prints, and on the standard error."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"GPTOSS_EMULATOR_DEVICES": devices} | environment,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.rstrip("\n"), done.stderr


def run_elsewhere(code: str, devices: str = "A100", **environment: str) -> str:
    """Likewise, but only what it prints."""
    return run_and_say(code, devices, **environment)[0]
