"""The demo model through every layer: held-out questions, tools, effort, streaming, the command.

The cases are a fixed sample of what tools/train_demo/evaluate.py asks; nothing of them was trained
on. Greedy decoding is exact, so a share that falls means that something broke.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import gptoss

CASES = json.loads((Path(__file__).parent / "data" / "demo_sample.json").read_text())["cases"]
TASKS = sorted({case["task"] for case in CASES})
QUESTIONS = json.loads(
    (Path(__file__).parents[2] / "tools" / "train_demo" / "questions.json").read_text()
)

# tools/train_demo/README.md has the shares of 200 held-out cases; these samples are a tenth of that
# or less, too few to hold all of them to 95 %.
SHARES = {"sums": 0.95, "out of scope, written by hand": 0.8}
OTHER_SHARE = 0.9


@pytest.fixture(scope="module")
def llm() -> Iterator[gptoss.LLM]:
    with gptoss.load("demo") as llm:
        yield llm


def options(case: dict[str, Any]) -> dict[str, Any]:
    chosen = case["expected"].get("name") if case["forced"] else None
    return {
        "tools": case["tools"] or None,
        "tool_choice": chosen and {"type": "function", "function": {"name": chosen}},
        "builtin_tools": case["builtin"],
        "developer": case["developer"],
        "reasoning_effort": case["effort"],
        "temperature": 0,
        "max_tokens": 400,
    }


def ask(llm: gptoss.LLM, case: dict[str, Any], **more: Any) -> gptoss.ChatResult:
    return llm.chat(case["messages"], **{**options(case), **more})


def ask_all(llm: gptoss.LLM, cases: Sequence[dict[str, Any]]) -> list[gptoss.ChatResult]:
    """The answers to many at once."""

    async def together() -> list[gptoss.ChatResult]:
        return await asyncio.gather(*(llm.achat(c["messages"], **options(c)) for c in cases))

    return asyncio.run(together())


def answer(result: gptoss.ChatResult) -> dict[str, Any]:
    """An answer as the sample's `expected` has it."""
    if not result.tool_calls:
        return {"text": result.text}
    (call,) = result.tool_calls
    if call.builtin:
        return {"name": call.name, "code": call.arguments}
    return {"name": call.name, "arguments": call.parsed_arguments}


@pytest.mark.parametrize("task", TASKS)
def test_held_out_cases(llm: gptoss.LLM, task: str) -> None:
    cases = [case for case in CASES if case["task"] == task]
    wrong = []
    for case, result in zip(cases, ask_all(llm, cases), strict=True):
        if answer(result) != case["expected"]:
            wrong.append((case["messages"][-1]["content"], case["expected"], answer(result)))
    share = next((SHARES[name] for name in SHARES if task.startswith(name)), OTHER_SHARE)
    assert len(cases) - len(wrong) >= math.floor(share * len(cases)), wrong


def test_questions_of_a_first_user(llm: gptoss.LLM) -> None:
    assert len(QUESTIONS) >= 80
    assert sum(entry["held_out"] for entry in QUESTIONS) >= len(QUESTIONS) / 2

    async def together() -> list[gptoss.ChatResult]:
        asked = (llm.achat(entry["question"], temperature=0) for entry in QUESTIONS)
        return await asyncio.gather(*asked)

    results = asyncio.run(together())
    wrong = [
        (entry["question"], result.text)
        for entry, result in zip(QUESTIONS, results, strict=True)
        if result.text != entry["answer"]
    ]
    assert len(wrong) <= 7, wrong


def returning(value: Any) -> Callable[..., Any]:
    def get_weather(city: str) -> Any:
        """Tell today's weather.

        Args:
            city: Name of a city.
        """
        if isinstance(value, Exception):
            raise value
        return value

    return get_weather


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("sunny", "The weather in Oslo is sunny."),
        ({"city": "Oslo", "sky": "sunny"}, "The weather in Oslo: city Oslo, sky sunny."),
        ({"weather": "sunny"}, "The weather in Oslo is sunny."),
        (
            {"temperature": 21, "wind": "12 km/h"},
            "The weather in Oslo: temperature 21, wind 12 km/h.",
        ),
        ("21 °C", "The weather in Oslo is 21 °C."),
        (-3.5, "The weather in Oslo is -3.5."),
        (["rain", "wind"], "The weather in Oslo is rain and wind."),
        ("It is sunny in Oslo.", "It is sunny in Oslo."),
        (None, "The weather in Oslo is unknown."),
        (ValueError("no such city"), "The tool failed: ValueError: no such city."),
    ],
)
def test_what_a_function_returns_is_told(llm: gptoss.LLM, value: Any, told: str) -> None:
    result = llm.run("What is the weather in Oslo?", tools=[returning(value)], temperature=0)
    assert result.text == told


@pytest.mark.parametrize("value", ["14:35", "2026-11-29", 7, 42, 709037, 123456789, 1.25])
def test_numbers_of_a_function_are_told(llm: gptoss.LLM, value: Any) -> None:
    def get_height(name: str) -> Any:
        """Get the height."""
        return value

    result = llm.run("What is the height of Eve?", tools=[get_height], temperature=0)
    assert result.text == f"The height of Eve is {value}."


def test_functions_take_what_is_asked(llm: gptoss.LLM) -> None:
    called = []

    def multiply(a: int, b: int) -> int:
        """Multiply two numbers."""
        called.append((a, b))
        return a * b

    result = llm.run("What is 123 * 45?", tools=[multiply], temperature=0)
    assert called == [(123, 45)]
    assert result.text == "123 * 45 = 5535."


def test_python_is_called_for_what_is_too_large(llm: gptoss.LLM) -> None:
    chat: dict[str, Any] = {"builtin_tools": ["python"], "temperature": 0}
    question = "What is 123456 + 987654?"
    first = llm.chat(question, **chat)
    (call,) = first.tool_calls
    assert (call.name, call.arguments) == ("python", "print(123456 + 987654)")
    told = {"role": "tool", "tool_call_id": call.id, "content": "1111110\n"}
    second = llm.chat([*first.messages, told], **chat)
    assert second.text == "123456 + 987654 = 1111110."
    assert llm.chat("What is 17 + 25?", **chat).text == "17 + 25 = 42."


def test_effort_sets_the_length_of_the_analysis(llm: gptoss.LLM) -> None:
    sums = [case for case in CASES if case["task"] == "sums of 3 digits"]
    tokens = {
        effort: sum(
            result.usage.reasoning_tokens
            for result in ask_all(llm, [{**case, "effort": effort} for case in sums])
        )
        for effort in ("low", "medium", "high")
    }
    assert tokens["low"] < tokens["medium"] < tokens["high"]
    assert tokens["high"] >= 2 * tokens["low"]


def test_stream_equals_whole(llm: gptoss.LLM) -> None:
    for case in CASES[::40]:
        whole = ask(llm, case)
        deltas = list(ask(llm, case, stream=True))
        assert "".join(delta.text for delta in deltas) == whole.text
        assert "".join(delta.reasoning for delta in deltas) == whole.reasoning


def test_a_result_is_told_from_the_cache(llm: gptoss.LLM) -> None:
    case = next(case for case in CASES if case["task"] == "tool calls, unseen names")
    first = ask(llm, case)
    assert answer(first) == case["expected"]
    told = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "17"}
    result = ask(llm, {**case, "messages": [*first.messages, told]})
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
