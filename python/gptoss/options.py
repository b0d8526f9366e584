"""How a model may be loaded: the modes, which of them go together, and the limits of a step."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

Precision = Literal["auto", "reference"]
Dense = Literal["bf16", "bf12", "q8"]
# "auto": the first of them that stays in memory.
DenseOption = Literal["auto", "bf16", "bf12", "q8"]
KvCacheDtype = Literal["auto", "int8"]
# Devices whose memory can be planned.
EstimatedDevice = Literal["cpu", "cuda"]
Experts = Literal["as_stored", "mxfp4"]
Speculative = Literal["ngram"]
# Layers whose experts a GPU leaves to the CPU; "auto": as few as let the rest fit.
CpuExperts = int | Literal["auto"]

# New tokens in a step: long prompts are computed in chunks of this size. Bounds the workspace, and
# how long a running sequence waits for a new one's prompt.
STEP_TOKENS = 512
# Sequences in a step.
MAX_SEQUENCES = 16
# Prompts of a list that are with the engine at a time, for each sequence of a step: those that run,
# and enough waiting ones that it never runs dry while this thread looks at its results.
PROMPTS_PER_SEQUENCE = 4

# Files of the prefix cache: some 250 prompts of 1,000 tokens with gpt-oss-20b.
PREFIX_CACHE_BYTES = 8 * 2**30

MAX_INT = 2**31 - 1  # the core's integers
# What may be asked for instead of the two above; every product of them is one of those integers.
MOST_STEP_TOKENS = 65_536
MOST_SEQUENCES = 4_096


def check_modes(
    precision: Precision,
    dense: DenseOption,
    kv_cache_dtype: KvCacheDtype,
    speculative: Speculative | None = None,
) -> None:
    """Raise ValueError for modes that do not exist, or not together."""
    for name, value, known in (
        ("precision", precision, Precision),
        ("dense", dense, DenseOption),
        ("kv_cache_dtype", kv_cache_dtype, KvCacheDtype),
    ):
        if value not in get_args(known):
            raise ValueError(f"{name} must be one of {get_args(known)}, got {value!r}")
    if precision == "reference" and dense not in ("auto", "bf16"):
        raise ValueError(f"dense={dense!r} does not go with precision='reference'")
    if precision == "reference" and kv_cache_dtype == "int8":
        raise ValueError(
            "kv_cache_dtype='int8' rounds keys and values: it does not go with "
            "precision='reference'"
        )
    if speculative is not None and speculative not in get_args(Speculative):
        raise ValueError(
            f"speculative must be None or one of {get_args(Speculative)}, got {speculative!r}"
        )


def cpu_expert_layers(value: CpuExperts) -> int | None:
    """Check `cpu_experts`; the core's word for "auto" is None."""
    if isinstance(value, str):
        if value != "auto":
            raise ValueError(f'cpu_experts must be "auto" or a number of layers, got {value!r}')
        return None
    return count("cpu_experts", value, MAX_INT, least=0)


def layer_range(begin: int, end: int) -> str:
    """Say which layers lie from `begin` up to, but not including, `end`."""
    return str(begin) if end == begin + 1 else f"{begin} to {end - 1}"


def check_device(device: EstimatedDevice) -> None:
    """Raise ValueError for a device whose memory cannot be planned."""
    if device not in get_args(EstimatedDevice):
        raise ValueError(f"device must be one of {get_args(EstimatedDevice)}, got {device!r}")


def count_or_zero(name: str, value: int | None, limit: int) -> int:
    """Check an optional count from 1 to `limit`; the core's word for None is 0."""
    return 0 if value is None else count(name, value, limit)


def count(name: str, value: int, limit: int, least: int = 1) -> int:
    """Check a count from `least` to `limit`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if not least <= value <= limit:
        raise ValueError(f"{name} must be from {least} to {limit}, got {value}")
    return int(value)
