"""What carries meaning is never dropped in silence: messages, parts, calls and tools."""

from __future__ import annotations

from typing import Any

import pytest

from gptoss.chat import build_prompt
from gptoss.harmony import (
    DeveloperContent,
    Message,
    Role,
    SystemContent,
    ToolDescription,
    ToolNamespaceConfig,
)
from support.answers import USER
from support.scripted_model import ScriptedModel

ENCODING = ScriptedModel().harmony
START = "<|start|>assistant"
HI = "<|start|>user<|message|>Hi<|end|>"
CALL = f"{START}<|channel|>commentary to=functions.w <|constrain|>json<|message|>"
RESULT = "<|start|>functions.w to=assistant<|channel|>commentary<|message|>20<|end|>"
TOOL_CALL = {"id": "c1", "type": "function", "function": {"name": "w", "arguments": "{}"}}
SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}}


def body_of(*messages: Any, **chat: Any) -> str:
    """The prompt after the system message, from the first of these messages on."""
    prompt = build_prompt(ENCODING, [*USER, *messages], **chat).token_ids
    return ENCODING.decode_utf8(prompt).split("<|end|>", 1)[1].removeprefix(HI)


def assistant(**fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, **fields}


def said(channel: str, text: str) -> str:
    return f"{START}<|channel|>{channel}<|message|>{text}<|end|>"


def harmony(text: str, channel: str, recipient: str | None = None) -> Message:
    message = Message.from_role_and_content(Role.ASSISTANT, text).with_channel(channel)
    return message if recipient is None else message.with_recipient(recipient)


# -- messages ----------------------------------------------------------------------------


def test_dicts_of_harmony_are_what_they_say() -> None:
    messages = [
        harmony("secret plan", "analysis"),
        harmony("I look.", "commentary"),
        harmony('{"c":"x"}', "commentary", "functions.w").with_content_type("<|constrain|>json"),
        Message.from_dict({"role": "tool", "name": "functions.w", "content": "20"})
        .with_channel("commentary")
        .with_recipient("assistant"),
    ]
    expected = body_of(*messages)
    assert expected == (
        said("analysis", "secret plan")
        + said("commentary", "I look.")
        + f'{CALL}{{"c":"x"}}<|call|>{RESULT}{START}'
    )
    assert body_of(*(message.to_dict() for message in messages)) == expected


def test_dicts_of_harmony_contents() -> None:
    system = SystemContent.new().with_model_identity("You are a test.").with_python_tool()
    tools = [ToolDescription.new("f", "", SCHEMA)]
    developer = DeveloperContent.new().with_instructions("Be.").with_function_tools(tools)
    messages = [
        Message.from_role_and_content(Role.SYSTEM, system),
        Message.from_role_and_content(Role.DEVELOPER, developer),
        Message.from_role_and_content(Role.USER, "Hi"),
    ]
    dicts = [message.to_dict() for message in messages]
    expected = build_prompt(ENCODING, messages)
    assert build_prompt(ENCODING, dicts) == expected  # type: ignore[arg-type]
    assert expected.declared.functions == ("f",)
    assert expected.declared.builtin == ("python",)


def test_objects_of_openai_harmony() -> None:
    official = pytest.importorskip("openai_harmony", reason="needs openai-harmony")
    message = official.Message.from_role_and_content(official.Role.ASSISTANT, "secret plan")
    message = message.with_channel("analysis")
    assert body_of(message) == said("analysis", "secret plan") + START
    conversation = official.Conversation.from_messages([message])
    prompt = build_prompt(ENCODING, conversation).token_ids
    assert said("analysis", "secret plan") in ENCODING.decode_utf8(prompt)
    result = ScriptedModel("<|channel|>final<|message|>x<|return|>").chat(conversation)
    assert len(result.messages) == 2


DETAILS = [
    {"type": "reasoning.text", "text": "Oslo it is", "format": "x", "index": 0, "signature": None}
]


@pytest.mark.parametrize(
    "fields",
    [
        {"thinking": "Oslo it is"},
        {"reasoning": "Oslo it is"},
        {"reasoning_content": "Oslo it is"},
        {"reasoning_details": DETAILS},
        {"reasoning_details": [{"type": "reasoning.summary", "summary": "Oslo it is"}]},
        # the same, told more than once
        {"reasoning": "Oslo it is", "reasoning_content": "Oslo it is"},
        {"reasoning": "Oslo it is", "reasoning_details": DETAILS},
        {"content": [{"type": "thinking", "thinking": "Oslo it is", "signature": "s"}]},
        {"content": [{"type": "reasoning", "text": "Oslo it is"}]},
        {"thinking_blocks": [{"type": "thinking", "thinking": "Oslo it is", "signature": "s"}]},
    ],
)
def test_reasoning_under_any_name(fields: dict[str, Any]) -> None:
    answer = {"role": "tool", "tool_call_id": "c1", "content": "20"}
    assert body_of(assistant(**fields, tool_calls=[TOOL_CALL]), answer) == (
        said("analysis", "Oslo it is") + f"{CALL}{{}}<|call|>{RESULT}{START}"
    )


def test_different_reasoning_is_all_kept() -> None:
    message = assistant(reasoning="one", thinking="two")
    assert body_of(message) == said("analysis", "one\n\ntwo") + START


def test_refusals() -> None:
    no = "I can't help with that."
    expected = said("final", no) + HI + START
    assert body_of(assistant(refusal=no), *USER) == expected
    part = {"type": "refusal", "refusal": no}
    assert body_of(assistant(content=[part]), *USER) == expected
    both = body_of(assistant(content="So.", refusal=no))
    assert both == said("final", f"So.\n\n{no}") + START


def test_a_function_call_is_a_call() -> None:
    message = assistant(function_call={"name": "w", "arguments": "{}"})
    assert body_of(message, *USER) == f"{CALL}{{}}<|call|>{HI}{START}"
    answer = {"role": "tool", "name": "w", "content": "20"}
    assert body_of(message, answer) == f"{CALL}{{}}<|call|>{RESULT}{START}"
    with pytest.raises(ValueError, match="not both"):
        body_of(assistant(function_call=TOOL_CALL["function"], tool_calls=[TOOL_CALL]))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"content": None},
        {"content": None, "reasoning": "", "tool_calls": []},
        {"content": None, "refusal": None, "function_call": None, "id": "msg_1"},
    ],
)
def test_an_assistant_message_that_says_nothing_is_an_error(fields: dict[str, Any]) -> None:
    message = {"role": "assistant", **fields}
    with pytest.raises(ValueError, match=r"messages\[1\]: an assistant message must have"):
        body_of(message)


def test_an_answer_without_any_text_can_be_sent_back() -> None:
    model = ScriptedModel("<|return|>", "<|return|>")
    result = model.chat(USER)
    assert result.message == {"role": "assistant", "content": ""}
    model.chat([*result.messages, *USER])
    openai = result.to_openai()["choices"][0]["message"]
    assert build_prompt(ENCODING, [*USER, openai, *USER]).token_ids


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (assistant(content="x", chanel="analysis"), "'chanel'"),
        (assistant(contents="x"), r"'contents' \(did you mean content\?\)"),
        (assistant(content="x", tool_call=[TOOL_CALL]), r"'tool_call' \(did you mean tool_calls\?"),
        (assistant(content="x", thoughts="y"), "'thoughts'.*it may have role, content"),
        (assistant(content="x", images=["a"]), "'images'"),
        (assistant(content="x", audio={"id": "a"}), "'audio'"),
        (assistant(content="x", prefix=True), "'prefix'"),
        (assistant(content="x", channel="final", tool_calls=[TOOL_CALL]), "a Harmony message"),
        ({"role": "user", "content": "x", "images": ["a"]}, "a user message has a key .*'images'"),
        ({"role": "user", "content": "x", "text": "y"}, "'text'"),
        ({"role": "system", "content": "x", "instructions": "y"}, "'instructions'"),
        ({"role": "tool", "name": "w", "content": "x", "output": "y"}, "'output'"),
        (
            assistant(tool_calls=[{**TOOL_CALL, "args": {"a": 1}}]),
            r"tool_calls\[0\]: a tool call .*'args'",
        ),
        (
            assistant(tool_calls=[{"function": {"name": "w", "parameters": {"a": 1}}}]),
            r"tool_calls\[0\]\.function: a called function .*'parameters'",
        ),
        (assistant(tool_calls=[{"type": "custom", "function": {"name": "w"}}]), "type must be"),
        (assistant(reasoning_details=[{"type": "reasoning.encrypted", "data": "x"}]), "'data'"),
        (
            {"role": "user", "content": [{"type": "text", "text": "x", "image_url": "y"}]},
            "a content part .*'image_url'",
        ),
        ({"role": "user", "content": [{"type": "thinking", "thinking": "x"}]}, "parts of reas"),
        ({"role": "user", "content": [{"type": "text", "text": "x", "refusal": "y"}]}, "nothing e"),
    ],
)
def test_keys_that_are_not_understood(message: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        body_of(message)
    assert str(caught.value).startswith("messages[1]")


MEANINGLESS = {
    "id": "msg_1",
    "annotations": [{"type": "url_citation"}],
    "cache_control": {"type": "ephemeral"},
    "metadata": {"a": 1},
    "provider_specific_fields": {"a": 1},
    "created_at": 5,
    "finish_reason": "stop",
    "native_finish_reason": "STOP",
    "extra_content": {"google": {"thought_signature": "s"}},
    "session_id": "s",
    "client": "x",
    "_private": 1,
    "audio": None,
    "images": [],
    "prefix": False,
}


@pytest.mark.parametrize("key", MEANINGLESS)
def test_keys_that_mean_nothing_to_the_model_pass(key: str) -> None:
    extra = {key: MEANINGLESS[key]}
    part = {"type": "text", "text": "x"}
    call = {**TOOL_CALL, **({} if key == "id" else extra)}
    messages = [
        {"role": "system", "content": "Be."},
        {"role": "user", "content": [part]},
        {"role": "assistant", "content": [part], "tool_calls": [TOOL_CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": [part]},
    ]
    more = [
        {**messages[0], **extra},
        {"role": "user", "content": [{**part, **extra}], **extra},
        {"role": "assistant", "content": [{**part, **extra}], "tool_calls": [call], **extra},
        {"role": "tool", "tool_call_id": "c1", "content": [part], **extra},
    ]
    tool = {"name": "w", "description": "d", "parameters": SCHEMA}
    plain = build_prompt(ENCODING, messages, tools=[tool])
    assert build_prompt(ENCODING, more, tools=[{**tool, **extra}]) == plain


def test_a_message_may_say_that_it_is_one() -> None:
    said = assistant(content=[{"type": "output_text", "text": "x", "annotations": []}])
    assert body_of({**said, "type": "message", "id": "m", "status": "completed"}) == body_of(said)
    with pytest.raises(ValueError, match="not understood, 'type'"):
        body_of({**said, "type": "reasoning"})


def test_names_of_clients_pass_where_they_are_not_shown() -> None:
    named = assistant(content="x", name="My Client")
    assert body_of(named) == body_of(assistant(content="x"))


# -- tools -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tool",
    [
        {"name": "read", "description": "d", "parameters": SCHEMA},
        {"name": "read", "description": "d", "inputSchema": SCHEMA},
        {"name": "read", "description": "d", "input_schema": SCHEMA},
        {"name": "read", "description": "d", "inputSchema": SCHEMA, "title": "Read", "_meta": {}},
        {"type": "function", "name": "read", "description": "d", "parameters": SCHEMA},
        {
            "type": "function",
            "function": {"name": "read", "description": "d", "input_schema": SCHEMA},
        },
        {"name": "read", "description": "d", "inputSchema": SCHEMA, "outputSchema": {"a": 1}},
        {"name": "read", "description": "d", "inputSchema": SCHEMA, "parameters": SCHEMA},
    ],
)
def test_schemas_under_any_name(tool: dict[str, Any]) -> None:
    assert "// d\ntype read = (_: {\npath?: string,\n}) => any;" in body_of(tools=[tool])


@pytest.mark.parametrize(
    ("tool", "text"),
    [
        ({"name": "read", "schema": SCHEMA}, "a tool has a key .*'schema'"),
        ({"name": "read", "inputSchem": SCHEMA}, "did you mean inputSchema"),
        ({"name": "read", "args_schema": SCHEMA}, "'args_schema'"),
        ({"function": {"name": "read", "properties": SCHEMA}}, r"tools\[0\]\.function: .*'prop"),
        ({"function": {"name": "read"}, "parameters": SCHEMA}, "parameters must stand in its fun"),
        ({"name": "read", "parameters": SCHEMA, "inputSchema": {"type": "object"}}, "different"),
    ],
)
def test_keys_of_tools_that_are_not_understood(tool: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        body_of(tools=[tool])


def test_tools_of_a_namespace() -> None:
    tool = ToolDescription.new("exec", "Run.", SCHEMA)
    namespace = ToolNamespaceConfig("container", None, [tool])
    history = assistant(
        tool_calls=[{"id": "1", "function": {"name": "container.exec", "arguments": "{}"}}]
    )
    text = body_of(history, builtin_tools=[namespace])
    assert text.startswith(f"{START}<|channel|>analysis to=container.exec code<|message|>")
