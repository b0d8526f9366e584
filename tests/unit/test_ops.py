"""The compiled kernels, on every target of this machine, against float64."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from gptoss import _core, ops
from gptoss.config import RopeConfig
from gptoss.errors import BackendError
from gptoss.reference import attention, bf12, bf16, dense, experts, kv_cache, mxfp4, q8
from gptoss.reference import rms_norm as rms_norm_reference
from gptoss.reference import rope as rope_reference
from gptoss.reference import route_topk as route_reference
from gptoss.reference import swiglu as swiglu_reference
from support import tolerances

# Every variant of every device: the CPU's instruction sets.
TARGETS = [name for name, available, _ in _core.targets() if available and ":" in name]
HIDDEN = 2880
YARN = RopeConfig(theta=150000.0, factor=32.0, truncate=False)

Array = npt.NDArray[Any]


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def rng() -> np.random.Generator:
    """Return fresh numbers on every run; the seed is shown when the test fails."""
    seed = int.from_bytes(os.urandom(4), "little")
    print(f"seed {seed}")
    return np.random.default_rng(seed)


def floats(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> npt.NDArray[np.float32]:
    return (rng.standard_normal(shape) * scale).astype(np.float32)


def mxfp4_weights(rng: np.random.Generator, n: int, k: int) -> tuple[Array, Array]:
    blocks = rng.integers(0, 256, (n, k // 32, 16), dtype=np.uint8)
    return blocks, rng.integers(115, 130, (n, k // 32), dtype=np.uint8)


def assert_within(found: Array, expected: Array, bound: Array | float) -> None:
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    excess = np.abs(found.astype(np.float64) - expected) - bound
    assert (excess <= 0).all(), f"worst error is {excess.max()} above its bound"


def test_the_expected_targets_are_here() -> None:
    assert TARGETS[-1] == "cpu:scalar"
    isas = os.environ.get("GPTOSS_EXPECT_ISAS")
    if isas is not None:
        assert {f"cpu:{isa}" for isa in isas.split(",")} == set(TARGETS)


def test_an_impossible_target_is_refused() -> None:
    x = np.ones((1, 16), np.float32)
    with pytest.raises(BackendError, match="unknown ISA 'sse9'"):
        ops.rms_norm(x, x[0], target="cpu:sse9")
    with pytest.raises(BackendError, match="unknown device of target 'tpu:7'; this build has cpu"):
        ops.rms_norm(x, x[0], target="tpu:7")
    with pytest.raises(BackendError, match="unknown device of target ''"):
        ops.route_topk(x, 1, target="")
    for name, available, missing in _core.targets():
        if not available:
            with pytest.raises(BackendError, match=missing.split(",")[0]):
                ops.rms_norm(x, x[0], target=name)


def test_the_default_target_is_the_isa_in_use(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = floats(rng, 5, 1000)
    w = bf16.to_bits(rng.standard_normal((3, 1000)))
    plain = ops.dense_matmul(x, w, fast=True)
    in_use = ops.dense_matmul(x, w, fast=True, target=f"cpu:{_core.selected_isa()}")
    np.testing.assert_array_equal(plain, in_use)
    monkeypatch.setenv("GPTOSS_ISA", "scalar")
    scalar = ops.dense_matmul(x, w, fast=True, target="cpu:scalar")
    np.testing.assert_array_equal(ops.dense_matmul(x, w, fast=True), scalar)
    np.testing.assert_array_equal(ops.dense_matmul(x, w, fast=True, target="cpu"), scalar)


def test_isa_is_another_name_for_a_target(rng: np.random.Generator) -> None:
    x = floats(rng, 5, 1000)
    w = bf16.to_bits(rng.standard_normal((3, 1000)))
    for target in TARGETS:
        device, _, isa = target.partition(":")
        if device == "cpu":
            np.testing.assert_array_equal(
                ops.dense_matmul(x, w, isa=isa), ops.dense_matmul(x, w, target=target)
            )
    with pytest.raises(BackendError, match="unknown ISA 'sse9'"):
        ops.dense_matmul(x, w, isa="sse9")
    with pytest.raises(ValueError, match=r"\[dense_matmul\] expected target or isa, got both"):
        ops.dense_matmul(x, w, isa="scalar", target="cpu")
    with pytest.raises(TypeError, match="expected target as a string, got int"):
        ops.dense_matmul(x, w, target=0)  # type: ignore[arg-type]


# ---- Against float64 ----------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 5, 7, 8, 33])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (63, 31), (64, 32), (65, 33), (3, HIDDEN), (131, 95)])
def test_dense_matmul(target: str, rng: np.random.Generator, tokens: int, n: int, k: int) -> None:
    x, bias = floats(rng, tokens, k), floats(rng, n)
    w = bf16.to_bits(rng.standard_normal((n, k)))
    exact = bf16.from_bits(w)
    expected = dense.dense(x.astype(np.float64), exact, bias.astype(np.float64))
    found = ops.dense_matmul(x, w, bias, target=target)
    assert_within(found, expected, tolerances.matmul_bound(x, exact, bias))
    plain = ops.dense_matmul(x, w, target=target)
    assert_within(plain, expected - bias, tolerances.matmul_bound(x, exact, 0.0))
    # The other spelling of bfloat16, and an odd address: the same bits.
    np.testing.assert_array_equal(
        ops.dense_matmul(x, w.view(ml_dtypes.bfloat16), bias, target=target), found
    )
    buffer = np.zeros(w.nbytes + 1, np.uint8)
    shifted = buffer[1:].view(np.uint16).reshape(w.shape)
    shifted[...] = w
    np.testing.assert_array_equal(ops.dense_matmul(x, shifted, bias, target=target), found)


@pytest.mark.parametrize("tokens", [1, 2, 15, 16, 17, 33, 50])
@pytest.mark.parametrize(
    ("n", "k"), [(1, 1), (16, 32), (17, 33), (33, 47), (96, 64), (65, 100), (50, HIDDEN)]
)
def test_fast_dense_matmul(
    target: str, rng: np.random.Generator, tokens: int, n: int, k: int
) -> None:
    x, bias = floats(rng, tokens, k), floats(rng, n)
    w = bf16.to_bits(rng.standard_normal((n, k)))
    exact = bf16.from_bits(w)
    found = ops.dense_matmul(x, w, bias, fast=True, target=target)
    if target == "cpu:avx512_bf16":
        x = bf16.from_bits(bf16.to_bits(x)).astype(np.float32)
    expected = dense.dense(x.astype(np.float64), exact, bias.astype(np.float64))
    # What is left of x after two roundings to 8 bits.
    split = (2.0**-17 if target == "cpu:amx" else 0.0) * np.abs(x) @ np.abs(exact).T
    assert_within(found, expected, split + tolerances.matmul_bound(x, exact, bias))
    shifted = np.zeros(w.nbytes + 1, np.uint8)[1:].view(np.uint16).reshape(w.shape)
    shifted[...] = w
    again = ops.dense_matmul(x, shifted, bias, fast=True, target=target)
    np.testing.assert_array_equal(again, found)


def bf12_weights(rng: np.random.Generator, n: int, k: int) -> npt.NDArray[np.uint16]:
    """Return weights as models have them, with some that are far from the rest, and all kinds."""
    w = bf16.to_bits(rng.standard_normal((n, k)) * 10.0 ** rng.integers(-20, 20, (n, 1)))
    rare = rng.random((n, k)) < 0.01
    w[rare] = any_bf16(rng, int(rare.sum()))
    w[0] = any_bf16(rng, k)
    w[n // 2, : k // 2] = 0
    return w


def any_bf16(rng: np.random.Generator, *shape: int) -> npt.NDArray[np.uint16]:
    """Return any finite numbers, as their bits."""
    bits = rng.integers(0, 2**16, shape, dtype=np.uint16)
    return np.where(bits & 0x7F80 == 0x7F80, bits & 0x807F, bits)


@pytest.mark.parametrize("value", [0x7F80, 0xFF80, 0x7FC0, 0xFFC0, 0x7F81, 0xFFFF])
@pytest.mark.parametrize("encode", [ops.q8_encode, ops.bf12_encode], ids=["q8", "bf12"])
def test_encoders_refuse_what_is_not_finite(
    encode: Callable[..., Any], value: int, rng: np.random.Generator
) -> None:
    for n, k, row, column in ((1, 32, 0, 0), (70, 96, 69, 95), (3, 64, 1, 31), (131, 4096, 64, 7)):
        w = bf16.to_bits(rng.standard_normal((n, k)))
        encode(w)
        w[row, column] = value
        with pytest.raises(
            ValueError, match=rf"finite w, got NaN or infinity at \[{row}, {column}\]"
        ):
            encode(w)
    for finite in (0x7F7F, 0xFF7F, 0x0001, 0x8000):
        encode(np.full((2, 64), finite, np.uint16))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_mxfp4_encoder_refuses_what_is_not_finite(value: float) -> None:
    x = np.ones((3, 64), np.float32)
    x[2, 40] = value
    with pytest.raises(ValueError, match="expected finite x, got NaN or infinity"):
        ops.mxfp4_quantize(x)


def test_bf12_loses_nothing(target: str, rng: np.random.Generator) -> None:
    for n, k in ((1, 1), (2, 63), (3, 64), (70, 65), (131, 96), (2, HIDDEN), (3, 64 * 65 + 1)):
        w = bf12_weights(rng, n, k)
        rows, escapes = ops.bf12_encode(w, target=target)
        assert rows.shape == (n, bf12.row_bytes(k))
        np.testing.assert_array_equal(bf12.decode(rows, escapes, k), w)
    # A normal distribution fits: few groups are kept whole.
    w = bf16.to_bits(rng.standard_normal((64, HIDDEN)))
    rows, escapes = ops.bf12_encode(w, target=target)
    assert rows.nbytes + escapes.nbytes < 0.8 * w.nbytes
    np.testing.assert_array_equal(bf12.decode(rows, escapes, HIDDEN), w)


@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 5, 6, 7, 8, 15, 33, 48, 49, 50])
@pytest.mark.parametrize(
    ("n", "k"), [(1, 1), (16, 32), (17, 33), (65, 96), (67, 64), (9, 4160), (70, 130), (50, HIDDEN)]
)
def test_bf12_matmul(target: str, rng: np.random.Generator, tokens: int, n: int, k: int) -> None:
    x, bias = floats(rng, tokens, k), floats(rng, n)
    # Finite: what NaN is does not matter here.
    w = bf16.to_bits(rng.standard_normal((n, k)) * 10.0 ** rng.integers(-9, 9, (n, 1)))
    w[rng.random((n, k)) < 0.01] = 0x0123
    w[rng.random((n, k)) < 0.01] = 0x4423
    rows, escapes = ops.bf12_encode(w)
    assert k < 1000 or len(escapes) > 0
    for b in (bias, None):
        np.testing.assert_array_equal(
            ops.bf12_matmul(x, rows, escapes, b, target=target),
            ops.dense_matmul(x, w, b, fast=True, target=target),
        )


def test_bf12_matmul_refuses_rows_of_another_matrix(rng: np.random.Generator) -> None:
    w = any_bf16(rng, 3, 128)  # every group is escaped
    rows, escapes = ops.bf12_encode(w)
    x = floats(rng, 2, 128)
    with pytest.raises(ValueError, match="row 2 needs 6 escaped groups, got 5"):
        ops.bf12_matmul(x, rows, escapes[:5].copy())
    with pytest.raises(ValueError, match="rows must have 320 bytes for K = 192, got 256"):
        ops.bf12_matmul(floats(rng, 2, 192), rows, escapes)
    with pytest.raises(TypeError, match="rows"):
        ops.bf12_matmul(x, rows.astype(np.int8), escapes)


def test_q8_encode(target: str, rng: np.random.Generator) -> None:
    for n, k in ((1, 32), (3, 96), (65, 160), (4, HIDDEN)):
        w = bf16.to_bits(rng.standard_normal((n, k)) * 10.0 ** rng.integers(-20, 20, (n, 1)))
        w[0, :32] = 0
        codes, scales = ops.q8_encode(w, target=target)
        exact = bf16.from_bits(w)
        expected, expected_scales = q8.encode(exact)
        np.testing.assert_array_equal(scales, bf16.to_bits(expected_scales))
        assert np.abs(codes.astype(int)).max() <= 127
        # Halves may be rounded either way: the kernel multiplies by a rounded inverse.
        steps = np.where(expected_scales > 0, expected_scales / 2, 1.0)[..., None]
        quotients = exact.reshape(n, -1, q8.BLOCK) / steps
        near_half = np.abs(quotients - np.floor(quotients) - 0.5) < 1e-4
        distance = np.abs(codes.astype(int) - q8.in_groups(expected))
        assert distance.max() <= 1
        assert q8.in_groups(near_half)[distance > 0].all()
        error = np.abs(q8.decode(expected, expected_scales) - exact)
        assert (error <= expected_scales.repeat(32, axis=1) / 4 * (1 + 1e-6)).all()


@pytest.mark.parametrize("tokens", [1, 4, 5, 7, 8, 9, 16, 33])
@pytest.mark.parametrize(
    ("n", "k"), [(1, 32), (16, 96), (63, 64), (64, 160), (65, 128), (32, HIDDEN)]
)
def test_q8_matmul(target: str, rng: np.random.Generator, tokens: int, n: int, k: int) -> None:
    x, bias = floats(rng, tokens, k), floats(rng, n)
    codes, scales = q8.encode(rng.standard_normal((n, k)))
    w = q8.decode(codes, scales)
    in_groups = q8.in_groups(codes).astype(np.int8)
    bits = bf16.to_bits(scales)
    expected = dense.dense(x.astype(np.float64), w, bias.astype(np.float64))
    found = ops.q8_matmul(x, in_groups, bits, bias, target=target)
    bound = tolerances.int8_bound(x, w) + tolerances.matmul_bound(x, w, bias)
    assert_within(found, expected, bound)
    # Whole numbers up to 127 with 127 in every block are int8 already.
    x = rng.integers(-127, 128, (tokens, k)).astype(np.float32)
    x[:, ::32] = 127
    expected = dense.dense(x.astype(np.float64), w)
    found = ops.q8_matmul(x, in_groups, bits, target=target)
    assert_within(found, expected, tolerances.matmul_bound(x, w, 0.0))


@pytest.mark.parametrize("tokens", [1, 4, 5, 9, 16, 33])
@pytest.mark.parametrize(("n", "k"), [(1, 32), (16, 96), (63, 64), (64, 160), (65, 128)])
def test_q8_matmul_of_q8_0(
    target: str, rng: np.random.Generator, tokens: int, n: int, k: int
) -> None:
    x, bias = floats(rng, tokens, k), floats(rng, n)
    codes = rng.integers(-128, 128, (n, k // 32, 32))
    # Subnormal scales, and more bits than those of q8 have.
    scales = (rng.standard_normal((n, k // 32)) * 10.0 ** rng.integers(-6, 1, (n, 1))).astype("f2")
    in_groups = q8.in_groups(codes).astype(np.int8)
    w = q8.decode_q8_0(in_groups, scales)
    np.testing.assert_array_equal(w, (codes * scales.astype(np.float64)[..., None]).reshape(n, k))
    expected = dense.dense(x.astype(np.float64), w, bias.astype(np.float64))
    matmul_bound = tolerances.matmul_bound(x, w, bias)
    found = ops.q8_matmul(x, in_groups, scales, bias, target=target)
    assert_within(found, expected, tolerances.int8_bound(x, w) + matmul_bound)
    found = ops.q8_matmul(x, in_groups, scales, bias, exact=True, target=target)
    assert_within(found, expected, matmul_bound)
    x = rng.integers(-127, 128, (tokens, k)).astype(np.float32)
    x[:, ::32] = 127
    expected = dense.dense(x.astype(np.float64), w)
    found = ops.q8_matmul(x, in_groups, scales, target=target)
    assert_within(found, expected, tolerances.matmul_bound(x, w, 0.0))


def test_exact_q8_matmul_is_of_q8_0_only() -> None:
    x, codes = np.zeros((1, 32), np.float32), np.zeros((1, 32), np.int8)
    with pytest.raises(ValueError, match="exact goes with float16 scales only"):
        ops.q8_matmul(x, codes, np.zeros((1, 1), np.uint16), exact=True)


def test_q8_matmul_of_the_largest_codes(target: str) -> None:
    w = np.full((17, 128), -128, np.int8)
    x = np.full((20, 128), 127.0, np.float32)
    np.testing.assert_array_equal(
        ops.q8_matmul(x, w, np.ones((17, 4), np.float16), target=target),
        np.full((20, 17), -128 * 128 * 127),
    )
    for sign in (1.0, -1.0):
        w = np.full((17, 128), 127, np.int8)
        x = np.full((20, 128), 127.0 * sign, np.float32)
        scales = np.full((17, 4), bf16.to_bits(np.array(2.0)), np.uint16)
        np.testing.assert_array_equal(
            ops.q8_matmul(x, w, scales, target=target), np.full((20, 17), sign * 128 * 127 * 127)
        )


@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 5, 7, 8, 33])
@pytest.mark.parametrize(("n", "k"), [(1, 32), (63, 64), (64, 96), (65, 32), (3, HIDDEN)])
def test_mxfp4_matmul(target: str, rng: np.random.Generator, tokens: int, n: int, k: int) -> None:
    x, bias = floats(rng, tokens, k), floats(rng, n)
    blocks, scales = mxfp4_weights(rng, n, k)
    w = mxfp4.dequantize(blocks, scales)
    expected = dense.dense(x.astype(np.float64), w, bias.astype(np.float64))
    found = ops.mxfp4_matmul(x, blocks, scales, bias, target=target)
    assert_within(found, expected, tolerances.matmul_bound(x, w, bias))


@pytest.mark.parametrize("tokens", [1, 4, 7, 8, 9, 16, 33])
@pytest.mark.parametrize(
    ("n", "k"), [(1, 32), (16, 96), (63, 64), (64, 160), (65, 128), (16, HIDDEN)]
)
def test_mxfp4_matmul_of_int8_activations(
    target: str, rng: np.random.Generator, tokens: int, n: int, k: int
) -> None:
    x, bias = floats(rng, tokens, k), floats(rng, n)
    blocks, scales = mxfp4_weights(rng, n, k)
    w = mxfp4.dequantize(blocks, scales)
    expected = dense.dense(x.astype(np.float64), w, bias.astype(np.float64))
    found = ops.mxfp4_matmul(x, blocks, scales, bias, int8_activations=True, target=target)
    bound = tolerances.int8_bound(x, w) + tolerances.matmul_bound(x, w, bias)
    assert_within(found, expected, bound)
    # Whole numbers up to 127 with 127 in every block are int8 already.
    x = rng.integers(-127, 128, (tokens, k)).astype(np.float32)
    x[:, ::32] = 127
    expected = dense.dense(x.astype(np.float64), w)
    found = ops.mxfp4_matmul(x, blocks, scales, int8_activations=True, target=target)
    assert_within(found, expected, tolerances.matmul_bound(x, w, 0.0))


@pytest.mark.parametrize("n", [1, 15, 16, 17, 33, HIDDEN])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_rms_norm(target: str, rng: np.random.Generator, n: int, scale: float) -> None:
    x, weight = floats(rng, 3, n, scale=scale), floats(rng, n)
    expected = rms_norm_reference.rms_norm(x.astype(np.float64), weight.astype(np.float64), 1e-5)
    assert_within(
        ops.rms_norm(x, weight, target=target), expected, tolerances.rms_norm_bound(expected)
    )


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("head_dim", [2, 16, 34, 64])
@pytest.mark.parametrize(
    "config",
    [RopeConfig(theta=10000.0), YARN, RopeConfig(theta=150000.0, factor=32.0, truncate=True)],
)
def test_rope(
    target: str, rng: np.random.Generator, heads: int, head_dim: int, config: RopeConfig
) -> None:
    positions = np.array([0, 1, 127, 4095, 4096, 131071, 2**31 - 1], np.int32)
    x = floats(rng, len(positions), heads, head_dim)
    before = x.copy()
    expected = rope_reference.rope(x.astype(np.float64), positions.astype(np.int64), config)
    concentration = rope_reference.concentration(config)
    # Angles are float64 in both; they differ by some roundings of themselves.
    angle_error = 16 * 2.0**-53 * positions[:, None, None]
    bound = tolerances.rope_bound(x, concentration) + angle_error * concentration * np.abs(x).max()
    assert_within(ops.rope(x, positions, config, target=target), expected, bound)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("n", [1, 15, 16, 17, 33, HIDDEN])
@pytest.mark.parametrize("scale", [1.0, 10.0, 1e3])
def test_swiglu(target: str, rng: np.random.Generator, n: int, scale: float) -> None:
    x = floats(rng, 3, 2 * n, scale=scale)
    for limit in (7.0, 0.5):
        expected = swiglu_reference.swiglu(x.astype(np.float64), limit)
        bound = tolerances.swiglu_bound(x[:, 0::2].astype(np.float64), expected, limit)
        assert_within(ops.swiglu(x, limit, target=target), expected, bound)


@pytest.mark.parametrize(("n_experts", "top_k"), [(1, 1), (4, 4), (32, 4), (128, 4), (33, 7)])
def test_route_topk(target: str, rng: np.random.Generator, n_experts: int, top_k: int) -> None:
    logits = floats(rng, 50, n_experts, scale=3.0)
    logits[::3] = np.round(logits[::3])  # ties
    chosen, weights = ops.route_topk(logits, top_k, target=target)
    expected, expected_weights = route_reference.route_topk(logits.astype(np.float64), top_k)
    np.testing.assert_array_equal(chosen, expected)
    assert chosen.dtype == np.int32
    taken = np.take_along_axis(logits, chosen, axis=-1).astype(np.float64)
    assert_within(weights, expected_weights, tolerances.softmax_bound(taken) * expected_weights)


@pytest.mark.parametrize(("tokens", "active", "n_experts"), [(1, 1, 1), (1, 4, 32), (50, 4, 32)])
def test_expert_gather(
    target: str, rng: np.random.Generator, tokens: int, active: int, n_experts: int
) -> None:
    x = floats(rng, tokens, 7)
    chosen = rng.integers(0, n_experts, (tokens, active), dtype=np.int32)
    expected = experts.expert_gather(x.astype(np.float64), chosen.astype(np.int64), n_experts)
    gathered = ops.expert_gather(x, chosen, n_experts, target=target)
    for found, wanted in zip(gathered, expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


# ---- Attention ----------------------------------------------------------------------------------


def attend(
    q: Array, k: Array, v: Array, sinks: Array | None, window: int | None, first: int
) -> tuple[Array, float]:
    """Return the reference's result and the bound of the kernel's error."""
    wide = [array.astype(np.float64) for array in (q, k, v)]
    scale = q.shape[2] ** -0.5
    positions = first + np.arange(len(q))
    sinks = None if sinks is None else sinks.astype(np.float64)
    expected = attention.banded_attention(*wide, sinks, window, positions, scale)
    return expected, tolerances.attention_bound(*wide, scale)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("window", [None, 1, 63, 64, 65, 128])
@pytest.mark.parametrize(
    ("tokens", "keys", "heads", "kv_heads", "head_dim"),
    [
        (1, 1, 1, 1, 16),
        (1, 129, 8, 1, 64),
        (63, 63, 2, 2, 32),
        (64, 65, 6, 2, 80),
        (150, 200, 3, 1, 48),
    ],
)
def test_banded_attention(
    target: str,
    rng: np.random.Generator,
    tokens: int,
    keys: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    window: int | None,
    dtype: type,
) -> None:
    q = floats(rng, tokens, heads, head_dim)
    k = floats(rng, keys, kv_heads, head_dim).astype(dtype)
    v = floats(rng, keys, kv_heads, head_dim).astype(dtype)
    for sinks in (None, floats(rng, heads, scale=3.0)):
        expected, bound = attend(q, k, v, sinks, window, keys - tokens)
        found = ops.banded_attention(q, k, v, sinks, window=window, target=target)
        assert_within(found, expected, bound)
    if keys > tokens:
        expected, bound = attend(q, k, v, None, window, 0)
        found = ops.banded_attention(q, k, v, window=window, first_position=0, target=target)
        assert_within(found, expected, bound)


@pytest.mark.parametrize("window", [None, 63, 128])
@pytest.mark.parametrize(
    ("tokens", "keys", "heads", "kv_heads", "head_dim"),
    [(1, 129, 8, 1, 64), (64, 65, 6, 2, 80), (150, 200, 3, 3, 48)],
)
def test_banded_attention_over_an_int8_cache(
    target: str,
    rng: np.random.Generator,
    tokens: int,
    keys: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    window: int | None,
) -> None:
    q, k, v = (floats(rng, n, h, head_dim) for n, h in ((tokens, heads), *2 * [(keys, kv_heads)]))
    sinks = floats(rng, heads, scale=3.0)
    found = ops.banded_attention(q, k, v, sinks, window=window, int8_cache=True, target=target)
    kept = [kv_cache.round_to_int8(x.astype(np.float64)) for x in (k, v)]
    expected, bound = attend(q, *kept, sinks, window, keys - tokens)
    assert_within(found, expected, bound)
    # What was rounded away is seen.
    exact, _ = attend(q, k, v, sinks, window, keys - tokens)
    assert np.abs(found - exact).max() > 2 * bound


def test_banded_attention_over_a_long_context(target: str, rng: np.random.Generator) -> None:
    """One token of the real shape; the softmax is carried in splits of 512 keys."""
    q = floats(rng, 1, 64, 64)
    k, v = floats(rng, 1300, 8, 64), floats(rng, 1300, 8, 64)
    sinks = floats(rng, 64)
    expected, bound = attend(q, k, v, sinks, None, 1299)
    assert_within(ops.banded_attention(q, k, v, sinks, target=target), expected, bound)


def test_a_window_of_all_keys_is_causal(target: str, rng: np.random.Generator) -> None:
    q, k, v = (floats(rng, 100, 2, 16) for _ in range(3))
    causal = ops.banded_attention(q, k, v, target=target)
    for window in (100, 101, 2**31 - 1):
        np.testing.assert_array_equal(
            ops.banded_attention(q, k, v, window=window, target=target), causal
        )
    assert (ops.banded_attention(q, k, v, window=99, target=target)[99] != causal[99]).any()


def test_a_sink_of_minus_infinity_is_a_plain_softmax(target: str, rng: np.random.Generator) -> None:
    q, k, v = (floats(rng, 600, 2, 16) for _ in range(3))
    sinks = np.full(2, -np.inf, np.float32)
    plain = ops.banded_attention(q, k, v, target=target)
    np.testing.assert_array_equal(ops.banded_attention(q, k, v, sinks, target=target), plain)


def test_equal_keys_and_values_of_one_give_the_mass_beside_the_sink(target: str) -> None:
    tokens = 200
    q = np.zeros((tokens, 2, 16), np.float32)
    ones = np.ones((tokens, 1, 16), np.float32)
    sinks = np.array([0.0, np.log(5.0)], np.float32)
    for window in (None, 128):
        found = ops.banded_attention(q, ones, ones, sinks, window=window, target=target)
        seen = np.minimum(np.arange(1, tokens + 1), window or tokens)[:, None, None]
        expected = seen / (seen + np.array([1.0, 5.0])[:, None])
        # Weights are exactly 1; the sink's own exp and the quotient round.
        np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), rtol=1e-6)


def test_a_nan_reaches_those_who_see_it(target: str, rng: np.random.Generator) -> None:
    for name in ("k", "v"):
        arrays = {key: floats(rng, 100, 1, 16) for key in "qkv"}
        arrays[name][37] = np.nan
        found = ops.banded_attention(**arrays, window=20, target=target)
        bad = np.isnan(found).all(axis=(1, 2))
        np.testing.assert_array_equal(np.flatnonzero(bad), np.arange(37, 57))
        assert np.isfinite(found[~bad]).all()


# ---- Properties ---------------------------------------------------------------------------------


def test_every_fp4_code_with_every_scale(target: str) -> None:
    codes = np.arange(16, dtype=np.uint8)
    block = (codes | codes[::-1] << 4).astype(np.uint8)  # each code in both nibbles
    blocks = np.broadcast_to(block, (256, 1, 16)).copy()
    scales = np.arange(256, dtype=np.uint8)[:, None]
    with np.errstate(over="ignore"):
        expected = mxfp4.dequantize(blocks, scales).astype(np.float32)
    found = ops.mxfp4_dequantize(blocks, scales, target=target)
    assert np.isnan(found[255]).all()
    assert np.isinf(found[254]).any()
    # As bits, so that -0 is not 0.
    np.testing.assert_array_equal(found[:255].view(np.uint32), expected[:255].view(np.uint32))


def test_a_scale_byte_more_doubles(target: str, rng: np.random.Generator) -> None:
    x = floats(rng, 3, 96)
    blocks, scales = mxfp4_weights(rng, 5, 96)
    for int8 in (False, True):
        once = ops.mxfp4_matmul(x, blocks, scales, int8_activations=int8, target=target)
        twice = ops.mxfp4_matmul(x, blocks, scales + 1, int8_activations=int8, target=target)
        np.testing.assert_array_equal(twice, 2 * once)


@pytest.mark.parametrize("shape", [(32,), (5, 64), (2, 3, 96)])
def test_quantize_agrees_with_the_reference(
    target: str, rng: np.random.Generator, shape: tuple[int, ...]
) -> None:
    for scale in (0.0, 1e-42, 1e-20, 1.0, 1e30, 1e38):
        x = np.clip(floats(rng, *shape), -3, 3) * np.float32(scale)
        quantized = ops.mxfp4_quantize(x, target=target)
        for found, expected in zip(quantized, mxfp4.quantize(x), strict=True):
            assert found.dtype == np.uint8
            np.testing.assert_array_equal(found, expected)


def test_least_squares_quantize_errs_least(target: str, rng: np.random.Generator) -> None:
    """No scale of any block gives a smaller square error."""
    x = floats(rng, 60, 96) * np.float32(10.0) ** rng.integers(-3, 4, (60, 1)).astype(np.float32)
    x[:20] *= rng.choice([1, 0.05], (20, 96)).astype(np.float32)  # one large number among small
    x[20] = 0
    x[21, 1:32] = 0.24 * np.float32(2.0**-9)
    x[21, 0] = 4 * np.float32(2.0**-9)
    blocks, scales = ops.mxfp4_quantize(x, least_squares=True, target=target)
    plain = mxfp4.quantize(x)[1]
    exact = x.astype(np.float64).reshape(60, 3, 32)

    def errors(scales: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        units = np.ldexp(1.0, scales.astype(int) - 127)[..., None]
        values = np.unique(mxfp4.FP4_VALUES)
        distance = np.abs((exact / units)[..., None] - values).min(-1)
        return ((distance * units[..., 0][..., None]) ** 2).sum(-1)

    decoded = mxfp4.dequantize(blocks, scales).reshape(exact.shape)
    found = ((decoded - exact) ** 2).sum(-1)
    others = [errors(np.clip(plain.astype(int) + step, 0, 252)) for step in range(-5, 6)]
    assert (found <= np.min(others, axis=0) * (1 + 1e-5)).all()
    better = found < errors(plain.astype(int)) * (1 - 1e-5)
    assert (scales[better] != plain[better]).all()
    assert set(np.unique(scales[21:].astype(int) - plain[21:])) == {-1, 0, 1}


def test_quantize_brings_mxfp4_back(target: str, rng: np.random.Generator) -> None:
    blocks = rng.integers(0, 256, (4, 50, 16), dtype=np.uint8)
    scales = rng.integers(0, 253, (4, 50), dtype=np.uint8)
    values = ops.mxfp4_dequantize(blocks, scales, target=target)
    best = ops.mxfp4_quantize(values, least_squares=True, target=target)
    np.testing.assert_array_equal(ops.mxfp4_dequantize(*best, target=target), values)
    again = ops.mxfp4_dequantize(*ops.mxfp4_quantize(values, target=target), target=target)
    np.testing.assert_array_equal(again.view(np.uint32), values.view(np.uint32))


def test_experts_can_be_renamed(target: str, rng: np.random.Generator) -> None:
    """Permuting the experts permutes groups of rows, and no token's result."""
    tokens, n_experts, active, n, k = 20, 6, 2, 8, 64
    x = floats(rng, tokens, k)
    blocks, scales = mxfp4_weights(rng, n_experts * n, k)
    blocks = blocks.reshape(n_experts, n, k // 32, 16)
    scales = scales.reshape(n_experts, n, k // 32)
    chosen, _ = ops.route_topk(floats(rng, tokens, n_experts), active, target=target)
    order = rng.permutation(n_experts)
    new_name = np.argsort(order).astype(np.int32)

    def outputs(chosen: Array, blocks: Array, scales: Array) -> Array:
        rows, pairs, offsets = ops.expert_gather(x, chosen, n_experts, target=target)
        result = np.empty((tokens * active, n), np.float32)
        for e in range(n_experts):
            group = slice(offsets[e], offsets[e + 1])
            if group.start < group.stop:
                result[pairs[group]] = ops.mxfp4_matmul(
                    rows[group], blocks[e], scales[e], target=target
                )
        return result

    np.testing.assert_array_equal(
        outputs(new_name[chosen], blocks[order], scales[order]), outputs(chosen, blocks, scales)
    )


def every_op(rng: np.random.Generator, tokens: int) -> dict[str, Callable[[slice, str], Array]]:
    """Return ops over `tokens` rows as functions of which rows, and of the target."""
    x, bias = floats(rng, tokens, 320), floats(rng, 144)
    w = bf16.to_bits(rng.standard_normal((144, 320)))
    codes, code_scales = ops.q8_encode(w)
    packed, escapes = ops.bf12_encode(w)
    blocks, scales = mxfp4_weights(rng, 144, 320)
    q, k, v = floats(rng, tokens, 4, 16), floats(rng, tokens, 2, 16), floats(rng, tokens, 2, 16)
    positions = rng.integers(0, 131072, tokens, dtype=np.int32)

    def attended(rows: slice, target: str, int8_cache: bool = False) -> Array:
        return ops.banded_attention(
            q[rows],
            k,
            v,
            bias[:4],
            window=50,
            first_position=rows.start,
            int8_cache=int8_cache,
            target=target,
        )

    return {
        "dense_matmul": lambda rows, target: ops.dense_matmul(x[rows], w, bias, target=target),
        "dense_matmul fast": lambda rows, target: ops.dense_matmul(
            x[rows], w, bias, fast=True, target=target
        ),
        "bf12_matmul": lambda rows, target: ops.bf12_matmul(
            x[rows], packed, escapes, bias, target=target
        ),
        "q8_matmul": lambda rows, target: ops.q8_matmul(
            x[rows], codes, code_scales, bias, target=target
        ),
        "mxfp4_matmul": lambda rows, target: ops.mxfp4_matmul(
            x[rows], blocks, scales, target=target
        ),
        "mxfp4_matmul int8": lambda rows, target: ops.mxfp4_matmul(
            x[rows], blocks, scales, int8_activations=True, target=target
        ),
        "rms_norm": lambda rows, target: ops.rms_norm(
            x[rows], w[0].astype(np.float32), target=target
        ),
        "rope": lambda rows, target: ops.rope(q[rows], positions[rows], YARN, target=target),
        "swiglu": lambda rows, target: ops.swiglu(x[rows], target=target),
        "banded_attention": attended,
        "banded_attention int8": functools.partial(attended, int8_cache=True),
    }


def test_a_row_does_not_depend_on_the_others(target: str, rng: np.random.Generator) -> None:
    tokens = 75
    for name, op in every_op(rng, tokens).items():
        whole = op(slice(0, tokens), target)
        for size in (1, 7, 64):
            parts = [op(slice(i, min(i + size, tokens)), target) for i in range(0, tokens, size)]
            np.testing.assert_array_equal(np.concatenate(parts), whole, err_msg=name)


def test_isas_with_fused_multiply_add_give_the_same_bits(rng: np.random.Generator) -> None:
    fused = [name for name in TARGETS if name != "cpu:scalar"]
    if len(fused) < 2:
        pytest.skip(f"this machine has {', '.join(TARGETS)}: nothing to compare")
    for name, op in every_op(rng, 37).items():
        if name in ("dense_matmul fast", "bf12_matmul"):  # each as it does it best
            continue
        results = [op(slice(0, 37), target) for target in fused]
        for found in results[1:]:
            np.testing.assert_array_equal(found, results[0], err_msg=name)


def digests() -> str:
    """Return the bits of every op on fixed inputs; runs in processes of their own."""
    import hashlib

    results = every_op(np.random.default_rng(5), 40)
    return "\n".join(
        f"{name} {target} {hashlib.sha256(op(slice(0, 40), target).tobytes()).hexdigest()}"
        for target in TARGETS
        for name, op in results.items()
    )


def test_threads_do_not_change_bits() -> None:
    found = set()
    for threads in ("1", "2", "7"):
        environment = os.environ | {"GPTOSS_NUM_THREADS": threads}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        command = [sys.executable, __file__]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        found.add(run.stdout)
    assert len(found) == 1
    assert len(found.pop().splitlines()) == 11 * len(TARGETS)


if __name__ == "__main__":
    print(digests())
