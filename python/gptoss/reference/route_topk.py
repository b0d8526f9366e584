"""The router's choice of experts."""

from __future__ import annotations

import numpy as np

from gptoss.reference.arrays import FloatArray, IntArray


def route_topk(logits: FloatArray, top_k: int) -> tuple[IntArray, FloatArray]:
    """Pick each token's experts, and their weights.

    Parameters
    ----------
    logits : numpy.ndarray
        (T, E) float64.
    top_k : int
        A, from 1 to E.

    Returns
    -------
    experts : numpy.ndarray
        (T, A) int64: the A largest logits, the largest first; of equal ones the lower index.
    weights : numpy.ndarray
        (T, A) float64: the softmax over those A logits alone.

    Raises
    ------
    ValueError
        `top_k` is not in [1, E].
    """
    if not 1 <= top_k <= logits.shape[-1]:
        raise ValueError(f"[route_topk] top_k must lie in [1, {logits.shape[-1]}], got {top_k}")
    experts = np.argsort(-logits, axis=-1, kind="stable")[:, :top_k].astype(np.int64)
    chosen = np.take_along_axis(logits, experts, axis=-1)
    weights = np.exp(chosen - chosen[:, :1])
    return experts, weights / weights.sum(axis=-1, keepdims=True)
