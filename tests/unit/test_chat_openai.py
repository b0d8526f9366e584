"""What the types of the openai package make of our dicts."""

from __future__ import annotations

from typing import Any

import pytest

from support.scripted_model import ScriptedModel

chat_types = pytest.importorskip("openai.types.chat", reason="needs openai")

USER = [{"role": "user", "content": "Hi"}]
TOOLS = [{"type": "function", "function": {"name": "get_weather"}}]
THINK = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
PREAMBLE = "<|channel|>commentary<|message|>So.<|end|><|start|>assistant"
CALL = "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{}<|call|>"
SCRIPTS = {
    "text": THINK + "<|channel|>final<|message|>Hello<|return|>",
    "preamble and text": PREAMBLE + "<|channel|>final<|message|>Hello<|return|>",
    "call": THINK + CALL,
    "preamble and call": PREAMBLE + CALL,
    "cut": "<|channel|>analysis<|message|>Hm and so on",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_whole_and_streamed(name: str) -> None:
    args: dict[str, Any] = {"tools": TOOLS, "max_tokens": 10 if name == "cut" else None}
    result = ScriptedModel(SCRIPTS[name]).chat(USER, **args)
    whole = chat_types.ChatCompletion.model_validate(result.to_openai(), strict=True)
    message = whole.choices[0].message
    assert whole.choices[0].finish_reason == result.finish_reason
    assert (message.content or "") == (result.text if not result.preamble else message.content)
    assert getattr(message, "reasoning", "") == result.reasoning
    assert whole.model == "scripted"
    usage = whole.usage
    assert usage is not None
    assert usage.total_tokens == result.usage.prompt_tokens + result.usage.completion_tokens
    assert usage.completion_tokens_details.reasoning_tokens == result.usage.reasoning_tokens
    assert usage.prompt_tokens_details.cached_tokens == result.usage.cached_tokens

    stream = ScriptedModel(SCRIPTS[name]).chat(USER, stream=True, **args)
    chunks = [
        chat_types.ChatCompletionChunk.model_validate(delta.to_openai(), strict=True)
        for delta in stream
    ]
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert [chunk.choices[0].delta.role for chunk in chunks[:2]] == ["assistant", None]
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(delta.content or "" for delta in deltas) == (message.content or "")
    assert "".join(getattr(delta, "reasoning", "") for delta in deltas) == result.reasoning
    assert chunks[-1].choices[0].finish_reason == result.finish_reason
    assert chunks[-1].usage == usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    pieces = [piece for delta in deltas for piece in delta.tool_calls or ()]
    if message.tool_calls:
        (call,) = message.tool_calls
        assert pieces[0].function.name == call.function.name == "get_weather"
        assert pieces[0].id is not None
        assert pieces[0].type == "function"
        assert "".join(piece.function.arguments for piece in pieces) == call.function.arguments
    else:
        assert pieces == []


def test_the_openai_package_adds_up_our_chunks() -> None:
    state_type = pytest.importorskip(
        "openai.lib.streaming.chat._completions", reason="needs another openai"
    ).ChatCompletionStreamState
    for script in SCRIPTS.values():
        state = state_type()
        stream = ScriptedModel(script).chat(USER, stream=True, tools=TOOLS, max_tokens=15)
        for delta in stream:
            chunk = chat_types.ChatCompletionChunk.model_validate(delta.to_openai())
            state.handle_chunk(chunk)
        assert stream.result is not None
        total = state.current_completion_snapshot.choices[0].message
        content = stream.result.to_openai()["choices"][0]["message"]["content"]
        assert (total.content or None) == content
        assert [c.function.name for c in total.tool_calls or ()] == [
            c.name for c in stream.result.tool_calls
        ]
