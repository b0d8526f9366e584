"""The mixture of experts, grouped by expert."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from gptoss.reference.arrays import FloatArray, IntArray
from gptoss.reference.dense import dense
from gptoss.reference.swiglu import swiglu


def expert_gather(
    x: FloatArray, experts: IntArray, n_experts: int
) -> tuple[FloatArray, IntArray, IntArray]:
    """Sort (token, choice) pairs by expert and gather their rows.

    Parameters
    ----------
    x : numpy.ndarray
        (T, N) float64.
    experts : numpy.ndarray
        (T, A) int64, each in [0, E).
    n_experts : int
        E.

    Returns
    -------
    rows : numpy.ndarray
        (T*A, N) float64: x of each pair's token.
    pairs : numpy.ndarray
        (T*A) int64: t * A + a of each row; pairs of one expert keep their order.
    offsets : numpy.ndarray
        (E + 1) int64: expert e has the rows [offsets[e], offsets[e+1]).
    """
    chosen = experts.reshape(-1)
    pairs = np.argsort(chosen, kind="stable")
    offsets = np.searchsorted(chosen[pairs], np.arange(n_experts + 1))
    return x[pairs // experts.shape[1]], pairs.astype(np.int64), offsets.astype(np.int64)


def mixture(
    x: FloatArray,
    experts: IntArray,
    weights: FloatArray,
    gate_up: FloatArray,
    gate_up_bias: FloatArray,
    down: FloatArray,
    down_bias: FloatArray,
    limit: float,
) -> FloatArray:
    """Apply each token's experts and add up what they return, weighted.

    Parameters
    ----------
    x : numpy.ndarray
        (T, N) float64.
    experts : numpy.ndarray
        (T, A) int64, each in [0, E).
    weights : numpy.ndarray
        (T, A) float64; they weight the second bias too.
    gate_up : numpy.ndarray
        (E, 2I, N) float64, rows interleaved as `swiglu` takes them.
    gate_up_bias : numpy.ndarray
        (E, 2I) float64.
    down : numpy.ndarray
        (E, N, I) float64.
    down_bias : numpy.ndarray
        (E, N) float64.
    limit : float
        The activation's bound.

    Returns
    -------
    numpy.ndarray
        (T, N) float64.
    """
    rows, pairs, offsets = expert_gather(x, experts, len(gate_up))
    tokens, pair_weights = pairs // experts.shape[1], weights.reshape(-1)[pairs]
    result = np.zeros_like(x)
    for expert, (begin, end) in enumerate(pairwise(offsets)):
        hidden = swiglu(dense(rows[begin:end], gate_up[expert], gate_up_bias[expert]), limit)
        output = dense(hidden, down[expert], down_bias[expert])
        # A token has an expert at most once, so that no row occurs twice here.
        result[tokens[begin:end]] += pair_weights[begin:end, None] * output
    return result
