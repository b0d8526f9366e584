"""Functions as tools: schemas, and the loop that calls them."""

from __future__ import annotations

import enum
import json
from typing import Annotated, Any, Literal, Optional

import pytest

from gptoss import tool_schema
from support.scripted_model import ScriptedModel

USER = [{"role": "user", "content": "Hi"}]


class Unit(enum.Enum):
    CELSIUS = "c"
    FAHRENHEIT = "f"


def call(name: str, arguments: str) -> str:
    header = f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>"
    return f"<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant{header}{arguments}<|call|>"


FINAL = "<|channel|>final<|message|>Hello<|return|>"


# -- schemas -----------------------------------------------------------------------------


def test_schema_of_types() -> None:
    def tool(
        text: str,
        count: int,
        ratio: float,
        flag: bool,
        names: list[str],
        table: list[list[int]],
        anything,  # type: ignore[no-untyped-def]
        value: Any,
        mode: Literal["a", "b"],
        level: Literal[1, 2],
        unit: Unit,
        some: dict[str, int],
        maybe: Optional[int],  # noqa: UP045
        either: int | str,
        nothing: list[str] | None = None,
        said: str = "x",
        warm: Unit = Unit.CELSIUS,
        *,
        only: Annotated[str, "Told here."],
    ) -> str:
        """Do it."""
        return ""

    described = tool_schema(tool)
    assert described["type"] == "function"
    assert described["function"]["name"] == "tool"
    assert described["function"]["description"] == "Do it."
    parameters = described["function"]["parameters"]
    assert parameters["properties"] == {
        "text": {"type": "string"},
        "count": {"type": "integer"},
        "ratio": {"type": "number"},
        "flag": {"type": "boolean"},
        "names": {"type": "array", "items": {"type": "string"}},
        "table": {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
        "anything": {},
        "value": {},
        "mode": {"type": "string", "enum": ["a", "b"]},
        "level": {"type": "integer", "enum": [1, 2]},
        "unit": {"type": "string", "enum": ["c", "f"]},
        "some": {"type": "object"},
        "maybe": {"type": "integer", "nullable": True},
        "either": {"type": ["integer", "string"]},
        "nothing": {"type": "array", "items": {"type": "string"}, "nullable": True},
        "said": {"type": "string", "default": "x"},
        "warm": {"type": "string", "enum": ["c", "f"], "default": "c"},
        "only": {"type": "string", "description": "Told here."},
    }
    optional = {"nothing", "said", "warm"}
    assert parameters["required"] == [n for n in parameters["properties"] if n not in optional]
    json.dumps(described)


def numpy_style(city: str, days: int = 1, hours: int = 2) -> str:
    """Tell the weather.

    As it will be.

    Parameters
    ----------
    city : str
        Name of the city,
        in English.
    days, hours : int
        How far ahead.

    Returns
    -------
    str
        city : not this one
    """
    return ""


def google_style(city: str, days: int = 1, hours: int = 2) -> str:
    """Tell the weather.

    As it will be.

    Args:
        city: Name of the city,
            in English.
        days (int): How far ahead.
        hours (int, optional): How far ahead.

    Returns:
        city: not this one
    """
    return ""


def field_style(city: str, days: int = 1, hours: int = 2) -> str:
    """Tell the weather.

    As it will be.

    :param city: Name of the city,
        in English.
    :param int days: How far ahead.
    :param hours: How far ahead.
    :returns: not this one
    """
    return ""


@pytest.mark.parametrize("function", [numpy_style, google_style, field_style])
def test_schema_of_docstrings(function: Any) -> None:
    described = tool_schema(function)["function"]
    assert described["description"] == "Tell the weather.\n\nAs it will be."
    properties = described["parameters"]["properties"]
    assert {name: value["description"] for name, value in properties.items()} == {
        "city": "Name of the city, in English.",
        "days": "How far ahead.",
        "hours": "How far ahead.",
    }


def test_schema_without_parameters_or_docstring() -> None:
    assert tool_schema(lambda: None, "nothing")["function"] == {
        "name": "nothing",
        "description": "",
    }


def test_schema_of_methods_and_callables() -> None:
    class Counter:
        def __call__(self, by: int) -> None:
            """Count."""

        def add(self, by: int) -> None:
            """Add."""

    for function, name in ((Counter(), "Counter"), (Counter().add, "add")):
        described = tool_schema(function)["function"]
        assert described["name"] == name
        assert described["parameters"]["properties"] == {"by": {"type": "integer"}}


def test_what_cannot_be_described() -> None:
    def unknown(value: object, when: complex) -> None: ...
    def mixed(value: Literal["a", 1]) -> None: ...
    def union(value: list[int] | str) -> None: ...
    def positional(value: int, /) -> None: ...
    def many(*values: int) -> None: ...
    def missing(value: Unheard) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    for function, text in (
        (unknown, "parameter when: the type .*complex"),
        (mixed, "of one type"),
        (union, "cannot be described"),
        (positional, "a name to be called by"),
        (many, "a name to be called by"),
        (missing, "Unheard"),
    ):
        with pytest.raises(TypeError, match=text):
            tool_schema(function)


# -- the loop ----------------------------------------------------------------------------


def get_weather(city: str, unit: Unit = Unit.CELSIUS) -> Any:
    """Tell the weather."""
    if city == "Nowhere":
        raise LookupError("no such city")
    if city == "Cycle":
        return {1, 2}
    return {"city": city, "unit": unit.name}


def test_calls_until_there_is_an_answer() -> None:
    model = ScriptedModel(
        call("get_weather", '{"city":"Oslo"}'), call("get_weather", '{"city":"Rome"}'), FINAL
    )
    result = model.run(USER, [get_weather], reasoning_effort="low", max_tokens=500)
    assert (result.text, result.finish_reason) == ("Hello", "stop")
    assert [m["role"] for m in result.messages] == [
        *("user", "assistant", "tool", "assistant", "tool", "assistant")
    ]
    answers = [m for m in result.messages if m["role"] == "tool"]
    assert [a["content"] for a in answers] == [
        '{"city": "Oslo", "unit": "CELSIUS"}',
        '{"city": "Rome", "unit": "CELSIUS"}',
    ]
    for answer, asked in zip(answers, result.messages[1::2], strict=False):
        assert answer["tool_call_id"] == asked["tool_calls"][0]["id"]
    last = model.text(model.requests[-1][0])
    assert last.count("<|channel|>analysis<|message|>Hm.<|end|>") == 2
    assert '"city": "Rome"' in last
    assert all("Reasoning: low" in model.text(prompt) for prompt, _ in model.requests)
    assert all(params.max_tokens == 500 for _, params in model.requests)


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("get_weather", '{"city":"Nowhere"}', "Error: LookupError: no such city"),
        ("get_weather", '{"city":', 'Error: the arguments must be a JSON object, got {"city":'),
        ("get_weather", "{}", "Error: get_weather: missing a required argument: 'city'"),
        ("get_weather", '{"city":"Oslo","day":1}', "unexpected keyword argument 'day'"),
        ("get_weather", '{"city":"Oslo","unit":"k"}', "Error: ValueError: 'k' is not a valid"),
        ("get_weather", '{"city":"Cycle"}', "Error: TypeError: Object of type set"),
        ("get_time", "{}", "Error: there is no tool functions.get_time; there are: get_weather"),
    ],
)
def test_the_model_is_told_what_went_wrong(name: str, arguments: str, told: str) -> None:
    model = ScriptedModel(call(name, arguments), FINAL)
    result = model.run(USER, {"get_weather": get_weather})
    assert told in result.messages[2]["content"]
    assert told in model.text(model.requests[1][0])
    assert result.text == "Hello"


def test_values_of_enums_and_texts() -> None:
    model = ScriptedModel(call("get_weather", '{"city":"Oslo","unit":"f"}'), FINAL)
    assert "FAHRENHEIT" in model.run(USER, [get_weather]).messages[2]["content"]
    model = ScriptedModel(call("say", "{}"), FINAL)
    assert model.run(USER, {"say": lambda: "é ünquoted"}).messages[2]["content"] == "é ünquoted"


def test_stops_after_max_steps() -> None:
    calls: list[str] = []
    model = ScriptedModel(*[call("note", '{"text":"x"}')] * 3)

    def note(text: str) -> None:
        calls.append(text)

    result = model.run(USER, [note], max_steps=3)
    assert result.finish_reason == "tool_calls"
    assert len(model.requests) == 3
    assert calls == ["x", "x"]  # nobody would read the third answer


def test_a_truncated_call_is_not_made() -> None:
    model = ScriptedModel(call("get_weather", '{"city":"Oslo"}'))
    result = model.run(USER, [get_weather], max_tokens=20)
    assert result.finish_reason == "length"
    assert len(model.requests) == 1


def test_a_forced_call_is_forced_once() -> None:
    model = ScriptedModel('{"city":"Oslo"}<|call|>', FINAL)
    assert model.run(USER, [get_weather], tool_choice="required").text == "Hello"
    assert model.text(model.requests[1][0]).endswith("<|start|>assistant")
    model = ScriptedModel(call("get_weather", '{"city":"Oslo"}'), FINAL)
    model.run(USER, [get_weather], tool_choice="none")
    assert not any("type get_weather" in model.text(prompt) for prompt, _ in model.requests)


def test_interrupting_a_tool_interrupts() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ScriptedModel(call("interrupted", "{}"), FINAL).run(USER, [interrupted])


def test_bad_arguments_of_run() -> None:
    async def later() -> None: ...

    model = ScriptedModel()
    with pytest.raises(TypeError, match="plain function"):
        model.run(USER, [later])
    with pytest.raises(TypeError, match="plain function"):
        model.run(USER, {"x": 1})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="a name of its own"):
        model.run(USER, [get_weather, get_weather])
    with pytest.raises(ValueError, match="max_steps"):
        model.run(USER, [get_weather], max_steps=0)
    with pytest.raises(TypeError, match="stream"):
        model.run(USER, [get_weather], stream=True)
