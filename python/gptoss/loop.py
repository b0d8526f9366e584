"""The thread that runs the engine, for all who use a model at the same time."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import deque
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from gptoss import _core
from gptoss.errors import BackendError
from gptoss.outputs import FinishReason

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
    time_s: float  # on the clock of time.perf_counter()


# Request id, and its next token or why there will be none.
Mailbox: TypeAlias = "SimpleQueue[tuple[int, Event | BaseException]]"


class _Scoring(NamedTuple):
    """A sequence whose logits are wanted."""

    request: int
    future: Future[npt.NDArray[np.float32]]
    tokens: npt.NDArray[np.int32]
    positions: npt.NDArray[np.int32]
    chunk_tokens: int


class EngineLoop:
    """Steps an engine in a thread of its own while there is something to do.

    All methods may be called from any thread. Only that thread computes: a KeyboardInterrupt,
    which Python raises in the main thread, never loses a step's tokens, and several callers share
    the engine without waiting for each other.
    """

    def __init__(self, engine: _core.Engine) -> None:
        self._engine: _core.Engine | None = engine
        self._pid = os.getpid()
        self._changed = threading.Condition()  # guards all that follows
        self._thread: threading.Thread | None = None
        self._closed = False
        self._mailboxes: dict[int, Mailbox] = {}  # of the requests that are not finished
        self._scoring: deque[_Scoring] = deque()  # the first one may be under way

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
        with self._changed:
            self._start().submit(request, prompt, params)
            self._mailboxes[request] = mailbox
            self._changed.notify_all()

    def logits(
        self, tokens: npt.NDArray[np.int32], positions: npt.NDArray[np.int32], chunk_tokens: int
    ) -> npt.NDArray[np.float32]:
        """Compute the logits of one sequence, between two steps; positions are ascending."""
        self.check_usable()
        scoring = _Scoring(new_request(), Future(), tokens, positions, chunk_tokens)
        try:
            with self._changed:
                self._start()
                self._scoring.append(scoring)
                self._changed.notify_all()
            return scoring.future.result()
        finally:
            scoring.future.cancel()
            self.cancel(scoring.request)

    def cancel(self, *requests: int) -> None:
        """End requests; finished ones and unknown ones are ignored."""
        if os.getpid() != self._pid:
            return
        with self._changed:
            for request in requests:
                self._mailboxes.pop(request, None)
                if self._engine is not None:
                    self._engine.cancel(request)
            self._changed.notify_all()  # for a step that lets go of their memory

    def stats(self) -> dict[str, int]:
        """Return the engine's counters."""
        return self.check_usable().stats()

    def close(self) -> None:
        """End all requests and the thread, and let go of the engine."""
        if os.getpid() != self._pid:
            return  # the thread does not exist here, and the locks may be held for ever
        with self._changed:
            self._closed = True
            if self._engine is not None:
                self._fail(self._engine, _closed_error())
                for scoring in self._scoring:
                    self._engine.cancel(scoring.request)
            self._changed.notify_all()
            thread = self._thread
        # The garbage collector may run this in any thread, in ours too.
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        self._engine = None

    def check_usable(self) -> _core.Engine:
        """Return the engine, or raise if it is closed or belongs to another process."""
        if os.getpid() != self._pid:
            raise BackendError(
                f"this process was forked from process {self._pid}, whose threads did not come "
                "along: load the model in the process that uses it"
            )
        if self._closed or self._engine is None:
            raise _closed_error()
        return self._engine

    def _start(self) -> _core.Engine:
        engine = self.check_usable()
        if self._thread is None:
            # A daemon, lest a forgotten request keeps the process from ending.
            self._thread = threading.Thread(
                target=self._run, args=(engine,), name="gptoss engine", daemon=True
            )
            self._thread.start()
        return engine

    def _run(self, engine: _core.Engine) -> None:
        while True:
            with self._changed:
                while not (self._closed or self._scoring) and engine.idle():
                    self._changed.wait()
                if self._closed:
                    for scoring in self._scoring:
                        if scoring.future.set_running_or_notify_cancel():
                            scoring.future.set_exception(_closed_error())
                    return
            try:
                self._step(engine)
            except BaseException as error:  # whatever it is, nobody must wait for ever
                with self._changed:
                    self._fail(engine, error)
            self._score(engine)

    def _step(self, engine: _core.Engine) -> None:
        events = engine.step()
        now = time.perf_counter()
        with self._changed:
            for request, token_id, finish_reason, logprob, top in events:
                mailbox = self._mailboxes.get(request)
                if mailbox is None:
                    continue
                if finish_reason is not None:
                    del self._mailboxes[request]
                mailbox.put((request, Event(token_id, finish_reason, logprob, top, now)))

    def _score(self, engine: _core.Engine) -> None:
        with self._changed:
            if not self._scoring or self._closed:
                return
            _, future, *_ = scoring = self._scoring[0]
            wanted = future.set_running_or_notify_cancel()
        if wanted:
            try:
                request, _, tokens, positions, chunk_tokens = scoring
                logits = engine.logits(request, tokens, positions, chunk_tokens)
                if logits is None:  # cancelled: by close(), or nobody waits for it any more
                    future.set_exception(_closed_error())
                else:
                    future.set_result(logits)
            except BaseException as error:
                future.set_exception(error)
        with self._changed:
            self._scoring.popleft()

    def _fail(self, engine: _core.Engine, error: BaseException) -> None:
        """End all requests: a step that failed may have lost tokens of any of them."""
        for request, mailbox in self._mailboxes.items():
            engine.cancel(request)
            mailbox.put((request, error))
        self._mailboxes.clear()


def _closed_error() -> RuntimeError:
    return RuntimeError("the model is closed")
