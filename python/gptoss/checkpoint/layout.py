"""Which files and tensors a checkpoint must hold, under which names, in either layout."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from gptoss.checkpoint.safetensors import ITEM_BYTES
from gptoss.config import ModelConfig

Layout = Literal["hf", "original"]

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
INDEX = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"

MXFP4_BLOCK_SIZE = 32


@dataclass(frozen=True)
class Part:
    """One tensor of the model, under its canonical name; `component` is for memory tables."""

    name: str
    shape: tuple[int, ...]
    component: str


@dataclass(frozen=True)
class Stored:
    """One tensor of a file; its bytes are those of its parts, one after the other."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]

    @property
    def nbytes(self) -> int:
        """Size of the tensor."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


def stored_tensors(
    config: ModelConfig, layout: Layout, *, bf16_experts: bool = False
) -> Iterator[Stored]:
    """List the tensors that a checkpoint's files must hold, in the order of the model.

    Parameters
    ----------
    config : ModelConfig
        Gives the shapes.
    layout : {"hf", "original"}
        Gives the names. The original layout fuses q, k and v.
    bf16_experts : bool
        The experts are dequantised, as [E, in, out] (layout "hf" only). Their names are then
        `..._proj` and not canonical.
    """
    hidden, vocab = config.hidden_size, config.vocab_size
    original = layout == "original"

    def one(
        hf_name: str,
        original_name: str,
        shape: tuple[int, ...],
        component: str,
        dtype: str = "BF16",
    ) -> Stored:
        name = original_name if original else hf_name
        return Stored(name, dtype, shape, (Part(hf_name, shape, component),))

    small = "norms, sinks, biases"
    yield one("model.embed_tokens.weight", "embedding.weight", (vocab, hidden), "embedding")
    for layer in range(config.num_hidden_layers):
        hf, block = f"model.layers.{layer}", f"block.{layer}"
        yield one(f"{hf}.input_layernorm.weight", f"{block}.attn.norm.scale", (hidden,), small)
        yield from _attention(config, hf, block, original)
        yield one(
            f"{hf}.post_attention_layernorm.weight", f"{block}.mlp.norm.scale", (hidden,), small
        )
        experts = config.num_local_experts
        gate_hf, gate = f"{hf}.mlp.router", f"{block}.mlp.gate"
        yield one(f"{gate_hf}.weight", f"{gate}.weight", (experts, hidden), "router")
        yield one(f"{gate_hf}.bias", f"{gate}.bias", (experts,), small)
        for hf_name, name, rows, columns in (
            ("gate_up_proj", "mlp1", 2 * config.intermediate_size, hidden),
            ("down_proj", "mlp2", hidden, config.intermediate_size),
        ):
            hf_name, name = f"{hf}.mlp.experts.{hf_name}", f"{block}.mlp.{name}"
            if bf16_experts:
                yield one(hf_name, "", (experts, columns, rows), "experts")
            else:
                shape = (experts, rows, columns // MXFP4_BLOCK_SIZE)
                blocks, scales = f"{name}_weight.blocks", f"{name}_weight.scales"
                yield one(f"{hf_name}_blocks", blocks, (*shape, 16), "experts", "U8")
                yield one(f"{hf_name}_scales", scales, shape, "experts", "U8")
            yield one(f"{hf_name}_bias", f"{name}_bias", (experts, rows), "expert biases")
    yield one("model.norm.weight", "norm.scale", (hidden,), small)
    yield one("lm_head.weight", "unembedding.weight", (vocab, hidden), "unembedding")


def _attention(config: ModelConfig, hf: str, block: str, original: bool) -> Iterator[Stored]:
    hidden = config.hidden_size
    q_rows = config.num_attention_heads * config.head_dim
    kv_rows = config.num_key_value_heads * config.head_dim
    for kind, columns, component in (
        ("weight", (hidden,), "attention"),
        ("bias", (), "norms, sinks, biases"),
    ):
        parts = tuple(
            Part(f"{hf}.self_attn.{letter}_proj.{kind}", (rows, *columns), component)
            for letter, rows in (("q", q_rows), ("k", kv_rows), ("v", kv_rows))
        )
        if original:
            shape = (q_rows + 2 * kv_rows, *columns)
            yield Stored(f"{block}.attn.qkv.{kind}", "BF16", shape, parts)
        else:
            yield from (Stored(part.name, "BF16", part.shape, (part,)) for part in parts)
    for hf_name, name, shape, component in (
        ("o_proj.weight", "out.weight", (hidden, q_rows), "attention"),
        ("o_proj.bias", "out.bias", (hidden,), "norms, sinks, biases"),
        ("sinks", "sinks", (config.num_attention_heads,), "norms, sinks, biases"),
    ):
        part = Part(f"{hf}.self_attn.{hf_name}", shape, component)
        name = f"{block}.attn.{name}" if original else part.name
        yield Stored(name, "BF16", shape, (part,))
