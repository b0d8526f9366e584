"""What clients of other servers complained about, and the order of events, on scripted answers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from gptoss.engine.outputs import GenerationChunk
from gptoss.errors import BackendError
from gptoss.server import ServerSettings, app
from support.asgi import Reply, post
from support.scripted_model import ScriptedModel, ScriptedStream

USER = [{"role": "user", "content": "Hi"}]
TOOLS = [{"type": "function", "function": {"name": name}} for name in ("get_weather", "get_time")]
THINK = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
FINAL = "<|channel|>final<|message|>Hello<|return|>"
CALL = '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"a":1}<|call|>'


def ask(script: str, model: Any = ScriptedModel, **body: Any) -> Reply:
    reply = post(app(model(script)), "/v1/chat/completions", {"messages": USER, **body})
    assert reply.status == 200, reply.body
    return reply


def both(script: str, model: Any = ScriptedModel, **body: Any) -> tuple[Any, list[str]]:
    """The message of an answer, and the events of the same as a stream."""
    whole = ChatCompletion.model_validate(ask(script, model, **body).json, strict=True)
    events = ask(script, model, stream=True, **body).events
    assert events[-1] == "[DONE]"
    for event in events[:-1]:
        ChatCompletionChunk.model_validate(event, strict=True)
    return whole.choices[0], golden(events)


def golden(events: list[Any]) -> list[str]:
    """What events say, each in a line; pieces of one text are one line."""
    lines: list[str] = []
    for event in events:
        for line in [event] if isinstance(event, str) else _lines(event):
            kind, _, text = line.partition(": ")
            if lines and lines[-1].partition(": ")[0] == kind in ("reasoning", "content", "args"):
                lines[-1] += text
            else:
                lines.append(line)
    return lines


def _lines(event: dict[str, Any]) -> list[str]:
    if "error" in event:
        return [f"error: {event['error']['code']}"]
    if not event["choices"]:
        return [f"usage: {event['usage']['completion_tokens']}"]
    (choice,) = event["choices"]
    delta = dict(choice["delta"])
    if "role" in delta:
        assert delta == {"role": "assistant", "content": ""}
        return ["role"]
    if "reasoning" in delta:
        assert delta.pop("reasoning_content") == delta["reasoning"]
        return [f"reasoning: {delta['reasoning']}"]
    if "content" in delta:
        return [f"content: {delta['content']}"]
    if "tool_calls" in delta:
        (call,) = delta["tool_calls"]
        function = call["function"]
        named = [f"call {call['index']}: {function['name']}"] if "name" in function else []
        return [*named, *([f"args: {function['arguments']}"] if function["arguments"] else [])]
    return [f"end: {choice['finish_reason']}"]


class InOneStep(ScriptedModel):
    """All tokens of an answer are there at once, as after a step that accepted many guesses."""

    def stream(self, *args: Any, **named: Any) -> Any:
        return _InOneStep(super().stream(*args, **named))


class _InOneStep:
    def __init__(self, inner: ScriptedStream) -> None:
        self._inner = inner

    async def __anext__(self) -> GenerationChunk:
        try:
            return next(self._inner)
        except StopIteration:
            raise StopAsyncIteration from None

    def close(self) -> None:
        self._inner.close()


class Breaking(ScriptedModel):
    """The engine fails after some tokens."""

    def stream(self, *args: Any, **named: Any) -> Any:
        return _Breaking(super().stream(*args, **named))


class _Breaking(_InOneStep):
    count = 0

    async def __anext__(self) -> GenerationChunk:
        self.count += 1
        if self.count > 6:
            raise BackendError("the model's values are not finite")
        return await self._inner.__anext__()


# -- the order of events -----------------------------------------------------------------

GOLDEN: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "text": (FINAL, {}, ["role", "content: Hello", "end: stop"]),
    "reasoning": (
        THINK + FINAL,
        {},
        ["role", "reasoning: Hm.", "content: Hello", "end: stop"],
    ),
    "hidden reasoning": (
        THINK + FINAL,
        {"reasoning": {"exclude": True}},
        ["role", "content: Hello", "end: stop"],
    ),
    "call": (
        THINK + CALL,
        {"tools": TOOLS},
        ["role", "reasoning: Hm.", "call 0: get_weather", 'args: {"a":1}', "end: tool_calls"],
    ),
    "preamble and call": (
        "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant" + CALL,
        {"tools": TOOLS},
        ["role", "content: I look.", "call 0: get_weather", 'args: {"a":1}', "end: tool_calls"],
    ),
    "truncated": (
        "<|channel|>final<|message|>Hello world",
        {"max_tokens": 4},
        ["role", "content: Hello", "end: length"],
    ),
    "usage": (
        FINAL,
        {"stream_options": {"include_usage": True}},
        ["role", "content: Hello", "end: stop", "usage: 5"],
    ),
    "stopped": (
        "<|channel|>final<|message|>Hello world",
        {"stop": " w"},
        ["role", "content: Hello", "end: stop"],
    ),
    "nothing": ("<|return|>", {}, ["role", "end: stop"]),
}


@pytest.mark.parametrize(("script", "body", "expected"), GOLDEN.values(), ids=GOLDEN.keys())
@pytest.mark.parametrize("interval", [1, 2, 100])
@pytest.mark.parametrize("model", [ScriptedModel, InOneStep])
def test_golden_streams(
    script: str, body: Any, expected: list[str], interval: int, model: Any
) -> None:
    settings = ServerSettings(stream_interval=interval)
    body = {"messages": USER, "stream": True, **body}
    reply = post(app(model(script), settings), "/v1/chat/completions", body)
    assert golden(reply.events) == [*expected, "[DONE]"]
    if model is InOneStep:
        assert len(reply.pieces) <= 2


def test_an_engine_that_fails() -> None:
    """Before the first byte it is a status, later the last event; never text."""
    reply = ask(THINK + FINAL, Breaking, stream=True)
    assert golden(reply.events) == ["role", "reasoning: Hm.", "error: engine_error"]
    whole = post(app(Breaking(THINK + FINAL)), "/v1/chat/completions", {"messages": USER})
    assert whole.status == 500
    assert whole.error["type"] == "server_error"


# -- complaints --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        "<|channel|>commentary to=functions.get_weather<|channel|>commentary <|constrain|>json",
        "<|channel|>commentary to=functions.get_weather<|channel|>json",
        "<|channel|>commentary<|channel|>commentary to=functions.get_weather",
        " to=functions.get_weather<|channel|>commentary<|constrain|>json",
    ],
)
def test_1_no_markup_in_names(header: str) -> None:
    choice, events = both(THINK + header + "<|message|>{}<|call|>", tools=TOOLS)
    assert [call.function.name for call in choice.message.tool_calls] == ["get_weather"]
    assert "call 0: get_weather" in events
    assert not any("<|" in line for line in events)


@pytest.mark.parametrize(
    "script",
    [
        "<|channel|>analysis<|message|>Hello<|return|>",
        "<|channel|>commentary<|message|>Hello<|return|>",
        "<|channel|>thoughts<|message|>Hello<|return|>",
        "<|message|>Hello<|return|>",
        "Hello<|return|>",
    ],
)
def test_2_what_was_generated_is_shown(script: str) -> None:
    choice, events = both(script)
    message = choice.message
    assert "Hello" in (message.content or "") + (message.model_extra.get("reasoning") or "")
    assert any(line.endswith(": Hello") for line in events)


@pytest.mark.parametrize(
    "script",
    [
        "Hello<|return|>",
        "<|channel|>final Hello<|return|>",
        "<|channel|>final<|channel|>final<|message|>Hello<|return|>",
        "<|channel|>final<|constrain|>json<|message|>Hello<|return|>",
        THINK + "final<|message|>Hello<|return|>",
        THINK + "<|start|>assistant<|channel|>final<|message|>Hello<|return|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>Hello<|return|>",
        "<|call|>",
        "<|channel|>commentary to=<|message|>x<|call|>",
    ],
)
def test_4_and_7_what_a_model_gets_wrong_is_no_error(script: str) -> None:
    choice, events = both(script, tools=TOOLS)
    assert choice.finish_reason in ("stop", "tool_calls")
    assert events[-2].startswith("end: ")
    text = json.dumps(events).lower()
    assert "error" not in text
    assert "unexpected" not in text
    assert "<|" not in text


@pytest.mark.parametrize("arguments", ["{", "not json", '{"a": NaN}', "", '"text"', "é \\ud800"])
def test_5_arguments_that_are_no_json(arguments: str) -> None:
    header = "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
    choice, events = both(THINK + header + arguments + "<|call|>", tools=TOOLS)
    (call,) = choice.message.tool_calls
    assert call.function.arguments == arguments
    assert choice.finish_reason == "tool_calls"
    assert [line for line in events if line.startswith("args")] == (
        [f"args: {arguments}"] if arguments else []
    )


def test_6_several_channels_in_one_step() -> None:
    script = (
        THINK
        + "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant"
        + "<|channel|>analysis<|message|>Now.<|end|><|start|>assistant"
        + CALL
    )
    slowly = both(script, tools=TOOLS)
    at_once = both(script, InOneStep, tools=TOOLS)
    assert at_once[1] == slowly[1]
    assert at_once[0].message.content == slowly[0].message.content == "I look."
    assert slowly[1] == [
        "role",
        "reasoning: Hm.",
        "content: I look.",
        "reasoning: \n\nNow.",
        "call 0: get_weather",
        'args: {"a":1}',
        "end: tool_calls",
        "[DONE]",
    ]


@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "object", "properties": {"a" * 50_000: {"type": "string"}}},
        {"type": "object", "properties": {str(i): {"type": "string"} for i in range(3000)}},
        {"$ref": "#"},
        {"type": ["object", 5], "properties": []},
        {"type": "object", "properties": {"a": {"enum": ["x\n// y"]}}},
        {"properties": None, "type": {}},
        5,
    ],
)
def test_12_hostile_schemas(parameters: Any) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    model = app(ScriptedModel(FINAL))
    reply = post(model, "/v1/chat/completions", {"messages": USER, "tools": [tool]})
    assert reply.status in (200, 400), reply.body
    if reply.status == 400:
        assert reply.error["param"].startswith("tools[0]")


def test_12_a_schema_that_is_nested_too_deeply() -> None:
    depth = 150
    schema = '{"type":"object","properties":{"a":' * depth + "{}" + "}}" * depth
    body = (
        '{"messages":[{"role":"user","content":"Hi"}],"tools":[{"type":"function","function":'
        '{"name":"f","parameters":' + schema + "}}]}"
    )
    reply = post(app(ScriptedModel(FINAL)), "/v1/chat/completions", body.encode())
    assert (reply.status, reply.error["param"]) == (400, "tools")
    deeper = b'{"messages":' + b"[" * 100_000
    reply = post(app(ScriptedModel(FINAL)), "/v1/chat/completions", deeper)
    assert reply.status == 400
    assert "JSON" in reply.error["message"]
