"""instructor: objects by tools, by a schema, by JSON in text, and over Responses."""

from __future__ import annotations

from typing import Any, Literal

import instructor
import openai
import pytest
from pydantic import BaseModel


class Verdict(BaseModel):
    """A verdict."""

    right: bool
    city: Literal["Oslo", "Rome"]


class Place(BaseModel):
    """A place whose weather is asked for."""

    city: str


def ask(mode: str, question: str, kind: type[BaseModel] | None, method: str = "create") -> Any:
    client = instructor.from_openai(
        openai.OpenAI(max_retries=0, timeout=60), mode=instructor.Mode[mode]
    )
    return getattr(client, method)(
        model="demo",
        messages=[{"role": "user", "content": question}],
        response_model=kind,
        max_retries=0,
        temperature=0,
    )


# Of tools that are not strict the demo gets the form right when it is told.
CALL = "Use the tool Place with city Oslo."


@pytest.mark.parametrize("mode", ["TOOLS", "RESPONSES_TOOLS"])
def test_a_tool(mode: str) -> None:
    assert ask(mode, CALL, Place).city == "Oslo"


def test_a_schema() -> None:
    assert isinstance(ask("JSON_SCHEMA", "What is 17 + 25?", Verdict), Verdict)


@pytest.mark.parametrize(
    ("mode", "question", "kind"),
    [("TOOLS", CALL, Place), ("JSON_SCHEMA", "What is 2 + 3?", Verdict)],
)
def test_a_stream(mode: str, question: str, kind: type[BaseModel]) -> None:
    pieces = list(ask(mode, question, kind, "create_partial"))
    assert len(pieces) > 1
    kind.model_validate(pieces[-1].model_dump())


def test_plain_text() -> None:
    answer = ask("TOOLS", "What is 17 + 25?", None)
    assert "42" in answer.choices[0].message.content
