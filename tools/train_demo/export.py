"""Write the trained weights as a checkpoint in the Hugging Face layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from model import (
    EPS,
    HEAD_DIM,
    LIMIT,
    ROPE_FACTOR,
    ROPE_FAST,
    ROPE_ORIGINAL,
    ROPE_SLOW,
    ROPE_THETA,
    Params,
    Shape,
)
from safetensors.torch import save_file
from torch import Tensor

from gptoss.reference.mxfp4 import quantize
from gptoss.tokenizer import Tokenizer


def export(out: Path, shape: Shape, params: Params, tokenizer_file: Path) -> None:
    """Write config, weights, generation config and tokenizer."""
    out.mkdir(parents=True, exist_ok=True)
    special = Tokenizer.from_file(tokenizer_file).special_tokens
    stops = [special[name] for name in ("<|return|>", "<|endoftext|>", "<|call|>")]
    _write(out / "config.json", _config(shape, special))
    _write(
        out / "generation_config.json",
        {
            "bos_token_id": special["<|startoftext|>"],
            "do_sample": False,
            "eos_token_id": stops,
            "pad_token_id": special["<|endoftext|>"],
        },
    )
    _write(
        out / "tokenizer_config.json",
        {
            "bos_token": "<|startoftext|>",
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|return|>",
            "model_input_names": ["input_ids", "attention_mask"],
            "pad_token": "<|endoftext|>",
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )
    shutil.copyfile(tokenizer_file, out / "tokenizer.json")
    weights = out / "model.safetensors"
    save_file(_tensors(shape, params), weights, {"format": "pt"})
    weights.chmod(0o644)  # the library makes it private


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _config(shape: Shape, special: Any) -> dict[str, Any]:
    return {
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "attention_bias": True,
        "attention_dropout": 0.0,
        "eos_token_id": special["<|return|>"],
        "experts_per_token": shape.active,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initial_context_length": ROPE_ORIGINAL,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate,
        "layer_types": [
            "sliding_attention" if layer % 2 == 0 else "full_attention"
            for layer in range(shape.layers)
        ],
        "max_position_embeddings": int(ROPE_ORIGINAL * ROPE_FACTOR),
        "num_attention_heads": shape.heads,
        "num_experts_per_tok": shape.active,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "num_local_experts": shape.experts,
        "pad_token_id": special["<|endoftext|>"],
        "quantization_config": {
            "modules_to_not_convert": [
                "model.layers.*.self_attn",
                "model.layers.*.mlp.router",
                "model.embed_tokens",
                "lm_head",
            ],
            "quant_method": "mxfp4",
        },
        "rms_norm_eps": EPS,
        "rope_scaling": {
            "beta_fast": ROPE_FAST,
            "beta_slow": ROPE_SLOW,
            "factor": ROPE_FACTOR,
            "original_max_position_embeddings": ROPE_ORIGINAL,
            "rope_type": "yarn",
            "truncate": False,
        },
        "rope_theta": ROPE_THETA,
        "router_aux_loss_coef": 0.9,
        "sliding_window": shape.window,
        "swiglu_limit": LIMIT,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": shape.vocab,
    }


def _tensors(shape: Shape, params: Params) -> dict[str, Tensor]:
    """The names and bytes of the published checkpoints."""
    half = {name: value.bfloat16() for name, value in params.items()}
    tensors = {
        "model.embed_tokens.weight": half["embed"],
        "model.norm.weight": half["norm"],
        "lm_head.weight": half["lm_head"],
    }
    sizes = [heads * HEAD_DIM for heads in (shape.heads, shape.kv_heads, shape.kv_heads)]
    for layer in range(shape.layers):
        to = f"model.layers.{layer}."
        at = f"{layer}."
        for kind, name in (("weight", "qkv"), ("bias", "qkv_bias")):
            for letter, part in zip("qkv", half[at + name].split(sizes), strict=True):
                tensors[f"{to}self_attn.{letter}_proj.{kind}"] = part
        tensors |= {
            to + "input_layernorm.weight": half[at + "norm1"],
            to + "post_attention_layernorm.weight": half[at + "norm2"],
            to + "self_attn.o_proj.weight": half[at + "o"],
            to + "self_attn.o_proj.bias": half[at + "o_bias"],
            to + "self_attn.sinks": half[at + "sinks"],
            to + "mlp.router.weight": half[at + "router"],
            to + "mlp.router.bias": half[at + "router_bias"],
            to + "mlp.experts.gate_up_proj_bias": _interleaved(half[at + "b1"]),
            to + "mlp.experts.down_proj_bias": half[at + "b2"],
        }
        for name, weight in (
            ("gate_up_proj", _interleaved(params[at + "w1"])),
            ("down_proj", params[at + "w2"]),
        ):
            blocks, scales = quantize(np.ascontiguousarray(weight.numpy()))
            tensors[f"{to}mlp.experts.{name}_blocks"] = torch.from_numpy(blocks)
            tensors[f"{to}mlp.experts.{name}_scales"] = torch.from_numpy(scales)
    return {name: tensor.contiguous().clone() for name, tensor in tensors.items()}


def _interleaved(rows: Tensor) -> Tensor:
    """Gate and up rows in turn, from the gate rows followed by the up rows."""
    gate, up = rows.chunk(2, 1)
    return torch.stack([gate, up], 2).flatten(1, 2)
