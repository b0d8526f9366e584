"""LoRA adapters for tests, under the names and in the shapes that PEFT gives them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from gptoss.config import ModelConfig

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
EXPERTS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")
ROUTER = "mlp.router.weight"
# What can be changed, all of it.
MODULES = (*ATTENTION, "embed_tokens", "lm_head")
PARAMETERS = (*EXPERTS, ROUTER)


def make_adapter(
    folder: Path,
    config: ModelConfig,
    *,
    seed: int = 0,
    rank: int = 4,
    modules: Iterable[str] = MODULES,
    parameters: Iterable[str] = PARAMETERS,
    size: float = 0.05,
    dtype: Any = np.float32,
    is_swapped: bool = False,
    ranks: dict[str, int] | None = None,
    **settings: Any,
) -> Path:
    """Write an adapter of random factors.

    Parameters
    ----------
    folder : Path
        Where to; it is made.
    config : ModelConfig
        The model's dimensions.
    seed, rank, modules, parameters
        Which adapter.
    size : float
        The standard deviation of its factors.
    dtype : numpy dtype
        Of the file.
    is_swapped : bool
        A and B of experts have changed places, as for parameters (E, out, in).
    ranks : dict of str to int, optional
        `rank_pattern`, by the last part of a target's name.
    **settings
        More fields of adapter_config.json.

    Returns
    -------
    Path
        `folder`.
    """
    random = np.random.default_rng(seed)
    modules, parameters, ranks = list(modules), list(parameters), ranks or {}
    tensors: dict[str, Any] = {}

    def put(name: str, *shape: int) -> None:
        values = random.standard_normal(shape) * size
        tensors[f"base_model.model.{name}"] = values.astype(dtype)

    def put_pair(module: str, r: int, k: int, n: int) -> None:
        put(f"{module}.lora_A.weight", r, k)
        put(f"{module}.lora_B.weight", n, r)

    hidden, inter = config.hidden_size, config.intermediate_size
    q_size = config.num_attention_heads * config.head_dim
    kv_size = config.num_key_value_heads * config.head_dim
    experts = config.num_local_experts
    if "embed_tokens" in modules:
        r = ranks.get("embed_tokens", rank)
        put("model.embed_tokens.lora_embedding_A", r, config.vocab_size)
        put("model.embed_tokens.lora_embedding_B", hidden, r)
    if "lm_head" in modules:
        put_pair("lm_head", ranks.get("lm_head", rank), hidden, config.vocab_size)
    for layer in range(config.num_hidden_layers):
        stem = f"model.layers.{layer}"
        for name, k, n in (
            ("q_proj", hidden, q_size),
            ("k_proj", hidden, kv_size),
            ("v_proj", hidden, kv_size),
            ("o_proj", q_size, hidden),
        ):
            if name in modules:
                put_pair(f"{stem}.self_attn.{name}", ranks.get(name, rank), k, n)
        if ROUTER in parameters:
            put_pair(f"{stem}.mlp.router", ranks.get("weight", rank), hidden, experts)
        wrapped = [name for name in EXPERTS if name in parameters]
        for place, target in enumerate(wrapped):
            name = target.rpartition(".")[2]
            k, n = (hidden, 2 * inter) if name == "gate_up_proj" else (inter, hidden)
            if is_swapped:
                k, n = n, k
            module = f"{stem}.mlp.experts" + ".base_layer" * (len(wrapped) - 1 - place)
            put_pair(module, experts * ranks.get(name, rank), k, n)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    values: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "somewhere/model",
        "bias": "none",
        "lora_dropout": 0.1,
        "r": rank,
        "lora_alpha": 2 * rank,
        "rank_pattern": ranks,
        "alpha_pattern": {},
        "target_modules": modules,
        "target_parameters": parameters or None,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
        **settings,
    }
    (folder / "adapter_config.json").write_text(json.dumps(values))
    return folder
