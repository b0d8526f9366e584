"""Checking a JSON schema before anything is made of it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from .keywords import FORMATS, KEYWORDS

MAX_BYTES = 64 * 1024  # compiling takes up to half a second
MAX_DEPTH = 64  # the compiler recurses

# With these beside it, or as a part of them, an object may have properties that it does not list.
_IN_PLACE = ("$ref", "allOf", "anyOf", "oneOf")


def checked_schema(schema: Any, where: str) -> dict[str, Any]:
    """A schema of which everything that says what is valid is enforced.

    Parameters
    ----------
    schema : mapping or bool
    where : str
        What errors call it.

    Returns
    -------
    dict
        A copy, without what is not enforced because it says nothing.

    Raises
    ------
    TypeError
        It is no JSON object.
    ValueError
        It has a keyword that cannot be enforced, or none that is known; it is too long or nested
        too deeply.
    """
    if schema is True:
        schema = {}
    if schema is False:
        raise ValueError(f"{where}: false allows no answer at all")
    if not isinstance(schema, Mapping):
        raise TypeError(f"{where} must be a JSON schema, a dict, got {schema!r:.100}")
    try:
        text = json.dumps(schema, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"{where} must be JSON: {error}") from error
    length = len(text.encode(errors="replace"))
    if length > MAX_BYTES:
        raise ValueError(f"{where} must have at most {MAX_BYTES} bytes, got {length}")
    copy: dict[str, Any] = json.loads(text)
    if _depth(copy) > MAX_DEPTH:
        raise ValueError(f"{where} must be nested at most {MAX_DEPTH} deep")
    copy.pop("$schema", None)  # whatever it says: one reading for all
    copy.pop("$id", None)
    _check(copy, copy, where)
    return copy


def closed_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with objects that have the properties they list, and no others.

    Left to itself a model adds properties for ever. An object that says something about others, or
    that other schemas add to, stays as it is, so that what was valid for it still can be.
    """
    opened: set[int] = set()
    for each in _subschemas(schema):
        _open(schema, each, opened)
    for each in _subschemas(schema):
        if id(each) not in opened and _lists_its_properties(each):
            each["additionalProperties"] = False
    return schema


def _depth(value: Any) -> int:
    deepest, level = 0, [value]
    while level and deepest <= MAX_DEPTH:
        deepest += 1
        level = [
            item
            for inner in level
            for item in (
                inner.values()
                if isinstance(inner, dict)
                else inner
                if isinstance(inner, list)
                else ()
            )
        ]
    return deepest


def _check(schema: Any, root: dict[str, Any], where: str) -> None:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise TypeError(f"{where} must be a JSON schema, a dict or a bool, got {schema!r:.100}")
    for name in list(schema):
        value = schema[name]
        if name.startswith("x-") and name != "x-guidance":
            del schema[name]
            continue
        keyword = KEYWORDS.get(name)
        if keyword is None:
            close = difflib.get_close_matches(name, KEYWORDS, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"{where}: unknown keyword {name!r}{hint}")
        if name == "uniqueItems" and value is False:
            del schema[name]
            continue
        if keyword.treatment == "refused" or name == "$id":
            hint = f": {keyword.hint}" if keyword.hint else ""
            raise ValueError(f"{where}: the keyword {name!r} is not supported{hint}")
        if keyword.treatment == "annotation":
            del schema[name]
            continue
        if name == "$ref":
            _target(root, value, where)
        elif name == "format" and value not in FORMATS:
            raise ValueError(
                f"{where}: the format {value!r:.50} is not supported, only {', '.join(FORMATS)}"
            )
        for path, inner in _inner(schema, name, where):
            _check(inner, root, f"{where}{path}")


def _inner(schema: dict[str, Any], name: str, where: str) -> Iterator[tuple[str, Any]]:
    """The schemas that stand below a keyword, and where."""
    value, kind = schema[name], KEYWORDS[name].subschemas
    if kind == "one":
        yield f".{name}", value
    elif kind == "list":
        if not isinstance(value, list):
            raise TypeError(f"{where}: {name} must be a list of schemas, got {value!r:.100}")
        for index, inner in enumerate(value):
            yield f".{name}[{index}]", inner
    elif kind == "map":
        if not isinstance(value, dict):
            raise TypeError(f"{where}: {name} must be a dict of schemas, got {value!r:.100}")
        for key, inner in value.items():
            yield f".{name}.{key}", inner


def _target(root: dict[str, Any], reference: Any, where: str) -> Any:
    """The schema that a $ref means."""
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        raise ValueError(
            f"{where}: the keyword '$ref' must be a path within the schema, such as #/$defs/NAME, "
            f"got {reference!r:.100}"
        )
    found: Any = root
    for part in unquote(reference).split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and part.isascii() and part.isdigit():
            found = dict(enumerate(found)).get(int(part))
        else:
            found = found.get(part) if isinstance(found, dict) else None
        if found is None:
            raise ValueError(f"{where}: the keyword '$ref' leads nowhere: {reference!r:.100}")
    return found


def _subschemas(schema: Any) -> Iterator[dict[str, Any]]:
    """All schemas in a schema, itself first."""
    if not isinstance(schema, dict):
        return
    yield schema
    for name in list(schema):
        if name in KEYWORDS:
            for _, inner in _inner(schema, name, ""):
                yield from _subschemas(inner)


def _open(root: dict[str, Any], schema: dict[str, Any], opened: set[int]) -> None:
    """Note the schemas that apply to the same object as another does."""
    parts: list[Any] = list(schema.get("allOf", ()))
    others = set(schema) - {"$defs", "definitions"}
    for name in ("anyOf", "oneOf"):
        if others != {name}:
            parts += schema.get(name, ())
    if "$ref" in schema and others != {"$ref"}:
        parts.append(_target(root, schema["$ref"], ""))
    while parts:
        part = parts.pop()
        if not isinstance(part, dict) or id(part) in opened:
            continue
        opened.add(id(part))
        for name in ("allOf", "anyOf", "oneOf"):
            parts += part.get(name, ())
        if "$ref" in part:
            parts.append(_target(root, part["$ref"], ""))


def _lists_its_properties(schema: dict[str, Any]) -> bool:
    listed = schema.get("properties")
    if listed is None or any(name in schema for name in (*_IN_PLACE, "patternProperties")):
        return False
    names = schema.get("required", ())
    is_open = not isinstance(names, list) or any(name not in listed for name in names)
    least = schema.get("minProperties", 0)
    return (
        "additionalProperties" not in schema
        and not is_open
        and not (isinstance(least, int) and least > len(listed))
    )
