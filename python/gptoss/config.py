"""The shape of a gpt-oss model, as its config file states it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LayerType = Literal["sliding_attention", "full_attention"]


@dataclass(frozen=True)
class RopeConfig:
    """Rotary embedding settings; `factor` 1 means plain RoPE, more means YaRN."""

    theta: float
    factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    original_context_length: int = 4096
    truncate: bool = True


@dataclass(frozen=True)
class ModelConfig:
    """Dimensions and constants of one model; the names are those of the Hugging Face config."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    num_local_experts: int
    num_experts_per_tok: int
    sliding_window: int
    layer_types: tuple[LayerType, ...]
    rms_norm_eps: float
    swiglu_limit: float
    max_position_embeddings: int
    rope: RopeConfig
    eos_token_ids: tuple[int, ...] = ()
