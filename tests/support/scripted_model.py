"""A model that says what a test tells it to, for everything above `LLM.stream`."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gptoss.engine.constraints import Constraint, Decision, constraint_for_sequence
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
    """Answers each request with the next script: markup, or token ids.

    As the engine does, it asks the request's constraint what may follow. Tokens that are forced
    come instead of the rest of a script, and it goes on with the next one. A script may be longer
    than the context; forced tokens end there.

    Parameters
    ----------
    encoding : HarmonyEncoding, optional
        None: on a tokenizer of single bytes and a few words.
    heeds_constraints : bool
        False: its tokens are those of the scripts, whatever the constraint says.

    Attributes
    ----------
    requests : list of (prompt, SamplingParams)
        What it was asked.
    streams : list of ScriptedStream
        What it answered with.
    """

    name = "scripted"
    max_sequences = 16
    adapters: tuple[str, ...] = ()
    chat = LLM.chat
    achat = LLM.achat
    run = LLM.run

    def __init__(
        self,
        *scripts: str | Sequence[int],
        cached_tokens: int = 0,
        context_length: int = 100_000,
        eos: Sequence[str] = ("<|return|>", "<|endoftext|>"),
        heeds_constraints: bool = True,
        encoding: HarmonyEncoding | None = None,
    ) -> None:
        self.harmony = encoding or HarmonyEncoding(ByteTokenizer(WORDS))
        self.config = Config(tuple(map(self.harmony.special_id, eos)))
        self.context_length = context_length
        self.cached_tokens = cached_tokens
        self.requests: list[tuple[list[int], SamplingParams]] = []
        self.streams: list[ScriptedStream] = []
        self.heeds_constraints = heeds_constraints
        self._scripts = iter(
            [self.tokens(script) if isinstance(script, str) else list(script) for script in scripts]
        )

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
        self.streams.append(ScriptedStream(self, params, len(prompt)))
        return self.streams[-1]

    def next_script(self) -> Iterator[int]:
        """Begin the next script."""
        script = next(self._scripts, None)
        assert script is not None, "there is no further script"
        return iter(script)


class ScriptedStream:
    """One request's tokens.

    Attributes
    ----------
    given : list of int
        Those that were sampled.
    """

    def __init__(self, model: ScriptedModel, params: SamplingParams, prompt_length: int) -> None:
        self.closed = False
        self.given: list[int] = []
        self._model = model
        self._params = params
        self._room = model.context_length - prompt_length
        self._counted = 0
        self._script: Iterator[int] | None = model.next_script()
        self._forced: deque[int] = deque()
        self._decision = Decision()
        self._constraint: Constraint | None = None
        if params.constraint is not None and model.heeds_constraints:
            self._constraint = constraint_for_sequence(params.constraint)
            self._ask([])

    def __next__(self) -> GenerationChunk:
        if self.closed:
            raise StopIteration
        if self._forced:
            token = self._forced.popleft()
            return self._chunk(token, is_forced=True, is_counted=self._decision.counted)
        token = self._sample()
        self.given.append(token)
        chunk = self._chunk(token)
        if chunk.finish_reason is None:
            self._ask([token])
        return chunk

    def _sample(self) -> int:
        if self._script is None:
            self._script = self._model.next_script()
        token = next(self._script, None)
        assert token is not None, "the script is over, and the model was not stopped"
        if self._constraint is not None and self._decision.free == 0:
            mask = np.full(-(-self._model.harmony.tokenizer.vocab_size // 32), 2**32 - 1, np.uint32)
            self._constraint.fill(mask)
            assert mask[token // 32] >> token % 32 & 1, f"the script has {token}, which is masked"
        return token

    def _ask(self, token_ids: list[int]) -> None:
        if self._constraint is None:
            return
        left = self._decision.free - len(token_ids)
        self._decision = self._constraint.accept(token_ids)
        self._forced.extend(self._decision.forced)
        if self._forced:
            assert left <= 0, "a token is forced that was said to be free"
            if self.given:
                self._script = None

    def _chunk(
        self, token: int, *, is_forced: bool = False, is_counted: bool = True
    ) -> GenerationChunk:
        params = self._params
        self._counted += is_counted
        self._room -= 1
        reason: FinishReason | None = None
        assert params.ignore_eos, "the chat decides on stop tokens"
        if is_counted and token in params.stop_token_ids:
            reason = "stop"
        elif self._counted == params.max_tokens or (is_forced and self._room == 0):
            reason = "length"
        if reason is not None:
            self.closed = True
        logprobs = None
        if params.logprobs is not None:
            logprobs = [TokenLogprob(token, 0.0 if is_forced else -1.0)]
        cached = self._model.cached_tokens
        return GenerationChunk(
            "",
            [token],
            logprobs,
            reason,
            cached_tokens=cached,
            forced=is_forced,
            counted=is_counted,
        )

    async def __anext__(self) -> GenerationChunk:
        await asyncio.sleep(0)
        try:
            return next(self)
        except StopIteration:
            raise StopAsyncIteration from None

    def close(self) -> None:
        self.closed = True
