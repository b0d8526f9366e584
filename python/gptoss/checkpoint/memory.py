"""How much memory a model needs, from its headers alone."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from gptoss import _core
from gptoss.checkpoint.layout import stored_tensors
from gptoss.checkpoint.open import (
    find_tensors,
    has_bf16_experts,
    local_folder,
    locate,
    match_tensors,
    parse_config,
)
from gptoss.config import ModelConfig
from gptoss.options import Dense, KvCacheDtype, Precision, check_modes

# Pages of the full-attention layers' KV cache.
_PAGE_TOKENS = 64

_DENSE_MATRICES = tuple(
    f"{name}.weight" for name in ("q_proj", "k_proj", "v_proj", "o_proj", "lm_head")
)


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory of one model with one sequence; `str()` gives a table.

    Attributes
    ----------
    name : str
        The checkpoint.
    context_length : int
        Tokens that the KV cache has room for.
    precision : {"auto", "reference"}
        Decides the size of a KV element: 2 or 4 bytes.
    dense : {"bf16", "bf12", "q8"}
        What attention's matrices and the unembedding are held in.
    kv_cache_dtype : {"auto", "int8"}
        "int8": 1 byte for a KV element, and 4 for each token's key and value of each head.
    weights : dict of str to int
        Bytes of the weights, by component. They are mapped from the file, not copied, but for
        dense weights in q8 or bf12; the groups that bf12 keeps whole are not counted.
    kv_bytes : int
        KV cache: all tokens on full-attention layers, a ring on window layers.
    workspace_bytes : int
        Activations of one chunk of the prompt, in float32.
    """

    name: str
    context_length: int
    precision: Precision
    dense: Dense
    kv_cache_dtype: KvCacheDtype
    weights: dict[str, int]
    kv_bytes: int
    workspace_bytes: int

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights."""
        return sum(self.weights.values())

    @property
    def total_bytes(self) -> int:
        """Bytes of weights, KV cache and workspace."""
        return self.weight_bytes + self.kv_bytes + self.workspace_bytes

    def __str__(self) -> str:
        rows = [
            *self.weights.items(),
            ("weights", self.weight_bytes),
            (f"KV cache, {self.context_length:,} tokens", self.kv_bytes),
            ("workspace", self.workspace_bytes),
            ("total", self.total_bytes),
        ]
        width = max(len(label) for label, _ in rows)
        indent = len(self.weights)
        lines = [
            f"{'  ' * (i < indent)}{label:<{width + 2 * (i >= indent)}}  {size / 1e9:>8.3f} GB"
            for i, (label, size) in enumerate(rows)
        ]
        return "\n".join([self.name, *lines])


def estimate_memory(
    path_or_repo: str | os.PathLike[str],
    context_length: int = 8192,
    *,
    precision: Precision = "auto",
    dense: Dense = "bf16",
    kv_cache_dtype: KvCacheDtype = "auto",
    chunk_tokens: int = 512,
    revision: str | None = None,
    local_files_only: bool = False,
) -> MemoryEstimate:
    """Estimate the memory that a model takes, without reading its weights.

    For a Hub id only config.json is fetched: the config gives every tensor's size. A folder is
    validated as `open_checkpoint` does. bfloat16 experts are counted as the MXFP4 that they
    become at load.

    Parameters
    ----------
    path_or_repo : str or path
        As for `open_checkpoint`.
    context_length : int
        Tokens of the one sequence, at most the model's own limit.
    precision : {"auto", "reference"}
        "auto" holds keys and values in 2 bytes each, "reference" in 4.
    dense : {"bf16", "bf12", "q8"}
        As for `load`.
    kv_cache_dtype : {"auto", "int8"}
        As for `load`.
    chunk_tokens : int
        Longest piece of a prompt that is computed at once.
    revision, local_files_only
        As for `open_checkpoint`.

    Returns
    -------
    MemoryEstimate
        In bytes.

    Raises
    ------
    CheckpointError
        As for `open_checkpoint`.
    ValueError
        `context_length` or `chunk_tokens` is out of range, `precision`, `dense` or
        `kv_cache_dtype` unknown, or they do not go together.
    """
    check_modes(precision, dense, kv_cache_dtype)
    folder = local_folder(path_or_repo)
    if folder is None:
        from gptoss.checkpoint import hub  # here, because importing it takes a while

        name = os.fspath(path_or_repo)
        path = hub.fetch_config(name, revision=revision, local_files_only=local_files_only)
        layout, config = parse_config(path)
    else:
        located = locate(folder)
        name, layout, config = located.name, located.layout, located.config
        found = find_tensors(located)
        match_tensors(located, found, bf16_experts=has_bf16_experts(found))
    for what, value, limit in (
        ("context_length", context_length, config.max_position_embeddings),
        ("chunk_tokens", chunk_tokens, config.max_position_embeddings),
    ):
        if not 1 <= value <= limit:
            raise ValueError(f"{what} must be from 1 to {limit}, got {value}")
    weights: dict[str, int] = {}
    for stored in stored_tensors(config, layout):
        for part in stored.parts:
            nbytes = stored.nbytes // stored.shape[0] * part.shape[0]
            if part.name.endswith(_DENSE_MATRICES):
                nbytes = _core.matrix_bytes(dense, *part.shape)
            weights[part.component] = weights.get(part.component, 0) + nbytes
    chunk_tokens = min(chunk_tokens, context_length)
    return MemoryEstimate(
        name=name,
        context_length=context_length,
        precision=precision,
        dense=dense,
        kv_cache_dtype=kv_cache_dtype,
        weights=weights,
        kv_bytes=_kv_bytes(
            config, context_length, chunk_tokens, _kv_row_bytes(config, precision, kv_cache_dtype)
        ),
        workspace_bytes=_workspace_bytes(config, chunk_tokens, precision),
    )


def _kv_row_bytes(config: ModelConfig, precision: Precision, kv_cache_dtype: KvCacheDtype) -> int:
    """Bytes of one head's key, or value, of one token."""
    if kv_cache_dtype == "int8":
        return config.head_dim + 4  # and a float32 scale
    return config.head_dim * (4 if precision == "reference" else 2)


def _kv_bytes(config: ModelConfig, context_length: int, chunk_tokens: int, row_bytes: int) -> int:
    pages = math.ceil(context_length / _PAGE_TOKENS) * _PAGE_TOKENS
    # A ring also holds the running chunk, whose first tokens still see the window before it.
    ring = min(config.sliding_window + chunk_tokens, pages)
    tokens = sum(ring if kind == "sliding_attention" else pages for kind in config.layer_types)
    return 2 * tokens * config.num_key_value_heads * row_bytes


def _workspace_bytes(config: ModelConfig, chunk_tokens: int, precision: Precision) -> int:
    """Bytes of a step's activations, and of small weights that are widened to float32."""

    def expert_row(size: int) -> int:  # an expert's input: float32, or int8 and scales
        return 4 * size if precision == "reference" else math.ceil(size / 128) * 160

    c = config
    q, kv = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    per_token = (
        4 * (3 * c.hidden_size + 2 * q + 2 * kv + c.head_dim + c.num_local_experts)
        + 4 * max(c.hidden_size, q)
        + c.num_experts_per_tok
        * (expert_row(c.hidden_size) + expert_row(c.intermediate_size) + 4 * c.hidden_size)
    )
    expert_biases = c.num_local_experts * (2 * c.intermediate_size + c.hidden_size)
    other_small = 3 * c.hidden_size + q + 2 * kv + c.num_attention_heads + c.num_local_experts
    widened = 4 * c.num_hidden_layers * (expert_biases + other_small)
    return chunk_tokens * per_token + 4 * c.vocab_size + widened
