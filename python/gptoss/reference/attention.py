"""Attention within a causal band, with grouped heads and learned sinks."""

from __future__ import annotations

import numpy as np

from gptoss.reference.arrays import FloatArray, IntArray


def banded_attention(
    q: FloatArray,
    k: FloatArray,
    v: FloatArray,
    sinks: FloatArray | None,
    window: int | None,
    query_positions: IntArray,
    scale: float,
) -> FloatArray:
    """Attend to the keys in the band before each query.

    The softmax runs over the scores and the head's sink; the sink takes its share of the weight
    and contributes nothing.

    Parameters
    ----------
    q : numpy.ndarray
        (T, H, D) float64.
    k, v : numpy.ndarray
        (S, G, D) float64, the keys and values of the positions 0 to S-1. Query head h uses
        key/value head h // (H/G).
    sinks : numpy.ndarray, optional
        (H) float64, logits; without them, a plain softmax.
    window : int, optional
        Key j is visible to position i iff i - window < j <= i; without it, iff j <= i.
    query_positions : numpy.ndarray
        (T) int64, each in [0, S).
    scale : float
        Multiplies the products of queries and keys, not the sinks.

    Returns
    -------
    numpy.ndarray
        (T, H, D) float64.

    Raises
    ------
    ValueError
        H is not a multiple of G, or a query is not among the positions of the keys.
    """
    weights, _ = attention_weights(q, k, sinks, window, query_positions, scale)
    v = np.repeat(v, q.shape[1] // k.shape[1], axis=1)
    attended: FloatArray = np.einsum("ths,shd->thd", weights, v)
    return attended


def attention_weights(
    q: FloatArray,
    k: FloatArray,
    sinks: FloatArray | None,
    window: int | None,
    query_positions: IntArray,
    scale: float,
) -> tuple[FloatArray, FloatArray]:
    """Return each key's weight (T, H, S), and the sink's (T, H).

    Parameters and errors are those of `banded_attention`; keys out of sight have weight 0.
    """
    heads, kv_heads, keys = q.shape[1], k.shape[1], k.shape[0]
    if heads % kv_heads:
        raise ValueError(
            f"[banded_attention] H must be a multiple of G, got {heads} and {kv_heads}"
        )
    if query_positions.min() < 0 or query_positions.max() >= keys:
        raise ValueError(
            f"[banded_attention] query positions must lie in [0, {keys}), got "
            f"{query_positions.min()} to {query_positions.max()}"
        )
    k = np.repeat(k, heads // kv_heads, axis=1)
    distance = query_positions[:, None] - np.arange(keys)
    visible = distance >= 0
    if window is not None:
        visible &= distance < window
    scores = scale * np.einsum("thd,shd->ths", q, k)
    scores = np.where(visible[:, None, :], scores, -np.inf)
    sink = np.full(heads, -np.inf) if sinks is None else sinks
    highest = np.maximum(scores.max(axis=-1), sink)[..., None]
    weights = np.exp(scores - highest)
    of_sink = np.exp(sink[:, None] - highest)
    total = weights.sum(axis=-1, keepdims=True) + of_sink
    return weights / total, (of_sink / total)[..., 0]
