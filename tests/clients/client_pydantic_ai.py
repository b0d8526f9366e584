"""pydantic-ai: an agent over Chat Completions and over Responses."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.messages import ThinkingPart
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel


class Verdict(BaseModel):
    """A verdict."""

    right: bool
    city: Literal["Oslo", "Rome"]


@pytest.fixture(params=[OpenAIChatModel, OpenAIResponsesModel])
def model(request: pytest.FixtureRequest) -> Any:
    return request.param("demo", settings={"temperature": 0, "timeout": 60})


def thoughts(messages: list[Any]) -> list[Any]:
    return [part for each in messages for part in each.parts if isinstance(part, ThinkingPart)]


def test_an_answer(model: Any) -> None:
    run = Agent(model).run_sync("What is 17 + 25?")
    assert "42" in run.output
    assert thoughts(run.all_messages())


def test_turns(model: Any) -> None:
    agent = Agent(model)
    first = agent.run_sync("What is 17 + 25?")
    second = agent.run_sync("Add 5.", message_history=first.all_messages())
    assert "47" in second.output


def test_a_stream(model: Any) -> None:
    async def script() -> list[str]:
        async with Agent(model).run_stream("What is 17 + 25?") as run:
            return [text async for text in run.stream_text(delta=True, debounce_by=None)]

    pieces = asyncio.run(script())
    assert len(pieces) > 3
    assert "42" in "".join(pieces)


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_tool(model: Any, is_streamed: bool) -> None:
    called = []
    agent = Agent(model)

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """Get the current weather in a city.

        Args:
            city: Name of the city.
        """
        called.append(city)
        return "17"

    async def streamed() -> str:
        async with agent.run_stream("What is the weather in Oslo?") as run:
            return str(await run.get_output())

    if is_streamed:
        output = asyncio.run(streamed())
    else:
        output = agent.run_sync("What is the weather in Oslo?").output
    assert called == ["Oslo"]
    assert "17" in output


@pytest.mark.parametrize("wrap", [NativeOutput, ToolOutput])
def test_a_schema(model: Any, wrap: Any) -> None:
    agent = Agent(model, output_type=wrap(Verdict, strict=True))
    output = agent.run_sync("What is 17 + 25?").output
    assert isinstance(output, Verdict)
