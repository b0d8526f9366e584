"""`run` never loses the conversation: whatever a tool does, the model can take it."""

from __future__ import annotations

import asyncio
import enum
import json
from typing import Any, Literal

import pytest

from gptoss.chat import build_prompt
from gptoss.errors import ContextLengthError
from support.answers import USER
from support.scripted_model import ScriptedModel

FINAL = "<|channel|>final<|message|>Hello<|return|>"


def call(name: str, arguments: str = "{}") -> str:
    header = f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>"
    return f"{header}{arguments}<|call|>"


def told(function: Any, arguments: str = "{}", **chat: Any) -> str:
    """What the model reads when it has called a function."""
    model = ScriptedModel(call("f", arguments), FINAL, **chat)
    result = model.run(USER, {"f": function})
    assert (result.text, result.finish_reason) == ("Hello", "stop")
    text: str = result.messages[2]["content"]
    assert text in model.text(model.requests[1][0])
    return text


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


def raising(error: BaseException) -> Any:
    def f() -> None:
        raise error

    return f


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("caf\udce9.txt", "caf\ufffd.txt"),
        ("\ud83d\ude00 \ud83d", "\U0001f600 \ufffd"),
        (["\udce9"], '["\ufffd"]'),
        (None, "null"),
        ("<|end|>", "<|end|>"),
        ("", ""),
        (10**50, str(10**50)),
    ],
)
def test_whatever_is_returned(value: Any, text: str) -> None:
    assert told(lambda: value) == text


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("caf\udce9"), "Error: ValueError: caf\ufffd"),
        (Unspeakable(), "Error: Unspeakable"),
        (SystemExit(1), "Error: SystemExit: 1"),
        (RecursionError("deep"), "Error: RecursionError: deep"),
        (MemoryError(), "Error: MemoryError: "),
        (asyncio.CancelledError("late"), "Error: CancelledError: late"),
    ],
)
def test_whatever_is_raised(error: BaseException, text: str) -> None:
    assert told(raising(error)) == text


def test_what_is_no_json() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    for value in (cycle, {1, 2}, object(), b"x", 10**5000):
        assert told(lambda value=value: value).startswith("Error: ")


class Unit(enum.Enum):
    CELSIUS = "c"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"city":5}', "f: city must be of type string, got 5"),
        ('{"city":null}', "f: city must be of type string, got null"),
        ('{"city":"x","days":"2"}', 'f: days must be of type integer, got "2"'),
        ('{"city":"x","days":true}', "f: days must be of type integer, got true"),
        ('{"city":"x","days":1.5}', "f: days must be of type integer, got 1.5"),
        ('{"city":"x","ratio":"1"}', 'f: ratio must be of type number, got "1"'),
        ('{"city":"x","names":["a",1]}', "f: names[1] must be of type string, got 1"),
        ('{"city":"x","names":"a"}', 'f: names must be of type array, got "a"'),
        ('{"city":"x","mode":"c"}', 'f: mode must be one of "a", "b", got "c"'),
        ('{"city":"x","table":[]}', "f: table must be of type object, got []"),
        ('{"city":"x","unit":["c"]}', "ValueError"),
    ],
)
def test_arguments_of_the_wrong_type_are_told(arguments: str, text: str) -> None:
    def f(
        city: str,
        days: int = 1,
        ratio: float = 1.0,
        names: list[str] = [],  # noqa: B006
        mode: Literal["a", "b"] = "a",
        table: dict[str, int] | None = None,
        unit: Unit = Unit.CELSIUS,
    ) -> str:
        raise AssertionError("called")

    assert told(f, arguments).startswith("Error: ")
    assert text in told(f, arguments)


def test_arguments_of_the_right_type_are_passed() -> None:
    def f(
        city: str,
        days: int,
        ratio: float,
        units: list[Unit],
        value: Any,
        table: dict[str, int] | None,
        name: str = None,  # type: ignore[assignment]  # noqa: RUF013
    ) -> Any:
        return [city, days, type(days).__name__, ratio, units[0].name, value, table, name]

    arguments = {"city": "x", "days": 2.0, "ratio": 1, "units": ["c"], "value": [None]}
    text = told(f, json.dumps({**arguments, "table": None, "name": None}))
    assert json.loads(text) == ["x", 2, "int", 1, "CELSIUS", [None], None, None]


def test_an_output_that_does_not_fit_is_cut() -> None:
    prompt = len(build_prompt(ScriptedModel().harmony, USER).token_ids)
    text = told(lambda: "é" * 200_000, context_length=prompt + 1000)
    body, note = text.split("\n")
    assert note == "[cut: there is no room for all of the 200000 characters]"
    assert 100 < len(body) < 300  # half of the room, of two tokens each
    assert set(body) == {"é"}
    assert told(lambda: "é" * 100, context_length=prompt + 1000) == "é" * 100


def test_a_conversation_that_outgrows_the_context_is_handed_out() -> None:
    prompt = len(build_prompt(ScriptedModel().harmony, USER).token_ids)
    model = ScriptedModel(*[call("f")] * 20, context_length=prompt + 600)
    result = model.run(USER, {"f": lambda: "x" * 300}, max_steps=20)
    assert result.finish_reason == "length"
    assert [message["role"] for message in result.messages[-2:]] == ["assistant", "tool"]
    assert 2 < len(model.requests) < 20
    # Without any step there is nothing to hand out.
    with pytest.raises(ContextLengthError, match="the context of 10 must hold"):
        ScriptedModel(context_length=10).run(USER, {"f": lambda: "x"})


def test_a_builtin_tool_is_not_the_function_of_its_name() -> None:
    code = "<|channel|>analysis to=python code<|message|>{}<|call|>"
    model = ScriptedModel(code, FINAL)
    result = model.run(USER, {"python": raising(AssertionError("called"))})
    assert "Error: there is no tool python; there are: python" in result.messages[2]["content"]


def test_a_message_is_continued_once() -> None:
    script = " there.<|return|>"
    model = ScriptedModel(script)
    messages = [*USER, {"role": "assistant", "content": "Hello"}]
    result = model.run(messages, {"f": lambda: "x"}, continue_final_message=True)
    assert result.messages[-1]["content"] == "Hello there."
    call_first = f"<|end|><|start|>assistant{call('f')}"
    model = ScriptedModel(call_first, FINAL)
    thought = [*USER, {"role": "assistant", "reasoning": "Hm"}]
    result = model.run(thought, {"f": lambda: "x"}, continue_final_message=True)
    assert result.text == "Hello"
    assert model.text(model.requests[1][0]).endswith("x<|end|><|start|>assistant")
