"""Weights in int8, 32 of a row to a scale: what `load(dense="q8")` makes of dense matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gptoss.reference import bf16
from gptoss.reference.arrays import FloatArray

BLOCK = 32


def encode(w: FloatArray) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """Round weights to codes.

    Parameters
    ----------
    w : numpy.ndarray
        (N, K) float64, finite, K a multiple of 32.

    Returns
    -------
    codes : numpy.ndarray
        (N, K/32, 32) int64 in [-127, 127], in the order of the weights.
    scales : numpy.ndarray
        (N, K/32) float64, each a bfloat16: the smallest at or above 2/127 of the block's largest
        magnitude. A weight is code * scale / 2.
    """
    blocks = w.reshape(len(w), -1, BLOCK)
    # In float32, as the rounding up below must begin from the same number.
    exact = np.abs(blocks).max(axis=-1).astype(np.float32) * np.float32(2.0 / 127.0)
    bits = (exact.view(np.uint32).astype(np.uint64) + 0xFFFF) >> 16
    scales = bf16.from_bits(bits.astype(np.uint16))
    # Scales that float32 cannot divide by make codes of 0.
    steps = np.where(scales >= np.finfo(np.float32).tiny, scales / 2, np.inf)[..., None]
    return np.rint(blocks / steps).astype(np.int64), scales


def decode(codes: npt.NDArray[np.int64], scales: FloatArray) -> FloatArray:
    """Turn codes (N, K/32, 32) and scales (N, K/32) into weights (N, K) float64."""
    weights: FloatArray = (codes * scales[..., None] / 2).reshape(len(codes), -1)
    return weights


def decode_q8_0(codes: npt.NDArray[np.int8], scales: npt.NDArray[np.float16]) -> FloatArray:
    """Turn codes (N, K) as the kernels read them and scales (N, K/32) of Q8_0 into (N, K) float64.

    A weight is code * scale.
    """
    ordered = from_groups(codes)
    weights: FloatArray = ordered * scales.astype(np.float64)[..., None]
    return weights.reshape(codes.shape)


def from_groups(codes: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Undo `in_groups`: codes (N, K) to (N, K/32, 32)."""
    blocks = np.empty((len(codes), codes.shape[1] // BLOCK, BLOCK), codes.dtype)
    for first in range(0, blocks.shape[1], 4):
        group = blocks[:, first : first + 4]
        count = group.shape[1]
        halves = codes[:, first * BLOCK : (first + count) * BLOCK].reshape(len(codes), 2, count, -1)
        group[..., 0::2], group[..., 1::2] = halves[:, 0], halves[:, 1]
    return blocks


def in_groups(codes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Order codes (N, K/32, 32) as the kernels read them: (N, K).

    Groups of four blocks, the last with what is left; in each, elements at even places of their
    blocks before those at odd ones.
    """
    groups = [codes[:, i : i + 4] for i in range(0, codes.shape[1], 4)]
    halves = [group[..., half::2].reshape(len(codes), -1) for group in groups for half in (0, 1)]
    return np.concatenate(halves, axis=1)
