"""Keys and values in int8: what `load(kv_cache_dtype="int8")` keeps of them."""

from __future__ import annotations

import numpy as np

from gptoss.reference.arrays import FloatArray


def round_to_int8(x: FloatArray) -> FloatArray:
    """Round keys or values to codes in [-127, 127], with a scale for each token and head.

    Parameters
    ----------
    x : numpy.ndarray
        (S, G, D) float64, finite.

    Returns
    -------
    numpy.ndarray
        (S, G, D) float64: codes times scales. A scale is 1/127 of the largest magnitude.
    """
    # In float32, so that a number between two codes goes where the kernels' does.
    single = x.astype(np.float32)
    largest = np.abs(single).max(axis=-1, keepdims=True)
    # What is so small that the factor could be infinite becomes zero.
    factors = np.where(largest > 1e-30, np.float32(127) / np.maximum(largest, 1e-30), 0)
    codes = np.rint(single * factors.astype(np.float32)).astype(np.float64)
    rounded: FloatArray = codes * (largest.astype(np.float64) / 127)
    return rounded
