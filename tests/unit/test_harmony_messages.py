"""Harmony's message types: constructors, checks, dictionaries, JSON."""

from __future__ import annotations

import json

import pytest

from gptoss.harmony import (
    Author,
    ChannelConfig,
    Content,
    Conversation,
    DeveloperContent,
    HarmonyError,
    Message,
    ReasoningEffort,
    Role,
    SystemContent,
    TextContent,
    ToolDescription,
    ToolNamespaceConfig,
)


def test_the_error_is_what_both_kinds_of_callers_catch():
    assert issubclass(HarmonyError, RuntimeError)
    assert issubclass(HarmonyError, ValueError)


def test_strings_become_roles_and_efforts():
    assert Author(role="user").role is Role.USER
    assert SystemContent(reasoning_effort="Low").reasoning_effort is ReasoningEffort.LOW
    with pytest.raises(ValueError, match="robot"):
        Author(role="robot")
    with pytest.raises(ValueError, match="huge"):
        SystemContent.new().with_reasoning_effort("huge")


@pytest.mark.parametrize(
    "make",
    [
        lambda: TextContent(3),
        lambda: Author(role=Role.USER, name=3),
        lambda: ToolDescription(name="f", description=None),
        lambda: ToolDescription(name="f", description="", parameters=[]),
        lambda: ToolNamespaceConfig(name=None),
        lambda: ToolNamespaceConfig(name="n", tools=[3]),
        lambda: SystemContent(model_identity=3),
        lambda: SystemContent(channel_config=3),
        lambda: DeveloperContent(instructions=3),
        lambda: Message(author=3),
        lambda: Message(author=Author(role=Role.USER), content=["text"]),
        lambda: Message(author=Author(role=Role.USER), channel=3),
    ],
)
def test_other_types_are_refused(make):
    with pytest.raises(TypeError):
        make()


def test_builders_chain():
    message = (
        Message.from_role_and_content(Role.ASSISTANT, "a")
        .adding_content("b")
        .with_channel("commentary")
        .with_recipient("functions.f")
        .with_content_type("<|constrain|>json")
    )
    assert message.content == [TextContent(text="a"), TextContent(text="b")]
    assert message.to_dict() == {
        "role": "assistant",
        "name": None,
        "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
        "channel": "commentary",
        "recipient": "functions.f",
        "content_type": "<|constrain|>json",
    }


def test_system_content_defaults_and_builders():
    content = SystemContent.new()
    assert content.conversation_start_date is None
    assert content.to_dict()["channel_config"] == {
        "valid_channels": ["analysis", "commentary", "final"],
        "channel_required": True,
    }
    content = (
        content.with_model_identity("I")
        .with_reasoning_effort(ReasoningEffort.HIGH)
        .with_conversation_start_date("2025-01-01")
        .with_knowledge_cutoff("2024")
        .with_required_channels(["final"])
        .with_browser_tool()
        .with_python_tool()
    )
    assert set(content.tools) == {"browser", "python"}
    assert SystemContent.from_dict(content.to_dict()) == content
    other = ChannelConfig(valid_channels=["x"], channel_required=False)
    assert content.with_channel_config(other).channel_config is other


def test_none_is_left_out_and_comes_back_as_the_default():
    raw = SystemContent(knowledge_cutoff=None).to_dict()
    assert "knowledge_cutoff" not in raw
    assert SystemContent.from_dict(raw).knowledge_cutoff == "2024-06"


def test_developer_content():
    tool = ToolDescription.new("f", "does", {"type": "object", "properties": {"x": {}}})
    content = DeveloperContent.new().with_instructions("i").with_function_tools([tool])
    assert content.tools == {"functions": ToolNamespaceConfig(name="functions", tools=[tool])}
    assert DeveloperContent.from_dict(content.to_dict()) == content
    # The dictionary shares nothing with the object.
    raw = content.to_dict()
    raw["tools"]["functions"]["tools"][0]["parameters"]["properties"].clear()
    assert tool.parameters == {"type": "object", "properties": {"x": {}}}


def test_a_builtin_namespace_is_a_new_one_each_time():
    ToolNamespaceConfig.browser().tools[0].parameters["properties"].clear()
    assert ToolNamespaceConfig.browser().tools[0].parameters["properties"]


def test_conversations_round_trip():
    messages = [
        Message.from_role_and_content(Role.SYSTEM, SystemContent.new()),
        Message.from_role_and_content(Role.DEVELOPER, DeveloperContent.new()),
        Message.from_author_and_content(Author.new(Role.TOOL, "f"), "é\U0001f600"),
        Message.from_role_and_contents(Role.USER, [TextContent("a"), TextContent("b")]),
    ]
    conversation = Conversation.from_messages(messages)
    assert list(conversation) == messages
    assert Conversation.from_json(conversation.to_json()) == conversation
    assert Conversation.from_dict(conversation.to_dict()) == conversation
    assert json.loads(messages[2].to_json())["name"] == "f"


def test_from_dict_takes_a_plain_string_and_refuses_the_unknown():
    message = Message.from_dict({"role": "user", "content": "x"})
    assert message == Message.from_role_and_content(Role.USER, "x")
    with pytest.raises(ValueError, match="image"):
        Message.from_dict({"role": "user", "content": [{"type": "image"}]})
    with pytest.raises(ValueError, match="robot"):
        Message.from_dict({"role": "robot", "content": "x"})
    with pytest.raises(KeyError, match="content"):
        Message.from_dict({"role": "user"})


def test_content_is_a_base_class():
    with pytest.raises(NotImplementedError):
        Content().to_dict()
