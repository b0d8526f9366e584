"""Completions on the demo model: prompts of all kinds, echo, scores, streams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from openai.types import Completion

import gptoss
from support.asgi import Reply, post

PATH = "/v1/completions"


def complete(app: Any, **body: Any) -> Reply:
    return post(app, PATH, {"temperature": 0, "max_tokens": 6, "ignore_eos": True, **body})


def completion(reply: Reply) -> Completion:
    assert reply.status == 200, reply.body
    return Completion.model_validate(reply.json, strict=True)


def chunks(reply: Reply) -> list[dict[str, Any]]:
    """The events of a stream; the openai package's type has no null as a finish_reason."""
    *events, last = reply.events
    assert last == "[DONE]"
    for event in events:
        choices = [
            {**choice, "finish_reason": choice["finish_reason"] or "stop"}
            for choice in event["choices"]
        ]
        Completion.model_validate({**event, "choices": choices}, strict=True)
    return events  # fmt: skip


def test_one_prompt(demo: Any, llm: gptoss.LLM) -> None:
    found = completion(complete(demo, prompt="1, 2, 3,"))
    alone = llm.generate("1, 2, 3,", temperature=0, max_tokens=6, ignore_eos=True)
    assert [choice.text for choice in found.choices] == [alone.text]
    assert found.choices[0].finish_reason == "length"
    assert found.choices[0].logprobs is None
    assert found.model == "demo"
    assert found.usage is not None
    assert found.usage.completion_tokens == 6
    assert found.usage.prompt_tokens == alone.usage.prompt_tokens


def test_prompts_of_all_kinds_are_the_same(demo: Any, llm: gptoss.LLM) -> None:
    ids = [llm.tokenizer.encode(text) for text in ("1, 2, 3,", "a b c")]
    texts = completion(complete(demo, prompt=["1, 2, 3,", "a b c"])).choices
    assert [choice.index for choice in texts] == [0, 1]
    assert completion(complete(demo, prompt=ids)).choices == texts
    alone = completion(complete(demo, prompt=ids[1])).choices[0]
    assert alone.text == texts[1].text


def test_samples_stand_beside_each_other(demo: Any) -> None:
    body = {"prompt": ["1, 2, 3,", "a b c"], "n": 2, "temperature": 1, "seed": 3}
    found = completion(complete(demo, **body))
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
    assert found.usage is not None
    assert found.usage.completion_tokens == 24
    texts = ["", "", "", ""]
    for event in chunks(complete(demo, stream=True, **body)):
        for choice in event["choices"]:
            texts[choice["index"]] += choice["text"]
    assert texts == [choice.text for choice in found.choices]


def test_scores_of_a_prompt(demo: Any, llm: gptoss.LLM) -> None:
    """What evaluation harnesses ask for: `echo`, `logprobs` and no, or one, token.

    The first token has no score: null, as OpenAI's API had it, which its package's types leave out.
    """
    text = "What is 17 + 25? é"
    ids = llm.tokenizer.encode(text)
    expected = llm.generate(ids, max_tokens=0, prompt_logprobs=1).prompt_logprobs
    assert expected is not None
    scores: dict[str, list[Any]] = {}
    for prompt in (text, ids):
        reply = complete(demo, prompt=prompt, max_tokens=0, echo=True, logprobs=1)
        choice = reply.json["choices"][0]
        assert (choice["text"], choice["finish_reason"]) == (text, "length")
        scores = choice["logprobs"]
        first, *others = scores["token_logprobs"]
        assert first is scores["top_logprobs"][0] is None
        assert others == [entry.logprob for entry in expected if entry is not None]
        assert len(scores["tokens"]) == len(ids)
        assert all(len(top) == 1 for top in scores["top_logprobs"][1:])
        for token, offset in zip(scores["tokens"], scores["text_offset"], strict=True):
            assert token.startswith("bytes:") or text[offset:].startswith(token)
        del scores["token_logprobs"][0], scores["top_logprobs"][0]
        Completion.model_validate({**reply.json, "choices": [choice]}, strict=True)
    one = complete(demo, prompt=text, max_tokens=1, echo=True, logprobs=1).json["choices"][0]
    assert one["text"].startswith(text)
    assert one["logprobs"]["token_logprobs"][1:-1] == scores["token_logprobs"]
    (chosen,) = one["logprobs"]["top_logprobs"][-1].values()
    assert chosen == one["logprobs"]["token_logprobs"][-1]  # greedy


def test_nothing_but_the_prompt(demo: Any) -> None:
    found = completion(complete(demo, prompt=["ab", "cd"], max_tokens=0, echo=True))
    assert [choice.text for choice in found.choices] == ["ab", "cd"]
    assert completion(complete(demo, prompt="ab", max_tokens=0)).choices[0].text == ""


def test_scores_of_the_output(demo: Any, llm: gptoss.LLM) -> None:
    found = completion(complete(demo, prompt="1, 2,", logprobs=2)).choices[0]
    alone = llm.generate("1, 2,", temperature=0, max_tokens=6, ignore_eos=True, logprobs=2)
    assert found.logprobs is not None
    assert alone.logprobs is not None
    assert found.logprobs.token_logprobs == [entry.logprob for entry in alone.logprobs]
    events = chunks(complete(demo, prompt="1, 2,", logprobs=2, stream=True))
    streamed: dict[str, list[Any]] = {}
    for event in events:
        for name, values in event["choices"][0]["logprobs"].items():
            streamed.setdefault(name, []).extend(values)
    assert streamed == found.logprobs.model_dump()


@pytest.mark.parametrize("interval", [1, 4, 100])
def test_a_stream_is_the_text(make: Callable[..., Any], interval: int) -> None:
    app = make(stream_interval=interval)
    whole = completion(complete(app, prompt="1, 2, 3,", max_tokens=20, echo=True)).choices[0]
    reply = complete(
        app,
        prompt="1, 2, 3,",
        max_tokens=20,
        echo=True,
        stream=True,
        stream_options={"include_usage": True},
    )
    *events, last = chunks(reply)
    assert "".join(event["choices"][0]["text"] for event in events) == whole.text
    reasons = [event["choices"][0]["finish_reason"] for event in events]
    assert reasons == [None] * (len(events) - 1) + ["length"]
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 20
    assert len(events) <= 2 + 20 / interval


def test_special_tokens_are_text_unless_allowed(demo: Any, llm: gptoss.LLM) -> None:
    prompt = "<|start|>user<|message|>Hi<|end|><|start|>assistant"
    plain = completion(complete(demo, prompt=prompt)).usage
    special = completion(complete(demo, prompt=prompt, allow_special_tokens=True)).usage
    assert plain is not None
    assert special is not None
    assert special.prompt_tokens == len(llm.tokenizer.encode(prompt, allowed_special="all"))
    assert plain.prompt_tokens == len(llm.tokenizer.encode(prompt)) > special.prompt_tokens


@pytest.mark.parametrize(
    ("body", "param", "code", "message"),
    [
        ({}, "prompt", None, "you must provide a prompt"),
        ({"prompt": ""}, "prompt", None, "must not be empty"),
        ({"prompt": ["a", ""]}, "prompt[1]", None, "must not be empty"),
        ({"prompt": [10**9]}, "prompt", None, "token id 1000000000"),
        ({"prompt": [[5], [2**70]]}, "prompt[1]", None, "token id 118"),
        ({"prompt": [-1]}, "prompt", None, "token id -1"),
        ({"prompt": [5] * 5000}, "prompt", "context_length_exceeded", "5000 tokens"),
        ({"prompt": ["a", "b " * 5000]}, "prompt[1]", "context_length_exceeded", "4096"),
        ({"prompt": "a", "best_of": 3}, "best_of", None, "ask for `n`"),
        ({"prompt": "a", "suffix": "b"}, "suffix", None, "does not fill gaps"),
        ({"prompt": "a", "n": 200}, "n", None, "at most 128"),
        ({"prompt": "a", "logprobs": 21}, "logprobs", None, "at most 20"),
        ({"prompt": "a", "max_tokens": 0, "n": 2}, "n", None, "n must be 1"),
        ({"prompt": "a", "echo": True, "logprobs": 1, "stream": True}, "echo", None, "stream"),
        ({"prompt": "a", "min_tokens": 7}, "min_tokens", None, "at most max_tokens"),
    ],
)
def test_errors(demo: Any, body: Any, param: str, code: str | None, message: str) -> None:
    reply = complete(demo, **body)
    assert reply.status == 400, reply.body
    error = reply.error
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert message in error["message"]
