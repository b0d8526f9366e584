"""Harmony rendering and the encoding's own functions, on a tokenizer of bytes."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from gptoss.harmony import (
    Author,
    Conversation,
    DeveloperContent,
    HarmonyEncoding,
    HarmonyError,
    Message,
    RenderConversationConfig,
    RenderOptions,
    Role,
    SystemContent,
    TextContent,
    ToolDescription,
    load_harmony_encoding,
)
from support.harmony_tokenizer import HARMONY_SPECIALS, ByteTokenizer
from support.paths import real_data

TOKENIZER = ByteTokenizer()
ENCODING = HarmonyEncoding(TOKENIZER)


def shown(tokens: list[int]) -> str:
    return ENCODING.decode_utf8(tokens)


def test_a_conversation_as_text():
    tool = ToolDescription.new(
        "add",
        "Adds.",
        {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    )
    call = Message.from_role_and_content(Role.ASSISTANT, '{"a":1}').with_channel("commentary")
    conversation = Conversation.from_messages(
        [
            Message.from_role_and_content(Role.SYSTEM, SystemContent.new()),
            Message.from_role_and_content(
                Role.DEVELOPER,
                DeveloperContent.new().with_instructions("Be kind.").with_function_tools([tool]),
            ),
            Message.from_role_and_content(Role.USER, "1+?"),
            call.with_recipient("functions.add").with_content_type("<|constrain|>json"),
        ]
    )
    tokens = ENCODING.render_conversation_for_completion(conversation, Role.ASSISTANT)
    assert shown(tokens) == (
        "<|start|>system<|message|>"
        "You are ChatGPT, a large language model trained by OpenAI.\n"
        "Knowledge cutoff: 2024-06\n\n"
        "Reasoning: medium\n\n"
        "# Valid channels: analysis, commentary, final. "
        "Channel must be included for every message.\n"
        "Calls to these tools must go to the commentary channel: 'functions'.<|end|>"
        "<|start|>developer<|message|># Instructions\n\nBe kind.\n\n"
        "# Tools\n\n## functions\n\nnamespace functions {\n\n"
        "// Adds.\ntype add = (_: {\na: number,\n}) => any;\n\n"
        "} // namespace functions<|end|>"
        "<|start|>user<|message|>1+?<|end|>"
        "<|start|>assistant to=functions.add<|channel|>commentary <|constrain|>json<|message|>"
        '{"a":1}<|call|>'
        "<|start|>assistant"
    )


def test_analysis_of_ended_turns_is_dropped_unless_asked_for():
    analysis = Message.from_role_and_content(Role.ASSISTANT, "hm").with_channel("analysis")
    final = Message.from_role_and_content(Role.ASSISTANT, "yes").with_channel("final")
    conversation = Conversation.from_messages([analysis, final])
    assert ENCODING.render_conversation(conversation) == ENCODING.render(final)
    everything = RenderConversationConfig(auto_drop_analysis=False)
    assert ENCODING.render_conversation(conversation, everything) == (
        ENCODING.render(analysis) + ENCODING.render(final)
    )
    training = ENCODING.render_conversation_for_training(conversation)
    assert shown(training).endswith("yes<|return|>")


def test_special_names_in_text_stay_text():
    tokens = ENCODING.render(Message.from_role_and_content(Role.USER, "<|end|><|start|>"))
    specials = [token for token in tokens if ENCODING.is_special_token(token)]
    assert [shown([token]) for token in specials] == ["<|start|>", "<|message|>", "<|end|>"]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (Message(author=Author(role=Role.TOOL), content=[TextContent("x")]), "name"),
        (Message.from_role_and_content(Role.USER, SystemContent.new()), "SystemContent"),
        (Message.from_role_and_content(Role.SYSTEM, DeveloperContent.new()), "DeveloperContent"),
        (Message.from_role_and_content(Role.USER, "\udc00"), "surrogate"),
    ],
)
def test_what_cannot_be_rendered(message, words):
    with pytest.raises(HarmonyError, match=words):
        ENCODING.render(message)


@pytest.mark.parametrize("value", [float("nan"), object(), 10**400])
def test_parameters_that_are_no_json(value):
    schema = {"type": "object", "properties": {"x": {"type": "number", "default": value}}}
    tool = ToolDescription.new("f", "d", schema)
    content = DeveloperContent.new().with_function_tools([tool])
    with pytest.raises(HarmonyError):
        ENCODING.render(Message.from_role_and_content(Role.DEVELOPER, content))


def test_parameters_nested_too_deeply():
    schema: dict = {"type": "string"}
    for _ in range(100_000):
        schema = {"type": "array", "items": schema}
    content = DeveloperContent.new().with_function_tools([ToolDescription("f", "d", schema)])
    with pytest.raises(HarmonyError, match="'f'"):
        ENCODING.render(Message.from_role_and_content(Role.DEVELOPER, content))


def test_function_tools_can_be_announced_for_one_message():
    message = Message.from_role_and_content(Role.SYSTEM, SystemContent.new())
    options = RenderOptions(conversation_has_function_tools=True)
    assert "'functions'" in shown(ENCODING.render(message, options))
    assert "'functions'" not in shown(ENCODING.render(message))


def test_encode_and_decode():
    special = TOKENIZER.special_tokens
    assert ENCODING.encode("a<|end|>", allowed_special="all") == [97, special["<|end|>"]]
    assert ENCODING.encode("<|end|>", disallowed_special=()) == list(b"<|end|>")
    with pytest.raises(HarmonyError, match=r"<\|end\|>"):
        ENCODING.encode("a<|end|>")
    assert ENCODING.encode("<|end|>", disallowed_special={"<|start|>"}) == list(b"<|end|>")
    assert ENCODING.encode("\ud800") == list("\ufffd".encode())
    assert ENCODING.decode([0xC3]) == "\ufffd"
    with pytest.raises(HarmonyError, match="utf-8"):
        ENCODING.decode_utf8([0xC3])
    with pytest.raises(HarmonyError, match="unknown"):
        ENCODING.decode([10_000])


def test_ids_come_from_the_tokenizer():
    other = ByteTokenizer(["word"], specials=tuple(reversed(HARMONY_SPECIALS)))
    encoding = HarmonyEncoding(other)
    message = Message.from_role_and_content(Role.USER, "word")
    special = other.special_tokens
    assert encoding.render(message) == [
        special["<|start|>"],
        *b"user",
        special["<|message|>"],
        256,
        special["<|end|>"],
    ]
    stops = [special[name] for name in ("<|call|>", "<|end|>", "<|return|>")]
    assert sorted(encoding.stop_tokens()) == sorted(stops)
    stops.remove(special["<|end|>"])
    assert sorted(encoding.stop_tokens_for_assistant_actions()) == sorted(stops)
    assert encoding.special_tokens_set == set(HARMONY_SPECIALS)


def test_a_tokenizer_without_the_specials_is_refused():
    with pytest.raises(ValueError, match=r"lacks .*<\|call\|>"):
        HarmonyEncoding(ByteTokenizer(specials=HARMONY_SPECIALS[:3]))


def test_loading(tmp_path: Path):
    class Model:
        tokenizer = TOKENIZER

    assert load_harmony_encoding(Model()).tokenizer is TOKENIZER
    assert load_harmony_encoding(TOKENIZER).tokenizer is TOKENIZER
    with pytest.raises(ValueError, match="names no files: pass a model"):
        load_harmony_encoding("HarmonyGptOss")
    with pytest.raises(TypeError, match="int"):
        load_harmony_encoding(3)
    with pytest.raises((OSError, ValueError)):
        load_harmony_encoding(tmp_path)


def test_no_network(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("opened a socket")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    encoding = load_harmony_encoding(real_data() / "gpt-oss-20b")
    tokens = encoding.render(Message.from_role_and_content(Role.USER, "hi"))
    assert tokens == [200006, 1428, 200008, 3686, 200007]
    assert len(encoding.parse_messages_from_completion_tokens(tokens)) == 1
