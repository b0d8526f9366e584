"""What nvcc's own headers compile to, against numpy: code written for hardware, not for tests."""

from __future__ import annotations

import math
import warnings
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from emulator.corpus import BF16
from emulator.device import Buffer, Device, coverage, ptx

Array = np.ndarray[Any, Any]


def _run(kernel: str, x: Array, columns: int, dtype: Any) -> Array:
    device = Device()
    out = device.empty((x.size, columns), dtype, "out")
    blocks = -(-x.size // 64)
    result = device.load(ptx("headers")).launch(
        kernel, blocks, 64, device.buffer(x, "x"), out, x.size, seed=3
    )
    assert result.fault == "none"
    assert not result.reports, result.reports[0].text
    return out.numpy()


@pytest.mark.parametrize("name", ["headers", "fp8"])
def test_nothing_is_missing(name: str) -> None:
    assert coverage(ptx(name))["missing"] == {}


def _erf(x: Array) -> Array:
    return np.array([math.erf(v) for v in x])


def test_f32_math() -> None:
    x = np.concatenate([np.random.default_rng(0).standard_normal(180), [1.0, -1.0, 0.5, 2.5]])
    x = x.astype(np.float32)
    got = _run("f32_math", x, 24, np.float32).astype(np.float64)
    v = x.astype(np.float64)
    a = np.abs(v)
    large = (x * np.float32(1e6)).astype(np.float64)
    ten = (x * np.float32(10)).astype(np.float64)
    hundred = (x * np.float32(100)).astype(np.float64)
    power, modulus = (np.float64(np.float32(c)) for c in (1.7, 0.3))
    rounded = np.sign(ten) * np.floor(np.abs(ten) + 0.5)
    want = [
        np.exp(v), np.log(a), a**power, np.tanh(v), np.sin(hundred), np.cos(large), _erf(v),
        1 / np.sqrt(a), np.exp2(v), np.log1p(a), np.expm1(v), np.cbrt(v), np.fmod(v, modulus),
        np.arctan2(v, 2.0), rounded, np.rint(ten), np.trunc(ten), np.ceil(ten), np.floor(ten),
        np.hypot(v, 1.0), v * 8, v / 3, np.sqrt(a), v / 3,
    ]  # fmt: skip
    for i, column in enumerate(want):
        # Errors of a few units in the last place, as the CUDA guide states; near zero absolute.
        np.testing.assert_allclose(got[:, i], column, rtol=6e-7, atol=2e-7, err_msg=str(i))
    for i in (14, 15, 16, 17, 18, 20):
        assert np.array_equal(got[:, i], want[i]), i
    assert np.array_equal(got[:, 21].astype(np.float32), x / np.float32(3))
    assert np.array_equal(got[:, 22].astype(np.float32), np.sqrt(np.abs(x)))


def test_f64_math() -> None:
    v = np.random.default_rng(1).standard_normal(150)
    got = _run("f64_math", v, 8, np.float64)
    a = np.abs(v)
    want = [np.exp(v), np.log(a), a**1.7, np.tanh(v), np.sin(v * 100), v / 3, np.sqrt(a), _erf(v)]
    for i, column in enumerate(want):
        np.testing.assert_allclose(got[:, i], column, rtol=5e-15, atol=1e-15, err_msg=str(i))
    assert np.array_equal(got[:, 5], want[5])
    assert np.array_equal(got[:, 6], want[6])


def test_integer_math() -> None:
    rng = np.random.default_rng(2)
    x = np.concatenate([rng.integers(-(2**63), 2**63 - 1, 100), rng.integers(-50, 50, 60)])
    got = _run("integer_math", x, 12, np.int64)
    m64, m32 = (1 << 64) - 1, (1 << 32) - 1

    def s64(v: int) -> int:
        v &= m64
        return v - (1 << 64) if v >> 63 else v

    def s32(v: int) -> int:
        v &= m32
        return v - (1 << 32) if v >> 31 else v

    def quotient(a: int, b: int) -> int:
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)

    for v, row in zip(x.tolist(), got.tolist(), strict=True):
        raw, u = v & m64, v & m32
        source = u | (~u & m32) << 32
        permuted = sum((source >> 8 * ((0x3715 >> 4 * i) & 7) & 255) << 8 * i for i in range(4))
        n = u & 31
        want = [
            quotient(v, 7919), v - 7919 * quotient(v, 7919), quotient(v, v >> 33 | 1),
            raw.bit_count(),
            64 - raw.bit_length(), (raw & -raw).bit_length(), s64(int(f"{raw:064b}"[::-1], 2)),
            s32(v) * 12345 >> 32, s64(raw * raw >> 64), permuted, (source << n >> 32) & m32,
            s64(raw * raw >> 70),
        ]  # fmt: skip
        assert row == want, v


def test_f16_math() -> None:
    x = np.random.default_rng(3).standard_normal(200).astype(np.float16)
    got = _run("f16_math", x, 10, np.float16).astype(np.float64)
    v = x.astype(np.float64)
    a = np.abs(v)
    square = (x * x).astype(np.float16)
    below = (square + np.float16(1)).astype(np.float64)
    want = [
        np.exp(v), np.log(a), np.sin(v), np.sqrt(a), v / below, np.maximum(v, 0.5), np.rint(v),
        np.minimum(v, np.exp(v)), 1 / np.sqrt(a), np.clip(v * v + v, 0, 1),
    ]  # fmt: skip
    for i, column in enumerate(want):
        np.testing.assert_allclose(got[:, i], column, rtol=2.0**-10, atol=2.0**-11, err_msg=str(i))


def test_bf16_math() -> None:
    x = np.random.default_rng(4).standard_normal(200).astype(BF16)
    got = _run("bf16_math", x, 8, BF16).astype(np.float64)
    v = x.astype(np.float64)
    want = [
        np.exp(v), v * v + v, np.minimum(v, 0.25), np.maximum(v, np.exp(v)), -v, np.abs(v),
        v / (v * v + 1), v * 1.001,
    ]  # fmt: skip
    for i, column in enumerate(want):
        # Two roundings of 2^-9; the sum cancels near -1.
        np.testing.assert_allclose(got[:, i], column, rtol=2.0**-7, atol=2.0**-8, err_msg=str(i))
    for i in (2, 4, 5):
        assert np.array_equal(got[:, i], want[i]), i


@pytest.mark.parametrize(("column", "kind"), [(0, "float8_e4m3fn"), (1, "float8_e5m2")])
def test_fp8_conversions_of_all_halves(column: int, kind: str) -> None:
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    x = halves[np.isfinite(halves)].astype(np.float32)
    device = Device()
    out = device.empty((x.size, 2), np.uint8, "out")
    back = device.empty((x.size, 2), np.float32, "back")
    result = device.load(ptx("headers")).launch(
        "fp8", -(-x.size // 128), 128, device.buffer(x), out, back, x.size
    )
    assert not result.reports, result.reports[0].text
    dtype = np.dtype(getattr(ml_dtypes, kind))
    largest = float(ml_dtypes.finfo(dtype).max)
    want = np.clip(x, -largest, largest).astype(dtype)  # conversions saturate
    assert np.array_equal(out.numpy()[:, column], want.view(np.uint8))
    assert np.array_equal(back.numpy()[:, column], want.astype(np.float32))


FP8 = [np.dtype(ml_dtypes.float8_e4m3fn), np.dtype(ml_dtypes.float8_e5m2)]


def _to_fp8(x: Array, dtype: np.dtype[Any]) -> Array:
    """Return the bytes that a saturating conversion gives."""
    largest = float(ml_dtypes.finfo(dtype).max)
    wide = x.astype(np.float32)
    with np.errstate(all="ignore"):
        raw = np.clip(wide, -largest, largest).astype(dtype).view(np.uint8)
    return np.where(np.isnan(wide), np.uint8(0x7F), raw)


def _ties() -> Array:
    """Return the floats between two 8-bit ones and their neighbours, and random ones."""
    out = [np.random.default_rng(0).integers(0, 2**32, 20_000, dtype=np.uint32).view(np.float32)]
    for dtype in FP8:
        numbers = np.arange(128, dtype=np.uint8).view(dtype).astype(np.float32)
        numbers = numbers[np.isfinite(numbers)]
        middle = (numbers[1:] + numbers[:-1]) / 2
        for x in (numbers, middle):
            out += [x, np.nextafter(x, np.float32(np.inf)), np.nextafter(x, np.float32(-np.inf))]
    both = np.concatenate(out)
    return np.concatenate([both, -both])


def test_cuda_fp8_with_instructions_for_it() -> None:
    with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):
        every = np.arange(65536, dtype=np.uint16)
        halves, narrow = every.view(np.float16), every.view(BF16)
        # All that f16 and bf16 have as f32, too.
        wide = np.concatenate([halves.astype(np.float32), narrow.astype(np.float32), _ties()])
        halves, narrow = (np.resize(x, wide.size) for x in (halves, narrow))
        device = Device()
        module = device.load(ptx("fp8"))
        out = device.empty((wide.size, 6), np.uint8, "out")
        inputs = [device.buffer(x) for x in (wide, halves, narrow)]
        result = module.launch("to_fp8", -(-wide.size // 256), 256, *inputs, out, wide.size)
        assert not result.reports, result.reports[0].text
        for i, x in enumerate((wide, halves, narrow)):
            for j, dtype in enumerate(FP8):
                assert np.array_equal(out.numpy()[:, 2 * i + j], _to_fp8(x, dtype)), (i, dtype)


def test_packed_cuda_fp8() -> None:
    device = Device()
    x = _ties()
    x = x[: x.size // 4 * 4].reshape(-1, 4)
    a, b = (device.empty(x.shape, np.uint8) for _ in range(2))
    back = device.empty((len(x), 2, 4), np.float32)
    module = device.load(ptx("fp8"))
    result = module.launch(
        "packed_fp8", -(-len(x) // 128), 128, device.buffer(x), a, b, back, len(x)
    )
    assert not result.reports, result.reports[0].text
    for i, (packed, dtype) in enumerate(zip((a, b), FP8, strict=True)):
        want = _to_fp8(x, dtype)
        assert np.array_equal(packed.numpy(), want)
        values = want.view(dtype).astype(np.float32)
        assert np.array_equal(back.numpy()[:, i], values, equal_nan=True)
    out = device.empty((65536, 2, 2), np.float16)
    assert not module.launch("pairs_of_fp8", 256, 256, out).reports
    pairs = np.arange(65536, dtype=np.uint16).view(np.uint8).reshape(-1, 2)
    for i, dtype in enumerate(FP8):
        want = pairs.view(dtype).astype(np.float16)
        assert np.array_equal(out.numpy()[:, i], want, equal_nan=True)


def _launch_small(kernel: str, first: Buffer | bytes, device: Device, n: int) -> Array:
    out = device.empty(n, np.int32, "out")
    result = device.load(ptx("headers")).launch(kernel, 2, 64, first, out, n)
    assert not result.reports, result.reports[0].text
    return out.numpy()


def test_switch() -> None:
    x = np.random.default_rng(5).integers(-1000, 1000, 100, dtype=np.int32)
    device = Device()
    got = _launch_small("switches", device.buffer(x), device, 100)
    v = x
    cases = [v + 1, v * 3, v - 7, v ^ 55, v << 2, v >> 1, -v, ~v] + [0 * v] * 8
    assert np.array_equal(got, np.choose(x & 15, cases))


def test_structure_by_value() -> None:
    values = np.arange(20, dtype=np.int32) * 11
    got = _launch_small("by_value", values.tobytes() + np.float32(5).tobytes(), Device(), 70)
    assert np.array_equal(got, values[np.arange(70) % 20] + 5)
