"""GGUF files, written here and read by the `gguf` library, and the other way round."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gptoss.checkpoint import Checkpoint, TensorSource, open_checkpoint
from gptoss.config import LayerType
from gptoss.convert.gguf_writer import quantize_q8_0, write_gguf
from gptoss.reference.model import load_tensors
from gptoss.reference.mxfp4 import dequantize
from support.checkpoints import MICRO, make_checkpoint
from support.gguf_files import metadata_of, tensors_of

gguf = pytest.importorskip("gguf", reason="gguf is not installed")

pytestmark = pytest.mark.oracle

# The vocabulary has no room for special tokens, and so none for a tokenizer.
NO_TOKENIZER = dataclasses.replace(MICRO, vocab_size=33)
# All matrices have rows of whole blocks.
Q8_0_SHAPE = dataclasses.replace(MICRO, num_attention_heads=4)


def written(folder: Path, dense: str = "bf16", config: Any = MICRO) -> tuple[Checkpoint, Any]:
    make_checkpoint(folder / "model", config)
    checkpoint = open_checkpoint(folder / "model")
    path = folder / "model.gguf"
    assert write_gguf(checkpoint, path, dense=dense) == path.stat().st_size
    assert [entry.name for entry in folder.glob("*.gguf*")] == ["model.gguf"]
    return checkpoint, gguf.GGUFReader(path)


def floats(source: TensorSource) -> npt.NDArray[np.float32]:
    return (source.read().astype(np.uint32) << 16).view(np.float32)


def values(tensor: Any) -> npt.NDArray[np.float32]:
    return gguf.dequantize(tensor.data, tensor.tensor_type)


def fields(reader: Any) -> dict[str, Any]:
    return {name: field.contents() for name, field in reader.fields.items()}


@pytest.mark.parametrize("dense", ["bf16", "q8_0"])
def test_every_value_is_the_checkpoints(tmp_path: Path, dense: str) -> None:
    checkpoint, reader = written(tmp_path, dense)
    stored = {tensor.name: tensor for tensor in reader.tensors}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT_OSS, MICRO.num_hidden_layers)
    for hf_name, source in checkpoint.tensors.items():
        if hf_name.endswith("_scales"):
            continue
        gguf_name, expected = hf_name, None
        if "experts" in hf_name:
            stem, _, kind = hf_name.rpartition("_")
            if kind == "blocks":
                scales = checkpoint.tensors[f"{stem}_scales"].read()
                expected = dequantize(source.read(), scales)
            else:
                expected = floats(source)
            suffix = "weight" if kind == "blocks" else "bias"
            if stem.endswith("gate_up_proj"):
                for offset, part in enumerate(("gate_proj", "up_proj")):
                    gguf_name = names.get_name(f"{stem.replace('gate_up_proj', part)}")
                    found = values(stored.pop(f"{gguf_name}.{suffix}"))
                    np.testing.assert_array_equal(found, expected[:, offset::2], err_msg=hf_name)
                continue
            gguf_name = f"{names.get_name(stem)}.{suffix}"
        else:
            expected = floats(source)
            gguf_name = (
                names.get_name(hf_name, try_suffixes=(".weight", ".bias")) or f"{hf_name}.weight"
            )
            if hf_name.endswith("sinks"):
                gguf_name = names.get_name(hf_name) + ".weight"
        tensor = stored.pop(gguf_name)
        if tensor.tensor_type == gguf.GGMLQuantizationType.Q8_0:
            expected = gguf.dequantize(
                gguf.quantize(expected, tensor.tensor_type), tensor.tensor_type
            )
        np.testing.assert_array_equal(values(tensor), expected, err_msg=hf_name)
    assert not stored


@pytest.mark.parametrize("dense", ["bf16", "q8_0"])
def test_matrices_have_the_type_that_was_asked_for(tmp_path: Path, dense: str) -> None:
    _, reader = written(tmp_path, dense)
    types: dict[str, set[str]] = {}
    for tensor in reader.tensors:
        types.setdefault(tensor.tensor_type.name, set()).add(tensor.name)
    assert set(types) == {"F32", "MXFP4", dense.upper()}
    matrices = {"attn_q", "attn_k", "attn_v", "attn_output"}
    expected = {f"blk.{i}.{name}.weight" for i in range(2) for name in matrices}
    assert types[dense.upper()] == expected | {"token_embd.weight", "output.weight"}


def test_the_config(tmp_path: Path) -> None:
    _, reader = written(tmp_path)
    found = fields(reader)
    keys = gguf.Keys
    for key, value in {
        keys.LLM.BLOCK_COUNT: 2,
        keys.LLM.CONTEXT_LENGTH: 131_072,
        keys.LLM.EMBEDDING_LENGTH: 32,
        keys.LLM.EXPERT_FEED_FORWARD_LENGTH: 64,
        keys.LLM.EXPERT_COUNT: 3,
        keys.LLM.EXPERT_USED_COUNT: 2,
        keys.LLM.VOCAB_SIZE: 288,
        keys.Attention.HEAD_COUNT: 6,
        keys.Attention.HEAD_COUNT_KV: 2,
        keys.Attention.KEY_LENGTH: 16,
        keys.Attention.VALUE_LENGTH: 16,
        keys.Attention.SLIDING_WINDOW: 5,
        keys.Attention.LAYERNORM_RMS_EPS: float(np.float32(1e-5)),
        keys.Rope.FREQ_BASE: 150_000.0,
        keys.Rope.SCALING_TYPE: "yarn",
        keys.Rope.SCALING_FACTOR: 32.0,
        keys.Rope.SCALING_ORIG_CTX_LEN: 4096,
        keys.Rope.SCALING_YARN_BETA_FAST: 32.0,
        keys.Rope.SCALING_YARN_BETA_SLOW: 1.0,
    }.items():
        assert found[key.format(arch="gpt-oss")] == value, key


def test_the_tokenizer(tmp_path: Path) -> None:
    checkpoint, reader = written(tmp_path)
    found = fields(reader)
    tokenizer = json.loads((tmp_path / "model" / "tokenizer.json").read_text())
    special = {added["content"]: added["id"] for added in tokenizer["added_tokens"]}
    tokens, types = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"]
    assert len(tokens) == len(types) == MICRO.vocab_size
    for text, token_id in tokenizer["model"]["vocab"].items():
        assert tokens[token_id] == text
        expected = gguf.TokenType.CONTROL if text in special else gguf.TokenType.NORMAL
        assert types[token_id] == expected
    assert types.count(gguf.TokenType.UNUSED) == MICRO.vocab_size - len(tokenizer["model"]["vocab"])
    assert found["tokenizer.ggml.eos_token_id"] in checkpoint.config.eos_token_ids


def test_without_a_tokenizer_there_is_no_vocabulary(tmp_path: Path) -> None:
    _, reader = written(tmp_path, config=NO_TOKENIZER)
    assert fields(reader)["tokenizer.ggml.model"] == "none"


def test_q8_0_rounds_as_ggml_does() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 96), dtype=np.float32)
    x[0] = 0
    # A scale of exactly 1 makes every half a tie.
    x[1] = np.concatenate([np.arange(-47.5, 47.5), [127]])
    x[2, :32] *= 1e-9
    expected = gguf.quantize(x, gguf.GGMLQuantizationType.Q8_0)
    np.testing.assert_array_equal(quantize_q8_0(x).reshape(64, -1), expected)


def test_a_failed_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_checkpoint(tmp_path / "model", MICRO)
    checkpoint = open_checkpoint(tmp_path / "model")

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("gptoss.convert.gguf_writer.repack_mxfp4", fail)
    with pytest.raises(OSError, match="the disk is full"):
        write_gguf(checkpoint, tmp_path / "model.gguf")
    assert not list(tmp_path.glob("*.gguf*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"swiglu_limit": 5.0}, "swiglu_limit"),
        ({"layer_types": ("full_attention", "sliding_attention")}, "alternate"),
    ],
)
def test_what_llama_cpp_cannot_run_is_refused(
    tmp_path: Path, change: dict[str, float | tuple[LayerType, ...]], message: str
) -> None:
    make_checkpoint(tmp_path / "model", dataclasses.replace(MICRO, **change))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        write_gguf(open_checkpoint(tmp_path / "model"), tmp_path / "model.gguf")


def test_a_file_that_the_library_writes_is_read(tmp_path: Path) -> None:
    """With its own quantiser, its own order of fields, and a float16 matrix."""
    make_checkpoint(tmp_path / "model", Q8_0_SHAPE)
    checkpoint = open_checkpoint(tmp_path / "model")
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "gpt-oss")
    c = checkpoint.config
    writer.add_name("made by the library")
    writer.add_block_count(c.num_hidden_layers)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_expert_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_key_length(c.head_dim)
    writer.add_value_length(c.head_dim)
    writer.add_expert_count(c.num_local_experts)
    writer.add_expert_used_count(c.num_experts_per_tok)
    writer.add_sliding_window(c.sliding_window)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_rope_freq_base(c.rope.theta)
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(c.rope.factor)
    writer.add_rope_scaling_orig_ctx_len(c.rope.original_context_length)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-4o")
    tokenizer = json.loads((tmp_path / "model" / "tokenizer.json").read_text())
    vocab = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    special = {added["content"] for added in tokenizer["added_tokens"]}
    writer.add_token_list(vocab)
    writer.add_token_types([3 if piece in special else 1 for piece in vocab])
    merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
    writer.add_token_merges(merges or ["a b"])
    expected: dict[str, Any] = {}
    for name, (kind, shape, data) in tensors_of(checkpoint).items():
        if kind == "MXFP4":
            raw = np.frombuffer(data, np.uint8).reshape(*shape[:-1], -1)
            writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType.MXFP4)
            continue
        values = (
            np.frombuffer(data, np.float32)
            if kind == "F32"
            else (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
        ).reshape(shape)
        if kind == "F32":
            writer.add_tensor(name, values)
            continue
        quantised = gguf.quantize(values, gguf.GGMLQuantizationType.Q8_0)
        expected[name] = gguf.dequantize(quantised, gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(name, quantised, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = open_checkpoint(tmp_path / "m.gguf")
    tensors, exact = load_tensors(found), load_tensors(checkpoint)
    assert found.tokenizer_json is not None
    for name, values in tensors.items():
        if "experts" in name or values.ndim == 1 or "router" in name:
            np.testing.assert_array_equal(values, exact[name], err_msg=name)
    for name, own in (
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("output.weight", "lm_head.weight"),
        ("blk.1.attn_output.weight", "model.layers.1.self_attn.o_proj.weight"),
    ):
        np.testing.assert_array_equal(tensors[own], expected[name])


def test_a_split_file_of_the_library_is_read(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "model", NO_TOKENIZER)
    checkpoint = open_checkpoint(tmp_path / "model")
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "gpt-oss", split_max_tensors=20)
    for key, value in metadata_of(checkpoint).items():
        if key == "general.architecture":
            continue
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        else:
            writer.add_uint32(key, value)
    for name, (kind, shape, data) in tensors_of(checkpoint).items():
        raw = np.frombuffer(data, np.float32 if kind == "F32" else np.uint8)
        raw = raw.reshape(*shape[:-1], -1)
        number = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(name, raw, raw_dtype=None if kind == "F32" else number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    paths = sorted(tmp_path.glob("m-*.gguf"))
    assert len(paths) > 1
    found = open_checkpoint(paths[-1])
    for name, tensor in checkpoint.tensors.items():
        assert found.tensors[name].read().tobytes() == tensor.read().tobytes(), name
