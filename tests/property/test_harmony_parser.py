"""Properties of the Harmony parser, above all of the lenient one, on any token sequence."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import support.harmony_cases as cases
from gptoss.harmony import (
    Conversation,
    HarmonyEncoding,
    HarmonyError,
    Message,
    RenderConversationConfig,
    Role,
    StreamableParser,
    StreamState,
)
from support.harmony_tokenizer import HARMONY_SPECIALS, ByteTokenizer

# Words that no header has, so that each can be found again wherever it went.
PLAIN_WORDS = [f"~{letter}{i}" for letter in "ab" for i in range(4)]
HEADER_WORDS = ["assistant", "analysis", "commentary", "final", "fin", "al", " to=", "functions.f"]
TOKENIZER = ByteTokenizer([*PLAIN_WORDS, *HEADER_WORDS, "user", "json", ":", " hello", "é"])
ENCODING = HarmonyEncoding(TOKENIZER)
SPECIAL = TOKENIZER.special_tokens
SPECIAL_IDS = list(SPECIAL.values())
WORD_IDS = range(256, SPECIAL_IDS[0])
ROLES = [None, Role.ASSISTANT, Role.ASSISTANT, Role.TOOL]


def random_tokens(rng: random.Random) -> list[int]:
    """A sequence that is mostly headers, words and special tokens in any order."""
    tokens: list[int] = []
    for _ in range(rng.randrange(12)):
        kind = rng.random()
        if kind < 0.3:
            tokens.append(rng.choice(SPECIAL_IDS))
        elif kind < 0.4:
            tokens += TOKENIZER.encode(
                rng.choice(["assistant", "<|channel|>final<|message|>", "<|end|><|start|>"]),
                allowed_special=HARMONY_SPECIALS,
            )
        elif kind < 0.85:
            tokens += (rng.choice(WORD_IDS) for _ in range(rng.randrange(1, 5)))
        elif kind < 0.95:
            tokens += rng.choices(b" \n\t{\x85\xa0\xc3\xf0\x9f\x98\x80\xff<", k=3)
        else:
            tokens.append(rng.choice([rng.randrange(256), TOKENIZER.vocab_size, -1, 2**70]))
    return tokens


def check_lenient(tokens: list[int], role: Role | None) -> None:
    """Check all that lenient parsing promises of a sequence."""
    parser = StreamableParser(ENCODING, role, strict=False)
    texts: list[str] = []  # the deltas of each message
    current = ""
    # Plain bytes met in the content of each message, and where the last <|channel|> stood.
    contents: list[bytes] = []
    content = b""
    at_channel = 0
    for token in [*tokens, None]:
        before = parser.state
        count = len(parser.messages)
        if token is None:
            parser.process_eos()
        else:
            parser.process(token)
        delta = parser.last_content_delta or ""
        assert not any(name in delta for name in SPECIAL), delta

        if before is parser.state is StreamState.CONTENT and token is not None:
            if token == SPECIAL["<|channel|>"]:
                at_channel = len(content)
            elif 0 <= token < SPECIAL_IDS[0]:
                content += TOKENIZER.decode_bytes([token])
        elif (
            before is StreamState.CONTENT
            and parser.state is StreamState.HEADER
            and token != SPECIAL["<|start|>"]
        ):  # what was held back is the next header
            content = content[:at_channel]
        if len(parser.messages) > count:
            assert len(parser.messages) == count + 1
            if token == SPECIAL["<|message|>"]:  # it ends the header that was held back
                content = content[:at_channel]
            texts.append(current + delta)
            contents.append(content)
            current, content, delta, at_channel = "", b"", "", 0
        current += delta
        assert parser.current_content == current
    assert parser.state is StreamState.EXPECT_START
    assert current == ""

    messages = parser.messages
    assert [message.content[0].text for message in messages] == texts
    _check_bytes(parser, tokens, texts, contents)
    assert parser.tokens == tokens
    assert all(0 <= repair.index < max(1, len(tokens)) for repair in parser.repairs)

    whole = ENCODING.parse_messages_from_completion_tokens(tokens, role, strict=False)
    assert whole == messages
    _check_against_strict(parser, tokens, role)
    # What was parsed can be rendered, unless a tool has no name.
    for message in messages:
        if message.author.role is not Role.TOOL or message.author.name is not None:
            ENCODING.render(message)


def _check_bytes(
    parser: StreamableParser, tokens: list[int], texts: list[str], contents: list[bytes]
) -> None:
    """Content is kept byte for byte, and nothing that the model wrote vanishes unseen."""
    for text, content in zip(texts, contents, strict=True):
        kept = content.decode(errors="replace")
        # Before it may stand content that was found in the header.
        assert text.endswith(kept.lstrip("\ufffd")), (text, kept)
    shown = " ".join(
        [repr((m.author.name, m.channel, m.recipient, m.content_type)) for m in parser.messages]
        + texts
        + [repair.text for repair in parser.repairs]
    )
    for word in PLAIN_WORDS:
        written = tokens.count(256 + PLAIN_WORDS.index(word))
        assert shown.count(word) >= written, (word, parser.messages, parser.repairs)
    unknown = [str(t) for t in tokens if not 0 <= t < TOKENIZER.vocab_size]
    assert unknown == [r.text for r in parser.repairs if r.kind == "unknown_token"]


def _check_against_strict(parser: StreamableParser, tokens: list[int], role: Role | None) -> None:
    """Where nothing was repaired, the strict parser agrees, but for its own accidents."""
    if parser.repairs or any(b in tokens for b in b"\x85\xa0"):
        return
    try:
        strict = ENCODING.parse_messages_from_completion_tokens(tokens, role)
    except HarmonyError:
        strict = None
    if strict is None:
        named = any(message.author.name is not None for message in parser.messages)
        assert named or not tokens, tokens
        return
    for ours, theirs in zip(parser.messages, strict, strict=True):
        assert ours.content == theirs.content
        assert ours.channel == theirs.channel
        assert ours.author.role == theirs.author.role or ours.author.name is not None
        if ours.recipient is not None:
            assert ours.recipient == theirs.recipient


@pytest.mark.parametrize("part", range(4))
def test_lenient_parsing_of_random_tokens(part):
    rng = random.Random(part)
    for _ in range(1_500):
        check_lenient(random_tokens(rng), rng.choice(ROLES))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_lenient_parsing_of_100_000_random_sequences(part):
    rng = random.Random(f"slow {part}")
    for _ in range(10_000):
        check_lenient(random_tokens(rng), rng.choice(ROLES))


@settings(deadline=None, max_examples=300)
@given(
    tokens=st.lists(
        st.sampled_from(SPECIAL_IDS)
        | st.sampled_from(WORD_IDS)
        | st.integers(-1, TOKENIZER.vocab_size)
    ),
    role=st.sampled_from(ROLES),
)
def test_lenient_parsing_of_any_tokens(tokens, role):
    check_lenient(tokens, role)


@pytest.mark.parametrize("name", cases.SEQUENCES)
def test_lenient_parsing_of_hand_made_sequences(name):
    role, parts = cases.SEQUENCES[name]
    tokens = cases.to_tokens(parts, TOKENIZER.encode, SPECIAL)
    check_lenient(tokens, None if role is None else Role(role))


# -- well-formed conversations -----------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ["<|end|>", "<|start|>assistant<|message|>", " x", ""]
)


@st.composite
def turns(draw: st.DrawFn) -> Message:
    text = draw(texts)
    kind = draw(st.sampled_from(["user", "call", "tool", "analysis", "commentary", "final"]))
    if kind == "user":
        return Message.from_role_and_content(Role.USER, text)
    if kind == "tool":
        message = Message.from_dict({"role": "tool", "name": "functions.f", "content": text})
        return message.with_recipient("assistant").with_channel("commentary")
    message = Message.from_role_and_content(Role.ASSISTANT, text)
    if kind == "call":
        message = message.with_recipient("functions.f").with_channel("commentary")
        return message.with_content_type("<|constrain|>json") if draw(st.booleans()) else message
    return message.with_channel(kind)


@settings(deadline=None, max_examples=300)
@given(turns=st.lists(turns(), max_size=6))
def test_what_is_rendered_parses_back(turns):
    everything = RenderConversationConfig(auto_drop_analysis=False)
    tokens = ENCODING.render_conversation(Conversation.from_messages(turns), everything)
    for strict in (True, False):
        assert ENCODING.parse_messages_from_completion_tokens(tokens, strict=strict) == turns
    parser = StreamableParser(ENCODING, None, strict=False)
    for token in tokens:
        parser.process(token)
    assert parser.repairs == []


@settings(deadline=None, max_examples=200)
@given(turns=st.lists(turns(), min_size=1, max_size=4), data=st.data())
def test_a_truncated_completion_yields_what_there_is(turns, data):
    everything = RenderConversationConfig(auto_drop_analysis=False)
    tokens = ENCODING.render_conversation(Conversation.from_messages(turns), everything)
    length = data.draw(st.integers(0, len(tokens)))
    parsed = ENCODING.parse_messages_from_completion_tokens(tokens[:length], strict=False)
    complete = sum(token in ENCODING.stop_tokens() for token in tokens[:length])
    assert parsed[:complete] == turns[:complete]
    assert len(parsed) <= complete + 1
    if len(parsed) > complete:
        whole = turns[complete]
        assert parsed[-1].channel == whole.channel
        assert parsed[-1].recipient == whole.recipient
        assert whole.content[0].text.startswith(parsed[-1].content[0].text.rstrip("\ufffd"))


@settings(deadline=None, max_examples=200)
@given(text=st.text(max_size=30).map(lambda text: text.encode("utf-8", "replace").decode()))
def test_text_never_becomes_a_special_token(text):
    for value in (text, text + "<|end|>", "<|start|>" + text):
        message = Message.from_role_and_content(Role.USER, value)
        tokens = ENCODING.render(message)
        inner = tokens[tokens.index(SPECIAL["<|message|>"]) + 1 : -1]
        assert not set(inner) & set(SPECIAL_IDS)
        assert TOKENIZER.decode_bytes(inner).decode() == value


@settings(deadline=None, max_examples=100)
@given(turns=st.lists(turns(), max_size=5))
def test_appending_a_message_extends_the_tokens(turns):
    everything = RenderConversationConfig(auto_drop_analysis=False)
    rendered = [
        ENCODING.render_conversation(Conversation.from_messages(turns[:length]), everything)
        for length in range(len(turns) + 1)
    ]
    for shorter, longer in pairwise(rendered):
        assert longer[: len(shorter)] == shorter
