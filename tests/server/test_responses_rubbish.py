"""Bodies that are wrong in some place: each is answered, or refused for what is wrong.

Of /v1/responses and of /v1/messages.
"""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from support.response_types import check_response
from support.scripted_model import ScriptedModel
from support.serving import serving

HELLO = "<|channel|>final<|message|>Hello world<|return|>"

BODY: dict[str, Any] = {
    "input": [
        {"role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]},
        {"role": "user", "content": "weather?"},
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "S"}],
            "content": [{"type": "reasoning_text", "text": "Look."}],
        },
        {
            "type": "message",
            "role": "assistant",
            "phase": "commentary",
            "content": [{"type": "output_text", "text": "I look.", "annotations": []}],
        },
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "rain"},
    ],
    "instructions": "Speak.",
    "tools": [
        {
            "type": "function",
            "name": "f",
            "description": "d",
            "strict": False,
            "parameters": {"type": "object", "properties": {"a": {"type": "string"}}},
        },
        {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "g"}]},
    ],
    "tool_choice": {
        "type": "allowed_tools",
        "mode": "auto",
        "tools": [{"type": "function", "name": "f"}],
    },
    "reasoning": {"effort": "low", "summary": "auto", "exclude": False},
    "text": {"format": {"type": "text"}, "verbosity": "low"},
    "include": ["reasoning.encrypted_content"],
    "metadata": {"a": "b"},
    "stream_options": {"include_obfuscation": False},
    "max_output_tokens": 50,
    "max_tool_calls": 3,
    "temperature": 0.5,
    "top_p": 0.5,
    "top_logprobs": 1,
    "truncation": "auto",
    "background": False,
    "store": True,
    "parallel_tool_calls": True,
    "user": "u",
}
RUBBISH = (
    *(None, True, False, 0, -1, 7, 2**40, -0.5, 1e300, "", "x", "\ud800", "a b", "\n"),
    *([], {}, [None], [[]], {"": None}, {"type": None}, {"type": []}, {"type": "function"}),
    *([{"type": "message"}], [{"type": "reasoning"}], {"a": {"b": {"c": []}}}, "x" * 5000),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a body."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from places(inner, (*path, index))


def changed(given: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """A body with something else there."""
    body = copy.deepcopy(given)
    inner: Any = body
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return body


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    model = ScriptedModel(*[HELLO] * 5000, context_length=4000)
    with (
        serving(model) as url,
        httpx.Client(base_url=f"{url}/v1", timeout=20) as made,
    ):
        yield made


def test_the_body_itself_is_answered(client: httpx.Client) -> None:
    answer = client.post("/responses", json=BODY)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("seed", range(2))
def test_rubbish_is_answered_or_refused(client: httpx.Client, seed: int) -> None:
    chance = random.Random(seed)
    paths = list(places(BODY))
    statuses = set()
    for path in chance.sample(paths, len(paths)):
        body = changed(BODY, path, chance.choice(RUBBISH))
        answer = client.post("/responses", content=json.dumps(body))
        said = (path, answer.status_code, answer.text)
        statuses.add(answer.status_code)
        if answer.status_code == 200:
            check_response(answer.json())
        else:
            assert answer.status_code in (400, 404), said
            error = answer.json()["error"]
            assert error["type"] == "invalid_request_error", said
            assert error["message"], said
            if error["code"] != "context_length_exceeded":
                # A tool that is not there any more cannot be chosen.
                named = re.split(r"\W", str(error["param"]))[0]
                assert (path[0], named) == ("tools", "tool_choice") or named == path[0], said
    assert {200, 400} <= statuses


MESSAGES_BODY: dict[str, Any] = {
    "system": [{"type": "text", "text": "Be brief."}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "weather?"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Look.", "signature": ""},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "c", "name": "f", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c", "content": "rain"},
                {"type": "text", "text": "And?"},
            ],
        },
    ],
    "max_tokens": 50,
    "temperature": 0.5,
    "top_k": 5,
    "stop_sequences": ["x"],
    "thinking": {"type": "enabled", "budget_tokens": 100},
    "output_config": {"effort": "low"},
    "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
    "tool_choice": {"type": "auto"},
}


@pytest.mark.parametrize("seed", range(2))
def test_rubbish_in_anthropics_form(client: httpx.Client, seed: int) -> None:
    assert client.post("/messages", json=MESSAGES_BODY).status_code == 200
    chance = random.Random(seed)
    statuses = set()
    for path in places(MESSAGES_BODY):
        body = changed(MESSAGES_BODY, path, chance.choice(RUBBISH))
        answer = client.post("/messages", content=json.dumps(body))
        said = (path, answer.status_code, answer.text)
        statuses.add(answer.status_code)
        assert answer.status_code in (200, 400, 404), said
        if answer.status_code != 200:
            assert answer.json()["error"]["type"] in ("invalid_request_error", "not_found_error")
            assert "unhashable" not in answer.text, said
    assert {200, 400} <= statuses
