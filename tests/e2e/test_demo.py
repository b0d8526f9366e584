"""The demo model through every layer: held-out questions, tools, effort, streaming, the command.

The cases are a fixed sample of what tools/train_demo/evaluate.py asks; nothing of them was trained
on. Greedy decoding is exact, so a share that falls means that something broke.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gptoss

CASES = json.loads((Path(__file__).parent / "data" / "demo_sample.json").read_text())["cases"]
TASKS = sorted({case["task"] for case in CASES})

# The shares that the demo was accepted with; what is not listed has the last one. Of tool calls
# 97 % of 200 are right (tools/train_demo/README.md), and 23 of these 25: too few to hold 95 % to.
SHARES = {
    "sums of 1 digits": 0.98,
    "sums of 2 digits": 0.98,
    "sums of 3 digits": 0.95,
    "tool calls, unseen names": 0.9,
    "questions about gptoss, unseen wordings": 0.9,
    "out of scope, written by hand": 0.9,
    "out of scope, unseen combinations": 0.9,
}
OTHER_SHARE = 0.8


@pytest.fixture(scope="module")
def llm() -> Iterator[gptoss.LLM]:
    with gptoss.load("demo") as llm:
        yield llm


def ask(llm: gptoss.LLM, case: dict[str, Any], **more: Any) -> gptoss.ChatResult:
    return llm.chat(
        case["messages"],
        tools=case["tools"] or None,
        developer=case["developer"],
        **{"reasoning_effort": case["effort"], "temperature": 0, "max_tokens": 400, **more},
    )


@pytest.mark.parametrize("task", TASKS)
def test_held_out_cases(llm: gptoss.LLM, task: str) -> None:
    cases = [case for case in CASES if case["task"] == task]
    wrong = []
    for case in cases:
        result = ask(llm, case)
        expected = case["expected"]
        if "name" in expected:
            calls = [(call.name, call.parsed_arguments) for call in result.tool_calls]
            right = calls == [(expected["name"], expected["arguments"])]
        else:
            right = result.text == expected["text"]
        if not right:
            wrong.append((case["messages"][-1]["content"], result.text, result.tool_calls))
    needed = math.ceil(SHARES.get(task, OTHER_SHARE) * len(cases))
    assert len(cases) - len(wrong) >= needed, wrong


def test_effort_sets_the_length_of_the_analysis(llm: gptoss.LLM) -> None:
    sums = [case for case in CASES if case["task"] == "sums of 3 digits"]
    tokens = {
        effort: sum(ask(llm, case, reasoning_effort=effort).usage.reasoning_tokens for case in sums)
        for effort in ("low", "medium", "high")
    }
    assert tokens["low"] < tokens["medium"] < tokens["high"]
    assert tokens["high"] >= 2 * tokens["low"]


def test_stream_equals_whole(llm: gptoss.LLM) -> None:
    for case in CASES[::20]:
        whole = ask(llm, case)
        deltas = list(ask(llm, case, stream=True))
        assert "".join(delta.text for delta in deltas) == whole.text
        assert "".join(delta.reasoning for delta in deltas) == whole.reasoning


def test_run_calls_a_python_function(llm: gptoss.LLM) -> None:
    case = next(case for case in CASES if case["task"] == "tool calls, unseen names")
    expected = case["expected"]
    called = []

    def tool(**arguments: Any) -> str:
        called.append(arguments)
        return "17"

    schema = case["tools"][0]["function"]
    first = ask(llm, case)
    assert [call.name for call in first.tool_calls] == [schema["name"]]
    answer = tool(**first.tool_calls[0].parsed_arguments)
    messages = [
        *first.messages,
        {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": answer},
    ]
    result = ask(llm, {**case, "messages": messages})
    assert called == [expected["arguments"]]
    assert "17" in result.text
    # All but the last page of what came before was there.
    assert result.usage.cached_tokens > first.usage.prompt_tokens


def test_a_conversation_goes_on(llm: gptoss.LLM) -> None:
    messages: list[Any] = [{"role": "user", "content": "What is 17 + 25?"}]
    first = llm.chat(messages, temperature=0)
    assert first.text == "17 + 25 = 42."
    assert first.reasoning
    messages = [*first.messages, {"role": "user", "content": "Add 5."}]
    second = llm.chat(messages, temperature=0)
    assert second.text == "42 + 5 = 47."
    # Nothing of the first prompt is computed again.
    assert second.usage.cached_tokens >= first.usage.prompt_tokens


def test_the_command_answers(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gptoss", "chat", "demo", "What is 17 + 25?"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "42" in done.stdout
