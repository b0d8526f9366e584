"""Adapters are models of their own to those who ask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import gptoss
from gptoss.server import ServerSettings, app
from support.adapters import make_adapter
from support.asgi import ask, post

USER = [{"role": "user", "content": "What is 17 + 25?"}]
GREEDY = {"temperature": 0, "max_tokens": 12}


@pytest.fixture
def tuned(llm: gptoss.LLM, tmp_path: Path) -> Iterator[gptoss.LLM]:
    for name, seed in (("first", 1), ("second", 2)):
        folder = make_adapter(tmp_path / name, llm.config, seed=seed, size=0.2)
        llm.load_adapter(name, folder)
    yield llm
    for name in llm.adapters:
        llm.unload_adapter(name)


def test_they_are_in_the_list(demo: Any, tuned: gptoss.LLM) -> None:
    models = ask(demo, "GET", "/v1/models").json["data"]
    assert [(model["id"], model["parent"]) for model in models] == [
        ("demo", None),
        ("first", "demo"),
        ("second", "demo"),
    ]
    assert ask(demo, "GET", "/v1/models/second").json == models[2]
    tuned.unload_adapter("second")
    assert ask(demo, "GET", "/v1/models/second").status == 404
    answer = post(demo, "/v1/chat/completions", {"messages": USER, "model": "second"})
    assert answer.status == 404
    assert "only demo, first" in answer.json["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        ("/v1/completions", {"prompt": "One"}, lambda found: found["choices"][0]["text"]),
        (
            "/v1/chat/completions",
            {"messages": USER, "logprobs": True},
            lambda found: str(found["choices"][0]["logprobs"]),
        ),
        ("/v1/responses", {"input": "Hello", "store": False}, lambda found: str(found["usage"])),
        ("/v1/messages", {"messages": USER}, lambda found: str(found["content"])),
    ],
)
def test_a_request_names_one(
    demo: Any,
    tuned: gptoss.LLM,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    body: dict[str, Any],
    text: Callable[[dict[str, Any]], str],
) -> None:
    asked: list[str | None] = []
    submit = gptoss.LLM.submit

    def noted(self: gptoss.LLM, prompt: Any, params: Any = None, **more: Any) -> Any:
        request = submit(self, prompt, params, **more)
        asked.append(more.get("adapter", params and params.adapter))
        return request

    monkeypatch.setattr(gptoss.LLM, "submit", noted)
    limit = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
    body = {**body, "temperature": 0, limit: 16}
    found = {}
    for name in ("demo", "first", "second"):
        answer = post(demo, path, {**body, "model": name})
        assert answer.status == 200, answer.json
        assert answer.json["model"] == name
        found[name] = text(answer.json)
    assert asked == [None, "first", "second"]
    if path != "/v1/responses":
        assert len(set(found.values())) == 3


def test_a_stream_says_its_name(demo: Any, tuned: gptoss.LLM) -> None:
    for path, more in (
        ("/v1/chat/completions", {"messages": USER}),
        ("/v1/completions", {"prompt": "a"}),
    ):
        body = {**GREEDY, **more, "model": "first", "stream": True}
        answer = post(demo, path, body)
        assert answer.status == 200
        assert '"model":"first"' in answer.body.decode().replace(" ", "")


def test_an_adapter_may_not_have_the_models_name(tuned: gptoss.LLM) -> None:
    with pytest.raises(ValueError, match="'first' is the name of the model"):
        app(tuned, ServerSettings(served_model_names=("gpt", "first")))
