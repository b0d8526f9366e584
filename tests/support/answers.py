"""Answers of a scripted model, streamed and whole."""

from __future__ import annotations

from typing import Any

from gptoss.chat import ChatDelta, ChatResult, ChatStream
from support.scripted_model import ScriptedModel

USER = [{"role": "user", "content": "Hi"}]
# Three functions, one of which has the name of a built-in tool.
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {"type": "object", "properties": {"c": {"type": "string"}}},
        },
    }
    for name in ("bash", "get_weather", "python")
]
FINAL = "<|start|>assistant<|channel|>final<|message|>70<|return|>"


def answer(*scripts: str, **chat: Any) -> ChatResult:
    """What `both_ways` returns without the deltas."""
    return both_ways(*scripts, **chat)[1]


def stream(model: ScriptedModel, **chat: Any) -> tuple[list[ChatDelta], ChatResult]:
    answer = model.chat(USER, stream=True, **chat)
    assert isinstance(answer, ChatStream)
    deltas = list(answer)
    assert answer.result is not None
    return deltas, answer.result


def both_ways(*scripts: str | list[int], **chat: Any) -> tuple[list[ChatDelta], ChatResult]:
    """Answer once as a stream and once whole, which must be the same."""
    deltas, result = stream(ScriptedModel(*scripts), **chat)
    whole = ScriptedModel(*scripts).chat(USER, **chat)
    for name in ("text", "reasoning", "preamble", "finish_reason", "usage", "token_ids"):
        assert getattr(whole, name) == getattr(result, name), name
    assert whole.repairs == result.repairs
    assert whole.harmony_messages == result.harmony_messages
    for name in ("text", "reasoning", "preamble"):
        assert "".join(getattr(delta, name) for delta in deltas) == getattr(result, name), name
    calls = [delta.tool_call for delta in deltas if delta.tool_call is not None]
    for index, call in enumerate(result.tool_calls):
        pieces = [piece for piece in calls if piece.index == index]
        assert (pieces[0].id, pieces[0].name) == (call.id, call.name)
        assert all(piece.id is None and piece.name is None for piece in pieces[1:])
        assert "".join(piece.arguments for piece in pieces) == call.arguments
    assert [delta.kind for delta in deltas].count("end") == 1
    assert deltas[-1].finish_reason == result.finish_reason
    assert deltas[-1].usage == result.usage
    assert not any("<|" in delta.text + delta.reasoning + delta.preamble for delta in deltas)
    return deltas, result
