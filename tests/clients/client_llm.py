"""llm: as a library and as a command, with models in extra-openai-models.yaml."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel

MODELS = """
- model_id: chat
  model_name: demo
  api_base: {url}
  supports_tools: true
  supports_schema: true
- model_id: responses
  model_name: demo
  api_base: {url}
  responses: true
  supports_tools: true
  supports_schema: true
- model_id: text
  model_name: demo
  api_base: {url}
  completion: true
"""


class Verdict(BaseModel):
    right: bool
    city: Literal["Oslo", "Rome"]


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where llm looks for its models."""
    path = tmp_path_factory.mktemp("llm")
    (path / "extra-openai-models.yaml").write_text(MODELS.format(url=os.environ["OPENAI_BASE_URL"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM_USER_PATH", str(path))
        yield path


@pytest.fixture(params=["chat", "responses"])
def model(request: pytest.FixtureRequest) -> Any:
    import llm

    return llm.get_model(request.param)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer(model: Any, stream: bool) -> None:
    assert "42" in model.prompt("What is 17 + 25?", stream=stream, temperature=0).text()


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool(model: Any, stream: bool) -> None:
    called = []

    def get_weather(city: str) -> str:
        """Get the current weather in a city."""
        called.append(city)
        return "17"

    answer = model.chain(
        "What is the weather in Oslo?",
        tools=[get_weather],
        stream=stream,
        options={"temperature": 0},
    ).text()
    assert called == ["Oslo"]
    assert "17" in answer


def test_a_schema(model: Any) -> None:
    answer = model.prompt("What is 17 + 25?", schema=Verdict, temperature=0)
    Verdict.model_validate(json.loads(answer.text()))


def test_completions() -> None:
    import llm

    assert llm.get_model("text").prompt("What is", max_tokens=5, temperature=0).text()


def test_the_command() -> None:
    command = [sys.executable, "-m", "llm", "-m", "chat", "-o", "temperature", "0", "--no-log"]
    done = subprocess.run(
        [*command, "What is 17 + 25?"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "42" in done.stdout
