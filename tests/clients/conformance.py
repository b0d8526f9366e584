"""A check for Schemathesis: what is answered with 200 is of the openai package's types."""

from __future__ import annotations

import json
from typing import Any

import pydantic
import schemathesis
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent

# Of an answer, and of the events of a stream.
TYPES: dict[str, tuple[Any, Any]] = {
    "/v1/chat/completions": (ChatCompletion, ChatCompletionChunk),
    "/v1/completions": (Completion, Completion),
    "/v1/responses": (Response, ResponseStreamEvent),
    "/v1/models/{name}": (Model, None),
}


@schemathesis.check
def openai_types(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    """Fails what the openai package's client would not understand."""
    if response.status_code != 200 or case.path not in TYPES:
        return
    whole, event = TYPES[case.path]
    (content_type,) = response.headers["content-type"]
    if content_type.startswith("application/json"):
        pydantic.TypeAdapter(whole).validate_python(json.loads(response.content))
        return
    assert content_type.startswith("text/event-stream"), content_type
    for line in response.content.decode().splitlines():
        if line.startswith("data: ") and line != "data: [DONE]":
            data = json.loads(line.removeprefix("data: "))
            assert "error" not in data, data
            if event is Completion:  # its type has no null, which OpenAI's own streams send
                for choice in data["choices"]:
                    choice["finish_reason"] = choice["finish_reason"] or "stop"
            pydantic.TypeAdapter(event).validate_python(data)
