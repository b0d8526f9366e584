"""Several answers to one conversation: `n`, with streams, log-probabilities and calls."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

import gptoss
from gptoss.engine.sampling import SamplingParams, sample_seed
from support.noise_model import NoiseModel

USER = [{"role": "user", "content": "What is 2 + 3?"}]
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("get_time", "get_weather")
]


@pytest.fixture(scope="module")
def llm() -> Iterator[gptoss.LLM]:
    with gptoss.load("demo") as llm:
        yield llm


def told(result: gptoss.ChatResult) -> dict[str, Any]:
    names = ("text", "reasoning", "preamble", "finish_reason", "token_ids", "logprobs", "repairs")
    return {
        **{name: getattr(result, name) for name in names},
        "calls": [(call.recipient, call.arguments) for call in result.tool_calls],
        "usage": dataclasses.replace(result.usage, cached_tokens=0),
        "prompt": result.prompt_token_ids,
    }


CHATS: list[dict[str, Any]] = [
    {},
    {"stop": "5"},
    {"max_reasoning_tokens": 4},
    {"tools": TOOLS, "tool_choice": "required"},
    {"response_format": {"type": "regex", "pattern": "[a-z]{2,9}"}},
]


@pytest.mark.parametrize("chat", CHATS)
def test_each_is_what_it_is_alone(llm: gptoss.LLM, chat: dict[str, Any]) -> None:
    params = SamplingParams(n=5, seed=7, max_tokens=90, temperature=4.0, logprobs=1)
    result = llm.chat(USER, params, **chat)
    assert len(result.samples) == 5
    alone = [
        llm.chat(USER, params, **{**chat, "n": 1, "seed": sample_seed(7, index)})
        for index in range(5)
    ]
    assert list(map(told, result.samples)) == list(map(told, alone))
    assert len({tuple(sample.token_ids) for sample in result.samples}) > 1
    assert result.other_samples[0].usage.cached_tokens > 0
    assert result.total_usage.completion_tokens == sum(
        sample.usage.completion_tokens for sample in alone
    )
    completion = ChatCompletion.model_validate(result.to_openai())
    assert [choice.index for choice in completion.choices] == [0, 1, 2, 3, 4]
    assert [choice.message.content or "" for choice in completion.choices] == [
        sample.text for sample in result.samples
    ]
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == result.usage.prompt_tokens
    assert completion.usage.completion_tokens == result.total_usage.completion_tokens


@pytest.mark.parametrize("chat", CHATS)
def test_streams(llm: gptoss.LLM, chat: dict[str, Any]) -> None:
    params = SamplingParams(n=3, seed=3, max_tokens=90, logprobs=0)
    stream = llm.chat(USER, params, stream=True, **chat)
    deltas = list(stream)
    result = stream.result
    assert result is not None
    for index, sample in enumerate(result.samples):
        own = [delta for delta in deltas if delta.index == index]
        assert "".join(delta.text for delta in own) == sample.text
        assert "".join(delta.reasoning for delta in own) == sample.reasoning
        assert [delta.kind for delta in own].index("end") == len(own) - 1
        assert (own[-1].usage, own[-1].finish_reason) == (sample.usage, sample.finish_reason)
    assert list(map(told, result.samples)) == [
        told(sample) for sample in llm.chat(USER, params, **chat).samples
    ]
    chunks = [ChatCompletionChunk.model_validate(delta.to_openai()) for delta in deltas]
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert [chunk.choices[0].index for chunk in chunks] == [delta.index for delta in deltas]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == result.total_usage.completion_tokens


def test_one_that_ends_leaves_the_others(llm: gptoss.LLM) -> None:
    """Its sequence ends in the engine, too: what follows a stop string is not computed."""
    before = llm.stats().generated_tokens
    bias = {llm.harmony.special_id(name): -1e30 for name in llm.harmony.special_tokens_set}
    params = SamplingParams(n=4, seed=1, max_tokens=2000, temperature=9.0, logit_bias=bias)
    result = llm.chat(USER, params, stop="ab", max_reasoning_tokens=0)
    made = llm.stats().generated_tokens - before
    lengths = [len(sample.token_ids) for sample in result.samples]
    assert {sample.finish_reason for sample in result.samples} == {"stop"}
    assert min(lengths) < max(lengths) / 2
    assert sum(lengths) <= made < 4 * max(lengths)


def test_logprobs_of_deltas(llm: gptoss.LLM) -> None:
    stream = llm.chat(USER, seed=3, max_tokens=60, stream=True, logprobs=2)
    shown = [entry for delta in stream for entry in delta.logprobs or ()]
    result = stream.result
    assert result is not None
    assert result.logprobs is not None
    special = llm.harmony.is_special_token
    texts = [entry for entry in result.logprobs if not special(entry.token_id)]
    headers = [llm.tokenizer.encode(name)[0] for name in ("analysis", "assistant", "final")]
    assert shown == [entry for entry in texts if entry.token_id not in headers]
    assert all(len(entry.top_logprobs) == 2 for entry in shown)
    assert next(llm.chat(USER, max_tokens=3, stream=True)).logprobs is None


def test_asyncio_and_closing(llm: gptoss.LLM) -> None:
    async def both() -> list[dict[str, Any]]:
        found = await llm.achat(USER, n=2, seed=5, max_tokens=40)
        stream = await llm.achat(USER, n=2, seed=5, max_tokens=40, stream=True)
        async for _ in stream:
            pass
        assert stream.result is not None
        return [told(each) for result in (found, stream.result) for each in result.samples]

    first, second, *others = asyncio.run(both())
    assert others == [first, second]
    stream = llm.chat(USER, n=3, max_tokens=300, stream=True)
    next(stream)
    stream.close()
    assert list(stream) == []
    with pytest.raises(RuntimeError, match="closed before its end"):
        stream.drain()


def test_run_has_one_course() -> None:
    model = NoiseModel()
    with pytest.raises(ValueError, match=r"\[run\] n must be 1, got 2"):
        model.run(USER, [], n=2)
    with pytest.raises(ValueError, match=r"\[run\] n must be 1, got 2"):
        model.run(USER, [], params=SamplingParams(n=2))
    model.loop.close()


def test_one_constraint_for_several() -> None:
    class Mine:
        def accept(self, token_ids: list[int]) -> gptoss.Decision:
            return gptoss.Decision()

        def fill(self, mask: Any) -> None:
            pass

    model = NoiseModel()
    with pytest.raises(ValueError, match="a constraint decides on one sequence"):
        model.chat(USER, n=2, constraint=Mine())
    assert len(model.chat(USER, n=2, constraint=Mine, max_tokens=3).samples) == 2
    model.loop.close()
