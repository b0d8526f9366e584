"""The two published models: their names on the Hub and their dimensions."""

from __future__ import annotations

import dataclasses

from gptoss.config import LayerType, ModelConfig, RopeConfig


def alternating(layers: int) -> tuple[LayerType, ...]:
    """The published pattern: a window on even layers."""
    return tuple("full_attention" if i % 2 else "sliding_attention" for i in range(layers))


GPT_OSS_20B = ModelConfig(
    hidden_size=2880,
    intermediate_size=2880,
    num_hidden_layers=24,
    num_attention_heads=64,
    num_key_value_heads=8,
    head_dim=64,
    vocab_size=201_088,
    num_local_experts=32,
    num_experts_per_tok=4,
    sliding_window=128,
    layer_types=alternating(24),
    rms_norm_eps=1e-5,
    swiglu_limit=7.0,
    max_position_embeddings=131_072,
    rope=RopeConfig(theta=150_000.0, factor=32.0, truncate=False),
)
GPT_OSS_120B = dataclasses.replace(
    GPT_OSS_20B, num_hidden_layers=36, num_local_experts=128, layer_types=alternating(36)
)

PUBLISHED = {"openai/gpt-oss-20b": GPT_OSS_20B, "openai/gpt-oss-120b": GPT_OSS_120B}
