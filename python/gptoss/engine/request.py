"""Requests to the engine: what they have generated so far, and ways to wait for it."""

from __future__ import annotations

import dataclasses
import math
import secrets
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from numbers import Real
from queue import Empty
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gptoss.engine.loop import (
    EngineLoop,
    Event,
    Letter,
    Mailbox,
    WaitedForError,
    new_request,
)
from gptoss.engine.outputs import (
    FinishReason,
    GenerationChunk,
    GenerationResult,
    Timings,
    TokenLogprob,
    TopLogprob,
    Usage,
)
from gptoss.engine.sampling import SamplingParams
from gptoss.engine.stop_strings import StopStrings

if TYPE_CHECKING:
    from gptoss.tokenizer import Tokenizer


class Completion:
    """The samples of one prompt, as far as they have been generated.

    It has no __del__: what a KeyboardInterrupt raises in one is lost. Whoever submits it must see
    to it that it is cancelled.

    Attributes
    ----------
    unfinished : dict
        Samples that go on, by the engine's ids of their requests.
    """

    def __init__(
        self,
        loop: EngineLoop,
        prompt: npt.NDArray[np.int32],
        params: SamplingParams,
        tokenizer: Tokenizer | None,
    ) -> None:
        if params.seed is None:
            params = dataclasses.replace(params, seed=secrets.randbits(64))
        self._loop = loop
        self._prompt = prompt
        self._samples = [
            _Sample(index, params.for_sample(index), tokenizer) for index in range(params.n)
        ]
        self._error: BaseException | None = None
        self.unfinished = {new_request(): sample for sample in self._samples}

    def submit(self, mailbox: Mailbox) -> None:
        """Begin; what comes goes to `mailbox`, and from there to `take`."""
        for request, sample in self.unfinished.items():
            self._loop.submit(request, self._prompt, sample.params, mailbox)

    def check_process(self) -> None:
        """Raise BackendError in a forked process, where no token will come."""
        self._loop.check_process()

    def take(self, letter: Letter) -> GenerationChunk | None:
        """Take the next token; None if it came after the end."""
        request, event = letter
        if isinstance(event, BaseException):
            self._error = event
            raise event
        sample = self.unfinished.get(request)
        if sample is None or event is None:
            return None  # cancelled, or made before the engine learnt of the stop string
        chunk = sample.push(event)
        if chunk.finish_reason is not None:
            self.unfinished.pop(request, None)
            if event.finish_reason is None:
                self._loop.cancel(request)
        return chunk

    def cancel(self) -> None:
        """End what is not finished."""
        requests = list(self.unfinished)
        self.unfinished.clear()
        if requests:
            self._loop.cancel(*requests)

    def result(self) -> GenerationResult:
        """Return the result once nothing is unfinished; raise if it was ended before."""
        if self._error is not None:
            raise self._error
        if any(sample.finish_reason is None for sample in self._samples):
            raise RuntimeError("the request was cancelled before its end")
        first, *others = (sample.result(self._prompt) for sample in self._samples)
        return dataclasses.replace(first, other_samples=tuple(others)) if others else first


class Request(Iterator[GenerationChunk]):
    """A request that has been submitted; made by `LLM.submit`.

    It can be iterated over, with `for` or `async for`, for a `GenerationChunk` per token; awaited
    for its `GenerationResult`; or asked for that with `result`. All these can be mixed: the result
    includes the chunks that have been taken, and those that have not. One thread or task at a time
    may wait for it. Dropping it, leaving it as a context manager, or interrupting or cancelling
    whoever waits for it, cancels it. It keeps `owner`, the model, from being dropped and closed.
    """

    def __init__(self, completion: Completion, owner: object = None) -> None:
        self._owner = owner
        self._completion = completion
        self._mailbox = Mailbox()
        try:
            completion.submit(self._mailbox)
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """End it if it is not finished, within one step of the engine; no more chunks will come."""
        if not self.finished:
            self._completion.cancel()
            self._mailbox.put((0, None))  # another thread or task may be waiting

    def close(self) -> None:
        """Cancel it, as closing a generator would."""
        self.cancel()

    @property
    def finished(self) -> bool:
        """Whether all chunks have been taken, or it was cancelled."""
        return not self._completion.unfinished

    def result(self, timeout: float | None = None) -> GenerationResult:
        """Wait for the end.

        Parameters
        ----------
        timeout : float, optional
            Most seconds to wait; none at all if it is negative.

        Returns
        -------
        GenerationResult

        Raises
        ------
        TimeoutError
            It is not finished yet; it goes on.
        RuntimeError
            It was cancelled, or the model was closed.
        BackendError
            This process was forked from the one that submitted it.
        TypeError, ValueError
            `timeout` is not a number, or NaN.
        """
        end_s = _deadline_s(timeout)
        with _CancelledOnError(self):
            while not self.finished:
                left_s = None if end_s is None else max(0.0, end_s - time.monotonic())
                try:
                    letter = self._mailbox.get(left_s)
                except Empty:
                    break
                self._completion.take(letter)
        if not self.finished:
            raise TimeoutError(f"the request is not finished after {max(timeout or 0, 0):g} s")
        return self._completion.result()

    def __next__(self) -> GenerationChunk:
        with _CancelledOnError(self):
            while not self.finished:
                chunk = self._completion.take(self._mailbox.get())
                if chunk is not None:
                    return chunk
        raise StopIteration

    def __aiter__(self) -> Request:
        return self

    async def __anext__(self) -> GenerationChunk:
        with _CancelledOnError(self):
            while not self.finished:
                chunk = self._completion.take(await self._mailbox.get_async())
                if chunk is not None:
                    return chunk
        raise StopAsyncIteration

    def __await__(self) -> Generator[Any, None, GenerationResult]:
        return self._result_async().__await__()

    async def _result_async(self) -> GenerationResult:
        with _CancelledOnError(self):
            while not self.finished:
                self._completion.take(await self._mailbox.get_async())
        return self._completion.result()

    def __enter__(self) -> Request:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        if hasattr(self, "_mailbox"):
            self.cancel()


def _deadline_s(timeout: float | None) -> float | None:
    """When a wait of so many seconds ends; None for what no clock reaches."""
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, Real):
        raise TypeError(f"timeout must be a number of seconds or None, got {timeout!r}")
    if timeout != timeout:
        raise ValueError("timeout must be a number of seconds or None, got nan")
    if timeout >= threading.TIMEOUT_MAX:
        return None
    return time.monotonic() + float(max(timeout, 0))


class _CancelledOnError:
    """Waits for a request, and cancels it when that is interrupted: a token may have been lost."""

    def __init__(self, request: Request) -> None:
        self._request = request

    def __enter__(self) -> None:
        if not self._request.finished:
            self._request._completion.check_process()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not issubclass(kind, WaitedForError):
            self._request.cancel()


class Batch:
    """The requests of a list of prompts, some of them at a time.

    Attributes
    ----------
    mailbox : Mailbox
        Where their events arrive, for `take`.
    """

    def __init__(
        self,
        begin: Callable[[npt.NDArray[np.int32]], Completion],
        prompts: Sequence[npt.NDArray[np.int32]],
        window: int,
    ) -> None:
        self.mailbox = Mailbox()
        self._begin = begin
        self._prompts = prompts
        self._window = window
        self._begun = 0
        self._running: dict[int, tuple[int, Completion]] = {}  # place in the list, by request
        self._results: dict[int, GenerationResult] = {}

    @property
    def finished(self) -> int:
        """Prompts that are finished."""
        return len(self._results)

    def advance(self) -> bool:
        """Begin what there is room for; return whether there is something to wait for."""
        while self._begun < len(self._prompts) and self._begun < self.finished + self._window:
            place, self._begun = self._begun, self._begun + 1
            completion = self._begin(self._prompts[place])
            # Noted before it is submitted, so that an interrupt at any moment leaves none behind.
            self._running.update(dict.fromkeys(completion.unfinished, (place, completion)))
            completion.submit(self.mailbox)
        return bool(self._running)

    def take(self, letter: Letter) -> None:
        """Take a token of one of them."""
        request, _ = letter
        if request not in self._running:
            return  # made before the engine learnt of the stop string
        place, completion = self._running[request]
        chunk = completion.take(letter)
        if chunk is not None and chunk.finish_reason is not None:
            del self._running[request]
            if not completion.unfinished:
                self._results[place] = completion.result()

    def cancel(self) -> None:
        """End all that are not finished."""
        for _, completion in self._running.values():
            completion.cancel()
        self._running.clear()

    def results(self) -> list[GenerationResult]:
        """Return the results in the order of the prompts, once all are finished."""
        return [self._results[place] for place in range(len(self._prompts))]


class _Sample:
    """What one request of the engine has generated so far."""

    def __init__(self, index: int, params: SamplingParams, tokenizer: Tokenizer | None) -> None:
        self.params = params
        self.finish_reason: FinishReason | None = None
        self._index = index
        self._text = None if tokenizer is None else TextOutput(tokenizer, params.stop)
        self._pieces: list[str] = []
        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self._stop_reason: str | int | None = None
        self._cached_tokens = 0
        self._start_s = self._first_s = self._last_s = time.perf_counter()

    def push(self, event: Event) -> GenerationChunk:
        """Take the next token; RuntimeError if it was chosen by logits that are no numbers."""
        if math.isnan(event.logprob):
            raise RuntimeError(
                "the logits are not finite: the checkpoint is damaged or its values are out of "
                "range"
            )
        if not self._token_ids:
            self._first_s = event.time_s
        self._last_s = event.time_s
        self._cached_tokens = event.cached_tokens
        self._token_ids.append(event.token_id)
        self.finish_reason = event.finish_reason
        if event.finish_reason == "stop":
            self._stop_reason = event.token_id
        text = ""
        if self._text is not None:
            # The stop token is not part of the text, whatever it is.
            if event.finish_reason != "stop":
                text = self._text.push(event.token_id)
            if event.finish_reason is not None:
                text += self._text.flush()
            if self._text.found is not None:
                self.finish_reason, self._stop_reason = "stop", self._text.found
        self._pieces.append(text)
        logprobs = None
        if self.params.logprobs is not None:
            top = tuple(TopLogprob(*entry) for entry in event.top_logprobs)
            logprobs = [TokenLogprob(event.token_id, event.logprob, top)]
            self._logprobs += logprobs
        return GenerationChunk(
            text,
            [event.token_id],
            logprobs,
            self.finish_reason,
            self._stop_reason,
            event.cached_tokens,
            self._index,
        )

    def result(self, prompt: npt.NDArray[np.int32]) -> GenerationResult:
        """Return all of it, once it is finished."""
        assert self.finish_reason is not None
        count = len(self._token_ids)
        to_first_s = self._first_s - self._start_s
        after_first_s = self._last_s - self._first_s
        return GenerationResult(
            text="".join(self._pieces),
            token_ids=self._token_ids,
            finish_reason=self.finish_reason,
            stop_reason=self._stop_reason,
            logprobs=None if self.params.logprobs is None else self._logprobs,
            usage=Usage(
                prompt_tokens=len(prompt),
                completion_tokens=count,
                cached_tokens=self._cached_tokens,
            ),
            timings=Timings(
                time_to_first_token_s=to_first_s,
                prompt_tps=len(prompt) / to_first_s,
                generation_tps=(count - 1) / after_first_s if after_first_s > 0 else 0.0,
            ),
            prompt_token_ids=prompt.tolist(),
        )


class TextOutput:
    """Turns tokens into text up to the first stop string."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._decoder = tokenizer.incremental_decoder()
        self._stop = StopStrings(stop)

    @property
    def found(self) -> str | None:
        """The stop string that ended the text."""
        return self._stop.found

    def push(self, token_id: int) -> str:
        """Take a token; return the text that is now certain."""
        if self._tokenizer.special_name(token_id) is not None:
            # Told apart by id: text that spells a special token's name is text.
            return self._stop.push(self._decoder.flush())
        return self._stop.push(self._decoder.push(token_id))

    def flush(self) -> str:
        """Return what is left when no token follows."""
        return self._stop.push(self._decoder.flush()) + self._stop.flush()
