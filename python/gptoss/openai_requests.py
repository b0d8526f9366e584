"""Requests of the OpenAI API, as dicts: checked, answered by an `LLM`, and answers as dicts."""

from __future__ import annotations

import difflib
import secrets
import time
from collections.abc import Mapping
from typing import Any, cast

from gptoss.chat.openai import usage_dict
from gptoss.chat.result import ChatResult
from gptoss.engine.outputs import GenerationResult, Usage
from gptoss.engine.sampling import SamplingParams
from gptoss.llm import LLM

# OpenAI's own default for text completions.
_COMPLETION_TOKENS = 16
# JSON has no infinity; this is what the API reports for a token that is all but impossible.
_LEAST_LOGPROB = -9999.0

_SAMPLING = (
    *("temperature", "top_p", "stop", "seed", "presence_penalty", "frequency_penalty", "n"),
    *("logit_bias", "top_k", "min_p", "repetition_penalty", "stop_token_ids"),
)
_CHAT = (
    *("messages", "tools", "tool_choice", "reasoning_effort", "response_format"),
    *("max_reasoning_tokens", "max_tokens", "max_completion_tokens", "logprobs", "top_logprobs"),
)
_COMPLETION = ("prompt", "max_tokens", "logprobs", "ignore_eos")
# About accounts, storage and routing, or without effect here.
_IGNORED = (
    *("model", "user", "metadata", "store", "service_tier", "parallel_tool_calls"),
    *("safety_identifier", "prompt_cache_key", "prompt_cache_retention"),
)
# May be said, with the value that is meant here anyway.
_CHAT_FIXED = {"stream": False, "modalities": ["text"]}
_COMPLETION_FIXED = {"stream": False, "echo": False, "suffix": "", "best_of": 1}


class RequestError(ValueError):
    """A request that cannot be answered as it is.

    Attributes
    ----------
    param : str or None
        The field that is wrong.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


async def answer_chat(llm: LLM, body: Mapping[str, Any]) -> dict[str, Any]:
    """Answer the body of a POST to /v1/chat/completions.

    Parameters
    ----------
    llm : LLM
        The model, whatever the request's `model` says.
    body : mapping
        The request; besides OpenAI's fields there may be `top_k`, `min_p`, `repetition_penalty`,
        `stop_token_ids` and `max_reasoning_tokens`. A null is as if it were not there.

    Returns
    -------
    dict
        A chat completion, as `ChatResult.to_openai` makes it.

    Raises
    ------
    RequestError
        A field is unknown, or asks for what is not there.
    ValueError, TypeError
        As for `LLM.chat`.
    """
    given = _fields(body, (*_SAMPLING, *_CHAT), _CHAT_FIXED)
    if "messages" not in given:
        raise RequestError("you must provide a messages parameter", "messages")
    messages = given.pop("messages")
    if not isinstance(messages, list):
        raise RequestError(f"messages must be a list, got {messages!r:.100}", "messages")
    limit = given.pop("max_completion_tokens", None)
    if limit is not None:
        given["max_tokens"] = limit
    # There a flag asks for log-probabilities, and a number for alternatives; here one number does.
    alternatives = given.pop("top_logprobs", 0)
    if given.pop("logprobs", False):
        given["logprobs"] = alternatives
    elif alternatives:
        raise RequestError("top_logprobs needs logprobs: true", "top_logprobs")
    result: ChatResult = await llm.achat(messages, **given)
    return result.to_openai()


async def answer_completion(llm: LLM, body: Mapping[str, Any]) -> dict[str, Any]:
    """Answer the body of a POST to /v1/completions; the parameters are as for `answer_chat`.

    Returns
    -------
    dict
        A text completion: a choice for each prompt, and each of its `n` samples.
    """
    given = _fields(body, (*_SAMPLING, *_COMPLETION), _COMPLETION_FIXED)
    if "prompt" not in given:
        raise RequestError("you must provide a prompt parameter", "prompt")
    prompt = given.pop("prompt")
    params = SamplingParams(**{"max_tokens": _COMPLETION_TOKENS, **given})
    found = await llm.agenerate(prompt, params)
    results = [found] if isinstance(found, GenerationResult) else found
    choices: list[dict[str, Any]] = []
    for result in results:
        for sample in result.samples:
            choices.append(
                {
                    "text": sample.text,
                    "index": len(choices),
                    "logprobs": _logprobs(llm, sample),
                    "finish_reason": sample.finish_reason,
                }
            )
    usage = Usage(
        sum(result.usage.prompt_tokens for result in results),
        sum(sample.usage.completion_tokens for r in results for sample in r.samples),
        cached_tokens=sum(result.usage.cached_tokens for result in results),
    )
    return {
        "id": f"cmpl-{secrets.token_hex(12)}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": llm.name,
        "choices": choices,
        "usage": usage_dict(usage),
    }


def _fields(
    body: Mapping[str, Any], known: tuple[str, ...], fixed: Mapping[str, Any]
) -> dict[str, Any]:
    """The fields that say something, under `SamplingParams`' and `LLM.chat`'s names."""
    given: dict[str, Any] = {}
    for name, value in body.items():
        if value is None or name in _IGNORED:
            continue
        if name in fixed:
            if value != fixed[name]:
                raise RequestError(f"{name} may only be {fixed[name]!r} here, got {value!r}", name)
        elif name in known:
            given[name] = value
        else:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise RequestError(f"unknown field {name}{hint}", name)
    bias = given.get("logit_bias")
    if isinstance(bias, Mapping):
        try:
            given["logit_bias"] = {int(token_id): value for token_id, value in bias.items()}
        except ValueError:
            raise RequestError(
                f"logit_bias must have token ids as keys, got {bias!r:.100}", "logit_bias"
            ) from None
    return given


def _logprobs(llm: LLM, sample: GenerationResult) -> dict[str, Any] | None:
    if sample.logprobs is None:
        return None

    def text(token_id: int) -> str:
        return llm.tokenizer.decode([token_id])

    tokens = [text(entry.token_id) for entry in sample.logprobs]
    offsets = [0]
    for token in tokens[:-1]:
        offsets.append(offsets[-1] + len(token))
    return {
        "tokens": tokens,
        "token_logprobs": [max(entry.logprob, _LEAST_LOGPROB) for entry in sample.logprobs],
        "top_logprobs": [
            {text(top.token_id): max(top.logprob, _LEAST_LOGPROB) for top in entry.top_logprobs}
            for entry in sample.logprobs
        ],
        "text_offset": offsets[: len(tokens)],
    }


def error_body(error: Exception) -> dict[str, Any]:
    """The body of a response that says what is wrong with a request."""
    server = not isinstance(error, (ValueError, TypeError))
    return {
        "error": {
            "message": " ".join(str(error).split()) or type(error).__name__,
            "type": "server_error" if server else "invalid_request_error",
            "param": cast("str | None", getattr(error, "param", None)),
            "code": None,
        }
    }
