"""Answers find their calls, and stay in order."""

from __future__ import annotations

from typing import Any

import pytest

from gptoss.chat import build_prompt
from gptoss.harmony import Message, Role
from support.scripted_model import ScriptedModel

ENCODING = ScriptedModel().harmony
USER = {"role": "user", "content": "Hi"}


def call(call_id: str | None, text: str, name: str = "w") -> dict[str, Any]:
    function = {"name": name, "arguments": text}
    return {"type": "function", "function": function} | ({} if call_id is None else {"id": call_id})


def calls(*calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": list(calls)}


def result(text: str, **fields: Any) -> dict[str, Any]:
    return {"role": "tool", "content": text, **fields}


def contents(*messages: Any) -> list[str]:
    """Texts of the calls and answers, in the order of the prompt."""
    prompt = ENCODING.decode_utf8(build_prompt(ENCODING, [USER, *messages]).token_ids)
    pieces = prompt.split("<|message|>")[3:]
    return [piece.split("<|", 1)[0] for piece in pieces]


@pytest.mark.parametrize("call_id", ["", "same", None])
def test_equal_ids_and_none(call_id: str | None) -> None:
    ids = {} if call_id is None else {"tool_call_id": call_id}
    asked = calls(call(call_id, "A"), call(call_id, "B"), call(call_id, "C"))
    answers = [result(f"R{letter}", **ids) for letter in "ABC"]
    assert contents(asked, *answers) == ["A", "RA", "B", "RB", "C", "RC"]


def test_several_answers_to_one_call() -> None:
    asked = calls(call("1", "A"), call("2", "B"))
    answers = [result(text, tool_call_id=i) for i, text in (("1", "R1"), ("2", "S"), ("1", "R2"))]
    assert contents(asked, *answers) == ["A", "R1", "R2", "B", "S"]


def test_distinct_ids_in_any_order() -> None:
    asked = calls(call("1", "A"), call("2", "B"))
    answers = [result(f"R{i}", tool_call_id=i) for i in "21"]
    assert contents(asked, *answers) == ["A", "R1", "B", "R2"]


def test_names_tell_calls_apart_where_ids_do_not() -> None:
    for call_id in (None, "", "same"):
        asked = calls(call(call_id, "A", "one"), call(call_id, "B", "two"))
        ids = {} if call_id is None else {"tool_call_id": call_id}
        answers = [result("R2", name="two", **ids), result("R1", tool_name="one", **ids)]
        assert contents(asked, *answers) == ["A", "R1", "B", "R2"]


@pytest.mark.parametrize("fields", [{"tool_name": "w"}, {"name": "w"}, {}, {"tool_call_id": "x"}])
def test_the_only_open_call(fields: dict[str, Any]) -> None:
    assert contents(calls(call(None, "A")), result("R", **fields)) == ["A", "R"]


@pytest.mark.parametrize("key", ["tool_call_id", "call_id", "tool_use_id", "toolCallId"])
def test_ids_under_any_name(key: str) -> None:
    asked = calls(call("1", "A"), call("2", "B"))
    assert contents(asked, result("R2", **{key: "2"}), result("R1", **{key: "1"})) == [
        *("A", "R1", "B", "R2")
    ]


def test_ids_that_begin_anew_in_each_turn() -> None:
    """The call that was never answered belongs to a turn that is over."""
    for call_id in ("call_0", None):
        ids = {} if call_id is None else {"tool_call_id": call_id}
        messages = [calls(call(call_id, "A")), USER, calls(call(call_id, "B")), result("R", **ids)]
        assert contents(*messages) == ["A", "Hi", "B", "R"]


def test_an_answer_whose_call_is_not_there() -> None:
    text = ENCODING.decode_utf8(
        build_prompt(ENCODING, [USER, result("R", name="w", tool_call_id="gone")]).token_ids
    )
    assert "<|start|>functions.w to=assistant<|channel|>commentary<|message|>R<|end|>" in text
    with pytest.raises(ValueError, match=r"messages\[1\]: a tool's message must have"):
        contents(result("R", tool_call_id="gone"))
    with pytest.raises(ValueError, match=r"messages\[3\]: a tool's message must have"):
        contents(calls(call(None, "A")), result("R"), result("S"))


def test_answers_to_harmony_calls() -> None:
    message = Message.from_role_and_content(Role.ASSISTANT, "A").with_recipient("functions.w")
    other = Message.from_role_and_content(Role.ASSISTANT, "B").with_recipient("functions.v")
    asked = [message.with_channel("commentary"), other.with_channel("commentary")]
    assert contents(*asked, result("RB", name="v"), result("RA", name="w")) == [
        *("A", "RA", "B", "RB")
    ]
    for one in asked:
        answer = Message.from_dict({"role": "tool", "name": one.recipient, "content": "R"})
        answered = [one, answer.with_recipient("assistant").with_channel("commentary")]
        assert contents(*answered, calls(call(None, "C")), result("RC"))[-2:] == ["C", "RC"]
