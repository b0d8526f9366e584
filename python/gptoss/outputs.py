"""What generating returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

FinishReason = Literal["stop", "length"]


class TopLogprob(NamedTuple):
    """A token and its log-probability."""

    token_id: int
    logprob: float


@dataclass(frozen=True)
class TokenLogprob:
    """The log-probability of a token that was generated.

    Attributes
    ----------
    token_id : int
        The token.
    logprob : float
        Natural logarithm of its probability under the model.
    top_logprobs : tuple of TopLogprob
        The likeliest tokens at its place, likeliest first: as many as were asked for.
    """

    token_id: int
    logprob: float
    top_logprobs: tuple[TopLogprob, ...] = ()


@dataclass(frozen=True)
class Usage:
    """How many tokens a request took.

    Attributes
    ----------
    prompt_tokens, completion_tokens : int
        Tokens of the prompt, and generated.
    reasoning_tokens : int
        Part of `completion_tokens` that was reasoning.
    cached_tokens : int
        Part of `prompt_tokens` that did not have to be computed.
    """

    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True)
class Timings:
    """How long a request took.

    Attributes
    ----------
    time_to_first_token_s : float
        From the call to the first token, in seconds; includes waiting for other requests.
    prompt_tps : float
        Tokens of the prompt per second of that time.
    generation_tps : float
        Tokens per second after the first; 0 if there was only one.
    """

    time_to_first_token_s: float
    prompt_tps: float
    generation_tps: float


@dataclass(frozen=True)
class GenerationResult:
    """A finished request.

    Attributes
    ----------
    text : str
        The generated text, without special tokens, stop token and stop string. Empty if the
        checkpoint has no tokenizer.
    token_ids : list of int
        All generated tokens, up to the stop token or the token that completed the stop string.
    finish_reason : {"stop", "length"}
        "length" means that `max_tokens` or the context's end was reached.
    stop_reason : str or int or None
        The stop string or the id of the stop token that ended it.
    logprobs : list of TokenLogprob or None
        One entry for each of `token_ids`, if asked for.
    usage : Usage
        Token counts.
    timings : Timings
        Speed.
    prompt_token_ids : list of int
        The prompt as the model saw it.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    stop_reason: str | int | None
    logprobs: list[TokenLogprob] | None
    usage: Usage
    timings: Timings
    prompt_token_ids: list[int]


@dataclass(frozen=True)
class GenerationChunk:
    """What one more token added to a request.

    Attributes
    ----------
    text : str
        More text, in whole characters. Empty while a character, or what may become a stop
        string, is not complete.
    token_ids : list of int
        The new token.
    logprobs : list of TokenLogprob or None
        One entry for each of `token_ids`, if asked for.
    finish_reason : {"stop", "length"} or None
        Set on the last chunk.
    stop_reason : str or int or None
        Set on the last chunk, as in `GenerationResult`.
    cached_tokens : int
        Tokens of the prompt that did not have to be computed.
    """

    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprob] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    cached_tokens: int = 0
