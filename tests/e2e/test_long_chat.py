"""A long chat with tool calls computes, turn by turn, little more than what is new."""

from __future__ import annotations

import itertools
from typing import Any

import gptoss

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"Tell the {what} of a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
    for name, what in (("get_weather", "weather"), ("get_time", "time"))
]
SYSTEM = "You help people to plan a journey. " * 10


def common_length(a: list[int], b: list[int]) -> int:
    pairs = zip(a, b, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def test_twenty_turns_with_tool_calls_come_from_the_cache() -> None:
    messages: list[Any] = [{"role": "system", "content": SYSTEM}]
    chat: dict[str, Any] = {"tools": TOOLS, "max_tokens": 60, "temperature": 0}
    before: list[int] = []  # the tokens of the request before, prompt and output
    prompts = calls = 0
    with gptoss.load("demo") as llm:
        for turn in range(20):
            messages.append({"role": "user", "content": f"Question {turn}: and city {turn * 7}?"})
            for step in range(3):
                # The first two steps of every other turn call a tool, the last one answers.
                options = dict(chat)
                if turn % 2 == 0 and step < 2:
                    name = ("get_weather", "get_time")[step]
                    options["tool_choice"] = {"type": "function", "function": {"name": name}}
                result = llm.chat(messages, **options)
                prompt = result.prompt_token_ids
                unchanged = min(common_length(prompt, before), len(prompt) - 1)
                if before:
                    prompts += 1
                    assert unchanged > 100
                    assert result.usage.cached_tokens >= 0.95 * unchanged, (turn, step)
                before = [*prompt, *result.token_ids]
                messages = list(result.messages)
                if not result.tool_calls:
                    break
                for call in result.tool_calls:
                    calls += 1
                    messages.append(
                        {"role": "tool", "tool_call_id": call.id, "content": f"{turn * 3} degrees"}
                    )
            assert len(before) < llm.context_length - 200
    assert prompts >= 19 + 20
    assert calls >= 20
