"""What becomes of each keyword of JSON Schema: a table, which tests and docs walk.

A keyword that would be ignored although it says what is valid is refused: an answer is valid, or
the schema is an error. All drafts are read as draft 2020-12.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Treatment = Literal["enforced", "refused", "annotation"]
Subschemas = Literal["none", "one", "list", "map"]


class Keyword(NamedTuple):
    """A keyword of JSON Schema.

    Attributes
    ----------
    treatment : {"enforced", "refused", "annotation"}
        "annotation": it says nothing about what is valid.
    subschemas : {"none", "one", "list", "map"}
        What its value holds of schemas.
    hint : str
        What to write instead, or what is particular about it.
    """

    treatment: Treatment
    subschemas: Subschemas = "none"
    hint: str = ""


def _all(treatment: Treatment, *names: str) -> dict[str, Keyword]:
    return dict.fromkeys(names, Keyword(treatment))


_NO_CONDITIONS = "write the cases as anyOf"
_ENUMERATE = "list the properties, with additionalProperties"

KEYWORDS: dict[str, Keyword] = {
    # Core
    "$ref": Keyword("enforced", hint="within the schema only, such as #/$defs/NAME"),
    "$defs": Keyword("enforced", "map"),
    "definitions": Keyword("enforced", "map", "the old name of $defs"),
    **_all("annotation", "$schema", "$comment", "$vocabulary"),
    "$id": Keyword("annotation", hint="at the root only"),
    "$anchor": Keyword("refused", hint="refer to it by its path, #/$defs/NAME"),
    "$dynamicRef": Keyword("refused", hint="use $ref"),
    "$dynamicAnchor": Keyword("refused", hint="use $ref"),
    "$recursiveRef": Keyword("refused", hint="use $ref"),
    "$recursiveAnchor": Keyword("refused", hint="use $ref"),
    # Applicators
    "allOf": Keyword("enforced", "list"),
    "anyOf": Keyword("enforced", "list"),
    "oneOf": Keyword("enforced", "list", "where no value can match two of them; else use anyOf"),
    "not": Keyword("refused", "one", "say what is allowed"),
    "if": Keyword("refused", "one", _NO_CONDITIONS),
    "then": Keyword("refused", "one", _NO_CONDITIONS),
    "else": Keyword("refused", "one", _NO_CONDITIONS),
    "dependentSchemas": Keyword("refused", "map", _NO_CONDITIONS),
    "dependencies": Keyword("refused", hint=_NO_CONDITIONS),
    "prefixItems": Keyword("enforced", "list"),
    "items": Keyword("enforced", "one"),
    "additionalItems": Keyword("refused", "one", "use items"),
    "contains": Keyword("refused", "one", "say what all items are, with items"),
    "properties": Keyword("enforced", "map"),
    "patternProperties": Keyword("enforced", "map"),
    "additionalProperties": Keyword("enforced", "one"),
    "propertyNames": Keyword("refused", "one", "use patternProperties"),
    "unevaluatedItems": Keyword("refused", "one", "use items"),
    "unevaluatedProperties": Keyword("refused", "one", "use additionalProperties"),
    # Validation
    "type": Keyword("enforced"),
    "const": Keyword("enforced", hint="integers up to 2**53"),
    "enum": Keyword("enforced", hint="integers up to 2**53"),
    **_all("enforced", "minimum", "maximum"),
    "exclusiveMinimum": Keyword("enforced", hint="with a maximum that is 1 or more above it"),
    "exclusiveMaximum": Keyword("enforced", hint="with a minimum that is 1 or more below it"),
    **_all("enforced", "multipleOf", "minLength", "maxLength", "pattern"),
    **_all("enforced", "minItems", "maxItems", "required"),
    "minProperties": Keyword("enforced", hint="up to 1, or as many as are required"),
    "maxProperties": Keyword("enforced", hint="where no property is listed that may be left out"),
    "uniqueItems": Keyword("refused", hint="false says nothing, and is taken"),
    "minContains": Keyword("refused"),
    "maxContains": Keyword("refused"),
    "dependentRequired": Keyword("refused", hint=_NO_CONDITIONS),
    "nullable": Keyword("refused", hint='use "type": [..., "null"]'),
    "format": Keyword("enforced", hint="those of the table of formats"),
    # Annotations
    **_all("annotation", "title", "description", "default", "examples", "example", "deprecated"),
    **_all("annotation", "readOnly", "writeOnly", "discriminator", "externalDocs"),
    **_all("annotation", "contentEncoding", "contentMediaType", "contentSchema"),
}

# What `format` may say; others are refused.
FORMATS = (
    *("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"),
)
