"""The guarantee: whatever the model and the seed, an answer that is not cut is valid.

On the demo, and on random weights, which say anything at all. Of those it is told how a text ends:
quotes, brackets and the end of the message are made likelier by a bias of 4, reasoning is left
out, and each schema has several seeds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import gptoss
from gptoss.harmony import HarmonyEncoding
from gptoss.structured import schema_grammar
from support.schemas import invalid, suite
from support.tool_schemas import TOOLS, all_schemas

USER = "Fill in the form about Alice, who lives in Oslo."
MOST_TOKENS = 400


@cache
def schemas() -> list[tuple[str, Any]]:
    """Those of tools, and those of the test suite that can be enforced."""
    encoding = HarmonyEncoding(gptoss.tokenizer.Tokenizer("demo"))
    cases = list(all_schemas().items())
    for case in suite():
        # Python's regular expressions, the judge's, are not those of the suite's optional part.
        with contextlib.suppress(ValueError, TypeError):
            if "regex" not in case.name:
                schema_grammar(encoding, case.schema, "schema")
                cases.append((case.name, case.schema))
    return cases


QUICK = 16
PARTS = [
    pytest.param(QUICK, id="some"),
    pytest.param(1, id="all", marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
]


def form(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "form", "schema": schema}}


@pytest.fixture(scope="module")
def llm() -> Iterator[gptoss.LLM]:
    with gptoss.load("demo", speculative="ngram") as llm:
        yield llm


@pytest.fixture(scope="module")
def noise(tiny_checkpoint: Callable[[str], Path]) -> Iterator[gptoss.LLM]:
    with gptoss.load(tiny_checkpoint("hf")) as llm:
        yield llm


def told(result: gptoss.ChatResult) -> Any:
    names = ("text", "reasoning", "preamble", "finish_reason", "token_ids", "logprobs")
    calls = [(call.name, call.arguments) for call in result.tool_calls]
    usage = dataclasses.replace(result.usage, cached_tokens=0)
    return *(getattr(result, name) for name in names), calls, usage


@pytest.mark.parametrize("every", PARTS)
def test_the_demo(llm: gptoss.LLM, every: int) -> None:
    def answer(numbered: tuple[int, tuple[str, Any]]) -> str:
        seed, (name, schema) = numbered
        result = llm.chat(USER, response_format=form(schema), seed=seed, max_tokens=MOST_TOKENS)
        if result.finish_reason == "stop":
            assert result.repairs == []  # a cut may fall within a header
            assert invalid(schema, result.text) is None, (name, result.text)
        return result.finish_reason

    with ThreadPoolExecutor(8) as pool:
        reasons = list(pool.map(answer, enumerate(schemas()[::every])))
    assert len(reasons) > 500 / every
    assert reasons.count("length") <= len(reasons) / 4


@pytest.mark.parametrize("every", PARTS)
def test_random_weights(noise: gptoss.LLM, every: int) -> None:
    ends = (*(noise.tokenizer.encode(text)[0] for text in '"}]'),)
    bias = dict.fromkeys((*ends, noise.harmony.special_id("<|return|>")), 4.0)

    def answer(named: tuple[str, Any]) -> bool:
        name, schema = named
        for seed in range(8):
            result = noise.chat(
                USER,
                response_format=form(schema),
                seed=seed,
                max_tokens=MOST_TOKENS,
                max_reasoning_tokens=0,
                logit_bias=bias,
            )
            if result.finish_reason == "stop":
                assert invalid(schema, result.text) is None, (name, result.text)
                return True
        return False

    chosen = schemas()[::every]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(answer, chosen))
    assert [
        name for (name, _), is_done in zip(chosen, found, strict=True) if is_done is False
    ] == []
    assert found.count(True) > 500 / every


@pytest.mark.parametrize("every", PARTS)
def test_strict_arguments_of_random_weights(noise: gptoss.LLM, every: int) -> None:
    """Of a call that has to come, of one that may, and of none beside an answer."""
    ends = (*(noise.tokenizer.encode(text)[0] for text in '"}]'),)
    specials = map(noise.harmony.special_id, ("<|return|>", "<|call|>", "<|end|>"))
    bias = dict.fromkeys((*ends, *specials), 4.0)
    calls = finished = 0
    for index, (name, schema) in enumerate(list(TOOLS.items())[:: max(1, every // 2)]):
        tool = {
            "type": "function",
            "function": {"name": name, "strict": True, "parameters": schema},
        }
        named = {"type": "function", "function": {"name": name}}
        for choice in ("auto", "required", named):
            result = noise.chat(
                USER,
                tools=[tool],
                tool_choice=choice,
                response_format=form(schema),
                seed=index,
                max_tokens=MOST_TOKENS,
                max_reasoning_tokens=20,
                logit_bias=bias,
            )
            if result.finish_reason == "length":
                continue
            finished += 1
            assert result.repairs == []
            if result.tool_calls:
                ((call),) = result.tool_calls
                calls += 1
                assert call.name == name
                assert invalid(schema, call.arguments) is None, (name, call.arguments)
            else:
                assert choice == "auto"
                assert result.finish_reason == "stop"
                assert invalid(schema, result.text) is None, (name, result.text)
            assert result.preamble == "" or result.tool_calls
    assert calls > finished / 2 > 5


SAME: list[dict[str, Any]] = [
    {"response_format": form(TOOLS["create_contact"])},
    {"response_format": form(TOOLS["get_forecast"]), "max_reasoning_tokens": 6},
    {"response_format": {"type": "regex", "pattern": "[a-z ]{5,40}\\."}, "logprobs": 1},
    {
        "tools": [
            {"type": "function", "function": {"name": n, "strict": True, "parameters": TOOLS[n]}}
            for n in ("get_weather", "get_time")
        ],
        "response_format": form(TOOLS["answer"]),
    },
]


@pytest.mark.parametrize("chat", SAME)
def test_the_same_in_any_company(llm: gptoss.LLM, chat: dict[str, Any]) -> None:
    """Alone, with others, as one of several samples, as a stream, with and without guesses."""
    params = gptoss.SamplingParams(max_tokens=120)
    alone = [told(llm.chat(USER, params, seed=seed, **chat)) for seed in range(6)]

    def ask(seed: int) -> Any:
        others = {} if seed % 2 == 0 else {"response_format": form(TOOLS["plot"])}
        return told(llm.chat(USER, params, seed=seed // 2, **{**chat, **others}))

    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(ask, range(12)))
    assert together[::2] == alone
    several = llm.chat(USER, params, seed=0, n=4, **chat)
    assert told(several) == alone[0]
    stream = llm.chat(USER, params, seed=1, stream=True, **chat)
    text = "".join(delta.text for delta in stream)
    assert stream.result is not None
    assert told(stream.result) == alone[1]
    assert text == stream.result.text
    with gptoss.load("demo", threads=1) as plain:  # which guesses nothing
        assert [told(plain.chat(USER, params, seed=seed, **chat)) for seed in range(6)] == alone


def test_a_prompt_that_is_cached(llm: gptoss.LLM) -> None:
    chat = {"response_format": form(TOOLS["create_contact"]), "seed": 5, "max_tokens": 150}
    first = llm.chat([{"role": "user", "content": "A new one: Bob."}], **chat)
    second = llm.chat([{"role": "user", "content": "A new one: Bob."}], **chat)
    assert told(first) == told(second)
    assert second.usage.cached_tokens > first.usage.cached_tokens
    messages = [*first.messages, {"role": "user", "content": "And Carol."}]
    third = llm.chat(messages, **chat)
    assert third.usage.cached_tokens > 50


def test_run_with_a_format(llm: gptoss.LLM) -> None:
    """Calls are free, and the answer after them is bound."""

    def get_weather(city: str) -> dict[str, str]:
        """Tell today's weather.

        Args:
            city: Name of a city.
        """
        return {"city": city, "weather": "sunny"}

    result = llm.run(
        "What is the weather in Oslo?",
        tools=[get_weather],
        response_format={"type": "json_object"},
        seed=2,
        max_tokens=MOST_TOKENS,
    )
    assert any(message.get("role") == "tool" for message in result.messages)  # type: ignore[union-attr]
    assert result.finish_reason == "length" or isinstance(json.loads(result.text), dict)
