"""Matrix products: every kernel against float64, at odd and edge shapes, without a report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from cuda.kernels import (
    SEEDS,
    Gpu,
    begun_norm,
    bf16,
    constant,
    fill,
    from_bf16,
    logit_ranges,
    random_q8_0,
)
from emulator.device import Buffer
from gptoss.reference.mxfp4 import dequantize
from gptoss.reference.q8 import from_groups
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


@pytest.mark.parametrize(("rows", "n", "k"), [(1, 1, 32), (2, 9, 160), (3, 8, 256)])
def test_dense_of_q8_0_in_f32(rows: int, n: int, k: int) -> None:
    rng = np.random.default_rng(rows + n + k)
    x = rng.normal(size=(rows, k)).astype(np.float32)
    codes, scales, weights = random_q8_0(rng, n, k)
    before = rng.normal(size=(rows, n)).astype(np.float32)
    for seed in SEEDS:
        gpu = Gpu("matmul_f32")
        y = gpu.put(before)
        args = fill(
            "DenseMatmulArgs",
            x=gpu.put(x),
            w=gpu.put(codes),
            scales=gpu.put(scales.view(np.uint16)),
            y=y,
            rows=rows,
            n=n,
            k=k,
            x_stride=k,
            y_stride=n,
            accumulate=1,
            act=F32,
        )
        gpu.launch("gptoss_dense_matmul_q8_0_f32", grid_f32(n, rows), 256, args, seed=seed)
        wide = x.astype(np.float64)
        bound = sum_bound_f32(k) * (np.abs(wide) @ np.abs(weights).T + np.abs(before))
        assert (np.abs(y.numpy() - (wide @ weights.T + before)) <= bound).all()


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


# ---- Fragments -----------------------------------------------------------------------------------

LANES = np.arange(32)
STEPS = np.arange(4)
WORDS = np.arange(4)


def fragment_places(n: int, k: int) -> tuple[Any, Any]:
    """Return row and column of the lower half of every word: (tiles, groups, lane, step, word)."""
    tile, group, lane, step, word = np.ix_(
        np.arange(-(-n // 16)), np.arange(-(-k // 64)), LANES, STEPS, WORDS
    )
    row = 16 * tile + 2 * (lane // 4) + word % 2
    column = 64 * group + 16 * (lane % 4) + 4 * step + 2 * (word // 2)
    return np.broadcast_arrays(row, column)


def padded(matrix: Any, n: int, k: int) -> Any:
    """Pad with zeros to whole tiles and groups."""
    return np.pad(matrix, [(0, -n % 16), (0, -k % 64)])


def shuffle_dense(gpu: Gpu, w: npt.NDArray[np.uint16], seed: int = 0) -> Buffer:
    n, k = w.shape
    tiles, groups = -(-n // 16), -(-k // 64)
    to = gpu.empty((tiles, groups, 4, 32, 4, 2), "u2")
    args = fill("ShuffleDenseArgs", n=n, k=k, to=to, **{"from": gpu.put(w)})
    gpu.launch("gptoss_shuffle_dense", (tiles, groups), 32, args, seed=seed)
    return to


def shuffle_mxfp4(gpu: Gpu, w: Experts, seed: int = 0) -> Any:
    n_experts, n, k = w.weights.shape
    tiles, groups = -(-n // 16), -(-k // 64)
    blocks = gpu.empty((n_experts, tiles, groups, 32, 4), "u4")
    scales = gpu.empty((n_experts, tiles, groups, 8, 4), "u1")
    args = fill(
        "ShuffleMxfp4Args",
        from_blocks=gpu.put(w.blocks),
        from_scales=gpu.put(w.scales),
        to_blocks=blocks,
        to_scales=scales,
        matrices=n_experts,
        n=n,
        k=k,
    )
    gpu.launch("gptoss_shuffle_mxfp4", (tiles, groups, n_experts), 32, args, seed=seed)
    return blocks, scales


@pytest.mark.parametrize(("n", "k"), [(1, 1), (16, 64), (17, 65), (35, 130)])
def test_dense_weights_are_where_the_layout_says(n: int, k: int) -> None:
    w = np.random.default_rng(n).integers(1, 65536, (n, k), np.uint16)
    row, column = fragment_places(n, k)
    matrix = padded(w, n, k)
    expected = np.stack([matrix[row, column], matrix[row, column + 1]], axis=-1)
    found = shuffle_dense(Gpu("shuffle"), w).numpy()
    assert (found == expected.swapaxes(2, 3)).all()  # lanes stand within steps


@pytest.mark.parametrize(("n", "k"), [(1, 32), (16, 64), (35, 160)])
def test_mxfp4_weights_are_where_the_layout_says(n: int, k: int) -> None:
    w = Experts.random(np.random.default_rng(n), 2, n, k)
    blocks, scales = (b.numpy() for b in shuffle_mxfp4(Gpu("shuffle"), w))
    row, column = fragment_places(n, k)
    # s, e, e, m of the codes of words 0 to 3.
    bits = np.array([[15, 8, 7, 6], [12, 5, 4, 3], [9, 2, 1, 0], [14, 11, 10, 13]])
    codes = np.stack([w.blocks & 15, w.blocks >> 4], axis=-1).reshape(2, n, k)
    for expert in range(2):
        matrix = padded(codes[expert], n, k)
        for half in range(2):
            taken = blocks[expert][..., None, None] >> (bits + 16 * half) & 1
            found = (taken * [8, 4, 2, 1]).sum(axis=-1)
            assert (found == matrix[row, column + half]).all()
        biased = padded(np.repeat(w.scales[expert] + 126, 32, axis=-1), n, k)[:, ::32]
        # Bytes: two rows of the first 32 columns, then of the others.
        expected = biased.reshape(-(-n // 16), 8, 2, -1, 2).transpose(0, 3, 1, 4, 2)
        assert (scales[expert] == expected.reshape(scales[expert].shape)).all()


# ---- Tensor cores --------------------------------------------------------------------------------

VARIANTS = [8, 32, 64]  # rows of x that a block takes
# Rows of w that a block takes, and its threads: launch_of() in args.h.
DENSE_BLOCKS = {8: (16, 256), 32: (16, 256), 64: (128, 128)}
EXPERT_BLOCKS = {8: (64, 128), 32: (16, 256), 64: (128, 128)}


def sum_bound_bf16(k: int) -> float:
    """Relative to the sum of magnitudes.

    A tensor core may cut a product or a sum anywhere below 2^-22 of the largest, once a term
    (docs/emulator.md); eight segments, the bias and what y held are added in f32.
    """
    return k * 2.0**-22 + 10 * U


def run_dense(
    gpu: Gpu,
    variant: int,
    x: npt.NDArray[np.uint16],
    w: Buffer,
    bias: npt.NDArray[np.float32] | None,
    before: npt.NDArray[np.float32] | None,
    shape: tuple[int, int, int],
    seed: int,
) -> npt.NDArray[np.float32]:
    rows, n, k = shape
    y = gpu.empty((rows, n + 3), "f4") if before is None else gpu.put(before)
    args = fill(
        "DenseMatmulArgs",
        x=gpu.put(x),
        w=w,
        bias=0 if bias is None else gpu.put(bias),
        y=y,
        rows=rows,
        n=n,
        k=k,
        x_stride=x.shape[1],
        y_stride=n + 3,
        accumulate=before is not None,
        act=BF16,
    )
    tile, threads = DENSE_BLOCKS[variant]
    grid = (-(-n // tile) + 1, -(-rows // variant) + 1)  # one more than needed in either direction
    entry = f"gptoss_dense_matmul_bf16_{variant}"
    gpu.launch(entry, grid, threads, args, seed=seed, hostile=True)
    return y.numpy()


DENSE_CASES = [  # rows, n, k; one group, one a segment, more; whole and cut groups and tiles
    (1, 1, 8),
    (3, 16, 64),
    (9, 33, 520),
    (33, 17, 1096),
    (67, 130, 200),
]


@pytest.mark.parametrize(("rows", "n", "k"), DENSE_CASES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_dense_on_tensor_cores(variant: int, rows: int, n: int, k: int) -> None:
    rng = np.random.default_rng(rows + n + k)
    x = np.full((rows, k + 8), 0x7FC0, np.uint16)  # NaN between rows
    x[:, :k] = bf16(rng.normal(size=(rows, k)))
    w = bf16(rng.normal(size=(n, k)))
    bias = rng.normal(size=n).astype(np.float32)
    wide, weights = from_bf16(x[:, :k]), from_bf16(w)
    product = wide @ weights.T
    magnitude = np.abs(wide) @ np.abs(weights).T + np.abs(bias)
    for seed in SEEDS:
        gpu = Gpu("shuffle", "matmul_bf16")
        fragments = shuffle_dense(gpu, w, seed)
        before = rng.normal(size=(rows, n + 3)).astype(np.float32) if seed % 2 == 0 else None
        extra = 0.0 if before is None else before[:, :n].astype(np.float64)
        has_bias = seed % 3 != 1
        found = run_dense(
            gpu, variant, x, fragments, bias if has_bias else None, before, (rows, n, k), seed
        )
        bound = sum_bound_bf16(k) * (magnitude + np.abs(extra))
        assert (np.abs(found[:, :n] - (product + extra + has_bias * bias)) <= bound).all()
        if before is not None:
            assert (found[:, n:] == before[:, n:]).all()


def test_bits_of_a_dense_row_depend_on_no_other_row() -> None:
    rows, n, k = 67, 37, 712
    rng = np.random.default_rng(7)
    x = bf16(rng.normal(size=(rows, k)))
    w = bf16(rng.normal(size=(n, k)))
    bias = rng.normal(size=n).astype(np.float32)
    for seed in SEEDS:
        gpu = Gpu("shuffle", "matmul_bf16")
        fragments = shuffle_dense(gpu, w, seed)

        def run(
            variant: int,
            part: slice,
            gpu: Gpu = gpu,
            fragments: Buffer = fragments,
            seed: int = seed,
        ) -> npt.NDArray[np.uint32]:
            shape = (len(x[part]), n, k)
            y = run_dense(gpu, variant, x[part], fragments, bias, None, shape, seed)
            return y[:, :n].view(np.uint32)

        whole = run(64, slice(0, rows))
        for variant, part in [
            (64, slice(11, 12)),
            (32, slice(0, 40)),
            (32, slice(29, 31)),
            (8, slice(0, 11)),
            (8, slice(66, 67)),
        ]:
            assert (run(variant, part) == whole[part]).all(), (variant, part, seed)


BF16_EXPERT_CASES = [  # tokens, experts, active, n / 2, k
    (1, 1, 1, 1, 32),
    (11, 3, 2, 9, 96),
    (40, 2, 1, 8, 544),
    (40, 33, 1, 7, 64),
]


def launch_experts(
    gpu: Gpu, entry: str, variant: int, args: Any, routing: Routing, seed: int
) -> None:
    tile, threads = EXPERT_BLOCKS[variant]
    grid = (-(-args.n // tile) + 1, expert_tiles(routing, variant) + 1)
    gpu.launch(entry, grid, threads, args, seed=seed, hostile=True)


def run_gate_up(
    gpu: Gpu,
    variant: int,
    x: npt.NDArray[np.uint16],
    w: Experts,
    routing: Routing,
    n_active: int,
    seed: int,
) -> npt.NDArray[np.uint16]:
    blocks, scales = shuffle_mxfp4(gpu, w, seed)
    h = gpu.empty((routing.pairs.size, w.weights.shape[1] // 2), "u2")
    args = fill(
        "GateUpArgs",
        x=gpu.put(x),
        w=fill("ExpertWeights", blocks=blocks, scales=scales, bias=gpu.put(w.bias)),
        h=h,
        n_active=n_active,
        limit=LIMIT,
        act=BF16,
        **expert_args(gpu, w, routing),
    )
    launch_experts(gpu, f"gptoss_gate_up_bf16_{variant}", variant, args, routing, seed)
    return h.numpy()


def expert_tiles(routing: Routing, rows: int) -> int:
    """Return how many tiles of up to `rows` rows there are, as max_expert_tiles bounds it."""
    counts = np.diff(routing.offsets)
    tiles = int((-(-counts // rows)).sum())
    touched = min(routing.pairs.size, len(counts))
    assert tiles <= touched + (routing.pairs.size - touched) // rows
    return tiles


@pytest.mark.parametrize(("tokens", "n_experts", "n_active", "i", "k"), BF16_EXPERT_CASES)
def test_gate_up_on_tensor_cores(
    tokens: int, n_experts: int, n_active: int, i: int, k: int
) -> None:
    rng = np.random.default_rng(tokens + i + k)
    w = Experts.random(rng, n_experts, 2 * i, k)
    x = bf16(4 * rng.normal(size=(tokens, k)))
    routing = Routing.random(rng, tokens, n_experts, n_active)
    sums, magnitude = sorted_products(from_bf16(x), w, routing, n_active)
    expected = swiglu(sums, LIMIT)
    bound = swiglu_error(sums[:, 0::2], sums[:, 1::2], sum_bound_bf16(k) * magnitude)
    bound = 2.0**-8 * np.abs(expected) + 1.01 * bound  # h is rounded to 8 bits
    for seed in SEEDS:
        found = [
            run_gate_up(Gpu("shuffle", "matmul_bf16"), v, x, w, routing, n_active, seed)
            for v in VARIANTS
        ]
        assert (np.abs(from_bf16(found[0]) - expected) <= bound).all()
        assert (found[1] == found[0]).all()
        assert (found[2] == found[0]).all()


def run_down(
    gpu: Gpu,
    variant: int,
    h: npt.NDArray[np.uint16],
    w: Experts,
    routing: Routing,
    seed: int,
) -> npt.NDArray[np.float32]:
    blocks, scales = shuffle_mxfp4(gpu, w, seed)
    out = gpu.empty((routing.pairs.size, w.weights.shape[1]), "f4")
    args = fill(
        "DownArgs",
        h=gpu.put(h),
        w=fill("ExpertWeights", blocks=blocks, scales=scales, bias=gpu.put(w.bias)),
        out=out,
        act=BF16,
        **expert_args(gpu, w, routing),
    )
    launch_experts(gpu, f"gptoss_down_bf16_{variant}", variant, args, routing, seed)
    return out.numpy()


@pytest.mark.parametrize(("tokens", "n_experts", "n_active", "n", "k"), BF16_EXPERT_CASES)
def test_down_on_tensor_cores(tokens: int, n_experts: int, n_active: int, n: int, k: int) -> None:
    rng = np.random.default_rng(tokens + n + k)
    w = Experts.random(rng, n_experts, n, k)
    routing = Routing.random(rng, tokens, n_experts, n_active)
    h = bf16(rng.normal(size=(routing.pairs.size, k)))
    expected, magnitude = sorted_products(from_bf16(h), w, routing, 0)
    for seed in SEEDS:
        found = [run_down(Gpu("shuffle", "matmul_bf16"), v, h, w, routing, seed) for v in VARIANTS]
        assert (np.abs(found[0][routing.pairs] - expected) <= sum_bound_bf16(k) * magnitude).all()
        assert (found[1] == found[0]).all()
        assert (found[2] == found[0]).all()


@pytest.mark.parametrize("codes", [False, True])
@pytest.mark.parametrize(
    ("tokens", "n_experts", "n_active", "n", "k"), [(1, 5, 3, 96, 64), (9, 4, 2, 160, 96)]
)
def test_what_follows_the_experts_is_done_by_the_last(
    tokens: int, n_experts: int, n_active: int, n: int, k: int, codes: bool
) -> None:
    rng = np.random.default_rng(tokens)
    w = Experts.random(rng, n_experts, n, k)
    routing = Routing.random(rng, tokens, n_experts, n_active)
    h = bf16(rng.normal(size=(routing.pairs.size, k)))
    weight = rng.normal(size=n).astype(np.float32)
    before = rng.normal(size=(tokens, n)).astype(np.float32)
    shares = rng.random((tokens, n_active)).astype(np.float32)
    columns = -(-n // 64) * 64
    for seed in SEEDS:
        gpu = Gpu("shuffle", "matmul_bf16", "experts", "matmul_q8")
        out = gpu.put(run_down(gpu, 8, h, w, routing, seed))
        # Kernel by kernel: the sum, the norm, int8.
        x, y = gpu.put(before), gpu.empty((tokens, n), "u2")
        sizes = {"tokens": tokens, "n_active": n_active, "n": n}
        combine = fill("CombineArgs", out=out, weights=gpu.put(shares), x=x, **sizes)
        norm = {"weight": gpu.put(weight), "y": y, "squares": gpu.empty(tokens, "f4")}
        norm_args = fill("CombineNormArgs", combine=combine, **norm)
        gpu.launch("gptoss_combine_norm_bf16", tokens, 512, norm_args)
        expected_codes = [b.numpy() for b in quantize(gpu, y.numpy(), BF16, n)]

        blocks, scales = shuffle_mxfp4(gpu, w, seed)
        made = gpu.empty(out.shape, "f4")
        found = gpu.put(before)
        arrived = gpu.put(np.zeros(columns // 64), np.int32)
        found_y = gpu.empty((tokens, n), "u2")
        squares = gpu.empty((tokens, -(-n // 16)), "f4")
        int8 = gpu.empty((tokens, columns), "i1"), gpu.empty((tokens, columns // 32), "f4")
        finish = fill(
            "FinishArgs",
            combine=fill("CombineArgs", out=made, weights=gpu.put(shares), x=found, **sizes),
            weight=gpu.put(weight),
            y=0 if codes else found_y,
            codes=int8[0] if codes else 0,
            code_scales=int8[1] if codes else 0,
            squares=squares,
            arrived=arrived,
        )
        args = fill(
            "DownArgs",
            h=gpu.put(h),
            w=fill("ExpertWeights", blocks=blocks, scales=scales, bias=gpu.put(w.bias)),
            out=made,
            act=BF16,
            finish=finish,
            **expert_args(gpu, w, routing),
        )
        launch_experts(gpu, "gptoss_down_bf16_8", 8, args, routing, seed)
        assert (made.numpy() == out.numpy()).all()
        assert (found.numpy() == x.numpy()).all()
        assert (squares.numpy() == begun_norm(x.numpy(), weight)[1]).all()
        assert not arrived.numpy().any()
        if codes:
            assert (int8[0].numpy() == expected_codes[0]).all()
            assert (int8[1].numpy() == expected_codes[1]).all()
        else:
            assert (found_y.numpy() == y.numpy()).all()


@pytest.mark.parametrize("parts", [1, 0])
@pytest.mark.parametrize(("rows", "n", "k"), [(1, 17, 64), (9, 33, 544), (67, 130, 96)])
def test_products_end_what_a_norm_began(rows: int, n: int, k: int, parts: int) -> None:
    rng = np.random.default_rng(rows)
    x = (100 * rng.normal(size=(rows, k))).astype(np.float32)
    weight, bias = rng.normal(size=(2, max(n, k))).astype(np.float32)
    begun, squares = begun_norm(x, weight[:k])
    if parts == 1:  # of a whole row, in the order of sum_of_parts()
        lanes = np.pad(squares, [(0, 0), (0, -squares.shape[1] % 32)]).reshape(rows, -1, 32)
        sums = lanes[:, 0]
        for more in range(1, lanes.shape[1]):
            sums = sums + lanes[:, more]
        for step in (16, 8, 4, 2, 1):
            sums = sums[:, :step] + sums[:, step : 2 * step]
        squares = sums
    w = bf16(rng.normal(size=(n, k)))
    rms = np.sqrt(np.square(x, dtype=np.float64).mean(-1, keepdims=True) + 1e-5)
    gpu = Gpu("shuffle", "matmul_bf16", "matmul_q8")
    norm = fill("RowNorm", squares=gpu.put(squares), n_parts=squares.shape[1], eps=1e-5)
    fragments, bias = shuffle_dense(gpu, w), bias[:n]
    codes, q8_weights = quantize(gpu, begun, BF16, k), shuffle_q8(gpu, w)
    for kind, variants in (("bf16", VARIANTS), ("q8", [8, 32, 128])):
        found = []
        for variant in variants:
            y = gpu.empty((rows, n), "f4")
            ranges = gpu.empty((rows, -(-n // 16), 2), "f4")
            common = {
                "bias": gpu.put(bias),
                "y": y,
                "ranges": 0 if variant > 32 else ranges,
                "norm": norm,
                "rows": rows,
                "n": n,
                "k": k,
                "y_stride": n,
            }
            if kind == "bf16":
                inputs = {"x": gpu.put(begun), "w": fragments, "x_stride": k, "act": BF16}
                args = fill("DenseMatmulArgs", **inputs, **common)
                tile, threads = DENSE_BLOCKS[variant]
                entry = f"gptoss_dense_matmul_bf16_{variant}"
            else:
                inputs = {"x": codes[0], "x_scales": codes[1]}
                inputs |= {"codes": q8_weights[0], "scales": q8_weights[1]}
                args = fill("Q8MatmulArgs", **inputs, **common)
                tile, threads = Q8_BLOCKS[variant], 256
                entry = f"gptoss_q8_matmul_{variant}"
            shared = Q8_SHARED[variant] if kind == "q8" else 0
            grid = (-(-n // tile), -(-rows // variant))
            gpu.launch(entry, grid, threads, args, hostile=True, shared=shared)
            found.append(y.numpy())
            if variant <= 32:
                assert (ranges.numpy() == logit_ranges(found[-1])).all()
        assert all((other == found[0]).all() for other in found[1:])
        # As without the norm, then divided.
        if kind == "bf16":
            numbers, weights = from_bf16(begun) / rms, from_bf16(w)
            sum_bound = sum_bound_bf16(k) + 8 * U
        else:
            steps = 2 * np.repeat(codes[1].numpy().astype(np.float64), 32, axis=-1)
            numbers = (codes[0].numpy() * steps)[:, :k] / rms
            q8_codes, bits = encode_q8(w)
            weights = q8_codes * np.repeat(from_bf16(bits), 32, axis=-1) / 2
            sum_bound = (k / 32 + 20) * U
        magnitude = np.abs(numbers) @ np.abs(weights).T + np.abs(bias)
        error = np.abs(found[0] - (numbers @ weights.T + bias))
        assert (error <= sum_bound * magnitude).all()


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_ranges_tell_of_what_is_not_finite(odd: float) -> None:
    gpu = Gpu("shuffle", "matmul_bf16")
    n, k = 50, 64
    bias = np.arange(n, dtype=np.float32) - 30
    bias[[3, 17]] = odd
    bias[32:48] = -np.inf
    y, ranges = gpu.empty((1, n), "f4"), gpu.empty((1, 4, 2), "f4")
    args = fill(
        "DenseMatmulArgs",
        x=gpu.put(np.zeros((1, k), np.uint16)),
        w=shuffle_dense(gpu, bf16(np.zeros((n, k)))),
        bias=gpu.put(bias),
        y=y,
        ranges=ranges,
        rows=1,
        n=n,
        k=k,
        x_stride=k,
        y_stride=n,
        act=BF16,
    )
    gpu.launch("gptoss_dense_matmul_bf16_8", (4, 1), 256, args)
    assert np.array_equal(y.numpy()[0], bias, equal_nan=True)
    low = -np.inf if odd == -np.inf else np.inf
    expected = [[-15 if low < 0 else low, -30], [1 if low < 0 else low, -14], [-np.inf, np.inf]]
    assert ranges.numpy()[0].tolist() == [*expected, [19, 18]]


def test_every_code_and_scale_is_unpacked_exactly() -> None:
    scales = np.array([0, 1, 2, 3, 100, 126, 127, 128, 129, 254], np.uint8)
    blocks = np.zeros((1, 16 * len(scales), 1, 16), np.uint8)
    blocks[0, :, 0, 3] = np.tile(np.arange(16), len(scales))
    expert_scales = np.repeat(scales, 16)[None, :, None]
    weights = dequantize(blocks, expert_scales)
    w = Experts(blocks, expert_scales, np.zeros(blocks.shape[:2], np.float32), weights)
    h = np.zeros((1, 32), np.uint16)
    h[0, 6] = 0x3F80  # 1
    gpu = Gpu("shuffle", "matmul_bf16")
    found = run_down(gpu, 8, h, w, Routing.of(np.zeros((1, 1), np.int32), 1), 0)[0]
    fits = np.repeat(scales <= 128, 16)
    assert (found[fits] == weights[0, fits, 6]).all()
    assert not np.isfinite(found[~fits]).any()  # and never a wrong number


# ---- int8 ----------------------------------------------------------------------------------------

Q8_CASES = [  # variant: how many rows of x a block takes; rows, n, k
    *((variant, *case) for variant in (8, 32) for case in [(1, 1, 32), (9, 33, 544), (40, 17, 96)]),
    (128, 1, 1, 32),  # half of a block's warps have no row
    (128, 67, 130, 544),
    (128, 129, 17, 160),
    (128, 65, 33, 2880),
]
# Rows of w that a block takes, and its dynamic shared memory: launch_of() in args.h.
Q8_BLOCKS = {8: 16, 32: 16, 128: 128}
Q8_SHARED = {8: 0, 32: 0, 128: constant("kQ8TiledShared")}


def encode_q8(w: npt.NDArray[np.uint16]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.uint16]]:
    """Return codes (N, K) and the bits of scales (N, K/32) as csrc/cpu has them, in f32."""
    blocks = from_bf16(w).astype(np.float32).reshape(len(w), -1, 32)
    exact = np.abs(blocks).max(axis=-1) * np.float32(2 / 127)
    bits = ((exact.view(np.uint32) + np.uint32(0xFFFF)) >> 16).astype(np.uint16)
    scales = from_bf16(bits).astype(np.float32)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.where(scales >= np.float32(2.0**-126), np.float32(2) / scales, np.float32(0))
    return np.rint(blocks * inverse[..., None]).astype(np.int8).reshape(w.shape), bits


def shuffle_q8(gpu: Gpu, w: npt.NDArray[np.uint16], seed: int = 0) -> tuple[Buffer, Buffer]:
    n, k = w.shape
    tiles, groups = -(-n // 16), -(-k // 64)
    codes = gpu.empty((tiles, groups, 2, 32, 4, 4), "i1")
    scales = gpu.empty((tiles, groups, 8, 2, 2), "u2")
    args = fill("ShuffleQ8Args", codes=codes, scales=scales, n=n, k=k, **{"from": gpu.put(w)})
    gpu.launch("gptoss_shuffle_q8", (tiles, groups), 32, args, seed=seed)
    return codes, scales


def shuffle_q8_0(
    gpu: Gpu, codes: npt.NDArray[np.int8], scales: npt.NDArray[np.float16], seed: int = 0
) -> tuple[Buffer, Buffer]:
    n, k = codes.shape
    tiles, groups = -(-n // 16), -(-k // 64)
    to = gpu.empty((tiles, groups, 2, 32, 4, 4), "i1"), gpu.empty((tiles, groups, 8, 2, 2), "u2")
    args = fill(
        "ShuffleQ8_0Args",
        from_codes=gpu.put(codes),
        from_scales=gpu.put(scales.view(np.uint16)),
        codes=to[0],
        scales=to[1],
        n=n,
        k=k,
    )
    gpu.launch("gptoss_shuffle_q8_0", (tiles, groups), 32, args, seed=seed)
    return to


def weights_q8(rng: np.random.Generator, n: int, k: int) -> npt.NDArray[np.uint16]:
    """Blocks of many sizes, one of zeros and one whose scale is too small to divide by."""
    sizes = np.repeat(2.0 ** rng.integers(-8, 4, (n, k // 32)), 32, axis=-1)
    w = rng.normal(size=(n, k)) * sizes
    if n > 1:
        w[0, :32] = 0
        w[-1, -32:] = 2.0**-125
    return bf16(w)


@pytest.mark.parametrize(("n", "k"), [(1, 32), (16, 64), (35, 160)])
@pytest.mark.parametrize("q8_0", [False, True])
def test_int8_weights_are_where_the_layout_says(n: int, k: int, q8_0: bool) -> None:
    gpu, rng = Gpu("shuffle"), np.random.default_rng(n)
    if q8_0:
        grouped, scales, _ = random_q8_0(rng, n, k)
        codes, bits = from_groups(grouped).reshape(n, k), scales.view(np.uint16)
        found_codes, found_scales = (b.numpy() for b in shuffle_q8_0(gpu, grouped, scales))
    else:
        w = weights_q8(rng, n, k)
        codes, bits = encode_q8(w)
        found_codes, found_scales = (b.numpy() for b in shuffle_q8(gpu, w))
    tile, group, block, lane, word, byte = np.ix_(
        np.arange(-(-n // 16)), np.arange(-(-k // 64)), [0, 1], LANES, WORDS, np.arange(4)
    )
    row = 16 * tile + 2 * (lane // 4) + word % 2
    column = 64 * group + 32 * block + 16 * (word // 2) + 4 * (lane % 4) + byte
    assert (found_codes == padded(codes, n, k)[row, column]).all()
    tile, group, g, block, odd = np.ix_(
        np.arange(-(-n // 16)), np.arange(-(-k // 64)), np.arange(8), [0, 1], [0, 1]
    )
    matrix = np.pad(bits, [(0, -n % 16), (0, -(k // 32) % 2)])
    assert (found_scales == matrix[16 * tile + 2 * g + odd, 2 * group + block]).all()


def quantize(
    gpu: Gpu, x: npt.NDArray[Any], act: int, stride: int, seed: int = 0
) -> tuple[Buffer, Buffer]:
    rows, k = x.shape
    columns = -(-k // 64) * 64
    codes = gpu.empty((rows, columns), "i1")
    scales = gpu.empty((rows, columns // 32), "f4")
    wide = np.zeros((rows, stride), x.dtype)
    wide[:, :k] = x
    args = fill(
        "QuantizeArgs",
        x=gpu.put(wide),
        codes=codes,
        scales=scales,
        rows=rows,
        k=k,
        x_stride=stride,
        act=act,
    )
    name = "gptoss_quantize_f32" if act == F32 else "gptoss_quantize_bf16"
    gpu.launch(name, (rows + 1, -(-columns // 256) + 1), 256, args, seed=seed)
    return codes, scales


@pytest.mark.parametrize(("rows", "k"), [(1, 32), (3, 96), (2, 288)])
@pytest.mark.parametrize("act", [F32, BF16])
def test_quantize(rows: int, k: int, act: int) -> None:
    rng = np.random.default_rng(rows + k)
    x = (rng.normal(size=(rows, k)) * 10).astype(np.float32)
    x[0, :32] = 0
    x[-1, -1] = np.inf
    given: Any = x if act == F32 else bf16(x)
    x = x if act == F32 else from_bf16(given).astype(np.float32)
    codes, scales = (b.numpy() for b in quantize(Gpu("matmul_q8"), given, act, k + 7))
    largest = np.abs(x).reshape(rows, -1, 32).max(axis=-1)
    expected_scales = largest / np.float32(254)
    blocks = k // 32
    assert (scales[:, :blocks] == expected_scales).all()
    assert (scales[:, blocks:] == 0).all()
    assert (codes[:, k:] == 0).all()
    finite = np.repeat(np.isfinite(largest), 32, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.where(largest > 1e-30, np.float32(127) / largest, np.float32(0))
        expected = np.rint(x * np.repeat(factor, 32, axis=-1))
    assert (codes[:, :k] == expected)[finite].all()


def run_q8(
    gpu: Gpu,
    variant: int,
    x: tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]],
    w: tuple[Buffer, Buffer],
    bias: npt.NDArray[np.float32] | None,
    before: npt.NDArray[np.float32] | None,
    shape: tuple[int, int, int],
    seed: int,
    name: str = "q8",
) -> npt.NDArray[np.float32]:
    rows, n, k = shape
    y = gpu.empty((rows, n + 3), "f4") if before is None else gpu.put(before)
    args = fill(
        "Q8MatmulArgs",
        x=gpu.put(x[0]),
        x_scales=gpu.put(x[1]),
        codes=w[0],
        scales=w[1],
        bias=0 if bias is None else gpu.put(bias),
        y=y,
        rows=rows,
        n=n,
        k=k,
        y_stride=n + 3,
        accumulate=before is not None,
    )
    grid = (-(-n // Q8_BLOCKS[variant]) + 1, -(-rows // variant) + 1)
    entry, shared = f"gptoss_{name}_matmul_{variant}", Q8_SHARED[variant]
    gpu.launch(entry, grid, 256, args, seed=seed, hostile=True, shared=shared)
    return y.numpy()


@pytest.mark.parametrize(("variant", "rows", "n", "k"), Q8_CASES)
@pytest.mark.parametrize("name", ["q8", "q8_0"])
def test_dense_in_int8(name: str, variant: int, rows: int, n: int, k: int) -> None:
    rng = np.random.default_rng(rows + n + k)
    if name == "q8_0":
        codes, half_scales, weights = random_q8_0(rng, n, k)
    else:
        w = weights_q8(rng, n, k)
        codes, bits = encode_q8(w)
        weights = codes * np.repeat(from_bf16(bits), 32, axis=-1) / 2
    bias = rng.normal(size=n).astype(np.float32)
    for seed in SEEDS:
        gpu = Gpu("shuffle", "matmul_q8")
        given = rng.normal(size=(rows, k)).astype(np.float32)
        x_codes, x_scales = (b.numpy() for b in quantize(gpu, given, F32, k, seed))
        steps = 2 * np.repeat(x_scales.astype(np.float64), 32, axis=-1)
        numbers = (x_codes * steps)[:, :k]
        before = rng.normal(size=(rows, n + 3)).astype(np.float32) if seed % 2 == 0 else None
        extra = 0.0 if before is None else before[:, :n].astype(np.float64)
        found = run_q8(
            gpu,
            variant,
            (x_codes, x_scales),
            shuffle_q8(gpu, w, seed) if name == "q8" else shuffle_q8_0(gpu, codes, half_scales),
            bias,
            before,
            (rows, n, k),
            seed,
            name,
        )
        # A block's sum is exact; it is rounded once as it is scaled, once as it is added.
        magnitude = np.abs(numbers) @ np.abs(weights).T + np.abs(bias) + np.abs(extra)
        bound = (k / 32 + 11) * U * magnitude
        assert (np.abs(found[:, :n] - (numbers @ weights.T + bias + extra)) <= bound).all()
        if before is not None:
            assert (found[:, n:] == before[:, n:]).all()


@pytest.mark.parametrize("name", ["q8", "q8_0"])
def test_bits_of_an_int8_row_depend_on_no_other_row(name: str) -> None:
    rows, n, k = 133, 19, 1120
    rng = np.random.default_rng(9)
    bias = rng.normal(size=n).astype(np.float32)
    gpu = Gpu("shuffle", "matmul_q8")
    x = tuple(b.numpy() for b in quantize(gpu, rng.normal(size=(rows, k)).astype("f4"), F32, k))
    if name == "q8":
        fragments = shuffle_q8(gpu, weights_q8(rng, n, k))
    else:
        fragments = shuffle_q8_0(gpu, *random_q8_0(rng, n, k)[:2])

    def run(variant: int, part: slice) -> npt.NDArray[np.uint32]:
        piece = (x[0][part], x[1][part])
        shape = (len(piece[0]), n, k)
        y = run_q8(gpu, variant, piece, fragments, bias, None, shape, 0, name)
        return y[:, :n].view(np.uint32)

    whole = run(128, slice(0, rows))
    for variant, part in [
        (128, slice(60, 131)),
        (32, slice(0, 40)),
        (32, slice(123, rows)),
        (8, slice(61, 67)),
        (8, slice(132, 133)),
    ]:
        assert (run(variant, part) == whole[part]).all(), (variant, part)
