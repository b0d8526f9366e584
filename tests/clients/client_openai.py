"""openai: Chat Completions, Responses, completions and models, also with its helpers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

QUESTION: list[Any] = [{"role": "user", "content": "What is 17 + 25?"}]
WEATHER: list[Any] = [{"role": "user", "content": "What is the weather in Oslo?"}]
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
FUNCTION: dict[str, Any] = {
    "name": "get_weather",
    "description": "Get the current weather in a city.",
    "parameters": PARAMETERS,
}
GREEDY: dict[str, Any] = {"model": "demo", "temperature": 0}


class Verdict(BaseModel):
    right: bool
    city: Literal["Oslo", "Rome"]


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    with openai.OpenAI(max_retries=0, timeout=60) as made:
        yield made


class TestChat:
    def test_an_answer(self, client: openai.OpenAI) -> None:
        answer = client.chat.completions.create(messages=QUESTION, **GREEDY)
        (choice,) = answer.choices
        assert choice.finish_reason == "stop"
        assert "42" in choice.message.content
        assert choice.message.reasoning
        assert answer.usage.completion_tokens_details.reasoning_tokens > 0

    def test_a_stream(self, client: openai.OpenAI) -> None:
        chunks = list(
            client.chat.completions.create(
                messages=QUESTION, stream=True, stream_options={"include_usage": True}, **GREEDY
            )
        )
        deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
        assert "42" in "".join(delta.content or "" for delta in deltas)
        assert "".join(getattr(delta, "reasoning", None) or "" for delta in deltas)
        assert chunks[-1].usage.total_tokens > 0

    def test_the_stream_helper(self, client: openai.OpenAI) -> None:
        tools: Any = [{"type": "function", "function": FUNCTION}]
        with client.chat.completions.stream(messages=WEATHER, tools=tools, **GREEDY) as stream:
            events = [event.type for event in stream]
            answer = stream.get_final_completion()
        assert "tool_calls.function.arguments.done" in events
        (call,) = answer.choices[0].message.tool_calls
        assert json.loads(call.function.arguments) == {"city": "Oslo"}

    @pytest.mark.parametrize("strict", [False, True])
    def test_a_tool(self, client: openai.OpenAI, strict: bool) -> None:
        tools: Any = [{"type": "function", "function": {**FUNCTION, "strict": strict}}]
        first = client.chat.completions.create(messages=WEATHER, tools=tools, **GREEDY)
        assert first.choices[0].finish_reason == "tool_calls"
        message = first.choices[0].message
        (call,) = message.tool_calls
        assert json.loads(call.function.arguments) == {"city": "Oslo"}
        told = {"role": "tool", "tool_call_id": call.id, "content": "17"}
        second = client.chat.completions.create(
            messages=[*WEATHER, message, told], tools=tools, **GREEDY
        )
        assert "17" in second.choices[0].message.content

    def test_a_schema(self, client: openai.OpenAI) -> None:
        answer = client.chat.completions.parse(messages=QUESTION, response_format=Verdict, **GREEDY)
        assert isinstance(answer.choices[0].message.parsed, Verdict)

    def test_errors(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.NotFoundError) as missing:
            client.chat.completions.create(messages=QUESTION, model="gpt-6")
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as wrong:
            client.chat.completions.create(messages=QUESTION, model="demo", temperature=-1)
        assert wrong.value.param == "temperature"


class TestResponses:
    def test_an_answer(self, client: openai.OpenAI) -> None:
        response = client.responses.create(input="What is 17 + 25?", **GREEDY)
        assert "42" in response.output_text
        assert [item.type for item in response.output] == ["reasoning", "message"]
        assert response.output[0].content[0].text
        again = client.responses.create(input="Add 5.", previous_response_id=response.id, **GREEDY)
        assert "47" in again.output_text

    def test_a_stream(self, client: openai.OpenAI) -> None:
        with client.responses.stream(input="What is 17 + 25?", **GREEDY) as stream:
            texts = [e.delta for e in stream if e.type == "response.output_text.delta"]
            response = stream.get_final_response()
        assert "".join(texts) == response.output_text
        assert "42" in response.output_text

    @pytest.mark.parametrize("strict", [False, True])
    def test_a_tool(self, client: openai.OpenAI, strict: bool) -> None:
        tools: Any = [{"type": "function", **FUNCTION, "strict": strict}]
        first = client.responses.create(input=WEATHER, tools=tools, **GREEDY)
        call = first.output[-1]
        assert call.type == "function_call"
        assert json.loads(call.arguments) == {"city": "Oslo"}
        told = {"type": "function_call_output", "call_id": call.call_id, "output": "17"}
        second = client.responses.create(
            input=[*WEATHER, *first.output, told], tools=tools, **GREEDY
        )
        assert "17" in second.output_text
        # The same with what the server has kept.
        third = client.responses.create(
            input=[told], previous_response_id=first.id, tools=tools, **GREEDY
        )
        assert third.output_text == second.output_text

    def test_a_schema(self, client: openai.OpenAI) -> None:
        response = client.responses.parse(input="What is 17 + 25?", text_format=Verdict, **GREEDY)
        assert isinstance(response.output_parsed, Verdict)


def test_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(prompt="What is", max_tokens=5, **GREEDY)
    stream = client.completions.create(prompt="What is", max_tokens=5, stream=True, **GREEDY)
    assert answer.choices[0].text
    assert answer.choices[0].text == "".join(chunk.choices[0].text for chunk in stream)


def test_models(client: openai.OpenAI) -> None:
    (model,) = client.models.list()
    assert model.id == "demo"
    assert client.models.retrieve("demo").id == "demo"


def test_asyncio() -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(max_retries=0, timeout=60) as made:
            return [
                answer.choices[0].message.content
                for answer in await asyncio.gather(
                    *(
                        made.chat.completions.create(
                            messages=[{"role": "user", "content": f"What is {n} + {n}?"}], **GREEDY
                        )
                        for n in (2, 30, 400)
                    )
                )
            ]

    for text, wanted in zip(asyncio.run(ask()), ("4", "60", "800"), strict=True):
        assert wanted in text
