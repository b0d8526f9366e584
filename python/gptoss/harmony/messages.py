"""What a Harmony conversation is made of: roles, contents, messages, conversations.

Names, signatures and dictionary shapes are those of the `openai-harmony` package.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

from .builtin import BROWSER, PYTHON


class HarmonyError(RuntimeError, ValueError):
    """Messages cannot be rendered, or tokens cannot be parsed or decoded.

    A RuntimeError because code written for openai-harmony catches that, a ValueError
    because the rest of this package raises that for values it cannot take.
    """


class Role(str, Enum):
    """Who speaks."""

    USER = "user"
    ASSISTANT = "assistant"
    SYSTEM = "system"
    DEVELOPER = "developer"
    TOOL = "tool"


class ReasoningEffort(str, Enum):
    """How long the model may think."""

    LOW = "Low"
    MEDIUM = "Medium"
    HIGH = "High"


_T = TypeVar("_T")


def _check_text(owner: object, *names: str, optional: bool = False) -> None:
    for name in names:
        value = getattr(owner, name)
        if not isinstance(value, str) and not (optional and value is None):
            raise TypeError(
                f"[{type(owner).__name__}] {name} must be a string"
                f"{' or None' if optional else ''}, got {type(value).__name__}"
            )


def _build(kind: type[_T], value: Any) -> _T:
    """`value` as a `kind`: as it is, or made from a mapping (keys of no field are ignored)."""
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        raise TypeError(f"[{kind.__name__}] expected an object or a dict, got {value!r}")
    known = kind.__dataclass_fields__  # type: ignore[attr-defined]
    return kind(**{name: value[name] for name in known if name in value})


def _without_none(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


@dataclass
class Author:
    """A role, and for tools (where it is required) or named speakers a name."""

    role: Role
    name: str | None = None

    def __post_init__(self) -> None:
        self.role = Role(self.role)
        _check_text(self, "name", optional=True)

    @classmethod
    def new(cls, role: Role, name: str) -> Author:
        return cls(role=role, name=name)


class Content:
    """Base of what a message may contain; each kind writes itself, the base nothing."""

    def to_dict(self) -> dict[str, Any]:
        raise NotImplementedError


@dataclass
class TextContent(Content):
    """Plain text. A special token's name inside it stays text."""

    text: str

    def __post_init__(self) -> None:
        _check_text(self, "text")

    def to_dict(self) -> dict[str, Any]:
        return {"type": "text", "text": self.text}


@dataclass
class ToolDescription:
    """One function: its name, what it does, and its parameters as a JSON schema."""

    name: str
    description: str
    parameters: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        _check_text(self, "name", "description")
        if self.parameters is not None and not isinstance(self.parameters, dict):
            raise TypeError(
                "[ToolDescription] parameters must be a dict or None, "
                f"got {type(self.parameters).__name__}"
            )

    @classmethod
    def new(
        cls, name: str, description: str, parameters: dict[str, Any] | None = None
    ) -> ToolDescription:
        return cls(name=name, description=description, parameters=parameters)

    def to_dict(self) -> dict[str, Any]:
        return _without_none(
            name=self.name,
            description=self.description,
            parameters=copy.deepcopy(self.parameters),
        )


@dataclass
class ChannelConfig:
    """The channels that the system message allows."""

    valid_channels: list[str]
    channel_required: bool

    def __post_init__(self) -> None:
        self.valid_channels = list(self.valid_channels)

    @classmethod
    def require_channels(cls, channels: list[str]) -> ChannelConfig:
        return cls(valid_channels=channels, channel_required=True)

    def to_dict(self) -> dict[str, Any]:
        return {
            "valid_channels": list(self.valid_channels),
            "channel_required": self.channel_required,
        }


@dataclass
class ToolNamespaceConfig:
    """Tools under one name: `functions` for the user's own, `browser` and `python` built in."""

    name: str
    description: str | None = None
    tools: list[ToolDescription] = field(default_factory=list)

    def __post_init__(self) -> None:
        _check_text(self, "name")
        _check_text(self, "description", optional=True)
        self.tools = [_build(ToolDescription, tool) for tool in self.tools]

    @staticmethod
    def browser() -> ToolNamespaceConfig:
        """The browser tools that the model was trained on."""
        return _build(ToolNamespaceConfig, copy.deepcopy(BROWSER))

    @staticmethod
    def python() -> ToolNamespaceConfig:
        """The Python tool that the model was trained on."""
        return _build(ToolNamespaceConfig, copy.deepcopy(PYTHON))

    def to_dict(self) -> dict[str, Any]:
        return _without_none(
            name=self.name,
            description=self.description,
            tools=[tool.to_dict() for tool in self.tools],
        )


def _build_namespaces(
    tools: Mapping[str, Any] | None,
) -> dict[str, ToolNamespaceConfig] | None:
    if tools is None:
        return None
    return {key: _build(ToolNamespaceConfig, value) for key, value in tools.items()}


def _namespaces_to_dict(tools: Mapping[str, ToolNamespaceConfig] | None) -> dict[str, Any] | None:
    return None if tools is None else {key: value.to_dict() for key, value in tools.items()}


@dataclass
class SystemContent(Content):
    """What the system message states: identity, dates, effort, channels, built-in tools.

    A field that is None is not printed. No date is printed unless one is given, so that
    the same conversation gives the same tokens on every day.
    """

    model_identity: str | None = "You are ChatGPT, a large language model trained by OpenAI."
    reasoning_effort: ReasoningEffort | None = ReasoningEffort.MEDIUM
    conversation_start_date: str | None = None
    knowledge_cutoff: str | None = "2024-06"
    channel_config: ChannelConfig | None = field(
        default_factory=lambda: ChannelConfig.require_channels(["analysis", "commentary", "final"])
    )
    tools: dict[str, ToolNamespaceConfig] | None = None

    def __post_init__(self) -> None:
        _check_text(
            self, "model_identity", "conversation_start_date", "knowledge_cutoff", optional=True
        )
        if self.reasoning_effort is not None:
            self.reasoning_effort = ReasoningEffort(self.reasoning_effort)
        if self.channel_config is not None:
            self.channel_config = _build(ChannelConfig, self.channel_config)
        self.tools = _build_namespaces(self.tools)

    @classmethod
    def new(cls) -> SystemContent:
        return cls()

    def with_model_identity(self, model_identity: str) -> SystemContent:
        self.model_identity = model_identity
        return self

    def with_reasoning_effort(self, reasoning_effort: ReasoningEffort) -> SystemContent:
        self.reasoning_effort = ReasoningEffort(reasoning_effort)
        return self

    def with_conversation_start_date(self, conversation_start_date: str) -> SystemContent:
        self.conversation_start_date = conversation_start_date
        return self

    def with_knowledge_cutoff(self, knowledge_cutoff: str) -> SystemContent:
        self.knowledge_cutoff = knowledge_cutoff
        return self

    def with_channel_config(self, channel_config: ChannelConfig) -> SystemContent:
        self.channel_config = channel_config
        return self

    def with_required_channels(self, channels: list[str]) -> SystemContent:
        self.channel_config = ChannelConfig.require_channels(channels)
        return self

    def with_tools(self, ns_config: ToolNamespaceConfig) -> SystemContent:
        self.tools = {**(self.tools or {}), ns_config.name: ns_config}
        return self

    def with_browser_tool(self) -> SystemContent:
        return self.with_tools(ToolNamespaceConfig.browser())

    def with_python_tool(self) -> SystemContent:
        return self.with_tools(ToolNamespaceConfig.python())

    def to_dict(self) -> dict[str, Any]:
        channels = self.channel_config
        return _without_none(
            model_identity=self.model_identity,
            reasoning_effort=self.reasoning_effort,
            conversation_start_date=self.conversation_start_date,
            knowledge_cutoff=self.knowledge_cutoff,
            channel_config=None if channels is None else channels.to_dict(),
            tools=_namespaces_to_dict(self.tools),
            type="system_content",
        )

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> SystemContent:
        """The inverse of `to_dict`; a field that is not there takes its default."""
        return _build(cls, raw)


@dataclass
class DeveloperContent(Content):
    """What the developer message states: instructions, and the tools to call."""

    instructions: str | None = None
    tools: dict[str, ToolNamespaceConfig] | None = None

    def __post_init__(self) -> None:
        _check_text(self, "instructions", optional=True)
        self.tools = _build_namespaces(self.tools)

    @classmethod
    def new(cls) -> DeveloperContent:
        return cls()

    def with_instructions(self, instructions: str) -> DeveloperContent:
        self.instructions = instructions
        return self

    def with_tools(self, ns_config: ToolNamespaceConfig) -> DeveloperContent:
        self.tools = {**(self.tools or {}), ns_config.name: ns_config}
        return self

    def with_function_tools(self, tools: Sequence[ToolDescription]) -> DeveloperContent:
        return self.with_tools(ToolNamespaceConfig(name="functions", tools=list(tools)))

    def to_dict(self) -> dict[str, Any]:
        return _without_none(
            instructions=self.instructions,
            tools=_namespaces_to_dict(self.tools),
            type="developer_content",
        )

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> DeveloperContent:
        """The inverse of `to_dict`."""
        return _build(cls, raw)


_CONTENT_KINDS: dict[str, type[TextContent] | type[SystemContent] | type[DeveloperContent]] = {
    "text": TextContent,
    "system_content": SystemContent,
    "developer_content": DeveloperContent,
}


def _content(content: str | Content) -> Content:
    return TextContent(text=content) if isinstance(content, str) else content


@dataclass
class Message:
    """One message: who speaks, on which channel, to whom, and what."""

    author: Author
    content: list[Content] = field(default_factory=list)
    channel: str | None = None
    recipient: str | None = None
    content_type: str | None = None

    def __post_init__(self) -> None:
        self.author = _build(Author, self.author)
        self.content = list(self.content)
        for item in self.content:
            if not isinstance(item, Content):
                raise TypeError(f"[Message] content must be Content objects, got {item!r}")
        _check_text(self, "channel", "recipient", "content_type", optional=True)

    @classmethod
    def from_author_and_content(cls, author: Author, content: str | Content) -> Message:
        return cls(author=author, content=[_content(content)])

    @classmethod
    def from_role_and_content(cls, role: Role, content: str | Content) -> Message:
        return cls.from_author_and_content(Author(role=role), content)

    @classmethod
    def from_role_and_contents(cls, role: Role, contents: Sequence[Content]) -> Message:
        return cls(author=Author(role=role), content=list(contents))

    def adding_content(self, content: str | Content) -> Message:
        self.content.append(_content(content))
        return self

    def with_channel(self, channel: str) -> Message:
        self.channel = channel
        return self

    def with_recipient(self, recipient: str) -> Message:
        self.recipient = recipient
        return self

    def with_content_type(self, content_type: str) -> Message:
        self.content_type = content_type
        return self

    def to_dict(self) -> dict[str, Any]:
        return {
            "role": self.author.role,
            "name": self.author.name,
            "content": [item.to_dict() for item in self.content],
            **_without_none(
                channel=self.channel, recipient=self.recipient, content_type=self.content_type
            ),
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict())

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Message:
        """The inverse of `to_dict`; content may be a plain string.

        Raises
        ------
        KeyError
            If `role` or `content` is missing.
        ValueError
            If the role or the type of a content is unknown.
        """
        raw_content = data["content"]
        if isinstance(raw_content, str):
            raw_content = [{"type": "text", "text": raw_content}]
        content: list[Content] = []
        for raw in raw_content:
            kind = _CONTENT_KINDS.get(raw.get("type"))
            if kind is None:
                raise ValueError(f"[Message.from_dict] unknown content type in {raw!r}")
            content.append(_build(kind, raw))
        return cls(
            author=Author(role=Role(data["role"]), name=data.get("name")),
            content=content,
            channel=data.get("channel"),
            recipient=data.get("recipient"),
            content_type=data.get("content_type"),
        )


@dataclass
class Conversation:
    """Messages in order."""

    messages: list[Message] = field(default_factory=list)

    @classmethod
    def from_messages(cls, messages: Sequence[Message]) -> Conversation:
        return cls(messages=list(messages))

    def __iter__(self) -> Iterator[Message]:
        return iter(self.messages)

    def to_dict(self) -> dict[str, Any]:
        return {"messages": [message.to_dict() for message in self.messages]}

    def to_json(self) -> str:
        return json.dumps(self.to_dict())

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Conversation:
        """The inverse of `to_dict`."""
        return cls(messages=[Message.from_dict(message) for message in data["messages"]])

    @classmethod
    def from_json(cls, payload: str) -> Conversation:
        """The inverse of `to_json`."""
        return cls.from_dict(json.loads(payload))
