"""/tokenize and /detokenize, as vLLM has them."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gptoss.chat import build_prompt
from gptoss.llm import LLM
from gptoss.openai_requests.chat import CHAT, EFFORTS
from gptoss.openai_requests.completions import token_text
from gptoss.openai_requests.fields import Field, RequestError, Table
from gptoss.server.responding import bytes_response
from gptoss.server.service import Service, read_request
from gptoss.server.streams import json_bytes

_BOOLEAN = {"type": "boolean"}

TOKENIZE = Table(
    "/tokenize",
    [
        Field("model", "done", "a name of the served model", {"type": "string"}),
        Field("prompt", "done", "text; this or `messages`", {"type": "string"}),
        Field(
            "messages", "done", "a conversation, rendered as for a chat", CHAT["messages"].schema
        ),
        *(CHAT[name] for name in ("tools", "tool_choice", "reasoning_effort")),
        Field(
            "allow_special_tokens",
            "done",
            "names such as `<|start|>` in the prompt are the tokens; otherwise they are text",
            _BOOLEAN,
        ),
        Field("return_token_strs", "done", "each token's text as well", _BOOLEAN),
    ],
)
DETOKENIZE = Table(
    "/detokenize",
    [
        Field("model", "done", "a name of the served model", {"type": "string"}),
        Field(
            "tokens",
            "done",
            "token ids",
            {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}},
        ),
    ],
    required=("tokens",),
)


def routes(service: Service) -> list[Route]:
    """The endpoints of this module."""

    async def tokenize(request: Request) -> Response:
        given = await read_request(service, request, TOKENIZE.check)
        if ("prompt" in given) == ("messages" in given):
            raise RequestError("pass prompt or messages, one of them", "prompt")
        with service.call(request, given.get("model")) as call:
            return bytes_response(await call.check(_tokenize, call.llm, given))

    async def detokenize(request: Request) -> Response:
        given = await read_request(service, request, DETOKENIZE.check)
        with service.call(request, given.get("model")) as call:
            return bytes_response(await call.check(_detokenize, call.llm, given))

    return [
        Route("/tokenize", tokenize, methods=["POST"]),
        Route("/detokenize", detokenize, methods=["POST"]),
    ]


def _tokenize(llm: LLM, given: dict[str, Any]) -> bytes:
    if "prompt" in given:
        allowed = "all" if given.get("allow_special_tokens") else ()
        ids = llm.tokenizer.encode(given["prompt"], allowed_special=allowed)
    else:
        ids = build_prompt(
            llm.harmony,
            given["messages"],
            tools=given.get("tools"),
            tool_choice=given.get("tool_choice"),
            reasoning_effort=EFFORTS[given.get("reasoning_effort", "medium")],
        ).token_ids
    found: dict[str, Any] = {
        "count": len(ids),
        "max_model_len": llm.context_length,
        "tokens": list(ids),
    }
    if given.get("return_token_strs"):
        found["token_strs"] = [token_text(llm.tokenizer, token_id) for token_id in ids]
    return json_bytes(found)


def _detokenize(llm: LLM, given: dict[str, Any]) -> bytes:
    size = llm.tokenizer.vocab_size
    for index, token_id in enumerate(given["tokens"]):
        if token_id >= size:
            where = f"tokens[{index}]"
            raise RequestError(f"{where} must be below {size}, got {token_id}", where)
    return json_bytes({"prompt": llm.tokenizer.decode(given["tokens"])})
