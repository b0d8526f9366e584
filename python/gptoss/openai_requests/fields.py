"""Tables of request fields: what is done with each, and the check of a body against them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

State = Literal["done", "ignored", "refused"]
Schema = Mapping[str, Any]

_SHOWN_CHARACTERS = 100  # of a value in an error


class RequestError(ValueError):
    """A request that cannot be answered as it is.

    Attributes
    ----------
    param : str or None
        The field that is wrong.
    code : str or None
        OpenAI's code, where there is one for it.
    """

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


@dataclass(frozen=True)
class Field:
    """A field of a request.

    Attributes
    ----------
    name : str
        As it stands in the body.
    state : {"done", "ignored", "refused"}
        "ignored" is taken whatever its value is. "refused" is an error, unless the value asks for
        nothing.
    note : str
        What it does, or why not, for people.
    schema : mapping
        The JSON schema of its values. Nulls are as if the field were not there, whatever it says.
    meant : tuple
        Of a refused field: the values that ask for nothing.
    own : bool
        Whether it is none of OpenAI's.
    """

    name: str
    state: State
    note: str
    schema: Schema = field(default_factory=dict)
    meant: tuple[Any, ...] = ()
    own: bool = False


class Table:
    """The fields of one kind of request, in the order in which they are documented."""

    def __init__(self, title: str, fields: Iterable[Field], required: Sequence[str] = ()) -> None:
        self.title = title
        self.required = tuple(required)
        self._fields = {each.name: each for each in fields}

    def __iter__(self) -> Iterator[Field]:
        return iter(self._fields.values())

    def __contains__(self, name: object) -> bool:
        return name in self._fields

    def __getitem__(self, name: str) -> Field:
        return self._fields[name]

    def check(self, body: Mapping[str, Any], *, strict: bool = False) -> dict[str, Any]:
        """Return the fields that say something.

        Parameters
        ----------
        body : mapping
            The request.
        strict : bool
            Refuse fields that the table does not have, which are ignored otherwise.

        Raises
        ------
        RequestError
            A field has a value that its schema does not allow, is refused, or is missing.
        """
        given: dict[str, Any] = {}
        for name, value in body.items():
            known = self._fields.get(name)
            if known is None:
                if strict:
                    raise RequestError(f"unknown field {name}{self._meant(name)}", name)
            elif value is None or known.state == "ignored":
                pass
            elif known.state == "done":
                check_value(value, known.schema, name)
                given[name] = value
            elif not any(_same(value, meant) for meant in known.meant):
                only = " or ".join(repr(meant) for meant in known.meant)
                hint = f"; it may only be {only}" if only else ""
                raise RequestError(f"{name} is not supported: {known.note}{hint}", name)
        for name in self.required:
            if name not in given:
                raise RequestError(f"you must provide a {name} parameter", name)
        return given

    def _meant(self, name: str) -> str:
        close = difflib.get_close_matches(name, self._fields, n=1)
        return f"; did you mean {close[0]}?" if close else ""

    def json_schema(self) -> dict[str, Any]:
        """The JSON schema of the whole body."""
        properties = {}
        for each in self:
            schema = _with_nulls(each.schema) if each.state == "done" else {}
            if each.state == "refused" and each.meant:
                schema = {"enum": [*each.meant, None]}
            elif each.state == "refused":
                schema = {"type": "null"}
            elif each.name not in self.required and schema:
                schema = nullable(schema)
            properties[each.name] = {**schema, "description": each.note}
        return {"type": "object", "properties": properties, "required": list(self.required)}

    def markdown(self) -> str:
        """The table as documents have it."""
        rows = [
            f"| `{each.name}`{' *' if each.own else ''} | {each.state} | {each.note} |\n"
            for each in self
        ]
        return "| field | | |\n|---|---|---|\n" + "".join(rows)


def nullable(schema: Schema) -> dict[str, Any]:
    """A schema that allows null as well."""
    return {"anyOf": [dict(schema), {"type": "null"}]}


def _with_nulls(schema: Schema) -> dict[str, Any]:
    """A schema as `check_value` reads it: inside of objects a null is as if it were not there."""
    found = dict(schema)
    if "anyOf" in found:
        found["anyOf"] = [_with_nulls(each) for each in found["anyOf"]]
    if "items" in found:
        found["items"] = _with_nulls(found["items"])
    if "additionalProperties" in found:
        found["additionalProperties"] = _with_nulls(found["additionalProperties"])
    required = found.get("required", ())
    if "properties" in found:
        found["properties"] = {
            name: _with_nulls(inner) if name in required else nullable(_with_nulls(inner))
            for name, inner in found["properties"].items()
        }
    return found


def error_body(error: Exception) -> dict[str, Any]:
    """The body of a response that says what is wrong with a request."""
    server = not isinstance(error, (ValueError, TypeError))
    return {
        "error": {
            "message": one_line(error),
            "type": "server_error" if server else "invalid_request_error",
            "param": cast("str | None", getattr(error, "param", None)),
            "code": cast("str | None", getattr(error, "code", None)),
        }
    }


def one_line(error: BaseException) -> str:
    """An error's text, without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def shown(value: Any) -> str:
    """A value in an error."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"


# -- values against schemas --------------------------------------------------------------
# The part of JSON Schema that the tables use. A schema with anything else is a mistake in a table,
# which the tests look for.

KEYWORDS = {
    *("type", "enum", "const", "minimum", "maximum", "exclusiveMinimum", "minItems", "maxItems"),
    *("items", "minLength", "properties", "required", "anyOf", "description", "default"),
    "additionalProperties",  # a schema
}

_TYPES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "string": ("a string", lambda value: isinstance(value, str)),
    "boolean": ("true or false", lambda value: isinstance(value, bool)),
    "integer": ("an integer", lambda v: isinstance(v, int) and not isinstance(v, bool)),
    "number": ("a number", lambda v: isinstance(v, (int, float)) and not isinstance(v, bool)),
    "array": ("a list", lambda value: isinstance(value, list)),
    "object": ("an object", lambda value: isinstance(value, dict)),
    "null": ("null", lambda value: value is None),
}


def check_value(value: Any, schema: Schema, where: str) -> None:
    """Raise RequestError if a value is not as its schema says.

    Parameters
    ----------
    value : any JSON value
    schema : mapping
        With `KEYWORDS` only.
    where : str
        What errors call it.
    """
    if "anyOf" in schema:
        _check_any(value, schema["anyOf"], where)
    if "type" in schema:
        text, is_type = _TYPES[schema["type"]]
        if not is_type(value):
            raise RequestError(f"{where} must be {text}, got {shown(value)}", where)
    if "const" in schema and not _same(value, schema["const"]):
        raise RequestError(f"{where} must be {schema['const']!r}, got {shown(value)}", where)
    if "enum" in schema and not any(_same(value, allowed) for allowed in schema["enum"]):
        listed = ", ".join(str(allowed) for allowed in schema["enum"])
        raise RequestError(f"{where} must be one of {listed}, got {shown(value)}", where)
    if isinstance(value, (int, float)):
        _check_range(value, schema, where)
    elif isinstance(value, str):
        if len(value) < schema.get("minLength", 0):
            raise RequestError(f"{where} must not be empty", where)
    elif isinstance(value, list):
        _check_list(value, schema, where)
    elif isinstance(value, dict):
        for name in schema.get("required", ()):
            if value.get(name) is None:
                raise RequestError(f"{where} must have {name}", f"{where}.{name}")
        for name, inner in schema.get("properties", {}).items():
            if value.get(name) is not None:
                check_value(value[name], inner, f"{where}.{name}")
        if "additionalProperties" in schema:
            for name in value.keys() - schema.get("properties", {}).keys():
                check_value(value[name], schema["additionalProperties"], f"{where}.{name:.50}")


def _check_any(value: Any, schemas: Sequence[Schema], where: str) -> None:
    errors = []
    for schema in schemas:
        try:
            check_value(value, schema, where)
            return
        except RequestError as error:
            errors.append((schema, error))
    # The one whose type fits says more than that of another type.
    for schema, wrong in errors:
        if "type" in schema and _TYPES[schema["type"]][1](value):
            raise wrong
    kinds = " or ".join(dict.fromkeys(_TYPES[s["type"]][0] for s, _ in errors if "type" in s))
    raise RequestError(f"{where} must be {kinds}, got {shown(value)}", where)


def _check_range(value: float, schema: Schema, where: str) -> None:
    low, high = schema.get("minimum"), schema.get("maximum")
    above = schema.get("exclusiveMinimum")
    if low is not None and value < low:
        raise RequestError(f"{where} must be at least {low}, got {shown(value)}", where)
    if above is not None and value <= above:
        raise RequestError(f"{where} must be above {above}, got {shown(value)}", where)
    if high is not None and value > high:
        raise RequestError(f"{where} must be at most {high}, got {shown(value)}", where)


def _check_list(value: list[Any], schema: Schema, where: str) -> None:
    low, high = schema.get("minItems", 0), schema.get("maxItems")  # low is 0 or 1
    if len(value) < low:
        raise RequestError(f"{where} must not be empty", where)
    if high is not None and len(value) > high:
        raise RequestError(f"{where} must have at most {high} entries, got {len(value)}", where)
    items = schema.get("items")
    if items:
        for index, item in enumerate(value):
            check_value(item, items, f"{where}[{index}]")


def _same(value: Any, other: Any) -> bool:
    """Equality of JSON, where 1 is not true."""
    return isinstance(value, bool) == isinstance(other, bool) and bool(value == other)
