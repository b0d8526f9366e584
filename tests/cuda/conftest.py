"""Kernels of csrc/cuda run in the emulator: its build (tools/check_emulator.sh) and nvcc needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from cuda.kernels import NVCC
from emulator.device import BUILD

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not BUILD:
        reason = "the emulator was not built: tools/check_emulator.sh does"
    elif NVCC is None:
        reason = "no nvcc"
    else:
        return
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))
