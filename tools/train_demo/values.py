"""What tools return, in every shape, and how it is told in a sentence.

A value is plain JSON data, or a text as a function may return it. Its words and numbers belong to
training or to evaluation by their hash, like all else.
"""

# Long lists read better as text.
# ruff: noqa: SIM905

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from draws import THINGS, Draw

_STATES = (
    "sunny rainy cloudy windy foggy snowy stormy clear dry wet warm cold hot mild cool red blue "
    "green yellow black white brown grey open closed full empty ready busy high low good bad new "
    "old fast slow yes no none on off active done late early north south east west left right "
    "small large free paid sold strong weak light heavy rain snow fog wind sun overcast celsius"
).split()
_ADVERBS = "partly mostly very quite mainly almost nearly slightly not".split()
_UNITS = (
    "°C|°C|°C|°F|°|%|%|km/h|m/s|mph|km|m|cm|mm|kg|g|t|l|ml|EUR|EUR|USD|GBP|CHF|hPa|W|kW|kWh|V|Hz|"
    "GHz|GB|MB|KB|h|min|s|ms|days|hours|minutes|degrees|euros|dollars|people|points|pieces"
).split("|")
_MONTHS = (
    "January February March April May June July August September October November December"
).split()
_ZONES = "UTC CET GMT EST am pm".split()
_ENDINGS = "txt py pdf md csv json png".split()
KEYS = (
    "temperature weather sky wind rain humidity pressure price amount total count size color name "
    "city country place status state time date day hour year level score rating speed distance "
    "unit currency value result id code title author age height weight population min max low "
    "high from to open stock owner type version width depth x y a b summary feels_like wind_speed "
    "last_seen in_stock"
).split()


def _fresh_text(draw: Draw, make: Callable[[], str]) -> str:
    return str(draw.fresh(make, lambda text: f"value {text}"))


def lower_word(draw: Draw) -> str:
    return str(draw.one(_STATES + THINGS)) if draw.chance(0.25) else draw.word()


def phrase(draw: Draw) -> str:
    """Two to four words, in lower case or not."""
    kind = draw.random.random()
    if kind < 0.3:
        return f"{draw.one(_ADVERBS)} {lower_word(draw)}"
    if kind < 0.45:
        return f"{lower_word(draw)}, {draw.one((lower_word, number_and_unit))(draw)}"
    if kind < 0.6:
        return (
            f"{lower_word(draw)} {draw.one(('and', 'with', 'in', 'of', 'or'))} {lower_word(draw)}"
        )
    if kind < 0.75:
        return f"{draw.name()} {draw.name()}"
    words = [lower_word(draw) for _ in range(draw.one((2, 2, 3)))]
    if draw.chance(0.4):
        words[0] = words[0].capitalize()
    return " ".join(words)


def integer(draw: Draw, digits: int | None = None) -> int:
    digits = digits or draw.random.randint(1, 9)
    if digits < 3:
        return draw.number(digits)

    def make() -> int:
        value = draw.number(digits)
        if draw.chance(0.15):  # with a digit that comes often
            text = str(value).replace(draw.one("0123456789"), str(value)[0])
            value = int(text)
        if draw.chance(0.1):
            value = value // 100 * 100 or value
        return value

    return int(draw.fresh(make, lambda value: f"value {value}"))


def negative(draw: Draw) -> int | float:
    if draw.chance(0.6):
        return -(integer(draw, draw.one((1, 1, 2, 2, 3, 4, 5))) or 1)
    return -abs(decimal(draw))


def decimal(draw: Draw) -> float:
    def make() -> float:
        places = draw.one((1, 1, 2, 2, 3, 4))
        whole = draw.number(draw.one((1, 1, 2, 2, 3, 4, 5)))
        return float(f"{whole}.{draw.random.randrange(10**places):0{places}}")

    return float(draw.fresh(make, lambda value: f"value {value}"))


def time_of_day(draw: Draw) -> str:
    def make() -> str:
        text = f"{draw.random.randrange(24):02}:{draw.random.randrange(60):02}"
        kind = draw.random.random()
        if kind < 0.1:
            return text.lstrip("0") if not text.startswith("00") else text
        if kind < 0.25:
            return f"{text}:{draw.random.randrange(60):02}"
        if kind < 0.35:
            return f"{text} {draw.one(_ZONES)}"
        return text

    return _fresh_text(draw, make)


def date(draw: Draw) -> str:
    def make() -> str:
        year, month, day = (
            draw.random.randint(1900, 2040), draw.random.randint(1, 12), draw.random.randint(1, 28),
        )  # fmt: skip
        kind = draw.random.random()
        if kind < 0.5:
            return f"{year}-{month:02}-{day:02}"
        if kind < 0.6:
            return f"{day:02}.{month:02}.{year}"
        if kind < 0.7:
            return f"{day} {draw.one(_MONTHS)} {year}"
        if kind < 0.8:
            return f"{draw.one(_MONTHS)} {day}, {year}"
        joint = draw.one(("T", " "))
        return f"{year}-{month:02}-{day:02}{joint}{time_of_day(draw)[:5]}"

    return _fresh_text(draw, make)


def number_and_unit(draw: Draw) -> str:
    def make() -> str:
        number = draw.one((integer, integer, decimal, negative))(draw)
        if number == int(number) and abs(number) > 10**6:
            number = int(number) // 1000
        if draw.chance(0.12):
            return draw.one("$€£") + str(abs(number))
        unit = draw.one(_UNITS)
        apart = "" if draw.chance(0.25) and not (len(unit) > 4 and unit.islower()) else " "
        return f"{number}{apart}{unit}"

    return _fresh_text(draw, make)


def code(draw: Draw) -> str:
    """An identifier, a version, a file, an address."""

    def make() -> str:
        kind = draw.random.random()
        if kind < 0.3:
            letters = "".join(
                draw.one("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(draw.one((1, 2, 3)))
            )
            return f"{letters}{draw.one(('-', '', '_'))}{draw.number(draw.one((2, 3, 4)))}"
        if kind < 0.5:
            numbers = [str(draw.number(draw.one((1, 1, 2)))) for _ in range(draw.one((2, 3, 3, 4)))]
            return draw.one(("", "", "v")) + ".".join(numbers)
        if kind < 0.7:
            return f"{draw.word()}.{draw.one(_ENDINGS)}"
        if kind < 0.8:
            return "/" + "/".join(draw.word() for _ in range(draw.one((1, 2))))
        if kind < 0.9:
            return f"{draw.word()}@{draw.word()}.{draw.one(('com', 'org', 'net'))}"
        return f"{draw.word()}_{draw.word()}"

    return _fresh_text(draw, make)


def sentence(draw: Draw, about: str) -> str:
    """A whole sentence, as a function may return it."""
    pattern = draw.one(
        (
            "It is {w} in {about}.",
            "It is {u} in {about}.",
            "{about} is {w}.",
            "{about} has {n} {w}.",
            "The {w} of {about} is {v}.",
            "The {w} is {v}.",
            "{name} is in {about}.",
            "{name} has {u}.",
            "No {w} today.",
            "{name} {w}, {v}.",
            "We have {n} {w} in {about}.",
            "In {about} it is {w} and {u}.",
            "{name} says: {w}.",
        )
    )
    text = str(
        pattern.format(
            w=lower_word(draw),
            u=number_and_unit(draw),
            n=integer(draw, draw.one((1, 2, 3))),
            v=told(draw.one((lower_word, decimal, integer, time_of_day))(draw)),
            name=draw.name(),
            about=about,
        )
    )
    return text[0].upper() + text[1:]


SCALARS: dict[str, Callable[[Draw], Any]] = {
    "words": lower_word,
    "names": Draw.name,
    "phrases": phrase,
    "whole numbers of 1 to 3 digits": lambda draw: integer(draw, draw.one((1, 2, 3))),
    "whole numbers of 4 to 6 digits": lambda draw: integer(draw, draw.one((4, 5, 6))),
    "whole numbers of 7 to 9 digits": lambda draw: integer(draw, draw.one((7, 8, 9))),
    "negative numbers": negative,
    "decimals": decimal,
    "times": time_of_day,
    "dates": date,
    "values with a unit": number_and_unit,
    "identifiers, files, addresses": code,
    "true and false": lambda draw: draw.chance(0.5),
}
_SCALAR_WEIGHTS = (2, 2, 1.5, 1.5, 1, 0.7, 0.8, 1.2, 1, 1, 1.5, 0.7, 0.5)


def scalar(draw: Draw) -> Any:
    make = draw.random.choices(list(SCALARS.values()), _SCALAR_WEIGHTS)[0]
    return make(draw)


def key(draw: Draw) -> str:
    """The name of a field."""
    kind = draw.random.random()
    if kind < 0.4:
        return str(draw.one(KEYS))
    if kind < 0.9:
        return draw.word()
    return f"{draw.word()}_{draw.one((draw.word(), draw.one(KEYS)))}"


def told(value: Any) -> str:
    """A value within a sentence."""
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return ", ".join(f"{k} {told(v)}" for k, v in _flat(value))
    if isinstance(value, list):
        if value and isinstance(value[0], dict):
            return "; ".join(told(item) for item in value)
        return " and ".join(told(item) for item in value)
    return str(value)


def _flat(value: dict[str, Any]) -> list[tuple[str, Any]]:
    """The fields; those of a dict within have its name before theirs."""
    fields: list[tuple[str, Any]] = []
    for name, inner in value.items():
        if isinstance(inner, dict):
            fields += [(f"{name} {k}", v) for k, v in _flat(inner)]
        else:
            fields.append((name, inner))
    return fields


def _fields(draw: Draw, count: int, taken: tuple[str, ...] = ()) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    while len(fields) < count:
        name = key(draw)
        if name not in taken:
            fields[name] = None if draw.chance(0.03) else scalar(draw)
    return fields


@dataclass
class Result:
    """What a tool returned: the message's content, what the analysis says of it, and the answer."""

    content: str
    told: str
    answer: str


def _json(draw: Draw, value: Any) -> str:
    compact = draw.chance(0.15)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":") if compact else None)


def _is(subject: str, value: str) -> str:
    return f"{subject[0].upper()}{subject[1:]} is {value}."


def _fields_told(subject: str, value: dict[str, Any]) -> tuple[str, str]:
    fields = _flat(value)
    if len(fields) == 1:
        only = told(fields[0][1])
        return only, _is(subject, only)
    text = told(value)
    return text, f"{subject[0].upper()}{subject[1:]}: {text}."


def result(
    draw: Draw, shape: str, subject: str, noun: str, arguments: dict[str, Any]
) -> Result:  # fmt: skip
    """A result of a shape of `SHAPES` for a call about the subject."""
    if shape in SCALARS:
        value = SCALARS[shape](draw)
        quoted = not isinstance(value, str) or draw.chance(0.2)
        content = json.dumps(value, ensure_ascii=False) if quoted else value
        if isinstance(value, bool) and draw.chance(0.3):
            content = str(value)
        if not quoted and draw.chance(0.04):
            content += "\n"
        return Result(content, told(value), _is(subject, told(value)))
    if shape == "sentences":
        text = sentence(draw, next((v for v in arguments.values() if isinstance(v, str)), "it"))
        content = text if draw.chance(0.8) else json.dumps(text, ensure_ascii=False)
        return Result(content, text.rstrip("."), text)
    if shape == "null and nothing":
        if draw.chance(0.6):
            return Result(draw.one(("null", "None")), "unknown", _is(subject, "unknown"))
        return Result(draw.one(('""', "[]", "{}")), "nothing", _is(subject, "empty"))
    if shape == "errors":
        reason = draw.one(
            (
                "not found", "timeout", f"no {draw.word()}", f"unknown {draw.word()}",
                f"no such {draw.word()}: {draw.name()}", f"{draw.name()} is not known",
                f"ValueError: {phrase(draw)}", f"KeyError: '{draw.word()}'", phrase(draw),
                f"{draw.word()} must be {draw.word()}", f"no connection to {draw.word()}",
            )
        )  # fmt: skip
        content = f"Error: {reason}" if draw.chance(0.6) else _json(draw, {"error": reason})
        return Result(content, f"error: {reason}", f"The tool failed: {reason}.")
    name = noun if draw.chance(0.5) else draw.one(("result", "value", key(draw)))
    if shape == "dicts of one key":
        value = {name: None if draw.chance(0.04) else scalar(draw)}
    elif shape == "dicts of two keys":
        value = _fields(draw, 2, tuple(arguments))
    elif shape == "dicts of three keys":
        value = _fields(draw, 3, tuple(arguments))
    elif shape == "dicts that repeat the argument":
        value = _fields(draw, draw.one((1, 1, 1, 2)), tuple(arguments))
        if len(value) == 1 and draw.chance(0.5) and name not in arguments:
            value = {name: next(iter(value.values()))}
        echo = draw.one([k for k, v in arguments.items() if isinstance(v, str)] or [None])
        if echo is not None:
            value = {echo: arguments[echo], **value}
            if draw.chance(0.2):
                value = dict(reversed(value.items()))
    elif shape == "dicts within dicts":
        value = _fields(draw, draw.one((0, 1)), tuple(arguments))
        value[draw.fresh(lambda: key(draw)) if draw.held else key(draw)] = _fields(
            draw, draw.one((1, 2))
        )
    elif shape == "lists":
        make = draw.one(list(SCALARS.values())[:-1])
        items = [make(draw) for _ in range(draw.one((1, 2, 2, 3)))]
        listed: Any = {name: items} if draw.chance(0.35) else items
        text = told(items)
        return Result(_json(draw, listed), text, _is(subject, text))
    elif shape == "lists of dicts":
        names = list(_fields(draw, draw.one((1, 2, 2))))
        rows = [{n: scalar(draw) for n in names} for _ in range(2)]
        text = told(rows)
        return Result(_json(draw, rows), text, f"{subject[0].upper()}{subject[1:]}: {text}.")
    else:
        raise ValueError(f"no shape {shape!r}")
    text, answer = _fields_told(subject, value)
    return Result(_json(draw, value), text, answer)


SHAPES: dict[str, float] = {
    "words": 1,
    "names": 1,
    "phrases": 1.2,
    "whole numbers of 1 to 3 digits": 1,
    "whole numbers of 4 to 6 digits": 1.2,
    "whole numbers of 7 to 9 digits": 1.2,
    "negative numbers": 1,
    "decimals": 1.2,
    "times": 1.2,
    "dates": 1.2,
    "values with a unit": 1.5,
    "identifiers, files, addresses": 0.8,
    "true and false": 0.5,
    "sentences": 3.2,
    "null and nothing": 0.6,
    "errors": 1.2,
    "dicts of one key": 2,
    "dicts of two keys": 5,
    "dicts of three keys": 3,
    "dicts that repeat the argument": 4,
    "dicts within dicts": 4,
    "lists": 1.5,
    "lists of dicts": 2,
}
