"""Chat on a random checkpoint: what it says is noise, but it comes through every layer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gptoss
from gptoss.chat import ChatStream, build_prompt
from gptoss.chat.messages import Prompt, header
from support.checkpoints import MICRO, make_checkpoint, script

pytestmark = pytest.mark.usefixtures("no_network")

USER = [{"role": "user", "content": "Hi"}]
SPECIALS = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|call|>")


def get_weather(city: str) -> str:
    """Tell the weather."""
    return f"Sunny in {city}"


TOOL = gptoss.tool_schema(get_weather)
COMMAND = [sys.executable, "-m", "gptoss", "chat"]


@pytest.fixture(scope="module")
def llm(tiny_checkpoint: Callable[[str], Path]) -> Iterator[gptoss.LLM]:
    with gptoss.load(tiny_checkpoint("hf"), context_length=4096, threads=1) as model:
        yield model


def steered(llm: gptoss.LLM, **bias: float) -> dict[int, float]:
    """Make some special tokens likelier or less likely, by their names."""
    return {llm.tokenizer.special_tokens[f"<|{name}|>"]: value for name, value in bias.items()}


def plain(llm: gptoss.LLM, **bias: float) -> dict[int, float]:
    """Allow printable characters, and what is named."""
    others = set(range(llm.config.vocab_size)) - set(range(0x20, 0x7F))
    return dict.fromkeys(others, -500.0) | steered(llm, **bias)


def comparable(result: Any) -> list[Any]:
    calls = [(call.name, call.arguments) for call in result.tool_calls]
    return [
        *(result.text, result.reasoning, result.preamble, calls, result.finish_reason),
        *(result.token_ids, result.repairs, result.usage.completion_tokens),
    ]


@pytest.mark.parametrize("seed", range(12))
def test_streamed_is_whole(llm: gptoss.LLM, seed: int) -> None:
    # Often enough a header, so that all of the parser is passed through.
    bias = steered(llm, channel=3.0, message=3.0, end=2.0, start=2.0, constrain=1.0)
    args: dict[str, Any] = {"seed": seed, "max_tokens": 120, "logit_bias": bias, "tools": [TOOL]}
    whole = llm.chat(USER, **args)
    stream = llm.chat(USER, stream=True, **args)
    deltas = list(stream)
    assert stream.result is not None
    assert comparable(stream.result) == comparable(whole)
    for name in ("text", "reasoning", "preamble"):
        text = "".join(getattr(delta, name) for delta in deltas)
        assert text == getattr(whole, name)
        assert not any(special in text for special in SPECIALS)
    assert whole.usage.prompt_tokens == len(whole.prompt_token_ids)
    assert whole.usage.completion_tokens == len(whole.token_ids) <= 120
    again = llm.chat([*whole.messages, *USER], max_tokens=1)
    assert again.usage.completion_tokens == 1


def test_stops_on_call_and_return_but_not_on_end(llm: gptoss.LLM) -> None:
    for name, value in (("return", 500.0), ("call", 500.0)):
        result = llm.chat(USER, logit_bias=steered(llm, **{name: value}), max_tokens=9)
        assert result.usage.completion_tokens == 1
        assert result.finish_reason == "stop"
    result = llm.chat(USER, logit_bias=steered(llm, end=500.0), max_tokens=9)
    assert result.usage.completion_tokens == 9
    assert result.finish_reason == "length"


def test_truncation(llm: gptoss.LLM) -> None:
    bias = plain(llm)
    long = llm.chat(USER, temperature=0, max_tokens=40, logit_bias=bias)
    assert long.finish_reason == "length"
    for count in range(1, 40, 7):
        short = llm.chat(USER, temperature=0, max_tokens=count, logit_bias=bias)
        assert short.token_ids == long.token_ids[:count]
        assert short.usage.completion_tokens == count


def test_reasoning_is_ended(llm: gptoss.LLM) -> None:
    # This model does not begin to reason by itself.
    thinking = header(llm.harmony, "analysis")
    prompt = Prompt(build_prompt(llm.harmony, USER).token_ids, [thinking])
    params = gptoss.SamplingParams(seed=1, max_tokens=20, logit_bias=plain(llm), logprobs=0)
    result = ChatStream(llm, USER, prompt, params, max_reasoning_tokens=5).drain()
    assert (len(result.reasoning), len(result.text)) == (5, 15)
    assert result.finish_reason == "length"
    assert (result.usage.reasoning_tokens, result.usage.completion_tokens) == (5, 20)
    opened = "<|end|><|start|>assistant<|channel|>final<|message|>"
    assert llm.tokenizer.decode(result.token_ids) == result.reasoning + opened + result.text
    # The second request goes on as if the model had written all of it.
    scored = llm.logits([*result.prompt_token_ids, *result.token_ids[:-1]], positions=[-1])[0]
    assert result.logprobs is not None
    expected = scored[result.token_ids[-1]] - np.logaddexp.reduce(scored)
    assert abs(result.logprobs[-1].logprob - expected) < 1e-3


def test_no_reasoning(llm: gptoss.LLM) -> None:
    result = llm.chat(USER, max_reasoning_tokens=0, max_tokens=20, logit_bias=plain(llm))
    assert result.reasoning == ""
    assert len(result.text) == result.usage.completion_tokens == 20
    opened = llm.tokenizer.encode("<|channel|>final<|message|>", allowed_special="all")
    assert result.prompt_token_ids[-len(opened) :] == opened


def test_required_calls(llm: gptoss.LLM) -> None:
    tools = [TOOL, {"type": "function", "function": {"name": "get_time"}}]
    args: dict[str, Any] = {"tools": tools, "tool_choice": "required"}
    names = set()
    for seed in range(12):
        result = llm.chat(USER, seed=seed, temperature=1000.0, max_tokens=1, **args)
        names.update(call.name for call in result.tool_calls)
    assert names == {"get_weather", "get_time"}  # the model chooses, and nothing else
    bias = plain(llm, call=5.0)
    result = llm.chat(USER, max_tokens=500, logit_bias=bias, seed=1, **args)
    (call,) = result.tool_calls
    assert result.finish_reason == "tool_calls"
    assert llm.tokenizer.decode(result.token_ids) == f"{call.arguments}<|call|>"


def test_tool_loop(llm: gptoss.LLM) -> None:
    bias = plain(llm, call=5.0)
    result = llm.run(
        USER,
        [get_weather],
        max_steps=2,
        tool_choice="required",
        max_tokens=500,
        logit_bias=bias,
        seed=1,
    )
    assert [message["role"] for message in result.messages] == [
        *("user", "assistant", "tool", "assistant")
    ]
    assert "must be a JSON object" in result.messages[2]["content"]


def test_closing_cancels(llm: gptoss.LLM) -> None:
    before = llm.stats().generated_tokens
    stream = llm.chat(USER, stream=True, max_reasoning_tokens=0, logit_bias=plain(llm))
    for _ in range(5):
        assert next(stream).kind == "text"
    stream.close()
    deadline = time.monotonic() + 10
    while llm.stats().running and time.monotonic() < deadline:
        time.sleep(0.01)
    assert llm.stats().running == 0
    assert llm.stats().generated_tokens < before + 3000
    assert list(stream) == []


def test_a_conversation_that_does_not_fit(llm: gptoss.LLM) -> None:
    with pytest.raises(ValueError, match="context of 4096"):
        llm.chat([{"role": "user", "content": "x" * 5000}])


def test_a_tokenizer_without_harmony(tmp_path: Path) -> None:
    tokenizer = tmp_path / "bytes.json"
    tokenizer.write_text(json.dumps(script.byte_tokenizer({})))
    make_checkpoint(tmp_path / "bytes", MICRO, tokenizer=tokenizer)
    with gptoss.load(tmp_path / "bytes", threads=1) as bytes_only:
        assert bytes_only.generate("Hi", max_tokens=2).usage.completion_tokens == 2
        with pytest.raises(ValueError, match=r"the tokenizer lacks <\|start\|>"):
            bytes_only.chat(USER)


# -- the command -------------------------------------------------------------------------


def test_one_shot_command(tiny_checkpoint: Callable[[str], Path]) -> None:
    found = subprocess.run(
        [*COMMAND, str(tiny_checkpoint("hf")), "--json", "--max-tokens", "8", "--effort", "low"],
        input=b"Hi",
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert found.returncode == 0, found.stderr
    assert b'"object": "chat.completion"' in found.stdout


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo terminal")
def test_ctrl_c_stops_the_answer_and_ctrl_d_leaves(
    tiny_checkpoint: Callable[[str], Path], llm: gptoss.LLM
) -> None:
    import pty

    master, slave = pty.openpty()
    never = [f"--logit-bias={token}=-500" for token in llm.tokenizer.special_tokens.values()]
    process = subprocess.Popen(
        [*COMMAND, str(tiny_checkpoint("hf")), *never],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        # A shell's background jobs ignore it, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        env=os.environ | {"TERM": "dumb"},
    )
    os.close(slave)
    seen = b""

    def wait_for(text: bytes) -> None:
        nonlocal seen
        deadline = time.monotonic() + 60
        while text not in seen:
            assert time.monotonic() < deadline, seen[-2000:]
            seen += os.read(master, 4096)
        seen = seen[seen.index(text) + len(text) :]

    try:
        wait_for(b"> ")
        os.write(master, b"Hi\n")
        wait_for(b"Hi")
        while len(seen) < 100:  # the answer has begun
            seen += os.read(master, 4096)
        process.send_signal(signal.SIGINT)
        wait_for(b"(stopped)")
        wait_for(b"> ")
        os.write(master, b"/effort low\n")
        wait_for(b"effort: low")
        wait_for(b"> ")
        os.write(master, b"\x04")
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(master)
