"""/openapi.json, made from the tables of fields."""

from __future__ import annotations

import re
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gptoss.openai_requests import CHAT, COMPLETION, Table
from gptoss.server.messages.request import MESSAGES
from gptoss.server.responding import JsonResponse
from gptoss.server.responses.fields import RESPONSES
from gptoss.server.service import Service
from gptoss.server.tokenize import DETOKENIZE, TOKENIZE

# What each path takes, and what it is for. Modules with tables of their own add to it.
POSTS: dict[str, tuple[Table, str]] = {
    "/v1/chat/completions": (CHAT, "Answer a conversation."),
    "/v1/completions": (COMPLETION, "Continue prompts."),
    "/v1/responses": (RESPONSES, "Answer, and keep the answer if it is wanted."),
    "/v1/messages": (MESSAGES, "Answer, as Anthropic's API does."),
    "/v1/messages/count_tokens": (MESSAGES, "Count what the model would be given."),
    "/tokenize": (TOKENIZE, "Text or a conversation to token ids."),
    "/detokenize": (DETOKENIZE, "Token ids to text."),
}
_MESSAGES = {"messages": [{"role": "user", "content": "What is 17 + 25?"}]}
_EXAMPLES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": _MESSAGES,
    "/v1/completions": {"prompt": "What is", "max_tokens": 20},
    "/v1/responses": {"input": "What is 17 + 25?"},
    "/v1/messages": {**_MESSAGES, "max_tokens": 200},
    "/v1/messages/count_tokens": _MESSAGES,
    "/tokenize": _MESSAGES,
    "/detokenize": {"tokens": [40, 41]},
}
# The other operations, and what each is for; `{...}` is a parameter.
_OTHERS = {
    ("get", "/v1/responses/{id}"): "A response that was kept; `stream=true` follows one.",
    ("delete", "/v1/responses/{id}"): "Forget it.",
    ("post", "/v1/responses/{id}/cancel"): "End one that is written in the background.",
    ("get", "/v1/responses/{id}/input_items"): "What it answers.",
    ("get", "/v1/models"): "The names of the model.",
    ("get", "/v1/models/{name}"): "One of them.",
    ("get", "/health"): "200 when requests are answered, 503 before, and once the server ends.",
    ("get", "/health/live"): "200 while the process lives.",
    ("get", "/metrics"): "Counters for Prometheus.",
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                "code": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            },
        }
    },
}


def document(service: Service) -> dict[str, Any]:
    """The OpenAPI document."""
    paths: dict[str, Any] = {}
    errors = {
        "description": "An error.",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    for path, (table, about) in POSTS.items():
        responses = {"200": {"description": "The answer."}, "default": errors}
        paths[path] = {
            "post": {
                "summary": about,
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {
                            "schema": table.json_schema(),
                            "example": _EXAMPLES[path],
                        }
                    },
                },
                "responses": responses,
            }
        }
    for (method, path), about in _OTHERS.items():
        operation: dict[str, Any] = {
            "summary": about,
            "responses": {"200": {"description": about}, "default": errors},
        }
        names = re.findall(r"{(\w+)}", path)
        if names:
            operation["parameters"] = [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                for name in names
            ]
        paths.setdefault(path, {})[method] = operation
    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "gptoss", "version": "1"},
        "servers": [{"url": service.settings.root_path or "/"}],
        "paths": paths,
        "components": {
            "schemas": {"Error": _ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }
    if service.settings.api_keys:
        found["security"] = [{"key": []}]
    return found


def routes(service: Service) -> list[Route]:
    """The endpoints of this module."""

    async def openapi(request: Request) -> Response:
        return JsonResponse(document(service))

    return [Route("/openapi.json", openapi)]
