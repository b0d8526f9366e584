"""OpenAI chat messages to the tokens of a Harmony prompt."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from gptoss.chat.declarations import (
    Declared,
    ToolChoice,
    Tools,
    checked_name,
    forced_functions,
    function_tools,
    namespace_recipients,
    system_content,
)
from gptoss.chat.fields import ANSWERED_ID, CALL_ID, as_mapping, one_of, read_fields
from gptoss.chat.openai import SEPARATOR
from gptoss.chat.response_format import ResponseFormat
from gptoss.harmony import (
    Author,
    Content,
    Conversation,
    DeveloperContent,
    HarmonyEncoding,
    Message,
    Role,
    SystemContent,
    TextContent,
    ToolNamespaceConfig,
)
from gptoss.harmony.recipients import FUNCTIONS, LISTENERS
from gptoss.harmony.render import CONSTRAIN, has_function_tools, message_tokens
from gptoss.harmony.vocabulary import SPECIALS

ChatMessage: TypeAlias = Mapping[str, Any] | Message
ChatMessages: TypeAlias = str | Sequence[ChatMessage] | Conversation

KNOWLEDGE_CUTOFF = "2024-06"  # SystemContent's own default

_ROLES = ("system", "developer", "user", "assistant", "tool")
# Keys and contents that only Harmony's own dicts have.
_HARMONY_KEYS = ("channel", "recipient", "content_type")
_HARMONY_CONTENTS = ("system_content", "developer_content")
# Where the text of each type of content part stands, and what it is.
_PARTS = {
    "text": (("text",), "text"),
    "input_text": (("text",), "text"),
    "output_text": (("text",), "text"),
    "refusal": (("refusal",), "text"),
    "reasoning": (("text", "reasoning"), "reasoning"),
    "reasoning_text": (("text",), "reasoning"),
    "thinking": (("thinking",), "reasoning"),
}


@dataclass(frozen=True)
class Prompt:
    """What the model is asked.

    Attributes
    ----------
    token_ids : list of int
        The conversation and the start of the assistant's message.
    openings : list of list of int
        The rest of that message's header, if a call is forced: one for each tool that may be
        called; or the message that is to be continued. Empty if the model is free.
    declared : Declared
        The tools that the model may call.
    continued : list of Message
        What the last message of the conversation says, if it is to be continued: the last of
        these.
    callable : tuple of str
        Whom the model may call: of those declared, all but what `tool_choice="none"` keeps from it.
    strict : dict of str to dict
        Of those that it may call, the schemas of those whose arguments must follow one.
    """

    token_ids: list[int]
    openings: list[list[int]] = field(default_factory=list)
    declared: Declared = field(default_factory=Declared)
    continued: list[Message] = field(default_factory=list)
    callable: tuple[str, ...] = ()
    strict: dict[str, dict[str, Any]] = field(default_factory=dict)


def build_prompt(
    encoding: HarmonyEncoding,
    messages: ChatMessages,
    *,
    tools: Tools | None = None,
    tool_choice: ToolChoice | None = "auto",
    reasoning_effort: str | None = "medium",
    developer: str | None = None,
    builtin_tools: Iterable[str | ToolNamespaceConfig] | None = (),
    current_date: str | datetime.date | None = None,
    knowledge_cutoff: str | None = KNOWLEDGE_CUTOFF,
    continue_final_message: bool = False,
    response_format: ResponseFormat | None = None,
) -> Prompt:
    """Render a chat; the parameters are those of `LLM.chat`, and so are the errors."""
    given = function_tools(tools)
    names = [function.description.name for function in given]
    forced_names = forced_functions(tool_choice, names)
    functions = [] if tool_choice == "none" else given
    system = system_content(reasoning_effort, builtin_tools, current_date, knowledge_cutoff)
    listed = _listed(messages)
    declared = _declared(names, system, listed)
    reader = _Reader(declared)
    for index, message in enumerate(listed):
        reader.read(message, f"messages[{index}]")
    instructions, rest = reader.instructions, reader.messages()
    if developer is not None:
        instructions.append(_text(developer, "developer"))
    head: list[Message] = []
    if any(message.author.role is Role.SYSTEM for message in rest):
        if system != SystemContent():
            raise ValueError(
                "messages has a Harmony system message, which is used as it is: state "
                "reasoning_effort, builtin_tools, current_date and knowledge_cutoff in it"
            )
        while rest and rest[0].author.role is Role.SYSTEM:
            head.append(rest.pop(0))
    else:
        head.append(Message.from_role_and_content(Role.SYSTEM, system))
    told: list[Content] = []
    if instructions or functions:
        content = DeveloperContent("\n\n".join(instructions) if instructions else None)
        if functions:
            content = content.with_function_tools([each.description for each in functions])
        told.append(content)
    if response_format is not None:
        told.append(TextContent(("\n\n" if told else "") + response_format.section))
    if told:
        head.append(Message.from_role_and_contents(Role.DEVELOPER, told))
    openings = [call_header(encoding, *call_fields(FUNCTIONS + name)) for name in forced_names]
    kept_from_it = {FUNCTIONS + name for name in names if tool_choice == "none"}
    tools_of: dict[str, Any] = {
        "declared": declared,
        "callable": tuple(each for each in declared.recipients if each not in kept_from_it),
        "strict": {
            FUNCTIONS + each.description.name: each.schema
            for each in functions
            if each.schema is not None
        },
    }
    if not continue_final_message:
        kept = without_completed_analysis([*head, *rest])
        return Prompt(_render(encoding, kept), openings, **tools_of)
    if openings:
        raise ValueError("continue_final_message: a tool_choice that forces a call opens another")
    _check_continued(reader.last)
    # The turn that it belongs to goes on, and so does what was thought in it.
    kept = without_completed_analysis([*head, *rest[:-1]])
    opened = [_opened(encoding, rest[-1])]
    return Prompt(_render(encoding, kept), opened, continued=reader.last, **tools_of)


def _listed(messages: Any) -> list[Message | Mapping[str, Any]]:
    """The messages: Harmony's, or dicts of OpenAI's."""
    given = enumerate(list_messages(messages))
    listed = [_message(message, f"messages[{index}]") for index, message in given]
    if not listed:
        raise ValueError("messages must hold at least one message")
    return listed


def list_messages(messages: ChatMessages) -> list[ChatMessage]:
    """The messages as they are given: of a list, of a conversation, or a string of the user's."""
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    inner = getattr(messages, "messages", messages)
    if isinstance(inner, (str, bytes, Mapping)) or not isinstance(inner, Iterable):
        raise TypeError(f"messages must be a list of messages, got {messages!r:.100}")
    return list(inner)


def _message(message: Any, where: str) -> Message | Mapping[str, Any]:
    if isinstance(message, Message):
        return message
    fields = as_mapping(message)
    if fields is None:
        raise TypeError(f"{where} must be a dict or a Harmony Message, got {message!r:.100}")
    role = fields.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise ValueError(
            f"{where}: role must be system, developer, user, assistant or tool, got {role!r:.100}"
        )
    if not _is_harmony(fields):
        return fields
    fields = read_fields(fields, "Harmony message", where)
    if "content" not in fields:
        raise ValueError(f"{where}: a Harmony message must have content")
    try:
        return Message.from_dict(fields)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


def _is_harmony(fields: Mapping[str, Any]) -> bool:
    """Whether this is what Harmony's `Message.to_dict` makes, and not OpenAI's."""
    if any(fields.get(key) is not None for key in _HARMONY_KEYS):
        return True
    content = fields.get("content")
    return isinstance(content, list) and any(
        isinstance(part, Mapping) and part.get("type") in _HARMONY_CONTENTS for part in content
    )


def _declared(
    names: Sequence[str], system: SystemContent, messages: Sequence[Message | Mapping[str, Any]]
) -> Declared:
    """The tools that the arguments declare, and those of Harmony messages."""
    functions, builtin = list(names), list(namespace_recipients(system.tools))
    for message in messages:
        for content in message.content if isinstance(message, Message) else ():
            if isinstance(content, (SystemContent, DeveloperContent)):
                for recipient in namespace_recipients(content.tools):
                    bare = recipient.removeprefix(FUNCTIONS)
                    (builtin if bare == recipient else functions).append(bare)
    return Declared(tuple(functions), tuple(builtin))


def _check_continued(last: list[Message]) -> None:
    """Refuse to continue what is no text of the assistant."""
    message = last[-1] if last else None
    if message is None or message.author != Author(Role.ASSISTANT):
        raise ValueError("continue_final_message: the last message must be the assistant's")
    if is_call(message):
        raise ValueError("continue_final_message: the last message ends in a call")


def _opened(encoding: HarmonyEncoding, message: Message) -> list[int]:
    """A message after its role, without the token that ends it."""
    return _message_tokens(encoding, message)[len(assistant_start(encoding)) : -1]


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
    return message.author.role is Role.ASSISTANT and message.recipient not in LISTENERS


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
    function_tools = has_function_tools(Conversation(messages))
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
            header_length = len(_message_tokens(encoding, Message(message.author))) - 1
            plain = _message_tokens(encoding, Message(message.author, message.content))
            tokens += [*plain[header_length:-1], encoding.special_id("<|call|>")]
        else:
            tokens += _message_tokens(encoding, message, function_tools)
    return tokens + assistant_start(encoding)


def _message_tokens(
    encoding: HarmonyEncoding, message: Message, function_tools: bool = False
) -> list[int]:
    """As `HarmonyEncoding.render`, but a lone surrogate becomes U+FFFD."""
    special = {name: encoding.special_id(name) for name in SPECIALS}
    return message_tokens(message, lambda text: _encode(encoding, text), special, function_tools)


# -- messages ----------------------------------------------------------------------------


@dataclass
class _Call:
    """A call of the conversation, and what has answered it.

    `turn` counts the user's messages before it.
    """

    message: Message
    name: str
    turn: int
    id: str | int | None = None
    answers: list[Message] = field(default_factory=list)


class _Reader:
    """Reads the messages of a conversation, one after the other.

    Attributes
    ----------
    instructions : list of str
        Those of the system messages at the beginning.
    last : list of Message
        What the last message was made into.
    """

    def __init__(self, declared: Declared) -> None:
        self.instructions: list[str] = []
        self.last: list[Message] = []
        self._declared = declared
        self._found: list[Message | _Call] = []
        self._calls: list[_Call] = []
        self._turn = 0

    def messages(self) -> list[Message]:
        """All but the instructions; the format has no parallel calls: each has its answer next."""
        found = []
        for item in self._found:
            if isinstance(item, _Call):
                found += [item.message, *item.answers]
            else:
                found.append(item)
        return found

    def read(self, message: Message | Mapping[str, Any], where: str) -> None:
        """Take the next message."""
        self.last = []
        if isinstance(message, Message):
            self._add_harmony(message, where)
            return
        fields, role = message, message["role"]
        if role == "assistant":
            self._add_assistant(read_fields(fields, "assistant message", where), where)
        elif role == "tool":
            self._add_answer(read_fields(fields, "tool message", where), where)
        elif role == "user":
            fields = read_fields(fields, "user message", where)
            name = fields.get("name")
            author = Author(Role.USER, None if name is None else checked_name(name, where))
            text = _text(fields.get("content"), where)
            self._add(Message.from_author_and_content(author, text))
        else:
            text = _text(read_fields(fields, "system message", where).get("content"), where)
            if self._found:
                self._add(Message.from_role_and_content(Role.DEVELOPER, DeveloperContent(text)))
            else:
                self.instructions.append(text)

    def _add(self, message: Message) -> None:
        self._turn += message.author.role is Role.USER
        self._found.append(message)
        self.last.append(message)

    def _add_call(self, message: Message, name: str, call_id: str | int | None = None) -> None:
        call = _Call(message, name, self._turn, call_id)
        self._found.append(call)
        self._calls.append(call)
        self.last.append(message)

    def _add_harmony(self, message: Message, where: str) -> None:
        header_parts = (message.author.name, message.recipient, message.channel)
        for part in (*header_parts, message.content_type):
            if part is not None and not re.fullmatch(r"\S+", part):
                raise ValueError(f"{where}: a header's words have no white space, got {part!r}")
        if is_call(message):
            self._add_call(message, str(message.recipient).removeprefix(FUNCTIONS))
            return
        if message.author.role is Role.TOOL and message.author.name is not None:
            call = self._answered(None, message.author.name.removeprefix(FUNCTIONS))
            if call is not None and call is self._found[-1]:
                call.answers.append(message)
                return
        self._add(message)

    # -- the assistant's -----------------------------------------------------------------

    def _add_assistant(self, fields: Mapping[str, Any], where: str) -> None:
        said, thought = _said_and_thought(fields, where)
        preamble = fields.get("preamble")
        calls = _calls_of(fields, where)
        texts = [("analysis", thought)]
        if preamble is not None:
            texts.append(("commentary", _text(preamble, where)))
        if said is not None:
            texts.append(("commentary" if calls else "final", said))
        for channel, text in texts:
            if text or (channel == "final" and not thought):
                content = Message.from_role_and_content(Role.ASSISTANT, text)
                self._add(content.with_channel(channel))
        for call, call_where in calls:
            self._read_call(call, call_where)
        if not self.last:
            raise ValueError(
                f"{where}: an assistant message must have something to show: content, refusal, "
                "reasoning, preamble or tool_calls; leave it out if it has nothing"
            )

    def _read_call(self, call: Mapping[str, Any], where: str) -> None:
        if call.get("type", "function") != "function":
            raise ValueError(f"{where}: type must be 'function', got {call['type']!r:.100}")
        inner = call.get("function")
        if as_mapping(inner) is None:
            raise ValueError(f"{where}: must be a dict with a function and its name, got {call!r}")
        function = read_fields(inner, "called function", f"{where}.function")
        name = _bare_name(function.get("name"), where)
        arguments = function.get("arguments", "")
        if not isinstance(arguments, str):
            try:
                arguments = json.dumps(arguments, ensure_ascii=False)
            except (TypeError, ValueError, RecursionError) as error:
                raise TypeError(f"{where}: arguments must be JSON: {error}") from error
        recipient = call.get("recipient")
        if recipient is None:
            recipient = self._declared.recipient(name)
        else:
            _bare_name(recipient, f"{where}.recipient")
        channel, recipient, content_type = call_fields(recipient)
        author, content = Author(Role.ASSISTANT), [TextContent(arguments)]
        message = Message(author, list(content), channel, recipient, content_type)
        self._add_call(message, name, _id(call, CALL_ID, where))

    # -- answers -------------------------------------------------------------------------

    def _add_answer(self, fields: Mapping[str, Any], where: str) -> None:
        call_id = _id(fields, ANSWERED_ID, where)
        name = one_of(fields, ("name", "tool_name"), where)
        if name is not None and name != "":
            name = _bare_name(name, where)
        text = _text(fields.get("content"), where)
        call = self._answered(call_id, name)
        if call is not None:
            recipient, channel = call.message.recipient, call.message.channel
        elif name:
            recipient = self._declared.recipient(name)
            channel = call_fields(recipient)[0]
        else:
            raise ValueError(
                f"{where}: a tool's message must have the tool_call_id of an earlier call, or a "
                f"name; got {call_id!r:.100}"
            )
        author = Author(Role.TOOL, recipient)
        answer = Message(author, [TextContent(text)], channel, recipient="assistant")
        if call is None:
            self._add(answer)
        else:
            call.answers.append(answer)
            self.last.append(answer)

    def _answered(self, call_id: str | int | None, name: str | None) -> _Call | None:
        """The call that an answer belongs to.

        That with its id. Where ids repeat, or there is none, that of its name; and of several the
        first that is open, in the latest turn that has one.
        """
        with_id = [call for call in self._calls if call_id is not None and call.id == call_id]
        found = with_id
        if not with_id:
            found = [call for call in self._calls if not call.id]
            # An id that no call has is the client's own; without one it may be any call's.
            if not call_id and all(call.answers for call in found):
                found = self._calls
        named = [call for call in found if call.name == name]
        if named or (name and not with_id):
            found = named
        is_open = [call for call in found if not call.answers]
        if is_open:
            turn = max(call.turn for call in is_open)
            return next(call for call in is_open if call.turn == turn)
        return found[-1] if found and call_id is not None else None


def _bare_name(name: Any, where: str) -> str:
    """The name of a tool, as the user knows it."""
    bare = name.removeprefix(FUNCTIONS) if isinstance(name, str) else name
    return checked_name(bare, where, of_tool=True)


def _id(fields: Mapping[str, Any], names: Sequence[str], where: str) -> str | int | None:
    found = one_of(fields, names, where)
    if found is not None and not isinstance(found, (str, int)):
        raise TypeError(f"{where}: {names[0]} must be a string, got {found!r:.100}")
    return found


def call_fields(recipient: str) -> tuple[str, str, str]:
    """Channel, recipient and content type of a call, as the model was trained to write them."""
    if recipient.startswith(FUNCTIONS):
        return "commentary", recipient, f"{CONSTRAIN}json"
    return "analysis", recipient, "code"


def _calls_of(fields: Mapping[str, Any], where: str) -> list[tuple[dict[str, Any], str]]:
    """The calls of an assistant's message, and what errors call them."""
    calls = fields.get("tool_calls", ())
    if isinstance(calls, (str, Mapping)) or not isinstance(calls, Iterable):
        raise TypeError(f"{where}: tool_calls must be a list of calls, got {calls!r:.100}")
    found = []
    for index, call in enumerate(calls):
        call_where = f"{where}.tool_calls[{index}]"
        if as_mapping(call) is None:
            raise ValueError(
                f"{call_where}: must be a dict with a function and its name, got {call!r:.100}"
            )
        found.append((read_fields(call, "tool call", call_where), call_where))
    if fields.get("function_call"):
        if found:
            raise ValueError(f"{where}: pass tool_calls or function_call, not both")
        found.append(({"function": fields["function_call"]}, f"{where}.function_call"))
    return found


def _said_and_thought(fields: Mapping[str, Any], where: str) -> tuple[str | None, str]:
    """What an assistant's message tells the user, and its reasoning, under whatever keys."""
    said: list[str] = []
    thoughts: list[str] = []
    for kind, text in _parts(fields.get("content", ()), where):
        (said if kind == "text" else thoughts).append(text)
    thoughts += (text for _, text in _parts(fields.get("thinking_blocks", ()), where))
    has_text = "content" in fields and (said or not thoughts)
    for key in ("reasoning", "reasoning_content", "thinking"):
        if key in fields:
            thoughts.append(_text(fields[key], f"{where}.{key}"))
    details = fields.get("reasoning_details", ())
    if isinstance(details, (str, Mapping)) or not isinstance(details, Iterable):
        raise TypeError(f"{where}: reasoning_details must be a list, got {details!r:.100}")
    for index, detail in enumerate(details):
        detail_where = f"{where}.reasoning_details[{index}]"
        found = read_fields(detail, "reasoning detail", detail_where)
        for key in ("text", "summary"):
            if key in found:
                thoughts.append(_text(found[key], detail_where))
    answer = "".join(said) if has_text else None
    if fields.get("refusal"):
        refusal = _text(fields["refusal"], f"{where}.refusal")
        answer = f"{answer}{SEPARATOR}{refusal}" if answer and answer != refusal else refusal
    # Clients send the same text under several keys.
    distinct: list[str] = []
    for thought in thoughts:
        if not any(thought in other for other in distinct):
            distinct.append(thought)
    return answer, SEPARATOR.join(distinct)


def _text(content: Any, where: str) -> str:
    """The text of a content: a string, or text parts, one after the other."""
    parts = _parts(content, where)
    for kind, _ in parts:
        if kind != "text":
            raise ValueError(f"{where}: only an assistant message's content has parts of {kind}")
    return "".join(text for _, text in parts)


def _parts(content: Any, where: str) -> list[tuple[str, str]]:
    """The kind, "text" or "reasoning", and the text of each part of a content."""
    if isinstance(content, str):
        return [("text", content)]
    if isinstance(content, Mapping) or not isinstance(content, Sequence):
        raise TypeError(
            f"{where}: content must be a string or a list of text parts, got {content!r:.100}"
        )
    found = []
    for part in content:
        fields = as_mapping(part)
        part_type = part if fields is None else fields.get("type")
        if not isinstance(part_type, str) or fields is None or part_type not in _PARTS:
            raise ValueError(
                f"{where}: gpt-oss reads text only, got a part of type {part_type!r:.100}"
            )
        keys, kind = _PARTS[part_type]
        values = read_fields(fields, "content part", where)
        text = one_of(values, keys, where)
        others = [name for name in values if name not in (*keys, "type")]
        if not isinstance(text, str) or others:
            raise ValueError(
                f"{where}: a part of type {part_type!r} must have a string as its {keys[0]}, and "
                f"nothing else; got {part!r:.100}"
            )
        found.append((kind, text))
    return found
