"""Tool parameters (JSON schema) as the TypeScript types that the model was trained on.

The dialect is what openai-harmony prints: comments above a property are not split into
lines, string defaults are not escaped, and what it does not know (anyOf, allOf, const,
$ref, an enum without a type) is `any`.
"""

from __future__ import annotations

import json
from typing import Any

from .messages import HarmonyError

_SIMPLE_TYPES = {"number": "number", "integer": "number", "boolean": "boolean"}


def typescript(schema: Any, indent: str = "") -> str:
    """The TypeScript type of a JSON schema.

    Parameters
    ----------
    schema : any JSON value
        What is not a dict, or has no type that is known, is `any`.
    indent : str
        White space before each line of the type after its first.
    """
    if not isinstance(schema, dict):
        return "any"
    variants = schema.get("oneOf")
    if isinstance(variants, list):
        return _union(variants, indent)
    kind = schema.get("type")
    if isinstance(kind, list):
        names = [name for name in kind if isinstance(name, str)]
        return " | ".join("number" if name == "integer" else name for name in names) or "any"
    if kind == "object":
        return _object(schema, indent)
    if kind == "array":
        return f"{typescript(schema['items'], indent)}[]" if "items" in schema else "Array<any>"
    if kind == "string":
        choices = schema.get("enum")
        names = [c for c in choices if isinstance(c, str)] if isinstance(choices, list) else []
        return " | ".join(f'"{name}"' for name in names) or "string"
    return _SIMPLE_TYPES.get(kind, "any") if isinstance(kind, str) else "any"


def _object(schema: dict[str, Any], indent: str) -> str:
    description = _text(schema, "description")
    lines = [] if description is None else [f"{indent}// {description}"]
    lines.append("{")
    properties = schema.get("properties")
    required = schema.get("required")
    if isinstance(properties, dict):
        for name, value in properties.items():
            optional = "" if isinstance(required, list) and name in required else "?"
            lines += _property(f"{indent}{name}{optional}:", value, indent)
    return "\n".join([*lines, f"{indent}}}"])


def _property(head: str, schema: Any, indent: str) -> list[str]:
    """The lines of one property: comments, then its name and type, then a comma."""
    if not isinstance(schema, dict):
        return [f"{head} any,"]
    comments = []
    title = _text(schema, "title")
    if title is not None:
        comments += [f"// {title}", "//"]
    description = _text(schema, "description")
    about = [] if description is None else [f"// {description}"]
    examples = schema.get("examples")
    shown = []
    if isinstance(examples, list) and examples:
        strings = [example for example in examples if isinstance(example, str)]
        shown = ["// Examples:", *(f'// - "{example}"' for example in strings)]
    default = _default(schema)

    variants = schema.get("oneOf")
    if isinstance(variants, list):
        first = variants[0] if variants else None
        if description is not None and _text(first, "description") == description:
            about = []
        comments += shown + about
        if default is not None:
            comments.append(f"// {default}")
        body = [head + _union(variants, indent, description, True), f"{indent},"]
    else:
        kind = _nullable(typescript(schema, indent + "    "), schema)
        if "oneOf" in schema:  # no list, so of no use, yet it hides description and default
            about, default = [], None
        comments += about + shown
        body = [f"{head} {kind}," + ("" if default is None else f" // {default}")]
    return [indent + comment for comment in comments] + body


def _union(
    variants: list[Any], indent: str, described: str | None = None, in_property: bool = False
) -> str:
    """The variants of a oneOf, each on its own line.

    `described` is what stands above the whole already: with it the first variant is not
    described, and no other in the same words. The string default of an enum is bare in
    the variants of a property and JSON elsewhere.
    """
    out = ""
    for index, variant in enumerate(variants):
        kind = typescript(variant, indent + "   ")
        comments = []
        if isinstance(variant, dict):
            kind = _nullable(kind, variant)
            description = _text(variant, "description")
            hidden = described is not None and (index == 0 or description == described)
            if description is not None and not hidden:
                comments.append(description)
            default = _default(variant, bare_enum=in_property)
            if default is not None:
                comments.append(default)
        out += f"\n{indent} | {kind}" + (f" // {' '.join(comments)}" if comments else "")
    return out


def _nullable(kind: str, schema: dict[str, Any]) -> str:
    return f"{kind} | null" if schema.get("nullable") is True and "null" not in kind else kind


def _text(schema: Any, name: str) -> str | None:
    value = schema.get(name) if isinstance(schema, dict) else None
    return value if isinstance(value, str) else None


def _default(schema: dict[str, Any], bare_enum: bool = True) -> str | None:
    """The words that tell the default; strings are quoted but not escaped."""
    if "default" not in schema:
        return None
    value = schema["default"]
    if not isinstance(value, str):
        return f"default: {compact_json(value)}"
    choices = schema.get("enum")
    if not isinstance(choices, list) or not choices:
        return f'default: "{value}"'
    return f"default: {value if bare_enum else compact_json(value)}"


def compact_json(value: Any) -> str:
    """A JSON value without white space, numbers as Rust's serde_json reads and prints them.

    Raises
    ------
    HarmonyError
        If a number is out of the range of a double.
    """
    if isinstance(value, dict):
        items = (f"{compact_json(key)}:{compact_json(item)}" for key, item in value.items())
        return "{" + ",".join(items) + "}"
    if isinstance(value, list):
        return "[" + ",".join(compact_json(item) for item in value) + "]"
    if isinstance(value, float) or (
        isinstance(value, int)
        and not isinstance(value, bool)
        and not -(2**63) <= value < 2**64  # such integers are read as doubles
    ):
        return _double(repr(value))
    return json.dumps(value, ensure_ascii=False)


def _double(literal: str) -> str:
    """A JSON number literal, read as serde_json reads a double and printed as it does.

    It reads the digits as one integer (as many as fit 64 bits) and scales that by a power
    of ten, so the result may be one unit off in the last place.
    """
    mantissa, _, power = literal.partition("e")
    whole, _, fraction = mantissa.lstrip("-").partition(".")
    digits = whole + fraction
    exponent = int(power or 0) - len(fraction)
    while int(digits) >= 2**64:
        digits = digits[:-1]
        exponent += 1
    value = float(int(digits))
    while exponent < -308:
        value, exponent = value / 1e308, exponent + 308
    if value and exponent > 308:
        raise HarmonyError(f"[tool parameters] number out of range: {literal:.40}")
    value = value * float(f"1e{exponent}") if exponent >= 0 else value / float(f"1e{-exponent}")
    if value == float("inf"):
        raise HarmonyError(f"[tool parameters] number out of range: {literal:.40}")

    sign = "-" if literal.startswith("-") else ""
    printed, marker, power = repr(value).partition("e")
    if not marker:
        return sign + printed
    if int(power) == -5:  # the one power that Python prints as 1e-05 and Rust as 0.00001
        return f"{sign}0.0000{printed.replace('.', '')}"
    return f"{sign}{printed}e{int(power)}"
