"""Matrix products: every kernel against float64, at odd and edge shapes, without a report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from cuda.kernels import SEEDS, Gpu, bf16, fill, from_bf16
from emulator.device import Buffer
from gptoss.reference.mxfp4 import dequantize
from gptoss.reference.swiglu import swiglu
from support.tolerances import U

Floats = npt.NDArray[np.float64]
F32, BF16 = 0, 1  # Act of args.h
LIMIT = 7.0


def grid_f32(n: int, rows: int) -> tuple[int, int]:
    """One row and one block of outputs more than there are."""
    return -(-n // 8) + 1, rows + 1


@dataclass
class Experts:
    """Matrices of all experts, (E, n, k), and which rows go to which."""

    blocks: npt.NDArray[np.uint8]
    scales: npt.NDArray[np.uint8]
    bias: npt.NDArray[np.float32]
    weights: Floats  # what blocks and scales mean

    @classmethod
    def random(cls, rng: np.random.Generator, n_experts: int, n: int, k: int) -> Experts:
        blocks = rng.integers(0, 256, (n_experts, n, k // 32, 16), np.uint8)
        scales = rng.integers(118, 126, (n_experts, n, k // 32), np.uint8)
        bias = rng.normal(size=(n_experts, n)).astype(np.float32)
        return cls(blocks, scales, bias, dequantize(blocks, scales))


@dataclass
class Routing:
    """(T, A) experts, sorted as gptoss_expert_sort does."""

    experts: npt.NDArray[np.int32]
    pairs: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int32]

    @classmethod
    def of(cls, experts: npt.NDArray[np.int32], n_experts: int) -> Routing:
        flat = experts.reshape(-1)
        pairs = np.argsort(flat, kind="stable").astype(np.int32)
        offsets = np.searchsorted(flat[pairs], np.arange(n_experts + 1)).astype(np.int32)
        return cls(experts, pairs, offsets)

    @classmethod
    def random(
        cls, rng: np.random.Generator, tokens: int, n_experts: int, n_active: int
    ) -> Routing:
        rows = [rng.permutation(n_experts)[:n_active] for _ in range(tokens)]
        return cls.of(np.array(rows, np.int32), n_experts)


def sum_bound_f32(k: int) -> float:
    """Relative to the sum of magnitudes: ceil(k / 32) fused steps, five of the tree, the bias and
    what y held.
    """
    return (-(-k // 32) + 7) * U


def swiglu_error(gate: Floats, up: Floats, error: Floats) -> Floats:
    """Bound what SwiGLU makes of errors of gate and up, beside its own roundings.

    The slope of g sigmoid(1.702 g) is below 1.2 everywhere, that of the clamped up is 1.
    """
    g = np.minimum(gate, LIMIT)
    u = np.clip(up, -LIMIT, LIMIT)
    gated = np.abs(g / (1 + np.exp(-1.702 * g)))
    spread = 1.2 * error[..., 0::2] * (np.abs(u + 1) + error[..., 1::2]) + gated * error[..., 1::2]
    own = (2 * 1.702 * np.abs(g) + 12) * U * gated * (np.abs(u) + 1)
    return spread + own


@pytest.mark.parametrize(
    ("rows", "n", "k"), [(1, 1, 1), (2, 9, 33), (3, 8, 64), (5, 17, 95), (1, 7, 720)]
)
@pytest.mark.parametrize("accumulate", [0, 1])
def test_dense_in_f32(rows: int, n: int, k: int, accumulate: int) -> None:
    rng = np.random.default_rng(rows + n + k)
    x = rng.normal(size=(rows, k + 3)).astype(np.float32)
    w = bf16(rng.normal(size=(n, k)))
    bias = rng.normal(size=n).astype(np.float32)
    before = rng.normal(size=(rows, n + 2)).astype(np.float32)
    for seed in SEEDS:
        gpu = Gpu("matmul_f32")
        y = gpu.put(before)
        has_bias = seed % 2 == 0
        args = fill(
            "DenseMatmulArgs",
            x=gpu.put(x),
            w=gpu.put(w),
            bias=gpu.put(bias) if has_bias else 0,
            y=y,
            rows=rows,
            n=n,
            k=k,
            x_stride=k + 3,
            y_stride=n + 2,
            accumulate=accumulate,
            act=F32,
        )
        gpu.launch("gptoss_dense_matmul_f32", grid_f32(n, rows), 256, args, seed=seed)
        wide, weights = x[:, :k].astype(np.float64), from_bf16(w)
        extra = bias * has_bias + before[:, :n].astype(np.float64) * accumulate
        expected = wide @ weights.T + extra
        bound = sum_bound_f32(k) * (np.abs(wide) @ np.abs(weights).T + np.abs(bias) + np.abs(extra))
        found = y.numpy()
        assert (np.abs(found[:, :n] - expected) <= bound).all()
        assert (found[:, n:] == before[:, n:]).all()


def expert_args(gpu: Gpu, w: Experts, routing: Routing) -> dict[str, Any]:
    """Return what GateUpArgs and DownArgs have in common."""
    return {
        "pairs": gpu.put(routing.pairs),
        "offsets": gpu.put(routing.offsets),
        "n_pairs": routing.pairs.size,
        "n_experts": len(w.blocks),
        "n": w.weights.shape[1],
        "k": w.weights.shape[2],
    }


def expert_weights(gpu: Gpu, w: Experts) -> Any:
    return fill(
        "ExpertWeights", blocks=gpu.put(w.blocks), scales=gpu.put(w.scales), bias=gpu.put(w.bias)
    )


EXPERT_CASES = [  # tokens, experts, active, intermediate, hidden
    (1, 1, 1, 1, 32),
    (3, 5, 2, 9, 64),
    (2, 40, 3, 4, 96),
    (5, 4, 4, 8, 32),
]


@pytest.mark.parametrize(("tokens", "n_experts", "n_active", "i", "k"), EXPERT_CASES)
def test_gate_up_in_f32(tokens: int, n_experts: int, n_active: int, i: int, k: int) -> None:
    rng = np.random.default_rng(tokens + i + k)
    w = Experts.random(rng, n_experts, 2 * i, k)
    x = (4 * rng.normal(size=(tokens, k))).astype(np.float32)
    routing = Routing.random(rng, tokens, n_experts, n_active)
    expected, magnitude = sorted_products(x.astype(np.float64), w, routing, n_active)
    bound = swiglu_error(expected[:, 0::2], expected[:, 1::2], sum_bound_f32(k) * magnitude)
    for seed in SEEDS:
        gpu = Gpu("matmul_f32")
        h = gpu.empty((routing.pairs.size, i), "f4")
        args = fill(
            "GateUpArgs",
            x=gpu.put(x),
            w=expert_weights(gpu, w),
            h=h,
            n_active=n_active,
            limit=LIMIT,
            act=F32,
            **expert_args(gpu, w, routing),
        )
        grid = grid_f32(i, routing.pairs.size)
        gpu.launch("gptoss_gate_up_f32", grid, 256, args, seed=seed)
        assert (np.abs(h.numpy() - swiglu(expected, LIMIT)) <= bound).all()


def sorted_products(
    x: Floats, w: Experts, routing: Routing, n_active: int
) -> tuple[Floats, Floats]:
    """Return x[token] @ w[expert]^T + bias of each sorted row, and the sum of magnitudes."""
    experts = routing.experts.reshape(-1)[routing.pairs]
    rows = x[routing.pairs // n_active] if n_active else x
    bias = w.bias.astype(np.float64)[experts]
    exact = np.einsum("rk,rnk->rn", rows, w.weights[experts]) + bias
    magnitude = np.einsum("rk,rnk->rn", np.abs(rows), np.abs(w.weights[experts])) + np.abs(bias)
    return exact, magnitude


@pytest.mark.parametrize(("tokens", "n_experts", "n_active", "n", "k"), EXPERT_CASES)
def test_down_in_f32(tokens: int, n_experts: int, n_active: int, n: int, k: int) -> None:
    rng = np.random.default_rng(tokens + n + k)
    w = Experts.random(rng, n_experts, n, k)
    routing = Routing.random(rng, tokens, n_experts, n_active)
    h = rng.normal(size=(routing.pairs.size, k)).astype(np.float32)
    expected, magnitude = sorted_products(h.astype(np.float64), w, routing, 0)
    for seed in SEEDS:
        gpu = Gpu("matmul_f32")
        out = gpu.empty((routing.pairs.size, n), "f4")
        args = fill(
            "DownArgs",
            h=gpu.put(h),
            w=expert_weights(gpu, w),
            out=out,
            act=F32,
            **expert_args(gpu, w, routing),
        )
        grid = grid_f32(n, routing.pairs.size)
        gpu.launch("gptoss_down_f32", grid, 256, args, seed=seed)
        found = out.numpy()[routing.pairs]
        assert (np.abs(found - expected) <= sum_bound_f32(k) * magnitude).all()


def test_every_code_and_scale_is_decoded_exactly() -> None:
    # Row c of expert 0 has code c in one place, whose x is 1, for every scale that has a finite
    # product.
    scales = np.array([0, 1, 2, 3, 100, 126, 127, 128, 200, 251], np.uint8)
    blocks = np.zeros((1, 16 * len(scales), 1, 16), np.uint8)
    blocks[0, :, 0, 3] = np.tile(np.arange(16), len(scales))
    expert_scales = np.repeat(scales, 16)[None, :, None]
    weights = dequantize(blocks, expert_scales)
    w = Experts(blocks, expert_scales, np.zeros(blocks.shape[:2], np.float32), weights)
    h = np.zeros((1, 32), np.float32)
    h[0, 6] = 1
    gpu = Gpu("matmul_f32")
    out = gpu.empty((1, blocks.shape[1]), "f4")
    routing = Routing.of(np.zeros((1, 1), np.int32), 1)
    args = fill(
        "DownArgs", h=gpu.put(h), w=expert_weights(gpu, w), out=out, **expert_args(gpu, w, routing)
    )
    gpu.launch("gptoss_down_f32", (blocks.shape[1] // 8, 1), 256, args)
    assert (out.numpy()[0] == weights[0, :, 6]).all()
