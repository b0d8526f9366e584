"""instructor: objects by tools, by a schema, by JSON in text, and over Responses."""

from __future__ import annotations

from typing import Any, Literal

import instructor
import openai
import pytest
from pydantic import BaseModel

QUESTION: list[Any] = [{"role": "user", "content": "What is 17 + 25?"}]


class Verdict(BaseModel):
    """A verdict."""

    right: bool
    city: Literal["Oslo", "Rome"]


class Place(BaseModel):
    """A place whose weather is asked for."""

    city: str


def client(mode: instructor.Mode) -> Any:
    return instructor.from_openai(openai.OpenAI(max_retries=0, timeout=60), mode=mode)


@pytest.mark.parametrize("mode", ["TOOLS", "JSON_SCHEMA", "RESPONSES_TOOLS"])
def test_an_object(mode: str) -> None:
    found = client(instructor.Mode[mode]).create(
        model="demo", messages=QUESTION, response_model=Verdict, max_retries=0, temperature=0
    )
    assert isinstance(found, Verdict)


@pytest.mark.parametrize("mode", ["TOOLS", "JSON_SCHEMA"])
def test_an_object_in_a_stream(mode: str) -> None:
    pieces = list(
        client(instructor.Mode[mode]).create_partial(
            model="demo", messages=QUESTION, response_model=Verdict, max_retries=0, temperature=0
        )
    )
    assert len(pieces) > 1
    Verdict.model_validate(pieces[-1].model_dump())


def test_what_the_model_says_is_in_it() -> None:
    messages = [{"role": "user", "content": "What is the weather in Oslo?"}]
    found = client(instructor.Mode.TOOLS).create(
        model="demo", messages=messages, response_model=Place, max_retries=0, temperature=0
    )
    assert found.city == "Oslo"


def test_plain_text() -> None:
    answer = client(instructor.Mode.TOOLS).create(
        model="demo", messages=QUESTION, response_model=None, temperature=0
    )
    assert "42" in answer.choices[0].message.content
