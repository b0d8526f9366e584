"""The openai package's own client, unchanged, on a server with the demo model."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pydantic
import pytest
from openai.types.responses import FunctionToolParam

import gptoss
from support.response_types import check_events, check_response
from support.serving import serving

GREEDY = {"temperature": 0, "model": "demo"}
WEATHER: FunctionToolParam = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the current weather in a city.",
    "strict": False,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with gptoss.load("demo", context_length=2048) as llm, serving(llm) as address:
        yield f"{address}/v1"


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as made:
        yield made


def numbers(text: str) -> list[str]:
    return re.findall(r"\d+", text.replace(",", ""))


def test_create(client: openai.OpenAI) -> None:
    response = client.responses.create(input="What is 17 + 25?", **GREEDY)
    check_response(response.to_dict())
    assert response.status == "completed"
    assert "42" in numbers(response.output_text)
    assert response.usage is not None
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens


def test_stream(client: openai.OpenAI) -> None:
    whole = client.responses.create(input="What is 17 + 25?", **GREEDY)
    with client.responses.create(input="What is 17 + 25?", stream=True, **GREEDY) as stream:
        events = list(stream)
    check_events(event.to_dict() for event in events)
    texts = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(texts) == whole.output_text


def test_the_helper_that_puts_a_stream_together(client: openai.OpenAI) -> None:
    with client.responses.stream(input="What is 17 + 25?", **GREEDY) as stream:
        events = [event.type for event in stream]
        response = stream.get_final_response()
    assert events[-1] == "response.completed"
    assert "42" in numbers(response.output_text)


def test_turns(client: openai.OpenAI) -> None:
    first = client.responses.create(input="What is 17 + 25?", **GREEDY)
    second = client.responses.create(
        input="What is 2 + 3?", previous_response_id=first.id, **GREEDY
    )
    assert second.previous_response_id == first.id
    assert second.usage is not None
    assert first.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens
    # Page by page: the client asks for the next one as it iterates.
    listed = list(client.responses.input_items.list(second.id, order="asc", limit=1))
    assert [item.type for item in listed] == [
        *("message", *(item.type for item in first.output), "message"),
    ]
    assert client.responses.retrieve(second.id) == second
    client.responses.delete(second.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(second.id)


def test_a_tool(client: openai.OpenAI) -> None:
    given: list[Any] = [{"role": "user", "content": "What is the weather in Oslo?"}]
    chosen = {"type": "function", "name": "get_weather"}
    first = client.responses.create(
        input=given, tools=[WEATHER], tool_choice=chosen, max_output_tokens=200, **GREEDY
    )
    check_response(first.to_dict())
    (call,) = (item for item in first.output if item.type == "function_call")
    assert call.name == "get_weather"
    json.loads(call.arguments)
    given += first.output
    given.append({"type": "function_call_output", "call_id": call.call_id, "output": "rain"})
    second = client.responses.create(input=given, tools=[WEATHER], max_output_tokens=200, **GREEDY)
    assert second.output
    check_response(second.to_dict())


def test_in_the_background(client: openai.OpenAI) -> None:
    response = client.responses.create(input="What is 17 + 25?", background=True, **GREEDY)
    assert response.status == "queued"
    with client.responses.retrieve(response.id, stream=True, starting_after=1) as stream:
        events = list(stream)
    check_events((event.to_dict() for event in events), first=2)
    done = client.responses.retrieve(response.id)
    assert done.status == "completed"
    assert client.responses.cancel(response.id).status == "completed"


class Person(pydantic.BaseModel):
    age: int = pydantic.Field(ge=1, le=99)
    colour: Literal["red", "green"]


def test_structured_output(client: openai.OpenAI) -> None:
    for seed in range(3):
        response = client.responses.parse(
            input="Describe somebody.",
            text_format=Person,
            model="demo",
            max_output_tokens=600,
            extra_body={"seed": seed, "max_reasoning_tokens": 20},
        )
        assert response.status == "completed"
        assert isinstance(response.output_parsed, Person)
    check_response(response.to_dict())


def test_any_object(client: openai.OpenAI) -> None:
    response = client.responses.create(
        input="What is 17 + 25? Answer in JSON.",
        text={"format": {"type": "json_object"}},
        model="demo",
        max_output_tokens=400,
        extra_body={"seed": 1, "max_reasoning_tokens": 20},
    )
    if response.status == "completed":
        assert isinstance(json.loads(response.output_text), dict)
    else:
        assert response.output_text.startswith("{")


def test_a_strict_tool(client: openai.OpenAI) -> None:
    schema = Person.model_json_schema() | {"additionalProperties": False}
    tool: FunctionToolParam = {
        "type": "function",
        "name": "save_person",
        "strict": True,
        "parameters": schema,
    }
    response = client.responses.create(
        input="Save somebody.",
        tools=[tool],
        tool_choice="required",
        model="demo",
        max_output_tokens=300,
        extra_body={"seed": 3},
    )
    assert response.status == "completed"
    (call,) = response.output
    assert call.type == "function_call"
    Person.model_validate_json(call.arguments)


def test_schemas_that_are_refused(client: openai.OpenAI) -> None:
    schema = {"type": "object", "not": {"required": ["a"]}}
    with pytest.raises(openai.BadRequestError) as error:
        client.responses.create(
            input="hi",
            text={"format": {"type": "json_schema", "name": "a", "schema": schema}},
            **GREEDY,
        )
    assert error.value.param == "text.format"
    assert "not" in error.value.message


def test_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.responses.create(input="x " * 10_000, **GREEDY)
    assert error.value.code == "context_length_exceeded"
    assert error.value.param == "input"
    with pytest.raises(openai.NotFoundError):
        client.responses.create(input="hi", model="gpt-6")


def test_asyncio(url: str) -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=url, api_key="none", timeout=60) as made:
            answers = await asyncio.gather(
                *(
                    made.responses.create(input=f"What is {n} + {n}?", store=False, **GREEDY)
                    for n in (2, 30, 400)
                )
            )
        return [answer.output_text for answer in answers]

    for text, wanted in zip(asyncio.run(ask()), ("4", "60", "800"), strict=True):
        assert wanted in numbers(text)
