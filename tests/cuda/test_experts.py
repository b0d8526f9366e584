"""The router's choice, the sort of its pairs, and the sum of the experts' outputs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cuda.kernels import Gpu, begun_norm, bf16, constant, fill, from_bf16, seeds
from gptoss.reference.rms_norm import rms_norm
from gptoss.reference.route_topk import route_topk
from support import tolerances

RNG = np.random.default_rng(2)


@pytest.mark.parametrize(
    ("tokens", "n_experts", "n_active"),
    [(1, 1, 1), (5, 4, 2), (3, 32, 4), (6, 33, 33), (2, 128, 4), (1, 256, 40)],
)
def test_route_topk(tokens: int, n_experts: int, n_active: int) -> None:
    gpu = Gpu("experts")
    # Few different numbers: ties. Negative zero ties with zero.
    logits = (RNG.integers(-8, 8, (tokens, n_experts)) / 4).astype(np.float32)
    logits[:, ::3] *= -1
    experts = gpu.empty((tokens, n_active), np.int32)
    weights = gpu.empty((tokens, n_active), np.float32)
    args = fill(
        "RouteTopkArgs",
        logits=gpu.put(logits),
        experts=experts,
        weights=weights,
        tokens=tokens,
        n_experts=n_experts,
        n_active=n_active,
    )
    expected, expected_weights = route_topk(logits.astype(np.float64), n_active)
    bound = tolerances.softmax_bound(np.take_along_axis(logits, expected, -1)) * expected_weights
    for seed in seeds():
        gpu.launch("gptoss_route_topk", -(-tokens // 4) + 1, 128, args, seed=seed)
        assert np.array_equal(experts.numpy(), expected)
        assert (np.abs(weights.numpy() - expected_weights) <= bound).all()


def test_route_topk_ranks_nan_below_all() -> None:
    gpu = Gpu("experts")
    logits = np.array([[np.nan, -np.inf, np.nan, -3.0, np.inf, np.nan]], np.float32)
    experts, weights = gpu.empty((1, 5), np.int32), gpu.empty((1, 5), np.float32)
    sizes = {"tokens": 1, "n_experts": 6, "n_active": 5}
    args = fill("RouteTopkArgs", logits=gpu.put(logits), experts=experts, weights=weights, **sizes)
    gpu.launch("gptoss_route_topk", 1, 128, args)
    assert experts.numpy().tolist() == [[4, 3, 1, 0, 2]]


@pytest.mark.parametrize(
    ("n_pairs", "n_experts"),
    [(1, 1), (4, 32), (33, 5), (1024, 32), (1025, 7), (4100, 128), (999, 256)],
)
def test_expert_sort(n_pairs: int, n_experts: int) -> None:
    gpu = Gpu("experts")
    # Some experts have most of the pairs, some none.
    experts = np.minimum(RNG.geometric(4 / (n_experts + 4), n_pairs) - 1, n_experts - 1)
    pairs, offsets = gpu.empty(n_pairs, np.int32), gpu.empty(n_experts + 1, np.int32)
    args = fill(
        "ExpertSortArgs",
        experts=gpu.put(experts, np.int32),
        pairs=pairs,
        offsets=offsets,
        n_pairs=n_pairs,
        n_experts=n_experts,
    )
    assert n_experts <= constant("kMaxExperts")
    for seed in seeds():
        gpu.launch("gptoss_expert_sort", 1, 1024, args, seed=seed)
        assert np.array_equal(pairs.numpy(), np.argsort(experts, kind="stable"))
        counts = np.bincount(experts, minlength=n_experts)
        assert np.array_equal(offsets.numpy(), np.cumsum([0, *counts]))


@pytest.mark.parametrize(("tokens", "n_active", "n"), [(1, 1, 1), (3, 4, 257), (2, 3, 64)])
def test_combine(tokens: int, n_active: int, n: int) -> None:
    gpu = Gpu("experts")
    out = RNG.normal(size=(tokens, n_active, n)).astype(np.float32)
    weights = RNG.random((tokens, n_active)).astype(np.float32)
    before = RNG.normal(size=(tokens, n)).astype(np.float32)
    x = gpu.empty((tokens, n), np.float32)
    sizes = {"tokens": tokens, "n_active": n_active, "n": n}
    args = fill("CombineArgs", out=gpu.put(out), weights=gpu.put(weights), x=x, **sizes)
    expected = before + np.einsum("ta,tan->tn", weights.astype(np.float64), out)
    magnitude = np.abs(before) + np.einsum("ta,tan->tn", weights.astype(np.float64), np.abs(out))
    for seed in seeds():
        x.write(before)
        gpu.launch("gptoss_combine", (tokens + 1, -(-n // 256)), 256, args, seed=seed)
        error = np.abs(x.numpy() - expected)
        assert (error <= (2 * n_active + 1) * tolerances.U * magnitude).all()


@pytest.mark.parametrize("act", ["f32", "bf16"])
@pytest.mark.parametrize(
    ("tokens", "hidden", "n_experts", "n_active"),
    [(1, 64, 4, 2), (3, 2880, 32, 4), (2, 37, 5, 5), (1, 1032, 200, 3)],
)
def test_route(tokens: int, hidden: int, n_experts: int, n_active: int, act: str) -> None:
    gpu = Gpu("experts")
    x = RNG.normal(scale=3, size=(tokens, hidden)).astype(np.float32)
    weight = RNG.normal(size=hidden).astype(np.float32)
    router = bf16(RNG.normal(size=(n_experts, hidden)) / hidden**0.5)
    bias = RNG.normal(size=n_experts).astype(np.float32)
    normed = gpu.empty((tokens, hidden), np.float32 if act == "f32" else np.uint16)
    logits = gpu.empty((tokens, n_experts), np.float32)
    experts = gpu.empty((tokens, n_active), np.int32)
    weights = gpu.empty((tokens, n_active), np.float32)
    pairs = gpu.empty(tokens * n_active, np.int32)
    offsets = gpu.empty(n_experts + 1, np.int32)
    arrived = gpu.put(np.zeros(tokens + 1), np.int32)
    args = fill(
        "RouteArgs",
        x=gpu.put(x),
        weight=gpu.put(weight),
        router=gpu.put(router),
        bias=gpu.put(bias),
        normed=normed,
        logits=logits,
        experts=experts,
        weights=weights,
        pairs=pairs,
        offsets=offsets,
        arrived=arrived,
        tokens=tokens,
        hidden=hidden,
        n_experts=n_experts,
        n_active=n_active,
        eps=1e-5,
    )
    expected = rms_norm(x.astype(np.float64), weight.astype(np.float64), np.float32(1e-5))
    bound = tolerances.rms_norm_bound(expected)
    exact = expected @ from_bf16(router).T + bias
    logit_bound = tolerances.matmul_bound(expected, from_bf16(router), bias)
    logit_bound += bound @ np.abs(from_bf16(router)).T
    gpu.launch(f"gptoss_route_{act}", tokens + 1, 256, args, shared=4 * hidden)
    alone = logits.numpy()
    for seed, shares in itertools.product(seeds(), [1, 3, 32]):
        for buffer in (normed, logits, experts, weights, pairs, offsets):
            buffer.write(np.full(buffer.shape, 0x77, buffer.dtype))
        grid = (tokens + 1, shares)
        gpu.launch(f"gptoss_route_{act}", grid, 256, args, shared=4 * hidden, seed=seed)
        assert (arrived.numpy() == 0).all()
        assert np.array_equal(logits.numpy(), alone)
        found = normed.numpy() if act == "f32" else from_bf16(normed.numpy())
        rounding = 0 if act == "f32" else 2.0**-8 * np.abs(expected)
        assert (np.abs(found - expected) <= bound + rounding).all()
        made = logits.numpy()
        assert (np.abs(made - exact) <= logit_bound).all()
        chosen, chosen_weights = route_topk(made.astype(np.float64), n_active)
        assert np.array_equal(experts.numpy(), chosen)
        assert np.array_equal(pairs.numpy(), np.argsort(chosen.ravel(), kind="stable"))
        counts = np.bincount(chosen.ravel(), minlength=n_experts)
        assert np.array_equal(offsets.numpy(), np.cumsum([0, *counts]))
        limit = tolerances.softmax_bound(np.take_along_axis(made, chosen, -1)) * chosen_weights
        assert (np.abs(weights.numpy() - chosen_weights) <= limit).all()


@pytest.mark.parametrize(("tokens", "n_active", "n"), [(1, 1, 1), (3, 4, 700)])
def test_combine_and_norm(tokens: int, n_active: int, n: int) -> None:
    gpu = Gpu("experts")
    out = RNG.normal(size=(tokens, n_active, n)).astype(np.float32)
    weights = RNG.random((tokens, n_active)).astype(np.float32)
    before = RNG.normal(size=(tokens, n)).astype(np.float32)
    weight = RNG.normal(size=n).astype(np.float32)
    x, y = gpu.put(before), gpu.empty((tokens, n), np.uint32)
    squares = gpu.empty(tokens, np.float32)
    sizes = {"tokens": tokens, "n_active": n_active, "n": n}
    combine = fill("CombineArgs", out=gpu.put(out), weights=gpu.put(weights), x=x, **sizes)
    norm = {"weight": gpu.put(weight), "y": y, "squares": squares, "eps": 1e-5}
    args = fill("CombineNormArgs", combine=combine, **norm)
    gpu.launch("gptoss_combine", (tokens, -(-n // 256)), 256, combine)
    alone = x.numpy()
    expected = rms_norm(alone.astype(np.float64), weight.astype(np.float64), np.float32(1e-5))
    bound = tolerances.rms_norm_bound(expected)
    for seed in seeds():
        x.write(before)
        gpu.launch("gptoss_combine_norm_f32", tokens + 1, 512, args, shared=4 * n, seed=seed)
        assert np.array_equal(x.numpy(), alone)
        assert (np.abs(y.numpy().view(np.float32) - expected) <= bound).all()
        x.write(before)
        gpu.launch("gptoss_combine_norm_bf16", tokens + 1, 512, args, seed=seed)
        assert np.array_equal(x.numpy(), alone)
        found = y.numpy().view(np.uint16).ravel()[: x.numpy().size].reshape(tokens, n)
        assert np.array_equal(found, begun_norm(alone, weight)[0])
        sums = np.square(alone, dtype=np.float64).sum(-1)
        assert (np.abs(squares.numpy() - sums) <= 16 * tolerances.U * sums).all()
