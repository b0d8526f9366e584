"""Kernels that other compilers made, against float64: right numbers and no report."""

from __future__ import annotations

import os

import pytest

from emulator import corpus
from emulator.device import Device, coverage, ptx

SEEDS = int(os.environ.get("GPTOSS_EMULATOR_SEEDS", "4"))


@pytest.mark.parametrize("name", corpus.CASES)
def test_kernel_is_right_and_clean(name: str) -> None:
    text = ptx(corpus.file_of(name))
    for seed in range(SEEDS):
        outcome = corpus.run(name, text, seed=seed)
        assert outcome.result.fault == "none", outcome.result.reports[0].text
        # Triton's reductions store the same value from several threads: legal, and a warning.
        expected = {"race-same-value"} if name in corpus.TRITON else set()
        found = [r.text for r in outcome.result.reports if r.name not in expected]
        assert not found, "\n".join(found)
        assert outcome.is_right, f"{outcome.error} times the tolerance with seed {seed}"


@pytest.mark.parametrize(
    "name",
    ["matmul", "triton_matmul", "triton_matmul_f16", "triton_attention", "triton_tma_matmul"],
)
def test_hostile_tensor_cores_stay_within_the_tolerance(name: str) -> None:
    text = ptx(corpus.file_of(name))
    errors = {corpus.run(name, text, seed=seed, hostile=True).error for seed in range(6)}
    assert max(errors) <= 2  # truncation doubles the bound of rounding
    assert len(errors) > 1, "every seed rounds alike"


def test_sums_of_fp8_keep_few_bits_on_hostile_tensor_cores() -> None:
    text = ptx(corpus.file_of("triton_fp8_matmul"))
    errors = [
        corpus.run("triton_fp8_matmul", text, seed=seed, hostile=True).error for seed in range(8)
    ]
    # Down to 13 bits behind the point, truncated: 2^11 times the bound of rounding to f32.
    assert max(errors) <= 2**11
    assert max(errors) > 2, "none keeps fewer bits than a float has"


def test_a_seed_repeats_a_launch() -> None:
    text = ptx("corpus")
    first, second = (corpus.run("matmul", text, seed=5, hostile=True) for _ in range(2))
    assert first.error == second.error
    assert first.result.counters == second.result.counters


@pytest.mark.parametrize("name", sorted({corpus.file_of(n) for n in corpus.CASES}))
def test_every_instruction_is_covered(name: str) -> None:
    found = coverage(ptx(name))
    assert found["instructions"] > 50
    assert found["missing"] == {}


def test_counters_are_exact() -> None:
    outcome = corpus.run("transpose", ptx("corpus"))
    counters = outcome.result.counters
    elements = 64 * 96
    assert counters["global_load_bytes"] == counters["global_store_bytes"] == 4 * elements
    # Rows of 32 floats begin at multiples of 128 bytes: four sectors each.
    assert counters["global_load_sectors"] == counters["global_store_sectors"] == elements // 8
    assert counters["shared_load_bytes"] == counters["shared_store_bytes"] == 4 * elements
    # The column of padding leaves no bank conflict.
    assert counters["shared_bank_conflicts"] == 0
    assert counters["shared_wavefronts"] == 2 * elements // 32
    assert counters["barriers"] == 6 * 8
    assert counters["ctas"] == 6


def test_bank_conflicts_are_counted() -> None:
    source = """
.version 8.0
.target sm_80
.address_size 64
.entry strided(.param .u32 stride) {
  .reg .b32 %r<8>;
  .shared .align 16 .b8 buffer[4096];
  ld.param.u32 %r1, [stride];
  mov.u32 %r2, %tid.x;
  mul.lo.s32 %r3, %r2, %r1;
  mov.u32 %r4, buffer;
  add.s32 %r5, %r4, %r3;
  st.shared.u32 [%r5], %r2;
  ret;
}
"""
    for stride, wavefronts in ((4, 1), (8, 2), (16, 4), (128, 32), (12, 1)):
        result = Device().load(source).launch("strided", 1, 32, stride)
        assert result.counters["shared_wavefronts"] == wavefronts, stride
        assert result.counters["shared_bank_conflicts"] == wavefronts - 1


def test_tensor_operations_are_counted() -> None:
    counters = corpus.run("matmul", ptx("corpus")).result.counters
    # Four blocks of 64 x 64, K = 168 in six steps of 32.
    assert counters["tensor_multiply_adds"] == 4 * 64 * 64 * 6 * 32
    assert counters["async_copy_bytes"] == 4 * 2 * 64 * 6 * 32 * 2
    assert counters["thread_instructions_by_pipe"]["tensor"] == 4 * 4 * 6 * 2 * 8 * 32
    total = sum(counters["thread_instructions_by_pipe"].values())
    assert total == counters["thread_instructions"]
