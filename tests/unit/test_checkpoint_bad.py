"""Bad checkpoints: each is refused with a message that tells file, place, expected and found."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from gptoss.checkpoint import TensorSource, check_scales, estimate_memory, open_checkpoint
from gptoss.errors import CheckpointError
from support.checkpoints import MICRO, edit_header, edit_json, make_checkpoint, write_header

SHARD = "model-00000-of-00002.safetensors"
LAST_SHARD = "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"
SCALES = "model.layers.1.mlp.experts.down_proj_scales"
EMBEDDING = "model.embed_tokens.weight"
NORM = "model.norm.weight"


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Good checkpoints, to be copied and damaged."""
    root = tmp_path_factory.mktemp("good")
    make_checkpoint(root / "hf", MICRO, shard_bytes=35_000)
    make_checkpoint(root / "bf16", MICRO, bf16_experts=True)
    make_checkpoint(root / "original", MICRO, layout="original")
    assert (root / "hf" / LAST_SHARD).is_file()
    return {path.name: path for path in root.iterdir()}


class Bad(NamedTuple):
    """A way to damage a checkpoint, and what the message must hold."""

    name: str
    damage: Callable[[Path], object]
    message: tuple[str, ...]
    layout: str = "hf"


def config(**changes: object) -> Callable[[Path], None]:
    """Change fields of config.json; `...` removes one."""

    def damage(folder: Path) -> None:
        inner = folder / "original"
        path = (inner if inner.is_dir() else folder) / "config.json"
        edit_json(path, lambda values: _update(values, changes))

    return damage


def rope(**changes: object) -> Callable[[Path], None]:
    """Change fields of rope_scaling."""
    return lambda folder: edit_json(
        folder / "config.json", lambda values: _update(values["rope_scaling"], changes)
    )


def rope_parameters(value: dict[str, Any]) -> Callable[[Path], None]:
    """Replace rope_scaling by rope_parameters."""
    return config(rope_scaling=..., rope_parameters=value)


def entry(tensor: str, file: str = SHARD, **changes: object) -> Callable[[Path], None]:
    """Change a tensor's entry in a header; `...` removes a field."""
    return lambda folder: edit_header(
        folder / file, lambda header: _update(header[tensor], changes)
    )


def index(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Change the index."""
    return lambda folder: edit_json(folder / INDEX, edit)


def text(file: str, content: str | bytes) -> Callable[[Path], object]:
    """Overwrite a file."""
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / file).write_bytes(data)


def header(content: bytes) -> Callable[[Path], None]:
    """Give a shard a header of this text."""
    return lambda folder: write_header(folder / SHARD, content, bytes(64))


def length(value: int, size: int | None = None) -> Callable[[Path], None]:
    """Overwrite a header's length, and perhaps the file's size."""

    def damage(folder: Path) -> None:
        with (folder / SHARD).open("r+b") as file:
            file.write(value.to_bytes(8, "little"))
            if size is not None:
                file.truncate(size)  # sparse: takes no room on disk

    return damage


def truncated(folder: Path) -> None:
    os.truncate(folder / LAST_SHARD, (folder / LAST_SHARD).stat().st_size - 1)


def without(*files: str) -> Callable[[Path], None]:
    """Remove files."""

    def damage(folder: Path) -> None:
        for file in files:
            (folder / file).unlink()

    return damage


def as_folder(file: str) -> Callable[[Path], None]:
    """Put a folder where a file should be (root could read a file without permissions)."""

    def damage(folder: Path) -> None:
        (folder / file).unlink()
        (folder / file).mkdir()

    return damage


def overlapping(folder: Path) -> None:
    def edit(values: dict[str, Any]) -> None:
        first, second = list(values)[1:3]
        size = values[second]["data_offsets"][1] - values[second]["data_offsets"][0]
        end = values[first]["data_offsets"][1]
        values[second]["data_offsets"] = [end - 2, end - 2 + size]

    edit_header(folder / SHARD, edit)


def shifted(folder: Path) -> None:
    """Move all data to odd offsets, which the format allows."""
    path = folder / SHARD
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    path.write_bytes((end - 7).to_bytes(8, "little") + content[8:end] + b" " + content[end:])


def dropped(tensor: str) -> Callable[[Path], None]:
    """Remove a tensor from index and header."""

    def damage(folder: Path) -> None:
        file = _pop(folder, tensor)
        edit_header(folder / file, lambda values: values.pop(tensor))

    return damage


def renamed(tensor: str, new: str) -> Callable[[Path], None]:
    """Give a second tensor of the same bytes' length another name, beside the first."""

    def damage(folder: Path) -> None:
        edit_json(folder / INDEX, lambda values: values["weight_map"].update({new: LAST_SHARD}))
        edit_header(
            folder / LAST_SHARD,
            lambda values: values.update(
                {new: {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}
            ),
        )

    return damage


def in_two_files(folder: Path) -> None:
    extra = {NORM: {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}
    edit_header(folder / SHARD, lambda values: values.update(extra))


def copied_file(folder: Path) -> None:
    inner = folder / "original"
    shutil.copyfile(inner / "model.safetensors", inner / "other.safetensors")


def scale(byte: int) -> Callable[[Path], None]:
    """Write a scale byte into the last block of the last expert of the last layer."""

    def damage(folder: Path) -> None:
        source = open_checkpoint(folder).tensors[SCALES]
        array = np.memmap(source.path, np.uint8, "r+", source.offset, source.shape)
        array[2, 31, 1] = byte
        array.flush()

    return damage


def _update(values: dict[str, Any], changes: dict[str, object]) -> None:
    for name, value in changes.items():
        if value is ...:
            del values[name]
        else:
            values[name] = value


def _pop(folder: Path, tensor: str) -> str:
    popped: list[str] = []
    edit_json(folder / INDEX, lambda values: popped.append(values["weight_map"].pop(tensor)))
    return popped[0]


YARN = {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096}

BAD = [
    # The folder.
    Bad("no config", without("config.json"), ("expected config.json", "found neither")),
    Bad(
        "no weights",
        without(SHARD, LAST_SHARD, "model-00001-of-00002.safetensors", INDEX),
        ("expected model.safetensors or model.safetensors.index.json", "found no such file"),
    ),
    Bad("index is a folder", as_folder(INDEX), ("expected model.safetensors or", INDEX)),
    Bad("config is a folder", as_folder("config.json"), ("config.json", "found neither")),
    Bad("shard is a folder", as_folder(SHARD), (SHARD, "expected a regular file")),
    # The config, as a file.
    Bad("config empty", text("config.json", ""), ("config.json", "expected a JSON object")),
    Bad("config a list", text("config.json", "[1]"), ("a JSON object, found list",)),
    Bad("config not UTF-8", text("config.json", b"\xff{}"), ("expected a JSON object", "0xff")),
    Bad("config cut", text("config.json", '{"model_type": "gpt'), ("Unterminated string",)),
    Bad("config twice", text("config.json", '{"a": 1, "a": 2}'), ("the key 'a' twice",)),
    Bad(
        "config deep", text("config.json", "[" * 200_000), ("config.json: expected a JSON object",)
    ),
    Bad("config of nothing", text("config.json", "{}"), ("a gpt-oss model", "fields []")),
    # The config's fields.
    Bad(
        "another architecture",
        config(architectures=["LlamaForCausalLM"]),
        ("field architectures: expected ['GptOssForCausalLM'], found ['LlamaForCausalLM']",),
    ),
    Bad(
        "another model type",
        config(architectures=..., model_type="llama"),
        ("field model_type: expected 'gpt_oss', found 'llama'",),
    ),
    Bad(
        "another quantisation",
        config(quantization_config={"quant_method": "gptq"}),
        ("field quantization_config.quant_method: expected 'mxfp4', found 'gptq'",),
    ),
    Bad(
        "quantisation not an object",
        config(quantization_config="mxfp4"),
        ("field quantization_config: expected an object, found 'mxfp4'",),
    ),
    Bad("activation", config(hidden_act="gelu"), ("hidden_act: expected 'silu', found 'gelu'",)),
    Bad(
        "attention without bias",
        config(attention_bias=False),
        ("attention_bias: expected True, found False",),
    ),
    Bad(
        "attention bias a number",
        config(attention_bias=1),
        ("attention_bias: expected True, found 1",),
    ),
    Bad(
        "tied embeddings",
        config(tie_word_embeddings="yes"),
        ("tie_word_embeddings: expected true or false, found 'yes'",),
    ),
    Bad("other alpha", config(swiglu_alpha=1.0), ("swiglu_alpha: expected 1.702, found 1.0",)),
    Bad(
        "field absent",
        config(hidden_size=...),
        ("config.json: field hidden_size: expected a multiple of 32", "found none"),
    ),
    Bad("field null", config(head_dim=None), ("field head_dim", "found None")),
    Bad("field a string", config(hidden_size="32"), ("field hidden_size", "found '32'")),
    Bad("field a boolean", config(sliding_window=True), ("sliding_window", "found True")),
    Bad("field a float", config(vocab_size=288.0), ("field vocab_size", "found 288.0")),
    Bad("hidden odd", config(hidden_size=40), ("hidden_size", "a multiple of 32", "found 40")),
    Bad("inner odd", config(intermediate_size=72), ("intermediate_size", "found 72")),
    Bad("head odd", config(head_dim=24), ("head_dim: expected a multiple of 16", "found 24")),
    Bad(
        "heads not divisible",
        config(num_key_value_heads=4),
        ("num_key_value_heads: expected a divisor of 6 query heads, found 4",),
    ),
    Bad("no heads", config(num_attention_heads=0), ("num_attention_heads", "found 0")),
    Bad(
        "more active than there are",
        config(num_experts_per_tok=4),
        ("num_experts_per_tok: expected an integer from 1 to 3, found 4",),
    ),
    Bad("no active", config(num_experts_per_tok=0), ("num_experts_per_tok", "found 0")),
    Bad("window", config(sliding_window=0), ("sliding_window", "from 1 to", "found 0")),
    Bad("too many layers", config(num_hidden_layers=10**9), ("num_hidden_layers", "1000000000")),
    Bad("vast", config(vocab_size=10**4000), ("vocab_size", "found 1000000")),
    Bad(
        "layer types short",
        config(layer_types=["full_attention"]),
        ("layer_types: expected 2 entries, found 1",),
    ),
    Bad(
        "layer types unknown",
        config(layer_types=["full_attention", "chunked_attention"]),
        ("layer_types: expected 'sliding_attention' or", "found 'chunked_attention'"),
    ),
    Bad("layer types a string", config(layer_types="full"), ("layer_types: expected a list",)),
    Bad("epsilon", config(rms_norm_eps=-1e-5), ("rms_norm_eps", "above 0", "found -1e-05")),
    Bad("epsilon NaN", config(rms_norm_eps=float("nan")), ("rms_norm_eps", "found nan")),
    Bad("limit", config(swiglu_limit=float("inf")), ("swiglu_limit: expected a finite", "inf")),
    Bad("limit zero", config(swiglu_limit=0), ("swiglu_limit", "above 0", "found 0")),
    Bad("context", config(max_position_embeddings=0), ("max_position_embeddings", "found 0")),
    # RoPE.
    Bad("no rope", config(rope_scaling=...), ("field rope_scaling: expected an object",)),
    Bad("theta", config(rope_theta=1), ("rope_theta: expected a finite number above 1",)),
    Bad("no theta", config(rope_theta=...), ("field rope_theta", "found none")),
    Bad(
        "rope type",
        rope(rope_type="linear"),
        ("field rope_scaling.rope_type: expected 'yarn' or 'default', found 'linear'",),
    ),
    Bad("plain with a factor", rope(rope_type="default"), ("rope_scaling.factor: expected 1",)),
    Bad("factor", rope(factor=0.5), ("rope_scaling.factor", "at least 1", "found 0.5")),
    Bad("no factor", rope(factor=...), ("rope_scaling.factor", "found none")),
    Bad("betas", rope(beta_slow=64), ("rope_scaling.beta_fast: expected more than beta_slow",)),
    Bad("truncate", rope(truncate="no"), ("rope_scaling.truncate", "found 'no'")),
    Bad(
        "attention factor",
        rope(attention_factor=1.0),
        ("attention_factor: expected 0.1 ln(factor) + 1 = 1.3465736, found 1.0",),
    ),
    Bad("mscale", rope(mscale=0.7), ("rope_scaling.mscale: expected no such field, found 0.7",)),
    Bad(
        "partial",
        rope_parameters({**YARN, "partial_rotary_factor": 0.5}),
        ("rope_parameters.partial_rotary_factor: expected 1, found 0.5",),
    ),
    Bad(
        "layers differ",
        rope_parameters({"full_attention": YARN, "sliding_attention": {**YARN, "factor": 8.0}}),
        ("field rope_parameters: expected equal for all layer types",),
    ),
    # Stop ids.
    Bad("stop id", text("generation_config.json", '{"eos_token_id": "x"}'), ("eos_token_id", "x")),
    Bad(
        "stop id beyond",
        text("generation_config.json", '{"eos_token_id": [5, 288]}'),
        ("generation_config.json", "below the vocabulary's 288, found 288"),
    ),
    Bad("tokenizer", text("tokenizer.json", '{"added_tokens": [1]}'), ("added_tokens[0]", "int")),
    Bad(
        "tokenizer of another model",
        text("tokenizer.json", '{"added_tokens": [{"id": 999, "content": "<|call|>"}]}'),
        ("tokenizer.json", "below the vocabulary's 288, found 999"),
    ),
    # The index.
    Bad("index not JSON", text(INDEX, "weights"), (INDEX, "expected a JSON object")),
    Bad("index without map", text(INDEX, "{}"), (INDEX, "weight_map: expected an object")),
    Bad(
        "absent shard",
        without(LAST_SHARD),
        (INDEX, f"expected the shard {LAST_SHARD}, found no such file", "incomplete"),
    ),
    Bad(
        "shard elsewhere",
        index(lambda values: values["weight_map"].update({NORM: "../model.safetensors"})),
        (f"tensor {NORM}: expected a file name, found '../model.safetensors'",),
    ),
    Bad(
        "shard not a string",
        index(lambda values: values["weight_map"].update({NORM: 5})),
        (f"tensor {NORM}: expected a file name, found 5",),
    ),
    Bad(
        "wrong shard",
        index(lambda values: values["weight_map"].update({NORM: SHARD})),
        (SHARD, f"tensor {NORM}: expected here by {INDEX}, found no such tensor"),
    ),
    Bad(
        "tensor not in the index",
        lambda folder: _pop(folder, NORM),
        (LAST_SHARD, f"tensor {NORM}: expected an entry in {INDEX}, found none"),
    ),
    Bad("in two files", in_two_files, (f"tensor {NORM}: expected in one file", SHARD)),
    # safetensors headers.
    Bad("empty file", text(SHARD, b""), (SHARD, "at least 8 bytes, found 0")),
    Bad("seven bytes", text(SHARD, bytes(7)), (SHARD, "at least 8 bytes, found 7")),
    Bad("another format", text(SHARD, b"GGUF\x03\x00\x00\x00" * 9), (SHARD, "another format")),
    Bad("length beyond the file", length(10**6), ("at most", "length of 1000000", "cut off")),
    Bad("length huge", length(2**64 - 1), ("found a header length of 18446744073709551615",)),
    Bad(
        "length above the cap",
        length(100_000_001, 200_000_000),
        ("at most 100000000 bytes", "length of 100000001"),
    ),
    Bad("header empty", length(0), ("safetensors header: expected a JSON object",)),
    Bad("header not JSON", header(b"hello"), ("safetensors header: expected a JSON object",)),
    Bad("header a list", header(b"[]"), ("expected a JSON object, found list",)),
    Bad("header not UTF-8", header(b'{"\xc3\x28": 1}'), ("expected a JSON object", "0xc3")),
    Bad("tensor twice", header(b'{"a": 1, "a": 2}'), (SHARD, "the key 'a' twice")),
    Bad("header deep", header(b'{"a":' * 100_000), ("safetensors header: expected a JSON object",)),
    Bad("entry not an object", header(b'{"a": 1}'), ("tensor a: expected an object", "found 1")),
    Bad("entry short", entry(EMBEDDING, dtype=...), (EMBEDDING, "with dtype, shape")),
    Bad("entry long", entry(EMBEDDING, strides=[1]), (EMBEDDING, "with dtype, shape", "strides")),
    Bad("dtype unknown", entry(EMBEDDING, dtype="F4"), (EMBEDDING, "known dtype, found F4")),
    Bad("dtype a list", entry(EMBEDDING, dtype=["U8"]), (EMBEDDING, "known dtype, found ['U8']")),
    Bad("shape negative", entry(EMBEDDING, shape=[-1, 32]), (EMBEDDING, "found [-1, 32]")),
    Bad("shape of floats", entry(EMBEDDING, shape=[288.0, 32]), (EMBEDDING, "found [288.0, 32]")),
    Bad("shape of booleans", entry(EMBEDDING, shape=[True]), (EMBEDDING, "found [True]")),
    Bad("shape vast", entry(EMBEDDING, shape=[2**62] * 9), (EMBEDDING, "bytes for BF16 [4611")),
    Bad("shape long", entry(EMBEDDING, shape=[1] * 33), (EMBEDDING, "a shape of", "found [1, 1,")),
    Bad("shape null", entry(EMBEDDING, shape=None), (EMBEDDING, "a shape of", "found None")),
    Bad("range reversed", entry(EMBEDDING, data_offsets=[9, 8]), ("begin <= end, found [9, 8]",)),
    Bad("range of three", entry(EMBEDDING, data_offsets=[0, 1, 2]), ("found [0, 1, 2]",)),
    Bad("range negative", entry(EMBEDDING, data_offsets=[-2, 0]), ("found [-2, 0]",)),
    Bad(
        "range too short",
        entry(EMBEDDING, data_offsets=[0, 18430]),
        (f"tensor {EMBEDDING}: expected 18432 bytes for BF16 [288, 32], found 18430 bytes",),
    ),
    Bad("file cut", truncated, (LAST_SHARD, "lm_head.weight", "within the file's", "cut off")),
    Bad("overlap", overlapping, (SHARD, "expected bytes of its own, found an overlap with")),
    Bad("odd offset", shifted, (SHARD, "expected an even offset for BF16", "anew")),
    # Tensors against the config.
    Bad(
        "tensor missing",
        dropped(NORM),
        (f"tensor {NORM}: expected by config.json, found in no file",),
    ),
    Bad(
        "layer missing",
        config(num_hidden_layers=3, layer_types=...),
        ("model.layers.2.input_layernorm.weight: expected", "and 18 more"),
    ),
    Bad(
        "layer too many",
        config(num_hidden_layers=1, layer_types=...),
        ("tensor model.layers.1.input_layernorm.weight: expected no tensor", "and 18 more"),
    ),
    Bad("tensor unexpected", renamed(NORM, "extra"), (LAST_SHARD, "tensor extra: expected no")),
    Bad(
        "wrong dtype",
        entry(EMBEDDING, dtype="F16"),
        (SHARD, f"tensor {EMBEDDING}: expected dtype BF16, found F16"),
    ),
    Bad(
        "wrong shape",
        config(vocab_size=320),
        (SHARD, f"tensor {EMBEDDING}: expected shape (320, 32), found (288, 32)"),
    ),
    Bad(
        "transposed",
        entry(EMBEDDING, shape=[32, 288]),
        (f"tensor {EMBEDDING}: expected shape (288, 32), found (32, 288)",),
    ),
    Bad("experts", config(num_local_experts=4), ("mlp.router.weight: expected shape (4, 32)",)),
    Bad(
        "bfloat16 experts",
        lambda folder: None,
        ("gate_up_proj: expected MXFP4", "found BF16", 'experts="mxfp4"', "GB of memory"),
        layout="bf16",
    ),
    # The original layout.
    Bad(
        "original: field absent",
        config(experts_per_token=...),
        ("original/config.json: field experts_per_token", "found none"),
        layout="original",
    ),
    Bad(
        "original: betas",
        config(rope_ntk_alpha=32),
        ("rope_ntk_beta: expected more than rope_ntk_alpha (32), found 32.0",),
        layout="original",
    ),
    Bad(
        "original: context",
        config(rope_scaling_factor=1e30),
        ("rope_scaling_factor: expected a context of at most",),
        layout="original",
    ),
    Bad(
        "original: shape",
        config(num_key_value_heads=1),
        ("tensor block.0.attn.qkv.weight: expected shape (128, 32), found (160, 32)",),
        layout="original",
    ),
    Bad(
        "original: no weights",
        without("original/model.safetensors"),
        ("original: expected *.safetensors, found no such file",),
        layout="original",
    ),
    Bad(
        "original: in two files",
        copied_file,
        ("other.safetensors: tensor embedding.weight: expected in one file",),
        layout="original",
    ),
]


@pytest.mark.parametrize("bad", BAD, ids=[bad.name for bad in BAD])
def test_bad_checkpoint_is_refused(bad: Bad, originals: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(originals[bad.layout], folder)
    bad.damage(folder)
    with pytest.raises(CheckpointError) as raised:
        open_checkpoint(folder, progress=False)
    for part in bad.message:
        assert part in str(raised.value).replace(os.sep, "/")
    assert str(tmp_path) in str(raised.value), "the message names the file or folder"
    assert re.search(r"expected .* found ", str(raised.value), re.DOTALL)


def test_good_checkpoints_open(originals: dict[str, Path]) -> None:
    # Without this, the cases above could all fail for a reason that they share.
    for layout in ("hf", "original"):
        check_scales(open_checkpoint(originals[layout]))


@pytest.mark.parametrize(("byte", "meaning"), [(255, "NaN"), (254, "beyond"), (253, "beyond")])
def test_scales_that_no_kernel_can_use_are_refused(
    byte: int, meaning: str, originals: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(originals["hf"], folder)
    scale(byte)(folder)
    with pytest.raises(CheckpointError) as raised:
        check_scales(open_checkpoint(folder))
    for part in (LAST_SHARD, f"tensor {SCALES}", f"found {byte} ({meaning}", "at [2, 31, 1]"):
        assert part in str(raised.value)


def test_the_largest_usable_scale_is_accepted(originals: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(originals["hf"], folder)
    scale(252)(folder)
    check_scales(open_checkpoint(folder))


def test_weights_are_not_touched(
    originals: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(np, "memmap", refuse)
    monkeypatch.setattr(TensorSource, "pieces", refuse)
    open_checkpoint(originals["hf"])
    estimate_memory(originals["bf16"])
    with pytest.raises(AssertionError, match="read"):
        open_checkpoint(originals["bf16"], experts="mxfp4", progress=False)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere", "expected a folder, a GGUF file or a Hub id"),
        ("no/where/at/all", "expected a folder, a GGUF file or a Hub id"),
        ("./owner/name", "expected a folder, a GGUF file or a Hub id"),
        ("~no-such-user/x", "expected a folder"),
        ("x" * 5000, "expected a folder"),
        (Path("owner/name"), "expected a folder, a GGUF file or a Hub id"),
    ],
)
def test_a_path_that_is_nowhere(
    path: str | Path, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(path)


def test_a_file_instead_of_its_folder(originals: dict[str, Path]) -> None:
    with pytest.raises(CheckpointError, match="found a file; pass the folder"):
        open_checkpoint(originals["hf"] / INDEX)


def test_experts_argument_is_checked(originals: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="experts must be one of"):
        open_checkpoint(originals["hf"], experts="bf16")  # type: ignore[arg-type]


def test_dtype_argument_is_checked(originals: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="dtype must be one of"):
        open_checkpoint(originals["hf"], dtype="float32")  # type: ignore[arg-type]
