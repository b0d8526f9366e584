"""Embedding, RMSNorm and the search for what is not finite."""

from __future__ import annotations

import numpy as np
import pytest

from cuda.kernels import Batch, Gpu, begun_norm, bf16, fill, from_bf16, random_q8_0, seeds
from gptoss.reference.rms_norm import rms_norm
from support import tolerances

RNG = np.random.default_rng(1)


def test_embed() -> None:
    gpu = Gpu("embed")
    vocab, hidden = 7, 300
    table = bf16(RNG.normal(size=(vocab, hidden)))
    batch = Batch(gpu, [(1, 0, [3, 6, 0]), (2, 5, [-1]), (0, 9, [-1])], last_tokens=[-1, 4, 5])
    x = gpu.empty((5, hidden), np.float32)
    args = fill("EmbedArgs", step=batch.step, embedding=gpu.put(table), x=x, hidden=hidden)
    for seed in seeds():
        gpu.launch("gptoss_embed", 7, 256, args, seed=seed)
        # A slot without a token gives some row, and nothing outside the table.
        assert np.array_equal(x.numpy(), from_bf16(table[[3, 6, 0, 5, 0]]))


@pytest.mark.parametrize("hidden", [32, 128, 352])
def test_embed_of_q8_0(hidden: int) -> None:
    gpu = Gpu("embed")
    codes, scales, table = random_q8_0(RNG, 7, hidden)
    batch = Batch(gpu, [(0, 0, [3, 6, 0]), (1, 5, [-1])], last_tokens=[-1, 4])
    x = gpu.empty((4, hidden), np.float32)
    args = fill(
        "EmbedArgs",
        step=batch.step,
        embedding=gpu.put(codes),
        scales=gpu.put(scales.view(np.uint16)),
        x=x,
        hidden=hidden,
    )
    for seed in seeds():
        gpu.launch("gptoss_embed_q8_0", 6, 256, args, seed=seed)
        assert np.array_equal(x.numpy(), table[[3, 6, 0, 4]])


@pytest.mark.parametrize("n", [1, 31, 64, 257, 2880])
@pytest.mark.parametrize("indexed", [False, True])
def test_rms_norm(n: int, indexed: bool) -> None:
    gpu = Gpu("embed")
    x = RNG.normal(scale=3, size=(5, n)).astype(np.float32)
    weight = RNG.normal(size=n).astype(np.float32)
    rows = [4, 0, 2] if indexed else [0, 1, 2, 3, 4]
    y, squares = gpu.empty((len(rows), n), np.uint32), gpu.empty(len(rows), np.float32)
    args = fill(
        "RmsNormArgs",
        x=gpu.put(x),
        weight=gpu.put(weight),
        y=y,
        squares=squares,
        row_index=gpu.put(rows, np.int32) if indexed else 0,
        rows=len(rows),
        n=n,
        eps=1e-5,
    )
    x = x[rows]
    expected = rms_norm(x.astype(np.float64), weight.astype(np.float64), np.float32(1e-5))
    bound = tolerances.rms_norm_bound(expected)
    for seed in seeds():
        gpu.launch("gptoss_rms_norm_f32", len(rows) + 1, 256, args, seed=seed)
        assert (np.abs(y.numpy().view(np.float32) - expected) <= bound).all()
        gpu.launch("gptoss_rms_norm_bf16", len(rows) + 1, 256, args, seed=seed)
        found = y.numpy().view(np.uint16).ravel()[: x.size].reshape(x.shape)
        assert np.array_equal(found, begun_norm(x, weight)[0])
        sums = np.square(x, dtype=np.float64).sum(-1)
        assert (np.abs(squares.numpy() - sums) <= 16 * tolerances.U * sums).all()


@pytest.mark.parametrize("hidden", [48, 300])
def test_the_first_norm_begins_with_the_embedding(hidden: int) -> None:
    gpu = Gpu("embed")
    table = bf16(RNG.normal(scale=3, size=(5, hidden)))
    weight = RNG.normal(size=hidden).astype(np.float32)
    batch = Batch(gpu, [(0, 0, [3, 4]), (1, 2, [0])])
    x, y = gpu.empty((3, hidden), np.float32), gpu.empty((3, hidden), np.uint16)
    squares = gpu.empty((2, 3), np.float32)
    args = fill(
        "EmbedArgs",
        step=batch.step,
        embedding=gpu.put(table),
        x=x,
        weight=gpu.put(weight),
        y=y,
        squares=squares,
        hidden=hidden,
    )
    gpu.launch("gptoss_embed", 4, 256, args)
    assert np.array_equal(x.numpy(), from_bf16(table[[3, 4, 0]]))
    # As the norm alone has it.
    alone = gpu.empty((3, hidden), np.uint16)
    norm = {"x": x, "weight": gpu.put(weight), "rows": 3, "n": hidden}
    second = squares.address + 12
    gpu.launch("gptoss_rms_norm_bf16", 3, 256, fill("RmsNormArgs", y=alone, squares=second, **norm))
    assert np.array_equal(y.numpy(), alone.numpy())
    assert np.array_equal(*squares.numpy())


def test_finite() -> None:
    gpu = Gpu("embed")
    hidden = 301
    x = RNG.normal(size=(7, hidden)).astype(np.float32)
    x[1, 300], x[2, 0], x[5, 17] = np.inf, np.nan, -np.inf
    x[0, 5] = np.finfo(np.float32).max
    batch = Batch(gpu, [(0, 0, [1, 1, 1]), (1, 3, [1, 1]), (2, 0, [1]), (3, 0, [1])])
    finite = gpu.empty(4, np.int32)
    args = fill("FiniteArgs", step=batch.step, x=gpu.put(x), finite=finite, hidden=hidden)
    for seed in seeds():
        gpu.launch("gptoss_finite", 5, 1024, args, seed=seed)
        assert finite.numpy().tolist() == [1, 2, 0, 1]


def test_finite_in_a_long_sequence() -> None:
    gpu = Gpu("embed")
    x = RNG.normal(size=(100, 3)).astype(np.float32)
    batch = Batch(gpu, [(0, 0, [1] * 100)])
    for odd in ([99], [40, 41, 90], []):
        values = x.copy()
        values[odd, 1] = np.nan
        finite = gpu.empty(1, np.int32)
        args = fill("FiniteArgs", step=batch.step, x=gpu.put(values), finite=finite, hidden=3)
        gpu.launch("gptoss_finite", 1, 1024, args)
        assert finite.numpy().tolist() == [min(odd, default=100)]
