"""Messages to tokens, token for token as openai-harmony does it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .messages import (
    Content,
    Conversation,
    DeveloperContent,
    HarmonyError,
    Message,
    Role,
    SystemContent,
    TextContent,
    ToolDescription,
    ToolNamespaceConfig,
)
from .schema import typescript

CONSTRAIN = "<|constrain|>"

Encode = Callable[[str], "list[int]"]


def has_function_tools(conversation: Conversation) -> bool:
    """Whether a developer message brings tools under the key `functions`."""
    for message in conversation.messages:
        for item in message.content:
            if isinstance(item, DeveloperContent) and item.tools is not None:
                namespace = item.tools.get("functions")
                if namespace is not None and namespace.tools:
                    return True
    return False


def without_old_analysis(messages: list[Message]) -> Iterable[Message]:
    """The messages without the analysis before the first final, if the last turn has ended.

    The last turn has ended if the last assistant message is a final one.
    """
    last = next((m for m in reversed(messages) if m.author.role is Role.ASSISTANT), None)
    if last is None or last.channel != "final":
        return messages
    first_final = next(i for i, message in enumerate(messages) if message.channel == "final")
    return [m for i, m in enumerate(messages) if i >= first_final or m.channel != "analysis"]


def message_tokens(
    message: Message, encode: Encode, special: Mapping[str, int], function_tools: bool
) -> list[int]:
    """The tokens of one message; each piece of the header and each content is encoded alone.

    Parameters
    ----------
    message : Message
    encode : callable
        Text to ids, in which no text becomes a special token.
    special : mapping
        Ids of the Harmony specials by name.
    function_tools : bool
        Whether the system message must say where calls to functions go.

    Raises
    ------
    HarmonyError
        If a tool message has no name, or a content is in a message of the wrong role.
    """
    author = message.author
    if author.role is not Role.TOOL:
        speaker = author.role.value if author.name is None else f"{author.role.value}:{author.name}"
    elif author.name is None:
        raise HarmonyError("[render] a tool message must have the tool's name as author name")
    else:
        speaker = author.name
    tokens = [special["<|start|>"], *encode(speaker)]
    if message.recipient is not None and message.recipient != "all":
        tokens += encode(f" to={message.recipient}")
    if message.channel is not None:
        tokens += [special["<|channel|>"], *encode(message.channel)]
    if message.content_type is not None:
        if message.content_type.startswith(CONSTRAIN):
            kind = message.content_type[len(CONSTRAIN) :]
            tokens += [*encode(" "), special[CONSTRAIN], *encode(kind)]
        else:
            tokens += encode(f" {message.content_type}")
    tokens.append(special["<|message|>"])
    for item in message.content:
        tokens += encode(_content_text(item, author.role, function_tools))
    is_call = author.role is Role.ASSISTANT and message.recipient is not None
    tokens.append(special["<|call|>" if is_call else "<|end|>"])
    return tokens


def _content_text(content: Content, role: Role, function_tools: bool) -> str:
    if isinstance(content, TextContent):
        return content.text
    if isinstance(content, SystemContent) and role is Role.SYSTEM:
        return system_text(content, function_tools)
    if isinstance(content, DeveloperContent) and role is Role.DEVELOPER:
        return developer_text(content)
    raise HarmonyError(f"[render] {type(content).__name__} cannot be in a {role.value} message")


def system_text(content: SystemContent, function_tools: bool = False) -> str:
    """The text of a system message."""
    top = []
    if content.model_identity is not None:
        top.append(content.model_identity)
    if content.knowledge_cutoff is not None:
        top.append(f"Knowledge cutoff: {content.knowledge_cutoff}")
    if content.conversation_start_date is not None:
        top.append(f"Current date: {content.conversation_start_date}")
    sections = ["\n".join(top)] if top else []
    if content.reasoning_effort is not None:
        sections.append(f"Reasoning: {content.reasoning_effort.value.lower()}")
    if content.tools:
        sections.append(_tools_text(content.tools))
    channels = content.channel_config
    if channels is not None and channels.valid_channels:
        text = f"# Valid channels: {', '.join(channels.valid_channels)}."
        if channels.channel_required:
            text += " Channel must be included for every message."
        if function_tools:
            text += "\nCalls to these tools must go to the commentary channel: 'functions'."
        sections.append(text)
    return "\n\n".join(sections)


def developer_text(content: DeveloperContent) -> str:
    """The text of a developer message."""
    sections = []
    if content.instructions is not None:
        sections += ["# Instructions", content.instructions]
    if content.tools:
        sections.append(_tools_text(content.tools))
    return "\n\n".join(sections)


def _tools_text(tools: Mapping[str, ToolNamespaceConfig]) -> str:
    namespaces = (_namespace_text(tools[key]) for key in sorted(tools))
    return "\n\n".join(["# Tools", *namespaces])


def _namespace_text(namespace: ToolNamespaceConfig) -> str:
    lines = [f"## {namespace.name}", ""]
    about = _lines(namespace.description or "")
    if not namespace.tools:
        return "\n".join(lines + about)
    lines += [f"// {line}" for line in about]
    lines += [f"namespace {namespace.name} {{", ""]
    for tool in namespace.tools:
        lines += [f"// {line}" for line in _lines(tool.description)]
        lines += [_function_type(tool), ""]
    return "\n".join([*lines, f"}} // namespace {namespace.name}"])


def _function_type(tool: ToolDescription) -> str:
    if tool.parameters is None:
        return f"type {tool.name} = () => any;"
    try:
        parameters = typescript(json_parameters(tool))
    except RecursionError as error:
        raise HarmonyError(f"[render] parameters of tool {tool.name!r}: {error}") from error
    return f"type {tool.name} = (_: {parameters}) => any;"


def json_parameters(tool: ToolDescription) -> Any:
    """The parameters with what JSON makes of them: keys are strings, tuples are lists.

    Raises
    ------
    HarmonyError
        They are no JSON.
    RecursionError
        They are nested too deeply.
    """
    try:
        return json.loads(json.dumps(tool.parameters, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise HarmonyError(f"[render] parameters of tool {tool.name!r}: {error}") from error


def _lines(text: str) -> list[str]:
    """Lines ended by LF or CRLF; other separators that str.splitlines knows are text."""
    lines = text.split("\n")
    ended, last = lines[:-1], lines[-1]
    return [line.removesuffix("\r") for line in ended] + ([last] if last else [])
