"""What Harmony costs beside decoding: rendering a conversation, parsing a completion.

    python bench/bench_harmony.py [--tokenizer PATH] [--tokens 10000] [--repeats 7]

Renders a conversation of 20 messages, and streams a completion of many tokens through the
lenient and the strict parser, reading what a chat reads after each token. Prints a table,
and as its last line JSON; `percent_of_decoding` is relative to decoding the same tokens at
1,000 tokens/s and must be below 1. Needs no model: without a tokenizer it takes the
published one where the tests find it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

from gptoss.harmony import (
    Conversation,
    DeveloperContent,
    HarmonyEncoding,
    Message,
    Role,
    StreamableParser,
    SystemContent,
    ToolDescription,
    load_harmony_encoding,
)

DECODING_TOKENS_PER_S = 1_000
_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
_PARAGRAPH = (
    "The tide follows the moon: twice a day the water rises and falls, and the height of it "
    "changes with the month, with “spring” tides when sun and moon pull together. "
    "潮の満ち引き 🌊\n"
)


def conversation() -> Conversation:
    """20 messages: system, developer with a tool, and turns with reasoning and calls."""
    schema = {
        "type": "object",
        "properties": {
            "place": {"type": "string", "description": "City, country"},
            "days": {"type": "integer", "default": 1},
        },
        "required": ["place"],
    }
    tool = ToolDescription.new("tides", "Tells the tides of a place.", schema)
    messages = [
        Message.from_role_and_content(Role.SYSTEM, SystemContent.new().with_browser_tool()),
        Message.from_role_and_content(
            Role.DEVELOPER,
            DeveloperContent.new().with_instructions(_PARAGRAPH).with_function_tools([tool]),
        ),
    ]
    while len(messages) < 20:
        call = Message.from_role_and_content(Role.ASSISTANT, '{"place": "Brest", "days": 2}')
        call = call.with_channel("commentary").with_recipient("functions.tides")
        answer = {"role": "tool", "name": "functions.tides", "content": _PARAGRAPH}
        messages += [
            Message.from_role_and_content(Role.USER, _PARAGRAPH),
            Message.from_role_and_content(Role.ASSISTANT, _PARAGRAPH).with_channel("analysis"),
            call.with_content_type("<|constrain|>json"),
            Message.from_dict(answer).with_recipient("assistant").with_channel("commentary"),
            Message.from_role_and_content(Role.ASSISTANT, _PARAGRAPH * 2).with_channel("final"),
        ]
    return Conversation.from_messages(messages[:20])


def completion(encoding: HarmonyEncoding, tokens: int) -> list[int]:
    """Turns of analysis, a call and a final answer, until there are so many tokens."""
    long = _PARAGRAPH * 10
    call = Message.from_role_and_content(Role.ASSISTANT, '{"place": "Brest"}')
    turn = [
        Message.from_role_and_content(Role.ASSISTANT, long).with_channel("analysis"),
        call.with_channel("commentary").with_recipient("functions.tides"),
        Message.from_role_and_content(Role.ASSISTANT, long).with_channel("final"),
    ]
    rendered = [token for message in turn for token in encoding.render(message)]
    return (rendered * (tokens // len(rendered) + 1))[:tokens]


def stream(encoding: HarmonyEncoding, tokens: list[int], strict: bool) -> int:
    """Parse token by token, reading the delta and where it goes; return the characters."""
    parser = StreamableParser(encoding, None, strict=strict)
    characters = 0
    for token in tokens:
        parser.process(token)
        delta = parser.last_content_delta
        if delta is not None and parser.current_channel is not None:
            characters += len(delta)
    return characters


def median_s(work: Callable[[], object], repeats: int) -> float:
    """The median time of some calls, after one that is not timed."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return sorted(times)[repeats // 2]


def main() -> None:
    """Measure, print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    data = Path(os.environ.get("GPTOSS_TEST_DATA", _DATA))
    parser.add_argument("--tokenizer", type=Path, default=data / "gpt-oss-20b")
    parser.add_argument("--tokens", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()

    encoding = load_harmony_encoding(options.tokenizer)
    messages = conversation()
    prompt = encoding.render_conversation_for_completion(messages, Role.ASSISTANT)
    tokens = completion(encoding, options.tokens)
    expected = stream(encoding, tokens, strict=True)
    if stream(encoding, tokens, strict=False) != expected:
        raise SystemExit("the strict and the lenient parser disagree")

    works: dict[str, tuple[int, Callable[[], object]]] = {
        "render 20 messages": (
            len(prompt),
            lambda: encoding.render_conversation_for_completion(messages, Role.ASSISTANT),
        ),
        "stream, lenient": (len(tokens), lambda: stream(encoding, tokens, strict=False)),
        "stream, strict": (len(tokens), lambda: stream(encoding, tokens, strict=True)),
    }
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")
    print(f"{'':20} {'tokens':>8} {'ms':>9} {'us/token':>9} {'% of decoding':>14}")
    results = []
    for name, (count, work) in works.items():
        seconds = median_s(work, options.repeats)
        percent = 100 * seconds / (count / DECODING_TOKENS_PER_S)
        per_token_us = 1e6 * seconds / count
        print(f"{name:20} {count:8} {1e3 * seconds:9.2f} {per_token_us:9.2f} {percent:14.3f}")
        results.append({"name": name, "tokens": count, "s": seconds})
    # A turn: render the conversation, then stream its completion.
    turn_s = results[0]["s"] + results[1]["s"]
    percent = 100 * turn_s / (len(tokens) / DECODING_TOKENS_PER_S)
    print(
        json.dumps(
            {
                "bench": "harmony",
                "percent_of_decoding": round(percent, 4),
                "decoding_tokens_per_s": DECODING_TOKENS_PER_S,
                "results": results,
            }
        )
    )


if __name__ == "__main__":
    main()
