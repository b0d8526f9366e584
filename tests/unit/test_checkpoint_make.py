"""The script that makes random checkpoints: format, reproducibility, plausible numbers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gptoss.checkpoint import Checkpoint, open_checkpoint
from gptoss.config import ModelConfig
from gptoss.reference.mxfp4 import dequantize
from support.checkpoints import MICRO, PRESETS, make_checkpoint, script

TINY = PRESETS["tiny"]


def digest(folder: Path) -> str:
    """Hash all files of a folder, with their names."""
    result = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        result.update(f"{path.relative_to(folder).as_posix()}:".encode() + path.read_bytes())
    return result.hexdigest()


def values(checkpoint: Checkpoint, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    bits = checkpoint.tensors[name].read().astype(np.uint32) << 16
    return bits.view(np.float32)


# Any change to these means that checkpoints made earlier differ from those made now, and with
# them every golden file that comes from one.
DIGESTS = {
    "hf": "0cf824e328897b451516bec56cee0ff0e7d18d5ed4df58cba72265ccf45dfdf4",
    "original": "5f90122670910df47cfcd7568264515e624e381f7daa5e82be52040bd48d12c3",
}


@pytest.mark.parametrize("layout", ["hf", "original"])
def test_bytes_are_reproducible(layout: str, tmp_path: Path) -> None:
    make_checkpoint(tmp_path, TINY, layout=layout, seed=7)  # type: ignore[arg-type]
    assert digest(tmp_path) == DIGESTS[layout]


def test_seed_chooses_the_weights(tmp_path: Path) -> None:
    for seed in (0, 1):
        make_checkpoint(tmp_path / str(seed), MICRO, seed=seed)
    first, second = (open_checkpoint(tmp_path / str(seed)).tensors for seed in (0, 1))
    for name, tensor in first.items():
        assert not np.array_equal(tensor.read(), second[name].read()), name


def test_weights_do_not_depend_on_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_checkpoint(tmp_path / "whole", MICRO)
    monkeypatch.setattr(script, "_CHUNK_BYTES", 1 << 10)
    make_checkpoint(tmp_path / "chunks", MICRO)
    assert digest(tmp_path / "whole") == digest(tmp_path / "chunks")


def test_safetensors_package_reads_the_same(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors", reason="safetensors is not installed")
    make_checkpoint(tmp_path, MICRO, shard_bytes=35_000)
    seen = 0
    checkpoint = open_checkpoint(tmp_path)
    for path in tmp_path.glob("*.safetensors"):
        for name, entry in safetensors.deserialize(path.read_bytes()):
            tensor = checkpoint.tensors[name]
            assert tensor.path == path
            assert (entry["dtype"], tuple(entry["shape"])) == (tensor.dtype, tensor.shape)
            assert bytes(entry["data"]) == tensor.read().tobytes()
            seen += 1
    assert seen == len(checkpoint.tensors)


def test_shards_and_index(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, MICRO, shard_bytes=35_000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    # Numbered as the published shards of 20b are.
    names = [f"model-0000{i}-of-00002.safetensors" for i in range(3)]
    assert sorted(set(index["weight_map"].values())) == names
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == names
    assert index["metadata"]["total_size"] == open_checkpoint(tmp_path).weight_bytes


def test_magnitudes(tmp_path: Path) -> None:
    """Rows make outputs of order 1 from inputs of order 1, whatever the width."""
    make_checkpoint(tmp_path, TINY)
    checkpoint = open_checkpoint(tmp_path)
    layer = "model.layers.2"
    for name, std in (
        (f"{layer}.self_attn.q_proj.weight", 1.2 / 8),
        (f"{layer}.self_attn.o_proj.weight", 0.7 / 128**0.5),
        (f"{layer}.mlp.router.weight", 1.5 / 8),
        ("lm_head.weight", 3.0 / 8),
        ("model.embed_tokens.weight", 1.0),
        (f"{layer}.mlp.experts.gate_up_proj_bias", 0.1),
    ):
        array = values(checkpoint, name)
        # Five standard errors of the estimate; bfloat16 adds less.
        assert array.std() == pytest.approx(std, rel=5 / (2 * array.size) ** 0.5), name
        assert abs(array.mean()) < 5 * std / array.size**0.5, name
    norm = values(checkpoint, "model.norm.weight")
    assert 0.5 < norm.min() < norm.max() < 1.5
    assert norm.std() > 0.05
    sinks = values(checkpoint, f"{layer}.self_attn.sinks")
    assert len(np.unique(sinks)) == 8
    for name, spread in (("gate_up_proj", 1.5), ("down_proj", 0.5)):
        tensors = [
            checkpoint.tensors[f"{layer}.mlp.experts.{name}_{x}"] for x in ("blocks", "scales")
        ]
        weights = dequantize(tensors[0].read(), tensors[1].read())
        # A scale is a power of two, so the nearest is at most a factor of sqrt(2) off.
        output = weights.std() * 64**0.5
        assert spread / 1.45 < output < spread * 1.45


@pytest.mark.parametrize(
    ("name", "rows", "columns", "expected"),
    [
        ("gate_up_proj_scales", 5760, 90, range(118, 123)),
        ("down_proj_scales", 2880, 90, range(116, 121)),
    ],
)
def test_scales_and_nibbles_at_published_sizes(
    name: str, rows: int, columns: int, expected: range
) -> None:
    chunks = script._mxfp4(f"model.layers.0.mlp.experts.{name}", (1, rows, columns), 0)
    found, counts = np.unique(np.concatenate(list(chunks)), return_counts=True)
    assert found.tolist() == list(expected)
    assert counts.argmax() == 2
    blocks = np.concatenate(list(script._mxfp4("x_blocks", (1, 500, 90, 16), 0)))
    counts = np.bincount(blocks & 15, minlength=16) + np.bincount(blocks >> 4, minlength=16)
    expected_count = 2 * blocks.size / 16
    assert np.abs(counts - expected_count).max() < 5 * expected_count**0.5


def test_tokenizer(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    make_checkpoint(tmp_path, TINY)
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    every_byte = bytes(range(256)).decode("latin-1")
    for text in ("Hello, wörld\n\t 漢字 🙂", every_byte, "  two  spaces "):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert bytes(ids) == text.encode()
        assert tokenizer.decode(ids) == text
    for token_id, name in enumerate(script.SPECIAL_TOKENS, start=256):
        assert tokenizer.token_to_id(name) == token_id
        assert tokenizer.encode(f"a{name}b").ids == [97, token_id, 98]
    assert tokenizer.get_vocab_size() == 266


def test_special_tokens_have_the_published_ids_in_a_full_vocabulary(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, dataclasses.replace(MICRO, vocab_size=201_088))
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    published = {
        "<|startoftext|>": 199_998,
        "<|endoftext|>": 199_999,
        "<|return|>": 200_002,
        "<|constrain|>": 200_003,
        "<|channel|>": 200_005,
        "<|start|>": 200_006,
        "<|end|>": 200_007,
        "<|message|>": 200_008,
        "<|call|>": 200_012,
        "<|endofprompt|>": 200_018,
    }
    assert {token["content"]: token["id"] for token in content["added_tokens"]} == published
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for name, token_id in published.items():
        assert tokenizer.encode(f"a{name}b").ids == [97, token_id, 98]
        assert tokenizer.decode([token_id], skip_special_tokens=False) == name


def test_a_vocabulary_without_room_has_no_tokenizer(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, dataclasses.replace(MICRO, vocab_size=265))
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.tokenizer_path is None
    assert checkpoint.config.eos_token_ids == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"rms_norm_eps": 1e-6},
        {"max_position_embeddings": 1024},
        {"layer_types": ("full_attention", "full_attention")},
        {"rope": dataclasses.replace(MICRO.rope, truncate=True)},
    ],
)
def test_what_the_original_layout_cannot_say(changes: dict[str, object], tmp_path: Path) -> None:
    config = dataclasses.replace(MICRO, **changes)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the original layout has"):
        make_checkpoint(tmp_path, config, layout="original")
    make_checkpoint(tmp_path, config)
    found = open_checkpoint(tmp_path).config
    assert dataclasses.replace(found, eos_token_ids=()) == config


def test_original_layout_has_no_bfloat16_experts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the original layout has MXFP4 experts"):
        make_checkpoint(tmp_path, MICRO, layout="original", bf16_experts=True)


def test_configs_come_back() -> None:
    for config in PRESETS.values():
        found = ModelConfig.from_hf(json.loads(json.dumps(script.hf_config(config))))
        assert dataclasses.replace(found, eos_token_ids=()) == config
        assert ModelConfig.from_original(script.original_config(config)) == config


def test_command_line(tmp_path: Path) -> None:
    arguments = "--preset 20b --layers 3 --hidden 32 --intermediate 32 --heads 2 --kv-heads 1 "
    arguments += "--head-dim 16 --vocab 300 --experts 2 --active 1 --window 4 --seed 5"
    script_path = Path(script.__file__)
    command = [sys.executable, str(script_path), *arguments.split(), str(tmp_path / "out")]
    completed = subprocess.run(command, check=True, capture_output=True, text=True)
    last_line = json.loads(completed.stdout.splitlines()[-1])
    checkpoint = open_checkpoint(tmp_path / "out")
    assert last_line["tensor_bytes"] == checkpoint.weight_bytes
    config = checkpoint.config
    assert config.layer_types == ("sliding_attention", "full_attention", "sliding_attention")
    assert (config.hidden_size, config.num_local_experts, config.sliding_window) == (32, 2, 4)
    make_checkpoint(tmp_path / "same", dataclasses.replace(config, eos_token_ids=()), seed=5)
    assert digest(tmp_path / "same") == digest(tmp_path / "out")


def test_help_names_every_option() -> None:
    command = [sys.executable, str(Path(script.__file__)), "--help"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for option in ("--preset", "--layers", "--layout", "--seed", "--tokenizer", "OUT"):
        assert re.search(rf"{option}\b", text)
