"""Root-mean-square normalisation."""

from __future__ import annotations

import numpy as np

from gptoss.reference.arrays import FloatArray


def rms_norm(x: FloatArray, weight: FloatArray, eps: float) -> FloatArray:
    """Divide each row by its root mean square, and scale it: x / sqrt(mean(x^2) + eps) * weight.

    Parameters
    ----------
    x : numpy.ndarray
        (T, N) float64.
    weight : numpy.ndarray
        (N) float64.
    eps : float
        Added to the mean square.

    Returns
    -------
    numpy.ndarray
        (T, N) float64.
    """
    rms: FloatArray = np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + eps)
    return x / rms * weight
