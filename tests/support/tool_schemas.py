"""A few hundred schemas like those that tools of the kinds that people publish have.

Sixty are written by hand; the others put them together: a list of them, one or another, one within
another, one by reference, one with nothing required.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "maxLength": 40}
WORD: Schema = {"type": "string", "pattern": "^[a-z]{1,12}$"}
COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": 1000}
FLAG: Schema = {"type": "boolean"}
DATE: Schema = {"type": "string", "format": "date"}
TIME: Schema = {"type": "string", "format": "date-time"}
UUID: Schema = {"type": "string", "format": "uuid"}
EMAIL: Schema = {"type": "string", "pattern": "^[a-z]{1,8}@[a-z]{1,8}\\.(com|org)$"}
URL: Schema = {"type": "string", "pattern": "^https://[a-z]{1,10}\\.[a-z]{2,3}(/[a-z]{1,8})?$"}
PATH: Schema = {"type": "string", "pattern": "^(/[a-z_]{1,9}){1,3}$"}
MONEY: Schema = {"type": "number", "minimum": 0, "maximum": 10000, "multipleOf": 0.01}
SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}


def one_of(*values: Any) -> Schema:
    return {"enum": list(values)}


def some(items: Schema, most: int = 3, least: int = 0) -> Schema:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def maybe(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def tool(required: Schema, /, **optional: Schema) -> Schema:
    return {
        "type": "object",
        "properties": {**required, **optional},
        "required": list(required),
        "additionalProperties": False,
    }


PLACE = tool(
    {
        "lat": {"type": "number", "minimum": -90, "maximum": 90},
        "lon": {"type": "number", "minimum": -180, "maximum": 180},
    }
)
PERSON = tool({"name": TEXT, "email": EMAIL}, age={**COUNT, "maximum": 130})
ADDRESS = tool({"street": TEXT, "city": TEXT}, zip={"type": "string", "pattern": "^[0-9]{5}$"})

TOOLS: dict[str, Schema] = {
    "get_weather": tool({"city": TEXT, "unit": one_of("celsius", "fahrenheit")}),
    "get_forecast": tool({"place": PLACE, "days": {**COUNT, "minimum": 1, "maximum": 14}}),
    "get_time": tool({"zone": one_of("UTC", "Europe/Oslo", "America/New_York")}),
    "search_web": tool({"query": TEXT}, topn=COUNT, source=one_of("news", "all")),
    "open_page": tool({"url": URL}, cursor={"type": "integer", "minimum": -1, "maximum": 99}),
    "find_in_page": tool({"pattern": TEXT, "cursor": COUNT}),
    "read_file": tool({"path": PATH}, first_line=COUNT, last_line=COUNT),
    "write_file": tool({"path": PATH, "content": TEXT}, mode=one_of("create", "append")),
    "list_directory": tool({"path": PATH}, recursive=FLAG),
    "move_file": tool({"source": PATH, "destination": PATH}),
    "search_files": tool({"path": PATH, "pattern": TEXT}, exclude=some(WORD)),
    "edit_file": tool({"path": PATH, "edits": some(tool({"old": TEXT, "new": TEXT}), 2, 1)}),
    "run_command": tool({"command": some(TEXT, 3, 1)}, timeout_ms=COUNT, workdir=PATH),
    "run_python": tool({"code": {"type": "string", "maxLength": 60}}),
    "git_commit": tool({"message": TEXT, "files": some(PATH)}, amend=FLAG),
    "git_log": tool({}, max_count=COUNT, branch=WORD),
    "create_issue": tool({"title": TEXT, "body": TEXT}, labels=some(WORD), assignee=WORD),
    "create_pull_request": tool({"title": TEXT, "head": WORD, "base": WORD}, draft=FLAG),
    "merge": tool({"number": COUNT, "method": one_of("merge", "squash", "rebase")}),
    "query_database": tool(
        {"sql": TEXT}, limit=COUNT, parameters=some({"type": ["string", "integer"]})
    ),
    "insert_row": tool(
        {
            "table": WORD,
            "row": {"type": "object", "additionalProperties": COUNT, "maxProperties": 3},
        }
    ),
    "describe_table": tool({"table": WORD}, schema=WORD),
    "send_email": tool({"to": some(EMAIL, 2, 1), "subject": TEXT, "body": TEXT}, cc=some(EMAIL)),
    "search_email": tool({"query": TEXT}, after=DATE, before=DATE, unread=FLAG),
    "create_event": tool({"title": TEXT, "start": TIME, "end": TIME}, people=some(PERSON, 2)),
    "free_slots": tool({"day": DATE, "minutes": {**COUNT, "multipleOf": 15}}),
    "send_message": tool({"channel": WORD, "text": TEXT}, thread=UUID),
    "add_reaction": tool({"message": UUID, "emoji": one_of("+1", "-1", "heart", "\u2728")}),
    "create_contact": tool({"person": PERSON}, address=ADDRESS, tags=some(WORD)),
    "book_flight": tool(
        {
            "from": {"type": "string", "pattern": "^[A-Z]{3}$"},
            "to": {"type": "string", "pattern": "^[A-Z]{3}$"},
            "date": DATE,
        },
        cabin=one_of("economy", "business"),
        passengers={**COUNT, "minimum": 1, "maximum": 9},
    ),
    "book_hotel": tool({"city": TEXT, "arrival": DATE, "departure": DATE}, stars=one_of(3, 4, 5)),
    "book_table": tool({"restaurant": TEXT, "at": TIME, "people": COUNT}, notes=maybe(TEXT)),
    "get_route": tool({"from": PLACE, "to": PLACE}, mode=one_of("walk", "bike", "car", "train")),
    "find_places": tool({"near": PLACE, "radius_m": COUNT}, kind=one_of("cafe", "shop", "park")),
    "convert_currency": tool(
        {
            "amount": MONEY,
            "from": {"type": "string", "pattern": "^[A-Z]{3}$"},
            "to": {"type": "string", "pattern": "^[A-Z]{3}$"},
        }
    ),
    "get_stock": tool(
        {"symbol": {"type": "string", "pattern": "^[A-Z]{1,5}$"}}, period=one_of("1d", "1y")
    ),
    "place_order": tool(
        {"items": some(tool({"sku": UUID, "count": COUNT}), 2, 1)}, coupon=maybe(WORD)
    ),
    "refund": tool({"order": UUID, "amount": MONEY, "reason": one_of("damaged", "late", "other")}),
    "track_parcel": tool({"number": {"type": "string", "pattern": "^[0-9]{10}$"}}),
    "create_invoice": tool(
        {"customer": PERSON, "lines": some(tool({"text": TEXT, "price": MONEY}), 2)}, due=DATE
    ),
    "calculate": tool(
        {
            "operator": one_of("+", "-", "*", "/"),
            "left": {"type": "number"},
            "right": {"type": "number"},
        }
    ),
    "solve": tool({"coefficients": some({"type": "integer", "minimum": -99, "maximum": 99}, 4, 2)}),
    "plot": tool({"x": some({"type": "number"}, 3), "y": some({"type": "number"}, 3)}, title=TEXT),
    "statistics": tool(
        {"values": some(SHARE, 4, 1)}, measures=some(one_of("mean", "median"), 2, 1)
    ),
    "translate": tool(
        {"text": TEXT, "to": {"type": "string", "pattern": "^[a-z]{2}(-[A-Z]{2})?$"}}
    ),
    "summarize": tool({"text": TEXT}, sentences={**COUNT, "minimum": 1, "maximum": 5}),
    "classify": tool({"label": one_of("positive", "negative", "neutral"), "confidence": SHARE}),
    "extract_entities": tool(
        {"entities": some(tool({"text": TEXT, "kind": one_of("person", "place", "date")}), 3)}
    ),
    "answer": tool({"steps": some(TEXT, 3, 1), "answer": {"type": ["string", "number"]}}),
    "grade": tool({"score": {**COUNT, "maximum": 10}, "passed": FLAG, "comments": some(TEXT, 2)}),
    "recipe": tool(
        {"title": TEXT, "ingredients": some(tool({"name": TEXT, "grams": COUNT}), 3, 1)}, vegan=FLAG
    ),
    "set_light": tool(
        {"room": WORD, "on": FLAG},
        brightness={**COUNT, "maximum": 100},
        colour={"type": "string", "pattern": "^#[0-9a-f]{6}$"},
    ),
    "set_thermostat": tool(
        {
            "room": WORD,
            "celsius": {"type": "number", "minimum": 5, "maximum": 30, "multipleOf": 0.5},
        }
    ),
    "play_music": tool({"query": TEXT}, shuffle=FLAG, volume={**COUNT, "maximum": 11}),
    "set_alarm": tool(
        {"time": {"type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$"}},
        days=some(one_of("mon", "tue", "wed"), 3),
    ),
    "http_request": tool(
        {"method": one_of("GET", "POST"), "url": URL},
        headers={"type": "object", "additionalProperties": WORD, "maxProperties": 2},
    ),
    "deploy": tool(
        {"service": WORD, "version": {"type": "string", "pattern": "^v[0-9]{1,3}\\.[0-9]{1,3}$"}},
        replicas={**COUNT, "exclusiveMaximum": 33},
    ),
    "scale": tool(
        {
            "service": WORD,
            "replicas": {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 10},
        }
    ),
    "get_logs": tool({"service": WORD}, since=TIME, level=one_of("info", "error", None)),
    "ping": tool({"host": {"type": "string", "format": "ipv4"}}, count=one_of(1, 2, 3)),
}


def _tree(node: Schema) -> Schema:
    """A list that holds one, or another list, two deep at most in most texts."""
    return {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "value": node,
                    "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]},
                },
                "required": ["value", "next"],
            }
        },
    }


@cache
def all_schemas() -> dict[str, Schema]:
    """All of them by name; not to be changed."""
    found: dict[str, Schema] = dict(TOOLS)
    names = list(TOOLS)
    for index, name in enumerate(names):
        schema, other = TOOLS[name], TOOLS[names[(index + 7) % len(names)]]
        relaxed = copy.deepcopy(schema)
        relaxed["required"] = relaxed["required"][:1]
        del relaxed["additionalProperties"]
        found |= {
            f"list of {name}": some(schema, 2),
            f"{name} or another": {"anyOf": [schema, other, {"type": "null"}]},
            f"{name} within": tool({"thought": TEXT, "call": schema}),
            f"{name} by reference": {
                **tool({"first": {"$ref": "#/$defs/tool"}}, second={"$ref": "#/$defs/tool"}),
                "$defs": {"tool": schema},
            },
            f"{name}, one required": relaxed,
        }
    for name in names[:20]:
        found[f"tree of {name}"] = _tree(TOOLS[name])
    return found
