"""Opening good checkpoints: both layouts, config forms, stop ids, published names and sizes."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gptoss.checkpoint import Checkpoint, check_scales, estimate_memory, open_checkpoint
from gptoss.checkpoint.layout import stored_tensors
from gptoss.checkpoint.memory import Dense
from gptoss.checkpoint.safetensors import read_header
from gptoss.config import ModelConfig, RopeConfig
from gptoss.reference import bf12
from support.checkpoints import MICRO, PRESETS, edit_json, make_checkpoint, script, write_header
from support.paths import real_data


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded") / "my-model"
    make_checkpoint(folder, MICRO, seed=3, shard_bytes=35_000)
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original") / "my-model"
    make_checkpoint(folder, MICRO, seed=3, layout="original")
    return folder


def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def contents(checkpoint: Checkpoint) -> dict[str, npt.NDArray[Any]]:
    return {name: np.array(tensor.read()) for name, tensor in checkpoint.tensors.items()}


def test_hugging_face_layout(sharded: Path) -> None:
    checkpoint = open_checkpoint(sharded)
    assert checkpoint.layout == "hf"
    assert checkpoint.path == sharded
    assert checkpoint.name == "my-model"
    assert checkpoint.tokenizer_path == sharded / "tokenizer.json"
    # <|return|>, <|endoftext|> and <|call|> of a vocabulary of 256 bytes.
    assert checkpoint.config == dataclasses.replace(MICRO, eos_token_ids=(258, 257, 264))
    assert len({tensor.path for tensor in checkpoint.tensors.values()}) == 3
    assert checkpoint.weight_bytes == sum(t.nbytes for t in stored_tensors(MICRO, "hf"))
    check_scales(checkpoint)


def test_shapes_and_dtypes(sharded: Path) -> None:
    tensors = open_checkpoint(sharded).tensors
    experts = "model.layers.1.mlp.experts"
    expected = {
        "model.embed_tokens.weight": ("BF16", (288, 32)),
        "model.layers.0.self_attn.q_proj.weight": ("BF16", (96, 32)),
        "model.layers.0.self_attn.k_proj.weight": ("BF16", (32, 32)),
        "model.layers.0.self_attn.v_proj.bias": ("BF16", (32,)),
        "model.layers.0.self_attn.o_proj.weight": ("BF16", (32, 96)),
        "model.layers.0.self_attn.sinks": ("BF16", (6,)),
        "model.layers.1.mlp.router.weight": ("BF16", (3, 32)),
        f"{experts}.gate_up_proj_blocks": ("U8", (3, 128, 1, 16)),
        f"{experts}.gate_up_proj_scales": ("U8", (3, 128, 1)),
        f"{experts}.gate_up_proj_bias": ("BF16", (3, 128)),
        f"{experts}.down_proj_blocks": ("U8", (3, 32, 2, 16)),
        f"{experts}.down_proj_scales": ("U8", (3, 32, 2)),
        f"{experts}.down_proj_bias": ("BF16", (3, 32)),
        "model.norm.weight": ("BF16", (32,)),
        "lm_head.weight": ("BF16", (288, 32)),
    }
    assert {name: (tensors[name].dtype, tensors[name].shape) for name in expected} == expected
    for tensor in tensors.values():
        array = tensor.read()
        assert array.shape == tensor.shape
        assert array.nbytes == tensor.nbytes
        assert array.dtype == (np.uint16 if tensor.dtype == "BF16" else np.uint8)
        assert not array.flags.writeable


def test_both_layouts_give_the_same(sharded: Path, original: Path) -> None:
    first, second = open_checkpoint(sharded), open_checkpoint(original)
    assert second.layout == "original"
    assert second.config == first.config
    ours, theirs = contents(first), contents(second)
    assert list(ours) == list(theirs)
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def test_qkv_is_split_by_rows(original: Path) -> None:
    header = read_header(original / "original" / "model.safetensors")
    fused = header["block.1.attn.qkv.weight"]
    tensors = open_checkpoint(original).tensors
    attention = "model.layers.1.self_attn"
    offsets = [tensors[f"{attention}.{x}_proj.weight"].offset - fused.offset for x in "qkv"]
    assert offsets == [0, 96 * 32 * 2, (96 + 32) * 32 * 2]
    rows = np.concatenate([tensors[f"{attention}.{x}_proj.weight"].read() for x in "qkv"])
    np.testing.assert_array_equal(rows, fused.read())


def test_where_the_original_layout_may_lie(original: Path, tmp_path: Path) -> None:
    inner = open_checkpoint(original / "original")
    assert inner == open_checkpoint(original)
    assert inner.name == "my-model"
    assert inner.tokenizer_path == original / "tokenizer.json"
    # Moved elsewhere, alone: no tokenizer, and no ids to stop at.
    alone = open_checkpoint(shutil.copytree(original / "original", tmp_path / "alone"))
    assert alone.name == "alone"
    assert alone.tokenizer_path is None
    assert alone.config == MICRO
    # In several files, of any names.
    folder = copied(original / "original", tmp_path)
    content = (folder / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    del header["__metadata__"]
    (folder / "model.safetensors").unlink()
    for number, names in enumerate((list(header)[::2], list(header)[1::2])):
        part = {name: header[name] for name in names}
        file = folder / f"model--0000{number}-of-00007.safetensors"
        # Each file keeps all the data: gaps between tensors are allowed.
        write_header(file, json.dumps(part).encode(), content[start:])
    split, whole = contents(open_checkpoint(folder)), contents(inner)
    assert list(split) == list(whole)
    assert all((split[name] == whole[name]).all() for name in whole)


def test_hugging_face_config_without_weights_gives_way_to_original(
    sharded: Path, original: Path, tmp_path: Path
) -> None:
    folder = copied(original, tmp_path)
    shutil.copyfile(sharded / "config.json", folder / "config.json")
    assert open_checkpoint(folder).layout == "original"


def test_relative_paths_and_home(sharded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sharded)
    assert open_checkpoint(".").name == "my-model"
    assert open_checkpoint("../my-model").name == "my-model"
    monkeypatch.setenv("HOME", str(sharded.parent))
    monkeypatch.setenv("USERPROFILE", str(sharded.parent))
    assert open_checkpoint("~/my-model").name == "my-model"


def test_a_folder_of_a_hub_ids_name_wins(
    sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(sharded, tmp_path / "openai" / "gpt-oss-20b")
    monkeypatch.chdir(tmp_path)
    assert open_checkpoint("openai/gpt-oss-20b").path == Path("openai/gpt-oss-20b")


def test_one_file_wins_over_an_index(sharded: Path, tmp_path: Path) -> None:
    folder = copied(sharded, tmp_path)
    make_checkpoint(folder, MICRO, seed=4)
    tensors = open_checkpoint(folder).tensors
    assert {tensor.path.name for tensor in tensors.values()} == {"model.safetensors"}


@pytest.mark.parametrize(
    ("generation", "config", "tokenizer", "expected"),
    [
        ({"eos_token_id": [9, 8, 9]}, 7, True, (9, 8, 258, 257, 264)),
        ({"eos_token_id": 264}, 7, True, (264, 258, 257)),
        ({"eos_token_id": None}, 7, True, (7, 258, 257, 264)),
        ({}, [7, 6], False, (7, 6)),
        (None, 7, False, (7,)),
        (None, None, True, (258, 257, 264)),
        (None, None, False, ()),
    ],
)
def test_stop_ids(
    generation: dict[str, object] | None,
    config: object,
    tokenizer: bool,
    expected: tuple[int, ...],
    sharded: Path,
    tmp_path: Path,
) -> None:
    folder = copied(sharded, tmp_path)
    (folder / "generation_config.json").unlink()
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    edit_json(folder / "config.json", lambda values: values.update(eos_token_id=config))
    if not tokenizer:
        (folder / "tokenizer.json").unlink()
    assert open_checkpoint(folder).config.eos_token_ids == expected


def test_published_stop_ids_without_a_tokenizer(tmp_path: Path) -> None:
    config = dataclasses.replace(MICRO, vocab_size=201_088)
    make_checkpoint(tmp_path, config, layout="original")
    stop_ids = (200_002, 199_999, 200_012)
    assert open_checkpoint(tmp_path).config.eos_token_ids == stop_ids
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "generation_config.json").unlink()
    assert open_checkpoint(tmp_path).config.eos_token_ids == stop_ids


YARN = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "original_max_position_embeddings": 4096,
    "truncate": False,
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"rope_scaling": YARN}, MICRO.rope),
        ({"rope_parameters": {**YARN, "rope_theta": 150_000}}, MICRO.rope),
        ({"rope_parameters": YARN}, MICRO.rope),
        (
            {
                "rope_parameters": {
                    "full_attention": {**YARN, "rope_theta": 1e4},
                    "sliding_attention": {**YARN, "rope_theta": 1e4},
                }
            },
            dataclasses.replace(MICRO.rope, theta=1e4),
        ),
        ({"rope_scaling": {"type": "yarn", **YARN}}, MICRO.rope),
        ({"rope_scaling": {**YARN, "attention_factor": 1.3465735902799727}}, MICRO.rope),
        (
            {
                "rope_scaling": {
                    "rope_type": "yarn",
                    "factor": 8,
                    "original_max_position_embeddings": 2048,
                }
            },
            RopeConfig(150_000.0, 8.0, 32.0, 1.0, 2048, truncate=True),
        ),
        ({"rope_scaling": {"rope_type": "default"}}, RopeConfig(150_000.0)),
        ({"rope_parameters": {"rope_theta": 5e5}}, RopeConfig(5e5)),
    ],
)
def test_forms_of_rope(
    changes: dict[str, object], expected: RopeConfig, sharded: Path, tmp_path: Path
) -> None:
    folder = copied(sharded, tmp_path)

    def edit(values: dict[str, Any]) -> None:
        del values["rope_scaling"]
        values.update(changes)

    edit_json(folder / "config.json", edit)
    assert open_checkpoint(folder).config.rope == expected


def test_fields_with_a_default(sharded: Path, tmp_path: Path) -> None:
    folder = copied(sharded, tmp_path)

    def edit(values: dict[str, Any]) -> None:
        for name in ("layer_types", "rms_norm_eps", "swiglu_limit", "hidden_act", "architectures"):
            del values[name]
        values["unknown"] = 1

    edit_json(folder / "config.json", edit)
    assert open_checkpoint(folder).config == open_checkpoint(sharded).config


def test_layer_types_are_followed(sharded: Path, tmp_path: Path) -> None:
    folder = copied(sharded, tmp_path)
    types = ["full_attention", "full_attention"]
    edit_json(folder / "config.json", lambda values: values.update(layer_types=types))
    assert open_checkpoint(folder).config.layer_types == tuple(types)


def test_memory_of_a_small_model(sharded: Path) -> None:
    estimate = estimate_memory(sharded, 100, chunk_tokens=10)
    assert estimate.weight_bytes == open_checkpoint(sharded).weight_bytes
    # Keys and values of 2 heads of 16: two pages of 64 tokens on one layer, and on the other a
    # ring of pages, of which a context has no more.
    assert estimate.kv_bytes == 2 * 2 * 16 * 2 * (128 + 128)
    # With a window of 5 and a chunk of 10 it has two: one that is written, and the one before it.
    assert estimate_memory(sharded, 1000, chunk_tokens=10).kv_bytes == 2 * 2 * 16 * 2 * (1024 + 128)
    assert estimate.total_bytes == (
        estimate.weight_bytes + estimate.kv_bytes + estimate.workspace_bytes
    )
    doubled = estimate_memory(sharded, 100, chunk_tokens=10, precision="reference")
    assert doubled.kv_bytes == 2 * estimate.kv_bytes
    # A byte each, and a float32 for the 16 of a head.
    int8 = estimate_memory(sharded, 100, chunk_tokens=10, kv_cache_dtype="int8")
    assert int8.kv_bytes == estimate.kv_bytes // 32 * 20
    # A short context needs no ring beyond itself.
    assert estimate_memory(sharded, 64).kv_bytes == 2 * 2 * 16 * 2 * (64 + 64)


def test_memory_of_dense_weights(sharded: Path) -> None:
    config = open_checkpoint(sharded).config
    hidden = config.hidden_size
    q_size = config.num_attention_heads * config.head_dim
    kv_size = config.num_key_value_heads * config.head_dim
    row_bytes: dict[Dense, Callable[[int], int]] = {
        "bf16": lambda k: 2 * k,
        "bf12": bf12.row_bytes,
        "q8": lambda k: k + k // 32 * 2,
    }
    for dense, of_row in row_bytes.items():
        weights = estimate_memory(sharded, 64, dense=dense).weights
        layer = (q_size + 2 * kv_size) * of_row(hidden) + hidden * of_row(q_size)
        assert weights["attention"] == config.num_hidden_layers * layer
        assert weights["unembedding"] == config.vocab_size * of_row(hidden)
        assert weights["embedding"] == config.vocab_size * 2 * hidden


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"context_length": 0}, "context_length must be from 1 to 131072, got 0"),
        ({"context_length": 131_073}, "context_length must be from 1 to 131072, got 131073"),
        ({"chunk_tokens": 0}, "chunk_tokens must be from 1"),
        ({"precision": "f16"}, "precision must be one of .* got 'f16'"),
        ({"dense": "q4"}, "dense must be one of .* got 'q4'"),
        ({"kv_cache_dtype": "fp8"}, "kv_cache_dtype must be one of .* got 'fp8'"),
        ({"precision": "reference", "dense": "q8"}, "dense='q8' does not go with precision"),
        ({"precision": "reference", "dense": "bf12"}, "dense='bf12' does not go with precision"),
        (
            {"precision": "reference", "kv_cache_dtype": "int8"},
            "kv_cache_dtype='int8' rounds keys and values: it does not go with precision",
        ),
    ],
)
def test_memory_arguments(arguments: dict[str, Any], message: str, sharded: Path) -> None:
    with pytest.raises(ValueError, match=message):
        estimate_memory(sharded, **arguments)


# Bytes by component, summed from the published shapes by hand.
COMPONENTS = {
    "20b": {
        "experts": 10_152_345_600,
        "expert biases": 13_271_040,
        "attention": 1_274_019_840,
        "router": 4_423_680,
        "norms, sinks, biases": 670_848,
        "embedding": 1_158_266_880,
        "unembedding": 1_158_266_880,
    },
    "120b": {
        "experts": 60_914_073_600,
        "expert biases": 79_626_240,
        "attention": 1_911_029_760,
        "router": 26_542_080,
        "norms, sinks, biases": 1_010_304,
        "embedding": 1_158_266_880,
        "unembedding": 1_158_266_880,
    },
}


@pytest.mark.parametrize("layout", ["hf", "original"])
@pytest.mark.parametrize("preset", ["20b", "120b"])
def test_published_sizes(preset: str, layout: Any) -> None:
    sizes: dict[str, int] = {}
    for stored in stored_tensors(PRESETS[preset], layout):
        for part in stored.parts:
            nbytes = stored.nbytes * part.shape[0] // stored.shape[0]
            sizes[part.component] = sizes.get(part.component, 0) + nbytes
    assert sizes == COMPONENTS[preset]


def test_published_memory(tmp_path: Path) -> None:
    """The table of gpt-oss-20b, from headers over a file without data."""
    tensors = list(stored_tensors(PRESETS["20b"], "hf"))
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        script.write_safetensors_header(file, tensors)
        file.truncate(file.tell() + sum(tensor.nbytes for tensor in tensors))
    (tmp_path / "config.json").write_text(json.dumps(script.hf_config(PRESETS["20b"])))
    estimate = estimate_memory(tmp_path, 131_072, chunk_tokens=1)
    assert estimate.weights == COMPONENTS["20b"]
    assert estimate.weight_bytes == 13_761_264_768
    # 2,048 bytes per token and layer: 12 full layers, and 12 rings of three pages.
    assert estimate.kv_bytes == 2048 * 12 * (131_072 + 192)
    table = [line.split() for line in str(estimate).splitlines()]
    assert ["experts", "10.152", "GB"] in table
    assert ["KV", "cache,", "131,072", "tokens", "3.226", "GB"] in table


@pytest.mark.parametrize("size", ["20b", "120b"])
def test_published_configs(size: str) -> None:
    folder = real_data() / f"gpt-oss-{size}"
    values = json.loads((folder / "config.json").read_text())
    config = ModelConfig.from_hf(values)
    assert config.eos_token_ids == (200_002,)
    config = dataclasses.replace(config, eos_token_ids=())
    assert config == PRESETS[size]
    values = json.loads((folder / "original" / "config.json").read_text())
    assert ModelConfig.from_original(values) == config


def test_published_names() -> None:
    folder = real_data() / "gpt-oss-20b"
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    tensors = list(stored_tensors(PRESETS["20b"], "hf"))
    assert {tensor.name for tensor in tensors} == set(index["weight_map"])
    assert sum(tensor.nbytes for tensor in tensors) == index["metadata"]["total_size"]
    # This file calls blocks FP4 and scales UE8; the safetensors headers call both U8.
    dtypes = json.loads((folder / "original" / "dtypes.json").read_text())
    tensors = list(stored_tensors(PRESETS["20b"], "original"))
    ours = {
        tensor.name: {"blocks": "FP4", "scales": "UE8"}.get(tensor.name.split(".")[-1], "BF16")
        for tensor in tensors
    }
    assert ours == dtypes


def test_published_stop_ids(tmp_path: Path) -> None:
    folder = real_data() / "gpt-oss-20b"
    config = dataclasses.replace(MICRO, vocab_size=201_088)
    make_checkpoint(tmp_path, config, tokenizer=folder / "tokenizer.json")
    # The first generation config lacks <|call|>.
    shutil.copyfile(folder / "generation_config.json", tmp_path / "generation_config.json")
    assert open_checkpoint(tmp_path).config.eos_token_ids == (200_002, 199_999, 200_012)
