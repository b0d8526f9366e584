"""Sizes of the published models, for the benchmarks of single kernels."""

from __future__ import annotations

from typing import NamedTuple


class Matrix(NamedTuple):
    """A weight matrix: y (T, n) = x (T, k) @ w^T."""

    name: str
    n: int
    k: int


HIDDEN = 2880
HEADS, KV_HEADS, HEAD_DIM = 64, 8, 64
WINDOW = 128
PAGE_TOKENS = 64  # of the KV cache
VOCAB = 201_088

EXPERT_MATRICES = [Matrix("gate and up", 2 * HIDDEN, HIDDEN), Matrix("down", HIDDEN, HIDDEN)]
DENSE_MATRICES = [
    Matrix("q, k, v", (HEADS + 2 * KV_HEADS) * HEAD_DIM, HIDDEN),
    Matrix("o", HIDDEN, HEADS * HEAD_DIM),
]
