"""Properties of the float64 reference, and small results worked out by hand."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss.checkpoint import open_checkpoint
from gptoss.config import RopeConfig
from gptoss.reference import bf16
from gptoss.reference.arrays import FloatArray
from gptoss.reference.attention import banded_attention
from gptoss.reference.dense import dense, embed, unembed
from gptoss.reference.experts import expert_gather, mixture
from gptoss.reference.model import ReferenceModel, load_tensors
from gptoss.reference.rms_norm import rms_norm
from gptoss.reference.rope import concentration, inverse_frequencies, rope
from gptoss.reference.route_topk import route_topk
from gptoss.reference.swiglu import swiglu
from support.model_cases import CASES
from support.tolerances import FLOAT64_RELATIVE

PUBLISHED_ROPE = RopeConfig(150_000.0, 32.0, 32.0, 1.0, 4096, truncate=False)


def close(found: FloatArray, expected: FloatArray) -> None:
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=FLOAT64_RELATIVE * scale)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# bf16


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_bf16_bits_round_trip() -> None:
    every = np.arange(65536, dtype=np.uint16)
    values = bf16.from_bits(every)
    number = ~np.isnan(values)
    assert (bf16.to_bits(values[number]) == every[number]).all()
    assert np.isnan(bf16.from_bits(bf16.to_bits(values[~number]))).all()
    assert number.sum() == 65536 - 2 * 127


@given(st.integers(0, 0x7F7E), st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_bf16_rounds_to_nearest(bits: int, between: float) -> None:
    low, high = bf16.from_bits(np.array([bits, bits + 1], np.uint16))
    value = low + between * (high - low)
    middle = low + (high - low) / 2
    wanted = bits if value < middle or (value == middle and bits % 2 == 0) else bits + 1
    assert bf16.to_bits(np.array([value, -value])).tolist() == [wanted, wanted | 0x8000]


def test_bf16_rounds_once() -> None:
    # Through float32 this would become the midpoint 1 + 2^-8 first, and then 1.
    assert bf16.to_bits(np.array([1 + 2**-8 + 2**-40])) == 0x3F81
    assert bf16.to_bits(np.array([1 + 2**-8])) == 0x3F80
    # Halfway between the largest number and 2^128, and far above.
    above = bf16.to_bits(np.array([2.0**128 - 2.0**119, 1e300, -1e300]))
    assert above.tolist() == [0x7F80, 0x7F80, 0xFF80]
    below = bf16.to_bits(np.array([2.0**-133, 2.0**-134, 2.0**-135, -0.0]))
    assert below.tolist() == [1, 0, 0, 0x8000]


# rms_norm, dense


def test_rms_norm(rng: np.random.Generator) -> None:
    x = rng.normal(size=(3, 8))
    normed = rms_norm(x, np.ones(8), 0.0)
    close(np.mean(normed**2, axis=-1), np.ones(3))
    close(rms_norm(1000 * x, np.ones(8), 0.0), normed)
    close(rms_norm(x, np.arange(8.0), 0.0), normed * np.arange(8))
    # mean(x^2) = 3 and eps = 1: the root is 2.
    close(
        rms_norm(np.full((1, 2), math.sqrt(3)), np.ones(2), 1.0), np.full((1, 2), math.sqrt(3) / 2)
    )


def test_dense_embed_unembed(rng: np.random.Generator) -> None:
    weight = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    assert dense(np.array([[1.0, 10.0]]), weight, np.array([0.0, 1.0, 2.0])).tolist() == [
        [21.0, 44.0, 67.0]
    ]
    assert embed(weight, np.array([2, 0])).tolist() == [[5.0, 6.0], [1.0, 2.0]]
    assert unembed(np.array([[0.0, 1.0]]), weight).tolist() == [[2.0, 4.0, 6.0]]
    with pytest.raises(ValueError, match="negative, got -1"):
        embed(weight, np.array([0, -1]))
    with pytest.raises(IndexError):
        embed(weight, np.array([3]))


# rope


def test_yarn_of_the_published_models() -> None:
    assert concentration(PUBLISHED_ROPE) == pytest.approx(1.3465736, abs=1e-7)
    found = inverse_frequencies(PUBLISHED_ROPE, 64)
    plain = 150_000.0 ** (-np.arange(32) / 32)
    # The bounds 8.0928 and 17.3980 lie between whole numbers: pairs up to 8 keep their frequency,
    # pairs from 18 on are interpolated in full.
    close(found[:9], plain[:9])
    close(found[18:], plain[18:] / 32)
    ramp = (12 - 8.0928) / (17.3980 - 8.0928)
    assert found[12] == pytest.approx(plain[12] * (ramp / 32 + 1 - ramp), rel=1e-4)
    rounded = inverse_frequencies(dataclasses.replace(PUBLISHED_ROPE, truncate=True), 64)
    assert rounded[12] == pytest.approx(plain[12] * (0.4 / 32 + 0.6), rel=1e-12)


def test_factor_1_is_plain_rope(rng: np.random.Generator) -> None:
    config = RopeConfig(theta=100.0)
    close(inverse_frequencies(config, 8), 100.0 ** (-np.arange(4) / 4))
    x = rng.normal(size=(1, 2, 8))
    position = 7
    rotated = rope(x, np.array([position]), config)
    for pair in range(4):
        turned = (x[0, :, pair] + 1j * x[0, :, pair + 4]) * np.exp(
            1j * position * 100.0 ** (-pair / 4)
        )
        close(rotated[0, :, pair], turned.real)
        close(rotated[0, :, pair + 4], turned.imag)


def test_rope_depends_on_distance_alone(rng: np.random.Generator) -> None:
    q, k = rng.normal(size=(2, 1, 1, 64))

    def score(q_position: int, k_position: int) -> FloatArray:
        rotated_q = rope(q, np.array([q_position]), PUBLISHED_ROPE)
        rotated_k = rope(k, np.array([k_position]), PUBLISHED_ROPE)
        return np.sum(rotated_q * rotated_k, keepdims=True)

    # Angles up to 131,071 radians have an absolute rounding error of 1e-11.
    assert score(131_071, 131_000) == pytest.approx(score(71, 0), rel=1e-9)
    close(score(5, 5), 1.3465735902799727**2 * np.sum(q * k, keepdims=True))


# attention


def qkv(rng: np.random.Generator, keys: int, heads: int, kv_heads: int) -> list[FloatArray]:
    shapes = [(keys, heads, 16), (keys, kv_heads, 16), (keys, kv_heads, 16)]
    return [rng.normal(size=shape) for shape in shapes]


def naive_attention(
    q: FloatArray, k: FloatArray, v: FloatArray, sinks: FloatArray, window: int, scale: float
) -> FloatArray:
    """Compute one query and one head at a time, straight from the definition."""
    out = np.zeros_like(q)
    for i in range(q.shape[0]):
        for h in range(q.shape[1]):
            g = h // (q.shape[1] // k.shape[1])
            seen = [j for j in range(len(k)) if i - window < j <= i]
            weights = [math.exp(scale * float(q[i, h] @ k[j, g])) for j in seen]
            total = sum(weights) + math.exp(sinks[h])
            out[i, h] = sum(w / total * v[j, g] for w, j in zip(weights, seen, strict=True))
    return out


@pytest.mark.parametrize("window", [1, 2, 5, 9, 10])
@pytest.mark.parametrize("kv_heads", [1, 2, 8])
def test_attention_is_its_definition(rng: np.random.Generator, window: int, kv_heads: int) -> None:
    q, k, v = qkv(rng, 9, 8, kv_heads)
    sinks = rng.normal(size=8)
    found = banded_attention(q, k, v, sinks, window, np.arange(9), 0.3)
    close(found, naive_attention(q, k, v, sinks, window, 0.3))


def test_a_window_as_long_as_the_text_is_causal(rng: np.random.Generator) -> None:
    q, k, v = qkv(rng, 9, 4, 2)
    sinks = rng.normal(size=4)
    causal = banded_attention(q, k, v, sinks, None, np.arange(9), 0.25)
    for window in (9, 10, 1000):
        assert (banded_attention(q, k, v, sinks, window, np.arange(9), 0.25) == causal).all()
    assert (banded_attention(q, k, v, sinks, 8, np.arange(9), 0.25) != causal)[8].all()


def test_a_sink_of_minus_infinity_is_plain_softmax(rng: np.random.Generator) -> None:
    q, k, v = qkv(rng, 6, 4, 4)
    plain = banded_attention(q, k, v, None, None, np.arange(6), 0.25)
    closed = np.full(4, -np.inf)
    assert (banded_attention(q, k, v, closed, None, np.arange(6), 0.25) == plain).all()
    assert (banded_attention(q, k, v, None, 1, np.arange(6), 0.25) == v).all()


def test_equal_scores_and_values_give_the_mass_beside_the_sink() -> None:
    k, v = np.ones((7, 1, 16)), np.ones((7, 1, 16))
    sinks = np.array([0.0, math.log(3.0)])
    found = banded_attention(np.zeros((7, 2, 16)), k, v, sinks, 4, np.arange(7), 1.0)
    seen = np.minimum(np.arange(7) + 1, 4)
    close(found[:, 0, 0], seen / (seen + 1))
    close(found[:, 1, 0], seen / (seen + 3))


def test_large_scores_do_not_overflow(rng: np.random.Generator) -> None:
    q, k, v = qkv(rng, 5, 2, 1)
    found = banded_attention(1e6 * q, k, v, np.array([1e5, -1e5]), None, np.arange(5), 1.0)
    assert np.isfinite(found).all()


def test_queries_may_be_some_of_the_positions(rng: np.random.Generator) -> None:
    q, k, v = qkv(rng, 9, 4, 2)
    sinks = rng.normal(size=4)
    whole = banded_attention(q, k, v, sinks, 3, np.arange(9), 0.25)
    some = np.array([8, 2, 5])
    close(banded_attention(q[some], k, v, sinks, 3, some, 0.25), whole[some])


def test_attention_refuses_wrong_arguments(rng: np.random.Generator) -> None:
    q, k, v = qkv(rng, 4, 3, 2)
    with pytest.raises(ValueError, match="multiple of G, got 3 and 2"):
        banded_attention(q, k, v, None, None, np.arange(4), 1.0)
    with pytest.raises(ValueError, match=r"\[0, 4\), got 1 to 4"):
        banded_attention(q[:, :2], k, v, None, None, np.arange(1, 5), 1.0)


# routing, experts


def test_route_topk() -> None:
    logits = np.array([[1.0, 3.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0]])
    experts, weights = route_topk(logits, 3)
    assert experts.tolist() == [[1, 3, 2], [0, 1, 2]]
    e = math.exp(-1)
    close(weights, np.array([[1 / (2 + e), 1 / (2 + e), e / (2 + e)], [1 / 3] * 3]))
    # The softmax is over the chosen: the others do not matter.
    lower = np.array([[-9.0, 0, 0, 0], [0, 0, 0, -9]])
    assert (route_topk(logits + lower, 3)[1] == weights).all()
    for top_k in (0, 5):
        with pytest.raises(ValueError, match=rf"\[1, 4\], got {top_k}"):
            route_topk(logits, top_k)


def test_swiglu_by_hand() -> None:
    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    gate = np.array([1.0, 9.0, -9.0, 0.5, 0.5])
    up = np.array([2.0, 0.0, 1.0, 9.0, -9.0])
    expected = [
        sigmoid(1.702) * 3,
        7 * sigmoid(1.702 * 7),
        -9 * sigmoid(1.702 * -9) * 2,  # the gate is not clamped from below
        0.5 * sigmoid(0.851) * 8,
        0.5 * sigmoid(0.851) * -6,
    ]
    interleaved = np.stack([gate, up], axis=-1).reshape(1, -1)
    close(swiglu(interleaved, 7.0), np.array([expected]))
    assert swiglu(np.array([[-1e4, 1.0]]), 7.0) == 0.0


def test_expert_gather() -> None:
    x = np.array([[10.0], [11.0], [12.0]])
    rows, pairs, offsets = expert_gather(x, np.array([[2, 0], [0, 4], [2, 0]]), 5)
    assert pairs.tolist() == [1, 2, 5, 0, 4, 3]
    assert rows[:, 0].tolist() == [10, 11, 12, 10, 12, 11]
    assert offsets.tolist() == [0, 3, 3, 5, 5, 6]


@pytest.fixture
def moe(rng: np.random.Generator) -> dict[str, FloatArray]:
    shapes = {
        "gate_up": (5, 12, 8),
        "gate_up_bias": (5, 12),
        "down": (5, 8, 6),
        "down_bias": (5, 8),
    }
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def test_mixture_is_the_weighted_sum_of_its_experts(
    rng: np.random.Generator, moe: dict[str, FloatArray]
) -> None:
    x = rng.normal(size=(7, 8))
    experts, weights = route_topk(rng.normal(size=(7, 5)), 3)
    expected = np.zeros_like(x)
    for t in range(7):
        for a in range(3):
            e = experts[t, a]
            hidden = swiglu(moe["gate_up"][e] @ x[t] + moe["gate_up_bias"][e], 1.0)
            expected[t] += weights[t, a] * (moe["down"][e] @ hidden + moe["down_bias"][e])
    close(mixture(x, experts, weights, **moe, limit=1.0), expected)


def test_the_numbering_of_experts_does_not_matter(
    rng: np.random.Generator, moe: dict[str, FloatArray]
) -> None:
    x, logits = rng.normal(size=(7, 8)), rng.normal(size=(7, 5))
    order = rng.permutation(5)
    shuffled = {name: tensor[order] for name, tensor in moe.items()}
    before = mixture(x, *route_topk(logits, 2), **moe, limit=7.0)
    close(mixture(x, *route_topk(logits[:, order], 2), **shuffled, limit=7.0), before)


# the model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ReferenceModel:
    checkpoint = open_checkpoint(CASES[1].build(tmp_path_factory.mktemp("checkpoint")))
    return ReferenceModel(checkpoint.config, load_tensors(checkpoint))


def test_both_layouts_have_the_same_tensors(tmp_path: Path) -> None:
    case = CASES[1]
    hf = load_tensors(open_checkpoint(case.build(tmp_path / "hf")))
    other = dataclasses.replace(case, layout="original")
    original = load_tensors(open_checkpoint(other.build(tmp_path / "original")))
    assert hf.keys() == original.keys()
    assert all((hf[name] == original[name]).all() for name in hf)
    assert hf["model.layers.0.mlp.experts.gate_up_proj"].shape == (5, 128, 96)
    assert hf["model.layers.0.mlp.experts.down_proj"].shape == (5, 96, 64)


def test_later_tokens_change_nothing_before_them(model: ReferenceModel) -> None:
    prompt = CASES[1].prompts()[3]
    whole = model.logits(prompt)
    for length in (1, 5, 6, 99):
        close(model.logits(prompt[:length]), whole[:length])
    changed = model.logits([*prompt[:50], (prompt[50] + 1) % 160, *prompt[51:]])
    assert (changed[:50] == whole[:50]).all()
    assert (changed[50:] != whole[50:]).any(axis=-1).all()


def test_the_reference_does_without_the_compiled_core() -> None:
    # The package's own __init__ loads the core, so that a bare one stands in for it.
    program = """
import importlib.util, sys, types
package = types.ModuleType("gptoss")
package.__path__ = importlib.util.find_spec("gptoss").submodule_search_locations
sys.modules.update({"gptoss": package, "gptoss._core": None})
import gptoss.reference.model
import gptoss.reference.sampling
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
