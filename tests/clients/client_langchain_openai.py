"""langchain-openai: ChatOpenAI over Chat Completions and over Responses."""

from __future__ import annotations

import os
from typing import Any, Literal

import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class Verdict(BaseModel):
    """A verdict."""

    right: bool
    city: Literal["Oslo", "Rome"]


@tool
def get_weather(city: str) -> str:
    """Get the current weather in a city."""
    return "17"


@pytest.fixture(params=["chat", "responses"])
def model(request: pytest.FixtureRequest) -> ChatOpenAI:
    return ChatOpenAI(
        model="demo",
        base_url=os.environ["OPENAI_BASE_URL"],
        temperature=0,
        max_retries=0,
        timeout=60,
        use_responses_api=request.param == "responses",
    )


def test_an_answer(model: ChatOpenAI) -> None:
    answer = model.invoke("What is 17 + 25?")
    assert "42" in answer.text
    assert answer.usage_metadata["output_tokens"] > 0


def test_a_stream(model: ChatOpenAI) -> None:
    pieces = list(model.stream("What is 17 + 25?"))
    whole: Any = pieces[0]
    for piece in pieces[1:]:
        whole += piece
    assert len(pieces) > 3
    assert "42" in whole.text


@pytest.mark.parametrize("strict", [None, True])
def test_a_tool(model: ChatOpenAI, strict: bool | None) -> None:
    bound = model.bind_tools([get_weather], strict=strict)
    question = HumanMessage("What is the weather in Oslo?")
    first = bound.invoke([question])
    (call,) = first.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Oslo"})
    result = get_weather.invoke(call)
    assert isinstance(result, ToolMessage)
    assert "17" in bound.invoke([question, first, result]).text


def test_a_tool_in_a_stream(model: ChatOpenAI) -> None:
    pieces = list(model.bind_tools([get_weather]).stream("What is the weather in Rome?"))
    whole: Any = pieces[0]
    for piece in pieces[1:]:
        whole += piece
    (call,) = whole.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Rome"})


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_a_schema(model: ChatOpenAI, method: Any) -> None:
    bound = model.with_structured_output(Verdict, method=method, strict=True)
    assert isinstance(bound.invoke("What is 17 + 25?"), Verdict)
