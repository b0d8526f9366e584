"""Small checkpoints for tests, and means to damage them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

import make_checkpoint as script
from make_checkpoint import PRESETS, alternating, make_checkpoint

__all__ = [
    "MICRO",
    "PRESETS",
    "alternating",
    "edit_header",
    "edit_json",
    "make_checkpoint",
    "recast",
    "script",
    "write_header",
]

# 93 kB: two layers, every dimension different from the others where it may be.
MICRO = dataclasses.replace(
    PRESETS["tiny"],
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=16,
    vocab_size=288,
    num_local_experts=3,
    num_experts_per_tok=2,
    sliding_window=5,
    layer_types=alternating(2),
)


def edit_json(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON file's object in place."""
    value = json.loads(path.read_text(encoding="utf-8"))
    edit(value)
    path.write_text(json.dumps(value))


def edit_header(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change the header of a safetensors file in place; the data stays as it is."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    edit(header)
    write_header(path, json.dumps(header).encode(), content[end:])


def write_header(path: Path, header: bytes, data: bytes) -> None:
    """Write a safetensors file from the text of its header and its data."""
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


_DTYPES = {"BF16": ml_dtypes.bfloat16, "F16": np.float16, "F32": np.float32, "F64": np.float64}


def recast(
    path: Path,
    choose: Callable[[str], str],
    change: Callable[[str, npt.NDArray[np.float32]], object] = lambda name, values: None,
) -> None:
    """Write a safetensors file anew, its bfloat16 tensors in the dtypes that `choose` gives.

    `change` may edit a tensor's values before that, in float32.
    """
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    data = bytearray()
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, stop = (end + offset for offset in entry["data_offsets"])
        piece = content[begin:stop]
        if entry["dtype"] == "BF16":
            values = np.frombuffer(piece, ml_dtypes.bfloat16).astype(np.float32)
            values = values.reshape(entry["shape"])
            change(name, values)
            entry["dtype"] = choose(name)
            piece = values.astype(_DTYPES[entry["dtype"]]).tobytes()
        entry["data_offsets"] = [len(data), len(data) + len(piece)]
        data += piece
    write_header(path, json.dumps(header).encode(), bytes(data))
