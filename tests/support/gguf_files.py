"""GGUF files for tests, written independently of the package, and means to damage them."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from gptoss.checkpoint import Checkpoint
from gptoss.reference import bf16
from gptoss.reference.mxfp4 import dequantize

TYPES = {"F32": 0, "F16": 1, "Q4_K": 12, "Q8_0": 8, "BF16": 30, "MXFP4": 39}

# A tensor: its type, its row-major shape, its bytes.
Tensor = tuple[str, tuple[int, ...], bytes]


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def field(value: Any) -> bytes:
    """A value after its type: bool, uint32, float32, string, or an array of strings or int32."""
    match value:
        case bool():
            return struct.pack("<IB", 7, value)
        case int():
            return struct.pack("<Ii" if value < 0 else "<II", 5 if value < 0 else 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", 8) + text(value)
        case bytes():  # as it is
            return value
        case [bool(), *_]:
            return struct.pack("<IIQ", 9, 7, len(value)) + bytes(value)
        case [str(), *_]:
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
        case list():
            return struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)
    raise TypeError(value)


def write(
    path: Path,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    alignment: int = 32,
    magic: bytes = b"GGUF\x03\x00\x00\x00",
) -> Path:
    """Write a file of version 3."""
    head = magic + struct.pack("<QQ", len(tensors), len(metadata))
    for key, value in metadata.items():
        head += text(key) + field(value)
    offset = 0
    for name, (kind, shape, data) in tensors.items():
        head += text(name) + struct.pack("<I", len(shape))
        head += b"".join(struct.pack("<Q", n) for n in reversed(shape))
        head += struct.pack("<IQ", TYPES[kind], offset)
        offset += -(-len(data) // alignment) * alignment
    head += bytes(-len(head) % alignment)
    body = b"".join(data + bytes(-len(data) % alignment) for _, _, data in tensors.values())
    path.write_bytes(head + body)
    return path


def metadata_of(checkpoint: Checkpoint, **changes: Any) -> dict[str, Any]:
    """What llama.cpp's converter writes; a change to None leaves a field out."""
    c = checkpoint.config
    fields: dict[str, Any] = {
        "general.architecture": "gpt-oss",
        "general.name": "made",
        "gpt-oss.block_count": c.num_hidden_layers,
        "gpt-oss.context_length": c.max_position_embeddings,
        "gpt-oss.embedding_length": c.hidden_size,
        "gpt-oss.feed_forward_length": c.intermediate_size,
        "gpt-oss.attention.head_count": c.num_attention_heads,
        "gpt-oss.attention.head_count_kv": c.num_key_value_heads,
        "gpt-oss.rope.freq_base": c.rope.theta,
        "gpt-oss.attention.layer_norm_rms_epsilon": c.rms_norm_eps,
        "gpt-oss.expert_count": c.num_local_experts,
        "gpt-oss.expert_used_count": c.num_experts_per_tok,
        "gpt-oss.attention.key_length": c.head_dim,
        "gpt-oss.attention.value_length": c.head_dim,
        "gpt-oss.attention.sliding_window": c.sliding_window,
        "gpt-oss.expert_feed_forward_length": c.intermediate_size,
        "gpt-oss.rope.scaling.type": "yarn",
        "gpt-oss.rope.scaling.factor": c.rope.factor,
        "gpt-oss.rope.scaling.original_context_length": c.rope.original_context_length,
        "tokenizer.ggml.model": "none",
    }
    fields |= changes
    return {key: value for key, value in fields.items() if value is not None}


def encode(values: npt.NDArray[np.float64], kind: str) -> bytes:
    """Numbers in a type; Q8_0 and MXFP4 as one by one as their definitions say."""
    match kind:
        case "F32":
            return values.astype("<f4").tobytes()
        case "F16":
            return values.astype("<f2").tobytes()
        case "BF16":
            return values.astype(ml_dtypes.bfloat16).tobytes()
        case "Q8_0":
            data = b""
            for block in values.reshape(-1, 32):
                scale = np.float16(np.abs(block).max() / 127)
                codes = np.rint(block / scale) if scale else np.zeros(32)
                data += scale.tobytes() + codes.clip(-127, 127).astype(np.int8).tobytes()
            return data
    raise ValueError(kind)


def ggml_mxfp4(blocks: npt.NDArray[np.uint8], scales: npt.NDArray[np.uint8]) -> bytes:
    """Blocks of a checkpoint in ggml's order, code by code."""
    data = bytearray()
    for block, scale in zip(blocks.reshape(-1, 16), scales.reshape(-1), strict=True):
        codes = [nibble for byte in block.tolist() for nibble in (byte & 15, byte >> 4)]
        data += bytes([int(scale), *(codes[i] | codes[i + 16] << 4 for i in range(16))])
    return bytes(data)


def tensors_of(
    checkpoint: Checkpoint, dense: str = "BF16", small: str = "F32", experts: str = "MXFP4"
) -> dict[str, Tensor]:
    """A checkpoint's tensors under llama.cpp's names, in these types."""
    found: dict[str, Tensor] = {}

    def put(name: str, values: npt.NDArray[np.float64], kind: str) -> None:
        found[name] = (kind, values.shape, encode(values, kind))

    names = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "post_attention_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "self_attn.sinks": "attn_sinks",
        "mlp.router": "ffn_gate_inp",
    }
    for name, source in checkpoint.tensors.items():
        layer = name.split(".")[2] if name.startswith("model.layers.") else None
        block = "" if layer is None else f"blk.{layer}."
        stem = name.removeprefix(f"model.layers.{layer}.")
        if ".experts." not in name:
            stem, kind = stem.rsplit(".", 1) if not stem.endswith("sinks") else (stem, "weight")
            matrix = len(source.shape) == 2 and "router" not in name
            put(
                f"{block}{names[stem]}.{kind}",
                bf16.from_bits(source.read()),
                dense if matrix else small,
            )
            continue
        if name.endswith("_scales"):
            continue
        matrix_name, _, kind = stem.removeprefix("mlp.experts.").rpartition("_proj_")
        halves = (
            (("gate", np.s_[:, 0::2]), ("up", np.s_[:, 1::2]))
            if matrix_name == "gate_up"
            else (("down", np.s_[:]),)
        )
        for own, rows in halves:
            if kind == "bias":
                put(f"{block}ffn_{own}_exps.bias", bf16.from_bits(source.read())[rows], small)
                continue
            blocks = source.read()[rows]
            scales = checkpoint.tensors[name.replace("_blocks", "_scales")].read()[rows]
            full = f"{block}ffn_{own}_exps.weight"
            if experts == "MXFP4":
                shape = (*scales.shape[:-1], 32 * scales.shape[-1])
                found[full] = ("MXFP4", shape, ggml_mxfp4(blocks, scales))
            else:
                put(full, dequantize(blocks, scales), experts)
    return found
