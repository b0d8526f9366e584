"""How much memory a model needs, from its headers alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gptoss.checkpoint.gguf_model import held_in_q8_0, match_gguf
from gptoss.checkpoint.layout import Layout, stored_tensors
from gptoss.checkpoint.open import (
    Located,
    find_tensors,
    has_bf16_experts,
    local_model,
    match_tensors,
)
from gptoss.checkpoint.resolve import find_model
from gptoss.config import ModelConfig
from gptoss.options import (
    MOST_SEQUENCES,
    STEP_TOKENS,
    CpuExperts,
    Dense,
    EstimatedDevice,
    KvCacheDtype,
    Precision,
    check_device,
    check_modes,
    count,
    cpu_expert_layers,
)

# Those whose form `dense` decides.
DENSE_MATRICES = tuple(
    f"{name}.weight" for name in ("q_proj", "k_proj", "v_proj", "o_proj", "lm_head")
)
# What a model needs does not depend on how much there is.
_ANY_DEVICE = 2**62

Rooms = Sequence[tuple[str, int]]  # devices by name, and bytes to plan with


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory of one model on one device; `str()` gives a table.

    Attributes
    ----------
    name : str
        The checkpoint.
    context_length : int
        Tokens of each sequence that the KV cache has room for.
    precision : {"auto", "reference"}
        Decides the size of a KV element: 2 or 4 bytes.
    dense : {"bf16", "bf12", "q8"}
        What attention's matrices and the unembedding are held in.
    kv_cache_dtype : {"auto", "int8"}
        "int8": 1 byte for a KV element, and 4 for each token's key and value of each head.
    weights : dict of str to int
        Bytes of the weights, by component. They are mapped from the file, not copied, but for
        dense weights in q8 or bf12, and all of a GGUF file but what it has in BF16; the groups
        that bf12 keeps whole are not counted. With "cuda" all lie on the card, and "padding" is
        what they take more there: float32, tiles and the driver's grain.
    kv_bytes : int
        KV cache, in pages of 64 tokens: all tokens on full-attention layers, a ring of pages on
        window layers. With "cuda" all that is allocated, to which those rings belong that steps in
        flight and a further sequence may need.
    workspace_bytes : int
        What a step of one chunk of the prompt needs (activations and logits), and on the CPU the
        small weights that are widened to float32.
    device : {"cpu", "cuda"}
        Whose memory it is.
    max_sequences : int
        Sequences that run together.
    cpu_experts : int
        Of so many layers, the first ones, the experts are in the machine's memory.
    cpu_expert_bytes : int
        What these take there. It counts in no sum.
    """

    name: str
    context_length: int
    precision: Precision
    dense: Dense
    kv_cache_dtype: KvCacheDtype
    weights: dict[str, int]
    kv_bytes: int
    workspace_bytes: int
    device: EstimatedDevice = "cpu"
    max_sequences: int = 1
    cpu_experts: int = 0
    cpu_expert_bytes: int = 0

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights."""
        return sum(self.weights.values())

    @property
    def total_bytes(self) -> int:
        """Bytes of weights, KV cache and workspace."""
        return self.weight_bytes + self.kv_bytes + self.workspace_bytes

    def __str__(self) -> str:
        times = f"{self.max_sequences} x " if self.max_sequences > 1 else ""
        rows = [
            *self.weights.items(),
            ("weights", self.weight_bytes),
            (f"KV cache, {times}{self.context_length:,} tokens", self.kv_bytes),
            ("workspace", self.workspace_bytes),
            ("total", self.total_bytes),
        ]
        if self.cpu_experts:
            rows.append((f"in RAM, experts of {self.cpu_experts} layers", self.cpu_expert_bytes))
        width = max(len(label) for label, _ in rows)
        indent = len(self.weights)
        lines = [
            f"{'  ' * (i < indent)}{label:<{width + 2 * (i >= indent)}}  {size / 1e9:>8.3f} GB"
            for i, (label, size) in enumerate(rows)
        ]
        name = self.name if self.device == "cpu" else f"{self.name} on {self.device}"
        return "\n".join([name, *lines])


def estimate_memory(
    path_or_repo: str | os.PathLike[str],
    context_length: int = 8192,
    *,
    precision: Precision = "auto",
    dense: Dense = "bf16",
    kv_cache_dtype: KvCacheDtype = "auto",
    chunk_tokens: int = STEP_TOKENS,
    device: EstimatedDevice = "cpu",
    max_sequences: int = 1,
    cpu_experts: int = 0,
    revision: str | None = None,
    local_files_only: bool = False,
) -> MemoryEstimate:
    """Estimate the memory that a model takes, without reading its weights.

    For a Hub id only config.json is fetched: the config gives every tensor's size. A folder or GGUF
    file is validated as `open_checkpoint` does. bfloat16 experts are counted as the MXFP4 that they
    become at load.

    Parameters
    ----------
    path_or_repo : str or path
        As for `open_checkpoint`.
    context_length : int
        Tokens of each sequence, at most the model's own limit.
    precision : {"auto", "reference"}
        "auto" holds keys and values in 2 bytes each, "reference" in 4.
    dense : {"bf16", "bf12", "q8"}
        As for `load`.
    kv_cache_dtype : {"auto", "int8"}
        As for `load`.
    chunk_tokens : int
        Longest piece of a prompt that is computed at once: `max_step_tokens` of `load`.
    device : {"cpu", "cuda"}
        "cuda": the card's memory, as `load` plans it before it allocates. No card is needed, nor a
        build with CUDA.
    max_sequences : int
        How many sequences run together, each with `context_length` tokens.
    cpu_experts : int
        As for `load`, with "cuda": of so many layers the experts are not on the card.
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
    BackendError
        The device does not have what is asked for: dense="bf12" with "cuda".
    ValueError
        `context_length`, `chunk_tokens` or `max_sequences` is out of range, `precision`, `dense`,
        `kv_cache_dtype` or `device` unknown, or they do not go together; `cpu_experts` is more
        than there are layers, or goes with "cpu".

    Notes
    -----
    `load` with device="cuda" takes what is counted here with the same `context_length` and
    `max_sequences`, and `max_step_tokens=chunk_tokens`, if `kv_cache_memory` has room for all
    sequences; without `kv_cache_memory` the cache has room for up to two of full length.
    """
    check_modes(precision, dense, kv_cache_dtype)
    located = find_model(path_or_repo, revision=revision, local_files_only=local_files_only)
    q8_0 = matrices_in_q8_0(located)
    if located.gguf is None and local_model(path_or_repo) is not None:
        found = find_tensors(located)
        match_tensors(located, found, bf16_experts=has_bf16_experts(found))
    return estimate_config(
        located.name,
        located.config,
        context_length,
        precision=precision,
        dense=dense,
        kv_cache_dtype=kv_cache_dtype,
        chunk_tokens=chunk_tokens,
        device=device,
        max_sequences=max_sequences,
        cpu_experts=cpu_experts,
        layout=located.layout,
        q8_0=q8_0,
    )


def matrices_in_q8_0(located: Located) -> frozenset[str]:
    """Names of a GGUF file's matrices that stay in Q8_0; raises CheckpointError as loading does."""
    if located.gguf is None:
        return frozenset()
    return held_in_q8_0(match_gguf(located.gguf, located.config))


def estimate_config(
    name: str,
    config: ModelConfig,
    context_length: int,
    *,
    precision: Precision = "auto",
    dense: Dense = "bf16",
    kv_cache_dtype: KvCacheDtype = "auto",
    chunk_tokens: int = STEP_TOKENS,
    device: EstimatedDevice = "cpu",
    max_sequences: int = 1,
    cpu_experts: int = 0,
    layout: Layout = "hf",
    q8_0: frozenset[str] = frozenset(),
) -> MemoryEstimate:
    """Estimate as `estimate_memory` does, from the config alone, and the matrices held in Q8_0."""
    from gptoss import _core  # here, because reading a checkpoint does without it

    check_device(device)
    for what, value, limit in (
        ("context_length", context_length, config.max_position_embeddings),
        ("chunk_tokens", chunk_tokens, config.max_position_embeddings),
        ("max_sequences", max_sequences, MOST_SEQUENCES),
    ):
        if not 1 <= value <= limit:
            raise ValueError(f"{what} must be from 1 to {limit}, got {value}")
    n_cpu_experts = count("cpu_experts", cpu_experts, config.num_hidden_layers, least=0)
    if n_cpu_experts and device == "cpu":
        raise ValueError(f'cpu_experts={cpu_experts} goes with device="cuda" only')
    on_cpu = tuple(f"layers.{layer}.experts." for layer in range(n_cpu_experts))
    cpu_expert_bytes = 0
    weights: dict[str, int] = {}
    encoded = 0  # of them, held in another format than they are stored in
    in_q8_0 = []
    for stored in stored_tensors(config, layout):
        for part in stored.parts:
            nbytes = stored.nbytes // stored.shape[0] * part.shape[0]
            if part.name.endswith(DENSE_MATRICES):
                nbytes = _core.matrix_bytes(dense, *part.shape)
                encoded += nbytes if dense != "bf16" else 0
            if part.name in q8_0:
                nbytes = _core.matrix_bytes("q8_0", *part.shape)
                in_q8_0.append(part.role)
            if part.role.startswith(on_cpu):
                cpu_expert_bytes += nbytes
                continue
            weights[part.component] = weights.get(part.component, 0) + nbytes
    plan = _plan(
        config,
        context_length,
        precision=precision,
        dense=dense,
        kv_cache_dtype=kv_cache_dtype,
        # A card's workspace is allocated for what a step may have.
        chunk_tokens=min(chunk_tokens, context_length) if device == "cpu" else chunk_tokens,
        device=device,
        max_sequences=max_sequences,
        q8_0=in_q8_0,
        rooms=[(device, _ANY_DEVICE)],
        cpu_experts=n_cpu_experts,
    )
    workspace: int = plan["workspace"]
    if device == "cpu":
        # Of what is allocated for weights, the table has the matrices.
        workspace += plan["weights"] - encoded
    else:
        weights["padding"] = plan["weights"] - sum(weights.values())
    return MemoryEstimate(
        name=name,
        context_length=context_length,
        precision=precision,
        dense=dense,
        kv_cache_dtype=kv_cache_dtype,
        weights=weights,
        kv_bytes=plan["kv_cache"],
        workspace_bytes=workspace,
        device=device,
        max_sequences=max_sequences,
        cpu_experts=n_cpu_experts,
        cpu_expert_bytes=cpu_expert_bytes,
    )


def card_rooms(memory: Sequence[int]) -> Rooms:
    """Cards, and how many bytes of each `load` plans with.

    Parameters
    ----------
    memory : sequence of int
        Bytes of each card. If it is empty, those that are here are asked, once: a context is opened
        on each for that.

    Raises
    ------
    BackendError
        None is here.
    """
    from gptoss import _core  # here, because reading a checkpoint does without it

    return _core.device_rooms("cuda", memory)


@dataclass(frozen=True)
class Placement:
    """How `load` would place a model on cards.

    Attributes
    ----------
    fits : bool
        Whether there is room.
    context_length : int
        Tokens of each sequence.
    devices : int
        Cards that have layers.
    cpu_experts : int
        Layers whose experts are in the machine's memory.
    """

    fits: bool
    context_length: int
    devices: int
    cpu_experts: int


def place(
    config: ModelConfig,
    context_length: int | None,
    *,
    precision: Precision,
    dense: Dense,
    kv_cache_dtype: KvCacheDtype,
    max_sequences: int,
    rooms: Rooms,
    cpu_experts: CpuExperts = "auto",
    q8_0: frozenset[str] = frozenset(),
) -> Placement:
    """What `load` does on these cards.

    Parameters
    ----------
    context_length : int, optional
        All sequences have so many tokens. None: what `load` chooses, for those that share pages.
    rooms : sequence of (name, bytes)
        As `card_rooms` has them.

    Raises
    ------
    MemoryError
        `context_length` is None, and nothing fits, as `load` would say it.
    """
    names = {
        part.name: part.role for stored in stored_tensors(config, "hf") for part in stored.parts
    }
    plan = _plan(
        config,
        context_length or 0,
        precision=precision,
        dense=dense,
        kv_cache_dtype=kv_cache_dtype,
        chunk_tokens=STEP_TOKENS,
        device="cuda",
        max_sequences=max_sequences,
        q8_0=[names[name] for name in q8_0],
        rooms=rooms,
        cpu_experts=cpu_expert_layers(cpu_experts),
    )
    return Placement(
        fits=all(part["kv_cache"] <= part["available"] for part in plan["shares"] or [plan]),
        context_length=plan["context_length"],
        devices=max(1, len(plan["shares"])),
        cpu_experts=plan["cpu_experts"],
    )


def _plan(
    config: ModelConfig,
    context_length: int,
    *,
    precision: Precision,
    dense: Dense,
    kv_cache_dtype: KvCacheDtype,
    chunk_tokens: int,
    device: EstimatedDevice,
    max_sequences: int,
    q8_0: Sequence[str],
    rooms: Rooms,
    cpu_experts: int | None,
) -> dict[str, Any]:
    from gptoss import _core  # here, because reading a checkpoint does without it

    return _core.plan_memory(
        config,
        device=device,
        threads=0,
        precision=precision,
        dense=dense,
        kv_cache_dtype=kv_cache_dtype,
        context_length=context_length,
        max_step_tokens=chunk_tokens,
        max_sequences=max_sequences,
        q8_0=q8_0,
        rooms=rooms,
        cpu_experts=cpu_experts,
    )
