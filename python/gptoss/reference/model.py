"""The whole model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from gptoss.checkpoint import Checkpoint
from gptoss.config import ModelConfig
from gptoss.reference import bf16, mxfp4, q8
from gptoss.reference.arrays import FloatArray, IntArray
from gptoss.reference.attention import banded_attention
from gptoss.reference.dense import dense, embed, unembed
from gptoss.reference.experts import mixture
from gptoss.reference.kv_cache import round_to_int8
from gptoss.reference.rms_norm import rms_norm
from gptoss.reference.rope import rope
from gptoss.reference.route_topk import route_topk


def load_tensors(checkpoint: Checkpoint) -> dict[str, FloatArray]:
    """Read a checkpoint's tensors as float64, exactly.

    Takes eight bytes per weight: for small checkpoints.

    Parameters
    ----------
    checkpoint : Checkpoint
        As `open_checkpoint` returned it.

    Returns
    -------
    dict of str to numpy.ndarray
        By canonical name; Q8_0 as its numbers.
        The experts' blocks and scales become one tensor, without the suffix:
        `...gate_up_proj` (E, 2I, N) and `...down_proj` (E, N, I).
    """
    tensors: dict[str, FloatArray] = {}
    for name, source in checkpoint.tensors.items():
        if source.dtype == "BF16":
            tensors[name] = bf16.from_bits(source.read())
        elif name.endswith("_blocks"):
            stem = name.removesuffix("_blocks")
            scales = checkpoint.tensors[stem + "_scales"].read()
            tensors[stem] = mxfp4.dequantize(source.read(), scales)
        elif name.endswith(".codes"):
            stem = name.removesuffix(".codes")
            scales = checkpoint.tensors[stem + ".scales"].read()
            tensors[stem] = q8.decode_q8_0(source.read().view(np.int8), scales)
    return tensors


class ReferenceModel:
    """A gpt-oss model in float64.

    Parameters
    ----------
    config : ModelConfig
        Dimensions and constants.
    tensors : mapping of str to numpy.ndarray
        float64, by the names that `load_tensors` gives them.
    int8_kv_cache : bool
        Round keys and values to int8, as `load(kv_cache_dtype="int8")` does.
    """

    def __init__(
        self,
        config: ModelConfig,
        tensors: Mapping[str, FloatArray],
        *,
        int8_kv_cache: bool = False,
    ) -> None:
        self.config = config
        self.tensors = tensors
        self.int8_kv_cache = int8_kv_cache

    def logits(self, token_ids: Sequence[int]) -> FloatArray:
        """Return the logits after each token of a text.

        Parameters
        ----------
        token_ids : sequence of int
            T ids, T >= 1, each in [0, V).

        Returns
        -------
        numpy.ndarray
            (T, V) float64.
        """
        tensors, eps = self.tensors, self.config.rms_norm_eps
        x = embed(tensors["model.embed_tokens.weight"], np.asarray(token_ids, np.int64))
        for layer in range(self.config.num_hidden_layers):
            name = f"model.layers.{layer}"
            normed = rms_norm(x, tensors[f"{name}.input_layernorm.weight"], eps)
            x = x + self._attention(layer, normed)
            normed = rms_norm(x, tensors[f"{name}.post_attention_layernorm.weight"], eps)
            x = x + self._experts(layer, normed)
        normed = rms_norm(x, tensors["model.norm.weight"], eps)
        return unembed(normed, tensors["lm_head.weight"])

    def _dense(self, name: str, x: FloatArray) -> FloatArray:
        return dense(x, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])

    def _attention(self, layer: int, x: FloatArray) -> FloatArray:
        config, name = self.config, f"model.layers.{layer}.self_attn"
        positions: IntArray = np.arange(len(x))
        q, k, v = (
            self._dense(f"{name}.{letter}_proj", x).reshape(len(x), -1, config.head_dim)
            for letter in "qkv"
        )
        k = rope(k, positions, config.rope)
        if self.int8_kv_cache:
            k, v = round_to_int8(k), round_to_int8(v)
        banded = config.layer_types[layer] == "sliding_attention"
        attended = banded_attention(
            rope(q, positions, config.rope),
            k,
            v,
            self.tensors[f"{name}.sinks"],
            config.sliding_window if banded else None,
            positions,
            1.0 / math.sqrt(config.head_dim),
        )
        return self._dense(f"{name}.o_proj", attended.reshape(len(x), -1))

    def _experts(self, layer: int, x: FloatArray) -> FloatArray:
        config, name = self.config, f"model.layers.{layer}.mlp"
        experts, weights = route_topk(self._dense(f"{name}.router", x), config.num_experts_per_tok)
        return mixture(
            x,
            experts,
            weights,
            self.tensors[f"{name}.experts.gate_up_proj"],
            self.tensors[f"{name}.experts.gate_up_proj_bias"],
            self.tensors[f"{name}.experts.down_proj"],
            self.tensors[f"{name}.experts.down_proj_bias"],
            config.swiglu_limit,
        )
