"""A model that says what a test tells it to, for everything above `LLM.stream`."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any

from gptoss.engine.outputs import (
    FinishReason,
    GenerationChunk,
    TokenLogprob,
)
from gptoss.engine.sampling import SamplingParams
from gptoss.harmony import HarmonyEncoding
from gptoss.llm import LLM
from support.harmony_tokenizer import ByteTokenizer

# The parser gives up on headers of more than 64 tokens: as in a real vocabulary, names are a few.
WORDS = (
    *("assistant", "analysis", "commentary", "final", "system", "developer", "user", "json"),
    *(" to=functions.", "get_weather", "get_time", " world", "Hello", "functions."),
)


@dataclasses.dataclass(frozen=True)
class Config:
    """The part of a model's config that a chat looks at."""

    eos_token_ids: tuple[int, ...]


class ScriptedModel:
    """Answers the n-th request with the n-th script: markup, or token ids.

    Attributes
    ----------
    requests : list of (prompt, SamplingParams)
        What it was asked.
    streams : list of ScriptedStream
        What it answered with.
    """

    name = "scripted"
    chat = LLM.chat
    achat = LLM.achat
    run = LLM.run

    def __init__(
        self,
        *scripts: str | Sequence[int],
        cached_tokens: int = 0,
        context_length: int = 100_000,
        eos: Sequence[str] = ("<|return|>", "<|endoftext|>"),
    ) -> None:
        self.harmony = HarmonyEncoding(ByteTokenizer(WORDS))
        self.config = Config(tuple(map(self.harmony.special_id, eos)))
        self.context_length = context_length
        self.cached_tokens = cached_tokens
        self.requests: list[tuple[list[int], SamplingParams]] = []
        self.streams: list[ScriptedStream] = []
        self._scripts = [
            self.tokens(script) if isinstance(script, str) else list(script) for script in scripts
        ]

    def __enter__(self) -> ScriptedModel:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def tokens(self, markup: str) -> list[int]:
        """The ids of a text in which the specials' names are special."""
        return self.harmony.encode(markup, allowed_special="all")

    def text(self, tokens: Sequence[int]) -> str:
        """The opposite of `tokens`."""
        return self.harmony.decode_utf8(tokens)

    def stream(
        self, prompt: Sequence[int], params: SamplingParams | None = None, **overrides: Any
    ) -> ScriptedStream:
        """Begin the next script."""
        params = dataclasses.replace(params or SamplingParams(), **overrides)
        self.requests.append((list(prompt), params))
        script = self._scripts[len(self.requests) - 1]
        self.streams.append(ScriptedStream(self, params, script))
        return self.streams[-1]


class ScriptedStream:
    """One request's tokens."""

    def __init__(self, model: ScriptedModel, params: SamplingParams, script: list[int]) -> None:
        self.closed = False
        self.given: list[int] = []
        self._model = model
        self._params = params
        self._script = iter(script)

    def __next__(self) -> GenerationChunk:
        if self.closed:
            raise StopIteration
        token = next(self._script, None)
        assert token is not None, "the script is over, and the model was not stopped"
        self.given.append(token)
        reason: FinishReason | None = None
        assert self._params.ignore_eos, "the chat decides on stop tokens"
        if token in self._params.stop_token_ids:
            reason = "stop"
        elif len(self.given) == self._params.max_tokens:
            reason = "length"
        if reason is not None:
            self.closed = True
        logprobs = None
        if self._params.logprobs is not None:
            logprobs = [TokenLogprob(token, -1.0)]
        cached = self._model.cached_tokens
        return GenerationChunk("", [token], logprobs, reason, cached_tokens=cached)

    async def __anext__(self) -> GenerationChunk:
        await asyncio.sleep(0)
        try:
            return next(self)
        except StopIteration:
            raise StopAsyncIteration from None

    def close(self) -> None:
        self.closed = True
