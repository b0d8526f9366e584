"""The thread that runs the engine, for all who use a model at the same time."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from gptoss import _core
from gptoss._threads import thread_errors
from gptoss.engine.constraints import Constraint, Hub
from gptoss.engine.outputs import EngineStats, PageStats
from gptoss.engine.page_store import PageStore
from gptoss.errors import BackendError

if TYPE_CHECKING:
    import asyncio  # imported where it is used: most programs do without

_sequence_ids = itertools.count(1)
_adapter_numbers = itertools.count(1)

# What is computed and not yet written when a model is closed: a gigabyte to a slow disk.
_FINISH_S = 30.0

# Windows wakes no waiting thread for Ctrl-C: it waits so long at a time. None is for ever.
_MAX_WAIT_S: float | None = 0.1 if sys.platform == "win32" else None


def new_sequence() -> int:
    """Make an id for a sequence.

    It is known before the sequence is submitted: whatever interrupts the caller from then on, it
    can cancel.
    """
    return next(_sequence_ids)


class Delivery(NamedTuple):
    """What one step made for one consumer."""

    events: list[_core.Event]
    time_s: float  # on the clock of time.perf_counter()
    errors: dict[int, BaseException]  # of sequences whose last event says "error"


class LoadedAdapter(NamedTuple):
    """An adapter that the engine has; without one, the model as it is.

    Attributes
    ----------
    number : int
        The engine's name for it; 0 is none.
    digest : bytes
        Of all that its results depend on.
    """

    number: int = 0
    digest: bytes = b""


# By role (csrc/model/adapter.h), the two factors of a change.
AdapterChanges: TypeAlias = Mapping[str, "tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]"]

# A step's news, or why there will be no more; None is for who waits to look again.
Letter: TypeAlias = Delivery | BaseException | None
# A task that waits for a letter.
_Waiter: TypeAlias = "tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]"


class Mailbox:
    """Where one consumer, a thread or an asyncio task, takes the events of its sequences."""

    def __init__(self) -> None:
        self._letters: SimpleQueue[Letter] = SimpleQueue()
        self._waiter: _Waiter | None = None

    def put(self, letter: Letter) -> None:
        """Deliver, and wake the consumer; waits for nothing."""
        waiter = self.deliver(letter)
        if waiter is not None:
            _wake(waiter[0], [waiter[1]])

    def deliver(self, letter: Letter) -> _Waiter | None:
        """Deliver, and return the task that is still to be woken; a thread wakes by itself."""
        self._letters.put(letter)
        # A task looks into the queue once more after it has put itself here.
        waiter = self._waiter
        return None if waiter is None or waiter[1].done() else waiter

    def get(self, timeout: float | None = None) -> Letter:
        """Wait in a thread; raises queue.Empty after `timeout` seconds."""
        if _MAX_WAIT_S is None:
            return self._letters.get(timeout=timeout)
        end_s = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            left_s = max(0.0, end_s - time.monotonic())
            try:
                return self._letters.get(timeout=min(left_s, _MAX_WAIT_S))
            except Empty:
                if time.monotonic() >= end_s:
                    raise

    async def get_async(self) -> Letter:
        """Wait in a task; the caller sees to it that it is the only one."""
        import asyncio

        if not self._letters.empty():
            await asyncio.sleep(0)  # other tasks have their turn even if there is always a letter
        loop = asyncio.get_running_loop()
        while self._letters.empty():
            waiter = self._waiter = loop, loop.create_future()
            try:
                if self._letters.empty():
                    await waiter[1]
            finally:
                if self._waiter is waiter:  # not that of a task after this one
                    self._waiter = None
        return self._letters.get_nowait()


def _wake(loop: asyncio.AbstractEventLoop, futures: list[asyncio.Future[None]]) -> None:
    # A closed loop has nobody left to wake.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(_set_done, futures)


def _set_done(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


class EngineLoop:
    """Steps an engine in a thread of its own while there is something to do.

    All methods may be called from any thread. Only that thread computes: a KeyboardInterrupt,
    which Python raises in the main thread, never loses a step's tokens, and several callers share
    the engine without waiting for each other. The thread begins with the first sequence: until
    then whoever makes an EngineLoop may be interrupted and forget it.
    """

    def __init__(self, engine: _core.Engine, store: PageStore | None = None) -> None:
        self._engine: _core.Engine | None = engine
        self._store = store
        self._pid = os.getpid()
        self.context_length = engine.context_length
        self.max_step_tokens = engine.max_step_tokens
        self.max_sequences = engine.max_sequences
        self._hub = Hub()
        engine.set_constraints(self._hub)
        # Guards what follows. The main thread may be interrupted wherever it runs Python code, so
        # it must not use what is written in Python, like Condition and Future: it could stop with
        # a lock in hand. Reentrant, because the garbage collector may call cancel() anywhere.
        self._lock = threading.RLock()
        self._closed = False
        self._mailboxes: dict[int, Mailbox] = {}  # of the sequences that are not finished
        self._adapters: dict[str, LoadedAdapter | None] = {}  # None: it is being loaded
        self._bell: SimpleQueue[None] = SimpleQueue()  # wakes the thread
        self._thread: threading.Thread | None = None
        self._has_thread = threading.Lock()  # taken by the thread, for good
        if store is not None:
            store.attach(engine, functools.partial(self._bell.put, None))

    def check_request(self, prompt: npt.NDArray[np.int32], params: _core.RequestParams) -> None:
        """Raise the ValueError that `submit` would."""
        self.check_usable().check_request(prompt, params)

    def submit(
        self,
        sequence: int,
        prompt: npt.NDArray[np.int32],
        params: _core.RequestParams,
        seed: int,
        mailbox: Mailbox,
        constraint: Constraint | None = None,
    ) -> None:
        """Queue a sequence under an id from `new_sequence`; its events go to `mailbox`.

        Whatever this raises, the caller cancels the sequence.

        Raises
        ------
        ValueError
            The engine refuses the prompt or the parameters, or the constraint is in use.
        """

        store = self._store
        stored = 0 if store is None else store.stored_pages(prompt, params.salt)

        def submit(engine: _core.Engine) -> None:
            if constraint is not None:
                self._hub.add(sequence, constraint)
            engine.submit(sequence, prompt, params, seed, constraint is not None, stored)

        self._submit(sequence, submit, mailbox)

    def read(self, submit: Callable[[_core.Engine, int], None]) -> None:
        """Have a text read instead of continued, and wait: `submit` gets the id of its sequence."""
        sequence, mailbox = new_sequence(), Mailbox()
        try:
            self._submit(sequence, lambda engine: submit(engine, sequence), mailbox)
            letter = mailbox.get()
        finally:
            self.cancel(sequence)
        if isinstance(letter, BaseException):
            raise letter
        assert letter is not None
        for error in letter.errors.values():
            raise error

    def load_adapter(self, name: str, changes: AdapterChanges, digest: bytes) -> None:
        """Give the engine an adapter.

        Raises
        ------
        ValueError
            There is one of this name, or a change does not fit the model.
        BackendError
            The device has no adapters, or no room for it.
        """
        engine = self.check_usable()
        with self._lock:
            if name in self._adapters:
                raise ValueError(f"there is an adapter named {name!r} already: unload it first")
            self._adapters[name] = None
        number, sequence, mailbox = next(_adapter_numbers), new_sequence(), Mailbox()
        try:
            self._submit(
                sequence,
                lambda engine: engine.add_adapter(sequence, number, dict(changes)),
                mailbox,
            )
            letter = mailbox.get()
            if isinstance(letter, BaseException):
                raise letter
            assert letter is not None
            for error in letter.errors.values():
                raise error
            self._adapters[name] = LoadedAdapter(number, digest)
        except BaseException:
            with self._lock:
                self._adapters.pop(name, None)
            self.cancel(sequence)
            engine.remove_adapter(number)
            self._bell.put(None)
            raise

    def unload_adapter(self, name: str) -> None:
        """Take an adapter from the engine; ValueError if there is none of this name.

        Requests that have it go on with it.
        """
        engine = self.check_usable()
        with self._lock:
            number = self.adapter(name).number
            del self._adapters[name]
            engine.remove_adapter(number)
        self._bell.put(None)

    def adapter(self, name: str | None) -> LoadedAdapter:
        """Return the adapter of a name, or what stands for none; ValueError if there is none."""
        if name is None:
            return LoadedAdapter()
        found = self._adapters.get(name)
        if found is None:
            names = ", ".join(map(repr, self.adapter_names)) or "none"
            raise ValueError(f"there is no adapter named {name!r:.100}: loaded are {names}")
        return found

    @property
    def adapter_names(self) -> tuple[str, ...]:
        """The names of the adapters that requests may have."""
        return tuple(name for name, found in self._adapters.copy().items() if found is not None)

    def cancel(self, *sequences: int) -> None:
        """End sequences; finished ones and unknown ones are ignored."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            for sequence in sequences:
                self._mailboxes.pop(sequence, None)
                self._hub.remove(sequence)
                if self._engine is not None:
                    self._engine.cancel(sequence)
        self._bell.put(None)  # for a step that lets go of their memory

    def stats(self) -> EngineStats:
        """Return the engine's counters."""
        stats = self.check_usable().stats()
        full, window = PageStats(**stats.pop("full_pages")), PageStats(**stats.pop("window_pages"))
        if self._store is not None:
            stats["read_pages"] = self._store.read_pages
            stats["written_pages"] = self._store.written_pages
        return EngineStats(full_pages=full, window_pages=window, **stats)

    def close(self) -> None:
        """End all sequences and the thread, and let go of the engine; may be called again.

        Pages that are to be written are, within half a minute.
        """
        if os.getpid() != self._pid:
            return  # the thread does not exist here, and the locks may be held for ever
        with self._lock:
            self._closed = True
            if self._engine is not None:
                self._fail(self._engine, _closed_error())
        self._bell.put(None)
        # The garbage collector may run this in any thread, in ours too.
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        if self._store is not None:
            self._store.close()
        self._engine = None

    def check_usable(self) -> _core.Engine:
        """Return the engine, or raise if it is closed or belongs to another process."""
        self.check_process()
        if self._closed or self._engine is None:
            raise _closed_error()
        return self._engine

    def check_process(self) -> None:
        """Raise if the engine belongs to another process: nothing will come from it."""
        if os.getpid() != self._pid:
            raise BackendError(
                f"this process was forked from process {self._pid}, whose threads did not come "
                "along: load the model in the process that uses it"
            )

    def _submit(
        self, sequence: int, submit: Callable[[_core.Engine], None], mailbox: Mailbox
    ) -> None:
        self.check_usable()  # before the lock, which another process may hold for ever
        with self._lock:
            engine = self.check_usable()
            if not self._has_thread.locked():
                # Interrupted, this may leave a thread that has not taken its lock yet: then there
                # is another one next time, and one of them finds the lock taken and ends. A
                # daemon, lest a forgotten request keeps the process from ending.
                thread = threading.Thread(
                    target=self._run, args=(engine,), name="gptoss engine", daemon=True
                )
                with thread_errors("the engine's thread"):
                    thread.start()
            submit(engine)
            self._mailboxes[sequence] = mailbox
        self._bell.put(None)

    def _run(self, engine: _core.Engine) -> None:
        if not self._has_thread.acquire(blocking=False):
            return
        self._thread = threading.current_thread()
        while not self._closed:
            if engine.idle():
                self._bell.get()  # whoever changes that, or closes, rings afterwards
                continue
            while not self._bell.empty():
                self._bell.get()
            try:
                self._deliver(engine.step())
            except BaseException as error:  # whatever it is, nobody must wait for ever
                with self._lock:
                    self._fail(engine, error)
        if self._store is not None:
            self._finish(engine, self._store)
        del engine  # an error that somebody keeps has this frame in its traceback

    def _finish(self, engine: _core.Engine, store: PageStore) -> None:
        """Give the store what it lacks of the sequences that have ended, the last ones included."""
        end_s = time.monotonic() + _FINISH_S
        is_told = False
        with contextlib.suppress(Exception):  # of an engine that has failed before
            while not store.is_finished and time.monotonic() < end_s:
                if not engine.idle():
                    engine.step()
                elif not is_told:
                    is_told = True
                    store.finish()
                else:
                    with contextlib.suppress(Empty):
                        self._bell.get(timeout=end_s - time.monotonic())

    def _deliver(self, events: list[_core.Event]) -> None:
        """Send each consumer one letter, and wake each event loop once."""
        time_s = time.perf_counter()
        letters: dict[Mailbox, Delivery] = {}
        ended: list[int] = []
        asleep: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
        with self._lock:
            for event in events:
                sequence = event.request
                mailbox = self._mailboxes.get(sequence)
                if mailbox is None:
                    continue  # cancelled
                letter = letters.get(mailbox)
                if letter is None:
                    letter = letters[mailbox] = Delivery([], time_s, {})
                letter.events.append(event)
                reason = event.finish_reason
                if reason is not None:
                    ended.append(sequence)
                    own = self._hub.remove(sequence)
                    if reason == "error":
                        letter.errors[sequence] = BackendError(event.error) if own is None else own
            for mailbox, letter in letters.items():
                waiter = mailbox.deliver(letter)
                if waiter is not None:
                    asleep.setdefault(waiter[0], []).append(waiter[1])
            for sequence in ended:
                self._mailboxes.pop(sequence, None)
        for loop, futures in asleep.items():
            _wake(loop, futures)

    def _fail(self, engine: _core.Engine, error: BaseException) -> None:
        """End all sequences: a step that failed may have lost tokens of any of them."""
        mailboxes = set(self._mailboxes.values())
        for sequence in list(self._mailboxes):
            engine.cancel(sequence)
            self._hub.remove(sequence)
        self._mailboxes.clear()
        for mailbox in mailboxes:
            mailbox.put(error)


def _closed_error() -> RuntimeError:
    return RuntimeError("the model is closed")
