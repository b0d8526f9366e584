"""Driving the model through an answer: one request, as deltas and then as a result."""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections import deque
from collections.abc import Coroutine, Iterator, Sequence
from types import TracebackType
from typing import Any, Protocol

from gptoss.chat.assemble import Assembler
from gptoss.chat.format import Opening, request_params
from gptoss.chat.messages import ChatMessage, ChatMessages, Prompt, list_messages
from gptoss.chat.result import ChatDelta, ChatResult
from gptoss.chat.structure import Grammars, constraint_of, openings_of
from gptoss.config import ModelConfig
from gptoss.engine.outputs import GenerationChunk, Timings, TokenLogprob, Usage
from gptoss.engine.sampling import SamplingParams
from gptoss.harmony import HarmonyEncoding

_FREE = Grammars()


class TokenStream(Protocol):
    """One request's tokens, as `LLM.stream` gives them."""

    def __next__(self) -> GenerationChunk: ...
    def __anext__(self) -> Coroutine[Any, Any, GenerationChunk]: ...

    def close(self) -> None:
        """Cancel the request."""

    def close_sample(self, index: int) -> None:
        """Cancel one of its samples."""


class Model(Protocol):
    """What a chat needs of an `LLM`.

    What forces a call, or ends reasoning, is `params.constraint`: a model that does not heed it
    may say what it wants.
    """

    @property
    def name(self) -> str: ...
    @property
    def config(self) -> ModelConfig: ...
    @property
    def context_length(self) -> int: ...
    @property
    def harmony(self) -> HarmonyEncoding: ...
    def stream(self, prompt: Any, params: SamplingParams | None = None) -> TokenStream: ...


class _Sample:
    """One of the answers to a prompt, as far as it has come.

    Attributes
    ----------
    answer : Assembler
        What reads it.
    usage : Usage or None
        Set at its end, as `result` is.
    """

    def __init__(
        self,
        model: Model,
        prompt: Prompt,
        openings: Sequence[Sequence[int]],
        params: SamplingParams,
        head: dict[str, Any],
        index: int,
    ) -> None:
        self.result: ChatResult | None = None
        self.usage: Usage | None = None
        self._made = prompt
        self._encoding = model.harmony
        self._max_tokens = params.max_tokens
        self._has_logprobs = params.logprobs is not None
        self.answer = Assembler(
            model.harmony,
            prompt.declared,
            head,
            params.stop,
            has_logprobs=self._has_logprobs,
            index=index,
        )
        self._logprobs: list[TokenLogprob] = []
        self._generated = 0
        self._cached_tokens = 0
        self._start_s = self._first_s = self._last_s = time.perf_counter()
        self._opening = Opening(openings)
        self._opened: list[int] = []
        self.prompt = prompt.token_ids
        self.token_ids: list[int] = []
        self._open(self._opening.take_common())

    def take(self, chunk: GenerationChunk) -> None:
        """Take the next token."""
        self._last_s = time.perf_counter()
        for index, token in enumerate(chunk.token_ids):
            if self._opening.allowed:
                self._opening.take(token)
                self._open([token])
            elif self._add(token, chunk.logprobs[index] if chunk.logprobs else None, chunk):
                break
        answer = self.answer
        if answer.ended_by is not None:
            answer.close(answer.ended_by)
        elif chunk.finish_reason is not None:
            answer.end(chunk.finish_reason)
        elif self._max_tokens is not None and self._generated >= self._max_tokens:
            answer.end("length")  # of a request that has tokens of its opening in it

    def finish(self, messages: Sequence[ChatMessage]) -> None:
        """Make the result, once the answer has ended."""
        self.usage = Usage(
            prompt_tokens=len(self.prompt),
            completion_tokens=self._generated,
            reasoning_tokens=self.answer.reasoning_tokens,
            cached_tokens=self._cached_tokens,
        )
        to_first_s = self._first_s - self._start_s
        after_first_s = self._last_s - self._first_s
        timings = Timings(
            time_to_first_token_s=to_first_s,
            prompt_tps=len(self.prompt) / to_first_s if to_first_s > 0 else 0.0,
            generation_tps=(self._generated - 1) / after_first_s if after_first_s > 0 else 0.0,
        )
        self.result = self.answer.result(
            messages,
            self._made,
            self.usage,
            timings,
            self.token_ids,
            self.prompt,
            self._logprobs if self._has_logprobs else None,
        )

    def _open(self, token_ids: list[int]) -> None:
        """Take what is opened for the model, and belongs to the prompt."""
        self._opened += token_ids
        self.prompt = [*self.prompt, *token_ids]
        if not self._opening.allowed:
            self.answer.open(self._opened)

    def _add(self, token: int, logprob: TokenLogprob | None, chunk: GenerationChunk) -> bool:
        """Take a token of the answer; return whether it ends the request without being text."""
        if not self._generated:
            self._first_s = self._last_s
            self._cached_tokens = chunk.cached_tokens
        self._generated += chunk.counted
        self.token_ids.append(token)
        if logprob is not None:
            self._logprobs.append(logprob)
        is_own_stop = chunk.finish_reason == "stop" and not self._encoding.is_special_token(token)
        if not is_own_stop:
            self.answer.take(token, logprob, is_format=not chunk.counted)
        return is_own_stop


class ChatStream(Iterator[ChatDelta]):
    """An answer, or several, as they come; made by `LLM.chat(stream=True)` and `LLM.achat`.

    To iterate over with `for` or `async for`. Closing it, dropping it, or cancelling the task that
    waits for it, cancels the request.

    Attributes
    ----------
    result : ChatResult or None
        All of it, once the last delta has come.
    """

    def __init__(
        self,
        model: Model,
        messages: ChatMessages,
        prompt: Prompt,
        params: SamplingParams,
        max_reasoning_tokens: int | None,
        grammars: Grammars = _FREE,
    ) -> None:
        self.result: ChatResult | None = None
        self._deltas: deque[ChatDelta] = deque()
        self._model = model
        self._encoding = encoding = model.harmony
        self._messages = list_messages(messages)
        head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model.name,
        }
        # <|end|> goes on, whatever the checkpoint's config says.
        ends = {*encoding.stop_tokens_for_assistant_actions(), *model.config.eos_token_ids}
        ends.discard(encoding.special_id("<|end|>"))
        openings = openings_of(encoding, prompt, max_reasoning_tokens)
        constraint = constraint_of(encoding, prompt, max_reasoning_tokens, grammars)
        request = request_params(params, sorted(ends), openings, constraint)
        self._samples = [
            _Sample(model, prompt, openings, params, head, index) for index in range(params.n)
        ]
        self._unfinished = len(self._samples)
        self._tokens = model.stream(self._samples[0].prompt, request)

    def __next__(self) -> ChatDelta:
        while not self._deltas:
            if not self._unfinished:
                raise StopIteration
            try:
                self._take(next(self._tokens))
            except BaseException:
                self.close()
                raise
        return self._deltas.popleft()

    def __aiter__(self) -> ChatStream:
        return self

    async def __anext__(self) -> ChatDelta:
        while not self._deltas:
            if not self._unfinished:
                raise StopAsyncIteration
            try:
                self._take(await self._tokens.__anext__())
            except BaseException:
                self.close()
                raise
        return self._deltas.popleft()

    def close(self) -> None:
        """Cancel the request if it is not finished; there will be no more deltas."""
        self._tokens.close()
        self._deltas.clear()
        self._unfinished = 0

    def drain(self) -> ChatResult:
        """Take all that is left, and return the result."""
        with self:
            for _ in self:
                pass
        if self.result is None:
            raise RuntimeError("the stream was closed before its end")
        return self.result

    async def drain_async(self) -> ChatResult:
        """As `drain`, for asyncio."""
        with self:
            async for _ in self:
                pass
        return self.drain()

    def __enter__(self) -> ChatStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def harmony(self) -> HarmonyEncoding:
        """The model's encoding."""
        return self._encoding

    @property
    def room_tokens(self) -> int:
        """How many tokens the context has left after the longest of what has come."""
        longest = max(len(sample.prompt) + len(sample.token_ids) for sample in self._samples)
        return self._model.context_length - longest

    def _take(self, chunk: GenerationChunk) -> None:
        sample = self._samples[chunk.index]
        if sample.result is not None:
            return  # made before the engine learnt of its end
        sample.take(chunk)
        if sample.answer.ended_by is not None:
            self._finish(sample, chunk.index)
        self._deltas += sample.answer.deltas
        sample.answer.deltas.clear()

    def _finish(self, sample: _Sample, index: int) -> None:
        self._unfinished -= 1
        if self._unfinished:
            self._tokens.close_sample(index)
        else:
            self._tokens.close()
        sample.finish(self._messages)
        assert sample.usage is not None
        if self._unfinished:
            sample.answer.add_end(sample.usage, None)
            return
        first, *others = [each.result for each in self._samples if each.result is not None]
        self.result = dataclasses.replace(first, other_samples=tuple(others))
        sample.answer.add_end(sample.usage, self.result.total_usage)
