"""Products with dense weights: bfloat16, and what is made of it when a model is loaded."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gptoss import _core
from gptoss.ops._arguments import BLOCK_SIZE, Arguments, F32Array


def dense_matmul(
    x: F32Array,
    w: npt.NDArray[Any],
    bias: F32Array | None = None,
    *,
    fast: bool = False,
    target: str | None = None,
    isa: str | None = None,
) -> F32Array:
    """Multiply by bfloat16 weights: y = x @ w^T + bias.

    Parameters
    ----------
    x : numpy.ndarray
        (T, K) float32.
    w : numpy.ndarray
        (N, K) bfloat16, as ml_dtypes.bfloat16 or as its bits in uint16. Unlike other arrays it
        may lie at an odd address, as tensors in a file do.
    bias : numpy.ndarray, optional
        (N) float32.
    fast : bool
        Use what the instruction set has for bfloat16 weights. AMX splits x into two bfloat16, which
        keeps 16 bits of its 24; AVX512_BF16 rounds it to one; elsewhere nothing changes.
    target, isa : str, optional
        Where to run; see the module.

    Returns
    -------
    numpy.ndarray
        (T, N) float32.

    Raises
    ------
    TypeError
        An array has another dtype.
    ValueError
        A shape or order is not as above.
    gptoss.errors.BackendError
        The target is unknown or cannot run here.

    Notes
    -----
    Weights are widened exactly and sums are float32: 16 lanes over K, then a tree.
    """
    check = Arguments("dense_matmul")
    check.array("x", x, np.float32, "T K")
    w = check.bf16_bits(w)
    if bias is not None:
        check.array("bias", bias, np.float32, "N")
    return _core.dense_matmul(x, w, bias, bool(fast), check.target(target, isa))


def bf12_encode(
    w: npt.NDArray[Any], *, target: str | None = None
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint16]]:
    """Hold bfloat16 weights in 12 bits, without loss: what `load(dense="bf12")` does.

    The upper byte of a bfloat16 is its sign and seven bits of its exponent. In a row of weights few
    of them are frequent: the 16 most frequent are named by four bits. Groups of 64 weights that
    have another one are kept whole.

    Parameters
    ----------
    w : numpy.ndarray
        (N, K) bfloat16, as ml_dtypes.bfloat16 or as its bits in uint16; any values.
    target : str, optional
        Where to run; see the module.

    Returns
    -------
    rows : numpy.ndarray
        (N, B) uint8, about 1.5 bytes a weight. `gptoss.reference.bf12` reads the format.
    escapes : numpy.ndarray
        (n, 64) uint16, the groups that are kept whole.

    Raises
    ------
    TypeError
        The array has another dtype.
    ValueError
        The shape or order is not as above.
    gptoss.errors.BackendError
        The target is unknown or cannot run here.
    """
    check = Arguments("bf12_encode")
    return _core.bf12_encode(check.bf16_bits(w), check.target(target))


def bf12_matmul(
    x: F32Array,
    rows: npt.NDArray[np.uint8],
    escapes: npt.NDArray[np.uint16],
    bias: F32Array | None = None,
    *,
    target: str | None = None,
    isa: str | None = None,
) -> F32Array:
    """Multiply by weights held in 12 bits: the bits of `dense_matmul(..., fast=True)`.

    Parameters
    ----------
    x : numpy.ndarray
        (T, K) float32.
    rows, escapes : numpy.ndarray
        (N, B) uint8 and (n, 64) uint16, from `bf12_encode` of (N, K) weights.
    bias : numpy.ndarray, optional
        (N) float32.
    target, isa : str, optional
        Where to run; see the module.

    Returns
    -------
    numpy.ndarray
        (T, N) float32.

    Raises
    ------
    TypeError
        An array has another dtype.
    ValueError
        A shape or order is not as above, or a row refers to groups that `escapes` does not have.
    gptoss.errors.BackendError
        The target is unknown or cannot run here.
    """
    check = Arguments("bf12_matmul")
    check.array("x", x, np.float32, "T K")
    check.array("rows", rows, np.uint8, "N B")
    check.array("escapes", escapes, np.uint16, "n 64", smallest=0)
    if bias is not None:
        check.array("bias", bias, np.float32, "N")
    return _core.bf12_matmul(x, rows, escapes, bias, check.target(target, isa))


def q8_encode(
    w: npt.NDArray[Any], *, target: str | None = None
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.uint16]]:
    """Round bfloat16 weights to int8, 32 of a row to a scale: what `load(dense="q8")` does.

    Parameters
    ----------
    w : numpy.ndarray
        (N, K) bfloat16, as ml_dtypes.bfloat16 or as its bits in uint16; K a multiple of 32,
        values finite.
    target : str, optional
        Where to run; see the module.

    Returns
    -------
    codes : numpy.ndarray
        (N, K) int8 from -127 to 127. A row is in groups of four blocks of 32 (the last may be
        fewer), in each all elements at even places of their blocks before those at odd ones.
    scales : numpy.ndarray
        (N, K/32) uint16, bits of bfloat16: w = code * scale / 2, up to a quarter of a scale.

    Raises
    ------
    TypeError
        The array has another dtype.
    ValueError
        The shape or order is not as above.
    gptoss.errors.BackendError
        The target is unknown or cannot run here.
    """
    check = Arguments("q8_encode")
    w = check.bf16_bits(w)
    check.multiple_of("K", BLOCK_SIZE)
    return _core.q8_encode(w, check.target(target))


def q8_matmul(
    x: F32Array,
    codes: npt.NDArray[np.int8],
    scales: npt.NDArray[np.uint16] | npt.NDArray[np.float16],
    bias: F32Array | None = None,
    *,
    exact: bool = False,
    target: str | None = None,
    isa: str | None = None,
) -> F32Array:
    """Multiply by int8 weights: y = x @ w^T + bias.

    Parameters
    ----------
    x : numpy.ndarray
        (T, K) float32, K a multiple of 32. Rounded to int8, 32 elements to a scale of (largest
        magnitude) / 127.
    codes, scales : numpy.ndarray
        (N, K) int8 and (N, K/32) uint16, from `q8_encode`. Or float16 scales of Q8_0, the form of
        GGUF files: w = code * scale, codes in the same order.
    bias : numpy.ndarray, optional
        (N) float32.
    exact : bool
        Do not round x; goes with Q8_0.
    target, isa : str, optional
        Where to run; see the module.

    Returns
    -------
    numpy.ndarray
        (T, N) float32.

    Raises
    ------
    TypeError
        An array has another dtype.
    ValueError
        A shape or order is not as above.
    gptoss.errors.BackendError
        The target is unknown or cannot run here.

    Notes
    -----
    Products within a block are exact integers, and only the sum over blocks is float32. With
    `exact` sums are float32: 16 lanes over K, then a tree.
    """
    check = Arguments("q8_matmul")
    check.array("x", x, np.float32, "T K")
    check.multiple_of("K", BLOCK_SIZE)
    check.array("codes", codes, np.int8, "N K")
    q8_0 = isinstance(scales, np.ndarray) and scales.dtype == np.float16
    check.array("scales", scales, np.float16 if q8_0 else np.uint16, f"N K/{BLOCK_SIZE}")
    if bias is not None:
        check.array("bias", bias, np.float32, "N")
    return _core.q8_matmul(
        x, codes, scales.view(np.uint16), bias, q8_0, bool(exact), check.target(target, isa)
    )
