"""MXFP4 in numpy: 4-bit floats (E2M1) in blocks of 32 that share one scale (E8M0).

Source: OCP Microscaling Formats (MX) v1.0, sections 5.3.3 (E2M1), 5.4.1 (E8M0) and 6.3
(conversion); the packing is that of the gpt-oss checkpoints.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

BLOCK_SIZE = 32

# By code; bit 3 is the sign, so that code 8 is -0.
_MAGNITUDES = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
FP4_VALUES = np.array([*_MAGNITUDES, *(-m for m in _MAGNITUDES)])

_SCALE_BIAS = 127
_NAN_SCALE = 255
# 6 = 1.5 * 2^2 is E2M1's largest value.
_FP4_MAX_EXPONENT = 2


def dequantize(
    blocks: npt.NDArray[np.uint8], scales: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float64]:
    """Turn MXFP4 into float64, exactly.

    Parameters
    ----------
    blocks : numpy.ndarray
        (..., K/32, 16) uint8. Byte b of a block holds element 2b in its low nibble and element
        2b+1 in its high nibble.
    scales : numpy.ndarray
        (..., K/32) uint8: s stands for 2^(s - 127), and 255 for NaN.

    Returns
    -------
    numpy.ndarray
        (..., K) float64.
    """
    codes = np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(*scales.shape, BLOCK_SIZE)
    exponents = scales.astype(np.int32)[..., None] - _SCALE_BIAS
    values: npt.NDArray[np.float64] = np.ldexp(FP4_VALUES[codes], exponents)
    values[scales == _NAN_SCALE] = np.nan
    return values.reshape(*scales.shape[:-1], scales.shape[-1] * BLOCK_SIZE)


def quantize(
    x: npt.NDArray[np.floating[Any]],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Turn numbers into MXFP4.

    A block's scale is 2^(floor(log2(largest magnitude)) - 2), within E8M0's range; elements are
    rounded to the nearest E2M1 value, ties to the even code, and saturate at 6. A zero keeps its
    sign, and a block of zeros has scale byte 0.

    Where a block can be represented exactly, it is: if all its elements are E2M1 values times
    some 2^e, the largest is m * 2^e with m in {0.5, 1, 1.5, 2, 3, 4, 6}, and doubling any m up
    to 3 gives an E2M1 value again, until the largest is 4 or 6. That is the scale above.

    Parameters
    ----------
    x : numpy.ndarray
        (..., K) float32 or float64, finite, K a multiple of 32.

    Returns
    -------
    blocks : numpy.ndarray
        (..., K/32, 16) uint8, packed as `dequantize` reads it.
    scales : numpy.ndarray
        (..., K/32) uint8.

    Raises
    ------
    ValueError
        K is not a multiple of 32, or x holds NaN or infinity.
    """
    if x.shape[-1] % BLOCK_SIZE:
        raise ValueError(
            f"[mxfp4_quantize] K must be a multiple of {BLOCK_SIZE}, got {x.shape[-1]}"
        )
    grouped = x.reshape(*x.shape[:-1], -1, BLOCK_SIZE)
    magnitudes = np.abs(grouped)
    largest = magnitudes.max(axis=-1)
    if not np.isfinite(largest).all():
        raise ValueError("[mxfp4_quantize] x must be finite, got NaN or infinity")
    # frexp: largest = m * 2^e with m in [0.5, 1), so that floor(log2(largest)) = e - 1.
    exponents = np.frexp(largest)[1] - 1 - _FP4_MAX_EXPONENT
    scales = np.where(largest > 0, np.clip(exponents + _SCALE_BIAS, 0, _NAN_SCALE - 1), 0)
    magnitudes = np.ldexp(magnitudes, _SCALE_BIAS - scales[..., None].astype(np.int32))
    # Each comparison steps over the midpoint between two neighbours. At a midpoint the even code
    # wins: the step counts there only if it leads from an odd code to an even one.
    codes = np.signbit(grouped).astype(np.uint8) << 3
    for code, (low, high) in enumerate(pairwise(_MAGNITUDES)):
        middle = (low + high) / 2
        codes += magnitudes >= middle if code % 2 else magnitudes > middle
    return codes[..., 0::2] | codes[..., 1::2] << 4, scales.astype(np.uint8)
