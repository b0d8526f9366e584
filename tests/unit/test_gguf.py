"""Models in GGUF files: every number is the checkpoint's, and what is wrong is named."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gptoss
from gptoss import _core
from gptoss.checkpoint import Checkpoint, estimate_memory, open_checkpoint
from gptoss.checkpoint.gguf_file import read_gguf
from gptoss.checkpoint.gguf_model import PRE_TOKENIZER_PATTERN
from gptoss.checkpoint.memory import matrices_in_q8_0
from gptoss.checkpoint.open import locate
from gptoss.checkpoint.traffic import decode_bytes
from gptoss.checkpoint.verify import verify_model, write_sums
from gptoss.cli import main
from gptoss.convert import write_gguf
from gptoss.errors import CheckpointError
from gptoss.reference.model import ReferenceModel, load_tensors
from support import tolerances
from support.checkpoints import MICRO, edit_json, make_checkpoint
from support.gguf_files import encode, metadata_of, tensors_of, text, write

# Whole blocks in all matrices, and a group of fewer than four blocks.
SHAPE = dataclasses.replace(MICRO, num_attention_heads=4, hidden_size=96)
TOKENS = [5, 17, 260, 3, 99, 0, 41, 7, 7, 200]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("source") / "model"
    make_checkpoint(folder, SHAPE)
    return open_checkpoint(folder)


def made(folder: Path, checkpoint: Checkpoint, **types: str) -> Path:
    return write(folder / "m.gguf", metadata_of(checkpoint), tensors_of(checkpoint, **types))


def bits(checkpoint: Checkpoint) -> dict[str, bytes]:
    return {name: tensor.read().tobytes() for name, tensor in checkpoint.tensors.items()}


@pytest.mark.parametrize("small", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("dense", ["F32", "F16", "BF16"])
def test_every_byte_is_the_checkpoints(
    dense: str, small: str, source: Checkpoint, tmp_path: Path
) -> None:
    path = made(tmp_path, source, dense=dense, small=small)
    if "F16" in (dense, small):  # numbers below float16's range are rounded when they are written
        found = load_tensors(open_checkpoint(path, dtype="convert"))
        for name, expected in load_tensors(source).items():
            np.testing.assert_allclose(found[name], expected, rtol=2**-8, atol=2**-25)
        return
    found_checkpoint = open_checkpoint(path)
    assert bits(found_checkpoint) == bits(source)
    assert list(found_checkpoint.tensors) == list(source.tensors)
    mapped = [t.array is None for t in found_checkpoint.tensors.values()]
    assert any(mapped) == ("BF16" in (dense, small))
    found = found_checkpoint.config
    assert dataclasses.replace(found, eos_token_ids=()) == dataclasses.replace(
        source.config, eos_token_ids=()
    )


def test_q8_0_keeps_its_codes_and_scales(source: Checkpoint, tmp_path: Path) -> None:
    path = made(tmp_path, source, dense="Q8_0")
    found, exact = load_tensors(open_checkpoint(path)), load_tensors(source)
    for name, tensor in read_gguf(path).tensors.items():
        if tensor.type != "Q8_0":
            continue
        data = np.fromfile(path, np.uint8, tensor.nbytes, offset=tensor.offset).reshape(-1, 34)
        scales = np.ascontiguousarray(data[:, :2]).view(np.float16).astype(np.float64)
        expected = (data[:, 2:].view(np.int8) * scales).reshape(tensor.shape)
        matches = [n for n, v in found.items() if v.shape == expected.shape]
        assert any(np.array_equal(found[n], expected) for n in matches), name
    for name, values in found.items():
        error = np.abs(values - exact[name]).max()
        assert error <= np.abs(exact[name]).max() / 200


@pytest.mark.parametrize("isa", [i[0] for i in _core.isas() if i[1]])
@pytest.mark.parametrize("dense", ["BF16", "Q8_0"])
def test_logits(
    dense: str, isa: str, source: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPTOSS_ISA", isa)
    path = made(tmp_path, source, dense=dense)
    checkpoint = open_checkpoint(path)
    expected = ReferenceModel(checkpoint.config, load_tensors(checkpoint)).logits(TOKENS)
    with gptoss.load(path, threads=1, precision="reference") as llm:
        found = llm.logits(TOKENS)
    error = tolerances.relative_l2(found, expected)
    assert np.median(error) <= tolerances.FP32_MEDIAN_RELATIVE_L2
    for mode in ("bf16", "bf12", "q8"):
        with gptoss.load(path, threads=1, dense=mode) as llm:  # type: ignore[arg-type]
            found = llm.logits(TOKENS)
        error = tolerances.relative_l2(found, expected)
        assert np.median(error) <= tolerances.INT8_DENSE_MEDIAN_RELATIVE_L2
        if dense == "Q8_0":
            assert "9 dense weights in q8_0" in repr(llm)


def test_only_some_matrices_in_q8_0(source: Checkpoint, tmp_path: Path) -> None:
    tensors = tensors_of(source)
    q8 = tensors_of(source, dense="Q8_0")
    for name in ("token_embd.weight", "blk.1.attn_output.weight"):
        tensors[name] = q8[name]
    for letter in "qkv":
        tensors[f"blk.0.attn_{letter}.weight"] = q8[f"blk.0.attn_{letter}.weight"]
    path = write(tmp_path / "m.gguf", metadata_of(source), tensors)
    checkpoint = open_checkpoint(path)
    expected = ReferenceModel(checkpoint.config, load_tensors(checkpoint)).logits(TOKENS)
    with gptoss.load(path, threads=1, precision="reference") as llm:
        error = tolerances.relative_l2(llm.logits(TOKENS), expected)
    assert np.median(error) <= tolerances.FP32_MEDIAN_RELATIVE_L2
    tensors["blk.0.attn_k.weight"] = tensors_of(source)["blk.0.attn_k.weight"]
    write(path, metadata_of(source), tensors)
    with pytest.raises(CheckpointError, match=r"k_proj.weight: expected Q8_0, as the query's"):
        open_checkpoint(path)


@pytest.mark.parametrize("experts", ["F32", "F16", "BF16", "Q8_0"])
def test_wide_experts(experts: str, source: Checkpoint, tmp_path: Path) -> None:
    path = made(tmp_path, source, experts=experts)
    with pytest.raises(CheckpointError, match=f'found {experts}.*experts="mxfp4"'):
        open_checkpoint(path)
    found = open_checkpoint(path, experts="mxfp4")
    if experts == "Q8_0":  # rounded twice
        assert {n: t.shape for n, t in found.tensors.items()} == {
            n: t.shape for n, t in source.tensors.items()
        }
        return
    expected = load_tensors(source)
    for name, values in load_tensors(found).items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)


def test_numbers_that_would_be_rounded(source: Checkpoint, tmp_path: Path) -> None:
    tensors = tensors_of(source, dense="F32")
    kind, shape, data = tensors["output.weight"]
    values = np.frombuffer(data, "<f4").copy()
    values[7] = 0.1
    tensors["output.weight"] = (kind, shape, values.tobytes())
    path = write(tmp_path / "m.gguf", metadata_of(source), tensors)
    with pytest.raises(CheckpointError, match=r"lm_head.weight: .*F32 with 0.1\d* at \[0, 7\]"):
        open_checkpoint(path)
    assert open_checkpoint(path, dtype="convert").converted_bytes > 0


def test_a_split_file(source: Checkpoint, tmp_path: Path) -> None:
    tensors = list(tensors_of(source).items())
    metadata = metadata_of(source)
    paths = []
    for number, (own, part) in enumerate(
        [(metadata, tensors[:9]), ({}, tensors[9:10]), ({}, tensors[10:])]
    ):
        split = {"split.no": number, "split.count": 3, "split.tensors.count": len(tensors)}
        name = f"gpt-oss-{number + 1:05}-of-00003.gguf"
        paths.append(write(tmp_path / name, own | split, dict(part)))
    for path in [*paths, tmp_path]:
        found = open_checkpoint(path)
        assert (found.path, found.name) == (paths[0], "gpt-oss")
        assert bits(found) == bits(source)
    paths[1].rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="3 parts beside one another, found no gpt-oss-00002"):
        open_checkpoint(paths[2])
    shutil.copyfile(paths[2], paths[1])
    with pytest.raises(CheckpointError, match=r"field split.no: expected 1, found 2"):
        open_checkpoint(paths[0])
    paths[0].rename(tmp_path / "m.gguf")
    with pytest.raises(CheckpointError, match="expected the name of a part"):
        open_checkpoint(tmp_path / "m.gguf")


def test_a_split_file_has_all_of_its_tensors(source: Checkpoint, tmp_path: Path) -> None:
    tensors = tensors_of(source)
    split = {"split.no": 0, "split.count": 1, "split.tensors.count": len(tensors) + 1}
    path = write(tmp_path / "m-00001-of-00001.gguf", metadata_of(source) | split, tensors)
    with pytest.raises(CheckpointError, match=r"split.tensors.count: expected"):
        open_checkpoint(path)


FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    "another model": ({"general.architecture": "llama"}, "expected 'gpt-oss', found 'llama'; gpt"),
    "Ollama's": ({"general.architecture": "gptoss"}, "Ollama's own form"),
    "no architecture": ({"general.architecture": None}, "expected 'gpt-oss', found None"),
    "no layers": ({"gpt-oss.block_count": None}, "gpt-oss.block_count: expected an integer"),
    "layers as text": ({"gpt-oss.block_count": "2"}, "gpt-oss.block_count: .*found '2'"),
    "more layers": ({"gpt-oss.block_count": 3}, "blk.2.attn_norm.weight: expected by the metadata"),
    "fewer layers": ({"gpt-oss.block_count": 1}, "expected no tensor of this name"),
    "negative": ({"gpt-oss.expert_count": -1}, "gpt-oss.expert_count: .*found -1"),
    "two lengths": ({"gpt-oss.attention.value_length": 32}, "value_length: expected 16, found 32"),
    "rope of a part": ({"gpt-oss.rope.dimension_count": 8}, "dimension_count: expected 16"),
    "linear": ({"gpt-oss.rope.scaling.type": "linear"}, "expected 'yarn' or 'none'"),
    "windows": ({"gpt-oss.attention.sliding_window_pattern": 6}, "pattern: expected 2, found 6"),
    "few windows": (
        {"gpt-oss.attention.sliding_window_pattern": [True]},
        "expected 2 booleans",
    ),
    "alignment": ({"general.alignment": 24}, "expected a power of two"),
    "token": ({"tokenizer.ggml.eos_token_id": 288}, "stop token: expected an id below .*288"),
    "a token as text": ({"tokenizer.ggml.eos_token_id": "1"}, "expected a token id, found '1'"),
    "other heads": ({"gpt-oss.attention.head_count_kv": 1}, "expected shape .*found"),
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_that_is_wrong(name: str, source: Checkpoint, tmp_path: Path) -> None:
    changes, message = FIELDS[name]
    path = write(tmp_path / "m.gguf", metadata_of(source, **changes), tensors_of(source))
    for use in (open_checkpoint, estimate_memory):
        if name in ("token", "a token as text") and use is estimate_memory:
            continue
        with pytest.raises(CheckpointError, match=message) as raised:
            use(path)
        assert str(path) in str(raised.value)


def test_the_windows_that_a_file_lists(source: Checkpoint, tmp_path: Path) -> None:
    pattern = {"gpt-oss.attention.sliding_window_pattern": [False, True]}
    path = write(tmp_path / "m.gguf", metadata_of(source, **pattern), tensors_of(source))
    assert open_checkpoint(path).config.layer_types == ("full_attention", "sliding_attention")


def test_plain_rope(source: Checkpoint, tmp_path: Path) -> None:
    names = ("type", "factor", "original_context_length")
    changes = {f"gpt-oss.rope.scaling.{name}": None for name in names}
    path = write(tmp_path / "m.gguf", metadata_of(source, **changes), tensors_of(source))
    assert open_checkpoint(path).config.rope.factor == 1


def drop(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda tensors: tensors.pop(name)


def retype(name: str, kind: str, data: bytes) -> Callable[[dict[str, Any]], object]:
    return lambda tensors: tensors.update({name: (kind, tensors[name][1], data)})


TENSORS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "missing": (drop("output.weight"), "output.weight: expected by the metadata, found none"),
    "one more": (
        lambda tensors: tensors.update({"rope_freqs.weight": ("F32", (8,), bytes(32))}),
        "rope_freqs.weight: expected no tensor of this name",
    ),
    "K-quants": (
        retype("blk.0.attn_q.weight", "Q4_K", bytes(144)),
        "attn_q.weight: expected F32, F16, BF16 or Q8_0, found Q4_K; take a file",
    ),
    "norms": (
        retype("output_norm.weight", "Q8_0", bytes(102)),
        "output_norm.weight: expected F32, F16 or BF16, found Q8_0",
    ),
    "gate and up": (
        retype("blk.0.ffn_up_exps.weight", "BF16", bytes(3 * 64 * 96 * 2)),
        "expected the type of blk.0.ffn_gate_exps.weight, MXFP4, found BF16",
    ),
    "shape": (
        lambda tensors: tensors.update({"output_norm.weight": ("F32", (64,), bytes(256))}),
        r"expected shape \(96,\), found \(64,\)",
    ),
}


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_that_is_wrong(name: str, source: Checkpoint, tmp_path: Path) -> None:
    change, message = TENSORS[name]
    tensors: dict[str, Any] = tensors_of(source)
    change(tensors)
    path = write(tmp_path / "m.gguf", metadata_of(source), tensors)
    for use in (open_checkpoint, estimate_memory):
        with pytest.raises(CheckpointError, match=message):
            use(path)


def test_scales_that_no_kernel_can_use(source: Checkpoint, tmp_path: Path) -> None:
    tensors = tensors_of(source, dense="Q8_0")
    kind, shape, data = tensors["blk.1.attn_output.weight"]
    infinite = np.float16(np.inf).tobytes()
    bad = tensors | {"blk.1.attn_output.weight": (kind, shape, data[:34] + infinite + data[36:])}
    path = write(tmp_path / "m.gguf", metadata_of(source), bad)
    with pytest.raises(CheckpointError, match=r"o_proj.weight: expected finite scales.*\[0, 1\]"):
        open_checkpoint(path)
    kind, shape, data = tensors["blk.0.ffn_down_exps.weight"]
    bad = tensors | {"blk.0.ffn_down_exps.weight": (kind, shape, b"\xff" + data[1:])}
    path = write(tmp_path / "m.gguf", metadata_of(source), bad)
    with pytest.raises(CheckpointError, match="expected scale bytes up to 252, found 255"):
        gptoss.load(path, threads=1)
    report = verify_model(path)
    assert "scale bytes up to 252" in str(report.problem)


HEADS: dict[str, tuple[bytes, str]] = {
    "nothing but the magic": (b"GGUF", "at least 24 bytes, found 4"),
    "version 1": (b"GGUF\x01\x00\x00\x00" + bytes(16), "GGUF version: expected 2 or 3, found 1"),
    "big-endian": (b"GGUF\x00\x00\x00\x03" + bytes(16), "found 3 in big-endian order"),
    "many tensors": (
        b"GGUF\x03\x00\x00\x00" + b"\xff" * 16,
        "count of tensors: expected at most 0 in a file of 24 bytes",
    ),
    "many fields": (
        b"GGUF\x03\x00\x00\x00" + bytes(8) + b"\xff" * 7 + b"\x7f",
        "count of metadata fields: expected at most 0",
    ),
    "a long key": (
        b"GGUF\x03\x00\x00\x00" + bytes(8) + b"\x01" + bytes(7) + b"\xff" * 8 + bytes(9),
        "length of a metadata key: expected at most 9",
    ),
    "a long array": (
        b"GGUF\x03\x00\x00\x00"
        + bytes(8)
        + b"\x01"
        + bytes(7)
        + text("a")
        + b"\x09\x00\x00\x00\x08\x00\x00\x00"
        + b"\xff" * 6
        + bytes(2),
        "field a: expected at most 0",
    ),
    "an array of arrays": (
        b"GGUF\x03\x00\x00\x00"
        + bytes(8)
        + b"\x01"
        + bytes(7)
        + text("a")
        + b"\x09\x00\x00\x00\x09\x00\x00\x00"
        + bytes(8),
        "field a: expected an array of numbers or strings, found type 9",
    ),
    "an unknown type": (
        b"GGUF\x03\x00\x00\x00" + bytes(8) + b"\x01" + bytes(7) + text("a") + b"\x0d" + bytes(3),
        "field a: expected a known type of value, found type 13",
    ),
    "no UTF-8": (
        b"GGUF\x03\x00\x00\x00" + bytes(8) + b"\x01" + bytes(7) + text(b"\xff") + bytes(8),
        "a metadata key: expected UTF-8",
    ),
    "other bytes": (b"GGUG\x03\x00\x00\x00" + bytes(16), "expected a checkpoint's folder or a GG"),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_that_is_wrong(name: str, tmp_path: Path) -> None:
    content, message = HEADS[name]
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(path)


def test_a_file_that_is_cut_off(source: Checkpoint, tmp_path: Path) -> None:
    path = made(tmp_path, source)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 40])
    with pytest.raises(CheckpointError, match="the file is cut off: download it anew"):
        open_checkpoint(path)
    path.write_bytes(content[:200])
    with pytest.raises(CheckpointError, match=r"cut off or damaged|expected at most"):
        open_checkpoint(path)


def test_tensors_that_overlap(source: Checkpoint, tmp_path: Path) -> None:
    path = made(tmp_path, source)
    content = bytearray(path.read_bytes())
    at = content.index(b"output_norm.weight") + len(b"output_norm.weight") + 4 + 8 + 4
    assert int.from_bytes(content[at : at + 8], "little") > 0
    content[at : at + 8] = bytes(8)
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="expected bytes of its own, found an overlap"):
        open_checkpoint(path)
    content[at] = 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="an offset that is a multiple of 32, found 1"):
        open_checkpoint(path)


def test_no_more_memory_than_there_is(
    source: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made(tmp_path, source)
    monkeypatch.setattr(_core, "available_memory_bytes", lambda: 1000)
    with pytest.raises(MemoryError, match="GB of its weights have to be turned"):
        open_checkpoint(path)


def test_estimates_count_q8_0(source: Checkpoint, tmp_path: Path) -> None:
    plain = estimate_memory(made(tmp_path, source), 64)
    assert plain.weights == estimate_memory(source.path, 64).weights
    q8 = estimate_memory(made(tmp_path, source, dense="Q8_0"), 64)
    for name in ("attention", "embedding", "unembedding"):
        assert q8.weights[name] == plain.weights[name] * 34 / 64
    assert estimate_memory(tmp_path / "m.gguf", 64, dense="q8").weights == q8.weights
    located = locate(tmp_path / "m.gguf")
    names = matrices_in_q8_0(located)
    assert "model.layers.1.self_attn.o_proj.weight" in names
    # All but one row of the embedding's is read by a step.
    read, less = (decode_bytes(located.config, q8_0=held) for held in ((), names))
    saved = sum(plain.weights[name] - q8.weights[name] for name in ("attention", "unembedding"))
    row = SHAPE.hidden_size * (2 - 34 / 32)
    assert read - less == pytest.approx(saved + row)


class TestTokenizer:
    """The tokenizer of the metadata is the one that the file was made with."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "model"
        make_checkpoint(folder, MICRO)
        return folder

    @staticmethod
    def same(path: Path, folder: Path) -> None:
        found, expected = gptoss.Tokenizer(str(path)), gptoss.Tokenizer(str(folder))
        text = "Hello wörld, it's 12345 tokens!\n\n  <|start|>user<|message|>\ttext 日本"
        assert found.encode(text, allowed_special="all") == expected.encode(
            text, allowed_special="all"
        )
        assert found.special_tokens == expected.special_tokens
        assert found.vocab_size == expected.vocab_size

    def test_as_llama_cpp_writes_it(self, folder: Path, tmp_path: Path) -> None:
        def set_pattern(tokenizer: dict[str, Any]) -> None:
            split = {"Regex": PRE_TOKENIZER_PATTERN}
            byte_level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
            tokenizer["pre_tokenizer"] = {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Split", "pattern": split, "behavior": "Isolated", "invert": False},
                    byte_level | {"trim_offsets": True},
                ],
            }

        edit_json(folder / "tokenizer.json", set_pattern)
        path = tmp_path / "m.gguf"
        write_gguf(open_checkpoint(folder), path)
        assert "tokenizer.huggingface.json" not in read_gguf(path).metadata
        self.same(path, folder)
        checkpoint = open_checkpoint(path)
        assert set(checkpoint.config.eos_token_ids) == set(
            open_checkpoint(folder).config.eos_token_ids
        )

    def test_with_a_pattern_of_its_own(self, tmp_path: Path) -> None:
        path = tmp_path / "demo.gguf"
        write_gguf(open_checkpoint("demo"), path)
        assert "tokenizer.huggingface.json" in read_gguf(path).metadata
        self.same(path, Path(gptoss.__file__).parent / "demo")

    def test_beside_the_file(self, folder: Path, tmp_path: Path, source: Checkpoint) -> None:
        path = made(tmp_path, source)
        assert open_checkpoint(path).tokenizer_json is None
        with pytest.raises(CheckpointError, match=r"expected tokenizer.json"):
            gptoss.Tokenizer(str(path))
        shutil.copyfile(folder / "tokenizer.json", tmp_path / "tokenizer.json")
        self.same(path, folder)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"tokenizer.ggml.model": "llama"}, "ggml.model: expected 'gpt2', found 'llama'"),
            ({"tokenizer.ggml.pre": "qwen2"}, "ggml.pre: expected 'gpt-4o', found 'qwen2'"),
            ({"tokenizer.ggml.tokens": [1, 2]}, "tokens: expected an array of strings"),
            ({"tokenizer.ggml.merges": ["a b c"]}, "merges: expected two tokens with a space"),
            ({"tokenizer.ggml.token_type": [1]}, "expected an array of 2 integers"),
            ({"tokenizer.ggml.token_type": [1, 6]}, "expected 1, 3, 4 or 5, found '6 at 1'"),
            ({"tokenizer.ggml.tokens": ["a", "a"]}, "expected each token once, found 'a'"),
        ],
    )
    def test_what_is_wrong(
        self, changes: dict[str, Any], message: str, tmp_path: Path, source: Checkpoint
    ) -> None:
        fields = {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "gpt-4o",
            "tokenizer.ggml.tokens": ["a", "b"],
            "tokenizer.ggml.merges": ["a b"],
            "tokenizer.ggml.token_type": [1, 1],
        }
        path = write(
            tmp_path / "m.gguf", metadata_of(source, **fields | changes), tensors_of(source)
        )
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(path)


def test_the_demo_in_gguf_answers_as_the_demo(tmp_path: Path) -> None:
    path = tmp_path / "demo.gguf"
    write_gguf(open_checkpoint("demo"), path)
    prompt = "What is 2 + 3?"
    with gptoss.load("demo", threads=1) as llm, gptoss.load(path, threads=1) as same:
        expected = llm.generate(prompt, max_tokens=8, temperature=0)
        found = same.generate(prompt, max_tokens=8, temperature=0)
        assert found.token_ids == expected.token_ids
        np.testing.assert_array_equal(same.logits(prompt), llm.logits(prompt))


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "demo.gguf"
    write_gguf(open_checkpoint("demo"), path, dense="q8_0")
    assert main(["info", str(path)]) == 0
    assert "GGUF" in capsys.readouterr().out
    assert main(["generate", str(path), "1 + 1", "--max-tokens", "2", "--threads", "1"]) == 0
    assert "turned from GGUF into the kernels' form" in capsys.readouterr().err
    assert main(["verify", str(path)]) == 0
    assert "Complete and readable; no checksums are known" in capsys.readouterr().out
    assert write_sums(path) == tmp_path / "SHA256SUMS"
    assert main(["verify", str(path)]) == 0
    assert "As it should be: 1 files." in capsys.readouterr().out
    assert main(["verify", str(tmp_path)]) == 0  # the folder with the one file
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    assert main(["verify", str(path)]) == 1


def test_two_models_in_a_folder(source: Checkpoint, tmp_path: Path) -> None:
    path = made(tmp_path, source)
    shutil.copyfile(path, tmp_path / "n.gguf")
    with pytest.raises(CheckpointError, match=r"found neither, but m.gguf .*pass the GGUF file"):
        open_checkpoint(tmp_path)


def test_encode_is_q8_0() -> None:
    """The tests' own encoder, at a block whose scale is 1."""
    values = np.arange(-16.0, 16.0)
    values[0] = -127
    data = encode(values, "Q8_0")
    assert np.frombuffer(data[:2], np.float16)[0] == 1
    np.testing.assert_array_equal(np.frombuffer(data[2:], np.int8), values)
