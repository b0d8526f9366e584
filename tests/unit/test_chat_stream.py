"""Answers of a scripted model: what is shown, where it ends, what is counted."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from gptoss import Decision
from gptoss.engine.constraints import constraint_for_sequence
from support.answers import both_ways
from support.scripted_model import ScriptedModel

USER = [{"role": "user", "content": "Hi"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
TIME = {"type": "function", "function": {"name": "get_time", "description": "Tells the time."}}

CALL = '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city":"Oslo"}'
THINK = "<|channel|>analysis<|message|>Let me see.<|end|><|start|>assistant"
FINAL = "<|channel|>final<|message|>Hello world<|return|>"


def test_reasoning_and_text() -> None:
    deltas, result = both_ways(THINK + FINAL)
    assert result.reasoning == "Let me see."
    assert result.text == "Hello world"
    assert result.finish_reason == "stop"
    assert result.preamble == ""
    assert result.tool_calls == []
    assert result.repairs == []
    kinds = [kind for kind, _ in itertools.groupby(delta.kind for delta in deltas)]
    assert kinds == ["reasoning", "text", "end"]
    assert result.message == {
        "role": "assistant",
        "content": "Hello world",
        "reasoning": "Let me see.",
    }
    assert result.messages == [*USER, result.message]
    assert [m.channel for m in result.harmony_messages] == ["analysis", "final"]


def test_usage_and_timings() -> None:
    model = ScriptedModel(THINK + FINAL, cached_tokens=7)
    result = model.chat(USER)
    assert result.usage.prompt_tokens == len(model.requests[0][0])
    assert result.usage.completion_tokens == len(model.tokens(THINK + FINAL))
    assert result.usage.reasoning_tokens == len(model.tokens("Let me see."))
    assert result.usage.cached_tokens == 7
    assert result.prompt_token_ids == model.requests[0][0]
    assert model.text(result.token_ids) == THINK + FINAL
    assert result.timings.time_to_first_token_s > 0
    assert result.timings.prompt_tps > 0
    assert result.timings.generation_tps > 0


def test_preamble_and_call() -> None:
    script = THINK + "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant" + CALL
    deltas, result = both_ways(script + "<|call|>", tools=[WEATHER])
    assert result.preamble == "I look."
    assert result.text == ""
    assert result.finish_reason == "tool_calls"
    (call,) = result.tool_calls
    assert call.name == "get_weather"
    assert call.recipient == "functions.get_weather"
    assert call.arguments == '{"city":"Oslo"}'
    assert call.arguments_valid
    assert call.parsed_arguments == {"city": "Oslo"}
    start = next(delta for delta in deltas if delta.kind == "tool_call")
    assert start.tool_call is not None
    assert start.tool_call.arguments == ""
    assert result.message["content"] == "I look."
    assert result.message["tool_calls"] == [call.to_openai()]
    assert "preamble" not in result.message


def test_preamble_and_text() -> None:
    script = "<|channel|>commentary<|message|>I begin.<|end|><|start|>assistant" + FINAL
    deltas, result = both_ways(script)
    assert result.message == {
        "role": "assistant",
        "content": "Hello world",
        "preamble": "I begin.",
    }
    content = "".join(
        delta.to_openai()["choices"][0]["delta"].get("content", "") for delta in deltas
    )
    assert content == "I begin.\n\nHello world"
    assert result.to_openai()["choices"][0]["message"]["content"] == content


def test_messages_of_one_kind_are_told_apart() -> None:
    _, result = both_ways(THINK + THINK + FINAL)
    assert result.reasoning == "Let me see.\n\nLet me see."
    assert len(result.harmony_messages) == 3


@pytest.mark.parametrize(
    "arguments", ['{"city": "Oslo"', "[1]", "", "Oslo", '{"a": NaN}', "[" * 100_000]
)
def test_bad_arguments_are_returned(arguments: str) -> None:
    header = CALL[: CALL.index("{")]
    _, result = both_ways(f"{header}{arguments}<|call|>", tools=[WEATHER])
    (call,) = result.tool_calls
    assert result.finish_reason == "tool_calls"
    assert call.arguments == arguments
    assert not call.arguments_valid
    assert call.parsed_arguments is None


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("analysis to=python code", "python"),
        ("analysis to=browser.search code", "browser.search"),
        ("commentary to=elsewhere <|constrain|>json", "elsewhere"),
        ("commentary to=functions.unknown <|constrain|>json", "unknown"),
        ("final to=functions.get_weather", "get_weather"),
    ],
)
def test_calls_to_whom_the_model_likes(header: str, name: str) -> None:
    script = f"<|channel|>{header}<|message|>1 + 1<|call|>"
    _, result = both_ways(script, tools=[WEATHER], builtin_tools=["python"])
    assert [call.name for call in result.tool_calls] == [name]
    assert result.finish_reason == "tool_calls"
    assert result.tool_calls[0].arguments_valid == (name == "python")
    assert result.text == result.reasoning == ""


@pytest.mark.parametrize("listener", ["all", "user", "assistant"])
def test_a_message_to_a_listener_is_no_call(listener: str) -> None:
    _, result = both_ways(f"<|channel|>final to={listener}<|message|>Hello<|return|>")
    assert result.text == "Hello"
    assert result.tool_calls == []


# -- where it ends -----------------------------------------------------------------------


def test_stops_whatever_the_config_says() -> None:
    model = ScriptedModel(THINK + FINAL, eos=["<|end|>", "<|endoftext|>"])
    assert model.chat(USER).text == "Hello world"
    ids = set(model.requests[0][1].stop_token_ids)
    specials = map(model.harmony.special_id, ("<|return|>", "<|call|>", "<|endoftext|>"))
    assert ids == set(specials)


@pytest.mark.parametrize("ending", ["<|end|>", "<|return|>", "<|call|>", "<|endoftext|>"])
@pytest.mark.parametrize("more", [FINAL, "<|start|>user<|message|>Hello"])
def test_ends_with_the_final_message(ending: str, more: str) -> None:
    script = f"<|channel|>final<|message|>Bye{ending}<|start|>assistant{more}"
    model = ScriptedModel(script)
    result = model.chat(USER)
    assert (result.text, result.finish_reason) == ("Bye", "stop")
    assert result.token_ids == model.tokens(f"<|channel|>final<|message|>Bye{ending}")
    assert model.streams[0].closed


@pytest.mark.parametrize("ending", ["<|end|>", "<|return|>", "<|call|>", "<|endoftext|>"])
def test_ends_with_a_call(ending: str) -> None:
    made_up = "<|start|>functions.get_weather to=assistant<|channel|>commentary<|message|>Sun"
    _, result = both_ways(f"{CALL}{ending}{made_up}", tools=[WEATHER])
    assert result.finish_reason == "tool_calls"
    assert len(result.tool_calls) == 1


def test_ends_where_the_model_speaks_for_another() -> None:
    script = "<|channel|>commentary<|message|>So.<|end|><|start|>user<|message|>And then?"
    _, result = both_ways(script)
    assert (result.preamble, result.text, result.finish_reason) == ("So.", "", "stop")


@pytest.mark.parametrize("length", range(1, 60))
def test_truncated(length: int) -> None:
    script = THINK + CALL + "<|call|>"
    tokens = ScriptedModel().tokens(script)
    _, result = both_ways(script, max_tokens=length, tools=[WEATHER])
    assert result.usage.completion_tokens == min(length, len(tokens))
    if length >= len(tokens):
        assert result.finish_reason == "tool_calls"
        return
    assert result.finish_reason == "length"
    assert "tool_calls" not in result.message
    assert "Let me see.".startswith(result.reasoning)
    assert result.text == result.preamble == ""
    assert all('{"city":"Oslo"}'.startswith(call.arguments) for call in result.tool_calls)
    # What was cut can be continued.
    ScriptedModel(FINAL).chat([*result.messages, *USER])


def test_stop_strings_cut_the_answer_only() -> None:
    _, result = both_ways(THINK + FINAL, stop=["see", "final", "o w"])
    assert result.reasoning == "Let me see."
    assert result.text == "Hell"
    assert result.finish_reason == "stop"
    assert result.message["content"] == "Hell"
    _, result = both_ways(THINK + FINAL, stop="world!")  # held back, and not found
    assert result.text == "Hello world"


def test_own_stop_tokens() -> None:
    model = ScriptedModel()
    (world,) = model.tokens(" world")
    _, result = both_ways(THINK + FINAL, stop_token_ids=[world])
    assert (result.text, result.finish_reason) == ("Hello", "stop")
    _, result = both_ways(CALL.replace("Oslo", " world"), stop_token_ids=[world])
    assert (result.finish_reason, result.tool_calls[0].arguments) == ("stop", '{"city":"')


@pytest.mark.parametrize("reads_first", [True, False])
def test_closing_cancels(reads_first: bool) -> None:
    model = ScriptedModel(THINK + FINAL)
    answer = model.chat(USER, stream=True)
    if reads_first:
        next(answer)
    answer.close()
    assert model.streams[0].closed
    assert list(answer) == []
    assert answer.result is None
    with pytest.raises(RuntimeError, match="closed"):
        answer.drain()


def test_an_error_of_the_model_ends_the_answer() -> None:
    model = ScriptedModel("<|channel|>final<|message|>Hel")
    answer = model.chat(USER, stream=True)
    with pytest.raises(AssertionError, match="script is over"), answer:
        list(answer)
    assert model.streams[0].closed


# -- malformed ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "text", "reasoning"),
    [
        ("<|message|>Hello<|return|>", "Hello", ""),
        ("<|channel|>final <|constrain|>json<|message|>{}<|return|>", "{}", ""),
        ("<|channel|>comment<|message|>Hello<|return|>", "Hello", ""),
        ("<|channel|>analysisWe see<|message|>Hm.<|return|>", "", "Hm."),
        ("<|channel|>analysis<|message|>Hm.<|channel|>final<|message|>Ha.<|return|>", "Ha.", "Hm."),
        ("<|channel|>analysis<|message|>Hm.<|start|>assistant" + FINAL, "Hello world", "Hm."),
        ("<|start|>assistant" + FINAL, "Hello world", ""),
        ("Hello<|return|>", "Hello", ""),
    ],
)
def test_malformed(script: str, text: str, reasoning: str) -> None:
    _, result = both_ways(script)
    assert (result.text, result.reasoning) == (text, reasoning)
    assert result.tool_calls == []
    clean = "<|constrain|>json" in script or script.startswith("<|message|>")
    assert bool(result.repairs) != clean


def test_markup_that_is_spelled_is_text() -> None:
    model = ScriptedModel()
    plain = model.harmony.encode("<|end|> is a token", disallowed_special=())
    script = [
        *model.tokens("<|channel|>final<|message|>"),
        *plain,
        *model.tokens("<|return|>"),
    ]
    assert ScriptedModel(script).chat(USER).text == "<|end|> is a token"


def test_characters_are_whole() -> None:
    deltas, result = both_ways("<|channel|>final<|message|>é漢😀<|return|>")
    assert [delta.text for delta in deltas] == ["é", "漢", "😀", ""]
    broken = ScriptedModel().tokens("<|channel|>final<|message|>😀")[:-1]
    _, result = both_ways([*broken, *ScriptedModel().tokens("!<|return|>")])
    assert result.text == "\ufffd!"


# -- max_reasoning_tokens ----------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 3, len("Let me see.")])
def test_reasoning_is_ended(limit: int) -> None:
    model = ScriptedModel(THINK + FINAL, "Hello world<|return|>")
    result = model.chat(USER, max_reasoning_tokens=limit, seed=5, max_tokens=40, logprobs=0)
    assert (result.reasoning, result.text) == ("Let me see."[:limit], "Hello world")
    assert result.finish_reason == "stop"
    opened = "<|end|><|start|>assistant<|channel|>final<|message|>"
    made = "<|channel|>analysis<|message|>" + "Let me see."[:limit]
    assert model.text(result.token_ids) == made + opened + "Hello world<|return|>"
    ((prompt, params),) = model.requests
    assert model.streams[0].closed
    generated = len(model.tokens(made)) + len(model.tokens("Hello world<|return|>"))
    assert result.usage.completion_tokens == generated
    assert result.usage.reasoning_tokens == limit
    assert result.usage.prompt_tokens == len(prompt)
    assert (params.max_tokens, params.seed) == (40, 5)
    assert result.logprobs is not None
    assert len(result.logprobs) == len(result.token_ids)
    assert [entry.token_id for entry in result.logprobs] == result.token_ids
    is_forced = [entry.logprob == 0 for entry in result.logprobs]
    assert is_forced.index(True) == len(model.tokens(made))
    assert sum(is_forced) == len(model.tokens(opened))
    both_ways(THINK + FINAL, "Hello world<|return|>", max_reasoning_tokens=limit)


def test_reasoning_below_the_limit_is_left_alone() -> None:
    model = ScriptedModel(THINK + FINAL)
    assert model.chat(USER, max_reasoning_tokens=len("Let me see.") + 1).text == "Hello world"
    assert len(model.requests) == 1


def test_no_reasoning_at_all() -> None:
    model = ScriptedModel("Hello world<|return|>")
    result = model.chat(USER, max_reasoning_tokens=0)
    assert (result.reasoning, result.text) == ("", "Hello world")
    assert model.text(model.requests[0][0]).endswith(
        "<|start|>assistant<|channel|>final<|message|>"
    )
    assert result.usage.prompt_tokens == len(model.requests[0][0])


def test_reasoning_that_is_ended_within_a_character() -> None:
    script = "<|channel|>analysis<|message|>a😀"
    _, result = both_ways(script, "Hello<|return|>", max_reasoning_tokens=3)
    assert (result.reasoning, result.text) == ("a", "Hello")
    assert result.usage.reasoning_tokens == 3


def test_reasoning_that_leaves_no_room() -> None:
    prompt = len(ScriptedModel(FINAL).chat(USER).prompt_token_ids)
    model = ScriptedModel(THINK + FINAL, context_length=prompt + 8)
    result = model.chat(USER, max_reasoning_tokens=4)
    assert (result.reasoning, result.text, result.finish_reason) == ("Let ", "", "length")
    result = ScriptedModel(THINK + FINAL).chat(USER, max_reasoning_tokens=4, max_tokens=7)
    assert (result.reasoning, result.finish_reason) == ("Let ", "length")


# -- forced calls ------------------------------------------------------------------------


def test_forced_call() -> None:
    model = ScriptedModel('{"city":"Oslo"}<|call|>')
    choice = {"type": "function", "function": {"name": "get_weather"}}
    result = model.chat(USER, tools=[TIME, WEATHER], tool_choice=choice)
    header = CALL[: CALL.index("{")]
    assert model.text(model.requests[0][0]).endswith("<|start|>assistant" + header)
    assert [call.name for call in result.tool_calls] == ["get_weather"]
    assert result.tool_calls[0].parsed_arguments == {"city": "Oslo"}
    assert result.finish_reason == "tool_calls"
    assert model.text(result.token_ids) == '{"city":"Oslo"}<|call|>'
    assert result.usage.completion_tokens == len(result.token_ids)
    both_ways('{"city":"Oslo"}<|call|>', tools=[WEATHER], tool_choice="required")


def test_required_call_of_one_among_several() -> None:
    model = ScriptedModel("get_time", "{}<|call|>")
    result = model.chat(
        USER,
        tools=[TIME, WEATHER],
        tool_choice="required",
        repetition_penalty=2.0,
        logit_bias={0: 1.0},
        max_tokens=9,
    )
    assert [call.name for call in result.tool_calls] == ["get_time"]
    ((prompt, params),) = model.requests
    assert model.text(prompt).endswith("<|start|>assistant<|channel|>commentary to=functions.")
    assert params.logit_bias == {0: 1.0}
    assert params.repetition_penalty == 2.0
    assert model.text(result.prompt_token_ids).endswith(
        " to=functions.get_time <|constrain|>json<|message|>"
    )
    assert model.text(result.token_ids) == "{}<|call|>"
    assert result.usage.prompt_tokens == len(result.prompt_token_ids)
    assert result.usage.completion_tokens == len(result.token_ids)
    assert model.streams[0].closed


def test_only_the_tools_can_be_chosen() -> None:
    model = ScriptedModel("get_time")
    model.chat(USER, stream=True, tools=[TIME, WEATHER], tool_choice="required")
    ((_, params),) = model.requests
    assert params.constraint is not None
    mask = np.full(100, 2**32 - 1, np.uint32)
    constraint_for_sequence(params.constraint).fill(mask)
    allowed = {token for token in range(32 * len(mask)) if mask[token // 32] >> token % 32 & 1}
    assert allowed == {model.tokens(name)[0] for name in ("get_time", "get_weather")}


ALIKE = [{"type": "function", "function": {"name": name}} for name in ("ab", "abc", "abd", "abcde")]


@pytest.mark.parametrize(
    ("name", "chosen"), [("ab", " "), ("abc", "c "), ("abd", "d"), ("abcde", "cd")]
)
def test_required_call_of_names_that_begin_alike(name: str, chosen: str) -> None:
    model = ScriptedModel(
        chosen, "{}<|call|>"
    )  # after a choice that leaves one, the rest is forced
    result = model.chat(USER, tools=ALIKE, tool_choice="required")
    assert [(call.name, call.arguments) for call in result.tool_calls] == [(name, "{}")]
    ((prompt, _),) = model.requests
    assert model.text(prompt).endswith(" to=functions.ab")
    assert model.text(result.token_ids) == "{}<|call|>"
    assert result.usage.completion_tokens == len(result.token_ids)
    assert model.text(model.streams[0].given) == chosen + "{}<|call|>"
    both_ways(chosen, "{}<|call|>", tools=ALIKE, tool_choice="required")


@pytest.mark.parametrize(("name", "chosen"), [("ab", " "), ("abcde", "cd")])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_what_is_chosen_is_no_token_of_the_answer(name: str, chosen: str, count: int) -> None:
    """However many places there are at which the names differ."""
    arguments = '{"a": "b"}'
    model = ScriptedModel(chosen, arguments)
    result = model.chat(
        USER, tools=ALIKE, tool_choice="required", max_tokens=count, min_tokens=1, logprobs=0
    )
    assert model.text(result.token_ids) == arguments[:count]
    assert result.finish_reason == "length"
    assert result.usage.completion_tokens == count
    assert [call.name for call in result.tool_calls] == [name]
    assert [entry.token_id for entry in result.logprobs or ()] == result.token_ids
    assert model.streams[0].closed


def test_a_model_that_writes_the_opening_by_itself() -> None:
    """It need not heed constraints to be understood."""
    script = "get_time <|constrain|>json<|message|>{}<|call|>"
    model = ScriptedModel(script, heeds_constraints=False)
    result = model.chat(USER, tools=[TIME, WEATHER], tool_choice="required")
    assert [(call.name, call.arguments) for call in result.tool_calls] == [("get_time", "{}")]
    model = ScriptedModel(THINK + FINAL, heeds_constraints=False)
    result = model.chat(USER, max_reasoning_tokens=3)
    assert (result.reasoning, result.text) == ("Let me see.", "Hello world")


def test_an_answer_has_one_constraint() -> None:
    class Mine:
        def accept(self, token_ids: list[int]) -> Decision:
            return Decision()

        def fill(self, mask: Any) -> None:
            pass

    model = ScriptedModel(FINAL, "Hello<|return|>")
    for chat in (
        {"max_reasoning_tokens": 3},
        {"tools": [TIME, WEATHER], "tool_choice": "required"},
    ):
        with pytest.raises(ValueError, match="constraint: max_reasoning_tokens, a tool_choice"):
            model.chat(USER, constraint=Mine(), **chat)
    assert model.requests == []
    mine = Mine()
    assert model.chat(USER, constraint=mine).text == "Hello world"
    # With 0 nothing is left to decide.
    assert model.chat(USER, constraint=mine, max_reasoning_tokens=0).text == "Hello"
    assert all(params.constraint is mine for _, params in model.requests)


def test_a_stop_token_that_would_end_a_choice() -> None:
    model = ScriptedModel("get_time", "{}<|call|>")
    token = model.tokens("get_time")[0]
    with pytest.raises(ValueError, match=f"stop_token_ids: .* {token} among them"):
        model.chat(USER, tools=[TIME, WEATHER], tool_choice="required", stop_token_ids=[token])


def test_bad_arguments_of_chat() -> None:
    model = ScriptedModel()
    with pytest.raises(ValueError, match="ignore_eos"):
        model.chat(USER, ignore_eos=True)
    with pytest.raises(ValueError, match="negative"):
        model.chat(USER, max_reasoning_tokens=-1)
    with pytest.raises(TypeError, match="max_reasoning_tokens"):
        model.chat(USER, max_reasoning_tokens=1.5)
    with pytest.raises(TypeError, match="did you mean max_tokens"):
        model.chat(USER, max_new_tokens=1)
    assert model.requests == []
