"""gptoss.harmony against the official openai-harmony with the published vocabulary."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import support.harmony_cases as cases
from gptoss import harmony
from gptoss.tokenizer import Tokenizer
from support.paths import real_data

pytestmark = pytest.mark.oracle
official = pytest.importorskip("openai_harmony", reason="openai-harmony is not installed")

_SETTINGS = settings(
    deadline=None,
    derandomize=True,
    max_examples=400,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
_TEXT = "<|start|>assistant<|channel|>final<|message|>x"


@pytest.fixture(scope="module")
def both():
    """The official encoding and ours."""
    data = real_data()
    if not (data / "o200k_base.tiktoken").is_file():
        pytest.skip(f"no o200k_base.tiktoken in {data}")
    before = os.environ.get("TIKTOKEN_ENCODINGS_BASE")
    os.environ["TIKTOKEN_ENCODINGS_BASE"] = str(data)
    try:
        theirs = official.load_harmony_encoding("HarmonyGptOss")
    finally:
        os.environ.pop("TIKTOKEN_ENCODINGS_BASE")
        if before is not None:
            os.environ["TIKTOKEN_ENCODINGS_BASE"] = before
    ours = harmony.load_harmony_encoding(data / "gpt-oss-20b")
    return theirs, ours


# -- what both take ----------------------------------------------------------------------

words = (
    st.sampled_from(
        ["a", "hello world", "x\ny", "x\r\ny\r", "\n", "", "é😀", "<|end|>", _TEXT, "  sp ", "all"]
    )
    | st.sampled_from(
        ["<|constrain|>json", "json", "functions.f", 'q"q', "\x00", "a\n\n", "\x85x\u2028y", "null"]
    )
    | st.text(max_size=12)
)
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.just(2**64)
values = st.recursive(
    st.none() | st.booleans() | numbers | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=4,
)
types = st.sampled_from(
    ["object", "object", "array", "string", "string", "number", "integer", "boolean", "null"]
) | st.sampled_from(["object", ["string", "null"], ["integer"], [], [3], 3, "odd"])


def _schema(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(
        {},
        optional={
            "type": types,
            "description": words | values,
            "title": words | values,
            "default": values,
            "nullable": st.sampled_from([True, True, False, 1, "true"]),
            "examples": st.lists(values, max_size=2) | values,
            "enum": st.lists(words | values, max_size=3) | values,
            "properties": st.dictionaries(st.sampled_from("abc") | words, inner, max_size=3),
            "required": st.lists(st.sampled_from("abc"), max_size=3) | values,
            "items": inner,
            "oneOf": st.lists(inner, max_size=3) | values,
            "anyOf": st.lists(inner, max_size=2),
        },
    )


schemas = _schema(st.recursive(_schema(values), _schema, max_leaves=6))


def _optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


tools = st.builds(
    lambda name, description, rest: {"name": name, "description": description, **rest},
    words,
    words,
    _optional(parameters=schemas),
)
namespaces = st.builds(
    lambda name, listed, rest: {"name": name, "tools": listed, **rest},
    words,
    st.lists(tools, max_size=2),
    _optional(description=words),
)
namespace_maps = st.dictionaries(st.just("functions") | words, namespaces, max_size=2)
system_contents = _optional(
    model_identity=st.none() | words,
    reasoning_effort=st.sampled_from([None, "Low", "Medium", "High"]),
    conversation_start_date=st.none() | words,
    knowledge_cutoff=st.none() | words,
    channel_config=st.none()
    | st.fixed_dictionaries(
        {"valid_channels": st.lists(words, max_size=3), "channel_required": st.booleans()}
    ),
    tools=st.none() | namespace_maps,
).map(lambda content: {"type": "system_content", **content})
developer_contents = _optional(
    instructions=st.none() | words, tools=st.none() | namespace_maps
).map(lambda content: {"type": "developer_content", **content})
text_contents = words.map(lambda text: {"type": "text", "text": text})


@st.composite
def messages(draw: st.DrawFn) -> dict[str, Any]:
    role = draw(st.sampled_from(["assistant"] * 3 + ["user", "tool", "system", "developer"]))
    special = {"system": system_contents, "developer": developer_contents}.get(role)
    content = text_contents if special is None else special | text_contents
    message = {"role": role, "content": draw(st.lists(content, min_size=1, max_size=2))}
    if role == "tool" or draw(st.integers(0, 5)) == 0:
        message["name"] = draw(words)
    message |= draw(
        _optional(
            channel=st.sampled_from(["analysis", "analysis", "commentary", "final", "final"])
            | words,
            recipient=words,
            content_type=words,
        )
    )
    return message


# -- rendering ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", cases.CONVERSATIONS)
def test_hand_made_conversations_render_alike(both, name):
    theirs, ours = both
    conversation = cases.CONVERSATIONS[name]
    expected = cases.rendered(official, theirs, conversation)
    assert cases.rendered(harmony, ours, conversation) == expected


@_SETTINGS
@given(conversation=st.lists(messages(), max_size=5))
def test_generated_conversations_render_alike(both, conversation):
    theirs, ours = both
    expected = cases.rendered(official, theirs, conversation)
    assert cases.rendered(harmony, ours, conversation) == expected


@_SETTINGS
@given(schema=schemas)
def test_generated_schemas_render_alike(both, schema):
    theirs, ours = both
    tool = {"name": "f", "description": "d", "parameters": schema}
    namespace = {"functions": {"name": "functions", "tools": [tool]}}
    content = {"type": "developer_content", "tools": namespace}
    message = {"role": "developer", "content": [content]}
    expected = theirs.render(official.Message.from_dict(message))
    assert ours.render(harmony.Message.from_dict(message)) == expected


@_SETTINGS
@given(conversation=st.lists(messages(), max_size=3))
def test_dictionaries_and_json_are_alike(both, conversation):
    theirs = [official.Message.from_dict(message) for message in conversation]
    ours = [harmony.Message.from_dict(message) for message in conversation]
    for their_message, our_message in zip(theirs, ours, strict=True):
        assert our_message.to_dict() == their_message.to_dict()
        assert our_message.to_json() == their_message.to_json()
    their_json = official.Conversation.from_messages(theirs).to_json()
    assert harmony.Conversation.from_messages(ours).to_json() == their_json
    again = harmony.Conversation.from_json(their_json)
    assert again.to_dict() == official.Conversation.from_json(their_json).to_dict()


def test_builtin_namespaces_are_alike():
    for name in ("browser", "python"):
        theirs = getattr(official.ToolNamespaceConfig, name)().model_dump(exclude_none=True)
        assert getattr(harmony.ToolNamespaceConfig, name)().to_dict() == theirs


def test_lone_surrogates_are_refused_alike(both):
    for module, encoding in ((official, both[0]), (harmony, both[1])):
        message = module.Message.from_role_and_content(module.Role.USER, "a\ud800b")
        with pytest.raises(ValueError):  # noqa: PT011 (the words differ)
            encoding.render(message)


# -- parsing -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", cases.SEQUENCES)
def test_hand_made_sequences_parse_alike(both, name):
    theirs, ours = both
    role, parts = cases.SEQUENCES[name]
    tokens = cases.to_tokens(parts, ours.tokenizer.encode, ours.tokenizer.special_tokens)
    _check_parse(theirs, ours, role, tokens)


def _check_parse(theirs: Any, ours: Any, role: str | None, tokens: list[int]) -> None:
    expected = cases.parsed(official, theirs, role, tokens)
    assert cases.parsed(harmony, ours, role, tokens) == expected
    results = []
    for module, encoding in ((official, theirs), (harmony, ours)):
        try:
            parsed = encoding.parse_messages_from_completion_tokens(
                tokens, None if role is None else module.Role(role)
            )
            results.append([message.to_dict() for message in parsed])
        except module.HarmonyError:
            results.append(None)
    assert results[0] == results[1]


roles = st.sampled_from([None, None, "assistant", "assistant", "tool", "user"])
specials = st.sampled_from(harmony.vocabulary.SPECIALS)
header_words = st.sampled_from(
    ["assistant", " to=functions.x", "final", "analysis", "commentary", " x", " json", "json"]
) | st.sampled_from(
    ["user", "tool", " ", "\n", "to=", "é", "\u2003", "\u00a0", "\x0b", "\x1c", "<", "<|chan"]
)
content_parts = (
    st.sampled_from(["hello", " wörld", " 😀", "你好", '{"a": 1}', "\n", _TEXT])
    # The bytes f0, 9f, 98, c2, e9 and ff, each a token of its own; an id of no token.
    | st.sampled_from([172, 253, 246, 126, 165, 187, -1])
    | st.integers(0, 199_999)
)
openings = st.sampled_from(
    [
        ["<|channel|>", "analysis", "<|message|>"],
        ["<|start|>", "assistant", "<|channel|>", "final", "<|message|>"],
        [
            "<|start|>",
            "assistant to=f",
            "<|channel|>",
            "c ",
            "<|constrain|>",
            "json",
            "<|message|>",
        ],
        ["<|start|>", "functions.f to=assistant", "<|channel|>", "commentary", "<|message|>"],
        ["<|start|>", "user", "<|message|>"],
    ]
)


@st.composite
def sequences(draw: st.DrawFn) -> list[Any]:
    parts: list[Any] = []
    for _ in range(draw(st.integers(1, 4))):
        if draw(st.booleans()):
            parts += draw(openings)
            parts += draw(st.lists(content_parts, max_size=6))
            parts += draw(st.sampled_from([["<|end|>"], ["<|call|>"], ["<|return|>"], []]))
        else:
            parts += draw(st.lists(specials | header_words | content_parts, max_size=6))
    if draw(st.booleans()) and parts:  # damage: leave one out, or cut
        at = draw(st.integers(0, len(parts) - 1))
        parts = parts[:at] + (parts[at + 1 :] if draw(st.booleans()) else [])
    return parts


@settings(_SETTINGS, max_examples=800)
@given(role=roles, parts=sequences())
def test_generated_sequences_parse_alike(both, role, parts):
    theirs, ours = both
    tokens = cases.to_tokens(parts, ours.tokenizer.encode, ours.tokenizer.special_tokens)
    _check_parse(theirs, ours, role, tokens)


# -- tokens and text ---------------------------------------------------------------------


def test_stop_tokens_are_alike(both):
    theirs, ours = both
    assert set(ours.stop_tokens()) == set(theirs.stop_tokens())
    for_actions = theirs.stop_tokens_for_assistant_actions()
    assert set(ours.stop_tokens_for_assistant_actions()) == set(for_actions)
    assert ours.name == theirs.name
    # The published tokenizer.json names fewer of the reserved ids, and one otherwise.
    assert ours.special_tokens_set - {"<|endofprompt|>"} <= theirs.special_tokens_set
    for token in (5, *range(199_998, 200_019)):
        assert ours.is_special_token(token) == theirs.is_special_token(token)


@_SETTINGS
@given(text=words | st.text(st.characters(exclude_categories=[]), max_size=30))
def test_texts_encode_and_decode_alike(both, text):
    theirs, ours = both
    tokens = theirs.encode(text, disallowed_special=())
    assert ours.encode(text, disallowed_special=()) == tokens
    assert ours.decode(tokens) == theirs.decode(tokens)
    assert ours.decode_utf8(tokens) == theirs.decode_utf8(tokens)
    assert ours.decode(tokens[1:]) == theirs.decode(tokens[1:])


def test_special_tokens_encode_and_fail_alike(both):
    text = _TEXT + "<|end|>"
    expected = both[0].encode(text, allowed_special="all")
    assert both[1].encode(text, allowed_special="all") == expected
    some = {"allowed_special": {"<|end|>"}, "disallowed_special": ()}
    assert both[1].encode(text, **some) == both[0].encode(text, **some)
    for module, encoding in ((official, both[0]), (harmony, both[1])):
        with pytest.raises(module.HarmonyError, match="start"):
            encoding.encode("a<|start|>")
        for call in (encoding.decode, encoding.decode_utf8):
            with pytest.raises(module.HarmonyError):
                call([cases.UNKNOWN_ID])
        with pytest.raises(module.HarmonyError):
            encoding.decode_utf8([172])


def test_a_tokenizer_and_a_model_give_the_same_encoding(both):
    class Model:
        tokenizer: Tokenizer = both[1].tokenizer

    for source in (Model(), Model.tokenizer, real_data() / "gpt-oss-20b" / "tokenizer.json"):
        assert harmony.load_harmony_encoding(source).encode("hello world") == [24912, 2375]
