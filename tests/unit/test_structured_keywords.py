"""Every keyword of JSON Schema is enforced, refused or an annotation: the table, row by row."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest
from jsonschema_specifications import REGISTRY

import gptoss
from gptoss.harmony import HarmonyEncoding
from gptoss.structured import FORMATS, KEYWORDS, Grammar, schema_grammar
from support.schemas import Case, accepts, drawn, invalid, suite

ENCODING = HarmonyEncoding(gptoss.tokenizer.Tokenizer("demo"))

# For each keyword that is enforced: a schema, texts that it allows, and texts that it does not.
STRINGS = {"$ref": "#/$defs/a", "$defs": {"a": {"type": "string"}}}
ENFORCED: dict[str, tuple[Any, list[str], list[str]]] = {
    "$ref": (STRINGS, ['"a"'], ["1", "[]"]),
    "$defs": (STRINGS, ['"a"'], ["1", "[]"]),
    "definitions": (
        {"$ref": "#/definitions/a", "definitions": {"a": {"type": "null"}}},
        ["null"],
        ["1"],
    ),
    "allOf": ({"allOf": [{"type": "integer"}, {"minimum": 3}]}, ["3"], ["2", '"a"']),
    "anyOf": ({"anyOf": [{"type": "null"}, {"const": 3}]}, ["null", "3"], ["2", '"a"']),
    "oneOf": ({"oneOf": [{"type": "null"}, {"type": "string"}]}, ["null", '"a"'], ["2"]),
    "prefixItems": (
        {"type": "array", "prefixItems": [{"const": 1}, {"const": 2}]},
        ["[]", "[1]", "[1,2]", '[1,2,"a"]'],
        ["[2]", "[1,1]"],
    ),
    "items": ({"type": "array", "items": {"const": 1}}, ["[]", "[1,1,1]"], ["[2]", "[1,2]"]),
    "properties": (
        {"type": "object", "properties": {"a": {"const": 1}}},
        ["{}", '{"a":1}'],
        ['{"a":2}', '{"b":1}'],
    ),
    "patternProperties": (
        {"type": "object", "patternProperties": {"^a": {"const": 1}}},
        ["{}", '{"ab":1}', '{"b":2}'],
        ['{"ab":2}'],
    ),
    "additionalProperties": (
        {"type": "object", "properties": {"a": {}}, "additionalProperties": {"const": 1}},
        ["{}", '{"b":1}'],
        ['{"b":2}'],
    ),
    "type": ({"type": ["integer", "null"]}, ["1", "-7", "null"], ["1.5", '"a"', "true", "{}"]),
    "const": ({"const": {"a": [1]}}, ['{"a":[1]}'], ['{"a":[2]}', "1"]),
    "enum": ({"enum": ["a", 1, None]}, ['"a"', "1", "null"], ['"b"', "2"]),
    "minimum": ({"type": "number", "minimum": 1.5}, ["1.5", "2"], ["1.49", "1", "-2"]),
    "exclusiveMinimum": ({"type": "integer", "exclusiveMinimum": 1}, ["2", "30"], ["1", "-3"]),
    "maximum": ({"type": "number", "maximum": 1.5}, ["1.5", "1", "-9"], ["1.51", "2"]),
    "exclusiveMaximum": ({"type": "integer", "exclusiveMaximum": 1}, ["0", "-3"], ["1", "20"]),
    "multipleOf": ({"type": "integer", "multipleOf": 7}, ["0", "14", "77"], ["1", "15"]),
    "minLength": ({"type": "string", "minLength": 2}, ['"ab"', '"äöü"'], ['""', '"ä"']),
    "maxLength": ({"type": "string", "maxLength": 2}, ['""', '"äö"'], ['"abc"']),
    "pattern": ({"type": "string", "pattern": "^a+$"}, ['"aa"'], ['""', '"ab"']),
    "minItems": ({"type": "array", "minItems": 2}, ["[1,2]"], ["[]", "[1]"]),
    "maxItems": ({"type": "array", "maxItems": 2}, ["[]", "[1,2]"], ["[1,2,3]"]),
    "required": (
        {"type": "object", "properties": {"a": {}, "b": {}}, "required": ["b"]},
        ['{"b":1}', '{"a":1,"b":1}'],
        ["{}", '{"a":1}'],
    ),
    "minProperties": (
        {"type": "object", "minProperties": 1, "additionalProperties": {"const": 1}},
        ['{"a":1}'],
        ["{}"],
    ),
    "maxProperties": (
        {"type": "object", "maxProperties": 1, "additionalProperties": {"const": 1}},
        ["{}", '{"a":1}'],
        ['{"a":1,"b":1}'],
    ),
    "format": ({"type": "string", "format": "date"}, ['"2026-11-29"'], ['"2026-13-29"', '"a"']),
}
# What a refused one says; for the others an empty schema does.
VALUES = {
    "$anchor": "a",
    "$dynamicAnchor": "a",
    "$dynamicRef": "#a",
    "$recursiveRef": "#",
    "$recursiveAnchor": True,
    "dependentSchemas": {"a": {}},
    "dependencies": {"a": ["b"]},
    "dependentRequired": {"a": ["b"]},
    "uniqueItems": True,
    "minContains": 1,
    "maxContains": 1,
    "nullable": True,
}
FORMAT_TEXTS = {
    "date-time": ("2024-02-29T23:59:59.5+01:00", "2026-02-29T23:59:59Z"),
    "time": ("23:59:59Z", "23:59:60Z"),
    "date": ("2024-02-29", "2026-02-29"),
    "duration": ("P3DT2H", "3 days"),
    "email": ("a@b.org", "a.b.org"),
    "hostname": ("a.example", "-a"),
    "ipv4": ("10.0.0.1", "10.0.0.256"),
    "ipv6": ("::1", "12345::"),
    "uuid": ("2eb8aa08-aa98-11ea-b4aa-73b441d16380", "2eb8aa08"),
    "uri": ("https://a.org/b?c#d", "\\\\a"),
}


def names(treatment: str) -> list[str]:
    return [name for name, keyword in KEYWORDS.items() if keyword.treatment == treatment]


def test_no_keyword_is_missing() -> None:
    """Those of the draft's own vocabularies, and those of which tests know are in the table."""
    known: set[str] = set()
    for uri in REGISTRY:
        if "2020-12" in uri:
            known.update(REGISTRY.contents(uri).get("properties", ()))
    assert {"minimum", "unevaluatedItems", "$dynamicRef", "contentSchema", "format"} <= known
    assert known <= set(KEYWORDS)
    assert set(ENFORCED) == set(names("enforced"))
    assert set(FORMAT_TEXTS) == set(FORMATS)
    assert len(names("enforced")) + len(names("refused")) + len(names("annotation")) == len(
        KEYWORDS
    )


def test_the_docs_have_the_table() -> None:
    rows = ["| keyword | is | |", "|---|---|---|"]
    for treatment in ("enforced", "refused", "annotation"):
        hints = {name: KEYWORDS[name].hint for name in names(treatment)}
        plain = ", ".join(f"`{name}`" for name, hint in hints.items() if not hint)
        rows.append(f"| {plain} | {treatment} | |")
        rows += [f"| `{name}` | {treatment} | {hint} |" for name, hint in hints.items() if hint]
    text = (Path(__file__).parents[2] / "docs" / "chat.md").read_text()
    assert "\n".join(rows) in text
    assert f"Formats: {', '.join(f'`{name}`' for name in FORMATS)}." in text.replace("\n", " ")


@pytest.mark.parametrize("name", names("enforced"))
def test_enforced(name: str) -> None:
    schema, valid, wrong = ENFORCED[name]
    grammar = schema_grammar(ENCODING, schema, "schema")
    assert name in json.dumps(schema)
    assert [text for text in valid if not accepts(ENCODING, grammar, text)] == []
    assert [text for text in wrong if accepts(ENCODING, grammar, text)] == []
    # And the judge agrees, but for properties that no schema lists.
    assert all(invalid(schema, text) is None for text in valid)


@pytest.mark.parametrize("name", names("refused"))
def test_refused(name: str) -> None:
    value = VALUES.get(name, {})
    for schema, where in (
        ({name: value}, "schema"),
        ({"type": "object", "properties": {"a": {name: value}}}, "schema.properties.a"),
        ({"anyOf": [{"type": "null"}, {name: value}]}, "schema.anyOf[1]"),
        ({"$defs": {"a": {"items": {name: value}}}}, "schema.$defs.a.items"),
    ):
        with pytest.raises(ValueError, match="keyword") as error:
            schema_grammar(ENCODING, schema, "schema")
        assert str(error.value).startswith(f"{where}: the keyword {name!r} is not supported")
    # As a name of the user's it is none.
    schema_grammar(ENCODING, {"properties": {name: {}}, "enum": [{name: 3}]}, "schema")
    schema_grammar(ENCODING, {"const": {name: value}, "default": {name: value}}, "schema")


@pytest.mark.parametrize("name", names("annotation"))
def test_annotations_change_nothing(name: str) -> None:
    grammar = schema_grammar(ENCODING, {"type": "integer", name: "https://a.org/"}, "schema")
    for text in ("1", "-20"):
        assert accepts(ENCODING, grammar, text)
    assert not accepts(ENCODING, grammar, '"https://a.org/"')


@pytest.mark.parametrize("name", FORMATS)
def test_formats(name: str) -> None:
    grammar = schema_grammar(ENCODING, {"type": "string", "format": name}, "schema")
    valid, wrong = FORMAT_TEXTS[name]
    assert accepts(ENCODING, grammar, json.dumps(valid))
    assert not accepts(ENCODING, grammar, json.dumps(wrong))


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"minimun": 3}, "unknown keyword 'minimun'; did you mean 'minimum'?"),
        ({"x-guidance": {"lenient": True}}, "unknown keyword 'x-guidance'"),
        ({"format": "iri"}, "the format 'iri' is not supported, only date-time"),
        ({"$ref": "https://a.org/b"}, "the keyword '\\$ref' must be a path within the schema"),
        ({"$ref": "#/$defs/b"}, "the keyword '\\$ref' leads nowhere"),
        ({"$ref": "#"}, "no text is valid"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "no text is valid"),
        ({"properties": {"a": {"$id": "https://a.org"}}}, "the keyword '\\$id' is not supported"),
        ({"oneOf": [{"minimum": 3}, {"maximum": 5}]}, "the keyword 'oneOf' is supported only"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "the keyword 'oneOf' is supported"),
        ({"minProperties": 2}, "the keyword 'minProperties' is supported up to 1, or as many as"),
        ({"enum": [1, {"a": [2**53 + 1]}]}, "the keyword 'enum' has a number beyond"),
        ({"maximum": 2**70}, "the keyword 'maximum' has a number beyond"),
        ({"exclusiveMinimum": 0, "maximum": 0.5}, "'exclusiveMinimum' of 0 is not supported with"),
        ({"minimum": -0.5, "exclusiveMaximum": 0}, "'exclusiveMaximum' of 0 is not supported with"),
        (
            {"allOf": [{"exclusiveMinimum": 1}, {"properties": {"a": {"maximum": 1.5}}}]},
            "'exclusiveMinimum' of 1 is not supported with",
        ),
        (False, "false allows no answer"),
        ({"type": "array", "minItems": 1, "items": False}, "nsatisfiable"),
        ({"enum": []}, "nsatisfiable"),
        ({"type": "strin"}, "strin"),
        ({"minLength": -1}, "minLength"),
        ({"pattern": "(?=a)"}, "look-around"),
        ({"pattern": "(a)\\1"}, "backreferences"),
        ({"pattern": "("}, "regex"),
        ({"patternProperties": {"a*": {}, "aa*": {}}}, "patternProperty"),
        ({"enum": ["x" * 70_000]}, "at most 65536 bytes, got 700"),
        ({"properties": []}, "properties must be a dict of schemas"),
        ({"anyOf": {}}, "anyOf must be a list of schemas"),
        ({"items": [{}]}, "items must be a JSON schema, a dict or a bool, got"),
        ({"minimum": float("nan")}, "schema must be JSON"),
        ({"const": object()}, "schema must be JSON"),
        ([], "schema must be a JSON schema, a dict"),
    ],
)
def test_errors(schema: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message) as error:
        schema_grammar(ENCODING, schema, "schema")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def nested(depth: int, name: str) -> Any:
    schema: Any = {"type": "null"}
    for _ in range(depth):
        inner: Any = [schema] if name == "anyOf" else {"a": schema}
        schema = {name: schema if name == "items" else inner}
    return schema


@pytest.mark.parametrize("name", ["items", "anyOf", "properties"])
def test_hostile_nesting(name: str) -> None:
    for depth in (150, 900, 5000):
        with pytest.raises((ValueError, TypeError), match=r"at most 64|recursion|65536"):
            schema_grammar(ENCODING, nested(depth, name), "schema")
    schema_grammar(ENCODING, nested(15, name), "schema")


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {f"p{i}": {"type": "string"} for i in range(1000)}},
        {"enum": [f"value {i}" for i in range(4000)]},
        {"type": "array", "minItems": 100_000},
        {"pattern": "((a{1,30}){1,30}){1,30}"},
        {"pattern": "(x+x+)+y"},
        {"type": "string", "minLength": 10**6},
        {"anyOf": [{"properties": {"a": {"const": i}}} for i in range(900)]},
        {
            "$ref": "#/$defs/a0",
            "$defs": {
                f"a{i}": {
                    "type": "array",
                    "items": {
                        "anyOf": [{"$ref": f"#/$defs/a{i + 1}"}, {"$ref": f"#/$defs/a{i + 1}"}]
                    },
                }
                for i in range(60)
            }
            | {"a60": {}},
        },
        {"allOf": [{"anyOf": [{"minimum": i}, {"maximum": -i}]} for i in range(30)]},
    ],
)
def test_hostile_width(schema: Any) -> None:
    """It is compiled or refused, in bounded time."""
    with contextlib.suppress(ValueError):
        drawn(ENCODING, schema_grammar(ENCODING, schema, "schema"), random.Random(0), 60)


# -- objects without a word about other properties ------------------------------------------


OPEN = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}
CLOSED_TEXTS = ['{"a":1}']
OTHER_TEXTS = ['{"a":1,"b":2}']


@pytest.mark.parametrize(
    ("schema", "is_closed"),
    [
        (OPEN, True),
        ({**OPEN, "additionalProperties": True}, False),
        ({"anyOf": [OPEN, {"type": "null"}]}, True),
        ({"$ref": "#/$defs/a", "$defs": {"a": OPEN}}, True),
        ({"allOf": [OPEN]}, False),
        ({"allOf": [OPEN, {"properties": {"b": {"const": 2}}, "required": ["b"]}]}, None),
        ({"$ref": "#/$defs/a", "$defs": {"a": OPEN}, "required": ["b"]}, None),
        ({**OPEN, "required": ["a", "b"]}, None),
        ({**OPEN, "patternProperties": {"^b": {"const": 2}}}, False),
        ({"anyOf": [OPEN, {"type": "null"}], "properties": {"b": {"const": 2}}}, False),
        ({"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"anyOf": [OPEN]}}}, False),
    ],
)
def test_objects_are_closed_where_that_takes_nothing_away(
    schema: Any, is_closed: bool | None
) -> None:
    """With None the one property alone is not valid."""
    grammar = schema_grammar(ENCODING, schema, "schema")
    assert accepts(ENCODING, grammar, '{"a":1}') == (is_closed is not None)
    assert accepts(ENCODING, grammar, '{"a":1,"b":2}') == (not is_closed)


def test_the_schema_of_the_caller_stays_as_it_is() -> None:
    schema = {"$schema": "x", "type": "object", "properties": {"a": {"format": "date"}}}
    before = json.dumps(schema)
    schema_grammar(ENCODING, schema, "schema")
    assert json.dumps(schema) == before


def test_no_blanks() -> None:
    grammar = schema_grammar(ENCODING, {}, "schema")
    for text in ('{"a":[1,2,{}],"b":null}', "[]", "true"):
        assert accepts(ENCODING, grammar, text)
    for text in ('{"a": 1}', "[1, 2]", " 1", "1 ", "{}\n"):
        assert not accepts(ENCODING, grammar, text)


A = {"type": "object", "properties": {"kind": {"const": "a"}}, "required": ["kind"]}
B = {"type": "object", "properties": {"kind": {"enum": ["b", "c"]}}, "required": ["kind"]}


@pytest.mark.parametrize(
    "schema",
    [
        {"oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}], "$defs": {"a": A, "b": B}},
        {"oneOf": [A, B], "discriminator": {"propertyName": "kind"}},
        {"oneOf": [{"const": 1}, {"const": 2}, {"enum": ["a", None]}]},
        {"oneOf": [{"type": "array"}, {"type": ["number", "null"]}, {"type": "string"}]},
    ],
)
def test_one_of_that_cannot_be_two(schema: Any) -> None:
    grammar = schema_grammar(ENCODING, schema, "schema")
    rng = random.Random(0)
    texts = {drawn(ENCODING, grammar, rng) for _ in range(20)} - {None}
    assert len(texts) > 2
    assert all(invalid(schema, str(text)) is None for text in texts)


LIMITS = (-0.5, 0, 0.01, 1, 1.5)
MORE_LIMITS = (-10, -1, -0.5, -0.001, 0, 0.01, 0.5, 1, 1.5, 2, 10)
NUMBERS = (
    *("0", "-0", "0.0", "-0.0", "0.00", "1", "1.0", "-1", "-1.0", "0.5", "-0.5", "0.50", "0.01"),
    *("0.010", "-0.001", "-0.0010", "0.0005", "2", "2.0", "1.5", "1.50", "10", "10.0", "1e0"),
)


@pytest.mark.parametrize("kind", ["number", "integer"])
@pytest.mark.parametrize("limits", [LIMITS, pytest.param(MORE_LIMITS, marks=pytest.mark.slow)])
def test_all_limits(kind: str, limits: tuple[float, ...]) -> None:
    refused = 0
    for low, high in itertools.combinations(limits, 2):
        for lower in ("minimum", "exclusiveMinimum"):
            for upper in ("maximum", "exclusiveMaximum"):
                schema = {"type": kind, lower: low, upper: high}
                grammar, error = compiled_or_error(schema)
                if grammar is None:
                    refused += "not supported" in error
                    continue
                for text in NUMBERS:
                    if accepts(ENCODING, grammar, text):
                        assert invalid(schema, text) is None, (schema, text)
    assert 0 < refused < 40


# -- the test suite --------------------------------------------------------------------------

# Regular expressions are Rust's, in which U+FEFF is no white space, as in Python.
OTHERWISE = {"optional/ecmascript-regex: ECMA 262 \\S matches everything but whitespace"}


def compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def test_the_suite() -> None:
    """No value that a schema forbids can be written, and most of those that it allows can."""
    compiled = allowed = forbidden = values = 0
    for case in suite():
        grammar, error = compiled_or_error(case.schema)
        if grammar is None:
            assert says_why(case, error), (case.name, error)
            continue
        compiled += 1
        values += len(case.valid)
        forbidden += len(case.invalid)
        allowed += sum(accepts(ENCODING, grammar, compact(value)) for value in case.valid)
        wrong = [each for each in case.invalid if accepts(ENCODING, grammar, compact(each))]
        assert wrong == [] or case.name in OTHERWISE, case
    assert compiled > 170
    assert forbidden > 380
    assert allowed > 0.9 * values


def compiled_or_error(schema: Any) -> tuple[Grammar | None, str]:
    try:
        return schema_grammar(ENCODING, schema, "schema"), ""
    except (ValueError, TypeError) as error:
        return None, str(error)


def says_why(case: Case, error: str) -> bool:
    """Whether an error names a keyword of the schema, or says that nothing is valid."""
    text = json.dumps(case.schema)
    named = any(f'"{name}"' in text and name in error for name in KEYWORDS)
    nothing = "nsatisfiable" in error or "allows no answer" in error
    return named or nothing or "patternProperty" in error


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_what_is_drawn_is_valid(seed: int) -> None:
    """Texts of any tokens that are allowed, not only likely ones."""
    rng, found = random.Random(seed), 0
    for case in suite():
        grammar, _ = compiled_or_error(case.schema)
        if grammar is None or "regex" in case.name:  # of which Python has others
            continue
        for _ in range(3 if seed == 0 else 60):
            text = drawn(ENCODING, grammar, rng)
            if text is not None:
                found += 1
                assert invalid(case.schema, text) is None, (case, text)
    assert found > 300
