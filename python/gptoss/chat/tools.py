"""Python functions as tools: their schemas, and the loop that calls them."""

from __future__ import annotations

import enum
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from gptoss.chat.messages import ChatMessage, ChatMessages
from gptoss.chat.result import ChatDelta, ChatResult, ToolCall
from gptoss.chat.stream import ChatStream

Functions: TypeAlias = Mapping[str, Callable[..., Any]] | Iterable[Callable[..., Any]]

_SIMPLE_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number"}


# -- schemas -----------------------------------------------------------------------------


def tool_schema(function: Callable[..., Any], name: str | None = None) -> dict[str, Any]:
    """Describe a function as the OpenAI API describes tools.

    Parameters
    ----------
    function : callable
        Its parameters have type hints: str, int, float, bool, list, dict, Literal, an Enum,
        Optional of these, or none for any value. The docstring tells what it does; what it says
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
    """
    if name is None:
        name = str(getattr(function, "__name__", type(function).__name__))
    summary, about = _read_docstring(inspect.getdoc(function) or "")
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
            if isinstance(default, (str, int, float, bool, list, dict)):
                schema["default"] = default
        properties[parameter.name] = schema
    parameters = {"type": "object", "properties": properties, "required": required}
    described: dict[str, Any] = {"name": name, "description": summary}
    if properties:
        described["parameters"] = parameters
    return {"type": "function", "function": described}


def _parameters(function: Callable[..., Any], name: str) -> list[tuple[inspect.Parameter, Any]]:
    """The parameters of a function and their types."""
    hinted = function
    if not inspect.isroutine(function) and not inspect.isclass(function):
        hinted = type(function).__call__
    try:
        hints = typing.get_type_hints(hinted, include_extras=True)
    except NameError as error:
        raise TypeError(f"[tool_schema] {name}: {error}") from error
    found = []
    for parameter in inspect.signature(function).parameters.values():
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
    if kind in (list, Sequence, Iterable):
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
        for function in tools:
            name = getattr(function, "__name__", None)
            if name is None or name in functions:
                raise ValueError(
                    f"[run] tools: a function needs a name of its own, got {function!r}; pass "
                    "{name: function}"
                )
            functions[name] = function
    for name, function in functions.items():
        if not callable(function) or inspect.iscoroutinefunction(function):
            raise TypeError(f"[run] tools: {name} must be a plain function, got {function!r}")
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
    conversation: list[ChatMessage] = list(messages)
    while True:
        with chat(
            conversation, stream=True, tools=schemas, tool_choice=tool_choice, **chat_args
        ) as stream:
            yield from stream
        result = stream.result
        assert result is not None
        max_steps -= 1
        if result.finish_reason != "tool_calls" or max_steps == 0:
            return result
        conversation = list(result.messages)
        for call in result.tool_calls:
            output = call_function(call, functions)
            conversation.append(output.message)
            yield output
        tool_choice = "none" if tool_choice == "none" else "auto"  # what was forced is done


def call_function(call: ToolCall, functions: Mapping[str, Callable[..., Any]]) -> ToolOutput:
    """Call the function that the model wants called; whatever goes wrong becomes a text."""
    function = functions.get(call.name)
    if function is None:
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
            if parameter.name in arguments:
                arguments[parameter.name] = _converted(arguments[parameter.name], hint)
        value = function(**arguments)
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    except Exception as error:  # the model is told, and may try again
        return _error(call, f"{type(error).__name__}: {error}")
    return ToolOutput(call, text, failed=False)


def _converted(value: Any, hint: Any) -> Any:
    """Members of an Enum for their values; all else is as JSON has it."""
    for kind in (hint, *typing.get_args(hint)):
        if inspect.isclass(kind) and issubclass(kind, enum.Enum) and value is not None:
            return kind(value)
    return value


def _error(call: ToolCall, text: str) -> ToolOutput:
    return ToolOutput(call, f"Error: {text}", failed=True)
