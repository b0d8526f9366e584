"""The Harmony parser: what streaming shows, and what lenient mode repairs."""

from __future__ import annotations

import pytest

from gptoss.harmony import (
    HarmonyEncoding,
    HarmonyError,
    Repair,
    Role,
    StreamableParser,
    StreamState,
)
from support.harmony_tokenizer import HARMONY_SPECIALS, ByteTokenizer

TOKENIZER = ByteTokenizer(["assistant", "analysis", "commentary", "final", " to="])
ENCODING = HarmonyEncoding(TOKENIZER)


def tokens_of(text: str) -> list[int]:
    return TOKENIZER.encode(text, allowed_special=HARMONY_SPECIALS)


def parse(text: str, role: Role | None = Role.ASSISTANT) -> StreamableParser:
    parser = StreamableParser(ENCODING, role, strict=False)
    for token in tokens_of(text):
        parser.process(token)
    return parser.process_eos()


def shown(parser: StreamableParser) -> list[str]:
    """One line for each message: channel > recipient (content type) text."""
    return [
        f"{message.author.role.value}{':' + message.author.name if message.author.name else ''} "
        f"{message.channel or '-'}"
        f"{'>' + message.recipient if message.recipient else ''}"
        f"{'(' + message.content_type + ')' if message.content_type else ''} "
        f"{message.content[0].text!r}"
        for message in parser.messages
    ]


def test_streaming_a_turn():
    parser = StreamableParser(ENCODING, Role.ASSISTANT)
    assert parser.state is StreamState.HEADER
    assert parser.current_role is Role.ASSISTANT
    for token in tokens_of("<|channel|>final<|message|>"):
        assert parser.process(token).last_content_delta is None
    assert parser.state is StreamState.CONTENT
    assert parser.current_channel == "final"
    deltas = [parser.process(token).last_content_delta for token in "h\u00e9".encode()]
    assert deltas == ["h", None, "\u00e9"]
    assert parser.current_content == "h\u00e9"
    assert parser.messages == []
    parser.process(tokens_of("<|return|>")[0])
    assert parser.state is StreamState.EXPECT_START
    assert parser.current_role is parser.current_channel is None
    assert parser.current_content == ""
    assert [message.content[0].text for message in parser.messages] == ["h\u00e9"]


def test_strict_errors_say_what_is_wrong():
    for text, words in [
        ("x", "expected <\\|start\\|>"),
        ("<|start|><|message|>", "no role"),
        ("<|start|>robot<|message|>", "robot"),
        ("<|start|>assistant<|channel|><|message|>", "channel name"),
        ("<|start|>assistant a b c<|message|>", "too many words"),
    ]:
        parser = StreamableParser(ENCODING, None)
        tokens = tokens_of(text)
        for token in tokens[:-1]:
            parser.process(token)
        with pytest.raises(HarmonyError, match=words):
            parser.process(tokens[-1])
        assert parser.tokens == tokens
    parser = StreamableParser(ENCODING, Role.ASSISTANT)
    with pytest.raises(HarmonyError, match="end within a header"):
        parser.process_eos()


def test_a_token_must_be_an_integer():
    parser = StreamableParser(ENCODING, Role.ASSISTANT, strict=False)
    for value in ("a", 1.0, None):
        with pytest.raises(TypeError):
            parser.process(value)
    assert parser.tokens == []


# What the model wrote after "<|start|>assistant", what is read, and the kinds of repairs.
SLIPS = [
    # well-formed
    ("<|channel|>final<|message|>x<|return|>", ["assistant final 'x'"], []),
    (
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b",
        ["assistant analysis 'a'", "assistant final 'b'"],
        [],
    ),
    (
        "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>",
        ["assistant commentary>functions.f(<|constrain|>json) '{}'"],
        [],
    ),
    # the content type is no recipient
    (
        "<|channel|>final <|constrain|>json<|message|>{}<|return|>",
        ["assistant final(<|constrain|>json) '{}'"],
        [],
    ),
    # no <|message|>
    ("<|channel|>final Hello there<|return|>", ["assistant final 'Hello there'"], ["M"]),
    ("<|channel|>final\u00e9<|return|>", ["assistant final '\u00e9'"], ["M"]),
    ("Hello there<|return|>", ["assistant - 'Hello there'"], ["M"]),
    ("to be honest<|return|>", ["assistant - 'to be honest'"], ["M"]),
    (
        '<|channel|>commentary to=functions.f{"a":1}<|call|>',
        ["assistant commentary>functions.f '{\"a\":1}'"],
        ["M"],
    ),
    (
        '<|channel|>commentary to=functions.f <|constrain|>json{"a":1}<|call|>',
        ["assistant commentary>functions.f(<|constrain|>json) '{\"a\":1}'"],
        ["M"],
    ),
    (
        '<|channel|>commentary to=functions.f json {"a":1}<|call|>',
        ["assistant commentary>functions.f(json) '{\"a\":1}'"],
        ["M"],
    ),
    (
        "<|channel|>commentary to=functions.now<|call|>",
        ["assistant commentary>functions.now ''"],
        ["M"],
    ),
    (
        "<|channel|>analysis hm<|channel|>final<|message|>x",
        ["assistant analysis 'hm'", "assistant final 'x'"],
        ["M"],
    ),
    # no <|end|>, no <|start|>
    (
        "<|channel|>analysis<|message|>a<|channel|>final<|message|>b",
        ["assistant analysis 'a'", "assistant final 'b'"],
        ["E"],
    ),
    (
        "<|channel|>analysis<|message|>a<|start|>assistant<|channel|>final<|message|>b",
        ["assistant analysis 'a'", "assistant final 'b'"],
        ["E"],
    ),
    (
        "<|channel|>analysis<|message|>a<|end|><|channel|>final<|message|>b",
        ["assistant analysis 'a'", "assistant final 'b'"],
        ["S"],
    ),
    (
        "<|channel|>analysis<|message|>a<|end|>assistant<|channel|>final<|message|>b",
        ["assistant analysis 'a'", "assistant final 'b'"],
        ["S"],
    ),
    (
        "<|channel|>analysis<|message|>a<|end|>\n<|start|>assistant<|channel|>final<|message|>b",
        ["assistant analysis 'a'", "assistant final 'b'"],
        ["stray_text"],
    ),
    (
        "<|channel|>analysis<|message|>a<|end|>It is 4.<|return|>",
        ["assistant analysis 'a'", "assistant - 'It is 4.'"],
        ["S", "M"],
    ),
    ("<|channel|>final<|message|>x<|endoftext|>", ["assistant final 'x'"], ["E"]),
    # the header again
    (
        "<|start|>assistant<|channel|>final<|message|>x",
        ["assistant final 'x'"],
        ["unfinished_header"],
    ),
    ("assistant<|channel|>final<|message|>x", ["assistant final 'x'"], []),
    # channels
    (
        "<|channel|>analysis<|channel|>final<|message|>x",
        ["assistant final 'x'"],
        ["duplicate_channel"],
    ),
    ("<|channel|><|message|>x", ["assistant - 'x'"], ["bad_channel"]),
    ("<|channel|> final<|message|>x", ["assistant final 'x'"], ["bad_channel"]),
    ("<|channel|>Final<|message|>x", ["assistant final 'x'"], ["bad_channel"]),
    ("<|constrain|>final<|message|>x", ["assistant final 'x'"], ["bad_channel"]),
    ("assistantfinal<|message|>x", ["assistant final 'x'"], ["missing_channel"]),
    ("<|start|>assistant final<|message|>x", ["assistant final 'x'"], None),
    ("<|channel|>custom<|message|>x", ["assistant custom 'x'"], []),
    # recipients
    (
        "<|channel|>commentary <|constrain|>json to=functions.f<|message|>{}",
        ["assistant commentary>functions.f(<|constrain|>json) '{}'"],
        ["bad_recipient"],
    ),
    (
        "<|channel|>commentary functions.f <|constrain|>json<|message|>{}",
        ["assistant commentary>functions.f(<|constrain|>json) '{}'"],
        ["bad_recipient"],
    ),
    (
        "<|channel|>commentary to= functions.f<|message|>{}",
        ["assistant commentary>functions.f '{}'"],
        ["bad_recipient"],
    ),
    (
        " to=functions.f to=functions.g<|channel|>commentary<|message|>{}",
        ["assistant commentary>functions.f '{}'"],
        ["duplicate_recipient"],
    ),
    # words and special tokens that mean nothing
    ("<|channel|>final oh my god<|message|>x", ["assistant final 'x'"], ["header_text"]),
    (
        "<|channel|>final<|message|>a<|message|>b<|reserved_1|>c<|constrain|>d",
        ["assistant final 'abcd'"],
        ["stray_special"] * 3,
    ),
    ("<|channel|>final<|message|>a <|channel|> b", ["assistant final 'a  b'"], ["stray_special"]),
    ("<|channel|>final<|message|>a<|channel|>", ["assistant final 'a'"], ["stray_special"]),
    ("<|channel|>final<|message|>a<|end|><|end|>", ["assistant final 'a'"], ["stray_special"]),
    # truncated
    ("", [], []),
    ("<|channel|>", [], ["unfinished_header"]),
    ("<|channel|>ana", [], ["unfinished_header"]),
    ("<|channel|>final", [], ["unfinished_header"]),
    ("<|channel|>commentary to=functions.get_", [], ["unfinished_header"]),
    ("<|channel|>commentary to=functions.f js", [], ["unfinished_header"]),
    ("<|channel|>final<|message|>", ["assistant final ''"], []),
    ("<|channel|>final<|message|>Hel", ["assistant final 'Hel'"], []),
]
_SHORT = {"M": "missing_message", "E": "missing_end", "S": "missing_start"}


@pytest.mark.parametrize(("text", "messages", "kinds"), SLIPS)
def test_slips(text, messages, kinds):
    parser = parse(text)
    assert shown(parser) == messages
    if kinds is not None:
        expected = [_SHORT.get(kind, kind) for kind in kinds]
        assert [repair.kind for repair in parser.repairs] == expected


@pytest.mark.parametrize(
    ("text", "messages", "kinds"),
    [
        ("<|start|>user:alice<|message|>x<|end|>", ["user:alice - 'x'"], []),
        (
            "<|start|>functions.f to=assistant<|channel|>commentary<|message|>x<|end|>",
            ["tool:functions.f commentary>assistant 'x'"],
            [],
        ),
        (
            "<|start|>my_tool to=assistant<|channel|>commentary<|message|>x<|end|>",
            ["tool:my_tool commentary>assistant 'x'"],
            [],
        ),
        (
            "<|start|>functions.f<|channel|>commentary<|message|>x<|end|>",
            ["tool:functions.f commentary 'x'"],
            ["bad_role"],
        ),
        (
            "<|start|>asistant<|channel|>final<|message|>x",
            ["assistant final 'x'"],
            ["bad_role"],
        ),
        ("<|start|><|channel|>final<|message|>x", ["assistant final 'x'"], ["bad_role"]),
        ("<|start|>assistant Hello<|end|>", ["assistant - 'Hello'"], ["missing_message"]),
        ("<|start|>assistantHello<|end|>", ["assistant - 'Hello'"], ["missing_message"]),
        (
            "<|start|>users are many<|end|>",
            ["assistant - 'users are many'"],
            ["bad_role", "missing_message"],
        ),
        ("<|start|>assistant<|end|>", [], ["unfinished_header"]),
        (
            "<|start|>assistant Hello there<|channel|>final<|message|>x",
            ["assistant - 'Hello there'", "assistant final 'x'"],
            ["missing_message"],
        ),
        ("<|start|>assistantanalysis<|message|>x", ["assistant analysis 'x'"], ["missing_channel"]),
    ],
)
def test_slips_after_start(text, messages, kinds):
    parser = parse(text, None)
    assert shown(parser) == messages
    assert [repair.kind for repair in parser.repairs] == kinds


def test_a_repair_says_where_and_what():
    parser = parse("<|channel|>final<|message|>a<|message|>b<|channel|>")
    assert parser.repairs == [
        Repair("stray_special", 4, "<|message|>"),
        Repair("stray_special", 6, "<|channel|>"),
    ]


def test_an_unknown_id_is_left_out():
    parser = StreamableParser(ENCODING, Role.ASSISTANT, strict=False)
    for token in [*tokens_of("<|channel|>final<|message|>a"), 10_000, *tokens_of("b<|return|>")]:
        parser.process(token)
    assert shown(parser) == ["assistant final 'ab'"]
    assert parser.repairs == [Repair("unknown_token", 4, "10000")]


def test_a_header_that_never_ends_begins_to_stream():
    parser = StreamableParser(ENCODING, Role.ASSISTANT, strict=False)
    text = "the answer in many words " * 20
    streamed = ""
    for count, token in enumerate(tokens_of("<|channel|>final " + text)):
        parser.process(token)
        streamed += parser.last_content_delta or ""
        if count > 70:
            assert parser.state is StreamState.CONTENT
            assert parser.current_channel == "final"
    assert streamed == text


def test_plain_text_without_a_header_streams_at_once():
    parser = StreamableParser(ENCODING, Role.ASSISTANT, strict=False)
    deltas = [parser.process(token).last_content_delta for token in tokens_of("Hi you")]
    assert deltas == ["H", "i", " ", "y", "o", "u"]


def test_the_token_that_ends_a_message_may_bring_its_last_delta():
    parser = StreamableParser(ENCODING, Role.ASSISTANT, strict=False)
    for token in [*tokens_of("<|channel|>final<|message|>a"), 0xF0, 0x9F]:
        parser.process(token)
    parser.process(tokens_of("<|return|>")[0])
    assert parser.last_content_delta == "\ufffd"
    assert parser.messages[-1].content[0].text == "a\ufffd"
