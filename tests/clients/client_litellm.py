"""litellm: its completion, responses and text_completion."""

from __future__ import annotations

import json
import os
from typing import Any, Literal

import litellm
from pydantic import BaseModel

SERVER: dict[str, Any] = {
    "model": "openai/demo",
    "api_base": os.environ["OPENAI_BASE_URL"],
    "temperature": 0,
    "timeout": 60,
}
QUESTION: list[Any] = [{"role": "user", "content": "What is 17 + 25?"}]
WEATHER: list[Any] = [{"role": "user", "content": "What is the weather in Oslo?"}]
FUNCTION: dict[str, Any] = {
    "name": "get_weather",
    "description": "Get the current weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}


class Verdict(BaseModel):
    right: bool
    city: Literal["Oslo", "Rome"]


class TestChat:
    def test_an_answer(self) -> None:
        answer = litellm.completion(messages=QUESTION, **SERVER)
        message = answer.choices[0].message
        assert "42" in message.content
        assert message.reasoning_content

    def test_a_stream(self) -> None:
        chunks = list(litellm.completion(messages=QUESTION, stream=True, **SERVER))
        deltas = [chunk.choices[0].delta for chunk in chunks]
        assert "42" in "".join(delta.content or "" for delta in deltas)
        assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
        assert chunks[-1].choices[0].finish_reason == "stop"

    def test_a_tool(self) -> None:
        tools = [{"type": "function", "function": FUNCTION}]
        message = litellm.completion(messages=WEATHER, tools=tools, **SERVER).choices[0].message
        (call,) = message.tool_calls
        assert json.loads(call.function.arguments) == {"city": "Oslo"}
        told = {"role": "tool", "tool_call_id": call.id, "content": "17"}
        answer = litellm.completion(messages=[*WEATHER, message, told], tools=tools, **SERVER)
        assert "17" in answer.choices[0].message.content

    def test_a_tool_in_a_stream(self) -> None:
        tools = [{"type": "function", "function": FUNCTION}]
        chunks = list(litellm.completion(messages=WEATHER, tools=tools, stream=True, **SERVER))
        whole = litellm.stream_chunk_builder(chunks)
        (call,) = whole.choices[0].message.tool_calls
        assert json.loads(call.function.arguments) == {"city": "Oslo"}

    def test_a_schema(self) -> None:
        answer = litellm.completion(messages=QUESTION, response_format=Verdict, **SERVER)
        Verdict.model_validate_json(answer.choices[0].message.content)


class TestResponses:
    def test_an_answer(self) -> None:
        response = litellm.responses(input="What is 17 + 25?", **SERVER)
        assert "42" in response.output_text

    def test_a_stream(self) -> None:
        events = list(litellm.responses(input="What is 17 + 25?", stream=True, **SERVER))
        deltas = [e.delta for e in events if e.type == "response.output_text.delta"]
        assert "42" in "".join(deltas)
        assert events[-1].type == "response.completed"

    def test_a_tool(self) -> None:
        tools: Any = [{"type": "function", **FUNCTION}]
        first = litellm.responses(input=WEATHER, tools=tools, **SERVER)
        call = first.output[-1]
        assert json.loads(call.arguments) == {"city": "Oslo"}
        told = {"type": "function_call_output", "call_id": call.call_id, "output": "17"}
        given: Any = [*WEATHER, *(item.model_dump() for item in first.output), told]
        assert "17" in litellm.responses(input=given, tools=tools, **SERVER).output_text


def test_completions() -> None:
    answer = litellm.text_completion(
        prompt="What is",
        max_tokens=5,
        **{**SERVER, "model": "text-completion-openai/demo"},
    )
    assert answer.choices[0].text
