"""What a chat declares before its messages: functions, built-in tools, effort and dates."""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from gptoss.chat.fields import SCHEMA, as_mapping, one_of, read_fields
from gptoss.harmony import ReasoningEffort, SystemContent, ToolDescription, ToolNamespaceConfig
from gptoss.harmony.recipients import FUNCTIONS, is_trained
from gptoss.harmony.render import json_parameters

Tools: TypeAlias = Iterable[Mapping[str, Any] | ToolDescription]
ToolChoice: TypeAlias = str | Mapping[str, Any]

_BUILTIN = {"browser": ToolNamespaceConfig.browser, "python": ToolNamespaceConfig.python}
_EFFORTS = {effort.value.lower(): effort for effort in ReasoningEffort}

# Names stand in headers, where white space would begin something else. OpenAI's API allows the
# same, but for the dots that MCP servers put between a server and its tool.
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TOOL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_LINE_BREAK = re.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_ANY_BREAK = re.compile(rf"\r\n|{_LINE_BREAK.pattern}")


@dataclass(frozen=True)
class Declared:
    """The tools of a chat.

    Attributes
    ----------
    functions : tuple of str
        Names of the user's functions.
    builtin : tuple of str
        Recipients of the built-in ones that were declared.
    """

    functions: tuple[str, ...] = ()
    builtin: tuple[str, ...] = ()

    @property
    def recipients(self) -> tuple[str, ...]:
        """Whom the model may call."""
        return (*(FUNCTIONS + name for name in self.functions), *self.builtin)

    def recipient(self, name: str) -> str:
        """To whom a call of this name goes: a function, unless only a built-in tool is known."""
        bare = name.removeprefix(FUNCTIONS)
        is_builtin = name in self.builtin or is_trained(name)
        return name if is_builtin and name not in self.functions else FUNCTIONS + bare


def checked_name(name: Any, where: str, *, of_tool: bool = False) -> str:
    """A name that may stand in a header.

    Raises
    ------
    ValueError
        It could be read as something else.
    """
    pattern, allowed = (
        (_TOOL_NAME, "letters, digits, '_', '-', '.'")
        if of_tool
        else ((_NAME, "letters, digits, '_', '-'"))
    )
    if not isinstance(name, str) or pattern.fullmatch(name) is None:
        raise ValueError(
            f"{where}: a name must be a word of 1 to 64 of {allowed}, got {name!r:.100}"
        )
    return name


def clean_recipient(recipient: str) -> str:
    """A recipient that a model has made up as one that `checked_name` takes."""
    name = recipient
    while name.startswith(FUNCTIONS):  # more than once, the next turn would take one for a prefix
        name = name.removeprefix(FUNCTIONS)
    namespace = FUNCTIONS if name != recipient else ""
    return namespace + (re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:64] or "_")


# -- functions ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Function:
    """A function of the user's.

    Attributes
    ----------
    description : ToolDescription
        What the model is told.
    schema : dict or None
        What the arguments of a strict one must be.
    """

    description: ToolDescription
    schema: dict[str, Any] | None = None


def function_tools(tools: Tools | None) -> list[Function]:
    """The functions, in any of the forms in which clients have them."""
    if isinstance(tools, (str, Mapping)) or not isinstance(tools, Iterable | None):
        raise TypeError(f"tools must be a list of tools, got {tools!r:.100}")
    found: list[Function] = []
    for index, tool in enumerate(tools or ()):
        where = f"tools[{index}]"
        if isinstance(tool, ToolDescription):
            function = Function(tool)
        else:
            function = _function_tool(tool, where)
        described = function.description
        checked_name(described.name, where, of_tool=True)
        if any(described.name == other.description.name for other in found):
            raise ValueError(f"{where}: there is another tool named {described.name!r}")
        described = _in_its_section(described, where)
        found.append(dataclasses.replace(function, description=described))
    return found


def _function_tool(tool: Any, where: str) -> Function:
    declared = as_mapping(tool)
    if declared is None:
        hint = "; gptoss.tool_schema describes functions, LLM.run calls them"
        raise TypeError(
            f"{where} must be a dict with a function, got {tool!r:.100}"
            f"{hint if callable(tool) else ''}"
        )
    if declared.get("type") not in (None, "function"):
        raise ValueError(
            f"{where}: type must be 'function', got {declared['type']!r}; the tools that the "
            "model knows are declared with builtin_tools"
        )
    function = read_fields(declared, "tool", where)
    function.pop("type", None)
    if "function" in function:
        if len(function) > 1:
            others = ", ".join(name for name in function if name != "function")
            raise ValueError(f"{where}: {others} must stand in its function, not beside it")
        where = f"{where}.function"
        if as_mapping(function["function"]) is None:
            raise ValueError(f"{where} must be a dict with a name, got {function['function']!r}")
        function = read_fields(function["function"], "function", where)
    if not isinstance(function.get("name"), str):
        raise ValueError(f"{where}: a function must be a dict with a name, got {function!r:.100}")
    description = function.get("description", "")
    if not isinstance(description, str):
        raise TypeError(f"{where}: description must be a string, got {description!r:.100}")
    parameters = one_of(function, SCHEMA, where)
    schema = None if parameters is None else as_mapping(parameters)
    if parameters is not None and schema is None:
        raise TypeError(f"{where}: parameters must be a JSON schema, got {parameters!r:.100}")
    strict = function.get("strict", False)
    if not isinstance(strict, bool):
        raise TypeError(f"{where}: strict must be True or False, got {strict!r:.100}")
    described = ToolDescription(function["name"], description, dict(schema) if schema else None)
    if not strict:
        return Function(described)
    return Function(described, dict(schema or {"type": "object", "additionalProperties": False}))


def _in_its_section(tool: ToolDescription, where: str) -> ToolDescription:
    """The tool without line breaks that would let its text stand outside of comments.

    Harmony prints a schema's texts as they are, so that one with line breaks could end the
    namespace, and begin the section of the instructions, in the words of whoever wrote the tool.
    """
    try:
        parameters = _one_line_schema(json_parameters(tool), where)
    except RecursionError as error:
        raise ValueError(f"{where}: the parameters are nested too deeply") from error
    description = _ANY_BREAK.sub("\n", tool.description)  # each line is a comment of its own
    return dataclasses.replace(tool, description=description, parameters=parameters)


def _one_line_schema(schema: Any, where: str) -> Any:
    """A JSON schema of which nothing that is printed has more than one line."""
    if not isinstance(schema, dict):
        return schema
    found = dict(schema)
    for key in ("title", "description"):
        if isinstance(found.get(key), str):
            found[key] = _joined_lines(found[key])
    if isinstance(found.get("default"), str):
        found["default"] = escaped_lines(found["default"])
    if isinstance(found.get("examples"), list):
        found["examples"] = [
            escaped_lines(example) if isinstance(example, str) else example
            for example in found["examples"]
        ]
    for key in ("enum", "type"):
        for value in found[key] if isinstance(found.get(key), list) else ():
            _check_one_line(value, f"{where}: a value of {key}")
    if isinstance(found.get("properties"), dict):
        for name in found["properties"]:
            _check_one_line(name, f"{where}: the name of a parameter")
        found["properties"] = {
            name: _one_line_schema(value, f"{where}.{name}")
            for name, value in found["properties"].items()
        }
    if isinstance(found.get("oneOf"), list):
        found["oneOf"] = [_one_line_schema(variant, where) for variant in found["oneOf"]]
    if "items" in found:
        found["items"] = _one_line_schema(found["items"], where)
    return found


def _joined_lines(text: str) -> str:
    if not _LINE_BREAK.search(text):
        return text
    return " ".join(line.strip() for line in text.splitlines() if line.strip())


def escaped_lines(text: str) -> str:
    """A value on one line: it would be another value with its line breaks joined."""
    return _LINE_BREAK.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


def _check_one_line(value: Any, what: str) -> None:
    if isinstance(value, str) and _LINE_BREAK.search(value):
        raise ValueError(f"{what} must not have a line break, got {value!r:.100}")


def forced_functions(tool_choice: ToolChoice | None, names: list[str]) -> list[str]:
    """Names of the functions of which one must be called."""
    if tool_choice is None or tool_choice in ("auto", "none"):
        return []
    if isinstance(tool_choice, str) and tool_choice == "required":
        if not names:
            raise ValueError("tool_choice is 'required', and tools are empty")
        return names
    choice = as_mapping(tool_choice)
    if choice is not None and choice.get("type") == "function":
        function = read_fields(choice, "tool choice", "tool_choice").get("function", choice)
        inner = as_mapping(function)
        name = None if inner is None else inner.get("name")
        if name not in names:
            raise ValueError(f"tool_choice: no tool is named {name!r}, only {names}")
        return [str(name)]
    raise ValueError(
        "tool_choice must be 'auto', 'none', 'required' or {'type': 'function', 'function': "
        f"{{'name': ...}}}}, got {tool_choice!r:.100}"
    )


# -- the system message ------------------------------------------------------------------


def system_content(
    reasoning_effort: str | None,
    builtin_tools: Iterable[str | ToolNamespaceConfig] | None,
    current_date: str | datetime.date | None,
    knowledge_cutoff: str | None,
) -> SystemContent:
    """What the system message states."""
    effort = "medium" if reasoning_effort is None else reasoning_effort
    if not isinstance(effort, str) or effort.lower() not in _EFFORTS:
        raise ValueError(
            f"reasoning_effort must be one of {', '.join(_EFFORTS)}, got {reasoning_effort!r:.100}"
        )
    if isinstance(current_date, datetime.date):
        current_date = current_date.isoformat()
    content = SystemContent(
        reasoning_effort=_EFFORTS[effort.lower()],
        conversation_start_date=current_date,
        knowledge_cutoff=knowledge_cutoff,
    )
    if isinstance(builtin_tools, (str, Mapping)) or not isinstance(builtin_tools, Iterable | None):
        raise TypeError(f"builtin_tools must be a sequence of names, got {builtin_tools!r:.100}")
    for index, tool in enumerate(builtin_tools or ()):
        where = f"builtin_tools[{index}]"
        if isinstance(tool, str):
            if tool not in _BUILTIN:
                raise ValueError(f"builtin_tools may have {', '.join(_BUILTIN)}, got {tool!r}")
            content = content.with_tools(_BUILTIN[tool]())
        elif isinstance(tool, ToolNamespaceConfig):
            checked_name(tool.name, where, of_tool=True)
            tools = [_in_its_section(each, f"{where}.{each.name}") for each in tool.tools]
            content = content.with_tools(dataclasses.replace(tool, tools=tools))
        else:
            raise TypeError(
                f"{where} must be one of {', '.join(_BUILTIN)} or a ToolNamespaceConfig, got "
                f"{tool!r:.100}"
            )
    return content


def namespace_recipients(
    tools: Mapping[str, ToolNamespaceConfig] | None,
) -> Iterator[str]:
    """Whom the model calls for the tools of a system or developer message."""
    for namespace in (tools or {}).values():
        if not namespace.tools:
            yield namespace.name
        for tool in namespace.tools:
            yield f"{namespace.name}.{tool.name}"
