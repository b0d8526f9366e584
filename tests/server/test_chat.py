"""Chat completions on the demo model: the same as `LLM.chat`, in OpenAI's shape."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

import gptoss
from support.asgi import Reply, post

PATH = "/v1/chat/completions"
QUESTION = [{"role": "user", "content": "What is 17 + 25?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tell today's weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


def chat(app: Any, **body: Any) -> Reply:
    return post(app, PATH, {"messages": QUESTION, "temperature": 0, **body})


def completion(reply: Reply) -> ChatCompletion:
    """The answer, of exactly the types that the openai package has."""
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    return ChatCompletion.model_validate(reply.json, strict=True)


def chunks(reply: Reply) -> list[ChatCompletionChunk]:
    """The chunks of a stream, each of exactly the types that the openai package has."""
    *events, last = reply.events
    assert last == "[DONE]"
    found = [ChatCompletionChunk.model_validate(event, strict=True) for event in events]
    assert len({chunk.id for chunk in found}) == 1
    return found


def text_of(found: list[ChatCompletionChunk], field: str, index: int = 0) -> str:
    return "".join(
        getattr(choice.delta, field, None) or ""
        for chunk in found
        for choice in chunk.choices
        if choice.index == index
    )


def test_an_answer_is_that_of_the_library(demo: Any, llm: gptoss.LLM) -> None:
    found = completion(chat(demo))
    alone = llm.chat(QUESTION, temperature=0)
    message = found.choices[0].message
    assert message.content == alone.text
    assert "42" in alone.text
    extra = message.model_extra
    assert extra is not None
    assert extra["reasoning"] == extra["reasoning_content"] == alone.reasoning
    assert found.choices[0].finish_reason == "stop"
    assert found.model == "demo"
    assert found.usage is not None
    assert found.usage.completion_tokens == alone.usage.completion_tokens
    assert found.usage.completion_tokens_details is not None
    assert found.usage.completion_tokens_details.reasoning_tokens == alone.usage.reasoning_tokens


@pytest.mark.parametrize("interval", [1, 3, 1000])
def test_a_stream_is_the_answer(demo: Any, make: Callable[..., Any], interval: int) -> None:
    whole = completion(chat(demo)).choices[0].message
    reply = chat(make(stream_interval=interval), stream=True)
    found = chunks(reply)
    assert text_of(found, "content") == whole.content
    assert whole.model_extra is not None
    assert text_of(found, "reasoning") == whole.model_extra["reasoning"]
    assert text_of(found, "reasoning_content") == whole.model_extra["reasoning"]
    first = found[0].choices[0].delta
    assert (first.role, first.content) == ("assistant", "")
    assert all(chunk.choices[0].delta.role is None for chunk in found[1:])
    reasons = [chunk.choices[0].finish_reason for chunk in found]
    assert reasons == [None] * (len(found) - 1) + ["stop"]
    assert all(chunk.usage is None for chunk in found)
    if interval == 1000:  # role, first token, reasoning, text, end
        assert len(found) <= 6
    else:
        assert len(found) > 20 / interval


@pytest.mark.parametrize("stream_options", [{"include_usage": True}, {"include_usage": False}, {}])
def test_usage_at_the_end_of_a_stream(demo: Any, stream_options: Any) -> None:
    *found, last = chunks(chat(demo, stream=True, stream_options=stream_options))
    assert all(chunk.usage is None for chunk in found)
    if stream_options.get("include_usage"):
        assert last.choices == []
        assert last.usage is not None
        assert last.usage.total_tokens == last.usage.prompt_tokens + last.usage.completion_tokens
        assert last.usage.completion_tokens > 5
    else:
        assert last.choices[0].finish_reason == "stop"
        assert last.usage is None


@pytest.mark.parametrize(
    ("settings", "body"),
    [
        ({"reasoning": "hide"}, {}),
        ({}, {"reasoning": {"exclude": True}}),
        ({}, {"include_reasoning": False}),
        ({"reasoning": "hide"}, {"reasoning": {"exclude": False}}),
    ],
)
def test_hidden_reasoning(make: Callable[..., Any], settings: Any, body: Any) -> None:
    app = make(**settings)
    whole, streamed = chat(app, **body), chat(app, stream=True, **body)
    for reply in (whole, streamed):
        assert b'reasoning"' not in reply.body
        assert b"reasoning_content" not in reply.body
    found = completion(whole)
    assert found.usage is not None
    assert found.usage.completion_tokens_details is not None
    assert found.usage.completion_tokens_details.reasoning_tokens  # it was thought all the same
    pieces = chunks(streamed)
    assert text_of(pieces, "content") == found.choices[0].message.content
    assert pieces[0].choices[0].delta.role == "assistant"


def test_log_probabilities(demo: Any) -> None:
    body = {"logprobs": True, "top_logprobs": 2, "max_reasoning_tokens": 0}
    choice = completion(chat(demo, **body)).choices[0]
    assert choice.logprobs is not None
    entries = choice.logprobs.content
    assert entries
    assert "".join(entry.token for entry in entries) == choice.message.content
    assert {len(entry.top_logprobs) for entry in entries} == {2}
    pieces = chunks(chat(demo, stream=True, **body))
    streamed = [
        entry
        for piece in pieces
        if (logprobs := piece.choices[0].logprobs) is not None
        for entry in logprobs.content or ()
    ]
    assert streamed == entries


def test_no_log_probabilities_unless_asked_for(demo: Any) -> None:
    assert completion(chat(demo)).choices[0].logprobs is None
    assert all(c.choices[0].logprobs is None for c in chunks(chat(demo, stream=True)))


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "get_weather"}}]
)
def test_a_forced_call(demo: Any, choice: Any) -> None:
    messages = [{"role": "user", "content": "How is the weather in Paris?"}]
    body = {"messages": messages, "tools": [WEATHER], "tool_choice": choice, "max_tokens": 60}
    found = completion(chat(demo, **body)).choices[0]
    assert found.finish_reason == "tool_calls"
    assert found.message.content is None
    assert found.message.tool_calls is not None
    (call,) = found.message.tool_calls
    assert call.type == "function"
    assert call.function.name == "get_weather"
    pieces = chunks(chat(demo, stream=True, **body))
    deltas = [d for piece in pieces for d in piece.choices[0].delta.tool_calls or ()]
    assert deltas[0].id
    assert deltas[0].function is not None
    assert deltas[0].function.name == "get_weather"
    assert all(d.index == 0 and d.id is None for d in deltas[1:])
    streamed = "".join((d.function and d.function.arguments) or "" for d in deltas)
    assert streamed == call.function.arguments
    assert pieces[-1].choices[0].finish_reason == "tool_calls"


def test_a_call_and_its_answer(demo: Any) -> None:
    """What was answered can be sent back as it came, with the reasoning under either name."""
    ask = [{"role": "user", "content": "How is the weather in Paris?"}]
    first = chat(demo, messages=ask, tools=[WEATHER], tool_choice="required", max_tokens=60)
    message = first.json["choices"][0]["message"]
    answer = {
        "role": "tool",
        "tool_call_id": message["tool_calls"][0]["id"],
        "content": json.dumps({"weather": "sunny"}),
    }
    reply = chat(demo, messages=[*ask, message, answer], tools=[WEATHER], max_tokens=80)
    assert completion(reply).choices[0].finish_reason in ("stop", "length", "tool_calls")


def test_reasoning_is_read_back(demo: Any) -> None:
    """Complaint 11: reasoning between a call and the answer that follows is kept."""
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    tools = [{"type": "function", "function": {"name": "f"}}]

    def count(**reasoning: str) -> int:
        said = {"role": "assistant", "content": None, "tool_calls": [call], **reasoning}
        answer = {"role": "tool", "tool_call_id": "call_1", "content": "1"}
        messages = [*QUESTION, said, answer]
        reply = post(demo, "/tokenize", {"messages": messages, "tools": tools})
        assert reply.status == 200
        found: int = reply.json["count"]
        return found

    thought = "I must call f now, and then say what it was."
    assert count(reasoning=thought) == count(reasoning_content=thought) > count() + 5
    assert count(reasoning=thought, reasoning_content=thought) == count(reasoning=thought)


def test_a_stop_string_in_the_reasoning_does_not_end_it(demo: Any, llm: gptoss.LLM) -> None:
    """Complaint 8."""
    whole = llm.chat(QUESTION, temperature=0)
    assert "1" in whole.reasoning
    assert " = " in whole.text
    found = completion(chat(demo, stop=["=", "\n"])).choices[0]
    assert found.message.content == whole.text.partition("=")[0]
    assert found.message.model_extra is not None
    assert found.message.model_extra["reasoning"] == whole.reasoning
    assert found.finish_reason == "stop"


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_a_limit(demo: Any, limit: str) -> None:
    """Complaint 2: what was cut while it was thought has its reasoning, and content."""
    found = completion(chat(demo, **{limit: 5}))
    choice = found.choices[0]
    assert choice.finish_reason == "length"
    assert choice.message.model_extra is not None
    assert choice.message.model_extra["reasoning"]
    assert found.usage is not None
    assert found.usage.completion_tokens == 5
    assert chunks(chat(demo, stream=True, **{limit: 5}))[-1].choices[0].finish_reason == "length"


def test_the_same_seed_the_same_answer(demo: Any) -> None:
    def answer(seed: int) -> Any:
        reply = chat(demo, temperature=1.5, seed=seed, max_tokens=30)
        return reply.json["choices"][0]["message"]

    assert answer(5) == answer(5)
    assert len({json.dumps(answer(seed)) for seed in (-5, 1, 2, 2**63)}) > 1


def test_as_openai_clients_send_it(demo: Any) -> None:
    """Fields without effect, unknown ones and nulls change nothing."""
    plain = completion(chat(demo)).choices[0].message
    found = chat(
        demo,
        model="demo",
        user="x",
        metadata={"a": "b"},
        store=True,
        parallel_tool_calls=True,
        client_metadata={"app": "codex"},
        stop=None,
        tools=[],
        tool_choice="auto",
        service_tier="auto",
        modalities=["text"],
        verbosity="low",
        response_format={"type": "text"},
    )
    assert completion(found).choices[0].message == plain


def test_content_in_parts(demo: Any) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "What is 17 + 25?"}]}]
    plain, parts = chat(demo), chat(demo, messages=messages)
    assert completion(parts).choices[0].message == completion(plain).choices[0].message
