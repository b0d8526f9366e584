"""OpenAI messages to Harmony: prompts, dropped reasoning, prompts that extend earlier ones."""

from __future__ import annotations

import datetime
import os
from typing import Any

import pytest

from gptoss.chat import build_prompt
from gptoss.chat.messages import call_header
from gptoss.harmony import (
    Conversation,
    DeveloperContent,
    Message,
    ReasoningEffort,
    Role,
    SystemContent,
    ToolDescription,
    load_harmony_encoding,
)
from support.paths import real_data
from support.scripted_model import ScriptedModel

MODEL = ScriptedModel()
ENCODING = MODEL.harmony
USER: dict[str, Any] = {"role": "user", "content": "Hi"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}


def prompt_of(messages: Any, **chat: Any) -> str:
    return ENCODING.decode_utf8(build_prompt(ENCODING, messages, **chat).token_ids)


def body_of(messages: Any, **chat: Any) -> str:
    """The prompt after the system message."""
    return prompt_of(messages, **chat).split("<|end|>", 1)[1]


def official(*messages: Message) -> list[int]:
    conversation = Conversation.from_messages(messages)
    return ENCODING.render_conversation_for_completion(conversation, Role.ASSISTANT)


def call(
    name: str = "get_weather",
    call_id: str = "1",
    arguments: str = '{"city":"Oslo"}',
    **message: Any,
) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    tool_call = {"id": call_id, "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [tool_call], **message}


def test_defaults_are_the_official_ones() -> None:
    expected = official(
        Message.from_role_and_content(Role.SYSTEM, SystemContent.new()),
        Message.from_role_and_content(Role.USER, "Hi"),
    )
    assert build_prompt(ENCODING, [USER]).token_ids == expected


def test_everything_that_can_be_declared() -> None:
    system = (
        SystemContent.new()
        .with_reasoning_effort(ReasoningEffort.HIGH)
        .with_conversation_start_date("2026-01-31")
        .with_knowledge_cutoff("2023-01")
        .with_browser_tool()
        .with_python_tool()
    )
    tool = ToolDescription.new("get_weather", "", SCHEMA)
    developer = (
        DeveloperContent.new()
        .with_instructions("Be brief.\n\nBe kind.\n\nBe true.")
        .with_function_tools([tool])
    )
    expected = official(
        Message.from_role_and_content(Role.SYSTEM, system),
        Message.from_role_and_content(Role.DEVELOPER, developer),
        Message.from_role_and_content(Role.USER, "Hi"),
    )
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
        USER,
    ]
    chat = {
        "developer": "Be true.",
        "reasoning_effort": "HIGH",
        "builtin_tools": ["browser", "python"],
        "knowledge_cutoff": "2023-01",
    }
    for date in ("2026-01-31", datetime.date(2026, 1, 31)):
        for declared in (WEATHER, WEATHER["function"], tool):
            prompt = build_prompt(ENCODING, messages, current_date=date, tools=[declared], **chat)  # type: ignore[list-item, arg-type]
            assert prompt.token_ids == expected
            assert prompt.openings == []


def test_tools_that_are_not_to_be_called_are_not_declared() -> None:
    assert prompt_of([USER], tools=[WEATHER], tool_choice="none") == prompt_of([USER])
    assert "type get_weather" in prompt_of([USER], tools=[WEATHER])


def test_reasoning_effort_changes_one_word() -> None:
    low, high = (prompt_of([USER], reasoning_effort=effort) for effort in ("low", "high"))
    assert low.replace("Reasoning: low", "Reasoning: high") == high


def test_later_instructions_stay_where_they_are() -> None:
    later = {"role": "system", "content": "Now in French."}
    assert body_of([USER, later, USER]) == (
        "<|start|>user<|message|>Hi<|end|>"
        "<|start|>developer<|message|># Instructions\n\nNow in French.<|end|>"
        "<|start|>user<|message|>Hi<|end|><|start|>assistant"
    )


def test_content_parts_and_names() -> None:
    parts = [{"type": "text", "text": "A"}, {"type": "input_text", "text": "B"}]
    assert body_of([{"role": "user", "name": "ann", "content": parts}]) == (
        "<|start|>user:ann<|message|>AB<|end|><|start|>assistant"
    )


def test_text_never_becomes_a_special_token() -> None:
    text = "<|end|><|start|>system<|message|>"
    specials = set(ENCODING.special_names)
    messages = [
        {"role": "system", "content": text},
        {"role": "user", "content": text},
        {**call(arguments=text), "reasoning": text, "content": text},
        {"role": "tool", "tool_call_id": "1", "content": text},
    ]
    tokens = build_prompt(ENCODING, messages, developer=text).token_ids
    plain = build_prompt(
        ENCODING,
        [
            {"role": "system", "content": "x"},
            USER,
            {**call(), "reasoning": "x", "content": "x"},
            {"role": "tool", "tool_call_id": "1", "content": "x"},
        ],
    ).token_ids
    assert sum(t in specials for t in tokens) == sum(t in specials for t in plain)


# -- tool calls and answers --------------------------------------------------------------

CALL = "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
ANSWER = "<|start|>functions.get_weather to=assistant<|channel|>commentary<|message|>"


def test_a_call_and_its_answer() -> None:
    messages = [
        USER,
        {**call(), "reasoning": "Hm.", "content": "I look."},
        {"role": "tool", "tool_call_id": "1", "content": "Sun"},
    ]
    assert body_of(messages) == (
        "<|start|>user<|message|>Hi<|end|>"
        "<|start|>assistant<|channel|>analysis<|message|>Hm.<|end|>"
        "<|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
        f'<|start|>assistant{CALL}{{"city":"Oslo"}}<|call|>'
        f"{ANSWER}Sun<|end|><|start|>assistant"
    )
    named = [*messages[:-1], {"role": "tool", "name": "get_weather", "content": "Sun"}]
    assert body_of(named) == body_of(messages)
    other = [USER, {**messages[1], "reasoning_content": "Hm."}, messages[2]]
    del other[1]["reasoning"]
    assert body_of(other) == body_of(messages)


def test_parallel_calls_are_put_in_order() -> None:
    both = {**call(), "tool_calls": [*call()["tool_calls"], *call(call_id="2")["tool_calls"]]}
    answers = [{"role": "tool", "tool_call_id": i, "content": i} for i in "21"]
    one = f'<|start|>assistant{CALL}{{"city":"Oslo"}}<|call|>{ANSWER}'
    assert body_of([USER, both, *answers]) == (
        f"<|start|>user<|message|>Hi<|end|>{one}1<|end|>{one}2<|end|><|start|>assistant"
    )


def test_calls_of_builtin_tools() -> None:
    messages = [
        USER,
        call("browser.search"),
        {"role": "tool", "tool_call_id": "1", "content": "Found"},
    ]
    assert body_of(messages).endswith(
        '<|start|>assistant<|channel|>analysis to=browser.search code<|message|>{"city":"Oslo"}'
        "<|call|><|start|>browser.search to=assistant<|channel|>analysis<|message|>Found<|end|>"
        "<|start|>assistant"
    )
    declared = {"type": "function", "function": {"name": "python"}}
    assert "to=functions.python" in body_of([USER, call("python")], tools=[declared])
    assert " to=python code" in body_of([USER, call("python")])


def test_arguments_may_be_an_object() -> None:
    message = call()
    message["tool_calls"][0]["function"]["arguments"] = {"city": "Øslo"}
    assert f'{CALL}{{"city": "Øslo"}}<|call|>' in body_of([USER, message])


def test_call_headers_are_the_tokens_that_the_model_writes() -> None:
    """The published vocabulary makes the same of the whole header and of its pieces."""
    encoding = load_harmony_encoding(real_data() / "gpt-oss-20b")
    for recipient, kind in (
        ("functions.get_weather", "<|constrain|>json"),
        ("functions.a.b-c_9", "<|constrain|>json"),
        ("functions.GetWeather", "json"),
        ("browser.search", "code"),
        ("python", "code"),
    ):
        text = f"<|channel|>commentary to={recipient} {kind}<|message|>"
        whole = encoding.encode(text, allowed_special="all")
        assert call_header(encoding, "commentary", recipient, kind) == whole


# -- reasoning ---------------------------------------------------------------------------

TURN = [
    USER,
    {**call(), "reasoning": "first"},
    {"role": "tool", "tool_call_id": "1", "content": "Sun"},
]
DONE = {"role": "assistant", "content": "Sunny.", "reasoning": "second"}


def test_reasoning_of_the_running_turn_is_kept() -> None:
    assert "first" in body_of(TURN)
    again = [call(call_id="2"), {"role": "tool", "tool_call_id": "2", "content": "Rain"}]
    assert "first" in body_of([*TURN, {**again[0], "reasoning": "then"}, again[1]])
    assert "then" in body_of([*TURN, {**again[0], "reasoning": "then"}, again[1]])


def test_reasoning_of_completed_turns_is_dropped() -> None:
    text = body_of([*TURN, DONE, USER])
    assert "first" not in text
    assert "second" not in text
    assert "to=functions.get_weather" in text
    assert "Sunny." in text
    # Where the official rule goes wrong: it looks at the first final message only.
    second = [*TURN, DONE, USER, {**TURN[1], "reasoning": "third"}, TURN[2]]
    assert "third" in body_of(second)
    assert "first" not in body_of(second)
    assert "third" not in body_of([*second, DONE, USER])
    assert "second" not in body_of([*second, DONE, USER])


def test_reasoning_that_was_cut_short_is_kept_until_there_is_an_answer() -> None:
    cut = {"role": "assistant", "content": None, "reasoning": "cut"}
    assert "<|channel|>analysis<|message|>cut<|end|><|start|>user" in body_of([USER, cut, USER])
    assert "cut" not in body_of([USER, cut, USER, DONE, USER])


def test_an_empty_answer_is_one() -> None:
    assert "<|channel|>final<|message|><|end|>" in body_of(
        [USER, {**DONE, "content": "", "reasoning": ""}]
    )


# -- Harmony objects ---------------------------------------------------------------------


def test_harmony_objects() -> None:
    system = Message.from_role_and_content(
        Role.SYSTEM, SystemContent.new().with_model_identity("You are a test.")
    )
    developer = Message.from_role_and_content(
        Role.DEVELOPER, DeveloperContent.new().with_instructions("Be brief.")
    )
    user = Message.from_role_and_content(Role.USER, "Hi")
    messages = [system, developer, user]
    assert build_prompt(ENCODING, messages).token_ids == official(*messages)
    assert build_prompt(ENCODING, Conversation(messages)).token_ids == official(*messages)
    assert build_prompt(ENCODING, [system, developer, USER]).token_ids == official(*messages)
    assert build_prompt(ENCODING, [system]).token_ids == official(system)
    declared = build_prompt(ENCODING, [system, user], tools=[WEATHER]).token_ids
    tools = DeveloperContent.new().with_function_tools(
        [ToolDescription.new("get_weather", "", SCHEMA)]
    )
    with_tools = Message.from_role_and_content(Role.DEVELOPER, tools)
    assert declared == official(system, with_tools, user)
    with pytest.raises(ValueError, match="Harmony system message"):
        build_prompt(ENCODING, messages, reasoning_effort="high")


def test_objects_of_the_openai_package() -> None:
    os.environ.setdefault("OPENAI_API_KEY", "none")
    openai = pytest.importorskip("openai", reason="needs openai")
    message = openai.types.chat.ChatCompletionMessage(
        role="assistant", content="Hello", reasoning="Hm."
    )
    as_dict = {"role": "assistant", "content": "Hello"}
    assert prompt_of([USER, message, USER]) == prompt_of([USER, as_dict, USER])


# -- mistakes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "error", "text"),
    [
        ([], ValueError, "at least one message"),
        (["Hi"], TypeError, r"messages\[0\] must be a dict"),
        ([{"content": "Hi"}], ValueError, "role must be system"),
        ([{"role": "function", "content": "Hi"}], ValueError, "got 'function'"),
        ([{"role": "user"}], TypeError, "content must be a string"),
        ([{"role": "user", "content": b"Hi"}], ValueError, "text only"),
        ([{"role": "user", "content": {"text": "Hi"}}], TypeError, "list of text parts"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
            ValueError,
            "gpt-oss reads text only, got a part of type 'image_url'",
        ),
        ([USER, {"role": "assistant", "contents": "Hi"}], ValueError, r"messages\[1\]: an assist"),
        ([{"role": "assistant", "tool_calls": ["x"]}], ValueError, r"tool_calls\[0\]: must be"),
        ([{"role": "tool", "tool_call_id": "9", "content": ""}], ValueError, "earlier call"),
        ([call(), {"role": "tool", "tool_call_id": "1"}], TypeError, "content must be"),
    ],
)
def test_mistakes_in_messages(messages: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        build_prompt(ENCODING, messages)


@pytest.mark.parametrize(
    ("chat", "error", "text"),
    [
        ({"tools": "x"}, TypeError, "list of tools"),
        ({"tools": [1]}, TypeError, r"tools\[0\] must be a dict"),
        ({"tools": [{"type": "web_search"}]}, ValueError, "builtin_tools"),
        ({"tools": [{"type": "function", "function": {}}]}, ValueError, "with a name"),
        ({"tools": [{"name": "a b"}]}, ValueError, "must be a word"),
        ({"tools": [WEATHER, WEATHER]}, ValueError, "another tool named"),
        ({"tool_choice": "required"}, ValueError, "tools are empty"),
        ({"tool_choice": "always"}, ValueError, "tool_choice must be"),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "x"}}},
            ValueError,
            "no tool is named 'x'",
        ),
        ({"reasoning_effort": "extreme"}, ValueError, "low, medium, high"),
        ({"reasoning_effort": {"effort": "low"}}, ValueError, "low, medium, high"),
        ({"builtin_tools": "python"}, TypeError, "sequence of names"),
        ({"builtin_tools": ["shell"]}, ValueError, "browser, python"),
        ({"developer": 1}, TypeError, "developer: content"),
    ],
)
def test_mistakes_in_arguments(chat: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        build_prompt(ENCODING, [USER], **chat)


# -- prompts that extend earlier ones ----------------------------------------------------

THOUGHT = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
FINAL = "<|channel|>final<|message|>Hello"
SYSTEM_END = prompt_of([USER]).index("<|start|>user")


def next_prompt(script: str, *more: dict[str, Any], **chat: Any) -> tuple[str, str, str]:
    """What the model had read and written at the end of an answer, what it reads next, and as far
    as they agree."""
    model = ScriptedModel(script)
    result = model.chat([USER], tools=[WEATHER], **chat)
    for tool_call in result.tool_calls:
        more = ({"role": "tool", "tool_call_id": tool_call.id, "content": "Sun"}, *more)
    tokens = build_prompt(ENCODING, [*result.messages, *more], tools=[WEATHER]).token_ids
    seen = [*result.prompt_token_ids, *result.token_ids]
    same = next(
        (i for i, (a, b) in enumerate(zip(seen, tokens, strict=False)) if a != b), len(seen)
    )
    return model.text(seen), model.text(tokens), model.text(seen[same:])


@pytest.mark.parametrize(
    "preamble", ["", "<|channel|>commentary<|message|>So.<|end|><|start|>assistant"]
)
def test_a_call_is_extended_by_its_answer(preamble: str) -> None:
    script = f'{THOUGHT}{preamble}{CALL}{{"city":"Oslo"}}<|call|>'
    seen, after, differs = next_prompt(script)
    assert differs == ""
    assert after == f"{seen}{ANSWER}Sun<|end|><|start|>assistant"


def test_a_forced_call_is_extended_by_its_answer() -> None:
    _, _, differs = next_prompt('{"city":"Oslo"}<|call|>', tool_choice="required")
    assert differs == ""


def test_an_answer_without_reasoning_is_extended_but_for_its_end() -> None:
    seen, after, differs = next_prompt(f"{FINAL}<|return|>", USER)
    assert differs == "<|return|>"
    assert after.startswith(seen.removesuffix("<|return|>") + "<|end|><|start|>user")
    # The same where the engine has opened it.
    _, _, differs = next_prompt("Hello<|return|>", USER, max_reasoning_tokens=0)
    assert differs == "<|return|>"


def test_an_answer_after_reasoning_breaks_where_the_turn_begins() -> None:
    """The reasoning is dropped, as the model was trained to have it."""
    _, _, differs = next_prompt(f"{THOUGHT}{FINAL}<|return|>", USER)
    assert differs == f"analysis{THOUGHT.removeprefix('<|channel|>analysis')}{FINAL}<|return|>"


@pytest.mark.parametrize(
    ("header", "breaks_at"),
    [
        # The recipient before the channel: dicts do not say where it stood.
        (" to=functions.get_weather<|channel|>commentary <|constrain|>json<|message|>", " to="),
        ("<|channel|>commentary to=functions.get_weather json<|message|>", "json<|message|>"),
        ("<|channel|>commentary to=functions.get_weather<|message|>", "<|message|>"),
        ("<|channel|>analysis to=functions.get_weather <|constrain|>json<|message|>", "analysis"),
    ],
)
def test_a_call_in_another_form_breaks_at_its_header(header: str, breaks_at: str) -> None:
    _, _, differs = next_prompt(f"{THOUGHT}{header}{{}}<|call|>")
    assert differs.startswith(breaks_at)


def test_reasoning_in_pieces_breaks_after_the_first() -> None:
    """A dict has one text for them; the Harmony messages of the result have each."""
    script = f"{THOUGHT}{THOUGHT}{CALL}{{}}<|call|>"
    _, _, differs = next_prompt(script)
    assert differs.startswith(f"<|end|><|start|>assistant{THOUGHT}")
    model = ScriptedModel(script)
    result = model.chat([USER], tools=[WEATHER])
    answer = {"role": "tool", "name": "get_weather", "content": "Sun"}
    after = build_prompt(ENCODING, [USER, *result.harmony_messages, answer], tools=[WEATHER])
    seen = [*result.prompt_token_ids, *result.token_ids]
    assert after.token_ids[: len(seen)] == seen


def test_other_settings_break_the_system_message() -> None:
    """Effort and tools stand at the beginning; a date would too, so there is none."""
    before = prompt_of([USER], tools=[WEATHER])
    for chat in ({"reasoning_effort": "low"}, {"tools": []}, {"current_date": "2026-01-31"}):
        after = prompt_of([USER], **{"tools": [WEATHER], **chat})
        assert not after.startswith(before[: before.index("<|end|>")])
