"""Calling tools and telling what they return: declared functions, and the built-in python.

A call is asked for among up to six functions, whose names, parameters and descriptions differ.
"""

# Long lists read better as text.
# ruff: noqa: SIM905

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from draws import LANGUAGES, Draw, Example, assistant, user
from values import (
    SHAPES,
    Result,
    code,
    date,
    decimal,
    integer,
    key,
    lower_word,
    negative,
    number_and_unit,
    phrase,
    result,
    scalar,
    time_of_day,
)

_VERBS = "get find fetch read show query check load search list look tell compute".split()
_NOUNS = (
    "weather temperature price population time stock distance score status owner size color "
    "address phone age height weight balance forecast rating title author date speed humidity "
    "currency salary capital label area volume battery version path level traffic delay menu owner "
    "length depth power mood genre pulse gender rent tax fee debt income profit rate rank grade "
    "winner leader director editor singer actor doctor manager teacher member guest visitor "
    "birthday deadline holiday schedule calendar agenda summary news report review comment recipe "
    "ingredient calorie dose symptom colour texture material origin source target region county "
    "province language dialect religion flag anthem climate season sunrise sunset tide rainfall "
    "pollution pressure altitude latitude elevation route ticket platform gate seat fare flight "
    "airport station hotel booking invoice receipt discount voucher shipment parcel warranty "
    "supplier inventory quantity model brand maker publisher publication chapter page lyrics tempo"
).split()
_TEXT_KEYS = (
    "city name place item user country product id key title person location town account file "
    "book game team room device company station project word text query order path symbol street"
).split()
_NUMBER_KEYS = "days count limit year amount size level hours page depth rank width age n x".split()
_BOOLEAN_KEYS = "verbose exact details all today cached open short strict live".split()
_ASK = (
    "What is the {noun} {of} {value}?|Tell me the {noun} {of} {value}.|"
    "Get the {noun} {of} {value}.|Please find the {noun} {of} {value}.|"
    "I need the {noun} {of} {value}.|Show me the {noun} {of} {value}.|"
    "Look up the {noun} {of} {value}.|What's the {noun} {of} {value}?|"
    "How is the {noun} {of} {value}?|Find the {noun} {of} {value}.|"
    "Can you tell me the {noun} {of} {value}?|Do you know the {noun} {of} {value}?|"
    "Please give me the {noun} {of} {value}.|{noun} {of} {value}|the {noun} {of} {value}?|"
    "What was the {noun} {of} {value}?|Check the {noun} {of} {value}.|"
    "I want to know the {noun} {of} {value}."
).split("|")
_OF = {"of": 5, "in": 3, "for": 3, "at": 1, "from": 0.7}


@dataclass
class _Parameter:
    name: str
    type: str  # of JSON, or "choice"
    choices: tuple[str, ...] = ()

    def schema(self) -> dict[str, Any]:
        if self.type == "choice":
            return {"type": "string", "enum": list(self.choices)}
        if self.type == "array":
            return {"type": "array", "items": {"type": "string"}}
        return {"type": self.type}

    def value(self, draw: Draw) -> Any:
        if self.type == "choice":
            return draw.one(self.choices)
        if self.type == "boolean":
            return draw.chance(0.6)
        if self.type == "integer":
            return integer(draw, draw.one((1, 1, 2, 2, 3, 4, 5, 6, 7)))
        if self.type == "number":
            return draw.one((integer, decimal, decimal, negative))(draw)
        if self.type == "array":
            return [draw.one((draw.name, draw.word))() for _ in range(draw.one((1, 2, 2, 3)))]
        if self.type == "object":
            return {key(draw): scalar(draw) for _ in range(draw.one((1, 1, 2)))}
        kind = draw.random.random()
        if kind < 0.6:
            return draw.name()
        if kind < 0.68:
            return f"{draw.name()} {draw.name()}"
        return draw.one(
            (lower_word, lower_word, code, time_of_day, date, phrase, number_and_unit)
        )(draw)  # fmt: skip


@dataclass
class _Tool:
    """A declared function and what would be said to have it called."""

    name: str
    noun: str
    description: str
    parameters: list[_Parameter]
    optional: list[_Parameter]

    def schema(self, draw: Draw) -> dict[str, Any]:
        properties: dict[str, Any] = {}
        for parameter in [*self.parameters, *self.optional]:
            described = properties[parameter.name] = parameter.schema()
            if draw.chance(0.3):
                described["description"] = draw.one(
                    (
                        f"The {parameter.name}",
                        f"Name of the {parameter.name}",
                        f"Name of a {parameter.name}.",
                        f"{parameter.name.capitalize()} to use",
                        f"the {parameter.name}.",
                        f"Which {draw.word()} of {draw.word()}.",
                    )
                )
            if parameter in self.optional and draw.chance(0.5):
                described["default"] = parameter.value(draw)
                if parameter.type in ("array", "object"):
                    del described["default"]
        parameters: dict[str, Any] = {
            "type": "object",
            "properties": properties,
            "required": [p.name for p in self.parameters],
        }
        if draw.chance(0.2):
            parameters["additionalProperties"] = False
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}


@dataclass
class _Request:
    tool: _Tool
    text: str
    arguments: dict[str, Any]
    subject: str  # what the final answer is about
    tools: list[dict[str, Any]] = field(default_factory=list)

    def reasoning(self, effort: str) -> str:
        name = self.tool.name
        given = " and ".join(f"{k} is {_said(v)}" for k, v in self.arguments.items()) or "none"
        return {
            "low": f"Call {name}.",
            "medium": f"I call {name}. Arguments: {given}.",
            "high": f"The user wants {self.subject}. There is a tool that gives it: {name}.\n"
            f"Arguments: {given}.\nI call {name}.",
        }[effort]


def _said(value: Any) -> str:
    """A value as the user says it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# -- functions of all kinds ------------------------------------------------------------------


def _parameter(draw: Draw, taken: list[str], first: bool = False) -> _Parameter:
    kind = draw.random.choices(
        ("string", "number", "integer", "boolean", "choice", "object", "array"),
        (12, 2, 2, 1, 1, 1, 1) if first else (4, 3, 4, 2.5, 2, 2, 1.5),
    )[0]
    known = {"string": _TEXT_KEYS, "boolean": _BOOLEAN_KEYS}.get(kind, _NUMBER_KEYS)
    while True:
        name = draw.one(known) if draw.chance(0.5) else draw.word()
        if kind in ("object", "array") or name in taken:
            name = draw.word()
        if name not in taken:
            break
    choices = tuple(draw.word() for _ in range(draw.one((2, 2, 3)))) if kind == "choice" else ()
    return _Parameter(name, kind, choices)


def _tool(draw: Draw, like: _Tool | None = None) -> _Tool:
    """A function that gives something of something; `like` another's name in a part."""

    # What is asked in the evaluation has an invented name, so that it cannot have been seen.
    def word() -> str:
        return draw.one(_NOUNS) if not draw.held and draw.chance(0.45) else draw.word()

    noun = word()
    if like is not None and draw.chance(0.5):
        noun = f"{like.noun.split()[0]} {word()}"
    elif draw.chance(0.07):
        noun = f"{noun} {word()}"
    verb = draw.one(_VERBS) if draw.chance(0.92) else draw.word(1)
    if like is not None and "_" in like.name and draw.chance(0.6):
        verb = like.name.split("_")[0]
    first, joined = noun.split()[0], noun.replace(" ", "_")
    camel = "".join(part.capitalize() for part in noun.split())
    name = draw.random.choices(
        (
            f"{verb}_{joined}",
            joined,
            verb + camel,
            f"{joined}_{verb}",
            f"{joined}_{draw.word()}",
            f"{verb}_{joined}_{draw.one(('by', 'of', 'for'))}_{draw.one(_TEXT_KEYS)}",
            f"{verb}_{draw.word()}",  # only the description tells
            first[0] + camel[1:],
        ),
        (7, 1.2, 1.8, 1, 0.7, 0.6, 1.2, 0.3),
    )[0]
    parameters: list[_Parameter] = []
    for index in range(draw.random.choices((0, 1, 2, 3), (0.3, 6, 2.7, 1))[0]):
        parameters.append(_parameter(draw, [p.name for p in parameters], first=index == 0))
    optional = []
    if draw.chance(0.15):  # one that nobody asks for
        optional.append(_parameter(draw, [p.name for p in parameters]))
    of = parameters[0].name if parameters else "thing"
    described = draw.one(
        (
            f"{verb.capitalize()} the {noun}.",
            f"Returns the {noun}.",
            f"The {noun} of a {of}.",
            f"{verb.capitalize()} the {noun} of a {of}.",
            f"{verb.capitalize()}s {noun}",
            f"Tell today's {noun}.",
            f"{verb.capitalize()} the {noun} of the {draw.word()}.",
        )
    )
    return _Tool(name, noun, described, parameters, optional)


_FEW = {1: 5.5, 2: 3.5, 3: 1}
_MANY = {1: 2.5, 2: 4.5, 3: 2, 4: 1, 5: 0.5, 6: 0.5}


def toolbox(
    draw: Draw, *tools: _Tool, among: dict[int, float] = _FEW, without: _Tool | None = None
) -> list[dict[str, Any]]:
    """Schemas of these tools, perhaps among others; none that does what `without` does."""
    listed = list(tools)
    count = draw.weighted(among)
    avoided = [tool for tool in (*listed, without) if tool is not None]
    while len(listed) < count:
        kind = draw.random.random()
        if kind < 0.72:
            another = _tool(draw, like=listed[0] if listed and draw.chance(0.2) else None)
        elif kind < 0.88:
            another = _usual_tool(draw, draw.one(_USUAL))
        else:
            another = _action_tool(draw)[0]
        if without is not None and without.noun.split()[0] in another.noun.split():
            continue
        if not any(_alike(another, tool) for tool in avoided):
            listed.append(another)
            avoided.append(another)
    draw.random.shuffle(listed)
    return [tool.schema(draw) for tool in listed]


_NEAR = ({"weather", "temperature"}, {"time", "date"})


def _alike(one: _Tool, other: _Tool) -> bool:
    """Whether a question for one may mean the other."""
    return (
        one.name == other.name
        or one.noun == other.noun
        or any(one.noun in near and other.noun in near for near in _NEAR)
    )


def _plain_request(draw: Draw, asked: bool = False) -> _Request:
    tool = _tool(draw)
    while asked and not (tool.parameters and tool.parameters[0].type == "string"):
        tool = _tool(draw)
    arguments = {p.name: p.value(draw) for p in tool.parameters}
    first = tool.parameters[0] if tool.parameters else None
    if first is not None and first.type == "string" and (asked or draw.chance(0.75)):
        of, value = draw.weighted(_OF), arguments[first.name]
        text = draw.one(_ASK).format(noun=tool.noun, of=of, value=value)
        rest = [(k, _said(v)) for k, v in arguments.items() if k != first.name]
        if rest:
            pairs = draw.one((" and ", ", ")).join(f"{k} {v}" for k, v in rest)
            tail = draw.one((f", {pairs}", f" with {pairs}"))
            if len(rest) == 1 and draw.chance(0.2):
                tail = f", {rest[0][1]} {rest[0][0]}"
            end = text[-1] if text[-1] in "?." else ""
            text = text[: len(text) - len(end)] + tail + end
        return _Request(tool, text, arguments, f"the {tool.noun} {of} {value}")
    pairs = draw.one((" and ", ", ")).join(f"{k} {_said(v)}" for k, v in arguments.items())
    verb = draw.one(("Call", "Use", "Please call", "Run", "Please use", "Use the tool"))
    text = f"{verb} {tool.name}" + (f" with {pairs}" if pairs else "") + draw.one((".", ".", ""))
    return _Request(tool, text, arguments, f"the result of {tool.name}")


# -- functions that do something -------------------------------------------------------------

_ACTIONS = (
    "order book send open close play start stop add remove buy sell delete move rename copy print "
    "save call cancel create update lock unlock pay reserve clean wash cook paint fix ship rent "
    "schedule email follow block invite join share upload download install restart ping deploy "
    "build run log assign approve reject archive publish hire park feed water charge mute pause "
    "resume record upgrade merge tag pin hide post deliver collect return exchange refund scan"
).split()
_DONE = (
    "{verb} {v}|please {verb} {v}|can you {verb} {v}|i want to {verb} {v}|could you {verb} {v}|"
    "{verb} {v} now|{verb} {v} for me|{verb} the {noun} {v}|{verb} {noun} {v}|i need to {verb} {v}|"
    "would you {verb} {v}, please"
).split("|")
_DONE_OFTEN = (
    "{verb} {n} of {v}|{verb} {n} {v}|please {verb} {n} of {v}|{verb} {v}, {k} {n}|"
    "can you {verb} {n} of {v}|{verb} {v} with {k} {n}|i want to {verb} {n} of {v}|"
    "{verb} {n} {noun} of {v}|please {verb} {n} {v}|could you {verb} {v}, {k} {n}"
).split("|")


def _action_tool(draw: Draw) -> tuple[_Tool, str]:
    """A function that does something, and the verb that asks for it."""
    verb = draw.one(_ACTIONS) if not draw.held and draw.chance(0.65) else draw.word()
    noun = draw.one(_TEXT_KEYS) if not draw.held and draw.chance(0.6) else draw.word()
    name = draw.weighted(
        {verb: 6, f"{verb}_{noun}": 2.5, verb + noun.capitalize(): 1, f"do_{verb}": 0.5}
    )
    key = noun if draw.chance(0.4) else draw.one(_TEXT_KEYS) if draw.chance(0.5) else draw.word()
    parameters = [_Parameter(key, "string")]
    if draw.chance(0.5):
        count = draw.one(_NUMBER_KEYS) if draw.chance(0.6) else draw.word()
        if count != key:
            parameters.append(_Parameter(count, draw.one(("integer", "integer", "number"))))
    described = draw.one(
        (
            f"{verb.capitalize()} a {noun}.",
            f"{verb.capitalize()} more of a {key}.",
            f"{verb.capitalize()}s the {key}",
            f"{verb.capitalize()} the {noun} of a {draw.word()}.",
            f"{verb.capitalize()}.",
            f"{verb.capitalize()} something.",
        )
    )
    return _Tool(name, noun, described, parameters, []), verb


def _action_request(draw: Draw) -> _Request:
    tool, verb = _action_tool(draw)
    value = draw.name() if draw.chance(0.7) else draw.one((lower_word, code))(draw)
    arguments: dict[str, Any] = {tool.parameters[0].name: value}
    said = {"verb": verb, "noun": tool.noun, "v": value}
    if len(tool.parameters) == 2:
        key = said["k"] = tool.parameters[1].name
        arguments[key] = integer(draw, draw.one((1, 1, 2, 3)))
        said["n"] = str(arguments[key])
    text = draw.one(_DONE if len(arguments) == 1 else _DONE_OFTEN).format(**said)
    if draw.chance(0.85):
        text = text[0].upper() + text[1:]
    if draw.chance(0.8):
        text += "?" if text.lower().startswith(("can", "could", "would")) else "."
    if draw.chance(0.3):  # the order in the declaration is its own
        tool.parameters.reverse()
        arguments = dict(reversed(arguments.items()))
    return _Request(tool, text, arguments, f"the result of {tool.name}")


# -- functions that people write first -------------------------------------------------------

# Noun, names, keys, descriptions, questions, subject; {v} is the first argument, {w} the second.
_USUAL = (
    (
        "weather", "get_weather|weather|get_current_weather|forecast|check_weather|get_forecast",
        "city|location|place|town", "Tell today's weather.|Get the weather of a city.|The weather.",
        "What is the weather in {v}?|How is the weather in {v}?|What should I wear in {v}?|"
        "Is it raining in {v}?|Do I need an umbrella in {v}?|Weather in {v}?|What is the weather "
        "like in {v}?|What's the weather in {v} today?|Is it sunny in {v}?|Will it rain in {v}?|"
        "Tell me the weather in {v}.|What's the weather like in {v}?|How is it in {v} today?|"
        "Should I take a coat to {v}?|Is it cold in {v}?|weather {v}",
        "the weather in {v}",
    ),
    (
        "temperature", "get_temperature|temperature|current_temperature|read_temperature",
        "city|location|place|room", "Get the temperature.|The temperature of a place.",
        "How warm is it in {v}?|How cold is it in {v}?|What is the temperature in {v}?|"
        "Tell me the temperature in {v}.|How hot is it in {v}?",
        "the temperature in {v}",
    ),
    (
        "time", "get_time|current_time|time_in|local_time", "city|place|timezone|location",
        "Tell the time.|The local time of a city.|Get the current time.",
        "What time is it in {v}?|Tell me the time in {v}.|What is the time in {v}?|"
        "How late is it in {v}?|Do you know what time it is in {v}?",
        "the time in {v}",
    ),
    (
        "time", "get_time|now|current_time|clock", "", "Tell the time.|The time now.|Current time.",
        "What time is it?|Tell me the time.|How late is it?|What's the time?|Time?", "the time",
    ),
    (
        "date", "get_date|today|current_date", "", "Tell the date.|The date of today.",
        "What day is it?|What is the date?|What is the date today?|Which day is today?", "the date",
    ),
    (
        "population", "get_population|population|count_people", "city|country|place",
        "The population of a place.|Get the number of people.",
        "How many people live in {v}?|What is the population of {v}?|How big is {v}?",
        "the population of {v}",
    ),
    (
        "price", "get_price|price|price_of|look_up_price", "item|product|article|name",
        "The price of a product.|Get the price.",
        "How much does {v} cost?|How much is {v}?|What does {v} cost?|What is the price of {v}?",
        "the price of {v}",
    ),
    (
        "age", "get_age|age|age_of", "name|person", "The age of a person.|Get the age.",
        "How old is {v}?|What is the age of {v}?|Tell me how old {v} is.", "the age of {v}",
    ),
    (
        "capital", "get_capital|capital|capital_of", "country|name",
        "The capital of a country.|Get the capital.",
        "What is the capital of {v}?|Which city is the capital of {v}?|Capital of {v}?",
        "the capital of {v}",
    ),
    (
        "distance", "get_distance|distance|how_far",
        "start end|origin target|a b|from_city to_city",
        "The distance of two places.|Get the distance in km.",
        "How far is it from {v} to {w}?|What is the distance from {v} to {w}?|How far is {w} from "
        "{v}?|How many km is it from {v} to {w}?",
        "the distance from {v} to {w}",
    ),
    (
        "translation", "translate|translate_word|dictionary", "word language|text to|text language",
        "Translate a word.|Translates text.",
        "Translate {v} to {w}.|What is {v} in {w}?|How do you say {v} in {w}?|Say {v} in {w}.",
        "the translation of {v}",
    ),
    (
        "order", "order_status|get_order|track_order|find_order", "order_id|id|number|order",
        "The status of an order.|Find an order.",
        "Where is order {v}?|Where is my order {v}?|What is the status of order {v}?|"
        "Find order {v}.|Has order {v} been sent?",
        "order {v}",
    ),
    (
        "stock", "in_stock|get_stock|check_stock|stock", "item|product|sku",
        "How many are in stock.|Check the stock.",
        "How many {v} are in stock?|Do we have {v}?|Is {v} in stock?|Are there any {v} left?",
        "the stock of {v}",
    ),
    (
        "number", "roll_dice|roll|roll_die|dice", "sides|faces",
        "Roll a die.|Roll a die with sides.",
        "Roll a die with {v} sides.|Roll a die of {v} sides.|Throw a die with {v} sides.",
        "the roll",
    ),
)  # fmt: skip


def _usual_tool(draw: Draw, usual: tuple[str, ...]) -> _Tool:
    noun, names, keys, descriptions, _, _ = usual
    names_of = draw.one(keys.split("|")).split()
    number = noun == "number" or (noun == "order" and draw.chance(0.6))
    parameters = [_Parameter(name, "integer" if number else "string") for name in names_of]
    if draw.held:  # the questions are known, the declaration is not
        parameters = [_Parameter(draw.word(), p.type) for p in parameters]
    optional = []
    if draw.chance(0.15):
        optional.append(_parameter(draw, names_of))
    return _Tool(
        draw.one(names.split("|")), noun, draw.one(descriptions.split("|")), parameters, optional
    )


def _usual_request(draw: Draw) -> _Request:
    usual = draw.one(_USUAL)
    noun, _, _, _, questions, subject = usual
    tool = _usual_tool(draw, usual)
    parameters = tool.parameters
    number = bool(parameters) and parameters[0].type == "integer"
    values: list[Any] = []
    for index in range(len(parameters)):
        if noun == "number":
            values.append(integer(draw, draw.one((1, 2, 3))))
        elif noun == "order":
            values.append(integer(draw, draw.one((3, 4, 5, 6))) if number else code(draw))
        elif noun in ("price", "stock") and draw.chance(0.6):
            values.append(draw.one((lower_word, phrase))(draw))
        elif noun == "translation":
            values.append(draw.one(LANGUAGES) if index else lower_word(draw))
        else:
            values.append(draw.name())
    said = dict(zip("vw", values, strict=False))
    arguments = dict(zip([p.name for p in parameters], values, strict=True))
    text = draw.one(questions.split("|")).format(**said)
    if draw.chance(0.08):
        text = text.lower() if not any(c.isupper() for c in str(values)) else text.rstrip("?.")
    return _Request(tool, text, arguments, subject.format(**said))


# What is said, and the parameters of the function that takes it down: {v} and {w} are names, {n} is
# a number.
_STATEMENTS = (
    ("{v} is {n} years old.", "name|person|who age|years"),
    ("{n} is the age of {v}.", "name|person age|years"),
    ("{v} lives in {w}.", "name|person|who city|place|town"),
    ("I am {v} from {w}.", "name|person city|place|country"),
    ("My name is {v} and I live in {w}.", "name|person city|place|town"),
    ("{v} costs {n} EUR.", "item|product|name price|amount|cost"),
    ("{v} paid {n} EUR.", "name|person|customer amount|price|sum"),
    ("{v} has {n} points.", "name|player|team points|score"),
    ("{v} weighs {n} kg.", "name|item weight|kg"),
    ("{v} has {n} people.", "city|place|name population|people"),
    ("{v} works for {w}.", "name|person company|employer|team"),
    ("{v} called {w}.", "caller|name called|other"),
)
_KEEPERS = "record|save|store|extract|keep|note|add_person|remember|save_data|take_down".split("|")


def _statement(draw: Draw) -> _Request:
    """Something that is told, and a function that takes it down."""
    pattern, keys = draw.one(_STATEMENTS)
    names = [draw.one(key.split("|")) for key in keys.split()]
    if draw.held or draw.chance(0.3):
        names = [draw.word() for _ in names]
    number = "{n}" in pattern
    types = ("string", draw.one(("integer", "number")) if number else "string")
    parameters = [_Parameter(name, kind) for name, kind in zip(names, types, strict=True)]
    if draw.chance(0.3):
        parameters.reverse()
    first = draw.name()
    second: Any = draw.name()
    if number:
        second = draw.one((integer, decimal))(draw) if types[1] == "number" else integer(draw)
    said = {"v": first, "n" if number else "w": second}
    values = dict(zip(names, (first, second), strict=True))
    name = draw.one(_KEEPERS) if draw.chance(0.7) else f"{draw.one(_KEEPERS)}_{draw.word()}"
    described = draw.one(
        (
            "Keep what was found.",
            "Save it.",
            f"{name.capitalize()} a {draw.word()}.",
            "Take it down.",
        )
    )
    tool = _Tool(name, name, described, parameters, [])
    arguments = {parameter.name: values[parameter.name] for parameter in parameters}
    text = pattern.format(**said)
    return _Request(tool, text, arguments, f"the result of {name}")


def _request(draw: Draw, among: dict[int, float]) -> _Request:
    make = draw.random.choices(
        (_plain_request, _usual_request, _action_request, _statement), (10, 4, 2.5, 1)
    )[0]
    request: _Request = make(draw)
    request.tools = toolbox(draw, request.tool, among=among)
    return request


def unfit_request(draw: Draw) -> tuple[str, list[dict[str, Any]]]:
    """A question for a function, and functions of which none is for it."""
    kind = draw.random.random()
    if kind < 0.5:
        request = _plain_request(draw, asked=True)
    else:
        request = _usual_request(draw) if kind < 0.8 else _action_request(draw)
    return request.text, toolbox(draw, among=_MANY, without=request.tool)


def tool_call(draw: Draw, effort: str, forced: bool | None = None) -> Example:
    if forced is None:
        forced = draw.chance(0.06)
    r = _request(draw, _MANY)
    messages = [user(r.text)]
    first = r.tool.parameters[0] if len(r.tool.parameters) == 1 else None
    if first is not None and first.type == "string" and draw.chance(0.12):  # and the next one
        shape = draw.weighted(SHAPES)
        before, told = answered(draw, r, "low", shape)
        old, new = r.arguments[first.name], draw.name()
        again = draw.one(("And {v}?", "And in {v}?", "And for {v}?", "What about {v}?", "Now {v}."))
        messages = [*before, assistant(told.answer), user(again.format(v=new))]
        subject = r.subject.replace(str(old), new)
        r = _Request(r.tool, "", {first.name: new}, subject, r.tools)
    return Example(
        "tool call",
        effort,
        messages,
        r.reasoning(effort),
        call=(r.tool.name, r.arguments),
        tools=r.tools,
        forced=forced,
    )


def _called(name: str, arguments: str, reasoning: str | None) -> dict[str, Any]:
    call: dict[str, Any] = {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
        ],
    }
    if reasoning is not None:
        call["reasoning"] = reasoning
    return call


def _returned(content: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": "call_1", "content": content}


def answered(
    draw: Draw, request: _Request, effort: str, shape: str
) -> tuple[list[dict[str, Any]], Result]:
    """The messages of a call and its result, and how that is told."""
    arguments = json.dumps(request.arguments, separators=(",", ":"), ensure_ascii=False)
    reasoning = request.reasoning(effort) if draw.chance(0.9) else None
    call = _called(request.tool.name, arguments, reasoning)
    found = result(draw, shape, request.subject, request.tool.noun, request.arguments)
    return [user(request.text), call, _returned(found.content)], found


def tool_result(draw: Draw, effort: str, shape: str | None = None) -> Example:
    r = _request(draw, _FEW)
    messages, found = answered(draw, r, effort, shape or draw.weighted(SHAPES))
    reasoning = {
        "low": f"Got {found.told}.",
        "medium": f"The tool says {found.told}. I tell the user.",
        "high": f"The tool {r.tool.name} has answered. It says {found.told}.\nThe user asked for "
        f"{r.subject}, so I tell the user in one sentence.",
    }[effort]
    return Example("tool result", effort, messages, reasoning, found.answer, tools=r.tools)


# -- sums by tools ---------------------------------------------------------------------------

_OPERATIONS: dict[str, tuple[str, str]] = {
    "+": (
        "add|plus|sum|add_numbers|addition|sum_of",
        "What is {a} + {b}?|{a} + {b}|{a}+{b}|Add {a} and {b}.|How much is {a} + {b}?|"
        "What is {a} plus {b}?|Compute {a} + {b}.|What is the sum of {a} and {b}?|Calculate "
        "{a} + {b}.|{a} plus {b}|What is {a}+{b}?|{a} + {b}?|How much is {a} plus {b}?",
    ),
    "-": (
        "subtract|minus|difference|sub",
        "What is {a} - {b}?|{a} - {b}|{a}-{b}|How much is {a} - {b}?|What is {a} minus {b}?|"
        "Compute {a} - {b}.|Calculate {a} - {b}.|{a} minus {b}|What is {a}-{b}?",
    ),
    "*": (
        "multiply|times|product|mul|multiply_numbers|product_of",
        "What is {a} * {b}?|{a} * {b}|{a}*{b}|Multiply {a} by {b}.|Multiply {a} and {b}.|"
        "What is {a} times {b}?|Compute {a} * {b}.|How much is {a} * {b}?|{a} times {b}|"
        "What is the product of {a} and {b}?|How much is {a} times {b}?|Calculate {a} * {b}.",
    ),
    "/": (
        "divide|quotient|div|divide_numbers",
        "What is {a} / {b}?|{a} / {b}|Divide {a} by {b}.|What is {a} divided by {b}?|"
        "Compute {a} / {b}.|How much is {a} / {b}?|Calculate {a} / {b}.",
    ),
    "**": (
        "power|pow|to_the_power",
        "What is {a} ** {b}?|{a} ** {b}|What is {a} to the power of {b}?|{a} to the power of {b}|"
        "Compute {a} ** {b}.|Calculate {a} ** {b}.",
    ),
}
_CALCULATORS = "calculate|calculator|evaluate|compute|calc|eval_expression".split("|")
_OPERAND_KEYS = "a b|x y|first second|left right|n m|one two|number1 number2".split("|")


def _operands(draw: Draw, sign: str, large: bool) -> tuple[int, int, str]:
    """Two numbers and the result, as Python prints it."""

    def make() -> tuple[int, int]:
        if sign == "**":
            return draw.number(draw.one((1, 1, 2))), draw.random.randint(2, 7)
        if sign in "*/":
            first = draw.number(draw.one((1, 2, 2, 3, 4, 5)))
            second = draw.number(draw.one((1, 2, 2, 3, 4))) or 7
            return (first * second, second) if sign == "/" and draw.chance(0.7) else (first, second)
        if large:
            longest = draw.random.randint(5, 9)
            pair = [draw.number(longest), draw.number(draw.random.randint(2, longest))]
            draw.random.shuffle(pair)
            return pair[0], pair[1]
        return draw.number(draw.one((1, 2, 3, 4))), draw.number(draw.one((1, 2, 3, 4)))

    a, b = draw.fresh(make, lambda pair: f"{sign} {pair[0]} {pair[1]}")
    value: int | float
    if sign == "/":
        value = a / b
        if len(str(value)) > 8:
            return _operands(draw, sign, large)
    else:
        value = {"+": a + b, "-": a - b, "*": a * b, "**": 0}[sign]
        if sign == "**":
            value = a**b
            if value >= 10**10:
                return _operands(draw, sign, large)
    return a, b, str(value)


def _computed_told(expression: str, found: str, effort: str, who: str) -> tuple[str, str]:
    reasoning = {
        "low": f"Got {found}.",
        "medium": f"{who} says {found}. I tell the user.",
        "high": f"{who} has answered. It says {found}.\nThe user asked for {expression}, so I tell "
        "the user in one sentence.",
    }[effort]
    return reasoning, f"{expression} = {found}."


def calculator(draw: Draw, effort: str) -> Example:
    """A sum for which there is a function: its call, or its result."""
    sign = draw.random.choices(list(_OPERATIONS), (4, 2, 4, 2, 1))[0]
    names, asked = _OPERATIONS[sign]
    a, b, value = _operands(draw, sign, large=draw.chance(0.4))
    expression = f"{a} {sign} {b}"
    arguments: dict[str, Any]
    if draw.chance(0.25):
        name, at = draw.one(_CALCULATORS), draw.one(("expression", "expr", "formula", draw.word()))
        parameters, arguments = [_Parameter(at, "string")], {at: expression}
    else:
        name = draw.one(names.split("|"))
        keys = draw.one(_OPERAND_KEYS).split() if draw.chance(0.8) else [draw.word(), draw.word()]
        kind = draw.one(("integer", "number"))
        parameters = [_Parameter(key, kind) for key in keys]
        arguments = dict(zip(keys, (a, b), strict=True))
    word = name.replace("_", " ")
    described = draw.one(
        (
            f"{word.capitalize()} two numbers.",
            f"{word.capitalize()}.",
            "Does a sum.",
            "Exact maths.",
        )
    )
    tool = _Tool(name, word, described, parameters, [])
    text = draw.one(asked.split("|")).format(a=a, b=b)
    both = [tool]
    if len(parameters) == 2 and draw.chance(0.45):  # and one of another operation
        names, _ = _OPERATIONS[draw.one([other for other in _OPERATIONS if other != sign])]
        second = draw.one(names.split("|"))
        word = second.replace("_", " ")
        both.append(_Tool(second, word, f"{word.capitalize()} two numbers.", parameters, []))
    request = _Request(tool, text, arguments, expression, toolbox(draw, *both))
    if draw.chance(0.55):
        return Example(
            "sum by tool call", effort, [user(text)], request.reasoning(effort),
            call=(name, arguments), tools=request.tools,
        )  # fmt: skip
    call = _called(
        name,
        json.dumps(arguments, separators=(",", ":")),
        request.reasoning(effort) if draw.chance(0.9) else None,
    )
    content = value if draw.chance(0.75) else json.dumps({draw.one(("result", "value")): value})
    if not content.startswith("{") or draw.chance(0.5):
        content = content.replace(f'"{value}"', value)
    reasoning, answer = _computed_told(expression, value, effort, "The tool")
    return Example(
        "sum by tool result", effort, [user(text), call, _returned(content)], reasoning, answer,
        tools=request.tools,
    )  # fmt: skip


_RUN = "Run {e} in Python.|Use Python for {e}.|Compute {e} with Python.|Use python: {e}".split("|")


def _python_request(draw: Draw, effort: str) -> tuple[str, str, str, str]:
    """Question, expression, its value, and the reasoning of the call."""
    sign = draw.random.choices(list(_OPERATIONS), (6, 4, 4, 2, 1))[0]
    a, b, value = _operands(draw, sign, large=True)
    expression = f"{a} {sign} {b}"
    asked = draw.one(_OPERATIONS[sign][1].split("|") if draw.chance(0.85) else _RUN)
    reasoning = {
        "low": "Call python.",
        "medium": f"This is too large for me, so I run python: {expression}.",
        "high": f"The user wants {expression}. I can only add and subtract small numbers, but "
        f"there is a tool that computes it: python.\nI print {expression}.",
    }[effort]
    return asked.format(a=a, b=b, e=expression), expression, value, reasoning


def python_call(draw: Draw, effort: str) -> Example:
    """A sum that is too large for the model, with the built-in python."""
    text, expression, _, reasoning = _python_request(draw, effort)
    return Example(
        "python call", effort, [user(text)], reasoning, code=f"print({expression})",
        builtin=["python"],
    )  # fmt: skip


def python_result(draw: Draw, effort: str) -> Example:
    """What python printed, told."""
    text, expression, value, thought = _python_request(draw, effort)
    call = _called("python", f"print({expression})", thought if draw.chance(0.9) else None)
    messages = [user(text), call, _returned(value + draw.one(("\n", "")))]
    reasoning, answer = _computed_told(expression, value, effort, "Python")
    if draw.chance(0.08):
        wrong = draw.one(
            ("ZeroDivisionError: division by zero", f"NameError: {draw.word()}", "timeout",
             f"ValueError: {phrase(draw)}", "MemoryError", f"SyntaxError: {draw.word()}")
        )  # fmt: skip
        messages[-1] = _returned(wrong if wrong[0].isupper() else f"Error: {wrong}")
        reasoning, answer = f"error: {wrong}", f"The tool failed: {wrong}."
        reasoning = {
            "low": f"Got {reasoning}.",
            "medium": f"Python says {reasoning}. I tell the user.",
            "high": f"Python has answered. It says {reasoning}.\nThe user asked for {expression}, "
            "so I tell the user in one sentence.",
        }[effort]
    return Example("python result", effort, messages, reasoning, answer, builtin=["python"])


TOO_LARGE = "That is too large for me: I add and subtract numbers of up to four digits."


def too_large(draw: Draw, effort: str) -> Example:
    """A sum beyond four digits without any tool for it."""
    sign = draw.one("+-")
    a, b, _ = _operands(draw, sign, large=True)
    reasoning = {
        "low": "Too large.",
        "medium": f"{a} {sign} {b} is too large for me. I say so.",
        "high": f"The user wants {a} {sign} {b}. These numbers have more than four digits and I "
        "have no tool for them.\nI do not guess, so I say so.",
    }[effort]
    text = draw.one(_OPERATIONS[sign][1].split("|")).format(a=a, b=b)
    return Example("too large", effort, [user(text)], reasoning, TOO_LARGE)


RESULT_TASKS: dict[str, Callable[[Draw, str], Example]] = {
    f"tool results: {shape}": lambda draw, effort, shape=shape: tool_result(draw, effort, shape)
    for shape in SHAPES
}  # fmt: skip
