"""What `LLM.trace` shows of a model on a CUDA device, and what `steer=` does to it: kernels alone,
then beside the CPU. That several devices and experts on the CPU change no bit: test_devices.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import gptoss
from cuda.kernels import Batch, Gpu, fill, seeds
from cuda.models import SMALL, Driver, emulated, needs_device
from cuda.test_attention import CodedPages, Pages
from gptoss import LLM, SamplingParams, Trace
from gptoss.reference.attention import attention_weights
from support import tolerances
from support.checkpoints import MICRO, make_checkpoint
from support.tolerances import (
    CUDA_MEDIAN_RELATIVE_L2,
    FP32_MEDIAN_RELATIVE_L2,
    SHARES_FACTOR,
    assert_fp32_rows,
    relative_l2,
)

FIELDS = ("hidden", "router", "experts", "expert_weights", "sinks")
TEXT = [(7 * i * i + i) % 280 for i in range(9)]
STEER = {
    layer: np.random.default_rng(layer).normal(size=MICRO.hidden_size).astype(np.float32)
    for layer in range(MICRO.num_hidden_layers)
}
GREEDY = SamplingParams(max_tokens=3, temperature=0, ignore_eos=True, logprobs=2)


# ---- Kernels ----


@pytest.mark.parametrize("kind", ["f32", "f16", "int8"])
@pytest.mark.parametrize("window", [0, 70])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(6, 2, 16), (3, 3, 48)])
def test_shares(kind: str, window: int, heads: int, kv_heads: int, dim: int) -> None:
    gpu = Gpu("inspect")
    rng = np.random.default_rng(heads + window)
    sequences = [(1, 128, 3), (0, 0, 2)]
    row_pages = 4 if window else 3
    batch = Batch(gpu, [(slot, first, [1] * n) for slot, first, n in sequences])
    pages = (CodedPages if kind == "int8" else Pages)(gpu, kind, kv_heads, dim, 2, row_pages)
    q = (3 * rng.normal(size=(5, heads, dim))).astype(np.float32)
    sinks = rng.normal(size=heads).astype(np.float32)
    scale = np.float32(dim**-0.5)
    keys = min(window, 131) if window else 131
    expected = np.zeros((5, heads, keys + 1))
    bound = np.zeros((5, 1, 1))
    contexts = {}
    for s, (slot, first, n) in enumerate(sequences):
        k = rng.normal(size=(first + n, kv_heads, dim)).astype(pages.dtype)
        contexts[slot] = (k, k)
        exact = k.astype(np.float64)
        if kind == "int8":  # as CodedPages has them
            scales = np.abs(k).max(-1, keepdims=True).astype(np.float32) / np.float32(127)
            exact = np.rint(exact / scales) * scales
        rows = range(batch.offsets[s], batch.offsets[s + 1])
        shares, sink = attention_weights(
            q[rows].astype(np.float64),
            exact,
            sinks.astype(np.float64),
            window or None,
            np.arange(first, first + n),
            float(scale),
        )
        for i, row in enumerate(rows):
            # Full layers have all keys from 0 on, a band ends with the token's own.
            seen = shares[i, :, : first + i + 1]
            if window:
                seen = seen[:, -keys:]
                expected[row, :, keys - seen.shape[1] : keys] = seen
            else:
                expected[row, :, : seen.shape[1]] = seen
            expected[row, :, keys] = sink[i]
        # Of values up to 1: what a sum of them errs by, they do.
        bound[rows] = tolerances.attention_bound(
            q[rows].astype(np.float64), exact, np.ones(1), float(scale)
        )
    pages.write(contexts)
    width = (heads + 2 * kv_heads) * dim
    qkv = np.full((5, width), np.nan, np.float32)
    qkv[:, : heads * dim] = q.reshape(5, -1)
    first_pair, n_pairs = heads - 1, 3 * heads + 2  # from the middle of a token on
    out = gpu.empty((n_pairs, keys + 1), np.float32)
    args = fill(
        "AttentionSharesArgs",
        step=batch.step,
        qkv=gpu.put(qkv),
        qkv_stride=width,
        heads=heads,
        kv=pages.layer,
        sinks=gpu.put(sinks),
        out=out,
        first_pair=first_pair,
        n_pairs=n_pairs,
        keys=keys,
        window=window,
        scale=scale,
    )
    whole = np.broadcast_to(bound, expected.shape).reshape(5 * heads, -1)
    chosen = slice(first_pair, first_pair + n_pairs)
    for seed in seeds():
        gpu.launch(f"gptoss_attention_shares_{kind}", n_pairs + 1, 256, args, seed=seed)
        error = np.abs(out.numpy() - expected.reshape(5 * heads, -1)[chosen])
        assert (error <= whole[chosen]).all()


@pytest.mark.parametrize("n", [1, 255, 300])
def test_a_vector_joins_every_row(n: int) -> None:
    gpu = Gpu("inspect")
    rng = np.random.default_rng(n)
    x, vector = rng.normal(size=(4, n)).astype(np.float32), rng.normal(size=n).astype(np.float32)
    rows = gpu.put(x)
    args = fill("SteerArgs", x=rows.address + 4 * n, vector=gpu.put(vector), rows=2, n=n)
    gpu.launch("gptoss_steer", (3, -(-n // 256)), 256, args)
    x[1:3] += vector
    np.testing.assert_array_equal(rows.numpy(), x)


# ---- Models ----


@pytest.fixture(scope="module")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("micro")
    make_checkpoint(folder, MICRO)
    return folder


@pytest.fixture(scope="module")
def cpu(micro: Path) -> Iterator[LLM]:
    with gptoss.load(micro, device="cpu", precision="reference", **SMALL) as llm:
        yield llm


@pytest.fixture(scope="module")
def llm(micro: Path) -> Iterator[LLM]:
    with gptoss.load(micro, device="cuda", **SMALL) as llm:
        yield llm


def shares(trace: Trace, layer: int) -> npt.NDArray[np.float32]:
    assert trace.sinks is not None
    sinks = trace.sinks[trace.layers.index(layer)]
    return np.concatenate([trace.attention_over(layer), sinks[..., None]], axis=-1)


def assert_same(found: Trace, expected: Trace) -> None:
    """Bit for bit, as far as both have it."""
    assert found.layers == expected.layers
    for name in FIELDS:
        values, others = getattr(found, name), getattr(expected, name)
        if values is not None and others is not None:
            assert values.dtype == others.dtype
            np.testing.assert_array_equal(values, others, err_msg=name)
    if found.attention is not None and expected.attention is not None:
        for values, others in zip(found.attention, expected.attention, strict=True):
            np.testing.assert_array_equal(values, others)


@needs_device
@pytest.mark.parametrize("options", [{}, {"cpu_experts": 1}], ids=str)
def test_reference_mode_shows_what_the_cpu_does(
    options: dict[str, Any], micro: Path, cpu: LLM
) -> None:
    modes = SMALL | {"precision": "reference"} | options
    with gptoss.load(micro, device="cuda", **modes) as llm:
        for steer in ({}, STEER):
            found, expected = llm.trace(TEXT, steer=steer), cpu.trace(TEXT, steer=steer)
            for name in ("hidden", "router", "expert_weights"):
                assert_fp32_rows(getattr(found, name), getattr(expected, name), SHARES_FACTOR)
            np.testing.assert_array_equal(found.experts, expected.experts)
            assert found.attention is not None
            assert expected.attention is not None
            for layer in found.layers:
                mine, theirs = found.attention[layer], expected.attention[layer]
                assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype)
                assert_fp32_rows(shares(found, layer), shares(expected, layer), SHARES_FACTOR)
            for name in FIELDS:
                mine, theirs = getattr(found, name), getattr(expected, name)
                assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype), name
            tokens = llm.generate(TEXT, GREEDY, steer=steer).token_ids
            assert tokens == cpu.generate(TEXT, GREEDY, steer=steer).token_ids
        # It is far from what is not steered, so the steered one was.
        plain = cpu.trace(TEXT, what="hidden")
        assert plain.hidden is not None
        assert relative_l2(found.hidden, plain.hidden).min() > 100 * FP32_MEDIAN_RELATIVE_L2


@needs_device
@pytest.mark.parametrize("steered", [False, True])
def test_default_mode_errs_as_bf16_does(steered: bool, llm: LLM, cpu: LLM) -> None:
    steer = STEER if steered else {}
    found, expected = llm.trace(TEXT, steer=steer), cpu.trace(TEXT, steer=steer)
    for name in ("hidden", "router"):
        errors = relative_l2(getattr(found, name), getattr(expected, name))
        assert np.median(errors) <= CUDA_MEDIAN_RELATIVE_L2
    for layer in found.layers:
        errors = relative_l2(shares(found, layer), shares(expected, layer))
        assert np.median(errors) <= SHARES_FACTOR * CUDA_MEDIAN_RELATIVE_L2
        assert (np.abs(shares(found, layer).sum(-1) - 1) < 1e-5).all()


@needs_device
@pytest.mark.parametrize("dense", ["bf16", "q8"])
def test_bits_depend_on_nothing_that_is_asked(dense: str, micro: Path) -> None:
    """Each form of a step, all kernels that it has: one token, few, and many."""
    modes = SMALL | {"dense": dense}
    text = [(7 * i * i + i) % 280 for i in range(20)]
    with gptoss.load(micro, device="cuda", **modes) as llm:
        whole = llm.trace(text, steer=STEER)
        some = llm.trace(text, layers=[-1], positions=[3, 17, -2, -1], what=("hidden", "attention"))
        # Without attention a step's own kernels are those of any step: only copies are between.
        own = llm.trace(text, what=("hidden", "router", "experts"))
        assert_same(own, llm.trace(text))
        rows = [3, 17, 18, 19]
        assert some.hidden is not None
        assert own.hidden is not None
        np.testing.assert_array_equal(some.hidden[0], own.hidden[-1][rows])
        plain = llm.generate(text, GREEDY)
        zero = {layer: np.zeros_like(vector) for layer, vector in STEER.items()}
        for steer in (zero, {0: zero[0]}, {1: zero[1]}):
            assert llm.generate(text, GREEDY, steer=steer).logprobs == plain.logprobs
        steered = llm.generate(text, GREEDY, steer=STEER)
        assert steered.logprobs != plain.logprobs
        # A prompt of several tokens and a token alone end with kernels of their own.
        longer = [*text, *steered.token_ids[:-1]]
        last = llm.generate(longer, GREEDY, max_tokens=1, steer=STEER)
        assert steered.logprobs is not None
        assert last.logprobs == steered.logprobs[-1:]
        # In one batch: what is steered or traced concerns itself alone.
        alone = llm.generate([5, 9], GREEDY)
        requests = [
            llm.submit(text, GREEDY),
            llm.submit(text, GREEDY, steer=STEER),
            llm.submit([5, 9], GREEDY),
        ]
        together = [request.result().logprobs for request in requests]
        assert together == [plain.logprobs, steered.logprobs, alone.logprobs]
    for tokens, what in ((1, FIELDS[0]), (5, ("hidden", "router", "attention", "experts"))):
        with gptoss.load(micro, device="cuda", **modes | {"max_step_tokens": tokens}) as llm:
            assert_same(llm.trace(text, what=what, steer=STEER), whole)
            assert llm.generate(text, GREEDY, steer=STEER).logprobs == steered.logprobs


@needs_device
def test_beside_other_requests(llm: LLM) -> None:
    expected = llm.trace(TEXT)
    params = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
    written = llm.generate([3, 5], params).token_ids
    with llm.stream([3, 5], params) as other:
        next(other)
        assert_same(llm.trace(TEXT), expected)
        assert other.result().token_ids == written


@needs_device
def test_wrong_vectors_and_layers(llm: LLM) -> None:
    with pytest.raises(
        ValueError, match="steer has 1 numbers for layer 0, expected hidden_size, 32"
    ):
        llm.generate(TEXT, steer={0: [1.0]})
    with pytest.raises(ValueError, match=r"layers of steer must lie in \[0, 2\), got 2"):
        llm.trace(TEXT, steer={2: STEER[0]})
    with pytest.raises(ValueError, match=r"layers must be in \[-2, 2\), got 2"):
        llm.trace(TEXT, [2])


@emulated
@needs_device
def test_takes_no_memory_of_the_device(micro: Path) -> None:
    # The smallest step, whose workspace a row of attention hardly fits.
    modes = SMALL | {"context_length": 64, "max_step_tokens": 1, "max_sequences": 1}
    driver = Driver()
    with gptoss.load(micro, device="cuda", **modes) as llm:
        free = driver.free_bytes()
        trace = llm.trace(list(range(64)), [1], positions=[3, -1], steer=STEER)
        assert trace.attention is not None
        assert trace.attention[0].shape[-1] == 64
        assert driver.free_bytes() == free
