"""The fields that choose tokens, of all kinds of requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gptoss.openai_requests.fields import Field, RequestError

_MAX_INT = 2**31 - 1
_ONE_OR_MORE_TEXTS = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": 64},
    ]
}
_PENALTY = {"type": "number", "minimum": -2, "maximum": 2}

SAMPLING = (
    Field(
        "temperature",
        "done",
        "0 takes the likeliest token",
        {"type": "number", "minimum": 0, "maximum": 1e6},
    ),
    Field(
        "top_p",
        "done",
        "the likeliest tokens that together have this probability",
        {"type": "number", "minimum": 0, "maximum": 1},
    ),
    Field(
        "stop", "done", "up to 64 strings; of the answer, not of the reasoning", _ONE_OR_MORE_TEXTS
    ),
    Field(
        "seed",
        "done",
        "the same request with the same seed has the same answer, whatever runs beside it",
        {"type": "integer", "minimum": -(2**63), "maximum": 2**64 - 1},
    ),
    Field(
        "n",
        "done",
        "samples; each counts as a request of its own",
        {"type": "integer", "minimum": 1, "maximum": 128},
    ),
    Field("presence_penalty", "done", "for tokens that are in the output", _PENALTY),
    Field("frequency_penalty", "done", "for each time that a token is in the output", _PENALTY),
    Field(
        "logit_bias",
        "done",
        "by token id; 1e30 forces a token, -1e30 bans it, ±100 nearly so",
        {"type": "object", "additionalProperties": {"type": "number"}},
    ),
    Field(
        "top_k",
        "done",
        "so many of the likeliest tokens; 0 or -1 keeps all",
        {"type": "integer", "minimum": -1, "maximum": _MAX_INT},
        own=True,
    ),
    Field(
        "min_p",
        "done",
        "tokens at least this likely, relative to the likeliest",
        {"type": "number", "minimum": 0, "maximum": 1},
        own=True,
    ),
    Field(
        "repetition_penalty",
        "done",
        "above 1 makes tokens of prompt and output less likely",
        {"type": "number", "exclusiveMinimum": 0, "maximum": 1e6},
        own=True,
    ),
    Field(
        "min_tokens",
        "done",
        "before so many tokens none that ends the text is chosen",
        {"type": "integer", "minimum": 0, "maximum": _MAX_INT},
        own=True,
    ),
    Field(
        "stop_token_ids",
        "done",
        "tokens that end the text, besides the model's own",
        {
            "type": "array",
            "items": {"type": "integer", "minimum": 0, "maximum": _MAX_INT},
            "maxItems": 1024,
        },
        own=True,
    ),
    Field(
        "cache_salt",
        "done",
        "what was computed of a prompt is reused for requests with the same salt only",
        {"type": "string", "minLength": 1},
        own=True,
    ),
)

# Of accounts, storage and routing, or without effect here.
IGNORED = (
    Field("user", "ignored", "there are no accounts here"),
    Field("safety_identifier", "ignored", "there are no accounts here"),
    Field("metadata", "ignored", "completions are not stored"),
    Field("store", "ignored", "completions are not stored"),
    Field("service_tier", "ignored", "there is one"),
    Field("prompt_cache_key", "ignored", "prompts that begin alike share what was computed anyway"),
    Field("prompt_cache_options", "ignored", "as `prompt_cache_key`"),
    Field("prompt_cache_retention", "ignored", "as `prompt_cache_key`"),
)


def sampling_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The checked fields of `SAMPLING` under the names, and in the ranges, of `SamplingParams`."""
    values = {each.name: given[each.name] for each in SAMPLING if each.name in given}
    if "seed" in values:
        values["seed"] %= 2**64
    if values.get("top_k") == -1:
        values["top_k"] = 0
    if values.get("top_p") == 0:
        del values["top_p"]
        values["top_k"] = 1  # what it comes to: the likeliest token
    if "logit_bias" in values:
        values["logit_bias"] = _bias(values["logit_bias"])
    return values


def _bias(given: Mapping[str, Any]) -> dict[int, float]:
    try:
        return {int(token_id): value for token_id, value in given.items()}
    except ValueError:
        raise RequestError(
            f"logit_bias must have token ids as keys, got {given!r:.100}", "logit_bias"
        ) from None
