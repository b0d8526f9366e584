"""Random messages, calls and headers: nothing dropped in silence, nothing reversed, no reasoning
in the text."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gptoss.chat import build_prompt
from gptoss.chat.fields import _KNOWN, _MEANINGLESS
from support.answers import FINAL, TOOLS, USER, both_ways
from support.scripted_model import ScriptedModel

ENCODING = ScriptedModel().harmony
SETTINGS = settings(deadline=None, max_examples=300)


def prompt_of(messages: list[Any]) -> str:
    return ENCODING.decode_utf8(build_prompt(ENCODING, messages).token_ids)


# -- what carries meaning ----------------------------------------------------------------


class Marks:
    """Words that no prompt has, each of which must be found again."""

    def __init__(self) -> None:
        self.given: list[str] = []

    def next(self) -> str:
        self.given.append(f"~{len(self.given)}~")
        return self.given[-1]


@st.composite
def contents(draw: st.DrawFn, marks: Marks, *, of_assistant: bool = False) -> Any:
    types = ["text", "input_text", "output_text"]
    if of_assistant:
        types += ["refusal", "thinking", "reasoning"]
    if draw(st.booleans()):
        return marks.next()
    keys = {"refusal": "refusal", "thinking": "thinking"}
    return [
        {"type": kind, keys.get(kind, "text"): marks.next()}
        for kind in draw(st.lists(st.sampled_from(types), min_size=1, max_size=3))
    ]


@st.composite
def running_turns(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[str]]:
    """A turn that has no answer yet, so that all of it is shown to the model."""
    marks = Marks()
    messages: list[dict[str, Any]] = []
    for role in draw(st.lists(st.sampled_from(["system", "user", "calls"]), max_size=3)):
        if role != "calls":
            messages.append({"role": role, "content": draw(contents(marks))})
            continue
        message: dict[str, Any] = {"role": "assistant"}
        for key in draw(st.sets(st.sampled_from(["reasoning", "reasoning_content", "thinking"]))):
            message[key] = marks.next()
        if draw(st.booleans()):
            message["reasoning_details"] = [{"type": "reasoning.text", "text": marks.next()}]
        for key in draw(st.sets(st.sampled_from(["refusal", "preamble"]))):
            message[key] = marks.next()
        if draw(st.booleans()):
            message["content"] = draw(contents(marks, of_assistant=True))
        function = {"name": "w", "arguments": marks.next()}
        if draw(st.booleans()):
            message["function_call"] = function
        else:
            message["tool_calls"] = [{"function": function}]
        answer = {"role": "tool", "content": draw(contents(marks))}
        messages += [message, answer]
    return [*messages, *USER], marks.given


@SETTINGS
@given(running_turns())
def test_all_that_is_said_is_in_the_prompt(turn: tuple[list[dict[str, Any]], list[str]]) -> None:
    messages, marks = turn
    prompt = prompt_of(messages)
    assert all(mark in prompt for mark in marks)


OBJECTS: dict[str, Any] = {
    "user message": lambda extra: {"role": "user", "content": "x", **extra},
    "system message": lambda extra: {"role": "system", "content": "x", **extra},
    # Its turn has no answer yet, so its reasoning is shown.
    "assistant message": lambda extra: {
        "role": "assistant",
        "tool_calls": [{"function": {"name": "w"}}],
        **extra,
    },
    "tool message": lambda extra: {"role": "tool", "name": "w", "content": "x", **extra},
    "content part": lambda extra: {
        "role": "user",
        "content": [{"type": "text", "text": "x", **extra}],
    },
    "tool call": lambda extra: {
        "role": "assistant",
        "tool_calls": [{"function": {"name": "w"}, **extra}],
    },
    "called function": lambda extra: {
        "role": "assistant",
        "tool_calls": [{"function": {"name": "w", **extra}}],
    },
}
known_keys = sorted({key for keys in _KNOWN.values() for key in keys})
keys = (
    st.sampled_from(known_keys)
    | st.sampled_from(known_keys).map(lambda key: key + "s")
    | st.sampled_from(known_keys).map(lambda key: key[:-1])
    | st.text(st.characters(categories=["Ll", "Pc"]), min_size=1, max_size=10)
)


@SETTINGS
@given(st.sampled_from(sorted(OBJECTS)), keys)
def test_a_key_is_understood_or_refused(kind: str, key: str) -> None:
    assume(_MEANINGLESS.fullmatch(key) is None)
    plain = OBJECTS[kind]({})
    assume(key not in plain and key not in ("id", "call_id", "tool_call_id"))
    refusal = ""
    prompt = ""
    try:
        prompt = prompt_of([*USER, OBJECTS[kind]({key: "~mark~"})])
    except (TypeError, ValueError) as error:
        refusal = str(error)
    # A name that is not in any header, and the id of a call, are all that may stay unseen.
    is_quiet = key == "name" and kind in ("system message", "assistant message")
    is_quiet = is_quiet or (kind == "tool message" and key in ("tool_use_id", "toolCallId"))
    assert is_quiet or "~mark~" in prompt or refusal.startswith("messages[1]")


# -- the answer --------------------------------------------------------------------------

START = "<|start|>assistant"
ANALYSIS = ["analysis", "anaylsis", "analyis", "Analysis", "thought", "thinking", "reason", "plan"]
ODD = [
    "comment",
    "custom",
    "??",
    "commentary?",
    "final?",
    "finale",
    "answer",
    "response",
    "x y",
    "",
]
headers = st.one_of(
    st.sampled_from(ANALYSIS).map(lambda name: ("reasoning", f"<|channel|>{name}<|message|>")),
    st.sampled_from(ODD).map(lambda name: ("junk", f"<|channel|>{name}<|message|>")),
    st.sampled_from(["", "<|message|>", "<|channel|>", "<|channel|>??", "<|channel|>We say "]).map(
        lambda header: ("junk", header)
    ),
    st.just(("preamble", "<|channel|>commentary<|message|>")),
)


@SETTINGS
@given(st.lists(headers, max_size=4), st.booleans(), st.sampled_from(["<|end|>", ""]))
def test_what_is_no_final_message_is_not_the_text(
    parts: list[tuple[str, str]], has_final: bool, last_end: str
) -> None:
    script = ""
    for index, (_, header) in enumerate(parts):
        end = "<|end|>" if index < len(parts) - 1 else last_end
        script += f"{START if script else ''}{header}~{index}~{end}"
    script = script + FINAL if has_final else script + ("" if script else "x") + "<|return|>"
    _, result = both_ways(script, tools=TOOLS)
    if has_final:
        assert result.text == "70"
    seen = (result.reasoning, result.preamble, result.text)
    repairs = " ".join(repair.text for repair in result.repairs)
    for index, (kind, _) in enumerate(parts):
        mark = f"~{index}~"
        assert any(mark in text for text in (*seen, repairs))
        assert sum(text.count(mark) for text in seen) <= 1
        if kind == "reasoning":
            assert mark not in result.text + result.preamble
        elif kind == "junk":
            assert mark not in result.preamble
            assert not has_final or mark not in result.text
        else:
            assert mark in result.preamble
    if any(kind == "junk" for kind, _ in parts) and has_final:
        assert result.repairs


# -- calls -------------------------------------------------------------------------------

NAMES = ["bash", "get_weather", "python"]
cases = st.sampled_from([str, str.upper, str.title, lambda name: name.replace("_", "-")])
prefixes = st.sampled_from(
    [
        *("functions.", "function.", "functions/", "functions:", "functions_", "tools."),
        *("functions.functions.", "container.", "mcp__x__", ""),
    ]
)
suffixes = st.sampled_from(["", "", "json", ":0", "()", ".exec", "_tool", "_json"])
places = st.sampled_from(
    [
        "<|channel|>commentary to={} <|constrain|>json<|message|>",
        "<|channel|>commentary to={}<|message|>",
        "<|channel|>analysis to={} <|constrain|>json<|message|>",
        " to={}<|channel|>commentary <|constrain|>json<|message|>",
        "<|channel|>commentary {} <|constrain|>json<|message|>",
        "<|channel|>{}<|channel|>commentary <|constrain|>json<|message|>",
        "<|channel|>{} <|constrain|>json<|message|>",
        "<|channel|>{}<|message|>",
    ]
)


@SETTINGS
@given(st.sampled_from(NAMES), cases, prefixes, suffixes, places)
def test_a_name_near_to_a_declared_one_is_that(
    name: str, case: Any, prefix: str, suffix: str, place: str
) -> None:
    written = f"{prefix}{case(name)}{suffix}"
    # The built-in tool of this name may be meant, if nothing says that it is not.
    assume(written != "python" or "json" in place)
    arguments = '{"c":"x"}'
    _, result = both_ways(f"{place.format(written)}{arguments}<|call|>", tools=TOOLS)
    (call,) = result.tool_calls
    assert (call.recipient, call.arguments) == (f"functions.{name}", arguments)
    assert (result.text, result.preamble, result.reasoning) == ("", "", "")
    is_right = written == f"functions.{name}" and " to=" in place
    assert bool(result.repairs) != is_right


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@SETTINGS
@given(
    words,
    st.sampled_from(["<|channel|>commentary to={}<|message|>", " to=functions.{}<|message|>"]),
)
def test_any_call_can_go_back_into_the_history(word: str, place: str) -> None:
    assume("<|" not in word)
    script = f"{place.format(word)}{{}}<|call|>"
    _, result = both_ways(script, tools=TOOLS)
    answers = [
        {"role": "tool", "tool_call_id": call.id, "content": "x"} for call in result.tool_calls
    ]
    prompt = prompt_of([*result.messages, *answers])
    for call in result.tool_calls:
        assert f" to={call.recipient} " in prompt
        assert call.arguments in prompt
    written = [call.recipient + call.arguments for call in result.tool_calls]
    written += [result.text, result.reasoning, result.preamble]
    written += [repair.text for repair in result.repairs]
    written += [message.content_type or "" for message in result.harmony_messages]
    for piece in re.split(r"[\s{]+", word):  # a brace ends a recipient
        assert any(piece in text for text in written), (piece, result)


# -- pairs -------------------------------------------------------------------------------


@SETTINGS
@given(st.data(), st.lists(st.sampled_from([None, "", "a", "b", "c"]), min_size=1, max_size=6))
def test_answers_stay_with_their_calls_and_in_order(data: st.DataObject, ids: list[Any]) -> None:
    calls = [
        {"function": {"name": "w", "arguments": f"~call {i}~"}} | ({} if x is None else {"id": x})
        for i, x in enumerate(ids)
    ]
    # Where ids tell the calls apart answers may come in any order, else they are in order.
    order = list(range(len(ids)))
    if len(set(ids)) == len(ids) and None not in ids and "" not in ids:
        order = data.draw(st.permutations(order))
    answers = [
        {"role": "tool", "content": f"~answer {i}~"}
        | ({} if ids[i] is None else {"tool_call_id": ids[i]})
        for i in order
    ]
    messages: list[Any] = [*USER]
    if data.draw(st.booleans()):
        messages.append({"role": "assistant", "tool_calls": calls})
    else:
        messages += [{"role": "assistant", "tool_calls": [call]} for call in calls]
    prompt = prompt_of([*messages, *answers])
    expected = [f"~{kind} {i}~" for i in range(len(ids)) for kind in ("call", "answer")]
    places = [prompt.index(mark) for mark in expected]
    assert places == sorted(places)
    assert prompt.count("~answer") == len(ids)


@SETTINGS
@given(st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=6))
def test_answers_to_one_call_stay_in_order(ids: list[str]) -> None:
    calls = [{"id": x, "function": {"name": "w", "arguments": "{}"}} for x in "ab"]
    answers = [{"role": "tool", "tool_call_id": x, "content": f"~{i}~"} for i, x in enumerate(ids)]
    prompt = prompt_of([*USER, {"role": "assistant", "tool_calls": calls}, *answers])
    expected = [i for x in "ab" for i, other in enumerate(ids) if other == x]
    places = [prompt.index(f"~{i}~") for i in expected]
    assert places == sorted(places)


# -- all of it together ------------------------------------------------------------------

fragments = st.sampled_from(
    [
        *("<|start|>assistant", "<|channel|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>"),
        *("<|constrain|>json", "analysis", "final", "commentary", "finale", "thought", "answer"),
        *("bash", "functions.bash", " to=bash", " to=functions.get_weather", " to=python", " code"),
        *('{"name":"bash","arguments":{"c":"x"}}', '{"c":1}', "é", "😀", "?", "x", "<|start|>user"),
    ]
)


@SETTINGS
@given(st.lists(fragments, min_size=1, max_size=14).map("".join))
def test_any_markup(script: str) -> None:
    tokens = ENCODING.encode(script, allowed_special="all")
    _, result = both_ways(script, tools=TOOLS, max_tokens=len(tokens), logprobs=0)
    choice = result.to_openai()["choices"][0]
    content = (choice["message"]["content"] or "").replace("\n\n", "").replace(" ", "")
    scored = b"".join(bytes(entry["bytes"]) for entry in choice["logprobs"]["content"])
    assert scored.decode().replace(" ", "") == content
    answers = [
        {"role": "tool", "tool_call_id": call["id"], "content": "x"}
        for call in result.message.get("tool_calls", [])
    ]
    prompt_of([*result.messages, *answers])
    prompt_of([*USER, *result.harmony_messages])
    prompt_of([*USER, choice["message"]])
