"""An adapter's changes of low rank, merged into the weights."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gptoss.checkpoint.safetensors import read_header
from gptoss.config import ModelConfig
from gptoss.reference import bf16
from gptoss.reference.arrays import FloatArray

_EXPERTS = ("gate_up_proj", "down_proj")


def merge_lora(
    config: ModelConfig, tensors: Mapping[str, FloatArray], folder: Path
) -> dict[str, FloatArray]:
    """Add an adapter to a model's weights.

    Parameters
    ----------
    config : ModelConfig
        The model's dimensions.
    tensors : mapping of str to numpy.ndarray
        float64, as `load_tensors` returns them.
    folder : Path
        What PEFT's `save_pretrained` made. It is taken to be right.

    Returns
    -------
    dict of str to numpy.ndarray
        float64, of the same names and shapes: w + scale * B @ A.
    """
    settings = json.loads((folder / "adapter_config.json").read_text())
    factors: dict[str, FloatArray] = {}
    for name, source in read_header(folder / "adapter_model.safetensors").items():
        values = bf16.from_bits(source.read()) if source.dtype == "BF16" else source.read()
        factors[name.removeprefix("base_model.model.")] = values.astype(np.float64)

    def scale(target: str, rank: int) -> float:
        alpha = settings["lora_alpha"]
        for pattern, value in (settings.get("alpha_pattern") or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", target):
                alpha = value
                break
        return float(alpha) / (math.sqrt(rank) if settings.get("use_rslora") else rank)

    merged = dict(tensors)
    for name, a in factors.items():
        if name.endswith(".lora_embedding_A"):  # (r, V), (N, r)
            module = name.removesuffix(".lora_embedding_A")
            b = factors[f"{module}.lora_embedding_B"]
            merged[f"{module}.weight"] = tensors[f"{module}.weight"] + scale(module, len(a)) * (
                (b @ a).T
            )
        elif name.endswith(".lora_A.weight") and ".mlp.experts." not in name:
            module = name.removesuffix(".lora_A.weight")
            b = factors[f"{module}.lora_B.weight"]
            weight = f"{module}.weight"
            target = weight if weight.endswith("router.weight") else module
            merged[weight] = tensors[weight] + scale(target, len(a)) * (b @ a)
    for layer in range(config.num_hidden_layers):
        stem = f"model.layers.{layer}.mlp.experts"
        names = [
            name
            for name in _EXPERTS
            if any(f"{stem}.{name}".endswith(t) for t in settings.get("target_parameters") or ())
        ]
        for name, depth in zip(names, reversed(range(len(names))), strict=True):
            module = stem + ".base_layer" * depth
            a, b = factors[f"{module}.lora_A.weight"], factors[f"{module}.lora_B.weight"]
            rank = len(a) // config.num_local_experts
            # (E, r, K), (N, r, E); of this package's matrices the rows are out-features.
            a = a.reshape(config.num_local_experts, rank, -1)
            b = b.reshape(len(b), rank, config.num_local_experts)
            target = f"{stem}.{name}"
            delta = np.einsum("nre,erk->enk", b, a) * scale(target, rank)
            merged[target] = tensors[target] + delta
    return merged
