"""Structured output and several samples over HTTP; both hold whatever the demo model says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .test_chat import WEATHER, chat, chunks, completion, text_of

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


def json_schema(schema: Any, **more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, **more}}


class TestResponseFormat:
    """Complaint 3: the schema's grammar holds in the answer alone, and reasoning comes as ever."""

    @pytest.mark.parametrize("strict", [{}, {"strict": True}])
    def test_a_schema(self, demo: Any, strict: Any) -> None:
        body = {"response_format": json_schema(PERSON, **strict), "temperature": 1, "seed": 3}
        body["max_reasoning_tokens"] = 30
        choice = completion(chat(demo, **body)).choices[0]
        assert choice.finish_reason == "stop"
        found = json.loads(choice.message.content or "")
        assert found.keys() == {"name", "age"}
        assert 0 <= found["age"] <= 120
        assert choice.message.model_extra is not None
        assert choice.message.model_extra["reasoning"]
        pieces = chunks(chat(demo, stream=True, **body))
        assert text_of(pieces, "content") == choice.message.content
        assert text_of(pieces, "reasoning") == choice.message.model_extra["reasoning"]

    def test_any_object(self, demo: Any) -> None:
        body = {"response_format": {"type": "json_object"}, "max_reasoning_tokens": 10}
        choice = completion(chat(demo, max_tokens=80, **body)).choices[0]
        if choice.finish_reason == "stop":
            assert isinstance(json.loads(choice.message.content or ""), dict)
        else:
            assert (choice.message.content or "{").startswith("{")

    def test_a_strict_tool(self, demo: Any) -> None:
        function = {**WEATHER["function"], "strict": True}  # type: ignore[dict-item]
        function["parameters"] = PERSON
        tool = {"type": "function", "function": function}
        body = {"tools": [tool], "tool_choice": "required", "temperature": 1, "seed": 5}
        (call,) = completion(chat(demo, **body)).choices[0].message.tool_calls or ()
        assert call.type == "function"
        assert json.loads(call.function.arguments).keys() == {"name", "age"}

    @pytest.mark.parametrize(
        ("wanted", "message"),
        [
            ({"type": "yaml"}, "yaml"),
            ({"type": "json_schema"}, "json_schema"),
            (json_schema({"not": {"type": "string"}}), "not"),
            (json_schema({"$ref": "http://example.com/schema"}), "$ref"),
            (json_schema({"type": "string", "pattern": "(?=a)b"}), "look-around"),
            (json_schema({"enum": ["a" * 70_000]}), "bytes"),
            (json_schema(5), "schema"),
        ],
    )
    def test_complaint_12_what_cannot_be_held(self, demo: Any, wanted: Any, message: str) -> None:
        for stream in (False, True):
            reply = chat(demo, response_format=wanted, stream=stream)
            assert reply.status == 400, reply.body
            assert str(reply.error["param"]).startswith("response_format"), reply.error
            assert message in reply.error["message"], reply.error

    def test_complaint_12_a_schema_that_is_nested_too_deeply(self, demo: Any) -> None:
        schema: Any = {"type": "string"}
        for _ in range(200):
            schema = {"type": "object", "properties": {"a": schema}}
        reply = chat(demo, response_format=json_schema(schema))
        assert reply.status == 400
        assert reply.error["param"].startswith("response_format")


class TestSamples:
    @pytest.mark.parametrize("temperature", [0, 1])
    def test_several(self, demo: Any, temperature: int) -> None:
        body = {"n": 3, "temperature": temperature, "seed": 7, "max_tokens": 40}
        found = completion(chat(demo, **body))
        assert [choice.index for choice in found.choices] == [0, 1, 2]
        pieces = chunks(chat(demo, stream=True, stream_options={"include_usage": True}, **body))
        for index, choice in enumerate(found.choices):
            assert text_of(pieces, "content", index) == (choice.message.content or "")
            extra = choice.message.model_extra
            assert extra is not None
            assert text_of(pieces, "reasoning", index) == extra.get("reasoning", "")
            mine = [c for piece in pieces for c in piece.choices if c.index == index]
            assert mine[0].delta.role == "assistant"
            assert [c.delta.role for c in mine[1:]] == [None] * (len(mine) - 1)
            assert [c.finish_reason for c in mine] == [None] * (len(mine) - 1) + [
                choice.finish_reason
            ]
        assert found.usage is not None
        assert pieces[-1].usage is not None
        assert pieces[-1].usage.completion_tokens == found.usage.completion_tokens
        assert found.usage.completion_tokens > 40
        first = completion(chat(demo, **{**body, "n": 1})).choices[0]
        assert found.choices[0].message == first.message
        if temperature == 0:
            assert len({choice.message.content for choice in found.choices}) == 1

    def test_joined_tokens(self, make: Any) -> None:
        body = {"n": 2, "temperature": 1, "seed": 7, "max_tokens": 30}
        app = make(stream_interval=5)
        whole = completion(chat(app, **body))
        pieces = chunks(chat(app, stream=True, **body))
        for index, choice in enumerate(whole.choices):
            assert text_of(pieces, "content", index) == (choice.message.content or "")
        assert len(pieces) < 30
