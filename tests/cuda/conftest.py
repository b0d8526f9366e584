"""Kernels of csrc/cuda run in the emulator, which needs its build (tools/check_emulator.sh) and
nvcc, or on a card, where GPTOSS_CUDA_TEST_KERNELS names a build's kernels: `pytest -m cuda`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from cuda.card import KERNELS_FILE
from cuda.kernels import NVCC
from emulator.device import BUILD

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents and item.path.stem != "test_compiler":
            item.add_marker(pytest.mark.cuda)
    if KERNELS_FILE:
        return
    if not BUILD:
        reason = "the emulator was not built: tools/check_emulator.sh does"
    elif NVCC is None:
        reason = "no nvcc"
    else:
        return
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))
