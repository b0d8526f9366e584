"""`--adapter NAME=DIR` in the commands that run a model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

import gptoss
from gptoss.cli import main
from gptoss.cli import options as shared
from gptoss.cli.conversation import Conversation
from support.adapters import make_adapter

LOADING = ("--context-length", "1024", "--threads", "1")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    with gptoss.load("demo", context_length=64) as llm:
        return {
            name: make_adapter(root / name, llm.config, seed=seed, size=0.2)
            for name, seed in (("a", 1), ("b", 2))
        }


def adapters(folders: dict[str, Path], *names: str) -> list[str]:
    return [f"--adapter={name}={folders[name]}" for name in names]


def test_generate_answers_with_it(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--temperature=0", "--max-tokens=8", "--ignore-eos", "-q", *LOADING]

    def answer(*more: str) -> str:
        assert main(["generate", "demo", "Hello", *options, *more]) == 0
        return capsys.readouterr().out

    with gptoss.load("demo", context_length=1024) as llm:
        llm.load_adapter("x", folders["a"])
        expected = llm.generate(
            "Hello", adapter="x", temperature=0.0, max_tokens=8, ignore_eos=True
        ).text
    assert answer(*adapters(folders, "a")) == expected + "\n"
    assert answer() != expected + "\n"


def test_generate_takes_one(folders: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "demo", "Hello", *adapters(folders, "a", "b")]) == 2
    assert "answers with one --adapter, got 2" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["a", "=b", "a=", ""])
def test_what_is_no_adapter(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["generate", "demo", "Hello", f"--adapter={text}"])
    assert "expected NAME=DIR" in capsys.readouterr().err


def test_a_folder_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "demo", "Hello", f"--adapter=a={tmp_path}", *LOADING]) != 0
    err = capsys.readouterr().err
    assert "adapter_config.json" in err
    assert "Traceback" not in err


def test_a_batch_chooses_by_the_models_name(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        {
            "custom_id": f"{place}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": name,
                "messages": [{"role": "user", "content": "Hi"}],
                "temperature": 0,
                "max_tokens": 8,
                "logprobs": True,
            },
        }
        for place, name in enumerate(("demo", "a", "b"))
    ]
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = ["batch", str(source), str(out), *adapters(folders, "a", "b"), *LOADING]
    assert main(arguments) == 0, capsys.readouterr().err
    bodies = [json.loads(line)["response"]["body"] for line in out.read_text().splitlines()]
    assert [body["model"] for body in bodies] == ["demo", "a", "b"]
    assert len({str(body["choices"][0]["logprobs"]) for body in bodies}) == 3


def test_a_conversation_changes_it(folders: dict[str, Path]) -> None:
    parser = argparse.ArgumentParser()
    shared.add_model_argument(parser)
    shared.add_sampling_options(parser)
    shared.add_loading_options(parser)
    options = parser.parse_args(["demo", *adapters(folders, "a", "b"), *LOADING])
    options.__dict__.update(
        max_reasoning_tokens=None,
        system=None,
        effort="medium",
        show_reasoning=False,
        plain=True,
        quiet=True,
    )
    with shared.load(options) as llm:
        talk = Conversation(llm, shared.sampling_params(options), options, {})
        assert talk._setting("/adapter", "") == "adapter: a (loaded, too: b)"
        assert talk._setting("/adapter", "b") == "adapter: b (loaded, too: a)"
        assert talk._params.adapter == "b"
        assert talk._setting("/adapter", "-") == "adapter: none (loaded, too: a, b)"
        with pytest.raises(ValueError, match="no adapter is named 'c': a, b"):
            talk._setting("/adapter", "c")
