"""Each layer errs by what it says it rounds, and by nothing else.

The input of a layer is taken from a trace, so that errors do not add up, and the experts from the
trace as well. From there the layer is computed in float64 twice, exactly and with the roundings
that `LLM.description` names, and both are compared with what the trace has behind the layer: the
router's logits, which show attention's error and would show the router's own, and the residual
stream, which shows the experts'.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import gptoss
from gptoss import _core
from gptoss.checkpoint import open_checkpoint
from gptoss.config import ModelConfig
from gptoss.reference import bf16, q8
from gptoss.reference.arrays import FloatArray, IntArray
from gptoss.reference.attention import banded_attention
from gptoss.reference.dense import dense
from gptoss.reference.model import load_tensors
from gptoss.reference.rms_norm import rms_norm
from gptoss.reference.rope import rope
from gptoss.reference.swiglu import swiglu
from support.checkpoints import PRESETS, alternating, make_checkpoint
from support.tolerances import FP32_MEDIAN_RELATIVE_L2

# No size is a power of two; K of every matrix is whole blocks of 32.
CONFIG = dataclasses.replace(
    PRESETS["tiny"],
    hidden_size=288,
    intermediate_size=160,
    num_hidden_layers=3,
    num_attention_heads=10,
    num_key_value_heads=2,
    head_dim=48,
    vocab_size=416,
    num_local_experts=7,
    num_experts_per_tok=3,
    sliding_window=21,
    layer_types=alternating(3),
)
TOKENS = 151

# Both errors are of thousands of roundings, and of the same ones, but for the few numbers so near
# the middle of two codes that float32 has them on the other side. That part was at most a quarter
# of the error: were it independent of the rest, the error would be sqrt(1 + 0.25^2) of the other.
SAME = 0.03
# A rounding that is not among those that are named would be left whole.
LEFT = 0.4

Round = Callable[[FloatArray], FloatArray]


def to_f32(x: FloatArray) -> FloatArray:
    return x.astype(np.float32).astype(np.float64)


def to_f16(x: FloatArray) -> FloatArray:
    return x.astype(np.float16).astype(np.float64)


def to_bf16(x: FloatArray) -> FloatArray:
    return bf16.from_bits(bf16.to_bits(x))


def to_int8(x: FloatArray) -> FloatArray:
    blocks = x.reshape(*x.shape[:-1], -1, 32)
    steps = np.abs(blocks).max(axis=-1, keepdims=True) / 127
    return (np.rint(blocks / steps) * steps).reshape(x.shape)


def to_two_bf16(x: FloatArray) -> FloatArray:
    high = to_bf16(x)
    return high + to_bf16(x - high)


ROUND: dict[str, Round] = {
    "f32": to_f32,
    "f16": to_f16,
    "bf16": to_bf16,
    "2 x bf16": to_two_bf16,
    "int8": to_int8,
}


@dataclass
class Rounding:
    """What a model rounds: keys and values, the inputs of matrices, weights in int8."""

    kv: Round
    expert_inputs: Round
    dense_inputs: Round
    dense_weights: Round

    @classmethod
    def of(cls, description: str) -> Rounding:
        said = [
            re.search(rf"{what} ((?:2 x )?\w+)", description)
            for what in ("KV cache", "expert inputs", "dense inputs")
        ]
        assert all(said), description
        weights = (
            (lambda w: q8.decode(*q8.encode(w))) if "dense weights int8" in description else to_f32
        )
        return cls(*(ROUND[found[1]] for found in said if found), weights)


def exactly(x: FloatArray) -> FloatArray:
    return x


EXACT = Rounding(exactly, exactly, exactly, exactly)


class Layer:
    """One layer in float64, with roundings."""

    def __init__(self, config: ModelConfig, tensors: dict[str, FloatArray], index: int) -> None:
        prefix = f"model.layers.{index}."
        self.config = config
        self.w = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        self.window = config.sliding_window if index % 2 == 0 else None

    def __call__(
        self, x: FloatArray, experts: IntArray, rounding: Rounding
    ) -> tuple[FloatArray, FloatArray]:
        """Return the router's logits (T, E), and the residual stream behind the layer."""
        x = x + self._attention(self._norm(x, "input"), rounding)
        normed = self._norm(x, "post_attention")
        router = dense(normed, self.w["mlp.router.weight"], self.w["mlp.router.bias"])
        chosen = np.take_along_axis(router, experts, axis=-1)
        weights = np.exp(chosen - chosen.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        w = {name: self.w[f"mlp.experts.{name}"] for name in ("gate_up_proj", "down_proj")}
        bias = {name: self.w[f"mlp.experts.{name}_bias"] for name in w}
        inputs = rounding.expert_inputs(normed)
        for e in range(self.config.num_local_experts):
            t, a = np.nonzero(experts == e)
            gate_up = dense(inputs[t], w["gate_up_proj"][e], bias["gate_up_proj"][e])
            hidden = rounding.expert_inputs(swiglu(gate_up, self.config.swiglu_limit))
            out = dense(hidden, w["down_proj"][e], bias["down_proj"][e])
            x[t] += weights[t, a, None] * out  # a token has an expert at most once
        return router, x

    def _norm(self, x: FloatArray, name: str) -> FloatArray:
        return rms_norm(x, self.w[f"{name}_layernorm.weight"], self.config.rms_norm_eps)

    def _dense(self, name: str, x: FloatArray, rounding: Rounding) -> FloatArray:
        w = rounding.dense_weights(self.w[f"self_attn.{name}.weight"])
        return dense(rounding.dense_inputs(x), w, self.w[f"self_attn.{name}.bias"])

    def _attention(self, x: FloatArray, rounding: Rounding) -> FloatArray:
        config, positions = self.config, np.arange(len(x))
        q, k, v = (
            self._dense(f"{c}_proj", x, rounding).reshape(len(x), -1, config.head_dim)
            for c in "qkv"
        )
        attended = banded_attention(
            rope(q, positions, config.rope),
            rounding.kv(rope(k, positions, config.rope)),
            rounding.kv(v),
            self.w["self_attn.sinks"],
            self.window,
            positions,
            1.0 / math.sqrt(config.head_dim),
        )
        return self._dense("o_proj", attended.reshape(len(x), -1), rounding)


def error(found: FloatArray, expected: FloatArray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_checkpoint(folder, CONFIG)
    return folder


@pytest.mark.parametrize("isa", [name for name, is_supported, _ in _core.isas() if is_supported])
@pytest.mark.parametrize("options", [{"precision": "reference"}, {}, {"dense": "q8"}], ids=str)
def test_a_layer_errs_by_its_roundings(
    folder: Path, isa: str, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPTOSS_ISA", isa)
    tokens = np.random.default_rng(3).integers(0, CONFIG.vocab_size, TOKENS)
    with gptoss.load(folder, context_length=TOKENS, **options) as llm:
        rounding = Rounding.of(llm.description)
        trace = llm.trace(tokens, what=("hidden", "router", "experts"))
    assert trace.hidden is not None
    assert trace.router is not None
    assert trace.experts is not None
    tensors = load_tensors(open_checkpoint(folder))
    x = tensors["model.embed_tokens.weight"][tokens]
    for index in range(CONFIG.num_hidden_layers):
        layer, experts = Layer(CONFIG, tensors, index), trace.experts[index].astype(np.int64)
        exact = layer(x.copy(), experts, EXACT)
        rounded = layer(x.copy(), experts, rounding)
        for found, truth, expected in zip(
            (trace.router[index], trace.hidden[index]), exact, rounded, strict=True
        ):
            if options.get("precision") == "reference":
                assert error(found, truth) < FP32_MEDIAN_RELATIVE_L2
                continue
            assert error(found, truth) == pytest.approx(error(expected, truth), rel=SAME)
            assert error(found, expected) < LEFT * error(expected, truth)
        x = trace.hidden[index].astype(np.float64)
