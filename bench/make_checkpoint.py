"""Write a gpt-oss checkpoint with random weights, for tests and benchmarks.

    python bench/make_checkpoint.py --preset tiny OUT
    python bench/make_checkpoint.py --preset 20b --layers 4 --layout original OUT

The files are as those that OpenAI published: same names, dtypes and shapes, MXFP4 experts,
shards with an index. The numbers are random but of plausible size: normed activations, attention
scores, router logits and expert outputs are of order 1, logits spread by about 3. Both layouts
hold the same weights for the same seed, and the bytes depend on nothing but the arguments.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import shutil
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, get_args

import numpy as np
import numpy.typing as npt
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from gptoss.checkpoint.layout import MXFP4_BLOCK_SIZE, Layout, Part, Stored, stored_tensors
from gptoss.config import ModelConfig
from gptoss.convert.safetensors_writer import (
    SHARD_BYTES,
    hf_fields,
    safetensors_header,
    shards_of,
)
from gptoss.published import GPT_OSS_20B, GPT_OSS_120B, alternating
from gptoss.reference.mxfp4 import FP4_VALUES, dequantize

# Bounds the memory for making weights: some copies of one chunk.
_CHUNK_BYTES = 1 << 24

# The published ids of the special tokens, counted from the first.
SPECIAL_TOKENS = {
    "<|startoftext|>": 0,
    "<|endoftext|>": 1,
    "<|return|>": 4,
    "<|constrain|>": 5,
    "<|channel|>": 7,
    "<|start|>": 8,
    "<|end|>": 9,
    "<|message|>": 10,
    "<|call|>": 14,
    "<|endofprompt|>": 20,
}
FIRST_SPECIAL_ID = 199_998
_BYTES = 256
_SCALE_BIAS = 127


PRESETS = {
    "tiny": dataclasses.replace(
        GPT_OSS_20B,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=512,
        num_local_experts=8,
        num_experts_per_tok=2,
        sliding_window=16,
        layer_types=alternating(4),
    ),
    "20b": GPT_OSS_20B,
    "120b": GPT_OSS_120B,
}


def make_checkpoint(
    out: Path,
    config: ModelConfig,
    *,
    layout: Layout = "hf",
    seed: int = 0,
    bf16_experts: bool = False,
    shard_bytes: int = SHARD_BYTES,
    tokenizer: Path | None = None,
    progress: bool = False,
) -> int:
    """Write a checkpoint folder.

    Parameters
    ----------
    out : Path
        The folder, made if need be. With layout "original" the tokenizer lies in it and the
        weights in its `original/`, as on the Hub.
    config : ModelConfig
        Dimensions and constants.
    layout : {"hf", "original"}
        Which of the two published layouts.
    seed : int
        Chooses the weights.
    bf16_experts : bool
        Write the experts dequantised, as [E, in, out] (layout "hf" only). The values are those
        that the MXFP4 checkpoint of the same seed has.
    shard_bytes : int
        Most tensor bytes in a file of layout "hf"; a tensor above it gets a file of its own.
    tokenizer : Path, optional
        A tokenizer.json to copy; else one of bytes and special tokens is made, if the
        vocabulary has room for it.
    progress : bool
        Show a progress bar.

    Returns
    -------
    int
        Bytes of all tensors.

    Raises
    ------
    ValueError
        The original layout cannot express the config or bfloat16 experts.
    """
    if layout == "original" and (bf16_experts or not _is_original(config)):
        raise ValueError(
            "the original layout has MXFP4 experts, layers that alternate from a window on, "
            "rms_norm_eps 1e-5, truncate false, and a context of the first one times the factor"
        )
    tensors = list(stored_tensors(config, layout, bf16_experts=bf16_experts))
    total = sum(tensor.nbytes for tensor in tensors)
    folder = out / "original" if layout == "original" else out
    folder.mkdir(parents=True, exist_ok=True)
    shards = shards_of(tensors, shard_bytes if layout == "hf" else total)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not progress) as bars:
        task = bars.add_task("Writing", total=total)
        for file_name, shard in shards.items():
            with (folder / file_name).open("wb") as file:
                write_safetensors_header(file, shard)
                for tensor in shard:
                    for chunk in _contents(tensor, seed):
                        file.write(chunk.data)
                        bars.advance(task, chunk.nbytes)
    if layout == "original":
        _write_json(folder / "config.json", original_config(config))
    else:
        _write_json(folder / "config.json", hf_config(config, bf16_experts=bf16_experts))
        if len(shards) > 1:
            weight_map = {tensor.name: name for name, shard in shards.items() for tensor in shard}
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            _write_json(folder / "model.safetensors.index.json", index)
    _write_tokenizer(out, config.vocab_size, tokenizer)
    return total


def hf_config(config: ModelConfig, *, bf16_experts: bool = False) -> dict[str, Any]:
    """Return the config.json of the Hugging Face layout."""
    # In a vocabulary without room for them there are no special tokens.
    ids = _special_ids(config.vocab_size) or dict.fromkeys(SPECIAL_TOKENS)
    fields = hf_fields(config, "bf16" if bf16_experts else "mxfp4")
    if not config.eos_token_ids:
        fields["eos_token_id"] = ids["<|return|>"]
    return dict(sorted((fields | {"pad_token_id": ids["<|endoftext|>"]}).items()))


def original_config(config: ModelConfig) -> dict[str, Any]:
    """Return the config.json of the original layout."""
    return {
        "num_hidden_layers": config.num_hidden_layers,
        "num_experts": config.num_local_experts,
        "experts_per_token": config.num_experts_per_tok,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "swiglu_limit": config.swiglu_limit,
        "head_dim": config.head_dim,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "sliding_window": config.sliding_window,
        "initial_context_length": config.rope.original_context_length,
        "rope_theta": config.rope.theta,
        "rope_scaling_factor": config.rope.factor,
        "rope_ntk_alpha": config.rope.beta_slow,
        "rope_ntk_beta": config.rope.beta_fast,
    }


def _is_original(config: ModelConfig) -> bool:
    read_back = ModelConfig.from_original(original_config(config))
    return read_back == dataclasses.replace(config, eos_token_ids=())


def write_safetensors_header(file: BinaryIO, tensors: list[Stored]) -> None:
    """Write what comes before the data of a safetensors file."""
    file.write(safetensors_header(tensors))


@dataclass(frozen=True)
class _Distribution:
    """A bell curve, by its mean and standard deviation."""

    mean: float
    std: float


def _contents(tensor: Stored, seed: int) -> Iterator[npt.NDArray[Any]]:
    """Yield a stored tensor's contents in chunks."""
    for part in tensor.parts:
        if tensor.dtype == "U8":
            yield from _mxfp4(part.name, part.shape, seed)
        elif part.component == "experts":
            yield from _dequantized(part, seed)
        else:
            table = _bf16_table(_distribution(part))
            for words in _random_words(part.name, math.prod(part.shape) * 2, seed):
                yield table[words.view(np.uint16)]


def _distribution(part: Part) -> _Distribution:
    """Choose a tensor's distribution so that what it produces is of order 1.

    Normed activations have unit variance (the norms' weights are about 1), so that a row of
    standard deviation s / sqrt(K) gives outputs of s.
    """
    name = part.name
    inputs = part.shape[-1]
    if name.endswith("norm.weight"):
        return _Distribution(1.0, 0.1)
    if name.endswith("sinks"):
        return _Distribution(0.5, 1.0)
    if name.endswith("bias"):
        return _Distribution(0.0, 0.1)
    if name == "model.embed_tokens.weight":
        return _Distribution(0.0, 1.0)
    spread = {"lm_head": 3.0, "router": 1.5, "o_proj": 0.7}.get(name.split(".")[-2], 1.2)
    return _Distribution(0.0, spread / math.sqrt(inputs))


def _mxfp4(name: str, shape: tuple[int, ...], seed: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield uniform nibbles, or scale bytes around the one that gives outputs of order 1."""
    if name.endswith("_blocks"):
        for words in _random_words(name, math.prod(shape), seed):
            yield words.view(np.uint8)
        return
    # Five neighbouring scales around the one that gives outputs of the wanted size: 118 to 122
    # for gate_up_proj and 116 to 120 for down_proj at the published sizes.
    steps = np.array([-2, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 2])
    inputs = shape[-1] * MXFP4_BLOCK_SIZE
    rms = math.sqrt(float(np.mean(FP4_VALUES**2) * np.mean(4.0**steps)) * inputs)
    spread = 0.5 if "down_proj" in name else 1.5
    table = (_SCALE_BIAS + round(math.log2(spread / rms)) + steps).astype(np.uint8)
    for words in _random_words(name, math.prod(shape), seed):
        yield table[words.view(np.uint8) & 15]


def _dequantized(part: Part, seed: int) -> Iterator[npt.NDArray[np.uint16]]:
    """Yield the MXFP4 weights of the same seed as bfloat16, [in, out], expert by expert."""
    experts, columns, rows = part.shape
    groups = columns // MXFP4_BLOCK_SIZE
    blocks, scales = (
        np.concatenate(list(_mxfp4(part.name + suffix, shape, seed))).reshape(shape)
        for suffix, shape in (
            ("_blocks", (experts, rows, groups, MXFP4_BLOCK_SIZE // 2)),
            ("_scales", (experts, rows, groups)),
        )
    )
    for expert in range(experts):
        values = dequantize(blocks[expert], scales[expert]).T
        yield _to_bf16(np.ascontiguousarray(values))


@cache
def _bf16_table(distribution: _Distribution) -> npt.NDArray[np.uint16]:
    """Tabulate the distribution's 65,536 quantiles as bfloat16 bits.

    A random 16-bit number that indexes it becomes a sample, at the speed of a table look-up.
    """
    return _to_bf16(distribution.mean + distribution.std * _normal_quantiles())


@cache
def _normal_quantiles() -> npt.NDArray[np.float64]:
    inverse = statistics.NormalDist().inv_cdf
    return np.array([inverse((i + 0.5) / 65536) for i in range(65536)])


def _to_bf16(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint16]:
    """Round to nearest, ties to even."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def _random_words(name: str, nbytes: int, seed: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield a tensor's random bytes in chunks.

    The bit generator's own output is the same in every release of numpy, unlike that of numpy's
    distributions. Its seed depends on the tensor's name, so that neither the layout nor the
    other tensors matter.
    """
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    bits = np.random.SFC64(int.from_bytes(digest, "little"))
    for begin in range(0, nbytes, _CHUNK_BYTES):
        wanted = min(_CHUNK_BYTES, nbytes - begin)
        words = np.asarray(bits.random_raw(-(-wanted // 8))).astype("<u8", copy=False)
        yield words.view(np.uint8)[:wanted]


def _special_ids(vocab_size: int) -> dict[str, int]:
    """Return the published ids; in a small vocabulary those after the bytes; or none at all."""
    published = {name: FIRST_SPECIAL_ID + offset for name, offset in SPECIAL_TOKENS.items()}
    small = {name: _BYTES + i for i, name in enumerate(SPECIAL_TOKENS)}
    return next((ids for ids in (published, small) if max(ids.values()) < vocab_size), {})


def _write_tokenizer(out: Path, vocab_size: int, tokenizer: Path | None) -> None:
    ids = _special_ids(vocab_size)
    if tokenizer is not None:
        shutil.copyfile(tokenizer, out / "tokenizer.json")
    elif ids:
        _write_json(out / "tokenizer.json", byte_tokenizer(ids))
    if not ids:
        return  # a vocabulary for numeric tests only
    generation = {
        "bos_token_id": ids["<|startoftext|>"],
        "do_sample": True,
        "eos_token_id": [ids["<|return|>"], ids["<|endoftext|>"], ids["<|call|>"]],
        "pad_token_id": ids["<|endoftext|>"],
    }
    _write_json(out / "generation_config.json", generation)
    _write_json(
        out / "tokenizer_config.json",
        {
            "bos_token": "<|startoftext|>",
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|return|>",
            "model_input_names": ["input_ids", "attention_mask"],
            "pad_token": "<|endoftext|>",
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )


def byte_tokenizer(special_ids: dict[str, int]) -> dict[str, Any]:
    """Return the tokenizer.json of a byte-level BPE without merges.

    Byte b has id b; the special tokens are those given. The pattern that splits the text is left
    out: without merges it changes nothing.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(_BYTES) if byte not in printable]
    # Byte-level BPE writes unprintable bytes as the characters from U+0100 on.
    characters = {byte: chr(byte) for byte in printable}
    characters |= {byte: chr(0x100 + i) for i, byte in enumerate(others)}
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": token_id, "content": content, **flags, "special": True}
            for content, token_id in special_ids.items()
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            # The special tokens too: the library `tokenizers` counts added tokens on from the
            # vocabulary, whatever their ids say, unless they are in it.
            "vocab": {characters[byte]: byte for byte in range(_BYTES)} | special_ids,
            "merges": [],
        },
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


# Command-line options that override one field of the preset.
_OVERRIDES = {
    "--hidden": "hidden_size",
    "--intermediate": "intermediate_size",
    "--heads": "num_attention_heads",
    "--kv-heads": "num_key_value_heads",
    "--head-dim": "head_dim",
    "--vocab": "vocab_size",
    "--experts": "num_local_experts",
    "--active": "num_experts_per_tok",
    "--window": "sliding_window",
}


def _main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to write")
    parser.add_argument("--preset", choices=PRESETS, default="tiny")
    parser.add_argument("--layers", type=int, metavar="N", help="layers, instead of the preset's")
    for option, name in _OVERRIDES.items():
        parser.add_argument(option, type=int, metavar="N", dest=name, help=f"{name}, likewise")
    parser.add_argument("--layout", choices=get_args(Layout), default="hf")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--bf16-experts", action="store_true", help="write the experts dequantised, [E, in, out]"
    )
    parser.add_argument("--shard-bytes", type=int, default=SHARD_BYTES, metavar="N")
    parser.add_argument("--tokenizer", type=Path, metavar="PATH", help="a tokenizer.json to copy")
    options = parser.parse_args()
    changes = {
        name: getattr(options, name)
        for name in _OVERRIDES.values()
        if getattr(options, name) is not None
    }
    if options.layers is not None:
        changes |= {
            "num_hidden_layers": options.layers,
            "layer_types": alternating(options.layers),
        }
    config = dataclasses.replace(PRESETS[options.preset], **changes)
    start = time.perf_counter()
    nbytes = make_checkpoint(
        options.out,
        config,
        layout=options.layout,
        seed=options.seed,
        bf16_experts=options.bf16_experts,
        shard_bytes=options.shard_bytes,
        tokenizer=options.tokenizer,
        progress=True,
    )
    seconds = time.perf_counter() - start
    print(
        json.dumps({"out": str(options.out), "tensor_bytes": nbytes, "seconds": round(seconds, 2)})
    )


if __name__ == "__main__":
    _main()
