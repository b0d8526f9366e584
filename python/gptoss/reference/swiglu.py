"""The experts' activation."""

from __future__ import annotations

import numpy as np

from gptoss.reference.arrays import FloatArray

ALPHA = 1.702


def swiglu(gate_up: FloatArray, limit: float) -> FloatArray:
    """Gate one half by the other: g * sigmoid(1.702 g) * (u + 1).

    g = min(gate, limit) and u = clip(up, -limit, limit): the gate has no lower bound.

    Parameters
    ----------
    gate_up : numpy.ndarray
        (T, 2I) float64, interleaved: gate at the even columns, up at the odd ones.
    limit : float
        The bound.

    Returns
    -------
    numpy.ndarray
        (T, I) float64.
    """
    gate = np.minimum(gate_up[..., 0::2], limit)
    up = np.clip(gate_up[..., 1::2], -limit, limit)
    # 1 / (1 + e^-x) = e^-ln(e^0 + e^-x), which neither overflows nor cancels.
    sigmoid = np.exp(-np.logaddexp(0.0, -ALPHA * gate))
    return gate * sigmoid * (up + 1.0)
