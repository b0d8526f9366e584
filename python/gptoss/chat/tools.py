"""Python functions as tools: their schemas, and the loop that calls them."""

from __future__ import annotations

import enum
import functools
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from gptoss.chat.declarations import checked_name
from gptoss.chat.messages import ChatMessages, list_messages
from gptoss.chat.result import ChatDelta, ChatResult, ToolCall
from gptoss.chat.stream import ChatStream
from gptoss.errors import ContextLengthError
from gptoss.harmony import HarmonyEncoding
from gptoss.harmony.encoding import replace_surrogates
from gptoss.harmony.recipients import FUNCTIONS

Functions: TypeAlias = Mapping[str, Callable[..., Any]] | Iterable[Callable[..., Any]]

_SIMPLE_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number"}
_LISTS = (list, Sequence, Iterable)
_JSON_TYPES: dict[str, Any] = {
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "array": list,
    "object": dict,
}
_TOKEN_CHARS = 128  # of the longest tokens of the published vocabulary, which are white space


# -- schemas -----------------------------------------------------------------------------


def tool_schema(function: Callable[..., Any], name: str | None = None) -> dict[str, Any]:
    """Describe a function as the OpenAI API describes tools.

    Parameters
    ----------
    function : callable
        Its parameters have type hints: str, int, float, bool, list, dict, Literal, an Enum,
        Optional of these, or none for any value. What a `functools.partial` has bound is not
        shown. The docstring tells what it does; what it says
        about parameters (numpydoc, Google's style, `:param name:`) and `Annotated[type, "text"]`
        become their descriptions.
    name : str, optional
        None takes the function's own.

    Returns
    -------
    dict
        {"type": "function", "function": {"name": ..., "description": ..., "parameters": ...}},
        with the parameters as a JSON schema, and left out if there are none.

    Raises
    ------
    TypeError
        A parameter's type cannot be described, or it has no name to be called by.
    ValueError
        The function's name is none that a tool may have.
    """
    name = checked_name(_name(function) if name is None else name, "[tool_schema]", of_tool=True)
    target = _target(function)
    doc = inspect.getdoc(target) or inspect.getdoc(_hinted(target))
    summary, about = _read_docstring(doc or "")
    properties: dict[str, Any] = {}
    required = []
    for parameter, hint in _parameters(function, name):
        schema = _json_schema(hint, f"[tool_schema] {name}: parameter {parameter.name}")
        if parameter.name in about:
            schema.setdefault("description", about[parameter.name])
        if parameter.default is inspect.Parameter.empty:
            required.append(parameter.name)
        elif parameter.default is not None:
            default = parameter.default
            if isinstance(default, enum.Enum):
                default = default.value
            if _is_json(default):
                schema["default"] = default
        properties[parameter.name] = schema
    parameters = {"type": "object", "properties": properties, "required": required}
    described: dict[str, Any] = {"name": name, "description": summary}
    if properties:
        described["parameters"] = parameters
    return {"type": "function", "function": described}


def _target(function: Callable[..., Any]) -> Callable[..., Any]:
    """What is behind partials and decorators: it has the name, the docstring and the hints."""
    while isinstance(function, functools.partial) or hasattr(function, "__wrapped__"):
        if isinstance(function, functools.partial):
            function = function.func
        else:
            function = inspect.unwrap(function)
    return function


def _hinted(target: Callable[..., Any]) -> Any:
    """What a call of it runs."""
    if inspect.isclass(target):
        return target.__init__
    return target if inspect.isroutine(target) else type(target).__call__


def _name(function: Callable[..., Any]) -> str:
    target = _target(function)
    return str(getattr(target, "__name__", type(target).__name__))


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _parameters(function: Callable[..., Any], name: str) -> list[tuple[inspect.Parameter, Any]]:
    """The parameters of a function and their types, without those that a partial has bound."""
    try:
        hints = typing.get_type_hints(_hinted(_target(function)), include_extras=True)
        parameters = inspect.signature(function).parameters
    except Exception as error:  # whatever evaluating the hints raises
        raise TypeError(f"[tool_schema] {name}: {error}") from error
    bound = function.keywords if isinstance(function, functools.partial) else {}
    found = []
    for parameter in parameters.values():
        if parameter.name in bound:
            continue
        if parameter.kind not in (
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            inspect.Parameter.KEYWORD_ONLY,
        ):
            raise TypeError(
                f"[tool_schema] {name}: parameters must have a name to be called by, got "
                f"{parameter}"
            )
        found.append((parameter, hints.get(parameter.name, Any)))
    return found


def _json_schema(hint: Any, where: str) -> dict[str, Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or hint is object:
        return {}
    if hint in _SIMPLE_TYPES:
        return {"type": _SIMPLE_TYPES[hint]}
    if origin is typing.Annotated:
        schema = _json_schema(arguments[0], where)
        texts = [text for text in arguments[1:] if isinstance(text, str)]
        return schema | ({"description": texts[0]} if texts else {})
    if origin is typing.Literal:
        return _choices(arguments, where)
    if inspect.isclass(hint) and issubclass(hint, enum.Enum):
        return _choices([member.value for member in hint], where)
    if origin in (typing.Union, types.UnionType):
        kinds = [kind for kind in arguments if kind is not type(None)]
        nullable = {"nullable": True} if len(kinds) < len(arguments) else {}
        if len(kinds) == 1:
            return _json_schema(kinds[0], where) | nullable
        if all(kind in _SIMPLE_TYPES for kind in kinds):
            return {"type": [_SIMPLE_TYPES[kind] for kind in kinds]} | nullable
    kind = origin or hint
    if kind in _LISTS:
        items = {"items": _json_schema(arguments[0], where)} if arguments else {}
        return {"type": "array", **items}
    if kind in (dict, Mapping):
        return {"type": "object"}
    raise TypeError(f"{where}: the type {hint!r} cannot be described as JSON")


def _choices(values: Sequence[Any], where: str) -> dict[str, Any]:
    kinds = {type(value) for value in values}
    if len(kinds) != 1 or not kinds <= _SIMPLE_TYPES.keys():
        raise TypeError(f"{where}: choices must be strings or numbers of one type, got {values!r}")
    return {"type": _SIMPLE_TYPES[kinds.pop()], "enum": list(values)}


_NUMPY_PARAMETERS = re.compile(r"^Parameters\n-{3,}\n(.*?)(?=^\S[^\n]*\n-{3,}$|\Z)", re.M | re.S)
_GOOGLE_PARAMETERS = re.compile(r"^(?:Args|Arguments|Parameters):\n((?:[ \t]+.*\n?|\n)*)", re.M)
_FIELD = re.compile(r"^:param (?:[^:\n]* )?(\w+):(.*(?:\n[ \t]+.*)*)", re.M)
_ANY_SECTION = re.compile(r"^(?:\w[\w ]*\n-{3,}|(?:[A-Z]\w+):\n[ \t]|:\w+.*:)", re.M)


def _read_docstring(doc: str) -> tuple[str, dict[str, str]]:
    """What a function does, and what its docstring says about each parameter."""
    about = {name: _one_line(text) for name, text in _FIELD.findall(doc)}
    if match := _NUMPY_PARAMETERS.search(doc):
        entries = re.findall(r"^([\w, ]+?)(?: ?:.*)?\n((?:[ \t]+.*\n?|\n)*)", match[1] + "\n", re.M)
        for names, text in entries:
            about |= dict.fromkeys(re.findall(r"\w+", names), _one_line(text))
    elif match := _GOOGLE_PARAMETERS.search(doc):
        body = inspect.cleandoc(match[1])
        entries = re.findall(r"^(\w+)(?: *\(.*?\))?:(.*(?:\n[ \t]+.*)*)", body, re.M)
        about |= {name: _one_line(text) for name, text in entries}
    section = _ANY_SECTION.search(doc)
    summary = doc[: section.start()] if section else doc
    return summary.strip(), {name: text for name, text in about.items() if text}


def _one_line(text: str) -> str:
    return " ".join(text.split())


# -- the loop ----------------------------------------------------------------------------


@dataclass(frozen=True)
class ToolOutput:
    """What a tool has answered.

    Attributes
    ----------
    call : ToolCall
        The call.
    text : str
        What the model is told.
    failed : bool
        Whether that is an error.
    """

    call: ToolCall
    text: str
    failed: bool

    @property
    def message(self) -> dict[str, Any]:
        """The tool's message in the conversation."""
        return {
            "role": "tool",
            "tool_call_id": self.call.id,
            "name": self.call.name,
            "content": self.text,
        }


def named_functions(tools: Functions) -> dict[str, Callable[..., Any]]:
    """Functions by the names under which the model knows them."""
    if isinstance(tools, Mapping):
        functions = dict(tools)
    else:
        functions = {}
        if not isinstance(tools, Iterable):
            raise TypeError(f"[run] tools must be a list or a dict of functions, got {tools!r}")
        for function in tools:
            name = _name(function)
            if name in functions:
                raise ValueError(
                    f"[run] tools: a function needs a name of its own, got {function!r}; pass "
                    "{name: function}"
                )
            functions[name] = function
    for name, function in functions.items():
        if not callable(function) or inspect.iscoroutinefunction(_target(function)):
            raise TypeError(f"[run] tools: {name} must be a plain function, got {function!r}")
        checked_name(name, "[run] tools", of_tool=True)
    return functions


def run_steps(
    chat: Callable[..., ChatStream],
    messages: ChatMessages,
    tools: Functions,
    max_steps: int = 8,
    tool_choice: Any = "auto",
    **chat_args: Any,
) -> Generator[ChatDelta | ToolOutput, None, ChatResult]:
    """Chat and call functions until there is an answer; yields what happens, returns the result.

    `chat` is `LLM.chat`.
    """
    functions = named_functions(tools)
    schemas = [tool_schema(function, name) for name, function in functions.items()]
    if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:
        raise ValueError(f"[run] max_steps must be a positive integer, got {max_steps!r}")
    params = chat_args.get("params")
    n = chat_args.get("n") or (1 if params is None else params.n)
    if n != 1:
        raise ValueError(f"[run] n must be 1, got {n}: calls go on from one answer")
    conversation = list_messages(messages)
    result: ChatResult | None = None
    while True:
        try:
            stream = chat(
                conversation, stream=True, tools=schemas, tool_choice=tool_choice, **chat_args
            )
        except ContextLengthError:
            if result is None:
                raise
            return replace(result, messages=conversation, finish_reason="length")
        with stream:
            yield from stream
        result = stream.result
        assert result is not None
        max_steps -= 1
        if result.finish_reason != "tool_calls" or max_steps == 0:
            return result
        conversation = list(result.messages)
        for call in result.tool_calls:
            output = call_function(call, functions)
            # Half of what is left, so that the answer, and other calls, have room.
            text = _cut(output.text, stream.harmony, stream.room_tokens // 2)
            output = replace(output, text=text)
            conversation.append(output.message)
            yield output
        tool_choice = "none" if tool_choice == "none" else "auto"  # what was forced is done
        chat_args.pop("continue_final_message", None)


def _cut(text: str, encoding: HarmonyEncoding, most_tokens: int) -> str:
    """As much of a text as fits, and a note if that is not all."""
    if len(text.encode()) <= most_tokens:
        return text  # a token is a byte at least
    most_tokens = max(0, most_tokens)
    head = text[: most_tokens * _TOKEN_CHARS]
    ids = encoding.encode(head, disallowed_special=())
    if len(head) == len(text) and len(ids) <= most_tokens:
        return text
    note = f"\n[cut: there is no room for all of the {len(text)} characters]"
    most_tokens -= len(encoding.encode(note, disallowed_special=()))
    return encoding.decode(ids[: max(0, most_tokens)], errors="ignore") + note


def call_function(call: ToolCall, functions: Mapping[str, Callable[..., Any]]) -> ToolOutput:
    """Call the function that the model wants called; whatever goes wrong becomes a text.

    Only what is no error at all, such as KeyboardInterrupt, passes through.
    """
    function = functions.get(call.name)
    if function is None or call.recipient != FUNCTIONS + call.name:
        known = ", ".join(functions) or "none"
        return _error(call, f"there is no tool {call.recipient}; there are: {known}")
    arguments = call.parsed_arguments
    if arguments is None:
        return _error(call, f"the arguments must be a JSON object, got {call.arguments}")
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        return _error(call, f"{call.name}: {error}")
    try:
        for parameter, hint in _parameters(function, call.name):
            if parameter.name not in arguments:
                continue
            value = arguments[parameter.name]
            arguments[parameter.name] = _converted(value, hint)
            schema = _json_schema(hint, parameter.name)
            wrong = _mismatch(value, schema, parameter.name)
            if wrong is not None and not (value is None and parameter.default is None):
                return _error(call, f"{call.name}: {wrong}")
        value = function(**arguments)
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        return ToolOutput(call, replace_surrogates(text), failed=False)
    except BaseException as error:
        if not _is_failure(error):
            raise
        return _error(call, _told(error))  # the model may try again


def _is_failure(error: BaseException) -> bool:
    import asyncio  # imported where it is used: most programs do without

    # A CancelledError is of a loop within the function: one around it waits for the function.
    return isinstance(error, (Exception, SystemExit, asyncio.CancelledError))


def _told(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # of its __str__
        return type(error).__name__


def _converted(value: Any, hint: Any) -> Any:
    """Members of an Enum for their values, and integers for integral numbers."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if value is None:
        return None
    if inspect.isclass(hint) and issubclass(hint, enum.Enum):
        return hint(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if origin is typing.Annotated:
        return _converted(value, arguments[0])
    if origin in (typing.Union, types.UnionType):
        kinds = [kind for kind in arguments if kind is not type(None)]
        return _converted(value, kinds[0]) if len(kinds) == 1 else value
    if isinstance(value, list) and arguments and origin in _LISTS:
        return [_converted(item, arguments[0]) for item in value]
    return value


def _mismatch(value: Any, schema: Mapping[str, Any], name: str) -> str | None:
    """What is wrong with an argument, None if nothing is."""
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not kinds or (value is None and schema.get("nullable")):
        return None
    if not any(_is_of(value, kind) for kind in kinds):
        return f"{name} must be of type {' or '.join(kinds)}, got {_shown(value)}"
    if "enum" in schema and value not in schema["enum"]:
        choices = ", ".join(map(_shown, schema["enum"]))
        return f"{name} must be one of {choices}, got {_shown(value)}"
    if isinstance(value, list) and "items" in schema:
        wrong = (
            _mismatch(item, schema["items"], f"{name}[{index}]") for index, item in enumerate(value)
        )
        return next((text for text in wrong if text is not None), None)
    return None


def _is_of(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer":
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return isinstance(value, _JSON_TYPES[kind])


def _shown(value: Any) -> str:
    return f"{json.dumps(value, ensure_ascii=False):.100}"


def _error(call: ToolCall, text: str) -> ToolOutput:
    return ToolOutput(call, replace_surrogates(f"Error: {text}"), failed=True)
