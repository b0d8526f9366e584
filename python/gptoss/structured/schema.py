"""Checking a JSON schema before anything is made of it."""

from __future__ import annotations

import difflib
import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from .keywords import FORMATS, KEYWORDS

MAX_BYTES = 64 * 1024  # compiling takes up to half a second
MAX_DEPTH = 64  # the compiler recurses

_MAX_EXACT = 2**53
_NUMERIC = (
    *("const", "enum", "multipleOf"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
)

# Formats that are held more exactly than llguidance does: no 29th of February in a common year, no
# leap second, which no library reads, no year 0; and fractions of a second of 6 digits at most.
_LEAP = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_YEAR = "(?:[0-9]{3}[1-9]|[0-9]{2}[1-9][0-9]|[0-9][1-9][0-9]{2}|[1-9][0-9]{3})"
_DAYS = (
    "(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    "|02-(?:0[1-9]|1[0-9]|2[0-8])"
)
_DATE = f"(?:{_YEAR}-(?:{_DAYS})|{_LEAP}-02-29)"
_HOUR_MINUTE = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = rf"{_HOUR_MINUTE}:[0-5][0-9](?:\.[0-9]{{1,6}})?(?:Z|[+-]{_HOUR_MINUTE})"
_EXACT = {"date": f"^{_DATE}$", "time": f"^{_TIME}$", "date-time": f"^{_DATE}T{_TIME}$"}

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
    _check_limits(copy, where)
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
        if name in _NUMERIC:
            _check_numbers(value, name, where)
        if name == "$ref":
            _target(root, value, where)
        elif name == "format" and (not isinstance(value, str) or value not in FORMATS):
            raise ValueError(
                f"{where}: the format {value!r:.50} is not supported, only {', '.join(FORMATS)}"
            )
        for path, inner in _inner(schema, name, where):
            _check(inner, root, f"{where}{path}")
    least = schema.get("minProperties")
    if isinstance(least, int) and least > 1:
        # The same key may come twice, which is one property.
        if least > len(schema.get("required", [])):
            raise ValueError(
                f"{where}: the keyword 'minProperties' is supported up to 1, or as many as are "
                f"required, got {least}"
            )
        del schema["minProperties"]
    one_of = schema.get("oneOf")
    if one_of is not None and "anyOf" not in schema:
        pairs = itertools.combinations(one_of, 2)
        if all(_is_disjoint(*pair, root) for pair in pairs):
            schema["anyOf"] = schema.pop("oneOf")
    exact = _EXACT.get(schema.get("format", ""))
    if exact is not None:
        del schema["format"]
        schema.setdefault("allOf", []).append({"pattern": exact})


def _check_numbers(value: Any, name: str, where: str) -> None:
    """Refuse integers that llguidance, which takes them for floats, would write otherwise."""
    if isinstance(value, int) and abs(value) > _MAX_EXACT:
        raise ValueError(f"{where}: the keyword {name!r} has a number beyond 2**53, {value}")
    if isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            _check_numbers(inner, name, where)


def _check_limits(root: dict[str, Any], where: str) -> None:
    """Refuse limits that llguidance 1.9 does not hold.

    It allows a whole number that is excluded if the other limit is nearer than 1: 0 is not between
    0 and 0.5. Limits of several schemas may come together in one number.
    """
    schemas = list(_subschemas(root))
    may_meet = any("allOf" in each or _refers_and_says_more(each) for each in schemas)
    for groups in [schemas] if may_meet else [[each] for each in schemas]:
        low = _limits(groups, "minimum", "exclusiveMinimum")
        high = _limits(groups, "maximum", "exclusiveMaximum")
        for each in _limits(groups, "exclusiveMinimum"):
            if each == int(each) and any(each < other < each + 1 for other in high):
                raise ValueError(
                    f"{where}: the keyword 'exclusiveMinimum' of {each} is not supported with a "
                    "maximum less than 1 above it"
                )
        for each in _limits(groups, "exclusiveMaximum"):
            if each == int(each) and any(each - 1 < other < each for other in low):
                raise ValueError(
                    f"{where}: the keyword 'exclusiveMaximum' of {each} is not supported with a "
                    "minimum less than 1 below it"
                )


def _refers_and_says_more(schema: dict[str, Any]) -> bool:
    others = set(schema) - {"$defs", "definitions"}
    return len(others) > 1 and any(name in schema for name in _IN_PLACE)


def _limits(schemas: list[dict[str, Any]], *names: str) -> list[float]:
    values = (each[name] for each in schemas for name in names if name in each)
    return [value for value in values if isinstance(value, (int, float))]


def _is_disjoint(first: Any, second: Any, root: dict[str, Any], depth: int = 0) -> bool:
    """Whether it is certain that no value matches both: more than llguidance sees by itself."""
    first, second = _resolved(first, root), _resolved(second, root)
    if not isinstance(first, dict) or not isinstance(second, dict) or depth > 4:
        return False
    kinds, others = _types(first), _types(second)
    if kinds is not None and others is not None and not kinds & others:
        return True
    values, other_values = _values(first), _values(second)
    if values is not None and other_values is not None:
        return not any(value in other_values for value in values)
    if not kinds == others == {"object"}:
        return False
    properties, other_properties = first.get("properties", {}), second.get("properties", {})
    return any(
        name in second.get("required", ())
        and name in properties
        and name in other_properties
        and _is_disjoint(properties[name], other_properties[name], root, depth + 1)
        for name in first.get("required", ())
    )


def _resolved(schema: Any, root: dict[str, Any]) -> Any:
    """What a schema that is nothing but a $ref means."""
    for _ in range(4):
        if isinstance(schema, dict) and "$ref" in schema and len(schema) == 1:
            schema = _target(root, schema["$ref"], "")
    return schema


def _types(schema: dict[str, Any]) -> set[str] | None:
    """The types that a schema allows, None if it does not say."""
    kinds = schema.get("type")
    if kinds is None:
        return None
    found = {kinds} if isinstance(kinds, str) else set(kinds)
    return found | {"integer"} if "number" in found else found


def _values(schema: dict[str, Any]) -> list[Any] | None:
    """The values that a schema lists, None if it does not."""
    return [schema["const"]] if "const" in schema else schema.get("enum")


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
    names = schema.get("required", [])
    is_open = not isinstance(names, list) or any(name not in listed for name in names)
    return "additionalProperties" not in schema and not is_open
