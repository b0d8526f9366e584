"""bfloat16 as its bits: the upper half of a float32."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gptoss.reference.arrays import FloatArray

_SIGNIFICANT_BITS = 8
# Spacing of the subnormals: the least normal number is 2^-126, with 7 bits below it.
_LEAST_EXPONENT = -133
_OVERFLOW = 2.0**128


def from_bits(bits: npt.NDArray[np.uint16]) -> FloatArray:
    """Turn the bits of bfloat16 into float64, exactly.

    Parameters
    ----------
    bits : numpy.ndarray
        (...) uint16.

    Returns
    -------
    numpy.ndarray
        (...) float64.
    """
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def to_bits(values: FloatArray) -> npt.NDArray[np.uint16]:
    """Round float64 to bfloat16, once: to nearest, ties to even, overflow to infinity.

    Parameters
    ----------
    values : numpy.ndarray
        (...) float64.

    Returns
    -------
    numpy.ndarray
        (...) uint16. A NaN becomes a NaN.
    """
    # frexp: value = m * 2^e with |m| in [0.5, 1). A multiple of `spacing` fits in the significand.
    exponents = np.frexp(values)[1]
    spacing = np.ldexp(1.0, np.maximum(exponents - _SIGNIFICANT_BITS, _LEAST_EXPONENT))
    rounded = np.rint(values / spacing) * spacing
    rounded = np.where(np.abs(rounded) >= _OVERFLOW, np.copysign(np.inf, rounded), rounded)
    bits: npt.NDArray[np.uint16] = (rounded.astype(np.float32).view(np.uint32) >> 16).astype(
        np.uint16
    )
    return bits
