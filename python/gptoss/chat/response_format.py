"""What `response_format` says: to the model in its prompt, and to the engine as a grammar."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gptoss.chat.declarations import checked_name, escaped_lines
from gptoss.chat.fields import as_mapping, read_fields
from gptoss.harmony import HarmonyEncoding
from gptoss.structured import Grammar, lark_grammar, regex_grammar, schema_grammar

_WHERE = "response_format"


@dataclass(frozen=True)
class ResponseFormat:
    """What an answer must be.

    Attributes
    ----------
    section : str
        What the developer message says of it.
    compile : callable
        Makes its grammar.
    """

    section: str
    compile: Callable[[HarmonyEncoding], Grammar]


def read_response_format(given: Any) -> ResponseFormat | None:
    """Read a `response_format`; None if it asks for plain text.

    Raises
    ------
    TypeError, ValueError
        It is none of those that `LLM.chat` takes. What is wrong with a schema or grammar is found
        when it is compiled.
    """
    if given is None:
        return None
    mapping = as_mapping(given)
    if mapping is None:
        raise TypeError(f"{_WHERE} must be a dict with a type, got {given!r:.100}")
    kind = mapping.get("type")
    read = _READERS.get(kind) if isinstance(kind, str) else None
    if read is None:
        raise ValueError(f"{_WHERE}: type must be one of {', '.join(_READERS)}, got {kind!r:.100}")
    return read(read_fields(mapping, "response format", _WHERE))


def _text(fields: Mapping[str, Any]) -> None:
    _only(fields)


def _json_object(fields: Mapping[str, Any]) -> ResponseFormat:
    _only(fields)
    return _of_schema("json_object", None, {"type": "object"}, _WHERE)


def _json_schema(fields: Mapping[str, Any]) -> ResponseFormat:
    _only(fields, "json_schema")
    where = f"{_WHERE}.json_schema"
    inner = read_fields(fields["json_schema"], "json_schema", where)
    name = checked_name(inner.get("name"), where)
    description = inner.get("description")
    if not isinstance(description, str | None):
        raise TypeError(f"{where}: description must be a string, got {description!r:.100}")
    # Strict or not, the answer is held to the schema.
    if not isinstance(inner.get("strict", False), bool):
        raise TypeError(f"{where}: strict must be True or False, got {inner['strict']!r:.100}")
    if "schema" not in inner:
        raise ValueError(f"{where} must have a schema")
    return _of_schema(name, description, inner["schema"], f"{where}.schema")


def _of_schema(name: str, description: str | None, schema: Any, where: str) -> ResponseFormat:
    try:
        shown = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"{where} must be JSON: {error}") from error
    return ResponseFormat(
        _section(name, description, escaped_lines(shown)),
        lambda encoding: schema_grammar(encoding, schema, where),
    )


def _regex(fields: Mapping[str, Any]) -> ResponseFormat:
    _only(fields, "pattern")
    pattern, where = _string(fields, "pattern"), f"{_WHERE}.pattern"
    return ResponseFormat(
        _section("regex", "The answer matches this regular expression.", escaped_lines(pattern)),
        lambda encoding: regex_grammar(encoding, pattern, where),
    )


def _grammar(fields: Mapping[str, Any]) -> ResponseFormat:
    _only(fields, "syntax", "definition")
    if fields["syntax"] != "lark":
        raise ValueError(f"{_WHERE}: syntax must be 'lark', got {fields['syntax']!r:.100}")
    definition, where = _string(fields, "definition"), f"{_WHERE}.definition"
    return ResponseFormat(
        _section("grammar", f"The answer follows this Lark grammar.\n{definition}", None),
        lambda encoding: lark_grammar(encoding, definition, where),
    )


_READERS: dict[str, Callable[[Mapping[str, Any]], ResponseFormat | None]] = {
    "text": _text,
    "json_object": _json_object,
    "json_schema": _json_schema,
    "regex": _regex,
    "grammar": _grammar,
}


def _only(fields: Mapping[str, Any], *names: str) -> None:
    """Check that these stand beside the type, and nothing else."""
    for name in names:
        if name not in fields:
            raise ValueError(f"{_WHERE}: a {fields['type']} must have a {name}")
    for name in fields:
        if name not in ("type", *names):
            raise ValueError(f"{_WHERE}: a {fields['type']} has no {name}")


def _string(fields: Mapping[str, Any], name: str) -> str:
    value = fields[name]
    if not isinstance(value, str):
        raise TypeError(f"{_WHERE}: {name} must be a string, got {value!r:.100}")
    return value


def _section(name: str, about: str | None, shown: str | None) -> str:
    """The developer message's section; nothing in it can begin another."""
    lines = ["# Response Formats", "", f"## {name}", ""]
    lines += [f"// {line}" for line in (about or "").splitlines()]
    return "\n".join(lines if shown is None else [*lines, shown])
