"""Models in other forms: round trips, interruptions, and what is refused."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gptoss
from gptoss.checkpoint import Checkpoint, open_checkpoint
from gptoss.checkpoint.open import fetch_model
from gptoss.cli import main
from gptoss.convert import convert, resumable
from gptoss.convert.source import Source
from gptoss.errors import CheckpointError
from gptoss.ops import mxfp4_quantize
from gptoss.reference.lora import merge_lora
from gptoss.reference.model import load_tensors
from support.adapters import make_adapter
from support.checkpoints import MICRO, PRESETS, edit_json, make_checkpoint, recast

ODD = dataclasses.replace(
    MICRO, hidden_size=96, intermediate_size=32, num_local_experts=5, vocab_size=300
)
SHAPES = {"micro": MICRO, "odd": ODD, "tiny": PRESETS["tiny"]}


def quietly(source: str | Path, out: Path, **options: Any) -> Checkpoint:
    convert(source, out, progress=False, **options)
    assert not resumable.partial_folder(out).exists()
    experts = "mxfp4" if options.get("dtype") == "bf16" else "as_stored"
    return open_checkpoint(out, experts=experts)  # type: ignore[arg-type]


def bits(checkpoint: Checkpoint) -> dict[str, bytes]:
    return {name: tensor.read().tobytes() for name, tensor in checkpoint.tensors.items()}


def same_config(found: Checkpoint, expected: Checkpoint) -> None:
    eos = sorted(expected.config.eos_token_ids)
    assert sorted(found.config.eos_token_ids) == eos
    assert dataclasses.replace(found.config, eos_token_ids=()) == dataclasses.replace(
        expected.config, eos_token_ids=()
    )


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Path]:
    def make(shape: str = "micro", **options: Any) -> Path:
        make_checkpoint(tmp_path / "in", SHAPES[shape], **options)
        return tmp_path / "in"

    return make


@pytest.mark.parametrize("shape", [*SHAPES, "demo"])
def test_to_bf16_and_back_is_bit_for_bit(
    shape: str, made: Callable[..., Path], tmp_path: Path
) -> None:
    source = "demo" if shape == "demo" else made(shape)
    expected = open_checkpoint(source)
    wide = tmp_path / "wide"
    convert(source, wide, dtype="bf16", progress=False)
    values = json.loads((wide / "config.json").read_text())
    assert "quantization_config" not in values
    for rounding in ("plain", "least_squares"):
        found = quietly(wide, tmp_path / rounding, rounding=rounding)
        decoded = load_tensors(found)
        for name, exact in load_tensors(expected).items():
            np.testing.assert_array_equal(decoded[name], exact, err_msg=name)
            np.testing.assert_array_equal(np.signbit(decoded[name]), np.signbit(exact))
        same_config(found, expected)
        # The bytes too, but for blocks whose largest code is below 4: a smaller scale has them all.
        for name, tensor in expected.tensors.items():
            if name.endswith("_blocks"):
                blocks = tensor.read()
                codes = np.stack([blocks & 7, blocks >> 4 & 7]).max((0, -1))
                same = (found.tensors[name].read() == blocks).all(-1)
                assert same[codes >= 6].all()
            elif not name.endswith("_scales"):
                assert found.tensors[name].read().tobytes() == tensor.read().tobytes()


@pytest.mark.parametrize("layout", ["hf", "original"])
def test_either_layout_in(layout: str, made: Callable[..., Path], tmp_path: Path) -> None:
    source = made(layout=layout)
    expected = open_checkpoint(source)
    found = quietly(source, tmp_path / "out")
    assert found.layout == "hf"
    assert bits(found) == bits(expected)
    same_config(found, expected)
    text = "Hello <|start|>"
    assert gptoss.Tokenizer(str(tmp_path / "out")).encode(text) == gptoss.Tokenizer(
        str(source)
    ).encode(text)


@pytest.mark.parametrize("dtype", ["F16", "F32", "BF16"])
def test_a_fine_tune_as_transformers_saves_it(
    dtype: str, made: Callable[..., Path], tmp_path: Path
) -> None:
    """Everything in one dtype, experts as [E, in, out], numbers that bfloat16 does not have."""
    source = made(bf16_experts=True)
    rng = np.random.default_rng(0)

    def tune(_: str, values: Any) -> None:
        values *= 1 + rng.uniform(-0.01, 0.01, values.shape).astype(np.float32)
        values[np.abs(values) < 1e-4] = 0

    recast(source / "model.safetensors", lambda _: dtype, tune)
    found = quietly(source, tmp_path / "out")
    exact = open_checkpoint(source, experts="mxfp4", dtype="convert")
    assert {name: (t.dtype, t.shape) for name, t in found.tensors.items()} == {
        name: (t.dtype, t.shape) for name, t in exact.tensors.items()
    }
    plain = quietly(source, tmp_path / "plain", rounding="plain")
    for name, tensor in exact.tensors.items():
        if name.endswith(("_blocks", "_scales")):
            if dtype != "BF16":  # loading rounds to bfloat16 first, or not: either is plain
                continue
            assert plain.tensors[name].read().tobytes() == tensor.read().tobytes()
        else:
            assert found.tensors[name].read().tobytes() == tensor.read().tobytes(), name
    # The default errs less.
    wide = Source.of(gptoss.checkpoint.open.locate(source))
    errors = {}
    for kind, checkpoint in (("best", found), ("plain", plain)):
        tensors = load_tensors(checkpoint)
        stems = [name for name in tensors if name.endswith("_proj")]
        errors[kind] = sum(
            float(((tensors[stem][e] - wide.expert_floats(stem, e)) ** 2).sum())
            for stem in stems
            for e in range(checkpoint.config.num_local_experts)
        )
    assert errors["best"] < errors["plain"]


def test_several_files(made: Callable[..., Path], tmp_path: Path) -> None:
    source = made(shard_bytes=35_000)
    found = quietly(source, tmp_path / "out", shard_bytes=30_000)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 2
    assert bits(found) == bits(open_checkpoint(source))


def test_tied_embeddings(made: Callable[..., Path], tmp_path: Path) -> None:
    source = made()
    edit_json(source / "config.json", lambda values: values.update(tie_word_embeddings=True))
    found = quietly(source, tmp_path / "out")
    embedding = found.tensors["model.embed_tokens.weight"].read()
    np.testing.assert_array_equal(found.tensors["lm_head.weight"].read(), embedding)
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    assert values["tie_word_embeddings"] is False


@pytest.mark.parametrize("dense", ["bf16", "q8_0"])
def test_to_gguf_and_back(dense: str, made: Callable[..., Path], tmp_path: Path) -> None:
    source = made("tiny")
    expected = open_checkpoint(source)
    path = tmp_path / "m.gguf"
    convert(source, path, to="gguf", dense=dense, progress=False)  # type: ignore[arg-type]
    found = quietly(path, tmp_path / "out")
    same_config(found, expected)
    for name, content in bits(found).items():
        if dense == "bf16" or expected.tensors[name].dtype == "U8":
            assert content == expected.tensors[name].read().tobytes(), name
    assert open_checkpoint(tmp_path / "out").layout == "hf"


def test_wide_experts_to_gguf(made: Callable[..., Path], tmp_path: Path) -> None:
    source = made(bf16_experts=True)
    convert(source, tmp_path / "m.gguf", to="gguf", progress=False)
    expected = load_tensors(open_checkpoint(source, experts="mxfp4"))
    for name, values in load_tensors(open_checkpoint(tmp_path / "m.gguf")).items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)


class Stopped(Exception):
    pass


@pytest.mark.parametrize("to", ["safetensors", "gguf"])
@pytest.mark.parametrize("stops", [[0], [1, 5, 12], [2] * 9])
def test_an_interruption_loses_nothing(
    to: Any, stops: list[int], made: Callable[..., Path], tmp_path: Path, monkeypatch: Any
) -> None:
    source, out, expected = made(), tmp_path / "out", tmp_path / "expected"
    options: dict[str, Any] = {"to": to, "progress": False}
    if to == "safetensors":
        options["shard_bytes"] = 40_000
    convert(source, expected, **options)
    read = Source.bf16
    left = 0
    made_again = []

    def stopping(self: Source, name: str) -> Any:
        nonlocal left
        if left == 0:
            raise Stopped
        left -= 1
        made_again.append(name)
        return read(self, name)

    monkeypatch.setattr(Source, "bf16", stopping)
    for stop in stops:
        left = stop
        with pytest.raises(Stopped):
            convert(source, out, **options)
        assert not out.exists()
    left = 10**6
    convert(source, out, **options)
    # Nothing that was whole was made twice; gate and up of GGUF each read the one bias.
    assert len(made_again) == len(set(made_again)) or to == "gguf"
    if to == "gguf":
        assert out.read_bytes() == expected.read_bytes()
    else:
        names = sorted(path.name for path in expected.iterdir())
        assert sorted(path.name for path in out.iterdir()) == names
        for name in names:
            assert (out / name).read_bytes() == (expected / name).read_bytes(), name


def test_a_full_disk(made: Callable[..., Path], tmp_path: Path, monkeypatch: Any) -> None:
    source, out = made(), tmp_path / "out"
    read = Source.expert_mxfp4
    calls = 0

    def full(self: Source, stem: str, expert: int) -> Any:
        nonlocal calls
        calls += 1
        if calls > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return read(self, stem, expert)

    monkeypatch.setattr(Source, "expert_mxfp4", full)
    with pytest.raises(OSError, match="disk is full; what is written is kept: make room"):
        convert(source, out, progress=False)
    monkeypatch.setattr(Source, "expert_mxfp4", read)
    assert bits(quietly(source, out)) == bits(open_checkpoint(source))


def test_no_room_is_told_before(
    made: Callable[..., Path], tmp_path: Path, monkeypatch: Any
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match="GB are to be written, and"):
        convert(made(), tmp_path / "out", progress=False)


def test_what_another_run_left(made: Callable[..., Path], tmp_path: Path, monkeypatch: Any) -> None:
    source, out = made(), tmp_path / "out"

    def stop(*_: object) -> None:
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(Source, "bf16", stop)
        with pytest.raises(Stopped):
            convert(source, out, progress=False)
    with pytest.raises(ValueError, match="of another model or of other options: delete"):
        convert(source, out, dtype="bf16", progress=False)
    with (
        resumable.partial(tmp_path / "held", "x"),
        pytest.raises(OSError, match="another process is writing there"),
        resumable.partial(tmp_path / "held", "x"),
    ):
        pass
    journal = resumable.partial_folder(out) / "convert.json"
    journal.write_text("{")  # as power loss may leave it
    shutil.rmtree(resumable.partial_folder(out))
    assert bits(quietly(source, out)) == bits(open_checkpoint(source))


def test_a_place_that_is_taken_meanwhile(
    made: Callable[..., Path], tmp_path: Path, monkeypatch: Any
) -> None:
    """As if another program had the target open, on Windows: what is written is not lost."""
    source, out = made(), tmp_path / "out"

    replace = Path.replace

    def refuse(*_: object) -> Any:
        raise PermissionError(errno.EACCES, "Access is denied", str(out))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda a, b: refuse() if b == out else replace(a, b))
        with pytest.raises(PermissionError, match="Access is denied"):
            convert(source, out, progress=False)
    journal = json.loads((resumable.partial_folder(out) / "convert.json").read_text())
    assert list(journal["done"]) == ["model.safetensors"]
    monkeypatch.setattr(Source, "expert_mxfp4", refuse)  # nothing is computed again
    assert bits(quietly(source, out)) == bits(open_checkpoint(source))


def test_a_lock_that_fails_for_another_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("msvcrt.locking" if os.name == "nt" else "fcntl.flock", no_locks)
    with (
        pytest.raises(OSError, match="No locks available"),
        resumable.partial(tmp_path / "out", "x"),
    ):
        pass


def test_what_is_there_is_not_overwritten(made: Callable[..., Path], tmp_path: Path) -> None:
    source = made()
    (tmp_path / "empty").mkdir()
    quietly(source, tmp_path / "empty")
    for out in (tmp_path / "empty", source / "config.json"):
        with pytest.raises(FileExistsError, match="expected no such file or folder"):
            convert(source, out, progress=False)


@pytest.mark.parametrize("platform", ["linux", "win32"])
def test_the_users_empty_folder_stays_when_the_move_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    found = []
    replace = Path.replace

    def fail(path: Path, target: Path) -> Path:
        if target != out:
            return replace(path, target)
        found.append(out.exists())
        raise PermissionError(path)

    monkeypatch.setattr(resumable, "sys", SimpleNamespace(platform=platform))
    monkeypatch.setattr(Path, "replace", fail)
    folder = resumable.partial_folder(out)
    folder.mkdir()
    (folder / "convert.json").write_text('{"of": "x", "done": {}}')
    with pytest.raises(PermissionError):
        resumable.finish(folder, out)
    assert found == [platform == "linux"]
    assert out.is_dir()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "onnx"}, "to must be one of"),
        ({"dtype": "q4"}, "dtype must be one of"),
        ({"rounding": "up"}, "rounding must be one of"),
        ({"dense": "q8_0"}, "dense='q8_0' goes with to='gguf' only"),
        ({"to": "gguf", "dtype": "bf16"}, "does not go with to='gguf'"),
    ],
)
def test_options_that_are_wrong(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        convert("demo", tmp_path / "out", progress=False, **options)
    assert not list(tmp_path.iterdir())


def test_numbers_that_are_no_weights(made: Callable[..., Path], tmp_path: Path) -> None:
    source = made(bf16_experts=True)

    def spoil(wanted: str) -> Callable[[str, Any], None]:
        def change(name: str, values: Any) -> None:
            if wanted in name:
                values.flat[0] = np.nan

        return change

    recast(source / "model.safetensors", lambda _: "F32", spoil("layers.1.mlp.experts.down_proj"))
    with pytest.raises(CheckpointError, match=r"down_proj: expected finite weights.*expert 0"):
        convert(source, tmp_path / "out", progress=False)


def test_a_vocabulary_that_was_resized(made: Callable[..., Path], tmp_path: Path) -> None:
    """It is kept, if the config says so too; else it is refused."""
    source = made("odd")
    assert quietly(source, tmp_path / "out").config.vocab_size == 300
    edit_json(source / "config.json", lambda values: values.update(vocab_size=288))
    with pytest.raises(CheckpointError, match=r"expected shape \(288, 96\), found \(300, 96\)"):
        convert(source, tmp_path / "again", progress=False)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, file = str(tmp_path / "demo16"), str(tmp_path / "demo.gguf")
    assert main(["convert", "demo", folder, "--dtype", "bf16", "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["convert", folder, file, "--to", "gguf", "--rounding", "plain"]) == 0
    assert f"wrote {file}: " in capsys.readouterr().out
    with gptoss.load("demo", threads=1) as llm, gptoss.load(file, threads=1) as same:
        np.testing.assert_array_equal(same.logits("1 + 1"), llm.logits("1 + 1"))
    assert main(["convert", "demo", folder]) == 2
    assert "expected no such file or folder" in capsys.readouterr().err


def test_an_adapter_is_merged(tmp_path: Path) -> None:
    base = open_checkpoint("demo")
    folder = make_adapter(tmp_path / "adapter", base.config)
    merged = merge_lora(base.config, load_tensors(base), folder)
    convert("demo", tmp_path / "wide", dtype="bf16", adapter=folder, progress=False)
    wide = Source.of(gptoss.checkpoint.open.locate(tmp_path / "wide"))
    for name, tensor in wide.tensors.items():
        if name.endswith(("gate_up_proj", "down_proj")):
            found = np.stack([wide.expert_floats(name, e) for e in range(tensor.shape[0])])
        else:
            words = np.concatenate(list(wide.bf16(name))).astype(np.uint32) << 16
            found = words.view(np.float32).reshape(tensor.shape)
        expected = merged[name]
        # One rounding to bfloat16, and sums in float32.
        np.testing.assert_allclose(found, expected, rtol=2**-8, atol=2e-6, err_msg=name)
    # Experts are rounded to MXFP4 from the sum.
    found_4 = quietly("demo", tmp_path / "out", adapter=folder)
    stem = "model.layers.1.mlp.experts.down_proj"
    source = Source.of(fetch_model("demo"), adapter=folder)
    blocks, scales = mxfp4_quantize(source.expert_floats(stem, 3), least_squares=True)
    np.testing.assert_array_equal(found_4.tensors[f"{stem}_blocks"].read()[3], blocks)
    np.testing.assert_array_equal(found_4.tensors[f"{stem}_scales"].read()[3], scales)


def test_experts_that_an_adapter_leaves_alone_stay_as_they_are(tmp_path: Path) -> None:
    base = open_checkpoint("demo")
    folder = make_adapter(tmp_path / "adapter", base.config, modules=["q_proj"], parameters=[])
    found = quietly("demo", tmp_path / "out", adapter=folder)
    changed = [name for name, data in bits(found).items() if data != bits_of(base, name)]
    assert changed
    assert all(name.endswith("q_proj.weight") for name in changed)


def bits_of(checkpoint: Checkpoint, name: str) -> bytes:
    return checkpoint.tensors[name].read().tobytes()


def test_an_adapter_and_gguf(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_adapter(tmp_path / "adapter", open_checkpoint("demo").config)
    arguments = ["convert", "demo", str(tmp_path / "m.gguf"), "--to", "gguf", "--quiet"]
    assert main([*arguments, "--adapter", str(folder)]) == 0
    again = ["convert", str(tmp_path / "m.gguf"), str(tmp_path / "o"), "--adapter", str(folder)]
    assert main(again) != 0
    assert "an adapter is merged into a model in safetensors, got GGUF" in capsys.readouterr().err


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="adapter_config"):
        convert("demo", tmp_path / "out", adapter=tmp_path, progress=False)
    assert not (tmp_path / "out").exists()
