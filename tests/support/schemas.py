"""JSON schemas for tests, a judge of what is valid, and texts drawn from a grammar."""

from __future__ import annotations

import decimal
import json
import random
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import numpy as np

from gptoss.harmony import HarmonyEncoding
from gptoss.structured import Grammar

_SUITE = Path(__file__).resolve().parents[1] / "golden" / "json_schema" / "suite.json"
_FEW_DIGITS = 400  # jsonschema cannot divide numbers with exponents of millions


class Case(NamedTuple):
    """A schema of the test suite, and values."""

    name: str
    schema: Any
    valid: list[Any]
    invalid: list[Any]


@cache
def suite() -> list[Case]:
    """The JSON Schema test suite for draft 2020-12."""
    files = json.loads(_SUITE.read_text())
    return [
        Case(f"{file}: {description}", schema, valid, invalid)
        for file, cases in files.items()
        for description, schema, valid, invalid in cases
    ]


def _multiple_of(
    validator: Any, factor: Any, instance: Any, schema: Any
) -> Iterator[jsonschema.ValidationError]:
    """As decimals: in binary 0.07 is no multiple of 0.01."""
    if isinstance(instance, bool) or not isinstance(instance, int | Decimal):
        return
    is_short = not isinstance(instance, Decimal) or abs(instance.adjusted()) < _FEW_DIGITS
    if is_short and Fraction(instance) % Fraction(factor):
        yield jsonschema.ValidationError(f"{instance} is not a multiple of {factor}")


_Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator, {"multipleOf": _multiple_of}
)


def _number(text: str) -> Decimal | float:
    try:
        return Decimal(text)
    except decimal.InvalidOperation:  # an exponent beyond all
        return float(text)


def invalid(schema: Any, text: str) -> str | None:
    """What is wrong with a text that should be JSON of a schema; None if nothing is."""
    try:
        value = json.loads(text, parse_float=_number)
    except ValueError as error:
        return f"no JSON: {error}"
    exact = json.loads(json.dumps(schema), parse_float=_number)
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    error = next(_Validator(exact, format_checker=checker).iter_errors(value), None)
    return None if error is None else error.message


def accepts(encoding: HarmonyEncoding, grammar: Grammar, text: str) -> bool:
    """Whether a grammar allows a text."""
    matcher = grammar.matcher()
    try:
        matcher.take(encoding.tokenizer.encode(text))
    except ValueError:
        return False
    return matcher.is_complete


def drawn(
    encoding: HarmonyEncoding, grammar: Grammar, rng: random.Random, most_tokens: int = 200
) -> str | None:
    """A text of the grammar, of tokens that are drawn with equal chances; None if it is cut.

    After some tokens those that end something are preferred. Tokens that are certain are sometimes
    taken at once.
    """
    matcher, tokens = grammar.matcher(), list[int]()
    mask = np.empty(grammar.lexicon.words, np.uint32)
    ends = {encoding.tokenizer.encode(text)[0] for text in ('"', "}", "]")}
    while len(tokens) < most_tokens:
        if rng.random() < 0.5:
            tokens += matcher.forced()
        if matcher.is_over or (matcher.is_complete and rng.random() < 0.3):
            return encoding.decode(tokens)
        matcher.fill(mask)
        allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist()
        if not allowed:
            if matcher.is_complete:
                return encoding.decode(tokens)
            raise AssertionError(f"nothing can follow {encoding.decode(tokens)!r}")
        near = [token for token in allowed if token in ends]
        is_late = len(tokens) > 30 and near and rng.random() < 0.6
        tokens.append(rng.choice(near if is_late else allowed))
        matcher.take(tokens[-1:])
    return None
