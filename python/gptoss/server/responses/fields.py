"""The fields of a request to /v1/responses: what is done with each."""

from __future__ import annotations

import dataclasses

from gptoss.openai_requests.chat import EFFORTS
from gptoss.openai_requests.fields import Field, Table
from gptoss.openai_requests.sampling import SAMPLING

_MAX_INT = 2**31 - 1
_BOOLEAN = {"type": "boolean"}
_STRING = {"type": "string"}
_EFFORT = {"type": "string", "enum": list(EFFORTS)}
_SUMMARY = {"type": "string", "enum": ["auto", "concise", "detailed"]}

INCLUDABLE = (
    *("file_search_call.results", "web_search_call.results", "web_search_call.action.sources"),
    *("message.input_image.image_url", "computer_call_output.output.image_url"),
    *("code_interpreter_call.outputs", "reasoning.encrypted_content"),
    "message.output_text.logprobs",
)

_FORMAT = {
    "type": "object",
    "properties": {
        "type": {"type": "string", "enum": ["text", "json_object", "json_schema"]},
        "name": {"type": "string", "minLength": 1},
        "description": _STRING,
        "schema": {"type": "object"},
        "strict": _BOOLEAN,
    },
    "required": ["type"],
}

RESPONSES = Table(
    "/v1/responses",
    [
        Field(
            "input",
            "done",
            "a string, or items: messages, reasoning, function calls and their outputs, references "
            "to items of stored responses. Text only: parts of images, audio and files are refused",
            {"anyOf": [_STRING, {"type": "array", "items": {"type": "object"}}]},
        ),
        Field("model", "done", "a name of the served model; may be left out", _STRING),
        Field(
            "instructions", "done", "what a developer says first; for this response alone", _STRING
        ),
        Field("stream", "done", "typed server-sent events", _BOOLEAN),
        Field(
            "stream_options",
            "done",
            "`include_obfuscation` may be said; events are never padded",
            {"type": "object", "properties": {"include_obfuscation": _BOOLEAN}},
        ),
        Field(
            "previous_response_id",
            "done",
            "goes on from a stored response, without its instructions",
            {"type": "string", "minLength": 1},
        ),
        Field("store", "done", "true by default: kept for a while, within bounds", _BOOLEAN),
        Field(
            "background",
            "done",
            "answers at once, and goes on whether or not the client stays; needs `store`",
            _BOOLEAN,
        ),
        Field(
            "truncation",
            "done",
            "auto leaves out the oldest turns of a conversation that is too long; disabled, the "
            "default, is an error then",
            {"type": "string", "enum": ["auto", "disabled"]},
        ),
        Field(
            "max_output_tokens",
            "done",
            "most tokens to generate, reasoning included; by default until the context is full",
            {"type": "integer", "minimum": 1, "maximum": _MAX_INT},
        ),
        *(each for each in SAMPLING if each.name in ("temperature", "top_p")),
        Field(
            "top_logprobs",
            "done",
            "log-probabilities of the text's tokens and of so many alternatives",
            {"type": "integer", "minimum": 0, "maximum": 20},
        ),
        Field(
            "include",
            "done",
            "`message.output_text.logprobs`; `reasoning.encrypted_content` is taken, and reasoning "
            "has plain `content` in any case; the others are of tools that are not served",
            {"type": "array", "items": {"type": "string", "enum": list(INCLUDABLE)}},
        ),
        Field(
            "reasoning",
            "done",
            "`effort`: low, medium, high; none and minimal are low, xhigh and max are high. "
            "`exclude`, which is not OpenAI's: think, and do not send it. There are no summaries",
            {
                "type": "object",
                "properties": {
                    "effort": _EFFORT,
                    "exclude": _BOOLEAN,
                    "summary": _SUMMARY,
                    "generate_summary": _SUMMARY,
                },
            },
        ),
        Field(
            "text",
            "done",
            "`format`: text, json_object or json_schema. `verbosity` is ignored: gpt-oss was not "
            "trained with it",
            {
                "type": "object",
                "properties": {
                    "format": _FORMAT,
                    "verbosity": {"type": "string", "enum": ["low", "medium", "high"]},
                },
            },
        ),
        Field(
            "tools",
            "done",
            "of type function, and of type namespace with functions inside; other types are left "
            "out, and not listed in the response",
            {"type": "array", "items": {"type": "object", "required": ["type"]}},
        ),
        Field(
            "tool_choice",
            "done",
            "auto, none, required, a named function, or allowed_tools",
            {
                "anyOf": [
                    {"type": "string", "enum": ["auto", "none", "required"]},
                    {"type": "object", "required": ["type"]},
                ]
            },
        ),
        Field(
            "parallel_tool_calls",
            "done",
            "echoed in the response; gpt-oss makes one call at a time, whatever it says",
            _BOOLEAN,
        ),
        Field(
            "max_tool_calls",
            "done",
            "echoed in the response; it bounds built-in tools, and none are served",
            {"type": "integer", "minimum": 0, "maximum": _MAX_INT},
        ),
        Field(
            "metadata",
            "done",
            "up to 16 strings by name, stored with the response",
            {"type": "object", "additionalProperties": _STRING},
        ),
        Field("prompt_cache_key", "done", "echoed; prompts share what is equal anyway", _STRING),
        Field("safety_identifier", "done", "echoed; there are no accounts here", _STRING),
        Field("user", "done", "echoed; there are no accounts here", _STRING),
        Field("prompt_cache_options", "ignored", "prompts share what is equal anyway"),
        Field("prompt_cache_retention", "ignored", "as `prompt_cache_options`"),
        Field("service_tier", "ignored", "there is one"),
        Field("access_programs", "ignored", "there are no accounts here"),
        Field("background_options", "ignored", "a response in the background begins at once"),
        Field("context_management", "ignored", "conversations are not compacted; see `truncation`"),
        Field("image", "ignored", "gpt-oss reads text only"),
        Field("conversation", "refused", "pass `previous_response_id`"),
        Field("moderation", "refused", "there is no moderation here"),
        Field("prompt", "refused", "there are no templates here: pass `instructions` and `input`"),
        *(
            dataclasses.replace(each, own=True)
            for each in SAMPLING
            if each.name not in ("temperature", "top_p", "n")
        ),
        Field(
            "max_reasoning_tokens",
            "done",
            "after so many tokens of reasoning the answer is begun for the model",
            {"type": "integer", "minimum": 0, "maximum": _MAX_INT},
            own=True,
        ),
    ],
)
