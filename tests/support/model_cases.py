"""Small random checkpoints that every implementation of the model is tested on.

Together they have: windows shorter and longer than the prompt, prompts beyond the original context
(so that YaRN matters), rounded and unrounded YaRN bounds, no YaRN, 1, 2 and 8 query heads per
key/value head, head_dim 16, 32 and 64, an odd number of experts, one expert, all experts active, a
SwiGLU bound that is reached, a layer order that does not alternate, another epsilon, both layouts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptoss.checkpoint import Checkpoint
from gptoss.checkpoint.layout import Layout
from gptoss.config import LayerType, ModelConfig, RopeConfig
from make_checkpoint import PRESETS, alternating, make_checkpoint

VOCAB_SIZE = 160


@dataclass(frozen=True)
class ModelCase:
    """A checkpoint to build, and the lengths of the prompts to run on it."""

    name: str
    config: ModelConfig
    prompt_lengths: tuple[int, ...]
    seed: int  # of the weights and the prompts; no greedy step is a near tie
    layout: Layout = "hf"

    def build(self, folder: Path) -> Path:
        """Write the checkpoint and return the folder to open."""
        make_checkpoint(folder, self.config, layout=self.layout, seed=self.seed)
        return folder

    def prompts(self) -> list[list[int]]:
        """Return random token ids, the same in every release of numpy."""
        bits = np.random.SFC64(self.seed)
        return [
            [int(word % self.config.vocab_size) for word in bits.random_raw(length)]
            for length in self.prompt_lengths
        ]


def golden_path(case: ModelCase) -> Path:
    """Where tools/make_model_golden.py puts what transformers made of a case."""
    return Path(__file__).parents[1] / "golden" / "model" / f"{case.name}.npz"


def describe(case: ModelCase, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what identifies a case's golden data: all that it was made from, as JSON values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(checkpoint.tensors.items()):
        digest.update(name.encode() + tensor.read().tobytes())
    return {
        "config": json.loads(json.dumps(dataclasses.asdict(case.config))),
        "layout": case.layout,
        "seed": case.seed,
        "prompts": case.prompts(),
        "weights_sha256": digest.hexdigest(),
    }


def _config(
    layers: int = 2, layer_types: tuple[LayerType, ...] = (), **changes: object
) -> ModelConfig:
    changes |= {
        "vocab_size": VOCAB_SIZE,
        "num_hidden_layers": layers,
        "layer_types": layer_types or alternating(layers),
    }
    config = dataclasses.replace(PRESETS["tiny"], **changes)
    longest = int(config.rope.original_context_length * config.rope.factor)
    return dataclasses.replace(config, max_position_embeddings=longest)


def _rope(original_context_length: int, factor: float, *, truncate: bool = False) -> RopeConfig:
    return RopeConfig(
        theta=150_000.0,
        factor=factor,
        original_context_length=original_context_length,
        truncate=truncate,
    )


_EIGHT_HEADS_PER_KV_HEAD = _config(
    3,
    hidden_size=96,
    num_attention_heads=16,
    num_key_value_heads=2,
    head_dim=32,
    num_local_experts=5,
    num_experts_per_tok=3,
    sliding_window=5,
    rope=_rope(32, 8.0),
)

CASES = [
    ModelCase("tiny", _config(4), (1, 17, 40), seed=2),
    ModelCase("eight_heads_per_kv_head", _EIGHT_HEADS_PER_KV_HEAD, (4, 5, 6, 100), seed=3),
    ModelCase(
        "eight_heads_per_kv_head_original",
        _EIGHT_HEADS_PER_KV_HEAD,
        (6, 100),
        layout="original",
        seed=2,
    ),
    ModelCase(
        "rounded_yarn",
        _config(
            hidden_size=64,
            intermediate_size=96,
            num_attention_heads=8,
            num_key_value_heads=1,
            head_dim=64,
            num_local_experts=5,
            num_experts_per_tok=3,
            rope=_rope(64, 4.0, truncate=True),
        ),
        (15, 16, 150),
        seed=3,
    ),
    ModelCase(
        "unrounded_yarn",
        _config(
            hidden_size=160,
            head_dim=64,
            num_attention_heads=4,
            num_key_value_heads=4,
            num_experts_per_tok=4,
            rope=_rope(64, 4.0),
        ),
        (2, 150),
        layout="original",
        seed=7,
    ),
    ModelCase(
        "plain_rope",
        _config(
            hidden_size=96,
            head_dim=32,
            num_attention_heads=4,
            num_key_value_heads=2,
            sliding_window=16,
            rope=_rope(128, 1.0),
        ),
        (33, 90),
        seed=1,
    ),
    ModelCase(
        "reached_bounds",
        _config(
            3,
            ("full_attention", "sliding_attention", "sliding_attention"),
            num_local_experts=4,
            num_experts_per_tok=4,
            sliding_window=1,
            swiglu_limit=0.75,
            rms_norm_eps=0.01,
            rope=_rope(16, 32.0, truncate=True),
        ),
        (3, 50),
        seed=3,
    ),
    ModelCase(
        "one_expert",
        _config(
            1,
            hidden_size=32,
            intermediate_size=32,
            num_attention_heads=2,
            num_key_value_heads=2,
            num_local_experts=1,
            num_experts_per_tok=1,
            sliding_window=64,
            # So small a base that the ramp's end lies beyond the last pair.
            rope=RopeConfig(theta=1000.0, factor=32.0, truncate=False),
        ),
        (1, 64, 65),
        seed=2,
    ),
]
