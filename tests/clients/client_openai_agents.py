"""openai-agents: an agent with a function, over Chat Completions and over Responses."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import agents
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

agents.set_tracing_disabled(True)
called: list[str] = []


class Verdict(BaseModel):
    right: bool
    city: Literal["Oslo", "Rome"]


@agents.function_tool
def get_weather(city: str) -> str:
    """Get the current weather in a city.

    Args:
        city: Name of the city.
    """
    called.append(city)
    return "17"


@pytest.fixture(params=["chat", "responses"])
def model(request: pytest.FixtureRequest) -> agents.Model:
    client = AsyncOpenAI(max_retries=0, timeout=60)
    if request.param == "chat":
        return agents.OpenAIChatCompletionsModel("demo", client)
    return agents.OpenAIResponsesModel("demo", client)


def agent(model: agents.Model, **more: Any) -> agents.Agent[Any]:
    settings = agents.ModelSettings(temperature=0)
    return agents.Agent("helper", model=model, model_settings=settings, **more)


def streamed(of: agents.Agent[Any], question: str) -> tuple[str, str]:
    """The text's deltas, and what the run ends with."""

    async def script() -> tuple[str, str]:
        run = agents.Runner.run_streamed(of, question)
        deltas = [
            event.data.delta
            async for event in run.stream_events()
            if event.type == "raw_response_event"
            and event.data.type == "response.output_text.delta"
        ]
        return "".join(deltas), run.final_output

    return asyncio.run(script())


def test_an_answer(model: agents.Model) -> None:
    assert "42" in agents.Runner.run_sync(agent(model), "What is 17 + 25?").final_output


def test_a_stream(model: agents.Model) -> None:
    text, final = streamed(agent(model), "What is 17 + 25?")
    assert text == final
    assert "42" in final


def test_a_tool(model: agents.Model) -> None:
    called.clear()
    helper = agent(model, tools=[get_weather])
    found = agents.Runner.run_sync(helper, "What is the weather in Oslo?")
    assert called == ["Oslo"]
    assert "17" in found.final_output
    kinds = [item.type for item in found.new_items if item.type != "reasoning_item"]
    assert kinds == ["tool_call_item", "tool_call_output_item", "message_output_item"]


def test_a_tool_in_a_stream(model: agents.Model) -> None:
    called.clear()
    _, final = streamed(agent(model, tools=[get_weather]), "What is the weather in Rome?")
    assert called == ["Rome"]
    assert "17" in final


def test_a_schema(model: agents.Model) -> None:
    found = agents.Runner.run_sync(agent(model, output_type=Verdict), "What is 17 + 25?")
    assert isinstance(found.final_output, Verdict)
