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
    """The log-probability of a token that was generated, or of one of the prompt.

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
        Tokens of the prompt, and generated: without those that a constraint forced and that are
        not part of the answer (`Decision.counted`).
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
        From the call to the first token, in seconds; includes waiting for other requests. Of a
        long list, prompts are begun as earlier ones finish, and this counts from then.
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
        All generated tokens, forced ones included, up to the stop token or the token that
        completed the stop string.
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
    other_samples : tuple of GenerationResult
        With `SamplingParams.n` above 1 this is the first sample, and these are the others.
    prompt_logprobs : list of TokenLogprob or None, or None
        One entry for each of `prompt_token_ids`, if asked for; of the first, which nothing comes
        before, it is None.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    stop_reason: str | int | None
    logprobs: list[TokenLogprob] | None
    usage: Usage
    timings: Timings
    prompt_token_ids: list[int]
    other_samples: tuple[GenerationResult, ...] = ()
    prompt_logprobs: list[TokenLogprob | None] | None = None

    @property
    def samples(self) -> list[GenerationResult]:
        """All `n` samples, each with its own usage and timings; this one comes first."""
        return [self, *self.other_samples]


@dataclass(frozen=True)
class GenerationChunk:
    """What one more token added to a request.

    Attributes
    ----------
    text : str
        More text, in whole characters. Empty while a character, or what may become a stop
        string, is not complete.
    token_ids : list of int
        The new token; empty where the end comes without one.
    logprobs : list of TokenLogprob or None
        One entry for each of `token_ids`, if asked for.
    finish_reason : {"stop", "length"} or None
        Set on the last chunk.
    stop_reason : str or int or None
        Set on the last chunk, as in `GenerationResult`.
    cached_tokens : int
        Tokens of the prompt that did not have to be computed.
    index : int
        Which of the `SamplingParams.n` samples it belongs to, counted from 0.
    forced : bool
        Whether a constraint decided on the token: it was not sampled.
    counted : bool
        Whether the token is part of the answer, and of `Usage.completion_tokens`. A forced one may
        belong to a format instead.
    """

    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprob] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    cached_tokens: int = 0
    index: int = 0
    forced: bool = False
    counted: bool = True


@dataclass(frozen=True)
class PageStats:
    """Pages of the KV cache, of 64 tokens each.

    Attributes
    ----------
    total : int
        All pages.
    free : int
        Those that hold nothing.
    cached : int
        Those that hold what no running sequence uses; evicted as soon as they are needed, the
        least recently used first.
    page_bytes : int
        Size of one.
    """

    total: int
    free: int
    cached: int
    page_bytes: int

    @property
    def used(self) -> int:
        """Pages of running sequences."""
        return self.total - self.free - self.cached


@dataclass(frozen=True)
class EngineStats:
    """What a model is doing, and has done since it was loaded.

    Attributes
    ----------
    running, waiting : int
        Sequences that are computed now, and that wait for room: one for each sample of a request,
        and each text whose logits are computed.
    full_pages, window_pages : PageStats
        KV cache of the layers that see everything, and of those that see a window.
    preemptions : int
        How often a running sequence had to give its pages to an older one, to be computed again.
    requested_tokens : int
        Tokens of the prompts of all sequences that have begun.
    cached_tokens : int
        Part of them that did not have to be computed.
    prompt_tokens, generated_tokens : int
        Tokens computed; after a preemption again.
    drafted_tokens, accepted_tokens : int
        Tokens guessed with speculation, and those of them that were right.
    prefill_tps, recent_prefill_tps : float
        Tokens of prompts per second, in the steps that computed any: all, and the last 64.
    decode_tps, recent_decode_tps : float
        Generated tokens per second, of all sequences together, in the other steps.
    phase_seconds : dict of str to float
        Seconds spent in each phase of the forward pass, by its name ("embed", "attend", ...);
        which there are is the backend's affair.
    steps, sequences : int
        Steps that were computed, and sequences that were submitted.
    read_pages, written_pages : int
        Pages of the KV cache that came from the folder of `load(prefix_cache_dir=)`, and that were
        written into it.
    """

    running: int
    waiting: int
    full_pages: PageStats
    window_pages: PageStats
    preemptions: int
    requested_tokens: int
    cached_tokens: int
    prompt_tokens: int
    generated_tokens: int
    drafted_tokens: int
    accepted_tokens: int
    prefill_tps: float
    recent_prefill_tps: float
    decode_tps: float
    recent_decode_tps: float
    phase_seconds: dict[str, float]
    steps: int = 0
    sequences: int = 0
    read_pages: int = 0
    written_pages: int = 0

    @property
    def cache_hit_rate(self) -> float:
        """Share of `requested_tokens` that was cached; 0 before the first request."""
        return self.cached_tokens / self.requested_tokens if self.requested_tokens else 0.0

    @property
    def kv_cache_bytes(self) -> int:
        """Size of the KV cache."""
        return sum(pages.total * pages.page_bytes for pages in (self.full_pages, self.window_pages))

    @property
    def kv_used_bytes(self) -> int:
        """Part of it that running sequences hold."""
        return sum(pages.used * pages.page_bytes for pages in (self.full_pages, self.window_pages))
