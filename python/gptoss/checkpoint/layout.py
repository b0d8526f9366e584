"""Which files and tensors a checkpoint must hold, under which names, in either layout."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from gptoss.checkpoint.safetensors import ITEM_BYTES, TensorSource
from gptoss.config import ModelConfig

Layout = Literal["hf", "original", "gguf"]

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
INDEX = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"

MXFP4_BLOCK_SIZE = 32
# 6 * 2^(252 - 127) is the largest product of an FP4 value and a scale that bfloat16 holds.
MAX_SCALE_BYTE = 252
# What is appended to the name of a matrix in Q8_0: one tensor for its int8 codes, in the kernels'
# order (csrc/core/q8.h), and one for its float16 scales.
Q8_0_CODES, Q8_0_SCALES = ".codes", ".scales"


@dataclass(frozen=True)
class Part:
    """One tensor of the model.

    `name` is the canonical one, of the Hugging Face layout; `role` is what the core calls it
    (csrc/model/weights.h); `component` is for memory tables.
    """

    name: str
    role: str
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
    layout : {"hf", "original", "gguf"}
        Gives the names. The original layout fuses q, k and v. GGUF has names of its own
        (`gguf_model`): here it has the canonical ones.
    bf16_experts : bool
        The experts are dequantised, as [E, in, out] (layout "hf" only). Their names are then
        `..._proj` and not canonical.
    """
    hidden, vocab = config.hidden_size, config.vocab_size
    original = layout == "original"

    def one(
        hf_name: str,
        original_name: str,
        role: str,
        shape: tuple[int, ...],
        component: str,
        dtype: str = "BF16",
    ) -> Stored:
        name = original_name if original else hf_name
        return Stored(name, dtype, shape, (Part(hf_name, role, shape, component),))

    small = "norms, sinks, biases"
    yield one(
        "model.embed_tokens.weight", "embedding.weight", "embedding", (vocab, hidden), "embedding"
    )
    for layer in range(config.num_hidden_layers):
        hf, block, role = f"model.layers.{layer}", f"block.{layer}", f"layers.{layer}"
        yield one(
            f"{hf}.input_layernorm.weight",
            f"{block}.attn.norm.scale",
            f"{role}.attention.norm",
            (hidden,),
            small,
        )
        yield from _attention(config, hf, block, role, original)
        yield one(
            f"{hf}.post_attention_layernorm.weight",
            f"{block}.mlp.norm.scale",
            f"{role}.mlp.norm",
            (hidden,),
            small,
        )
        experts = config.num_local_experts
        gate_hf, gate = f"{hf}.mlp.router", f"{block}.mlp.gate"
        router = f"{role}.router"
        yield one(f"{gate_hf}.weight", f"{gate}.weight", router, (experts, hidden), "router")
        yield one(f"{gate_hf}.bias", f"{gate}.bias", f"{router}_bias", (experts,), small)
        for matrix, name, rows, columns in (
            ("gate_up", "mlp1", 2 * config.intermediate_size, hidden),
            ("down", "mlp2", hidden, config.intermediate_size),
        ):
            hf_name, name = f"{hf}.mlp.experts.{matrix}_proj", f"{block}.mlp.{name}"
            matrix = f"{role}.experts.{matrix}"
            if bf16_experts:
                yield one(hf_name, "", matrix, (experts, columns, rows), "experts")
            else:
                shape = (experts, rows, columns // MXFP4_BLOCK_SIZE)
                for kind, kind_shape in (("blocks", (*shape, 16)), ("scales", shape)):
                    yield one(
                        f"{hf_name}_{kind}",
                        f"{name}_weight.{kind}",
                        f"{matrix}.{kind}",
                        kind_shape,
                        "experts",
                        "U8",
                    )
            yield one(
                f"{hf_name}_bias",
                f"{name}_bias",
                f"{matrix}_bias",
                (experts, rows),
                "expert biases",
            )
    yield one("model.norm.weight", "norm.scale", "final_norm", (hidden,), small)
    yield one("lm_head.weight", "unembedding.weight", "unembedding", (vocab, hidden), "unembedding")


def tensors_by_role(
    config: ModelConfig, tensors: Mapping[str, TensorSource]
) -> dict[str, TensorSource]:
    """Rename a checkpoint's tensors to what the core calls them.

    Parameters
    ----------
    config : ModelConfig
        The checkpoint's dimensions.
    tensors : mapping of str to TensorSource
        All tensors of the model under canonical names, as `Checkpoint.tensors` has them.

    Returns
    -------
    dict of str to TensorSource
        The same tensors by role (csrc/model/weights.h), for example "layers.3.attention.q"; one in
        Q8_0 as "....codes" and "....scales".

    Raises
    ------
    KeyError
        A tensor is missing.
    """
    roles: dict[str, TensorSource] = {}
    for stored in stored_tensors(config, "hf"):
        for part in stored.parts:
            if part.name + Q8_0_CODES in tensors:
                for suffix in (Q8_0_CODES, Q8_0_SCALES):
                    roles[part.role + suffix] = tensors[part.name + suffix]
            else:
                roles[part.role] = tensors[part.name]
    return roles


def matrices_held_in_q8_0(tensors: Iterable[str]) -> frozenset[str]:
    """Return the canonical names of the matrices that a GGUF file had in Q8_0."""
    return frozenset(name.removesuffix(Q8_0_CODES) for name in tensors if name.endswith(Q8_0_CODES))


def _attention(
    config: ModelConfig, hf: str, block: str, role: str, original: bool
) -> Iterator[Stored]:
    hidden = config.hidden_size
    q_rows = config.num_attention_heads * config.head_dim
    kv_rows = config.num_key_value_heads * config.head_dim
    for kind, suffix, columns, component in (
        ("weight", "", (hidden,), "attention"),
        ("bias", "_bias", (), "norms, sinks, biases"),
    ):
        parts = tuple(
            Part(
                f"{hf}.self_attn.{letter}_proj.{kind}",
                f"{role}.attention.{letter}{suffix}",
                (rows, *columns),
                component,
            )
            for letter, rows in (("q", q_rows), ("k", kv_rows), ("v", kv_rows))
        )
        if original:
            shape = (q_rows + 2 * kv_rows, *columns)
            yield Stored(f"{block}.attn.qkv.{kind}", "BF16", shape, parts)
        else:
            yield from (Stored(part.name, "BF16", part.shape, (part,)) for part in parts)
    for hf_name, name, short, shape, component in (
        ("o_proj.weight", "out.weight", "o", (hidden, q_rows), "attention"),
        ("o_proj.bias", "out.bias", "o_bias", (hidden,), "norms, sinks, biases"),
        ("sinks", "sinks", "sinks", (config.num_attention_heads,), "norms, sinks, biases"),
    ):
        part = Part(f"{hf}.self_attn.{hf_name}", f"{role}.attention.{short}", shape, component)
        name = f"{block}.attn.{name}" if original else part.name
        yield Stored(name, "BF16", shape, (part,))
