"""What openai/gpt-oss's compatibility test asks of a server, asked of this one.

That test gives prompts to an agent with functions, over Chat Completions and over Responses. A
case passes if a function was called with valid arguments, and if the reasoning came as it should:
in Chat as a string `reasoning` that is not empty, in Responses as a reasoning item whose content is
an array of `reasoning_text` parts that is not empty. Its prompts are made for a large model; these
are for the demo, which chooses another function, or another's parameter, now and then.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

import gptoss
from support.serving import serving


def function(name: str, description: str, **properties: Any) -> dict[str, Any]:
    return {
        "name": name,
        "description": description,
        "parameters": {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        },
    }


FUNCTIONS = [
    function("get_weather", "Get the weather of a city.", city={"type": "string"}),
    function("find_time", "Find the time of a place.", place={"type": "string"}),
    function("get_population", "Get the population of a country.", country={"type": "string"}),
    function("get_price", "Get the price of a product.", product={"type": "string"}),
    function("get_status", "Get the status of a file.", file={"type": "string"}),
    function("find_author", "Find the author of a book.", book={"type": "string"}),
]
# Which function is meant, what is asked, and what is to be its argument.
CASES = [
    (0, "What is the weather in Oslo?", "Oslo"),
    (0, "Get the weather in Rome.", "Rome"),
    (1, "What is the time in Lima?", "Lima"),
    (1, "Tell me the time in Paris.", "Paris"),
    (2, "What is the population of Norway?", "Norway"),
    (2, "Show me the population of Peru.", "Peru"),
    (3, "What is the price of Apple?", "Apple"),
    (3, "I need the price of Rolan.", "Rolan"),
    (4, "Check the status of Report.", "Report"),
    (4, "What is the status of Index?", "Index"),
    (5, "Find the author of Dune.", "Dune"),
    (5, "What is the author of Emma?", "Emma"),
]
RIGHT_CASES = 8  # of 12; the demo is small, and gets 10 with AVX2

# The names and arguments of what was called; fails if the reasoning is not there.
Ask = Callable[[openai.OpenAI, str, list[dict[str, Any]]], list[tuple[str, str]]]


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    with (
        gptoss.load("demo", context_length=2048) as llm,
        serving(llm) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as made,
    ):
        yield made


def chat(client: openai.OpenAI, prompt: str, functions: list[Any]) -> list[tuple[str, str]]:
    answer = client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": prompt}],
        tools=[{"type": "function", "function": each} for each in functions],
        temperature=0,
    )
    message = answer.choices[0].message
    assert isinstance(message.reasoning, str)  # type: ignore[attr-defined]
    assert message.reasoning  # type: ignore[attr-defined]
    calls: list[Any] = message.tool_calls or []
    return [(call.function.name, call.function.arguments) for call in calls]


def streamed_chat(
    client: openai.OpenAI, prompt: str, functions: list[Any]
) -> list[tuple[str, str]]:
    chunks = client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": prompt}],
        tools=[{"type": "function", "function": each} for each in functions],
        temperature=0,
        stream=True,
    )
    reasoning = ""
    calls: dict[int, list[str]] = {}
    for chunk in chunks:
        delta = chunk.choices[0].delta
        reasoning += getattr(delta, "reasoning", None) or ""
        for piece in delta.tool_calls or []:
            assert piece.function is not None
            call = calls.setdefault(piece.index, ["", ""])
            call[0] += piece.function.name or ""
            call[1] += piece.function.arguments or ""
    assert reasoning
    return [(name, arguments) for name, arguments in calls.values()]


def response_calls(response: Any) -> list[tuple[str, str]]:
    thoughts = [item for item in response.output if item.type == "reasoning"]
    assert thoughts
    for item in thoughts:
        assert isinstance(item.content, list)
        assert item.content
        assert all(part.type == "reasoning_text" and part.text for part in item.content)
    return [(item.name, item.arguments) for item in response.output if item.type == "function_call"]


def responses(client: openai.OpenAI, prompt: str, functions: list[Any]) -> list[tuple[str, str]]:
    tools: list[Any] = [{"type": "function", "strict": False, **each} for each in functions]
    return response_calls(
        client.responses.create(model="demo", input=prompt, tools=tools, temperature=0)
    )


def streamed_responses(
    client: openai.OpenAI, prompt: str, functions: list[Any]
) -> list[tuple[str, str]]:
    tools: list[Any] = [{"type": "function", "strict": False, **each} for each in functions]
    with client.responses.create(
        model="demo", input=prompt, tools=tools, temperature=0, stream=True
    ) as stream:
        events = list(stream)
    assert events[-1].type == "response.completed"
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert done == events[-1].response.output
    return response_calls(events[-1].response)


def _properties(place: int) -> dict[str, Any]:
    properties: dict[str, Any] = FUNCTIONS[place]["parameters"]["properties"]
    return properties


@pytest.mark.parametrize("ask", [chat, streamed_chat, responses, streamed_responses])
def test_functions_are_called_and_reasoning_is_shown(client: openai.OpenAI, ask: Ask) -> None:
    wrong = []
    for place, prompt, argument in CASES:
        functions = [FUNCTIONS[place], FUNCTIONS[(place + 1) % len(FUNCTIONS)]]
        calls = ask(client, prompt, functions)
        expected = [(FUNCTIONS[place]["name"], {next(iter(_properties(place))): argument})]
        if [(name, json.loads(given)) for name, given in calls] != expected:
            wrong.append((prompt, calls))
    assert len(CASES) - len(wrong) >= RIGHT_CASES, wrong
