"""Log-probabilities of reasoning, and results as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gptoss
from gptoss import LLM
from gptoss.engine.outputs import TokenLogprob


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with gptoss.load("demo", context_length=600) as model:
        yield model


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_reasoning_has_its_own(llm: LLM) -> None:
    stream = llm.chat("What is 17 + 25?", temperature=0, logprobs=1, max_tokens=200, stream=True)
    streamed: list[TokenLogprob] = []
    for delta in stream:
        if delta.kind == "reasoning":
            streamed += delta.logprobs or []
    result = stream.result
    assert result is not None
    assert result.reasoning
    found = result.reasoning_logprobs
    assert found == streamed
    assert len(found) == result.usage.reasoning_tokens
    assert llm.tokenizer.decode([entry.token_id for entry in found]) == result.reasoning
    assert result.logprobs is not None
    everything = iter(result.logprobs)
    assert all(entry in everything for entry in found)  # in their order
    assert llm.chat("Hi", temperature=0, max_tokens=5).reasoning_logprobs is None


def test_a_line_for_each_sample(llm: LLM, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    messages = [{"role": "user", "content": "What is 17 + 25? ü"}]
    chat = llm.chat(messages, n=2, seed=1, max_tokens=80, logprobs=0)
    assert gptoss.save_jsonl(path, chat, llm.tokenizer) == 2
    text = llm.generate("Hello", max_tokens=4, temperature=0)
    assert gptoss.save_jsonl(str(path), iter([text])) == 1
    first, second, plain = read(path)
    for index, (line, sample) in enumerate(zip((first, second), chat.samples, strict=True)):
        assert line["index"] == index
        assert line["messages"] == messages
        assert line["prompt"] == llm.tokenizer.decode(sample.prompt_token_ids)
        assert "ü" in line["prompt"]
        assert line["reasoning"] == sample.reasoning
        assert line["answer"] == sample.text
        assert line["token_ids"] == sample.token_ids
        assert line["prompt_token_ids"] == sample.prompt_token_ids
        assert len(line["logprobs"]) == len(sample.token_ids)
    assert plain["prompt"] is plain["messages"] is plain["logprobs"] is None
    assert (plain["answer"], plain["token_ids"]) == (text.text, text.token_ids)
    assert plain.keys() == first.keys()


def test_what_is_no_result(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="results must be of generate or chat, got str"):
        gptoss.save_jsonl(tmp_path / "x.jsonl", ["text"])  # type: ignore[list-item]
