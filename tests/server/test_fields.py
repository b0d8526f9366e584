"""The tables of fields: whole, as the openai package has them, documented, and checked."""

from __future__ import annotations

import math
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params

from gptoss.openai_requests import CHAT, COMPLETION, ChatRequest, CompletionRequest, RequestError
from gptoss.openai_requests.fields import KEYWORDS, Table, check_value
from gptoss.server.tokenize import DETOKENIZE, TOKENIZE

ROOT = Path(__file__).resolve().parents[2]
OPENAI: list[tuple[Table, Any]] = [
    (CHAT, chat_create_params.CompletionCreateParamsStreaming),
    (COMPLETION, completion_create_params.CompletionCreateParamsStreaming),
]
TABLES = [CHAT, COMPLETION, TOKENIZE, DETOKENIZE]
MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(("table", "params"), OPENAI, ids=["chat", "completions"])
def test_every_field_of_the_openai_package_is_in_its_table(table: Table, params: Any) -> None:
    theirs = set(typing.get_type_hints(params))
    assert len(theirs) > 15
    own = {field.name for field in table if field.own}
    assert {field.name for field in table} - own == theirs
    assert own.isdisjoint(theirs)


@pytest.mark.parametrize("value", [None, "medium", "huge", 5])
def test_what_is_published_is_what_is_checked_also_inside_of_objects(value: Any) -> None:
    body = {"messages": MESSAGES, "reasoning": {"effort": value, "max_tokens": None}}
    is_right = jsonschema.Draft202012Validator(CHAT.json_schema()).is_valid(body)
    assert is_right == (value in (None, "medium"))
    if is_right:
        CHAT.check(body)
    else:
        with pytest.raises(RequestError):
            CHAT.check(body)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.title)
def test_tables_say_something_about_each_field(table: Table) -> None:
    for field in table:
        assert field.note, field.name
        if field.state == "done":
            assert field.schema, field.name
        for schema in inner_schemas(field.schema):
            assert schema.keys() <= KEYWORDS, field.name
        assert not field.meant or field.state == "refused"


def inner_schemas(schema: Any) -> Iterator[dict[str, Any]]:
    if not schema:
        return
    yield schema
    for inner in (*schema.get("anyOf", ()), *schema.get("properties", {}).values()):
        yield from inner_schemas(inner)
    yield from inner_schemas(schema.get("items"))


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "string", "minLength": 1}, ["a"], ["", 1, None, ["a"]]),
        ({"type": "integer", "minimum": 0, "maximum": 3}, [0, 3], [-1, 4, 1.0, True, "1"]),
        ({"type": "number", "exclusiveMinimum": 0}, [0.1, 5], [0, -1, False]),
        ({"type": "boolean"}, [True, False], [0, 1, "true"]),
        ({"enum": [1, "a"]}, [1, "a"], [True, "b", 2]),
        ({"const": True}, [True], [1, False]),
        (
            {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2},
            [[1], [1, 2]],
            [[], [1, 2, 3], ["a"]],
        ),
        (
            {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
            [{"a": "x", "b": 1}],
            [{}, {"a": None}, {"a": 1}, []],
        ),
        ({"anyOf": [{"type": "string"}, {"type": "integer", "maximum": 3}]}, ["a", 3], [4, 1.5]),
    ],
)
def test_values_against_schemas(schema: Any, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        check_value(value, schema, "x")
    for value in bad:
        with pytest.raises(RequestError, match=r"^x") as found:
            check_value(value, schema, "x")
        assert str(found.value.param).startswith("x")


def test_the_alternative_whose_type_fits_says_what_is_wrong() -> None:
    schema = {"anyOf": [{"type": "string"}, {"type": "integer", "maximum": 3}]}
    with pytest.raises(RequestError, match="x must be at most 3, got 4"):
        check_value(4, schema, "x")
    with pytest.raises(RequestError, match="x must be a string or an integer, got"):
        check_value([], schema, "x")


def test_a_long_value_is_cut_in_errors() -> None:
    with pytest.raises(RequestError) as found:
        check_value("a" * 10_000, {"type": "integer"}, "x")
    assert len(str(found.value)) < 200


class TestChatRequest:
    def test_what_a_library_is_given(self) -> None:
        asked = ChatRequest.read(
            {
                "messages": MESSAGES,
                "model": "m",
                "temperature": 0.5,
                "max_tokens": 7,
                "seed": -1,
                "top_k": -1,
                "logit_bias": {"5": -100},
                "logprobs": True,
                "top_logprobs": 2,
                "reasoning_effort": "minimal",
                "user": 5,
                "unheard_of": {"a": 1},
                "stop": None,
            }
        )
        assert asked.arguments == {
            "temperature": 0.5,
            "max_tokens": 7,
            "seed": 2**64 - 1,
            "top_k": 0,
            "logit_bias": {5: -100},
            "logprobs": 2,
            "reasoning_effort": "low",
        }
        assert (asked.model, asked.stream, asked.n, asked.sends_reasoning) == ("m", False, 1, True)

    def test_the_newer_limit_wins(self) -> None:
        body = {"messages": MESSAGES, "max_tokens": 7, "max_completion_tokens": 5}
        assert ChatRequest.read(body).arguments == {"max_tokens": 5}

    @pytest.mark.parametrize(
        "body",
        [
            {"reasoning": {"exclude": True}},
            {"include_reasoning": False},
        ],
    )
    def test_reasoning_is_left_out(self, body: Any) -> None:
        assert not ChatRequest.read({"messages": MESSAGES, **body}).sends_reasoning

    def test_reasoning_object(self) -> None:
        body = {"messages": MESSAGES, "reasoning": {"effort": "high", "max_tokens": 9}}
        asked = ChatRequest.read(body)
        assert asked.arguments == {"reasoning_effort": "high", "max_reasoning_tokens": 9}
        assert asked.sends_reasoning

    @pytest.mark.parametrize("mode", ["auto", "required"])
    def test_allowed_tools(self, mode: str) -> None:
        tools = [{"type": "function", "function": {"name": name}} for name in "abc"]
        allowed = {"mode": mode, "tools": [{"type": "function", "function": {"name": "b"}}]}
        choice = {"type": "allowed_tools", "allowed_tools": allowed}
        asked = ChatRequest.read({"messages": MESSAGES, "tools": tools, "tool_choice": choice})
        assert asked.arguments == {"tools": [tools[1]], "tool_choice": mode}

    @pytest.mark.parametrize(
        ("body", "param", "message"),
        [
            ({"stream_options": {}}, "stream_options", "needs stream"),
            ({"top_logprobs": 1}, "top_logprobs", "needs logprobs"),
            ({"functions": [{"name": "f"}]}, "functions", "pass `tools`"),
            ({"audio": {"voice": "x"}}, "audio", "text only"),
            ({"modalities": ["text", "audio"]}, "modalities", r"may only be \['text'\]"),
            ({"moderation": {"model": "m"}}, "moderation", "no moderation"),
            ({"logit_bias": {"x": 1}}, "logit_bias", "token ids as keys"),
            ({"logit_bias": {"1": "x"}}, "logit_bias.1", "must be a number"),
            ({"stream": 1}, "stream", "true or false"),
            ({"messages": None}, "messages", "you must provide"),
            ({"messages": "Hi"}, "messages", "must be a list"),
            ({"messages": ["Hi"]}, r"messages[0]", "must be an object"),
            ({"n": 0}, "n", "at least 1"),
            ({"temperature": math.pi * 1e9}, "temperature", "at most"),
            ({"tool_choice": "any"}, "tool_choice", "one of auto, none, required"),
            ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice", "list of tools"),
            (
                {
                    "tool_choice": {
                        "type": "allowed_tools",
                        "allowed_tools": {"tools": [{"function": {"name": "f"}}]},
                    }
                },
                "tool_choice",
                "no tool is named 'f'",
            ),
        ],
    )
    def test_errors(self, body: Any, param: str, message: str) -> None:
        with pytest.raises(RequestError, match=message) as found:
            ChatRequest.read({"messages": MESSAGES, **body})
        assert found.value.param == param

    def test_what_asks_for_nothing_is_not_refused(self) -> None:
        body = {"modalities": ["text"], "functions": [], "function_call": "auto", "audio": None}
        assert ChatRequest.read({"messages": MESSAGES, **body}).arguments == {}

    def test_strict(self) -> None:
        with pytest.raises(RequestError, match="did you mean temperature"):
            ChatRequest.read({"messages": MESSAGES, "temprature": 1}, strict=True)


class TestCompletionRequest:
    @pytest.mark.parametrize(
        ("prompt", "prompts"),
        [
            ("a", ["a"]),
            (["a", "b"], ["a", "b"]),
            ([1, 2], [[1, 2]]),
            ([[1], [2, 3]], [[1], [2, 3]]),
        ],
    )
    def test_prompts(self, prompt: Any, prompts: Any) -> None:
        asked = CompletionRequest.read({"prompt": prompt, "n": 3})
        assert asked.prompts == prompts
        assert asked.cost == 3 * len(prompts)

    @pytest.mark.parametrize("prompt", ["", [], ["a", 1], [1, "a"], [[1], "a"], [[1.5]], [True], 5])
    def test_no_prompts(self, prompt: Any) -> None:
        with pytest.raises(RequestError) as found:
            CompletionRequest.read({"prompt": prompt})
        assert found.value.param == "prompt"

    def test_scoring(self) -> None:
        params = CompletionRequest.read({"prompt": "a", "max_tokens": 0}).params
        assert (params.max_tokens, params.prompt_logprobs) == (0, 0)
        body = {"prompt": "a", "max_tokens": 1, "echo": True, "logprobs": 3}
        params = CompletionRequest.read(body).params
        assert (params.max_tokens, params.logprobs, params.prompt_logprobs) == (1, 3, 3)
        assert CompletionRequest.read({"prompt": "a"}).params.max_tokens == 16
