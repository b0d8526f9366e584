"""A model's name means the same wherever one is named: "demo", a folder, a GGUF file, a Hub id."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants

import gptoss
from gptoss.checkpoint import open_checkpoint
from gptoss.checkpoint.resolve import find_model, find_tokenizer
from gptoss.cli import main
from gptoss.convert import write_gguf
from gptoss.errors import CheckpointError
from gptoss.harmony import load_harmony_encoding

DEMO = Path(gptoss.__file__).parent / "demo"
REPO = "someone/demo-model"

USES: dict[str, Callable[[str], object]] = {
    "load": lambda name: gptoss.load(name, context_length=64).close(),
    "generate": lambda name: gptoss.generate("1", model=name, max_tokens=1),
    "estimate_memory": lambda name: gptoss.estimate_memory(name, 512),
    "Tokenizer": lambda name: gptoss.Tokenizer(name),
    "Tokenizer.from_file": lambda name: gptoss.Tokenizer.from_file(name),
    "Tokenizer.from_pretrained": lambda name: gptoss.Tokenizer.from_pretrained(name),
    "load_harmony_encoding": load_harmony_encoding,
    "gptoss info": lambda name: _command("info", name),
    "gptoss generate": lambda name: _command("generate", name, "1 + 1", "--max-tokens", "2"),
    "gptoss chat": lambda name: _command("chat", name, "1 + 1", "--max-tokens", "2"),
}


def _command(*arguments: str) -> None:
    assert main(arguments) == 0


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None) -> dict[str, str]:
    """The demo under each kind of name, in an empty folder and without a network."""
    cache = tmp_path / "cache"
    root = cache / f"models--{REPO.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("0123abc")
    shutil.copytree(DEMO, root / "snapshots" / "0123abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    folder = tmp_path / "folder"
    shutil.copytree(DEMO, folder)
    write_gguf(open_checkpoint(DEMO), tmp_path / "demo.gguf")
    monkeypatch.chdir(tmp_path)
    return {
        **{"demo": "demo", "Hub id": REPO, "folder": str(folder), "relative": "folder"},
        "GGUF": "demo.gguf",
    }


@pytest.mark.parametrize("kind", ["demo", "Hub id", "folder", "relative", "GGUF"])
@pytest.mark.parametrize("use", USES)
def test_every_name_works_everywhere(names: dict[str, str], kind: str, use: str) -> None:
    USES[use](names[kind])


@pytest.mark.parametrize("use", [use for use in USES if "gptoss" not in use])
def test_an_absent_model_is_the_same_error_everywhere(
    names: dict[str, str], use: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        CheckpointError, match="not there: expected a folder, a GGUF file or a Hub id"
    ):
        USES[use]("not there")
    with pytest.raises(CheckpointError, match="someone/else: no such folder, not in the Hub's"):
        USES[use]("someone/else")


def test_a_folder_wins_over_a_hub_id(names: dict[str, str], tmp_path: Path) -> None:
    del names
    folder = tmp_path / REPO
    shutil.copytree(DEMO, folder)
    assert find_tokenizer(REPO).source == str(Path(REPO) / "tokenizer.json")
    assert find_model(REPO).path == Path(REPO)


class TestFindTokenizer:
    def test_the_file_itself(self, tmp_path: Path) -> None:
        assert find_tokenizer(DEMO / "tokenizer.json").source == str(DEMO / "tokenizer.json")
        # A file's name is never a Hub id.
        absent = tmp_path / "tokenizer.json"
        with pytest.raises(CheckpointError, match="expected a readable file"):
            find_tokenizer(absent)
        with pytest.raises(CheckpointError, match="expected a readable file"):
            gptoss.Tokenizer.from_file("some/tokenizer.json")

    def test_beside_the_original_layout(self, tmp_path: Path) -> None:
        inner = tmp_path / "model" / "original"
        inner.mkdir(parents=True)
        with pytest.raises(CheckpointError, match=r"original: expected tokenizer\.json"):
            find_tokenizer(inner)
        shutil.copy(DEMO / "tokenizer.json", inner.parent)
        for folder in (inner, inner.parent):
            assert find_tokenizer(folder).source == str(inner.parent / "tokenizer.json")

    def test_none_in_the_folder(self, tmp_path: Path) -> None:
        shutil.copy(DEMO / "tokenizer.json", tmp_path)
        folder = tmp_path / "empty"
        folder.mkdir()
        with pytest.raises(CheckpointError, match=r"empty: expected tokenizer\.json, found no"):
            gptoss.Tokenizer.from_pretrained(folder)


class TestStrings:
    """A string where a conversation or token ids are asked for."""

    @pytest.fixture(scope="class")
    @staticmethod
    def llm() -> gptoss.LLM:
        return gptoss.load("demo", context_length=512)

    def test_chat(self, llm: gptoss.LLM) -> None:
        user = {"role": "user", "content": "What is 17 + 25?"}
        result = llm.chat("What is 17 + 25?", temperature=0)
        assert result.text == llm.chat([user], temperature=0).text
        assert result.messages == [user, result.message]

    def test_run(self, llm: gptoss.LLM) -> None:
        result = llm.run("What is 17 + 25?", tools=[], temperature=0)
        assert result.messages[0] == {"role": "user", "content": "What is 17 + 25?"}

    def test_logits(self, llm: gptoss.LLM) -> None:
        ids = llm.tokenizer.encode("17 + 25")
        assert (llm.logits("17 + 25", [-1]) == llm.logits(ids, [-1])).all()
