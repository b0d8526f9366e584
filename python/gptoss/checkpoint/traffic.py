"""How many bytes a decoding step reads: with memory's speed, the bound of tokens per second."""

from __future__ import annotations

from collections.abc import Collection

from gptoss import _core
from gptoss.checkpoint.layout import stored_tensors
from gptoss.checkpoint.memory import DENSE_MATRICES
from gptoss.config import ModelConfig
from gptoss.options import Dense, KvCacheDtype, Precision


def decode_bytes(
    config: ModelConfig,
    *,
    precision: Precision = "auto",
    dense: Dense = "bf16",
    kv_cache_dtype: KvCacheDtype = "auto",
    depth: int = 0,
    sequences: int = 1,
    q8_0: Collection[str] = (),
) -> float:
    """Bytes that a step reads to decode one token of each of some sequences.

    Parameters
    ----------
    config : ModelConfig
        The model.
    precision, dense, kv_cache_dtype
        As for `load`.
    depth : int
        Tokens before it in each sequence.
    sequences : int
        How many are decoded together. The experts that any of them needs are read once; the
        number of these is an expectation, with each expert as likely as the others.
    q8_0 : collection of str
        Matrices that a GGUF file has in Q8_0, by their canonical names.

    Returns
    -------
    float
        Weights, keys and values. Activations stay in the caches of the processor.
    """
    c = config
    active = c.num_experts_per_tok / c.num_local_experts
    experts = 1 - (1 - active) ** sequences
    weights = 0.0
    for stored in stored_tensors(c, "hf"):
        (part,) = stored.parts
        nbytes: float = stored.nbytes
        if part.name in q8_0:
            nbytes = _core.matrix_bytes("q8_0", *part.shape)
        elif part.name.endswith(DENSE_MATRICES):
            nbytes = _core.matrix_bytes(dense, *part.shape)
        if part.component == "embedding":
            nbytes = sequences * nbytes / c.vocab_size
        elif part.component.startswith("expert"):
            nbytes *= experts
        weights += nbytes
    if kv_cache_dtype == "int8":
        head_bytes = c.head_dim + 4  # and a float32 scale
    else:
        head_bytes = c.head_dim * (4 if precision == "reference" else 2)
    row = 2 * c.num_key_value_heads * head_bytes
    seen = sum(
        min(depth, c.sliding_window) if kind == "sliding_attention" else depth
        for kind in c.layer_types
    )
    return weights + sequences * row * seen
