"""The body of a POST to /v1/messages, checked, as what `LLM.chat` is asked."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from gptoss.openai_requests.chat import EFFORTS
from gptoss.openai_requests.fields import Field, RequestError, Table
from gptoss.openai_requests.sampling import SAMPLING, sampling_of

_MAX_INT = 2**31 - 1
_STRING = {"type": "string"}
_BOOLEAN = {"type": "boolean"}
_BLOCKS = {
    "anyOf": [
        _STRING,
        {
            "type": "array",
            "items": {"type": "object", "properties": {"type": _STRING}, "required": ["type"]},
        },
    ]
}
_ROLES = ["user", "assistant", "system"]

MESSAGES = Table(
    "/v1/messages",
    [
        Field(
            "messages",
            "done",
            "text, thinking, tool_use and tool_result blocks; other blocks are refused",
            {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "properties": {"role": {"type": "string", "enum": _ROLES}, "content": _BLOCKS},
                    "required": ["role", "content"],
                },
            },
        ),
        Field("model", "done", "a name of the served model; may be left out", _STRING),
        Field(
            "max_tokens",
            "done",
            "most tokens to generate, thinking included",
            {"type": "integer", "minimum": 1, "maximum": _MAX_INT},
        ),
        Field("system", "done", "instructions", _BLOCKS),
        Field("stream", "done", "typed server-sent events", _BOOLEAN),
        *(
            dataclasses.replace(each, own=False)
            for each in SAMPLING
            if each.name in ("temperature", "top_p", "top_k")
        ),
        Field(
            "stop_sequences",
            "done",
            "of the answer; `stop_reason` is end_turn all the same",
            {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": 64},
        ),
        Field(
            "thinking",
            "done",
            "enabled: `budget_tokens` bounds it; disabled: little, and not sent. gpt-oss "
            "thinks by default. Signatures are empty",
            {
                "type": "object",
                "properties": {
                    "type": {
                        "type": "string",
                        "enum": ["enabled", "disabled", "adaptive", "between_tools"],
                    },
                    "budget_tokens": {"type": "integer", "minimum": 0, "maximum": _MAX_INT},
                    "display": {"type": "string", "enum": ["summarized", "omitted"]},
                },
                "required": ["type"],
            },
        ),
        Field(
            "output_config",
            "done",
            "`effort`: low, medium, high; xhigh and max are high. `format`: json_schema",
            {
                "type": "object",
                "properties": {
                    "effort": {"type": "string", "enum": list(EFFORTS)},
                    "format": {
                        "type": "object",
                        "properties": {
                            "type": {"type": "string", "enum": ["json_schema"]},
                            "schema": {"type": "object"},
                        },
                        "required": ["type", "schema"],
                    },
                },
            },
        ),
        Field(
            "tools",
            "done",
            "with an input_schema; Anthropic's own are left out",
            {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "type": _STRING,
                        "name": {"type": "string", "minLength": 1},
                        "description": _STRING,
                        "input_schema": {"type": "object"},
                        "strict": _BOOLEAN,
                    },
                    "required": ["name"],
                },
            },
        ),
        Field(
            "tool_choice",
            "done",
            "auto, any, tool, none",
            {
                "type": "object",
                "properties": {
                    "type": {"type": "string", "enum": ["auto", "any", "tool", "none"]},
                    "name": _STRING,
                },
                "required": ["type"],
            },
        ),
        Field("cache_control", "ignored", "prompts share what is equal anyway"),
        Field("container", "ignored", "there are none here"),
        Field("diagnostics", "ignored", "there are none here"),
        Field("inference_geo", "ignored", "it is computed here"),
        Field("metadata", "ignored", "there are no accounts here"),
        Field("service_tier", "ignored", "there is one"),
        Field("speed", "ignored", "there is one"),
        Field("user_profile_id", "ignored", "there are no accounts here"),
        Field("workspace_id", "ignored", "there are no accounts here"),
    ],
    required=("messages",),
)


@dataclasses.dataclass(frozen=True)
class MessagesRequest:
    """What is asked.

    Attributes
    ----------
    model : str or None
        The model that is asked for.
    messages : list of dict
        The conversation as `LLM.chat` takes it.
    chat : dict
        Its keywords.
    stream : bool
        Whether the answer is wanted as it comes.
    shows_thinking : bool
        Whether the reasoning is part of the answer.
    """

    model: str | None
    messages: list[dict[str, Any]]
    chat: dict[str, Any]
    stream: bool
    shows_thinking: bool


def read_request(body: Mapping[str, Any]) -> MessagesRequest:
    """Check a body; RequestError says which field is wrong."""
    given = MESSAGES.check(body)
    config, thinking = given.get("output_config", {}), given.get("thinking", {})
    is_disabled = thinking.get("type") == "disabled"
    chat = sampling_of(given)
    chat["reasoning_effort"] = EFFORTS[config.get("effort") or ("low" if is_disabled else "medium")]
    if "max_tokens" in given:
        chat["max_tokens"] = given["max_tokens"]
    if "stop_sequences" in given:
        chat["stop"] = given["stop_sequences"]
    if thinking.get("budget_tokens") is not None:
        chat["max_reasoning_tokens"] = thinking["budget_tokens"]
    if config.get("format") is not None:
        schema = {"name": "output", "schema": config["format"]["schema"], "strict": True}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    tools = _tools(given.get("tools", ()))
    if tools:
        chat |= {"tools": tools, "tool_choice": _choice(given.get("tool_choice", {}))}
    elif given.get("tool_choice", {}).get("type") in ("any", "tool"):
        raise RequestError("tool_choice needs tools with an input_schema", "tool_choice")
    messages: list[dict[str, Any]] = []
    if given.get("system"):
        messages.append({"role": "system", "content": _text(given["system"], "system")})
    for index, message in enumerate(given["messages"]):
        messages += _messages(message, f"messages[{index}]")
    if messages and "content" in messages[-1] and "tool_calls" not in messages[-1]:
        # A last message of the assistant's is the beginning of the answer.
        chat["continue_final_message"] = messages[-1]["role"] == "assistant"
    return MessagesRequest(
        model=given.get("model"),
        messages=messages,
        chat=chat,
        stream=given.get("stream", False),
        shows_thinking=not is_disabled and thinking.get("display") != "omitted",
    )


def _tools(given: Any) -> list[dict[str, Any]]:
    """Those that are the client's own: the others have no schema, and a type of their own."""
    tools = []
    for tool in given:
        if tool.get("type") in (None, "custom") and tool.get("input_schema") is not None:
            function = {"name": tool["name"], "parameters": tool["input_schema"]}
            if tool.get("description"):
                function["description"] = tool["description"]
            if tool.get("strict"):
                function["strict"] = True
            tools.append({"type": "function", "function": function})
    return tools


def _choice(given: Mapping[str, Any]) -> Any:
    kind = given.get("type", "auto")
    if kind == "tool":
        return {"type": "function", "function": {"name": given.get("name")}}
    return "required" if kind == "any" else kind


def _blocks(content: Any, where: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    """The blocks of a content, and where each stands."""
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    for index, block in enumerate(content):
        at = f"{where}[{index}]"
        if not isinstance(block, Mapping) or not isinstance(block.get("type"), str):
            raise RequestError(f"{at} must be a block with a type, got {block!r:.100}", at)
        yield block, at


def _text(content: Any, where: str) -> str:
    """The text of a content that has nothing else."""
    return "".join(_text_of(block, at) for block, at in _blocks(content, where))


def _text_of(block: Mapping[str, Any], where: str, key: str = "text") -> str:
    if block["type"] not in ("text", "thinking"):
        raise RequestError(
            f"{where}: gpt-oss reads text only, got a block of type {block['type']!r:.100}", where
        )
    text = block.get(key)
    if not isinstance(text, str):
        raise RequestError(f"{where}.{key} must be a string, got {text!r:.100}", f"{where}.{key}")
    return text


def _messages(message: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """A message as those of a chat: outputs of tools are messages of their own there."""
    role, at_content = message["role"], f"{where}.content"
    if role == "assistant":
        return _assistant_messages(message["content"], at_content)
    found: list[dict[str, Any]] = []
    texts: list[str] = []
    for block, at in _blocks(message["content"], at_content):
        if block["type"] == "tool_result" and role == "user":
            call_id, content = block.get("tool_use_id"), block.get("content") or ""
            if not isinstance(content, (str, list)):
                raise RequestError(f"{at}.content must be a string or blocks", f"{at}.content")
            text = _text(content, f"{at}.content")
            found.append({"role": "tool", "tool_call_id": call_id, "content": text})
        else:
            texts.append(_text_of(block, at))
    if texts or not found:
        found.append({"role": role, "content": "".join(texts)})
    return found


def _assistant_messages(content: Any, where: str) -> list[dict[str, Any]]:
    message: dict[str, Any] = {"role": "assistant"}
    for block, at in _blocks(content, where):
        kind = block["type"]
        if kind == "redacted_thinking":
            continue  # nobody here can read it
        if kind == "thinking":
            before = [message["reasoning"]] if "reasoning" in message else []
            message["reasoning"] = "\n\n".join([*before, _text_of(block, at, "thinking")])
        elif kind == "tool_use":
            function = {"name": block.get("name"), "arguments": json.dumps(block.get("input", {}))}
            call = {"id": block.get("id"), "type": "function", "function": function}
            message.setdefault("tool_calls", []).append(call)
        else:
            message["content"] = message.get("content", "") + _text_of(block, at)
    return [message] if len(message) > 1 else []
