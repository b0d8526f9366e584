"""Requests to the engine: what they have generated so far, and ways to wait for it."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, MutableSequence, Sequence
from numbers import Real
from queue import Empty
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gptoss import _core
from gptoss.engine.constraints import constraint_for_sequence
from gptoss.engine.loop import Delivery, EngineLoop, Letter, Mailbox, new_sequence
from gptoss.engine.outputs import (
    FinishReason,
    GenerationChunk,
    GenerationResult,
    Timings,
    TokenLogprob,
    TopLogprob,
    Usage,
)
from gptoss.engine.sampling import SamplingParams, sample_seed
from gptoss.engine.stop_strings import StopStrings

if TYPE_CHECKING:
    import asyncio  # imported where it is used: most programs do without

    from gptoss.tokenizer import Tokenizer


class EngineParams:
    """Parameters as the engine takes them: converted once, shared by prompts and samples.

    Raises ValueError if the engine has no such adapter.
    """

    def __init__(self, params: SamplingParams, loop: EngineLoop) -> None:
        self.given = params
        adapter = loop.adapter(params.adapter)
        salt = params._salt_with(adapter.digest)

        def convert(params: SamplingParams) -> _core.RequestParams:
            return _core.RequestParams(params, adapter.number, salt)

        self.first = self.others = convert(params)
        if params.n > 1 and params.prompt_logprobs is not None:
            # The samples have one prompt: it is scored once.
            self.others = convert(dataclasses.replace(params, prompt_logprobs=None))


class Completion:
    """The samples of one prompt, as far as they have been generated.

    It has no __del__: what a KeyboardInterrupt raises in one is lost. Whoever submits it must see
    to it that it is cancelled.

    Attributes
    ----------
    unfinished : dict
        Samples that go on, by the engine's ids of their sequences.
    error : BaseException or None
        What has ended it before its end.
    """

    def __init__(
        self,
        loop: EngineLoop,
        prompt: npt.NDArray[np.int32],
        params: EngineParams,
        tokenizer: Tokenizer | None,
    ) -> None:
        given = params.given
        seed = secrets.randbits(64) if given.seed is None else given.seed
        self._loop = loop
        self._prompt = prompt
        self._params = params
        self._samples = [
            _Sample(index, sample_seed(seed, index), given, tokenizer) for index in range(given.n)
        ]
        self.error: BaseException | None = None
        self.unfinished = {new_sequence(): sample for sample in self._samples}

    def submit(self, mailbox: Mailbox) -> None:
        """Begin; what comes goes to `mailbox`, and from there to `take` or `chunks`."""
        make = self._params.given.constraint
        for sequence, sample in list(self.unfinished.items()):
            self._loop.submit(
                sequence,
                self._prompt,
                self._params.first if sample.index == 0 else self._params.others,
                sample.seed,
                mailbox,
                None if make is None else constraint_for_sequence(make),
            )

    def take(self, letter: Letter, chunks: MutableSequence[GenerationChunk] | None = None) -> None:
        """Take what a step made; add it to `chunks`, token by token, if they are wanted."""
        if isinstance(letter, BaseException):
            self._end(letter)
        elif letter is not None:
            for event in letter.events:
                self.take_event(event, letter, chunks)

    def take_event(
        self,
        event: _core.Event,
        letter: Delivery,
        chunks: MutableSequence[GenerationChunk] | None = None,
    ) -> None:
        """Take one event of a letter."""
        sequence = event.request
        sample = self.unfinished.get(sequence)
        if sample is None:
            return  # cancelled, or made before the engine learnt of the stop string
        sample.take(event, letter.time_s, chunks)
        reason = event.finish_reason
        if reason == "error":
            self._end(letter.errors[sequence])
        elif sample.finish_reason is not None:
            self.unfinished.pop(sequence, None)
            if reason is None:
                self._loop.cancel(sequence)

    def check_process(self) -> None:
        """Raise BackendError if nothing will come, because the process was forked."""
        self._loop.check_process()

    def cancel(self) -> None:
        """End what is not finished."""
        sequences = list(self.unfinished)
        self.unfinished.clear()
        if sequences:
            self._loop.cancel(*sequences)

    def cancel_sample(self, index: int) -> None:
        """End one of the samples, if it is not finished."""
        for sequence, sample in list(self.unfinished.items()):
            if sample.index == index:
                self.unfinished.pop(sequence, None)
                self._loop.cancel(sequence)

    def result(self) -> GenerationResult:
        """Return the result once nothing is unfinished; raise if it was ended before."""
        if self.error is not None:
            raise self.error
        if any(sample.finish_reason is None for sample in self._samples):
            raise RuntimeError("the request was cancelled before its end")
        first, *others = (sample.result(self._prompt) for sample in self._samples)
        if not others:
            return first
        scores = first.prompt_logprobs
        others = [dataclasses.replace(other, prompt_logprobs=scores) for other in others]
        return dataclasses.replace(first, other_samples=tuple(others))

    def _end(self, error: BaseException) -> None:
        self.error = error
        self.cancel()


class Request(Iterator[GenerationChunk]):
    """A request that has been submitted; made by `LLM.submit`.

    It can be iterated over, with `for` or `async for`, for a `GenerationChunk` per token; awaited
    for its `GenerationResult`; or asked for that with `result`. All these can be mixed: the result
    includes the chunks that have been taken, and those that have not. One thread or task at a time
    may wait for it. Dropping it, leaving it as a context manager, or interrupting or cancelling
    whoever waits for it, cancels it. It keeps its model from being dropped, and so closed, while
    it runs.
    """

    def __init__(self, completion: Completion, model: object = None) -> None:
        self._completion = completion
        self._check_process = completion.check_process
        self._model = model
        self._mailbox = Mailbox()
        self._ready: deque[GenerationChunk] = deque()  # taken from the mailbox, not by the caller
        self._has_raised = False
        self._awaited_in: asyncio.AbstractEventLoop | None = None  # the loop of a task that waits
        try:
            completion.submit(self._mailbox)
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """End it if it is not finished, within one step of the engine; no more chunks will come."""
        if not self.finished:
            self._completion.cancel()
            self._ready = deque()
            self._mailbox.put(None)  # another thread or task may be waiting
        self._model = None

    def close(self) -> None:
        """Cancel it, as closing a generator would."""
        self.cancel()

    def close_sample(self, index: int) -> None:
        """Cancel one of its `n` samples; no more chunks of it will come, and it has no result.

        By whoever iterates over it, and not while another thread waits for it.
        """
        self._completion.cancel_sample(index)
        self._ready = deque(chunk for chunk in self._ready if chunk.index != index)

    @property
    def finished(self) -> bool:
        """Whether all chunks have been taken, or it was cancelled."""
        return not self._completion.unfinished and not self._ready

    def result(self, timeout: float | None = None) -> GenerationResult:
        """Wait for the end.

        Parameters
        ----------
        timeout : float, optional
            Most seconds to wait.

        Returns
        -------
        GenerationResult

        Raises
        ------
        TimeoutError
            It is not finished yet; it goes on.
        ValueError, TypeError
            `timeout` is not a number, or NaN.
        BackendError
            The model's values are not finite, a constraint allows no token, or the process was
            forked.
        RuntimeError
            It was cancelled, or the model was closed.
        Exception
            What its constraint has raised.
        """
        self._check_process()
        end_s = _deadline_s(timeout)
        try:
            self._ready.clear()
            while not self.finished:
                left_s = None if end_s is None else max(0.0, end_s - time.monotonic())
                try:
                    letter = self._mailbox.get(left_s)
                except Empty:
                    break
                self._take(letter, None)
        except BaseException:
            self.cancel()  # a token may have been lost
            raise
        if not self.finished:
            waited_s = float(max(timeout or 0, 0))
            raise TimeoutError(f"the request is not finished after {waited_s:g} s")
        return self._completion.result()

    def __next__(self) -> GenerationChunk:
        self._check_process()
        try:
            ready = self._ready
            while not ready and self._completion.unfinished:
                self._take(self._mailbox.get(), ready)
            if ready:
                return ready.popleft()
        except BaseException:
            self.cancel()
            raise
        self._raise_once()
        raise StopIteration

    def __aiter__(self) -> Request:
        return self

    async def __anext__(self) -> GenerationChunk:
        self._check_process()
        with self._only_task():
            try:
                ready = self._ready
                while not ready and self._completion.unfinished:
                    self._take(await self._mailbox.get_async(), ready)
                if ready:
                    return ready.popleft()
            except BaseException:
                self.cancel()
                raise
        self._raise_once()
        raise StopAsyncIteration

    def __await__(self) -> Generator[Any, None, GenerationResult]:
        return self._result_async().__await__()

    async def _result_async(self) -> GenerationResult:
        self._check_process()
        with self._only_task():
            try:
                self._ready.clear()
                while not self.finished:
                    self._take(await self._mailbox.get_async(), None)
            except BaseException:
                self.cancel()
                raise
        return self._completion.result()

    @contextlib.contextmanager
    def _only_task(self) -> Iterator[None]:
        """Keep other tasks from waiting, from its first letter to its last; its request goes on."""
        import asyncio

        if self._awaited_in is not None and not self._awaited_in.is_closed():
            raise RuntimeError("another task is waiting for this request already")
        mine = self._awaited_in = asyncio.get_running_loop()
        try:
            yield
        finally:
            if self._awaited_in is mine:  # a task of a closed loop ends when it is collected
                self._awaited_in = None

    def _take(self, letter: Letter, chunks: deque[GenerationChunk] | None) -> None:
        self._completion.take(letter, chunks)
        if not self._completion.unfinished:
            self._model = None

    def _raise_once(self) -> None:
        """Raise what has ended it; an iterator that has raised is exhausted."""
        error = self._completion.error
        if error is not None and not self._has_raised:
            self._has_raised = True
            raise error

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
        if hasattr(self, "_has_raised"):
            self.cancel()


def _deadline_s(timeout: float | None) -> float | None:
    """When to give up, on the clock of time.monotonic(); None: never."""
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, Real):
        raise TypeError(f"timeout must be a number of seconds or None, got {timeout!r}")
    if timeout != timeout:
        raise ValueError("timeout must be a number of seconds or None, got nan")
    if timeout >= threading.TIMEOUT_MAX:
        return None
    return time.monotonic() + float(max(timeout, 0))


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
        self._running: dict[int, tuple[int, Completion]] = {}  # place in the list, by sequence
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
        """Take what a step made for them; raise what has ended one, or all."""
        if isinstance(letter, BaseException):
            raise letter
        for event in letter.events if letter is not None else ():
            sequence = event.request
            if sequence not in self._running:
                continue  # made before the engine learnt of the stop string
            place, completion = self._running[sequence]
            completion.take_event(event, letter)  # type: ignore[arg-type]
            if completion.error is not None:
                raise completion.error
            if sequence not in completion.unfinished:
                del self._running[sequence]
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
    """What one sequence of the engine has generated so far.

    Nothing is made of its tokens before somebody looks: text and log-probabilities come with a
    chunk or with the result. Only stop strings have to be looked for at once.
    """

    def __init__(
        self, index: int, seed: int, params: SamplingParams, tokenizer: Tokenizer | None
    ) -> None:
        self.index = index
        self.seed = seed
        self.finish_reason: FinishReason | None = None
        self._text = None if tokenizer is None else TextOutput(tokenizer, params.stop)
        self._has_stop_strings = self._text is not None and bool(params.stop)
        self._has_logprobs = params.logprobs is not None
        self._has_prompt_logprobs = params.prompt_logprobs is not None and index == 0
        self._pieces: list[str] = []
        self._decoded = 0  # tokens whose text is in the pieces
        self._is_complete = False  # the text
        self._token_ids: list[int] = []
        self._scored: list[_core.Event] = []  # of the tokens, if their log-probabilities are asked
        self._prompt_scored: _core.Event | None = None
        self._stop_reason: str | int | None = None
        self._uncounted = 0
        self._cached_tokens = 0
        self._start_s = time.perf_counter()
        self._first_s: float | None = None
        self._last_s = self._start_s

    def take(
        self,
        event: _core.Event,
        time_s: float,
        chunks: MutableSequence[GenerationChunk] | None,
    ) -> None:
        """Take what a step made of it; add a chunk for each token, if they are wanted."""
        token_ids = event.token_ids
        reason = event.finish_reason
        if self._first_s is None and (token_ids or reason is not None):
            self._first_s = time_s
        self._last_s = time_s
        self._cached_tokens = event.cached_tokens
        if self._has_logprobs:
            self._scored.append(event)
        if self._has_prompt_logprobs and event.prompt_logprobs:
            self._prompt_scored = event
        finish: FinishReason | None = reason if reason in ("stop", "length") else None
        if chunks is None and not self._has_stop_strings:
            self._token_ids += token_ids
            self._finish(finish)
        else:
            token_ids = self._take_one_by_one(event, token_ids, finish, chunks)
        if not event.counted:
            self._uncounted += len(token_ids)

    def _take_one_by_one(
        self,
        event: _core.Event,
        token_ids: list[int],
        finish: FinishReason | None,
        chunks: MutableSequence[GenerationChunk] | None,
    ) -> list[int]:
        """Take tokens up to the one that completes a stop string, and return those."""
        if self._decoded < len(self._token_ids):
            self._decode()  # what was taken before without being looked at
        scores = _scores(event) if chunks is not None and self._has_logprobs else None
        last = len(token_ids) - 1
        if last < 0:
            if finish is not None:
                self._finish(finish)
                self._add_chunk(chunks, event, [], self._decode(), None)
            return token_ids
        for place, token_id in enumerate(token_ids):
            self._token_ids.append(token_id)
            if place == last and finish is not None:
                self._finish(finish)
                text = self._decode()
            else:
                text = self._decode_one(token_id)
            score = None if scores is None else scores[place : place + 1]
            self._add_chunk(chunks, event, [token_id], text, score)
            if self.finish_reason is not None:
                return token_ids[: place + 1]
        return token_ids

    def _add_chunk(
        self,
        chunks: MutableSequence[GenerationChunk] | None,
        event: _core.Event,
        token_ids: list[int],
        text: str,
        logprobs: list[TokenLogprob] | None,
    ) -> None:
        if chunks is not None:
            chunks.append(
                GenerationChunk(
                    text,
                    token_ids,
                    logprobs,
                    self.finish_reason,
                    self._stop_reason,
                    self._cached_tokens,
                    self.index,
                    event.forced,
                    event.counted,
                )
            )

    def _finish(self, reason: FinishReason | None) -> None:
        if reason is not None:
            self.finish_reason = reason
            if reason == "stop":
                self._stop_reason = self._token_ids[-1]

    def _decode_one(self, token_id: int) -> str:
        """Make text of a token that does not end it, the only one it has not been made of."""
        self._decoded += 1
        if self._text is None:
            return ""
        text = self._text.push_one(token_id)
        self._pieces.append(text)
        if self._text.found is not None:
            self.finish_reason, self._stop_reason = "stop", self._text.found
            self._is_complete = True
        return text

    def _decode(self) -> str:
        """Make text of the tokens that it has not been made of; finds stop strings."""
        decoded, self._decoded = self._decoded, len(self._token_ids)
        if self._text is None or self._is_complete:
            return ""
        tokens = self._token_ids[decoded:]
        if self.finish_reason == "stop":
            tokens = tokens[:-1]  # the stop token is not part of the text, whatever it is
        text = self._text.push(tokens)
        if self.finish_reason is not None:
            text += self._text.flush()
        if self._text.found is not None:
            self.finish_reason, self._stop_reason = "stop", self._text.found
        self._is_complete = self.finish_reason is not None
        self._pieces.append(text)
        return text

    def _logprobs(self) -> list[TokenLogprob]:
        scores = [score for event in self._scored for score in _scores(event)]
        return scores[: len(self._token_ids)]  # what came after a stop string is not counted

    def _prompt_logprobs(self, prompt: list[int]) -> list[TokenLogprob | None]:
        scored = self._prompt_scored
        if scored is None:
            return [None]  # a prompt of one token
        return [
            None,
            *_zip_scores(prompt[1:], scored.prompt_logprobs, scored.prompt_top_logprobs),
        ]

    def result(self, prompt: npt.NDArray[np.int32]) -> GenerationResult:
        """Return all of it, once it is finished."""
        assert self.finish_reason is not None
        assert self._first_s is not None
        self._decode()
        prompt_ids: list[int] = prompt.tolist()
        count = len(self._token_ids)
        to_first_s = self._first_s - self._start_s
        after_first_s = self._last_s - self._first_s
        return GenerationResult(
            text="".join(self._pieces),
            token_ids=self._token_ids,
            finish_reason=self.finish_reason,
            stop_reason=self._stop_reason,
            logprobs=self._logprobs() if self._has_logprobs else None,
            usage=Usage(
                prompt_tokens=len(prompt),
                completion_tokens=count - self._uncounted,
                cached_tokens=self._cached_tokens,
            ),
            timings=Timings(
                time_to_first_token_s=to_first_s,
                prompt_tps=len(prompt) / to_first_s,
                generation_tps=(count - 1) / after_first_s if after_first_s > 0 else 0.0,
            ),
            prompt_token_ids=prompt_ids,
            prompt_logprobs=(
                self._prompt_logprobs(prompt_ids) if self._has_prompt_logprobs else None
            ),
        )


def _scores(event: _core.Event) -> list[TokenLogprob]:
    return _zip_scores(event.token_ids, event.logprobs, event.top_logprobs)


def _zip_scores(
    token_ids: list[int], logprobs: list[float], top: list[list[tuple[int, float]]]
) -> list[TokenLogprob]:
    return [
        TokenLogprob(token_id, logprob, tuple(TopLogprob(*entry) for entry in entries))
        for token_id, logprob, entries in zip(token_ids, logprobs, top, strict=True)
    ]


class TextOutput:
    """Turns tokens into text up to the first stop string."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self._special_name = tokenizer.special_name
        self._decoder = tokenizer.incremental_decoder()
        self._stop = StopStrings(stop)
        self._has_stop = bool(stop)

    @property
    def found(self) -> str | None:
        """The stop string that ended the text."""
        return self._stop.found

    def push(self, token_ids: Iterable[int]) -> str:
        """Take tokens; return the text that is now certain."""
        return "".join(map(self.push_one, token_ids))

    def push_one(self, token_id: int) -> str:
        """Take one token; return the text that is now certain."""
        if self._special_name(token_id) is not None:
            # Told apart by id: text that spells a special token's name is text.
            text = self._decoder.flush()
        else:
            text = self._decoder.push(token_id)
        return self._stop.push(text) if self._has_stop else text

    def flush(self) -> str:
        """Return what is left when no token follows."""
        return self._stop.push(self._decoder.flush()) + self._stop.flush()
