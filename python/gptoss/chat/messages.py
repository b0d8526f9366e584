"""OpenAI chat messages to the tokens of a Harmony prompt."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

from gptoss.harmony import (
    Author,
    Conversation,
    DeveloperContent,
    HarmonyEncoding,
    Message,
    ReasoningEffort,
    RenderOptions,
    Role,
    SystemContent,
    TextContent,
    ToolDescription,
    ToolNamespaceConfig,
)
from gptoss.harmony.render import CONSTRAIN, has_function_tools

ChatMessage: TypeAlias = Mapping[str, Any] | Message
ChatMessages: TypeAlias = str | Sequence[ChatMessage] | Conversation

KNOWLEDGE_CUTOFF = "2024-06"  # SystemContent's own default

_FUNCTIONS = "functions."
_BUILTIN = {"browser": ToolNamespaceConfig.browser, "python": ToolNamespaceConfig.python}
_EFFORTS = {effort.value.lower(): effort for effort in ReasoningEffort}
_TEXT_PARTS = ("text", "input_text", "output_text")
# An assistant's message to one of these is not a tool call.
_LISTENERS = (None, "all", "assistant", "user")


@dataclass(frozen=True)
class Prompt:
    """What the model is asked.

    Attributes
    ----------
    token_ids : list of int
        The conversation and the start of the assistant's message.
    openings : list of list of int
        The rest of that message's header, if a call is forced: one for each tool that may be
        called. Empty if the model is free.
    """

    token_ids: list[int]
    openings: list[list[int]] = field(default_factory=list)


def build_prompt(
    encoding: HarmonyEncoding,
    messages: ChatMessages,
    *,
    tools: Iterable[Mapping[str, Any] | ToolDescription] | None = None,
    tool_choice: str | Mapping[str, Any] = "auto",
    reasoning_effort: str = "medium",
    developer: str | None = None,
    builtin_tools: Iterable[str | ToolNamespaceConfig] = (),
    current_date: str | datetime.date | None = None,
    knowledge_cutoff: str | None = KNOWLEDGE_CUTOFF,
) -> Prompt:
    """Render a chat; the parameters are those of `LLM.chat`, and so are the errors."""
    declared = _function_tools(tools)
    names = [tool.name for tool in declared]
    callable_names = _allowed(tool_choice, names)
    if tool_choice == "none":
        declared = []
    system = _system_content(reasoning_effort, builtin_tools, current_date, knowledge_cutoff)
    listed = message_list(messages)
    if not listed:
        raise ValueError("messages must hold at least one message")
    instructions, rest = _harmony_messages(listed, names)
    if developer is not None:
        instructions.append(_text(developer, "developer"))
    head: list[Message] = []
    if any(message.author.role is Role.SYSTEM for message in rest):
        if system != SystemContent():
            raise ValueError(
                "messages has a Harmony system message, which is used as it is: state "
                "reasoning_effort, builtin_tools, current_date and knowledge_cutoff in it"
            )
        while rest[0].author.role is Role.SYSTEM:
            head.append(rest.pop(0))
            if not rest:
                break
    else:
        head.append(Message.from_role_and_content(Role.SYSTEM, system))
    if instructions or declared:
        content = DeveloperContent("\n\n".join(instructions) if instructions else None)
        if declared:
            content = content.with_function_tools(declared)
        head.append(Message.from_role_and_content(Role.DEVELOPER, content))
    return Prompt(
        _render(encoding, without_completed_analysis([*head, *rest])),
        [call_header(encoding, *_call_fields(_FUNCTIONS + name)) for name in callable_names],
    )


def message_list(messages: ChatMessages) -> list[ChatMessage]:
    """A conversation as a list; a string is what the user says."""
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    return list(messages)


def without_completed_analysis(messages: list[Message]) -> list[Message]:
    """Leave out the analysis of the turns that a final message has completed.

    What was thought since then is kept: the model needs it when a tool has answered. (The
    official rule looks at the first final message only.)
    """
    finals = [
        index
        for index, message in enumerate(messages)
        if message.author.role is Role.ASSISTANT and message.channel == "final"
    ]
    completed = finals[-1] if finals else -1
    return [m for i, m in enumerate(messages) if i > completed or m.channel != "analysis"]


def is_call(message: Message) -> bool:
    """Whether an assistant's message goes to a tool."""
    return message.author.role is Role.ASSISTANT and message.recipient not in _LISTENERS


def tool_name(recipient: str) -> str:
    """The name of a tool for the user: a function's own, any other recipient as it is."""
    return recipient.removeprefix(_FUNCTIONS) or recipient


def call_header(
    encoding: HarmonyEncoding, channel: str, recipient: str, content_type: str | None
) -> list[int]:
    """The header of a call after its role, in the order in which the model writes it.

    The official renderer puts the recipient before the channel. The format allows both; with the
    model's own order a call that comes back in the history is the tokens that it was made of.
    """
    tokens = [
        encoding.special_id("<|channel|>"),
        *_encode(encoding, channel),
        *_encode(encoding, f" to={recipient}"),
    ]
    if content_type is not None:
        kind = content_type.removeprefix(CONSTRAIN)
        if kind != content_type:
            tokens += [*_encode(encoding, " "), encoding.special_id(CONSTRAIN)]
            tokens += _encode(encoding, kind)
        else:
            tokens += _encode(encoding, f" {content_type}")
    return [*tokens, encoding.special_id("<|message|>")]


def header(encoding: HarmonyEncoding, channel: str) -> list[int]:
    """The header of an assistant's message to the user after its role."""
    return [
        encoding.special_id("<|channel|>"),
        *_encode(encoding, channel),
        encoding.special_id("<|message|>"),
    ]


def assistant_start(encoding: HarmonyEncoding) -> list[int]:
    """The tokens with which an assistant's message begins."""
    return [encoding.special_id("<|start|>"), *_encode(encoding, Role.ASSISTANT.value)]


def _encode(encoding: HarmonyEncoding, text: str) -> list[int]:
    return encoding.encode(text, disallowed_special=())


def _render(encoding: HarmonyEncoding, messages: list[Message]) -> list[int]:
    options = RenderOptions(has_function_tools(Conversation(messages)))
    tokens: list[int] = []
    for message in messages:
        if is_call(message) and message.channel is not None:
            assert message.recipient is not None
            tokens += assistant_start(encoding)
            tokens += call_header(
                encoding, message.channel, message.recipient, message.content_type
            )
            # The content is what a message without channel and recipient has between its
            # header, which is all that an empty one has, and the token that ends it.
            header_length = len(encoding.render(Message(message.author))) - 1
            plain = encoding.render(Message(message.author, message.content))
            tokens += [*plain[header_length:-1], encoding.special_id("<|call|>")]
        else:
            tokens += encoding.render(message, options)
    return tokens + assistant_start(encoding)


# -- what is declared --------------------------------------------------------------------


def _function_tools(
    tools: Iterable[Mapping[str, Any] | ToolDescription] | None,
) -> list[ToolDescription]:
    if isinstance(tools, (str, Mapping)):
        raise TypeError(f"tools must be a list of tools, got {tools!r:.100}")
    found: list[ToolDescription] = []
    for index, tool in enumerate(tools or ()):
        where = f"tools[{index}]"
        if not isinstance(tool, ToolDescription):
            tool = _function_tool(tool, where)
        if not tool.name or any(character.isspace() for character in tool.name):
            raise ValueError(f"{where}: a name must be a word, got {tool.name!r}")
        if any(tool.name == other.name for other in found):
            raise ValueError(f"{where}: there is another tool named {tool.name!r}")
        found.append(tool)
    return found


def _function_tool(tool: Any, where: str) -> ToolDescription:
    if not isinstance(tool, Mapping):
        raise TypeError(f"{where} must be a dict with a function, got {tool!r:.100}")
    if tool.get("type", "function") != "function":
        raise ValueError(
            f"{where}: type must be 'function', got {tool['type']!r}; the tools that the model "
            "knows are declared with builtin_tools"
        )
    function = tool.get("function", tool)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ValueError(f"{where}: a function must be a dict with a name, got {function!r:.100}")
    return ToolDescription(
        function["name"], function.get("description") or "", function.get("parameters") or None
    )


def _allowed(tool_choice: str | Mapping[str, Any], names: list[str]) -> list[str]:
    """Names of the tools of which one must be called."""
    if tool_choice in ("auto", "none"):
        return []
    if tool_choice == "required":
        if not names:
            raise ValueError("tool_choice is 'required', and tools are empty")
        return names
    if isinstance(tool_choice, Mapping) and tool_choice.get("type") == "function":
        function = tool_choice.get("function", tool_choice)
        name = function.get("name") if isinstance(function, Mapping) else None
        if name not in names:
            raise ValueError(f"tool_choice: no tool is named {name!r}, only {names}")
        return [cast(str, name)]
    raise ValueError(
        "tool_choice must be 'auto', 'none', 'required' or {'type': 'function', 'function': "
        f"{{'name': ...}}}}, got {tool_choice!r:.100}"
    )


def _system_content(
    reasoning_effort: str,
    builtin_tools: Iterable[str | ToolNamespaceConfig],
    current_date: str | datetime.date | None,
    knowledge_cutoff: str | None,
) -> SystemContent:
    effort = reasoning_effort.lower() if isinstance(reasoning_effort, str) else reasoning_effort
    if effort not in _EFFORTS:
        raise ValueError(
            f"reasoning_effort must be one of {', '.join(_EFFORTS)}, got {reasoning_effort!r}"
        )
    if isinstance(current_date, datetime.date):
        current_date = current_date.isoformat()
    content = SystemContent(
        reasoning_effort=_EFFORTS[effort],
        conversation_start_date=current_date,
        knowledge_cutoff=knowledge_cutoff,
    )
    if isinstance(builtin_tools, (str, Mapping)):
        raise TypeError(f"builtin_tools must be a sequence of names, got {builtin_tools!r}")
    for tool in builtin_tools:
        if isinstance(tool, str):
            if tool not in _BUILTIN:
                raise ValueError(f"builtin_tools may have {', '.join(_BUILTIN)}, got {tool!r}")
            tool = _BUILTIN[tool]()
        content = content.with_tools(tool)
    return content


# -- messages ----------------------------------------------------------------------------


def _harmony_messages(
    messages: Sequence[Any], names: Sequence[str]
) -> tuple[list[str], list[Message]]:
    """The instructions of the system messages at the beginning, and all other messages.

    `names` are those of the functions that are declared.
    """
    instructions: list[str] = []
    rest: list[Message] = []
    calls: dict[str, Message] = {}
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if isinstance(message, Message):
            rest.append(message)
            continue
        if hasattr(message, "model_dump"):  # as the openai package returns them
            message = message.model_dump(exclude_none=True)
        if not isinstance(message, Mapping):
            raise TypeError(f"{where} must be a dict or a Harmony Message, got {message!r:.100}")
        role = message.get("role")
        if role in ("system", "developer"):
            text = _text(message.get("content"), where)
            if rest:
                content = DeveloperContent(text)
                rest.append(Message.from_role_and_content(Role.DEVELOPER, content))
            else:
                instructions.append(text)
        elif role == "user":
            author = Author(Role.USER, message.get("name"))
            text = _text(message.get("content"), where)
            rest.append(Message.from_author_and_content(author, text))
        elif role == "assistant":
            rest += _assistant_messages(message, where, names, calls)
        elif role == "tool":
            call, answer = _tool_message(message, where, names, calls)
            # The format knows no parallel calls: each is followed by its answer.
            after = next((i + 1 for i, other in enumerate(rest) if other is call), len(rest))
            rest.insert(after, answer)
        else:
            raise ValueError(
                f"{where}: role must be system, developer, user, assistant or tool, got {role!r}"
            )
    return instructions, rest


def _assistant_messages(
    message: Mapping[str, Any], where: str, names: Sequence[str], calls: dict[str, Message]
) -> list[Message]:
    known = ("content", "tool_calls", "reasoning", "reasoning_content", "preamble")
    if not any(name in message for name in known):
        raise ValueError(f"{where}: an assistant's message must have one of {', '.join(known)}")
    found = []
    tool_calls = message.get("tool_calls") or ()
    thought = message.get("reasoning") or message.get("reasoning_content")
    said = message.get("preamble")
    content = message.get("content")
    parts = [("analysis", thought), ("commentary", said)]
    parts.append(("commentary" if tool_calls else "final", content))
    for channel, value in parts:
        if value is None:
            continue
        text = _text(value, where)
        if text or (channel == "final" and not thought):
            found.append(_said(channel, text))
    for position, call in enumerate(tool_calls):
        found.append(_call_message(call, f"{where}.tool_calls[{position}]", names))
        if call.get("id") is not None:
            calls[call["id"]] = found[-1]
    return found


def _said(channel: str, text: str) -> Message:
    return Message.from_role_and_content(Role.ASSISTANT, text).with_channel(channel)


def _call_message(call: Any, where: str, names: Sequence[str]) -> Message:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ValueError(f"{where}: must be a dict with a function and its name, got {call!r:.100}")
    arguments = function.get("arguments", "")
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    channel, recipient, content_type = _call_fields(_recipient(function["name"], names))
    return Message(
        Author(Role.ASSISTANT), [TextContent(arguments)], channel, recipient, content_type
    )


def _tool_message(
    message: Mapping[str, Any], where: str, names: Sequence[str], calls: Mapping[str, Message]
) -> tuple[Message | None, Message]:
    """The call that is answered, if it is known, and the answer."""
    call = calls.get(message.get("tool_call_id", ""))
    name = message.get("name")
    if call is not None:
        assert call.recipient is not None
        recipient, channel = call.recipient, call.channel
    elif isinstance(name, str) and name:
        recipient = _recipient(name, names)
        channel = _call_fields(recipient)[0]
    else:
        raise ValueError(
            f"{where}: a tool's message must have the tool_call_id of an earlier call, or a name; "
            f"got {message.get('tool_call_id')!r}"
        )
    text = _text(message.get("content"), where)
    answer = Message(
        Author(Role.TOOL, recipient), [TextContent(text)], channel, recipient="assistant"
    )
    return call, answer


def _recipient(name: str, names: Sequence[str]) -> str:
    is_function = name in names or ("." not in name and name not in _BUILTIN)
    return _FUNCTIONS + name if is_function else name


def _call_fields(recipient: str) -> tuple[str, str, str]:
    """Channel, recipient and content type of a call, as the model was trained to write them."""
    if recipient.startswith(_FUNCTIONS):
        return "commentary", recipient, f"{CONSTRAIN}json"
    return "analysis", recipient, "code"


def _text(content: Any, where: str) -> str:
    """The text of a content: a string, or text parts, one after the other."""
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping) or not isinstance(content, Sequence):
        raise TypeError(
            f"{where}: content must be a string or a list of text parts, got {content!r:.100}"
        )
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else part
        if kind not in _TEXT_PARTS or not isinstance(part.get("text"), str):
            raise ValueError(f"{where}: gpt-oss reads text only, got a part of type {kind!r:.100}")
        texts.append(part["text"])
    return "".join(texts)
