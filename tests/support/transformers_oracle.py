"""transformers' GptOssForCausalLM in float32 on a checkpoint of ours, whichever its layout.

Reads the files with the safetensors library and dequantises with torch, so that it shares nothing
with the package but the config.json.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import GptOssConfig, GptOssForCausalLM

from make_checkpoint import hf_config
from support.model_cases import ModelCase

_FP4 = torch.tensor([0.0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])

_FROM_ORIGINAL = {
    r"^embedding\.": "model.embed_tokens.",
    r"^unembedding\.": "lm_head.",
    r"^norm\.scale": "model.norm.weight",
    r"^block\.(\d+)\.": r"model.layers.\1.",
    r"\.attn\.norm\.scale": ".input_layernorm.weight",
    r"\.mlp\.norm\.scale": ".post_attention_layernorm.weight",
    r"\.attn\.out\.": ".self_attn.o_proj.",
    r"\.attn\.": ".self_attn.",
    r"\.mlp\.gate\.": ".mlp.router.",
    r"\.mlp1_(weight|bias)": r".experts.gate_up_proj_\1",
    r"\.mlp2_(weight|bias)": r".experts.down_proj_\1",
    r"_weight\.(blocks|scales)": r"_\1",
}


def load_transformers(case: ModelCase, folder: Path) -> Any:
    """Load the checkpoint that `case.build(folder)` wrote: float32, eager attention, no stops."""
    values = hf_config(case.config)
    del values["quantization_config"], values["torch_dtype"]
    config = GptOssConfig(**json.loads(json.dumps(values)))
    config._attn_implementation = "eager"
    model = GptOssForCausalLM(config).to(torch.float32).eval()
    original = case.layout == "original"
    stored = load_file((folder / "original" if original else folder) / "model.safetensors")
    model.load_state_dict(_dequantized(_renamed(case, stored) if original else stored))
    model.generation_config.eos_token_id = None
    return model


def logits(model: Any, token_ids: list[int]) -> Any:
    """Return the logits of a whole prompt: (T, V) float32, as numpy."""
    with torch.inference_mode():
        return model(torch.tensor([token_ids])).logits[0].numpy()


def greedy(model: Any, token_ids: list[int], count: int) -> list[int]:
    """Return the next `count` ids, with transformers' own cache and loop."""
    prompt = torch.tensor([token_ids])
    with torch.inference_mode():
        whole = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=count,
            # Its cache keeps all keys where it should keep none.
            use_cache=model.config.sliding_window > 1,
        )
    return whole[0, len(token_ids) :].tolist()


def _renamed(case: ModelCase, stored: dict[str, Any]) -> dict[str, Any]:
    tensors = {}
    for name, tensor in stored.items():
        for pattern, replacement in _FROM_ORIGINAL.items():
            name = re.sub(pattern, replacement, name)
        if ".qkv." in name:
            config = case.config
            q = config.num_attention_heads * config.head_dim
            kv = config.num_key_value_heads * config.head_dim
            for letter, part in zip("qkv", tensor.split([q, kv, kv]), strict=True):
                tensors[name.replace("qkv", f"{letter}_proj")] = part
        else:
            tensors[name] = tensor
    return tensors


def _dequantized(stored: dict[str, Any]) -> dict[str, Any]:
    tensors = {}
    for name, tensor in stored.items():
        if name.endswith("_blocks"):
            stem = name.removesuffix("_blocks")
            codes = torch.stack([tensor & 15, tensor >> 4], dim=-1).flatten(-2).long()
            exponents = stored[f"{stem}_scales"].to(torch.int32) - 127
            values = torch.ldexp(_FP4[codes], exponents[..., None])
            tensors[stem] = values.flatten(-2).mT.contiguous()  # [E, in, out]
        elif not name.endswith("_scales"):
            tensors[name] = tensor.float()
    return tensors
