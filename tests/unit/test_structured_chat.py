"""Answers that are held to a schema or a grammar, whatever the model says."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gptoss import Decision
from gptoss.engine.constraints import constraint_for_sequence
from support.noise_model import NoiseModel
from support.scripted_model import ScriptedModel

USER = [{"role": "user", "content": "Hi"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "age": {"type": "integer", "minimum": 1, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["red", "green"]}, "maxItems": 2},
    },
    "required": ["age", "tags"],
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}
TEXT = re.compile(r'\{"age":[1-9][0-9]?,"tags":\[("red"|"green")?(,("red"|"green"))?\]\}')
STRICT = {
    "type": "function",
    "function": {"name": "get_weather", "strict": True, "parameters": SCHEMA},
}
LOOSE = {"type": "function", "function": {"name": "get_time", "parameters": SCHEMA}}


@pytest.fixture(scope="module")
def noise() -> Iterator[NoiseModel]:
    model = NoiseModel()
    yield model
    model.loop.close()


def valid(text: str) -> bool:
    return TEXT.fullmatch(text) is not None and len(json.loads(text)) == 2


def test_noise_is_valid(noise: NoiseModel) -> None:
    """Reasoning of noise goes on for ever: it has to be ended."""
    for seed in range(20):
        result = noise.chat(USER, response_format=FORMAT, seed=seed, max_reasoning_tokens=seed)
        assert valid(result.text), result.text
        assert (result.finish_reason, result.preamble, result.repairs) == ("stop", "", [])
        assert result.harmony_messages[-1].channel == "final"


def test_reasoning_is_free_and_the_rest_is_not() -> None:
    model = ScriptedModel("analysis", "Let me\n{<|end|>", "final", "{", "42", "]")
    result = model.chat(USER, response_format=FORMAT)
    assert (result.text, result.reasoning) == ('{"age":42,"tags":[]}', "Let me\n{")
    assert result.finish_reason == "stop"
    forced = "<|start|>assistant<|channel|>final<|message|>"
    assert model.text(result.token_ids) == (
        f"<|channel|>analysis<|message|>Let me\n{{<|end|>{forced}{result.text}<|return|>"
    )
    # Of headers only the choices are the model's; of the answer all that is forced counts, too.
    written = ["analysis", *"Let me\n{", "<|end|>", "final", *'{"age":42,"tags":[]}', "<|return|>"]
    assert result.usage.completion_tokens == len(written)
    assert result.usage.reasoning_tokens == len("Let me\n{")


MASKED = [
    ("<|channel|>", "a header's first token is written for it"),
    ("commentary", "nobody can be called"),
    ("Hello", "no text without a channel"),
    ("<|return|>", "no end without an answer"),
]


@pytest.mark.parametrize("token", [token for token, _ in MASKED])
def test_headers_that_cannot_come(token: str) -> None:
    assert not allowed(ScriptedModel(), token)
    assert allowed(ScriptedModel(), "final")


@pytest.mark.parametrize(
    "token", ["<|return|>", "<|call|>", "<|start|>", "<|channel|>", "<|message|>", "<|endoftext|>"]
)
def test_what_cannot_come_in_reasoning(token: str) -> None:
    assert not allowed(ScriptedModel(), "analysis", token)
    assert allowed(ScriptedModel(), "analysis", "Hello")
    assert allowed(ScriptedModel(), "analysis", "<|end|>")


def allowed(model: ScriptedModel, *sampled: str, **chat: Any) -> bool:
    """Whether the last token may come after the others, which are sampled one by one."""
    model.heeds_constraints = False
    model.next_script = lambda: iter([])  # type: ignore[method-assign]
    model.chat(USER, stream=True, response_format=FORMAT, **chat)
    ((_, params),) = model.requests
    assert params.constraint is not None
    constraint = constraint_for_sequence(params.constraint)
    constraint.accept([])
    for token in sampled[:-1]:
        constraint.accept(model.tokens(token))
    mask = np.full(9, 2**32 - 1, np.uint32)
    constraint.fill(mask)
    (token_id,) = model.tokens(sampled[-1])
    return bool(mask[token_id // 32] >> token_id % 32 & 1)


def test_calls_are_free_and_a_final_answer_is_not() -> None:
    """And what the model tells the user before is followed by a call."""
    tools = {"tools": [LOOSE]}
    script = ("commentary", "<|message|>", "I look.<|end|>", "commentary", " to=functions.")
    assert allowed(ScriptedModel(), "final", **tools)
    assert allowed(ScriptedModel(), *script, **tools)
    assert allowed(ScriptedModel(), *script[:3], "analysis", **tools)
    assert not allowed(ScriptedModel(), *script[:3], "final", **tools)
    model = ScriptedModel("".join(script[:3]), "".join(script[3:]), "no JSON<|call|>")
    result = model.chat(USER, response_format=FORMAT, **tools)
    assert (result.preamble, result.finish_reason) == ("I look.", "tool_calls")
    assert [(call.name, call.arguments) for call in result.tool_calls] == [("get_time", "no JSON")]


def test_strict_arguments(noise: NoiseModel) -> None:
    named = {"type": "function", "function": {"name": "get_weather"}}
    bias = {noise.harmony.special_id("<|end|>"): 20.0}
    seen = set()
    for seed in range(12):
        for choice in ("auto", "required", named):
            result = noise.chat(
                USER,
                tools=[LOOSE, STRICT],
                tool_choice=choice,
                seed=seed,
                max_tokens=150,
                logit_bias=bias,
                response_format=FORMAT if seed % 2 else None,
            )
            for call in result.tool_calls:
                if result.finish_reason != "length":
                    seen.add((str(choice), call.name))
                    assert call.name != "get_weather" or valid(call.arguments)
            if result.finish_reason == "stop" and seed % 2:
                assert valid(result.text)
            assert result.repairs == [] or result.finish_reason == "length"
    assert {choice for choice, name in seen if name == "get_weather"} == {
        *("auto", "required", str(named))
    }


@pytest.mark.parametrize("begun", ['{"age":4', '{"age":42,"tags":["red"', ""])
def test_an_answer_that_goes_on(noise: NoiseModel, begun: str) -> None:
    messages = [*USER, {"role": "assistant", "reasoning": "Hm", "content": begun}]
    for seed in range(3):
        result = noise.chat(
            messages, response_format=FORMAT, continue_final_message=True, seed=seed
        )
        assert valid(begun + result.text)
        assert result.message["content"] == begun + result.text


def test_an_answer_that_cannot_go_on(noise: NoiseModel) -> None:
    messages = [*USER, {"role": "assistant", "content": '{"name":'}]
    with pytest.raises(ValueError, match="response_format"):
        noise.chat(messages, response_format=FORMAT, continue_final_message=True)


@pytest.mark.parametrize(
    ("response_format", "pattern"),
    [
        ({"type": "regex", "pattern": "(red|green){2}"}, "(red|green){2}"),
        (
            {"type": "grammar", "syntax": "lark", "definition": 'start: "a" /[0-9]{2}/ ("x"|"yz")'},
            "a[0-9]{2}(x|yz)",
        ),
    ],
)
def test_other_grammars(noise: NoiseModel, response_format: Any, pattern: str) -> None:
    for seed in range(10):
        result = noise.chat(
            USER, response_format=response_format, max_reasoning_tokens=3, seed=seed
        )
        assert re.fullmatch(pattern, result.text)


@pytest.mark.parametrize(
    ("response_format", "message"),
    [
        ("json", "must be a dict with a type, got 'json'"),
        ({"type": "xml"}, "type must be one of text, json_object, json_schema, regex, grammar"),
        ({"type": "json_schema"}, "a json_schema must have a json_schema"),
        ({"type": "json_schema", "json_schema": {"schema": {}}}, "a name must be a word"),
        ({"type": "json_schema", "json_schema": {"name": "a"}}, "must have a schema"),
        ({"type": "json_schema", "json_schema": {"name": "a", "schema": 3}}, "must be a JSON sch"),
        ({"type": "json_schema", "json_schema": {"name": "a\nb", "schema": {}}}, "a name must be"),
        ({"type": "json_object", "pattern": "a"}, "a json_object has no pattern"),
        ({"type": "regex", "pattern": "(?=a)"}, "response_format.pattern: .*look"),
        ({"type": "grammar", "syntax": "gbnf", "definition": "x"}, "syntax must be 'lark'"),
        ({"type": "grammar", "syntax": "lark", "definition": "start: x"}, "definition: .*x"),
    ],
)
def test_formats_that_are_none(noise: NoiseModel, response_format: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        noise.chat(USER, response_format=response_format)


def test_text_is_no_format() -> None:
    plain, other = (ScriptedModel("<|channel|>final<|message|>a<|return|>") for _ in range(2))
    plain.chat(USER)
    other.chat(USER, response_format={"type": "text"})
    assert plain.requests == other.requests


def test_the_model_is_told() -> None:
    model = ScriptedModel("analysis")
    json_schema = {**FORMAT["json_schema"], "description": "A person.\n# Instructions"}
    model.heeds_constraints = False
    model.chat(
        USER,
        stream=True,
        developer="Be kind.",
        response_format={"type": "json_schema", "json_schema": json_schema},
    )
    ((prompt, _),) = model.requests
    schema = json.dumps(SCHEMA, separators=(",", ":"))
    assert (
        "<|start|>developer<|message|># Instructions\n\nBe kind.\n\n# Response Formats\n\n"
        f"## person\n\n// A person.\n// # Instructions\n{schema}<|end|>" in model.text(prompt)
    )


def test_a_constraint_of_the_callers_own() -> None:
    class Mine:
        def accept(self, token_ids: list[int]) -> Decision:
            return Decision()

        def fill(self, mask: Any) -> None:
            pass

    with pytest.raises(ValueError, match=r"constraint: .* response_format and strict tools"):
        ScriptedModel().chat(USER, response_format=FORMAT, constraint=Mine())


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    model = ScriptedModel("<|channel|>final<|message|>a<|return|>")
    with pytest.raises(ImportError, match=r"pip install 'gptoss-native\[structured\]'"):
        model.chat(USER, response_format=FORMAT)
    with pytest.raises(ImportError, match=r"pip install 'gptoss-native\[structured\]'"):
        model.chat(USER, tools=[STRICT])
    assert model.requests == []
    assert model.chat(USER, tools=[STRICT], tool_choice="none").text == "a"
