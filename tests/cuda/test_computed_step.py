"""The computed step of docs/cuda.md is that of the kernels as they are."""

from __future__ import annotations

import pytest

import computed_step
from cuda.card import KERNELS_FILE

pytestmark = pytest.mark.skipif(bool(KERNELS_FILE), reason="counted in the emulator")


def test_the_tables_are_not_stale() -> None:
    assert computed_step.shown() == computed_step.tables(), "bench/computed_step.py --write"


def test_a_kernel_is_bound_by_the_slowest_of_its_parts() -> None:
    card = computed_step.Card("card", multiprocessors=10, ghz=2.0, copy_gb_s=100)
    kernel = computed_step.Kernel("kernel", 3, 4_000_000, 5, 1e6, 1e5, 1e5)
    parts = kernel.parts_us(card)
    assert parts == {
        "memory": pytest.approx(40.0),
        "instructions": pytest.approx(25.0),  # 4 a clock on each of 5 multiprocessors
        "integers": pytest.approx(5.0),
        "shared memory": pytest.approx(10.0),
    }
    assert kernel.us(card) == pytest.approx(40.0)
    assert computed_step.total_us([kernel], card) == pytest.approx(3 * 41.3)
