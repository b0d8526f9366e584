"""The published layout: config.json, shards of safetensors, their index."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gptoss.checkpoint.convert import to_bf16
from gptoss.checkpoint.layout import INDEX, SINGLE_FILE, Stored, stored_tensors
from gptoss.config import ModelConfig, RopeConfig
from gptoss.convert.resumable import OutputFile, Unit
from gptoss.convert.source import Source

ExpertsDtype = Literal["mxfp4", "bf16"]

# The published shards of 20b are just below this.
SHARD_BYTES = 4_800_000_000

_NOT_CONVERTED = (
    "model.layers.*.self_attn",
    "model.layers.*.mlp.router",
    "model.embed_tokens",
    "lm_head",
)


def hf_fields(config: ModelConfig, experts: ExpertsDtype) -> dict[str, Any]:
    """Return the fields of a config.json of the Hugging Face layout."""
    values = dataclasses.asdict(config)
    rope = values.pop("rope")
    eos = list(values.pop("eos_token_ids"))
    is_plain = config.rope == RopeConfig(theta=config.rope.theta)
    scaling = {
        "beta_fast": rope["beta_fast"],
        "beta_slow": rope["beta_slow"],
        "factor": rope["factor"],
        "original_max_position_embeddings": rope["original_context_length"],
        "rope_type": "yarn",
        "truncate": rope["truncate"],
    }
    fields = {
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": True,
        "attention_dropout": 0.0,
        "eos_token_id": eos,
        "experts_per_token": config.num_experts_per_tok,
        "hidden_act": "silu",
        "initial_context_length": rope["original_context_length"],
        "initializer_range": 0.02,
        "model_type": "gpt_oss",
        "output_router_logits": False,
        "rope_scaling": {"rope_type": "default"} if is_plain else scaling,
        "rope_theta": rope["theta"],
        "router_aux_loss_coef": 0.9,
        "use_cache": True,
        **values,
    }
    return with_experts(fields, experts)


def with_experts(fields: dict[str, Any], experts: ExpertsDtype) -> dict[str, Any]:
    """Return a config.json's fields, changed to say what the weights are now."""
    changed = dict(fields)
    changed.pop("quantization_config", None)
    if experts == "mxfp4":
        changed["quantization_config"] = {
            "modules_to_not_convert": list(_NOT_CONVERTED),
            "quant_method": "mxfp4",
        }
    changed["dtype" if "dtype" in changed else "torch_dtype"] = "bfloat16"
    changed["tie_word_embeddings"] = False
    return dict(sorted(changed.items()))


def shards_of(tensors: Iterable[Stored], shard_bytes: int) -> dict[str, list[Stored]]:
    """Spread tensors over files of about so many bytes, by the files' names."""
    shards: list[list[Stored]] = [[]]
    used = 0
    for tensor in tensors:
        if used and used + tensor.nbytes > shard_bytes:
            shards.append([])
            used = 0
        shards[-1].append(tensor)
        used += tensor.nbytes
    if len(shards) == 1:
        return {SINGLE_FILE: shards[0]}
    # Counted as the published files are: from 0, with the last number as the count.
    last = len(shards) - 1
    return {f"model-{i:05}-of-{last:05}.safetensors": shard for i, shard in enumerate(shards)}


def safetensors_header(tensors: Iterable[Stored]) -> bytes:
    """Return what comes before the data of a safetensors file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        begin, end = end, end + tensor.nbytes
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the data starts aligned
    return len(text).to_bytes(8, "little") + text


def index_json(shards: dict[str, list[Stored]]) -> dict[str, Any] | None:
    """Return the index of several shards, which is the file INDEX."""
    if len(shards) == 1:
        return None
    total = sum(tensor.nbytes for shard in shards.values() for tensor in shard)
    weight_map = {tensor.name: name for name, shard in shards.items() for tensor in shard}
    return {"metadata": {"total_size": total}, "weight_map": weight_map}


def safetensors_files(
    source: Source, experts: ExpertsDtype, shard_bytes: int = SHARD_BYTES
) -> tuple[list[OutputFile], dict[str, Any] | None]:
    """Describe the files of a model in the published layout, and their index if there is one."""
    tensors = list(stored_tensors(source.config, "hf", bf16_experts=experts == "bf16"))
    shards = shards_of(tensors, shard_bytes)
    scales = _Scales(source)
    files = [
        OutputFile(
            name,
            safetensors_header(shard),
            [unit for tensor in shard for unit in _units(source, tensor, scales)],
        )
        for name, shard in shards.items()
    ]
    return files, index_json(shards)


class _Scales:
    """Scales are a tensor of their own, and made with the blocks: those of a matrix are kept."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._kept: dict[int, npt.NDArray[np.uint8]] = {}
        self._stem = ""

    def blocks(self, stem: str, expert: int) -> npt.NDArray[np.uint8]:
        if stem != self._stem:
            self._stem, self._kept = stem, {}
        blocks, self._kept[expert] = self._source.expert_mxfp4(stem, expert)
        return blocks

    def scales(self, stem: str, expert: int) -> npt.NDArray[np.uint8]:
        if stem == self._stem and expert in self._kept:
            return self._kept.pop(expert)
        return self._source.expert_mxfp4(stem, expert)[1]


def _units(source: Source, tensor: Stored, scales: _Scales) -> Iterator[Unit]:
    name = tensor.name
    for suffix, read in (("_blocks", scales.blocks), ("_scales", scales.scales)):
        if name.endswith(suffix):
            stem = name.removesuffix(suffix)
            for expert in range(tensor.shape[0]):
                yield Unit(
                    tensor.nbytes // tensor.shape[0],
                    lambda read=read, stem=stem, expert=expert: iter(  # type: ignore[misc]
                        [np.ascontiguousarray(read(stem, expert)).reshape(-1)]
                    ),
                )
            return
    if name.endswith(("gate_up_proj", "down_proj")):
        for expert in range(tensor.shape[0]):
            yield Unit(
                tensor.nbytes // tensor.shape[0],
                lambda expert=expert: iter([_bf16_expert(source, name, expert)]),  # type: ignore[misc]
            )
        return
    yield Unit(tensor.nbytes, lambda: source.bf16(name))


def _bf16_expert(source: Source, stem: str, expert: int) -> npt.NDArray[np.uint16]:
    """One expert as transformers has it, (K, rows)."""
    bits, _ = to_bf16(np.ascontiguousarray(source.expert_floats(stem, expert).T))
    return bits.reshape(-1)


__all__ = [
    "INDEX",
    "SHARD_BYTES",
    "ExpertsDtype",
    "hf_fields",
    "safetensors_files",
    "safetensors_header",
    "shards_of",
    "with_experts",
]
