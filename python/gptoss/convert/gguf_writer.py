"""A checkpoint as a GGUF file, for llama.cpp and what is built on it.

The experts keep their MXFP4 values bit for bit; the dense matrices stay bfloat16 or become Q8_0.
Names, types and metadata are those that llama.cpp's own converter gives to these models.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from rich.progress import Progress

from gptoss.checkpoint import Checkpoint
from gptoss.checkpoint.gguf_model import (
    ARCHITECTURE,
    CONTROL,
    NORMAL,
    PRE_TOKENIZER,
    PRE_TOKENIZER_PATTERN,
    SWIGLU_LIMIT,
    UNUSED,
    USER_DEFINED,
)
from gptoss.checkpoint.layout import stored_tensors
from gptoss.config import ModelConfig
from gptoss.convert.resumable import OutputFile, Unit
from gptoss.convert.source import Source

GgufDense = Literal["bf16", "q8_0"]

_ALIGNMENT = 32
_BLOCK = 32  # elements of a Q8_0 or MXFP4 block


class GgmlType(IntEnum):
    """Element types, by their number in the file."""

    F32 = 0
    Q8_0 = 8
    BF16 = 30
    MXFP4 = 39


# Bytes of a row of 32 elements.
_BLOCK_BYTES = {GgmlType.F32: 128, GgmlType.Q8_0: 34, GgmlType.BF16: 64, GgmlType.MXFP4: 17}


@dataclass(frozen=True)
class _Tensor:
    """A tensor of the file: row-major shape, and its bytes."""

    name: str
    type: GgmlType
    shape: tuple[int, ...]
    units: list[Unit]

    @property
    def nbytes(self) -> int:
        return _nbytes(self.type, self.shape)


def _nbytes(type: GgmlType, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * _BLOCK_BYTES[type] // _BLOCK


def write_gguf(
    checkpoint: Checkpoint, path: Path, *, dense: GgufDense = "bf16", progress: bool = False
) -> int:
    """Write a checkpoint's tensors, config and tokenizer into one GGUF file.

    Parameters
    ----------
    checkpoint : Checkpoint
        Of either layout, as `open_checkpoint` returned it.
    path : Path
        The file. It appears under this name when it is whole.
    dense : {"bf16", "q8_0"}
        Type of the embedding, the attention's matrices and the unembedding. Norms, biases,
        sinks and the router are F32, as llama.cpp wants them.
    progress : bool
        Show a progress bar.

    Returns
    -------
    int
        Bytes of the file.

    Raises
    ------
    ValueError
        llama.cpp cannot run such a config: it has the pattern of the layers, starting with a
        window, and the SwiGLU limit of 7 as constants; or the checkpoint is GGUF itself.
    """
    file = gguf_file(Source.of_checkpoint(checkpoint), path.name, dense)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as out, Progress(disable=not progress) as bars:
            task = bars.add_task(path.name, total=file.nbytes)
            out.write(file.header)
            for unit in file.units:
                for piece in unit.pieces():
                    out.write(piece.data)
                    bars.advance(task, piece.nbytes)
        assert partial.stat().st_size == file.nbytes
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path.stat().st_size


def gguf_file(source: Source, name: str, dense: GgufDense) -> OutputFile:
    """Describe the file; raises ValueError as `write_gguf` does."""
    tensors = list(_tensors(source, GgmlType.Q8_0 if dense == "q8_0" else GgmlType.BF16))
    metadata = _config_metadata(source) | _tokenizer_metadata(source)
    units = []
    for tensor in tensors:
        units += tensor.units
        padding = -tensor.nbytes % _ALIGNMENT
        if padding:
            units.append(Unit(padding, lambda n=padding: iter([np.zeros(n, np.uint8)])))  # type: ignore[misc]
    return OutputFile(name, _header(metadata, tensors), units)


def repack_mxfp4(
    blocks: npt.NDArray[np.uint8], scales: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    """Turn MXFP4 blocks of a checkpoint into those of ggml, without loss.

    Parameters
    ----------
    blocks : numpy.ndarray
        (..., K/32, 16) uint8; byte i holds element 2i in its low nibble, 2i+1 in its high one.
    scales : numpy.ndarray
        (..., K/32) uint8, E8M0.

    Returns
    -------
    numpy.ndarray
        (..., K/32, 17) uint8: the scale, then 16 bytes, of which byte i holds element i in its
        low nibble and i + 16 in its high one. ggml's table of values is twice that of the format
        and its scale half, so that codes and scale bytes stay what they are.
    """
    first, second = blocks[..., :8], blocks[..., 8:]  # elements 0 to 15, and 16 to 31
    result = np.empty((*scales.shape, 17), np.uint8)
    result[..., 0] = scales
    result[..., 1::2] = first & 15 | second << 4
    result[..., 2::2] = first >> 4 | second & 0xF0
    return result


def quantize_q8_0(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Quantise to Q8_0, rounding as ggml does.

    Parameters
    ----------
    values : numpy.ndarray
        (..., K) float32, K a multiple of 32.

    Returns
    -------
    numpy.ndarray
        (..., K/32, 34) uint8: the scale in float16, then 32 int8, rounded half away from zero.
    """
    groups = values.reshape(*values.shape[:-1], -1, _BLOCK)
    scale = np.abs(groups).max(axis=-1, keepdims=True) / np.float32(127)
    # The quotient is taken with the scale before it is rounded to float16.
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
    scaled = groups * inverse
    whole = np.trunc(scaled)
    rounded = whole + np.copysign(np.abs(scaled - whole) >= np.float32(0.5), scaled)
    result = np.empty((*groups.shape[:-1], 34), np.uint8)
    result[..., :2] = scale.astype("<f2").view(np.uint8)
    result[..., 2:] = rounded.astype(np.int8).view(np.uint8)
    return result


def _tensors(source: Source, dense: GgmlType) -> Iterator[_Tensor]:
    shapes = {
        part.name: part.shape
        for stored in stored_tensors(source.config, "hf")
        for part in stored.parts
    }

    def matrix(name: str, hf_name: str) -> _Tensor:
        return _dense(name, source, f"{hf_name}.weight", shapes[f"{hf_name}.weight"], dense)

    def f32(name: str, hf_name: str, last_axis: slice = slice(None)) -> _Tensor:
        return _dense(name, source, hf_name, shapes[hf_name], GgmlType.F32, last_axis)

    yield matrix("token_embd.weight", "model.embed_tokens")
    yield f32("output_norm.weight", "model.norm.weight")
    yield matrix("output.weight", "lm_head")
    for layer in range(source.config.num_hidden_layers):
        block, hf = f"blk.{layer}", f"model.layers.{layer}"
        attention, experts = f"{hf}.self_attn", f"{hf}.mlp.experts"
        yield f32(f"{block}.attn_norm.weight", f"{hf}.input_layernorm.weight")
        for name, letter in (("q", "q"), ("k", "k"), ("v", "v"), ("output", "o")):
            yield matrix(f"{block}.attn_{name}.weight", f"{attention}.{letter}_proj")
            yield f32(f"{block}.attn_{name}.bias", f"{attention}.{letter}_proj.bias")
        yield f32(f"{block}.attn_sinks.weight", f"{attention}.sinks")
        yield f32(f"{block}.post_attention_norm.weight", f"{hf}.post_attention_layernorm.weight")
        for kind in ("weight", "bias"):
            yield f32(f"{block}.ffn_gate_inp.{kind}", f"{hf}.mlp.router.{kind}")
        # Gate and up are every other row of one matrix.
        for name, hf_name, rows in (
            ("gate", "gate_up_proj", slice(0, None, 2)),
            ("up", "gate_up_proj", slice(1, None, 2)),
            ("down", "down_proj", slice(None)),
        ):
            stem = f"{experts}.{hf_name}"
            weights = f"{block}.ffn_{name}_exps.weight"
            yield _mxfp4(weights, source, stem, shapes[f"{stem}_scales"], rows)
            yield f32(f"{block}.ffn_{name}_exps.bias", f"{stem}_bias", rows)


def _dense(
    name: str,
    source: Source,
    hf_name: str,
    shape: tuple[int, ...],
    type: GgmlType,
    last_axis: slice = slice(None),
) -> _Tensor:
    """Take a bfloat16 tensor, or some elements of each of its rows."""
    columns = len(range(*last_axis.indices(shape[-1])))

    def pieces() -> Iterator[npt.NDArray[Any]]:
        for bits in source.bf16(hf_name):
            chunk = np.ascontiguousarray(bits.reshape(-1, shape[-1])[:, last_axis])
            if type is GgmlType.BF16:
                yield chunk
                continue
            values = (chunk.astype(np.uint32) << 16).view(np.float32)
            yield quantize_q8_0(values) if type is GgmlType.Q8_0 else values

    own_shape = (*shape[:-1], columns)
    return _Tensor(name, type, own_shape, [Unit(_nbytes(type, own_shape), pieces)])


def _mxfp4(
    name: str, source: Source, stem: str, scales_shape: tuple[int, ...], rows: slice
) -> _Tensor:
    experts, all_rows, groups = scales_shape
    shape = (experts, len(range(*rows.indices(all_rows))), groups * _BLOCK)

    def unit(expert: int) -> Unit:
        def pieces() -> Iterator[npt.NDArray[np.uint8]]:
            blocks, scales = source.expert_mxfp4(stem, expert)
            yield repack_mxfp4(blocks[rows], scales[rows])

        return Unit(_nbytes(GgmlType.MXFP4, shape) // experts, pieces)

    return _Tensor(name, GgmlType.MXFP4, shape, [unit(expert) for expert in range(experts)])


def _config_metadata(source: Source) -> dict[str, Any]:
    config = source.config
    _check_supported(config)
    rope = config.rope
    fields: dict[str, Any] = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "expert_feed_forward_length": config.intermediate_size,
        "expert_count": config.num_local_experts,
        "expert_used_count": config.num_experts_per_tok,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "attention.sliding_window": config.sliding_window,
        "rope.freq_base": rope.theta,
        "vocab_size": config.vocab_size,
    }
    if rope.factor > 1:
        fields |= {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": rope.factor,
            "rope.scaling.original_context_length": rope.original_context_length,
            "rope.scaling.yarn_beta_fast": rope.beta_fast,
            "rope.scaling.yarn_beta_slow": rope.beta_slow,
        }
    return {
        "general.architecture": ARCHITECTURE,
        "general.name": source.name,
        **{f"{ARCHITECTURE}.{name}": value for name, value in fields.items()},
    }


def _check_supported(config: ModelConfig) -> None:
    pattern = ("sliding_attention", "full_attention")
    if any(kind != pattern[i % 2] for i, kind in enumerate(config.layer_types)):
        raise ValueError("llama.cpp needs layers that alternate, starting with a window")
    if config.swiglu_limit != SWIGLU_LIMIT:
        raise ValueError(
            f"llama.cpp needs a swiglu_limit of {SWIGLU_LIMIT}, got {config.swiglu_limit}"
        )


def _tokenizer_metadata(source: Source) -> dict[str, Any]:
    """The tokenizer; whole as well where its pattern is not the one that llama.cpp has."""
    file = source.tokenizer_json
    if file is None:
        return {"tokenizer.ggml.model": "none"}
    tokenizer = json.loads(file.text)
    size = source.config.vocab_size
    tokens = [f"[PAD{i}]" for i in range(size)]
    types = np.full(size, UNUSED, np.int32)
    for text, token_id in tokenizer["model"]["vocab"].items():
        tokens[token_id], types[token_id] = text, NORMAL
    for added in file.added:
        tokens[added.id] = added.content
        types[added.id] = CONTROL if added.special else USER_DEFINED
    merges = tokenizer["model"]["merges"]
    fields = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": PRE_TOKENIZER,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [m if isinstance(m, str) else " ".join(m) for m in merges],
        "tokenizer.ggml.eos_token_id": source.config.eos_token_ids[0],
    }
    if json.dumps(PRE_TOKENIZER_PATTERN) not in json.dumps(tokenizer.get("pre_tokenizer")):
        fields["tokenizer.huggingface.json"] = file.text
    return fields


def _header(metadata: dict[str, Any], tensors: list[_Tensor]) -> bytes:
    head = [b"GGUF", _u32(3), _u64(len(tensors)), _u64(len(metadata))]
    for key, value in metadata.items():
        head.append(_text(key) + _value(value))
    offset = 0
    for tensor in tensors:
        dimensions = b"".join(_u64(n) for n in reversed(tensor.shape))
        head.append(_text(tensor.name) + _u32(len(tensor.shape)) + dimensions)
        head.append(_u32(tensor.type) + _u64(offset))
        offset += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
    whole = b"".join(head)
    return whole + bytes(-len(whole) % _ALIGNMENT)


def _value(value: Any) -> bytes:
    """Return a metadata value after its type: uint32, float32, string, or an array."""
    match value:
        case int():
            return _u32(4) + _u32(value)
        case float():
            return _u32(6) + np.float32(value).tobytes()
        case str():
            return _u32(8) + _text(value)
        case list():
            return _u32(9) + _u32(8) + _u64(len(value)) + b"".join(map(_text, value))
        case np.ndarray(dtype=np.int32):
            return _u32(9) + _u32(5) + _u64(len(value)) + value.tobytes()
    raise TypeError(f"no GGUF type for {value!r}")


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def _u64(value: int) -> bytes:
    return value.to_bytes(8, "little")


def _text(value: str) -> bytes:
    data = value.encode()
    return _u64(len(data)) + data
