"""Errors: OpenAI's shape, the right status and param, for whatever a client sends."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import pytest

import gptoss
from gptoss.server import ServerSettings, app
from gptoss.server.service import parse_json
from support.asgi import ask, post
from support.scripted_model import ScriptedModel

CHAT = "/v1/chat/completions"
USER = [{"role": "user", "content": "Hi"}]
LONG = [{"role": "user", "content": "a " * 5000}]
IMAGE = {"type": "image_url", "image_url": {"url": "x"}}
ANSWER = {"role": "tool", "content": "a", "tool_call_id": "x"}
NAMED = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"[1]", "must be a JSON object, got [1]"),
        (b'"text"', "must be a JSON object"),
        (b'{"temperature": NaN}', "NaN is no number"),
        (b'{"temperature": -Infinity}', "-Infinity is no number"),
        (b'{"temperature": 1e999}', "1e999 is no number"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "no JSON"),
        (b'{"a": "\xff"}', "no JSON"),
        (b'{"a": ' + b"[" * 200_000, "JSON"),
        (b"\x00" * 100, "no JSON"),
        (b"model=demo&messages=1", "no JSON"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/tokenize", "/detokenize"])
def test_bodies_that_are_no_json(demo: Any, body: bytes, message: str, path: str) -> None:
    reply = post(demo, path, body)
    assert reply.status == 400
    assert message in reply.error["message"]
    assert reply.error["type"] == "invalid_request_error"
    assert len(reply.body) < 1000


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"model": 5}, "model", None),
        ({"messages": LONG}, "messages", "context_length_exceeded"),
        ({"messages": [{"role": "wizard", "content": "a"}]}, "messages[0]", None),
        ({"messages": [{"role": "user"}]}, "messages[0]", None),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0]", None),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages[0]", None),
        ({"messages": [ANSWER]}, "messages[0]", None),
        ({"messages": [{"role": "user", "content": "a", "wizard": 1}]}, "messages[0]", None),
        ({"tools": [{"type": "retrieval"}]}, "tools[0]", None),
        ({"tools": [{"type": "function"}]}, "tools[0]", None),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0]", None),
        ({"tool_choice": "required"}, "tool_choice", None),
        ({"tool_choice": NAMED}, "tool_choice", None),
        ({"temperature": "hot"}, "temperature", None),
        ({"temperature": -0.1}, "temperature", None),
        ({"top_p": 1.1}, "top_p", None),
        ({"logit_bias": {"5": 1e300}}, "logit_bias", None),
        ({"logit_bias": {"-5": 1}}, None, None),
        ({"stop": [""]}, "stop[0]", None),
        ({"stop": ["a"] * 65}, "stop", None),
        ({"max_tokens": 0}, "max_tokens", None),
        ({"max_tokens": 5, "min_tokens": 6}, "min_tokens", None),
        ({"reasoning_effort": "extreme"}, "reasoning_effort", None),
        ({"response_format": {"type": "yaml"}}, "response_format", None),
        ({"continue_final_message": True}, "continue_final_message", None),
        ({"stream": True, "messages": [{"role": "wizard"}]}, "messages[0]", None),
    ],
)
def test_wrong_fields(demo: Any, body: Any, param: str | None, code: str | None) -> None:
    reply = post(demo, CHAT, {"messages": USER, **body})
    assert reply.status == 400, reply.body
    assert (reply.error["param"], reply.error["code"]) == (param, code)
    assert reply.error["type"] == "invalid_request_error"


def test_another_model(demo: Any) -> None:
    reply = post(demo, CHAT, {"messages": USER, "model": "gpt-4o"})
    assert (reply.status, reply.error["code"]) == (404, "model_not_found")
    assert reply.error["param"] == "model"
    assert "only demo" in reply.error["message"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("DELETE", CHAT, 405, "method_not_allowed"),
        ("GET", "/v1/models/", 404, "model_not_found"),
        ("GET", "/v1/models/gpt-4o", 404, "model_not_found"),
        ("GET", "/../../etc/passwd", 404, "not_found"),
        ("GET", "/docs", 404, "not_found"),
    ],
)
def test_paths_and_methods(demo: Any, method: str, path: str, status: int, code: str) -> None:
    reply = ask(demo, method, path)
    assert reply.status == status
    assert reply.error["code"] == code
    if status == 405:
        assert reply.headers["allow"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_long(make: Any, chunked: bool) -> None:
    small = make(max_body_bytes=1000)
    pieces = [b'{"messages": "', b"a" * 600, b"b" * 600, b"c" * 600, b'"}']
    reply = (
        post(small, CHAT, None, chunks=list(pieces))
        if chunked
        else post(small, CHAT, b"".join(pieces))
    )
    assert reply.status == 413
    assert reply.error["code"] == "request_too_large"
    assert post(small, CHAT, b" " * 1000).status == 400  # just as long as it may be


def test_a_compressed_body(demo: Any) -> None:
    reply = post(demo, CHAT, b"\x1f\x8b", headers={"content-encoding": "gzip"})
    assert reply.status == 415


def test_texts_that_are_no_unicode(demo: Any) -> None:
    """Lone surrogates, which JSON can spell, come back as something that is UTF-8."""
    body = b'{"prompt": "a\\ud800", "echo": true, "max_tokens": 1}'
    reply = post(demo, "/v1/completions", body)
    assert reply.status == 200
    assert reply.json["choices"][0]["text"].startswith("a?")
    wrong = post(demo, CHAT, b'{"messages": [{"role": "\\ud800"}]}')
    assert wrong.status == 400
    assert wrong.error["param"] == "messages[0]"


def test_all_tokens_are_banned(demo: Any, llm: gptoss.LLM) -> None:
    """A request that leaves no token is its author's mistake, not the server's."""
    bias = dict.fromkeys(map(str, range(llm.config.vocab_size)), -1e30)
    for path, body in (
        ("/v1/completions", {"prompt": "a", "max_tokens": 3}),
        (CHAT, {"messages": USER, "max_tokens": 3}),
    ):
        reply = post(demo, path, {**body, "logit_bias": bias})
        assert reply.status in (200, 400), reply.body


class Broken:
    """A model with a mistake in it."""

    name = "broken"
    max_sequences = 16
    context_length = 100
    adapters = ()

    def chat(self, *_: Any, **__: Any) -> Any:
        raise KeyError("secret prompt")


def test_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "null"}}}
    model: Any = ScriptedModel("<|channel|>final<|message|>null<|return|>")
    reply = post(app(model), CHAT, {"messages": USER, "response_format": wanted})
    assert (reply.status, reply.error["code"]) == (501, "not_installed")
    assert "pip install" in reply.error["message"]


def test_a_mistake_of_the_server(caplog: pytest.LogCaptureFixture) -> None:
    model: Any = Broken()
    with caplog.at_level(logging.ERROR, "gptoss.server"):
        reply = post(app(model, ServerSettings()), CHAT, {"messages": USER})
    assert reply.status == 500
    assert reply.error["type"] == "server_error"
    assert "secret" not in reply.error["message"]
    assert "KeyError" in caplog.text


def test_numbers_as_json_has_them() -> None:
    assert parse_json(b'{"a": 1.5e3, "b": -0.0, "c": 12345678901234567890}') == {
        "a": 1500.0,
        "b": -0.0,
        "c": 12345678901234567890,
    }
    with pytest.raises(ValueError, match="1e400 is no number"):
        parse_json(json.dumps({"a": 1}).encode().replace(b"1", b"1e400"))
