"""The tools of a request: which are declared to the model, and under which names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gptoss.openai_requests.fields import RequestError

_MAX_NAME = 64  # what the chat's tools may be called

# What a choice may name that is no function, and that is not served here.
_CHOICE = "'auto', 'none', 'required', {'type': 'function', 'name': ...} or allowed_tools"


@dataclass(frozen=True)
class Tools:
    """Functions, in namespaces or not.

    Attributes
    ----------
    shown : list of dict
        What the response says of them: the tools that are served, as they were given.
    functions : list of dict
        What `LLM.chat` declares.
    names : dict
        Namespace (or None) and name of each, by the name that was declared.
    """

    shown: list[dict[str, Any]] = field(default_factory=list)
    functions: list[dict[str, Any]] = field(default_factory=list)
    names: dict[str, tuple[str | None, str]] = field(default_factory=dict)

    def declared_name(self, namespace: str | None, name: str) -> str:
        """Under which name the model knows a function, also one that is no longer there."""
        for declared, original in self.names.items():
            if original == (namespace, name):
                return declared
        return name if namespace is None else _qualified(namespace, name)

    def original_name(self, declared: str) -> tuple[str | None, str]:
        """Namespace and name of what the model calls; what it made up is as it is."""
        return self.names.get(declared, (None, declared))


def read_tools(given: Sequence[Mapping[str, Any]]) -> Tools:
    """The functions of a request; types of tools that are not served are left out.

    Raises
    ------
    RequestError
        A tool has not the form of its type, or two have the same name.
    """
    tools = Tools()
    for index, tool in enumerate(given):
        where, kind = f"tools[{index}]", tool["type"]
        if kind == "function":
            tools.shown.append(_add(tools, None, tool, where))
        elif kind == "namespace":
            _add_namespace(tools, tool, where)
    return tools


def _add_namespace(tools: Tools, given: Mapping[str, Any], where: str) -> None:
    name = _name(given, where)
    inner = given.get("tools")
    if not isinstance(inner, list):
        raise RequestError(f"{where}.tools must be a list, got {inner!r:.100}", f"{where}.tools")
    shown = []
    for index, tool in enumerate(inner):
        tool_where = f"{where}.tools[{index}]"
        if not isinstance(tool, Mapping):
            raise RequestError(f"{tool_where} must be an object, got {tool!r:.100}", tool_where)
        if tool.get("type") == "function":
            shown.append(_add(tools, name, tool, tool_where))
    if shown:
        description = given.get("description")
        description = description if isinstance(description, str) else ""
        tools.shown.append(
            {"type": "namespace", "name": name, "description": description, "tools": shown}
        )


def _add(
    tools: Tools, namespace: str | None, given: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """Declare a function, and return what the response says of it."""
    name = _name(given, where)
    declared = name if namespace is None else _qualified(namespace, name)
    if declared in tools.names:
        raise RequestError(f"{where}: there is another tool named {declared!r}", f"{where}.name")
    description, parameters = given.get("description"), given.get("parameters")
    if description is not None and not isinstance(description, str):
        raise RequestError(
            f"{where}: description must be a string, got {description!r:.100}",
            f"{where}.description",
        )
    if parameters is not None and not isinstance(parameters, dict):
        raise RequestError(
            f"{where}: parameters must be a JSON schema, got {parameters!r:.100}",
            f"{where}.parameters",
        )
    strict = given.get("strict")
    if strict is not None and not isinstance(strict, bool):
        raise RequestError(
            f"{where}: strict must be true or false, got {strict!r:.100}", f"{where}.strict"
        )
    function: dict[str, Any] = {"name": declared}
    if description:
        function["description"] = description
    if parameters:
        function["parameters"] = parameters
    if strict:
        function["strict"] = True
    tools.names[declared] = (namespace, name)
    tools.functions.append({"type": "function", "function": function})
    return {
        "type": "function",
        "name": name,
        "description": description,
        "parameters": parameters,
        "strict": bool(strict),
    }


def _name(given: Mapping[str, Any], where: str) -> str:
    name = given.get("name")
    if not isinstance(name, str) or not name:
        raise RequestError(f"{where}: name must be a string, got {name!r:.100}", f"{where}.name")
    return name


def _qualified(namespace: str, name: str) -> str:
    """A name that has its namespace in it, if there is room for that."""
    qualified = f"{namespace}.{name}"
    return qualified if len(qualified) <= _MAX_NAME else name


def read_choice(given: Any, tools: Tools) -> tuple[Any, list[dict[str, Any]]]:
    """A request's `tool_choice` and tools as `LLM.chat` takes them.

    Returns
    -------
    choice : str or dict
    functions : list of dict
        Those that may be called.

    Raises
    ------
    RequestError
        It is no choice, or names what is not there.
    """
    functions = tools.functions
    if given == "auto":
        return "auto", functions
    if given == "none":
        return "none", functions
    if given == "required":
        if not functions:
            raise RequestError(
                "tool_choice is 'required', and there are no functions", "tool_choice"
            )
        return "required", functions
    if isinstance(given, Mapping) and given.get("type") == "function":
        name = _chosen(given, tools, "tool_choice")
        return {"type": "function", "function": {"name": name}}, functions
    if isinstance(given, Mapping) and given.get("type") == "allowed_tools":
        mode, allowed = given.get("mode"), given.get("tools")
        if mode not in ("auto", "required") or not isinstance(allowed, list):
            raise RequestError(
                "tool_choice: allowed_tools must have mode 'auto' or 'required' and a list of "
                f"tools, got {given!r:.100}",
                "tool_choice",
            )
        names = {
            _chosen(tool, tools, f"tool_choice.tools[{index}]")
            for index, tool in enumerate(allowed)
            if not isinstance(tool, Mapping) or tool.get("type", "function") == "function"
        }
        kept = [each for each in functions if each["function"]["name"] in names]
        if mode == "required" and not kept:
            raise RequestError("tool_choice requires a call, and allows no function", "tool_choice")
        return mode, kept
    raise RequestError(f"tool_choice must be {_CHOICE}, got {given!r:.100}", "tool_choice")


def _chosen(choice: Any, tools: Tools, where: str) -> str:
    """The declared name of a function that a choice names; its namespace may be left out."""
    name = choice.get("name") if isinstance(choice, Mapping) else None
    namespace = choice.get("namespace") if isinstance(choice, Mapping) else None
    for declared, (owner, bare) in tools.names.items():
        if name in (declared, bare) and namespace in (None, owner):
            return declared
    known = ", ".join(tools.names) or "none"
    raise RequestError(f"{where}: no function is named {name!r:.100}; there are: {known}", where)
