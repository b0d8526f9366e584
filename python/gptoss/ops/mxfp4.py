"""MXFP4: to float32 and back, and products with it."""

from __future__ import annotations

import numpy as np

from gptoss import _core
from gptoss.ops._arguments import BLOCK_BYTES, BLOCK_SIZE, Arguments, F32Array, U8Array


def mxfp4_dequantize(blocks: U8Array, scales: U8Array, *, target: str | None = None) -> F32Array:
    """Turn MXFP4 into float32.

    Parameters
    ----------
    blocks : numpy.ndarray
        (..., K/32, 16) uint8. Byte i of a block holds element 2i in its low nibble and element
        2i+1 in its high nibble.
    scales : numpy.ndarray
        (..., K/32) uint8, E8M0: s stands for 2^(s - 127), and 255 for NaN.
    target : str, optional
        Where to run; see the module.

    Returns
    -------
    numpy.ndarray
        (..., K) float32. Exact, but for values beyond float32's range, which become infinite.

    Raises
    ------
    TypeError
        An array is not uint8.
    ValueError
        A shape or order is not as above.
    gptoss.errors.BackendError
        The target is unknown or cannot run here.

    Notes
    -----
    Source: OCP Microscaling Formats (MX) v1.0; the packing is that of the gpt-oss checkpoints.
    """
    check = Arguments("mxfp4_dequantize")
    check.array("scales", scales, np.uint8, "... B")
    check.array("blocks", blocks, np.uint8, f"... B {BLOCK_BYTES}")
    values = _core.mxfp4_dequantize(
        blocks.reshape(-1, BLOCK_BYTES), scales.reshape(-1), check.target(target)
    )
    return values.reshape(*scales.shape[:-1], scales.shape[-1] * BLOCK_SIZE)


def mxfp4_quantize(
    x: F32Array, *, least_squares: bool = False, target: str | None = None
) -> tuple[U8Array, U8Array]:
    """Turn float32 into MXFP4.

    A block's scale is 2^(floor(log2(largest magnitude)) - 2), within E8M0's range; elements are
    rounded to the nearest E2M1 value, ties to the even code, and saturate at 6 times the scale.
    Values that came from MXFP4 come back exactly.

    Parameters
    ----------
    x : numpy.ndarray
        (..., K) float32, finite, K a multiple of 32.
    least_squares : bool
        Take the scale with which a block's square error is least, in place of the one above, which
        is left for one of its two neighbours where that errs less.
    target : str, optional
        Where to run; see the module.

    Returns
    -------
    blocks : numpy.ndarray
        (..., K/32, 16) uint8, packed as `mxfp4_dequantize` reads it.
    scales : numpy.ndarray
        (..., K/32) uint8; a block of zeros has 0.

    Raises
    ------
    TypeError
        x is not float32.
    ValueError
        K is not a multiple of 32, x is not contiguous, or it holds NaN or infinity.
    gptoss.errors.BackendError
        The target is unknown or cannot run here.

    Notes
    -----
    Source: OCP Microscaling Formats (MX) v1.0, section 6.3.
    """
    check = Arguments("mxfp4_quantize")
    check.array("x", x, np.float32, "... K")
    check.multiple_of("K", BLOCK_SIZE)
    if not np.isfinite(x).all():
        raise ValueError("[mxfp4_quantize] expected finite x, got NaN or infinity")
    shape = (*x.shape[:-1], x.shape[-1] // BLOCK_SIZE)
    blocks, scales = _core.mxfp4_quantize(
        x.reshape(-1, BLOCK_SIZE), bool(least_squares), check.target(target)
    )
    return blocks.reshape(*shape, BLOCK_BYTES), scales.reshape(shape)


def mxfp4_matmul(
    x: F32Array,
    blocks: U8Array,
    scales: U8Array,
    bias: F32Array | None = None,
    *,
    int8_activations: bool = False,
    target: str | None = None,
    isa: str | None = None,
) -> F32Array:
    """Multiply by MXFP4 weights: y = x @ dequantize(blocks, scales)^T + bias.

    Parameters
    ----------
    x : numpy.ndarray
        (T, K) float32, K a multiple of 32.
    blocks : numpy.ndarray
        (N, K/32, 16) uint8, packed as `mxfp4_dequantize` reads it.
    scales : numpy.ndarray
        (N, K/32) uint8.
    bias : numpy.ndarray, optional
        (N) float32.
    int8_activations : bool
        Round x to int8 first, 32 elements to a scale of (largest magnitude) / 127: faster, with
        an error of up to half a step per element. Scale byte 0, 2^-127, then counts as zero.
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
        A shape or order is not as above, or a scale is NaN and int8_activations is set.
    gptoss.errors.BackendError
        The target is unknown or cannot run here.

    Notes
    -----
    Weights are decoded exactly and sums are float32: 16 lanes over K, then a tree. With
    int8_activations, products within a block are exact integers, and only the sum over blocks is
    float32. Source: OCP Microscaling Formats (MX) v1.0.
    """
    check = Arguments("mxfp4_matmul")
    check.array("x", x, np.float32, "T K")
    check.multiple_of("K", BLOCK_SIZE)
    check.array("blocks", blocks, np.uint8, f"N K/{BLOCK_SIZE} {BLOCK_BYTES}")
    check.array("scales", scales, np.uint8, f"N K/{BLOCK_SIZE}")
    if bias is not None:
        check.array("bias", bias, np.float32, "N")
    if int8_activations and (scales == 255).any():
        raise ValueError(
            "[mxfp4_matmul] expected scales below 255 with int8_activations, got NaN (255)"
        )
    return _core.mxfp4_matmul(
        x, blocks, scales, bias, bool(int8_activations), check.target(target, isa)
    )
