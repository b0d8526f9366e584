"""Dense layers: matrix products with a bias, embedding and unembedding."""

from __future__ import annotations

from gptoss.reference.arrays import FloatArray, IntArray


def dense(x: FloatArray, weight: FloatArray, bias: FloatArray | None = None) -> FloatArray:
    """Apply a dense layer: x @ weight^T + bias.

    Parameters
    ----------
    x : numpy.ndarray
        (T, K) float64.
    weight : numpy.ndarray
        (N, K) float64.
    bias : numpy.ndarray, optional
        (N) float64.

    Returns
    -------
    numpy.ndarray
        (T, N) float64.
    """
    product: FloatArray = x @ weight.T
    return product if bias is None else product + bias


def embed(weight: FloatArray, token_ids: IntArray) -> FloatArray:
    """Look up the tokens' rows.

    Parameters
    ----------
    weight : numpy.ndarray
        (V, N) float64.
    token_ids : numpy.ndarray
        (T) int64, each in [0, V).

    Returns
    -------
    numpy.ndarray
        (T, N) float64.

    Raises
    ------
    IndexError
        An id is V or more.
    ValueError
        An id is negative.
    """
    if (token_ids < 0).any():
        raise ValueError(f"[embed] token ids must not be negative, got {token_ids.min()}")
    return weight[token_ids]


def unembed(x: FloatArray, weight: FloatArray) -> FloatArray:
    """Turn the last hidden states into logits; there is no bias.

    Parameters
    ----------
    x : numpy.ndarray
        (T, N) float64, after the final norm.
    weight : numpy.ndarray
        (V, N) float64.

    Returns
    -------
    numpy.ndarray
        (T, V) float64.
    """
    return dense(x, weight)
