"""Clear errors, messages that are continued, and schemas of callables."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import pytest

from gptoss import tool_schema
from gptoss.chat import build_prompt
from gptoss.harmony import DeveloperContent, HarmonyError, Message, Role, ToolDescription
from support.answers import TOOLS, USER, both_ways
from support.scripted_model import ScriptedModel

ENCODING = ScriptedModel().harmony


def prompt_of(messages: Any = USER, **chat: Any) -> str:
    return ENCODING.decode_utf8(build_prompt(ENCODING, messages, **chat).token_ids)


# -- errors ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "error", "text"),
    [
        (None, TypeError, "messages must be a list of messages, got None"),
        (5, TypeError, "messages must be a list"),
        (b"Hi", TypeError, "messages must be a list"),
        ({"role": "user", "content": "Hi"}, TypeError, "messages must be a list"),
        ([{"role": []}], ValueError, r"messages\[0\]: role must be"),
        ([{"role": "assistant", "tool_calls": 5}], TypeError, "tool_calls must be a list"),
        ([{"role": "assistant", "tool_calls": {"a": 1}}], TypeError, "tool_calls must be a list"),
        ([{"role": "assistant", "reasoning_details": 5}], TypeError, "reasoning_details must be"),
        ([{"role": "assistant", "reasoning": 5}], TypeError, r"messages\[0\]\.reasoning: content"),
        ([{"role": "tool", "tool_call_id": [1], "content": ""}], TypeError, "must be a string"),
        ([{"role": "tool", "name": [1], "content": ""}], ValueError, "a name must be a word"),
        ([{"role": "user", "content": [[]]}], ValueError, "reads text only"),
        (
            [
                {
                    "role": "assistant",
                    "tool_calls": [{"function": {"name": "w", "arguments": {1, 2}}}],
                }
            ],
            TypeError,
            r"tool_calls\[0\]: arguments must be JSON",
        ),
        ([{"role": "assistant", "channel": "final"}], ValueError, "must have content"),
        ([{"role": "user", "channel": "x", "content": [5]}], ValueError, r"messages\[0\]: "),
    ],
)
def test_messages_of_wrong_types(messages: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        build_prompt(ENCODING, messages)


@pytest.mark.parametrize(
    ("chat", "error", "text"),
    [
        ({"tools": 5}, TypeError, "tools must be a list"),
        ({"tools": [len]}, TypeError, r"tools\[0\] must be a dict .*tool_schema"),
        ({"tools": [{"name": 5}]}, ValueError, "with a name"),
        ({"tools": [{"name": "f", "description": 5}]}, TypeError, "description must be a string"),
        (
            {"tools": [{"name": "f", "parameters": 5}]},
            TypeError,
            "parameters must be a JSON schema",
        ),
        ({"tools": [{"type": [], "name": "f"}]}, ValueError, "type must be 'function'"),
        ({"builtin_tools": [5]}, TypeError, r"builtin_tools\[0\] must be one of browser, python"),
        ({"builtin_tools": 5}, TypeError, "builtin_tools must be a sequence"),
        ({"reasoning_effort": []}, ValueError, "reasoning_effort must be one of"),
        ({"reasoning_effort": 5}, ValueError, "reasoning_effort must be one of"),
        ({"tool_choice": []}, ValueError, "tool_choice must be"),
        ({"tool_choice": {"type": "function", "function": []}}, ValueError, "no tool is named"),
    ],
)
def test_arguments_of_wrong_types(chat: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        build_prompt(ENCODING, USER, **chat)


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def test_schemas_that_are_too_deep() -> None:
    assert prompt_of(tools=[{"name": "f", "parameters": nested(50)}]).count("a?: {") == 50
    for depth in range(300, 1100, 20):  # one function after the other gives up
        with contextlib.suppress(ValueError):
            prompt_of(tools=[{"name": "f", "parameters": nested(depth)}])
    for depth in (1100, 5000):
        with pytest.raises(ValueError, match=r"tools\[0\]: the parameters are nested too deeply"):
            prompt_of(tools=[{"name": "f", "parameters": nested(depth)}])


def test_schemas_that_are_too_deep_for_the_strict_renderer() -> None:
    for depth in (*range(300, 1100, 20), 5000):
        tool = ToolDescription("f", "", nested(depth))
        content = DeveloperContent.new().with_function_tools([tool])
        message = Message.from_role_and_content(Role.DEVELOPER, content)
        with contextlib.suppress(HarmonyError):
            ENCODING.render(message)


def test_messages_of_an_iterator_are_in_the_result() -> None:
    model = ScriptedModel("<|channel|>final<|message|>x<|return|>")
    result = model.chat(iter(USER))  # type: ignore[arg-type]
    assert [message["role"] for message in result.messages] == ["user", "assistant"]  # type: ignore[index]


def test_a_bias_against_all_tools() -> None:
    model = ScriptedModel("x", heeds_constraints=False)
    with pytest.raises(ValueError, match=r"tool_choice: .* logit_bias must not ban"):
        model.chat(USER, tools=TOOLS, tool_choice="required", logit_bias={1: -2000.0})


# -- the last message is continued -------------------------------------------------------

PREFILL: dict[str, Any] = {"role": "assistant", "content": "The answer is"}


def test_a_message_of_the_assistant_is_complete_unless_asked() -> None:
    assert prompt_of([*USER, PREFILL]).endswith(
        "<|start|>assistant<|channel|>final<|message|>The answer is<|end|><|start|>assistant"
    )


def test_a_message_is_continued() -> None:
    messages = [*USER, PREFILL]
    model = ScriptedModel(" 42.<|return|>")
    result = model.chat(messages, continue_final_message=True)
    opened = "<|start|>assistant<|channel|>final<|message|>The answer is"
    assert model.text(model.requests[0][0]).endswith(opened)
    assert result.text == " 42."
    assert result.messages == [*USER, {"role": "assistant", "content": "The answer is 42."}]
    assert result.message == result.messages[-1]
    assert result.harmony_messages[0].content[0].text == "The answer is 42."  # type: ignore[attr-defined]
    assert result.to_openai()["choices"][0]["message"]["content"] == " 42."
    assert messages == [*USER, PREFILL]
    stream = ScriptedModel(" 42.<|return|>").chat(
        messages, continue_final_message=True, stream=True, logprobs=0
    )
    assert "".join(delta.text for delta in stream) == " 42."
    assert stream.result is not None
    logprobs = stream.result.to_openai()["choices"][0]["logprobs"]["content"]
    assert "".join(entry["token"] for entry in logprobs) == " 42."


def test_what_was_thought_in_the_turn_stays() -> None:
    message = {**PREFILL, "reasoning": "Hm."}
    model = ScriptedModel("<|return|>")
    result = model.chat([*USER, message], continue_final_message=True)
    assert "analysis<|message|>Hm.<|end|>" in model.text(model.requests[0][0])
    assert result.messages[-1] == {**PREFILL, "reasoning": "Hm."}


def test_reasoning_is_continued() -> None:
    thought = {"role": "assistant", "content": None, "reasoning": "Hm, so"}
    script = " it is.<|end|><|start|>assistant<|channel|>final<|message|>42<|return|>"
    model = ScriptedModel(script)
    result = model.chat([*USER, thought], continue_final_message=True)
    assert model.text(model.requests[0][0]).endswith("<|channel|>analysis<|message|>Hm, so")
    assert (result.reasoning, result.text) == (" it is.", "42")
    assert result.messages[-1] == {
        "role": "assistant",
        "content": "42",
        "reasoning": "Hm, so it is.",
    }


def test_messages_of_harmony_are_continued() -> None:
    message = Message.from_role_and_content(Role.ASSISTANT, "The answer is").with_channel("final")
    for form in (message, message.to_dict()):
        result = ScriptedModel(" 42.<|return|>").chat([*USER, form], continue_final_message=True)
        assert result.messages[-1]["content"] == "The answer is 42."


def test_what_cannot_be_continued() -> None:
    call = {"id": "1", "function": {"name": "bash", "arguments": "{}"}}
    for messages, chat, text in (
        (USER, {}, "must be the assistant's"),
        ([{"role": "system", "content": "x"}], {}, "must be the assistant's"),
        ([*USER, {"role": "assistant", "tool_calls": [call]}], {}, "ends in a call"),
        ([*USER, PREFILL], {"tools": TOOLS, "tool_choice": "required"}, "forces a call"),
    ):
        with pytest.raises(ValueError, match=f"continue_final_message: .*{text}"):
            build_prompt(ENCODING, messages, continue_final_message=True, **chat)  # type: ignore[arg-type]


def test_a_continued_answer_may_call() -> None:
    commentary = Message.from_role_and_content(Role.ASSISTANT, "I look").with_channel("commentary")
    script = (
        " there.<|end|><|start|>assistant<|channel|>commentary to=functions.bash "
        "<|constrain|>json<|message|>{}<|call|>"
    )
    result = ScriptedModel(script).chat(
        [*USER, commentary], tools=TOOLS, continue_final_message=True
    )
    assert result.message["content"] == "I look there."
    assert result.message["tool_calls"] == [result.tool_calls[0].to_openai()]


# -- schemas of callables ----------------------------------------------------------------


def weather(city: str, unit: str = "c", *, key: str = "") -> str:
    """Tell the weather.

    Args:
        city: Name of a city.
        unit: c or f.
    """
    return f"{city} {unit} {key}"


def logged(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


PLAIN = tool_schema(weather)["function"]


@pytest.mark.parametrize(
    "function",
    [
        functools.lru_cache(weather),
        functools.cache(weather),
        logged(weather),
        logged(functools.partial(weather)),
        functools.partial(weather),
        functools.partial(logged(weather)),
        staticmethod(weather),
    ],
)
def test_decorated_functions_are_described_as_they_are(function: Any) -> None:
    assert tool_schema(function)["function"] == PLAIN


def test_what_a_partial_has_bound_is_not_shown() -> None:
    secret = functools.partial(weather, key="secret")
    described = tool_schema(secret)["function"]
    assert described["description"] == "Tell the weather."
    assert list(described["parameters"]["properties"]) == ["city", "unit"]
    assert "secret" not in str(described)
    bound = tool_schema(functools.partial(weather, "Oslo", key="k"))["function"]
    assert list(bound["parameters"]["properties"]) == ["unit"]
    text = '<|channel|>commentary to=functions.weather<|message|>{"city":"Oslo"}<|call|>'
    model = ScriptedModel(text, "<|channel|>final<|message|>x<|return|>")
    assert model.run(USER, [secret]).messages[2]["content"] == "Oslo c secret"


class Sensor:
    """Measures."""

    def __init__(self, place: str, depth: int = 0) -> None:
        self.place = place

    def __call__(self, depth: int) -> int:
        """Measure."""
        return depth

    @classmethod
    def find(cls, place: str) -> str:
        """Find one."""
        return place


def test_classes_methods_and_instances() -> None:
    of_class = tool_schema(Sensor)["function"]
    assert (of_class["name"], of_class["description"]) == ("Sensor", "Measures.")
    assert of_class["parameters"]["properties"] == {
        "place": {"type": "string"},
        "depth": {"type": "integer", "default": 0},
    }
    of_instance = tool_schema(Sensor("x"))["function"]
    assert of_instance["parameters"]["properties"] == {"depth": {"type": "integer"}}
    assert tool_schema(Sensor.find)["function"]["parameters"]["required"] == ["place"]


def test_defaults_that_are_no_json_are_left_out() -> None:
    def f(a: float = float("nan"), b: Any = object(), c: list[Any] = [b""]) -> None: ...  # noqa: B006, B008

    properties = tool_schema(f)["function"]["parameters"]["properties"]
    assert not any("default" in schema for schema in properties.values())


def test_callables_that_cannot_be_described() -> None:
    def odd(value: "1 +") -> None: ...  # type: ignore[valid-type]  # noqa: F722

    for function in (dict.fromkeys, odd):
        with pytest.raises(TypeError, match=r"\[tool_schema\]"):
            tool_schema(function)
    with pytest.raises(ValueError, match="a name must be a word"):
        tool_schema(lambda: None)
    with pytest.raises(ValueError, match=r"\[run\] tools: a name must be a word"):
        ScriptedModel().run(USER, [lambda: None])
    with pytest.raises(TypeError, match=r"\[run\] tools must be a list"):
        ScriptedModel().run(USER, 5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="plain function"):
        ScriptedModel().run(USER, [functools.partial(_later)])


async def _later() -> None: ...


def test_deltas_of_a_forced_call_are_whole() -> None:
    deltas, result = both_ways('{"c":"x"}<|call|>', tools=TOOLS[:1], tool_choice="required")
    assert result.tool_calls[0].name == "bash"
    assert deltas[0].tool_call is not None
