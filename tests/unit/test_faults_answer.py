"""What is not on the final channel is never the answer of a turn that has one."""

from __future__ import annotations

import pytest

from gptoss.chat import assemble as module
from support.answers import FINAL, TOOLS, USER, answer, both_ways
from support.scripted_model import ScriptedModel

# Before a final message, and what of it is reasoning; the rest is told by repairs.
JUNK = [
    ("<|channel|>We need to answer.<|end|>", "We need to answer."),
    ("<|channel|>??<|end|>", "??"),
    ("<|channel|>commentary?commentary?<|end|>", "?commentary?"),
    ("<|channel|>final?final?<|end|>", "?final?"),
    ("<|channel|>analyis<|message|>secret<|end|>", "secret"),
    ("<|channel|>anaylsis<|message|>secret<|end|>", "secret"),
    ("<|channel|>thought<|message|>secret<|end|>", "secret"),
    ("<|channel|>reason<|message|>secret<|end|>", "secret"),
    ("<|channel|>plan<|message|>secret<|end|>", "secret"),
    ("<|channel|>comment<|message|>secret<|end|>", "secret"),
    ("<|channel|>commentaryx<|message|>secret<|end|>", "secret"),
    ("<|channel|>custom<|message|>secret<|end|>", "secret"),
    ("<|channel|>??<|message|>secret<|end|>", "secret"),
    ("<|channel|>finale<|message|>secret<|end|>", "secret"),
    ("<|channel|>answer<|message|>secret<|end|>", "secret"),
    ("<|channel|><|message|>secret<|end|>", "secret"),
    ("<|message|>secret<|end|>", "secret"),
    ("We need to think.<|end|>", "We need to think."),
    ("We need to think.", "We need to think."),
    ("??", "??"),
    ("<|channel|>analysis<|message|>Hm.<|end|>junk", "Hm.\n\njunk"),
    ("<|channel|>bash<|end|>", ""),
    ("<|channel|>search bash now<|end|>", "search bash now"),
]


@pytest.mark.parametrize(("junk", "reasoning"), JUNK)
def test_junk_before_the_answer(junk: str, reasoning: str) -> None:
    _, result = both_ways(junk + FINAL, tools=TOOLS)
    assert result.text == "70"
    assert result.preamble == ""
    assert result.reasoning == reasoning
    assert result.repairs
    assert result.tool_calls == []
    assert result.message["content"] == "70"
    assert result.to_openai()["choices"][0]["message"]["content"] == "70"
    channels = {message.channel for message in result.harmony_messages}
    assert channels <= {"analysis", "final"}


@pytest.mark.parametrize(
    ("script", "text", "reasoning"),
    [
        ("<|channel|>finale<|message|>Hello<|return|>", "Hello", ""),
        ("<|channel|>Final<|message|>Hello<|return|>", "Hello", ""),
        ("<|channel|>answer<|message|>Hello<|return|>", "Hello", ""),
        ("<|channel|>Response<|message|>Hello<|return|>", "Hello", ""),
        ("<|channel|>final_answer<|message|>Hello<|return|>", "Hello", ""),
        ("<|channel|>custom<|message|>Hello<|return|>", "Hello", ""),
        ("<|message|>Hello<|return|>", "Hello", ""),
        ("Hello<|return|>", "Hello", ""),
        (
            "<|channel|>analysis<|message|>Hm.<|channel|>answer<|message|>Hello<|return|>",
            "Hello",
            "Hm.",
        ),
        # never, whatever else there is
        ("<|channel|>anaylsis<|message|>Hm.<|return|>", "", "Hm."),
        ("<|channel|>thinking<|message|>Hm.<|return|>", "", "Hm."),
        ("<|channel|>plan<|message|>Hm.<|return|>", "", "Hm."),
        # what means the answer goes before what only comes later
        (
            "<|channel|>answer<|message|>Hello<|end|><|start|>assistant<|message|>x<|return|>",
            "Hello",
            "x",
        ),
        # and what comes last before what comes earlier
        ("Hm.<|end|><|start|>assistant<|message|>Hello<|return|>", "Hello", "Hm."),
        ("Hm.<|end|><|start|>assistant<|channel|>analysis<|message|>x<|return|>", "", "x\n\nHm."),
    ],
)
def test_the_best_guess_of_a_turn_without_a_final(script: str, text: str, reasoning: str) -> None:
    _, result = both_ways(script)
    assert (result.text, result.reasoning) == (text, reasoning)


def test_a_turn_with_a_call_has_no_answer() -> None:
    call = "<|start|>assistant<|channel|>commentary to=functions.bash<|message|>{}<|call|>"
    _, result = both_ways("I must look.<|end|>" + call, tools=TOOLS)
    assert (result.text, result.reasoning) == ("", "I must look.")
    assert result.finish_reason == "tool_calls"


def test_a_preamble_is_shown_and_a_misspelt_one_is_not() -> None:
    for header, preamble in (("commentary", "So."), ("commentary?", ""), ("comment", "")):
        result = answer(f"<|channel|>{header}<|message|>So.<|end|>{FINAL}")
        assert (result.text, result.preamble) == ("70", preamble)
        assert result.reasoning == ("" if preamble else "So.")


def test_an_unknown_channel_is_told() -> None:
    for channel in ("answer", "thought", "custom"):
        (repair,) = answer(f"<|channel|>{channel}<|message|>x<|return|>").repairs
        assert (repair.kind, repair.text) == ("bad_channel", channel)


def test_what_has_to_wait_is_shown_after_a_while() -> None:
    """A model that leaves out all headers could not be read otherwise."""
    text = "x" * (module._DOUBT_TOKENS + 50)
    stream = ScriptedModel(text).chat(USER, stream=True, max_tokens=len(text))
    kinds = [next(stream).kind for _ in range(40)]
    assert kinds == ["text"] * 40
    stream.drain()
    assert stream.result is not None
    assert stream.result.text == text
    # It is the answer, so the turn is over with it.
    result = answer(f"{text}<|end|>{FINAL}")
    assert (result.text, result.finish_reason) == (text, "stop")


def test_stop_strings_cut_a_guess_too() -> None:
    result = answer("Hello world, and more<|return|>", stop=[","])
    assert (result.text, result.finish_reason) == ("Hello world", "stop")
    assert answer("Hello, you<|end|>" + FINAL, stop=[","]).reasoning == "Hello, you"


def test_tokens_of_a_guess_are_counted_where_they_end_up() -> None:
    result = answer("<|message|>abc<|end|>" + FINAL)
    assert result.usage.reasoning_tokens == 3
    assert answer("<|message|>abc<|return|>").usage.reasoning_tokens == 0


@pytest.mark.parametrize(
    "header", ["<|channel|>final junk", "<|start|>assistant junk<|channel|>final"]
)
def test_a_word_in_a_header_is_told(header: str) -> None:
    script = f"<|channel|>analysis<|message|>So.<|end|>{header}<|message|>70<|return|>"
    result = answer(script)
    assert (result.text, result.reasoning) == ("70", "So.")
    assert ("header_text", "junk") in [(repair.kind, repair.text) for repair in result.repairs]
