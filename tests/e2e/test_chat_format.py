"""A forced choice of tools and a budget of reasoning on the demo model: one request each.

`data/chat_format.json` holds greedy answers; those within a budget of reasoning were compared with
a request for each part when they were written. Every answer must still be those tokens.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gptoss
from gptoss.chat import ChatResult, build_prompt

CASES = json.loads((Path(__file__).parent / "data" / "chat_format.json").read_text())["cases"]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
    for name, description in (
        ("get_weather", "Tell the weather of a city"),
        ("get_time", "Tell the time in a city"),
        ("calculator", "Compute"),
    )
]
END = "<|end|><|start|>assistant<|channel|>final<|message|>"
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 80}


@pytest.fixture(scope="module", params=[None, "ngram"])
def llm(request: pytest.FixtureRequest) -> Iterator[gptoss.LLM]:
    with gptoss.load("demo", context_length=2000, speculative=request.param) as model:
        yield model
        assert model._loop._hub._constraints == {}


def options_of(case: dict[str, Any]) -> dict[str, Any]:
    if case["max_reasoning_tokens"] is None:
        return {"tools": TOOLS, "tool_choice": "required"}
    names = ("reasoning_effort", "max_reasoning_tokens")
    return {name: case[name] for name in names}


def seen(result: ChatResult) -> dict[str, Any]:
    return {
        "token_ids": result.token_ids,
        "text": result.text,
        "reasoning": result.reasoning,
        "calls": [[call.name, call.arguments] for call in result.tool_calls],
        "finish_reason": result.finish_reason,
        "completion_tokens": result.usage.completion_tokens,
        "reasoning_tokens": result.usage.reasoning_tokens,
        "prompt_token_ids": result.prompt_token_ids,
    }


def expected(case: dict[str, Any]) -> dict[str, Any]:
    return {name: case[name] for name in case if name in SEEN}


SEEN = (
    *("token_ids", "text", "reasoning", "calls", "finish_reason", "completion_tokens"),
    *("reasoning_tokens", "prompt_token_ids"),
)


def test_greedy_answers_are_as_they_were(llm: gptoss.LLM) -> None:
    before = llm.stats().sequences
    for case in CASES:
        result = llm.chat(case["question"], **GREEDY, **options_of(case))
        assert seen(result) == expected(case), case["question"]
        assert result.usage.prompt_tokens == len(result.prompt_token_ids)
    assert llm.stats().sequences - before == len(CASES)


def test_streamed(llm: gptoss.LLM) -> None:
    for case in CASES:
        before = llm.stats().sequences
        stream = llm.chat(case["question"], stream=True, **GREEDY, **options_of(case))
        deltas = list(stream)
        assert stream.result is not None
        assert seen(stream.result) == expected(case)
        assert "".join(delta.text for delta in deltas) == case["text"]
        assert "".join(delta.reasoning for delta in deltas) == case["reasoning"]
        assert llm.stats().sequences == before + 1


def test_several_at_a_time(llm: gptoss.LLM) -> None:
    before = llm.stats().sequences

    async def all_of_them() -> list[ChatResult]:
        return await asyncio.gather(
            *(llm.achat(case["question"], **GREEDY, **options_of(case)) for case in CASES)
        )

    results = asyncio.run(all_of_them())
    assert [seen(result) for result in results] == [expected(case) for case in CASES]
    assert llm.stats().sequences - before == len(CASES)


@pytest.mark.parametrize("limit", [1, 4, 9, 30])
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_the_answer_is_what_follows_the_end_of_the_reasoning(
    llm: gptoss.LLM, limit: int, seed: int | None
) -> None:
    sampling: dict[str, Any] = {"temperature": 0} if seed is None else {"seed": seed}
    result = llm.chat(
        "What is 123 + 456?",
        max_reasoning_tokens=limit,
        reasoning_effort="high",
        max_tokens=60,
        logprobs=0,
        **sampling,
    )
    end = llm.tokenizer.encode(END, allowed_special="all")
    at = next(i for i in range(len(result.token_ids)) if result.token_ids[i:][: len(end)] == end)
    thought, answer = result.token_ids[:at], result.token_ids[at + len(end) :]
    assert result.usage.completion_tokens == len(thought) + len(answer)
    assert result.usage.reasoning_tokens == limit
    # The model's own, before and after: alone they are the same.
    prompt = result.prompt_token_ids
    ends = llm.harmony.stop_tokens_for_assistant_actions()
    alone: dict[str, Any] = {"ignore_eos": True, "logprobs": 0, "stop_token_ids": list(ends)}
    first = llm.generate(prompt, max_tokens=len(thought), **alone, **sampling)
    assert first.token_ids == thought
    assert result.logprobs is not None
    assert first.logprobs is not None
    assert result.logprobs[:at] == first.logprobs
    assert [entry.logprob for entry in result.logprobs[at : at + len(end)]] == [0.0] * len(end)
    assert [entry.token_id for entry in result.logprobs] == result.token_ids
    if seed is None:
        rest = llm.generate([*prompt, *thought, *end], max_tokens=len(answer), **alone, **sampling)
        assert rest.token_ids == answer
        assert result.logprobs[at + len(end) :] == rest.logprobs


def test_a_budget_that_is_not_reached_changes_nothing(llm: gptoss.LLM) -> None:
    for seed in range(4):
        chat: dict[str, Any] = {"max_tokens": 60, "seed": seed}
        free = llm.chat("What is 17 + 25?", **chat)
        assert seen(llm.chat("What is 17 + 25?", max_reasoning_tokens=60, **chat)) == seen(free)


def test_guesses_are_made_within_a_budget() -> None:
    question = "Repeat: one two three one two three one two three one two three"
    chat: dict[str, Any] = {"temperature": 0, "max_tokens": 150, "reasoning_effort": "high"}
    drafted = []
    for limit in (None, 140):
        with gptoss.load("demo", context_length=2000, speculative="ngram") as llm:
            llm.chat(question, max_reasoning_tokens=limit, **chat)
            drafted.append(llm.stats().drafted_tokens)
    assert drafted[0] > 0
    assert drafted[1] == drafted[0]


def test_the_name_is_the_likeliest_of_those_there_are(llm: gptoss.LLM) -> None:
    """Token by token, as asking for each of them would have it."""
    for question in ("What time is it in Oslo?", "Is it cold in Rome?", "1 + 1"):
        result = llm.chat(question, **GREEDY, tools=TOOLS, tool_choice="required")
        messages = [{"role": "user", "content": question}]
        prompt = build_prompt(llm.harmony, messages, tools=TOOLS, tool_choice="required")
        left, place = prompt.openings, 0
        while len(left) > 1:
            allowed = {opening[place] for opening in left}
            before = [*prompt.token_ids, *left[0][:place]]
            chosen = llm.generate(
                before, max_tokens=1, temperature=0, allowed_token_ids=sorted(allowed)
            ).token_ids[0]
            left = [opening for opening in left if opening[place] == chosen]
            place += 1
        assert result.prompt_token_ids == [*prompt.token_ids, *left[0]]
        assert llm.harmony.decode(left[0]).startswith(
            f"<|channel|>commentary to=functions.{result.tool_calls[0].name} "
        )


@pytest.mark.parametrize("bias", [-2000.0, -1e30])
def test_a_bias_against_all_names_leaves_the_choice(llm: gptoss.LLM, bias: float) -> None:
    chat: dict[str, Any] = {"tools": TOOLS, "tool_choice": "required"}
    prompt = build_prompt(llm.harmony, [{"role": "user", "content": "Hi"}], **chat)
    banned = {token: bias for opening in prompt.openings for token in opening}
    result = llm.chat("Hi", **GREEDY, **chat, logit_bias=banned)
    assert result.tool_calls[0].name in {tool["function"]["name"] for tool in TOOLS}


def test_penalties_and_counts_of_a_choice(llm: gptoss.LLM) -> None:
    for count in (1, 2, 7):
        result = llm.chat(
            "What time is it in Oslo?",
            temperature=0,
            max_tokens=count,
            repetition_penalty=1.3,
            presence_penalty=0.5,
            logit_bias=dict.fromkeys(llm.config.eos_token_ids, -1e30),
            tools=TOOLS,
            tool_choice="required",
            logprobs=1,
        )
        assert result.usage.completion_tokens == len(result.token_ids) <= count
        assert result.logprobs is not None
        assert [entry.token_id for entry in result.logprobs] == result.token_ids
        assert len(result.tool_calls) == 1


def test_a_stream_that_is_closed_ends_its_request(llm: gptoss.LLM) -> None:
    for options in ({"max_reasoning_tokens": 3}, {"tools": TOOLS, "tool_choice": "required"}):
        stream = llm.chat("What is 17 + 25?", stream=True, **GREEDY, **options)
        next(stream)
        stream.close()
        assert list(stream) == []
    assert llm.chat("What is 17 + 25?", temperature=0).text == "17 + 25 = 42."


@pytest.mark.parametrize("channel", ["analysis", "commentary"])
def test_no_budget_left_for_what_is_continued(llm: gptoss.LLM, channel: str) -> None:
    messages = [
        {"role": "user", "content": "What is 17 + 25?"},
        {"role": "assistant", "channel": channel, "content": "17+25: 7+5=12 1+2+1=4"},
    ]
    result = llm.chat(messages, **GREEDY, max_reasoning_tokens=0, continue_final_message=True)
    assert result.reasoning == ""
    assert result.usage.reasoning_tokens == 0
    if channel == "analysis":
        assert result.text == "17 + 25 = 42."
