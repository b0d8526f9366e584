"""The shape of the OpenAI API is whole: log-probabilities, objects, and None."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

import gptoss
from gptoss.chat import build_prompt
from gptoss.chat.openai import logprob_dicts
from gptoss.engine.outputs import TokenLogprob, TopLogprob
from support.answers import TOOLS, USER, both_ways
from support.scripted_model import ScriptedModel

ENCODING = ScriptedModel().harmony
THINK = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
PREAMBLE = "<|channel|>commentary<|message|>So é.<|end|><|start|>assistant"
CALL = "<|channel|>commentary to=functions.bash <|constrain|>json<|message|>{}<|call|>"


# -- log-probabilities -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "chat"),
    [
        (THINK + "<|channel|>final<|message|>Hello 😀 world<|return|>", {}),
        (PREAMBLE + "<|channel|>final<|message|>Hello<|return|>", {}),
        (PREAMBLE + CALL, {}),
        (THINK + CALL, {}),
        # without a header, or without its end: what was read as one is content
        ("Hello you<|return|>", {}),
        ("\u00e9\U0001f600 you<|return|>", {}),
        ("<|channel|>final Hello you<|return|>", {}),
        ("Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hello<|return|>", {}),
        ("<|channel|>final<|message|>a <|channel|>b and more<|return|>", {}),
        ("<|channel|>final<|message|>a<|message|>b<|return|>", {}),
        ("<|channel|>final<|message|>Hello wor", {"max_tokens": 7}),
        ("<|return|>", {}),
    ],
)
def test_logprobs_of_the_content(script: str, chat: dict[str, Any]) -> None:
    deltas, result = both_ways(script, tools=TOOLS, logprobs=0, **chat)
    choice = result.to_openai()["choices"][0]
    entries = choice["logprobs"]["content"]
    content = (choice["message"]["content"] or "").replace("\n\n", "")
    assert b"".join(bytes(entry["bytes"]) for entry in entries).decode() == content
    assert all(entry["logprob"] == -1.0 and entry["top_logprobs"] == [] for entry in entries)
    streamed = [
        entry
        for delta in deltas
        for entry in (delta.to_openai()["choices"][0]["logprobs"] or {"content": []})["content"]
    ]
    assert streamed == entries
    json.dumps(result.to_openai(), allow_nan=False)


def test_each_piece_has_the_logprobs_of_its_tokens() -> None:
    deltas, _ = both_ways("<|channel|>final<|message|>aé<|return|>", logprobs=0)
    found = [delta.to_openai()["choices"][0] for delta in deltas]
    assert [choice["delta"].get("content") for choice in found] == ["a", "é", None]
    counts = [choice["logprobs"] and len(choice["logprobs"]["content"]) for choice in found]
    assert counts == [1, 2, None]


def test_logprobs_end_with_the_text() -> None:
    script = "<|channel|>final<|message|>abc def<|return|>"
    deltas, result = both_ways(script, logprobs=0, stop=[" d"])
    entries = result.to_openai()["choices"][0]["logprobs"]["content"]
    assert "".join(entry["token"] for entry in entries) == result.text == "abc"
    pieces = [delta.to_openai()["choices"][0]["logprobs"] for delta in deltas]
    assert sum(len(piece["content"]) for piece in pieces if piece) == 3


def test_no_logprobs_unless_asked_for() -> None:
    deltas, result = both_ways("<|channel|>final<|message|>a<|return|>")
    assert result.to_openai()["choices"][0]["logprobs"] is None
    assert all(delta.to_openai()["choices"][0]["logprobs"] is None for delta in deltas)


def test_what_openai_s_types_make_of_them() -> None:
    types = pytest.importorskip("openai.types.chat", reason="needs openai")
    deltas, result = both_ways("<|channel|>final<|message|>aé<|return|>", logprobs=0)
    whole = types.ChatCompletion.model_validate(result.to_openai(), strict=True)
    assert [entry.token for entry in whole.choices[0].logprobs.content] == ["a", "\ufffd", "\ufffd"]
    assert [entry.bytes for entry in whole.choices[0].logprobs.content] == [[97], [195], [169]]
    for delta in deltas:
        types.ChatCompletionChunk.model_validate(delta.to_openai(), strict=True)


def test_alternatives_and_impossible_tokens() -> None:
    (token,) = ENCODING.encode("a")
    special = ENCODING.special_id("<|end|>")
    top = (TopLogprob(token, -0.5), TopLogprob(special, float("-inf")), TopLogprob(10**6, -1.0))
    (entry,) = logprob_dicts(ENCODING, [TokenLogprob(token, -0.5, top)])
    assert entry == {
        "token": "a",
        "bytes": [97],
        "logprob": -0.5,
        "top_logprobs": [
            {"token": "a", "bytes": [97], "logprob": -0.5},
            {"token": "<|end|>", "bytes": list(b"<|end|>"), "logprob": -9999.0},
            {"token": "", "bytes": None, "logprob": -1.0},
        ],
    }


# -- objects -----------------------------------------------------------------------------


def body_of(messages: list[Any], **chat: Any) -> str:
    return ENCODING.decode_utf8(build_prompt(ENCODING, messages, **chat).token_ids)


def test_own_calls_and_results() -> None:
    result = ScriptedModel(THINK + CALL).chat(USER, tools=TOOLS)
    (call,) = result.tool_calls
    answer = {"role": "tool", "tool_call_id": call.id, "content": "x"}
    expected = body_of([*result.messages, answer])
    message = {"role": "assistant", "content": None, "reasoning": "Hm.", "tool_calls": [call]}
    assert body_of([*USER, message, answer]) == expected
    assert body_of([*USER, result.to_openai()["choices"][0]["message"], answer]) == expected


def test_objects_of_the_openai_package_wherever_a_dict_may_stand() -> None:
    os.environ.setdefault("OPENAI_API_KEY", "none")
    pytest.importorskip("openai", reason="needs openai")
    from openai.types import chat as types
    from openai.types.shared import FunctionDefinition
    from pydantic import BaseModel

    result = ScriptedModel(PREAMBLE + CALL).chat(USER, tools=TOOLS)
    whole = types.ChatCompletion.model_validate(result.to_openai())
    message = whole.choices[0].message
    assert message.tool_calls
    answer = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "x"}
    expected = body_of([*result.messages, answer])
    assert body_of([*USER, message, answer]) == expected
    parts = {"role": "assistant", "content": message.content, "tool_calls": message.tool_calls}
    assert body_of([*USER, parts, answer]) == expected
    call = {**message.tool_calls[0].to_dict(), "function": message.tool_calls[0].function}
    assert body_of([*USER, {**parts, "tool_calls": [call]}, answer]) == expected

    class Part(BaseModel):
        type: str = "text"
        text: str = "Hi"
        cache_control: None = None

    assert body_of([{"role": "user", "content": [Part()]}]) == body_of(USER)

    function = FunctionDefinition(name="f", parameters={"type": "object", "properties": {}})
    plain = body_of(USER, tools=[{"type": "function", "function": function.model_dump()}])
    assert body_of(USER, tools=[{"type": "function", "function": function}]) == plain
    assert body_of(USER, tools=[function]) == plain

    class Choice(BaseModel):
        type: str = "function"
        function: dict[str, str] = {"name": "bash"}

    forced = build_prompt(ENCODING, USER, tools=TOOLS, tool_choice=Choice())  # type: ignore[arg-type]
    assert len(forced.openings) == 1


# -- None and other spellings ------------------------------------------------------------


def test_none_is_the_default_of_every_argument() -> None:
    names = (
        "stop",
        "logit_bias",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "n",
        "seed",
        "logprobs",
    )
    names += ("presence_penalty", "frequency_penalty", "repetition_penalty", "stop_token_ids")
    chat = (
        "tools",
        "tool_choice",
        "reasoning_effort",
        "developer",
        "builtin_tools",
        "current_date",
    )
    chat += ("response_format", "max_tokens", "max_reasoning_tokens", "continue_final_message")
    nothing = dict.fromkeys((*names, *chat), None)
    plain = ScriptedModel("<|channel|>final<|message|>a<|return|>")
    other = ScriptedModel("<|channel|>final<|message|>a<|return|>")
    plain.chat(USER)
    other.chat(USER, **nothing)
    assert other.requests == plain.requests


def test_clear_errors_for_the_rest() -> None:
    model = ScriptedModel()
    with pytest.raises(ValueError, match="reasoning_effort must be one of low, medium, high"):
        model.chat(USER, reasoning_effort={"effort": "low"})
    with pytest.raises(ValueError, match="logprobs must be at most 20, got 21"):
        model.chat(USER, logprobs=21)
    with pytest.raises(ValueError, match="n must be at most 128, got 129"):
        gptoss.SamplingParams(n=129)
    assert model.requests == []
