"""The thread that runs the engine, for all who use a model at the same time."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from gptoss import _core
from gptoss.engine.outputs import EngineStats, FinishReason, PageStats
from gptoss.errors import BackendError

if TYPE_CHECKING:
    import asyncio  # imported where it is used: most programs do without

_request_ids = itertools.count(1)


def new_request() -> int:
    """Make an id for a request.

    It is known before the request is submitted: whatever interrupts the caller from then on, it
    can cancel.
    """
    return next(_request_ids)


class Event(NamedTuple):
    """A token that the engine made."""

    token_id: int
    finish_reason: FinishReason | None
    logprob: float
    top_logprobs: list[tuple[int, float]]
    cached_tokens: int  # of the prompt, that did not have to be computed
    time_s: float  # on the clock of time.perf_counter()


# Request id, and its next token or why there will be none; None is for who waits to look again.
Letter: TypeAlias = tuple[int, Event | BaseException | None]


class WaitedForError(RuntimeError):
    """Another task waits for the same request; nothing has been lost."""


class Mailbox:
    """Where one consumer, a thread or an asyncio task, takes the events of its requests."""

    def __init__(self) -> None:
        self._letters: SimpleQueue[Letter] = SimpleQueue()
        self._waiter: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None

    def put(self, letter: Letter) -> None:
        """Deliver, and wake the consumer; waits for nothing."""
        self._letters.put(letter)
        # A task looks into the queue once more after it has put itself here.
        waiter = self._waiter
        if waiter is not None:
            loop, future = waiter
            # A closed loop has nobody left to wake.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_wake, future)

    def get(self, timeout: float | None = None) -> Letter:
        """Wait in a thread; raises queue.Empty after `timeout` seconds."""
        return self._letters.get(timeout=timeout)

    async def get_async(self) -> Letter:
        """Wait in a task."""
        import asyncio

        await asyncio.sleep(0)  # other tasks have their turn even if there is always a letter
        loop = asyncio.get_running_loop()
        while self._letters.empty():
            if self._waiter is not None and not self._waiter[0].is_closed():
                raise WaitedForError("another task is waiting for this request already")
            future = loop.create_future()
            self._waiter = loop, future
            try:
                if self._letters.empty():
                    await future
            finally:
                self._waiter = None
        return self._letters.get_nowait()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class _Scoring(NamedTuple):
    """A sequence whose logits are wanted."""

    request: int
    answer: SimpleQueue[npt.NDArray[np.float32] | BaseException]
    tokens: npt.NDArray[np.int32]
    positions: npt.NDArray[np.int32]
    chunk_tokens: int


class EngineLoop:
    """Steps an engine in a thread of its own while there is something to do.

    All methods may be called from any thread. Only that thread computes: a KeyboardInterrupt,
    which Python raises in the main thread, never loses a step's tokens, and several callers share
    the engine without waiting for each other.

    Whoever makes one sees to it that it is closed, and then starts it: the thread keeps it, and so
    an interrupt between the two must not find a thread that nobody will ever stop.
    """

    def __init__(self, engine: _core.Engine) -> None:
        self._engine: _core.Engine | None = engine
        self._pid = os.getpid()
        # Guards what follows. The main thread may be interrupted wherever it runs Python code, so
        # it must not use what is written in Python, like Condition and Future: it could stop with
        # a lock in hand. Reentrant, because the garbage collector may call cancel() anywhere.
        self._lock = threading.RLock()
        self._closed = False
        self._mailboxes: dict[int, Mailbox] = {}  # of the requests that are not finished
        self._scoring: dict[int, _Scoring] = {}  # in order; the first one may be under way
        self._bell: SimpleQueue[None] = SimpleQueue()  # wakes the thread
        # A daemon, lest a forgotten request keeps the process from ending.
        self._thread = threading.Thread(
            target=self._run, args=(engine,), name="gptoss engine", daemon=True
        )

    def start(self) -> None:
        """Start the thread; BackendError if the system has none to give."""
        try:
            self._thread.start()
        except RuntimeError as error:
            raise BackendError(f"cannot start the engine's thread: {error}") from error

    def check_request(self, prompt: npt.NDArray[np.int32], params: Any) -> None:
        """Raise the ValueError that `submit` would."""
        self.check_usable().check_request(prompt, params)

    def submit(
        self, request: int, prompt: npt.NDArray[np.int32], params: Any, mailbox: Mailbox
    ) -> None:
        """Queue a request under an id from `new_request`; its events go to `mailbox`.

        Raises
        ------
        ValueError
            The engine refuses the prompt or the parameters.
        """
        self.check_usable()
        with self._lock:
            self.check_usable().submit(request, prompt, params)
            self._mailboxes[request] = mailbox
        self._bell.put(None)

    def logits(
        self, tokens: npt.NDArray[np.int32], positions: npt.NDArray[np.int32], chunk_tokens: int
    ) -> npt.NDArray[np.float32]:
        """Compute the logits of one sequence, between two steps; positions are ascending."""
        self.check_usable()
        scoring = _Scoring(new_request(), SimpleQueue(), tokens, positions, chunk_tokens)
        try:
            with self._lock:
                self.check_usable()
                self._scoring[scoring.request] = scoring
            self._bell.put(None)
            answer = scoring.answer.get()
        finally:
            self.cancel(scoring.request)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def cancel(self, *requests: int) -> None:
        """End requests; finished ones and unknown ones are ignored."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            for request in requests:
                self._mailboxes.pop(request, None)
                self._scoring.pop(request, None)
                if self._engine is not None:
                    self._engine.cancel(request)
        self._bell.put(None)  # for a step that lets go of their memory

    def stats(self) -> EngineStats:
        """Return the engine's counters."""
        stats = self.check_usable().stats()
        full, window = PageStats(**stats.pop("full_pages")), PageStats(**stats.pop("window_pages"))
        return EngineStats(full_pages=full, window_pages=window, **stats)

    def close(self) -> None:
        """End all requests and the thread, and let go of the engine."""
        if os.getpid() != self._pid:
            return  # the thread does not exist here, and the locks may be held for ever
        with self._lock:
            self._closed = True
            if self._engine is not None:
                self._fail(self._engine, _closed_error())
                for scoring in list(self._scoring.values()):
                    self._engine.cancel(scoring.request)
                    scoring.answer.put(_closed_error())
                self._scoring.clear()
        self._bell.put(None)
        # The garbage collector may run this in any thread, in ours too.
        if self._thread is not threading.current_thread() and self._thread.is_alive():
            self._thread.join()
        self._engine = None

    def check_process(self) -> None:
        """Raise BackendError in a forked process, where nobody would ever answer."""
        if os.getpid() != self._pid:
            raise BackendError(
                f"this process was forked from process {self._pid}, whose threads did not come "
                "along: load the model in the process that uses it"
            )

    def check_usable(self) -> _core.Engine:
        """Return the engine, or raise if it is closed or belongs to another process."""
        self.check_process()
        if self._closed or self._engine is None:
            raise _closed_error()
        return self._engine

    def _run(self, engine: _core.Engine) -> None:
        while not self._closed:
            if engine.idle() and not self._scoring:
                self._bell.get()  # whoever changes that, or closes, rings afterwards
                continue
            while not self._bell.empty():
                self._bell.get()
            try:
                self._step(engine)
            except BaseException as error:  # whatever it is, nobody must wait for ever
                with self._lock:
                    self._fail(engine, error)
            self._score(engine)

    def _step(self, engine: _core.Engine) -> None:
        events = engine.step()
        now = time.perf_counter()
        with self._lock:
            for request, token_id, finish_reason, logprob, top, cached in events:
                mailbox = self._mailboxes.get(request)
                if mailbox is None:
                    continue
                if finish_reason is not None:
                    del self._mailboxes[request]
                event = Event(token_id, finish_reason, logprob, top, cached, now)
                mailbox.put((request, event))

    def _score(self, engine: _core.Engine) -> None:
        with self._lock:
            scoring = next(iter(self._scoring.values()), None)
        if scoring is None:
            return
        request, _, tokens, positions, chunk_tokens = scoring
        answer: npt.NDArray[np.float32] | BaseException | None
        try:
            answer = engine.logits(request, tokens, positions, chunk_tokens)
        except BaseException as error:
            answer = error
        with self._lock:
            # Unless it was cancelled, by the caller or by close().
            if self._scoring.pop(request, None) is not None and answer is not None:
                scoring.answer.put(answer)

    def _fail(self, engine: _core.Engine, error: BaseException) -> None:
        """End all requests: a step that failed may have lost tokens of any of them."""
        for request, mailbox in list(self._mailboxes.items()):
            engine.cancel(request)
            mailbox.put((request, error))
        self._mailboxes.clear()


def _closed_error() -> RuntimeError:
    return RuntimeError("the model is closed")
