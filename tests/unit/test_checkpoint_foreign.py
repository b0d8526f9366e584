"""The loader says what it sees: what is no checkpoint of gpt-oss is named, with the way out."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import gptoss
from gptoss.checkpoint import estimate_memory, open_checkpoint
from gptoss.cli import main
from gptoss.errors import CheckpointError
from gptoss.tokenizer.json_file import TokenizerJson
from support.checkpoints import MICRO, edit_json, make_checkpoint

SHARD = "model-00001-of-00002.safetensors"
INDEX = "model.safetensors.index.json"
POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    b"size 4792272488\n"
)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good") / "model"
    make_checkpoint(folder, MICRO, shard_bytes=35_000)
    return folder


@pytest.fixture
def copy(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "model"))


def refusal(path: Path) -> str:
    """Return the message, which all ways to open it give alike."""
    messages = set()
    for use in (gptoss.load, open_checkpoint, estimate_memory):
        with pytest.raises(CheckpointError) as raised:
            use(path)
        messages.add(str(raised.value))
    assert len(messages) == 1
    (message,) = messages
    assert str(path) in message
    return message


FILES: dict[str, tuple[bytes, str]] = {
    "old.bin": (b"tjgg\x03\x00\x00\x00", "an old file of ggml, which is not read"),
    "model.pth": (b"PK\x03\x04\x00\x00", "PyTorch file.*save_pretrained"),
    "old.pt": (b"\x80\x02}q\x00", "PyTorch file.*save_pretrained"),
    "model.tar.gz": (b"\x1f\x8b\x08\x00", "compressed archive: unpack it"),
    "pointer.safetensors": (POINTER, "Git LFS pointer.*git lfs pull"),
    "page.safetensors": (b"\n<!DOCTYPE html><html>", "web page.*hf download"),
    "error.safetensors": (b'{"error":"Repository not found"}', "server's error message"),
    "denied.safetensors": (b"Access to model x is restricted", "server's error message"),
    "empty.safetensors": (b"", "empty file: the download was not finished"),
    "zeros.safetensors": (bytes(1000), "zeros.*the download was not finished"),
    "model.safetensors": (b"\x08\x00\x00\x00\x00\x00\x00\x00{}", "pass the folder that holds it"),
    "config.json": (b"{}", "pass the folder that holds it"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_in_place_of_a_folder(name: str, tmp_path: Path) -> None:
    content, message = FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        gptoss.load(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes among the files")
def test_other_kinds_of_file_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(CheckpointError, match="found a file"):
            gptoss.load(path)


@pytest.mark.parametrize(
    "name", [name for name, (_, message) in FILES.items() if "pass the folder" not in message]
)
@pytest.mark.parametrize("place", [SHARD, "config.json", INDEX, "tokenizer.json"])
def test_what_a_file_of_the_checkpoint_really_is(name: str, place: str, copy: Path) -> None:
    content, message = FILES[name]
    (copy / place).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as raised:
        gptoss.load(copy)
    assert place in str(raised.value)


def put(*files: str, **contents: object) -> Callable[[Path], None]:
    """Write empty files, and files of JSON."""

    def write(folder: Path) -> None:
        for name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"")
        for name, content in contents.items():
            (folder / name.replace("__", ".")).write_text(json.dumps(content))

    return write


FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "GGUF": (put("a.gguf", "b.gguf"), "a.gguf and other files: pass the GGUF file itself"),
    "adapter": (put("adapter_config.json"), "LoRA adapter, not a whole model: load its base model"),
    "adapter with its base": (
        put(
            "adapter_model.safetensors",
            "tokenizer.json",
            adapter_config__json={"base_model_name_or_path": "openai/gpt-oss-20b"},
        ),
        "LoRA adapter of openai/gpt-oss-20b, not a whole model: load its base model",
    ),
    "old adapter": (put("adapter_config.json", "adapter_model.bin"), "LoRA adapter"),
    "adapter of MLX": (put("adapters.safetensors"), "LoRA adapter"),
    "unfinished": (put(SHARD + ".incomplete"), "unfinished download .*incomplete.*hf download"),
    "unfinished by hf": (
        put(".cache/huggingface/download/x.incomplete"),
        "unfinished download .x.incomplete",
    ),
    "unfinished by a browser": (put("model.safetensors.crdownload"), "unfinished download"),
    "unfinished by curl": (put("model.safetensors.part"), "unfinished download"),
    "pickles": (put("pytorch_model-00001-of-00002.bin"), "pickles are not read; save.*safetensors"),
    "checkpoint of torch": (put("consolidated.00.pth"), "pickles are not read"),
    "ONNX": (put("model.onnx"), "ONNX model, which is not read"),
    "TensorFlow": (put("tf_model.h5"), "TensorFlow model"),
    "Flax": (put("flax_model.msgpack"), "Flax model"),
    "diffusers": (put("model_index.json"), "pipeline of diffusers"),
    "Metal": (put("model.bin"), "gpt-oss's metal folder"),
    "repository of Metal": (put("metal/model.bin"), "Metal"),
    "nothing": (lambda folder: None, "an empty folder"),
    "tokenizer": (put("tokenizer.json"), "a tokenizer without weights"),
    "weights alone": (put("model.safetensors"), "model.safetensors without config.json"),
    "a level too high": (
        put(
            "checkpoint-100/config.json",
            "checkpoint-200/config.json",
        ),
        "in folders inside it: pass one of them, say .*checkpoint-200",
    ),
    "the Hub's cache": (put("models--openai--gpt-oss-20b/refs/main"), "the Hub's cache: pass"),
    "a repository of the Hub's cache": (
        put("refs/main", "snapshots/0123abc/config.json"),
        "a folder of the Hub's cache: pass the Hub id .owner/name., or .*snapshots.0123abc",
    ),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_without_config(name: str, tmp_path: Path) -> None:
    fill, message = FOLDERS[name]
    folder = tmp_path / "folder"
    folder.mkdir()
    fill(folder)
    text = refusal(folder)
    assert "expected config.json or original/config.json, found neither" in text
    with pytest.raises(CheckpointError, match=message):
        gptoss.load(folder)


@pytest.mark.parametrize(
    "name",
    ["GGUF", "adapter", "unfinished", "unfinished by hf", "pickles", "ONNX", "Metal"],
)
def test_a_folder_with_config_and_without_weights(name: str, copy: Path) -> None:
    for path in copy.glob("model*"):
        path.unlink()
    FOLDERS[name][0](copy)
    assert "expected model.safetensors or model.safetensors.index.json" in refusal(copy)
    with pytest.raises(CheckpointError, match=FOLDERS[name][1]):
        gptoss.load(copy)


def test_a_gguf_file_in_the_place_of_another(copy: Path) -> None:
    for place in (SHARD, "config.json", INDEX, "tokenizer.json"):
        before = (copy / place).read_bytes()
        (copy / place).write_bytes(b"GGUF\x03\x00\x00\x00")
        with pytest.raises(CheckpointError, match="a GGUF file: pass it as the model") as raised:
            gptoss.load(copy)
        assert place in str(raised.value)
        (copy / place).write_bytes(before)


@pytest.mark.parametrize("name", ["unfinished", "unfinished by hf", "unfinished by curl"])
def test_a_shard_that_is_still_downloaded(name: str, copy: Path) -> None:
    (copy / SHARD).unlink()
    FOLDERS[name][0](copy)
    text = refusal(copy)
    assert f"expected the shard {SHARD}, found no such file" in text
    assert "an unfinished download" in text


def test_other_files_beside_a_good_checkpoint_do_not_matter(copy: Path) -> None:
    for name in ("GGUF", "adapter", "unfinished", "pickles", "ONNX", "repository of Metal"):
        FOLDERS[name][0](copy)
    put("optimizer.pt", "training_args.bin")(copy)
    gptoss.load(copy, threads=1).close()


def test_an_optimizers_state_is_not_blamed(copy: Path) -> None:
    (copy / SHARD).unlink()
    put("optimizer.pt")(copy)
    assert "pickle" not in refusal(copy)


CONFIGS: dict[str, tuple[dict[str, object], str]] = {
    "Llama": (
        {"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
        r"\['LlamaForCausalLM'\]; this is a model of another family \(llama\); gptoss runs gpt-oss",
    ),
    "Qwen, by its type": (
        {"architectures": None, "model_type": "qwen3_moe"},
        r"another family \(qwen3_moe\)",
    ),
    "T5, without a type": (
        {"architectures": ["T5ForConditionalGeneration"], "model_type": None},
        r"another family \(T5ForConditionalGeneration\)",
    ),
    "a classifier": (
        {"architectures": ["GptOssForSequenceClassification"]},
        "GptOssForSequenceClassification has no output for text",
    ),
    "bitsandbytes": (
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        "quantised by bitsandbytes, which is not read: use MXFP4",
    ),
    "gptq": ({"quantization_config": {"quant_method": "gptq"}}, "quantised by gptq"),
    "MLX": ({"quantization": {"group_size": 64, "bits": 4}}, "quantised by MLX"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_of_another_model(name: str, copy: Path) -> None:
    changes, message = CONFIGS[name]
    edit_json(copy / "config.json", lambda values: values.update(changes))
    refusal(copy)
    with pytest.raises(CheckpointError, match=message):
        gptoss.load(copy)
    assert main(["info", str(copy)]) == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"peft_type": "LORA", "r": 8}, "config of a LoRA adapter"),
        ({"_class_name": "StableDiffusionPipeline"}, "model of diffusers"),
        ({"dim": 4096, "n_layers": 32}, "expected the config of a gpt-oss model"),
    ],
)
def test_a_config_of_something_else(values: dict[str, object], message: str, copy: Path) -> None:
    (copy / "config.json").write_text(json.dumps(values))
    assert message in refusal(copy)


@pytest.mark.parametrize("what", ["folder", "model.safetensors.index.json", SHARD, "config.json"])
def test_what_may_not_be_read(what: str, copy: Path) -> None:
    """As another user, because root may read everything."""
    if not hasattr(os, "geteuid"):
        pytest.skip("needs a system with permissions")
    target = copy if what == "folder" else copy / what
    script = (
        "import sys, os\n"
        "from gptoss.checkpoint import estimate_memory, open_checkpoint\n"
        "if os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "for use in (open_checkpoint, estimate_memory):\n"
        "    try: use(sys.argv[1])\n"
        "    except ValueError as error: print(type(error).__name__, error)\n"
    )
    for folder in (*copy.parents, copy):
        if folder.stat().st_uid == os.geteuid() and folder not in (Path("/"), Path("/tmp")):
            folder.chmod(0o755)
    target.chmod(0)
    try:
        done = subprocess.run(
            [sys.executable, "-c", script, str(copy)],
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        target.chmod(0o755)
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done
    for line in lines:
        assert line.startswith("CheckpointError")
        assert str(target) in line
        assert "Permission denied" in line
    assert not done.stderr


class TestLargeHeaders:
    """What a file may hold of anything must not cost more than in proportion."""

    @pytest.mark.parametrize("count", [60_000, 300_000, 1_000_000])
    def test_tensors_beyond_any_model_are_refused_at_once(self, count: int, copy: Path) -> None:
        entries = (
            f'"t{i}":{{"dtype":"U8","shape":[1],"data_offsets":[{i},{i + 1}]}}'
            for i in range(count)
        )
        header = ("{" + ",".join(entries) + "}").encode()
        (copy / SHARD).write_bytes(len(header).to_bytes(8, "little") + header + bytes(count))
        start = time.monotonic()
        with pytest.raises(CheckpointError, match=f"at most 50000 tensors, found {count}"):
            open_checkpoint(copy)
        assert time.monotonic() - start < 2

    @pytest.mark.parametrize("count", [100_000, 400_000])
    def test_nested_added_tokens(self, count: int) -> None:
        text = '{"x":[' + ",".join(['{"added_tokens":1}'] * count) + "]}"
        start = time.monotonic()
        assert TokenizerJson.parse(text, source="x").added == ()
        assert time.monotonic() - start < 5

    @pytest.mark.parametrize(
        "text",
        [
            '{"a":"' + '\\"' * 500_000,
            '{"a":"' + "\\\\" * 500_000 + "\\",
            '"' * 500_001,
            "{" * 500_000,
            "}" * 500_000,
            '{"added_tokens"' + " " * 500_000,
            '{"added_tokens" ' * 50_000,
            '{"k"' + " " * 500_000 + ',"k"' + " " * 500_000,
        ],
        ids=lambda text: text[:12],
    )
    def test_text_that_is_cut_off_or_unbalanced(self, text: str) -> None:
        start = time.monotonic()
        assert TokenizerJson.parse(text, source="x").added == ()
        assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"model":{"vocab":{"added_tokens":1}},"added_tokens":[{"id":3,"content":"a"}]}', 3),
        ('{"s":"\\"added_tokens\\":[]","added_tokens":[{"id":4,"content":"a"}]}', 4),
        ('{"s":"added_tokens","added_tokens" : [{"id":5,"content":"a"}]}', 5),
        ('{"added\\u005ftokens":[{"id":6,"content":"a"}]}', 6),
        ('{"a":["added_tokens"],\n\t"added_tokens"\n:\n[{"id":7,"content":"]"}]}', 7),
    ],
)
def test_added_tokens_are_those_of_the_outermost_object(text: str, found: int) -> None:
    file = TokenizerJson.parse(text, source="x")
    assert [token.id for token in file.added] == [found]
    rest = json.loads(file.rest)
    assert rest == {**json.loads(text), "added_tokens": []}


@pytest.mark.parametrize("longest", [1 << 24, 2**30, 2**31 - 1, 2**31, 2**63])
def test_positions_beyond_any_model(longest: int, copy: Path) -> None:
    edit_json(copy / "config.json", lambda v: v.update(max_position_embeddings=longest))
    if longest > 1 << 24:
        assert "max_position_embeddings: expected an integer from 1 to 16777216" in refusal(copy)
        return
    with gptoss.load(copy, threads=1, context_length=2048) as llm:
        assert llm.generate([1], max_tokens=2, ignore_eos=True).token_ids
    with gptoss.load(copy, threads=1) as llm:
        assert 2048 < llm.context_length <= longest
