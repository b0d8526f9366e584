"""Threads of Python's: what keeps one from starting, and Ctrl-C while one is waited for."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager

from gptoss.errors import BackendError

_THREAD_BYTES = 4 << 20  # Python's for a thread that begins: an arena of its objects, and frames


@contextmanager
def keep_interrupts() -> Iterator[None]:
    """Wait for threads in this block; a KeyboardInterrupt leaves it as one.

    `threading.Condition.wait`, on which events, futures and `Thread.start` are built, makes
    "RuntimeError: release unlocked lock" of one that comes while it takes its lock again.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise


@contextmanager
def thread_errors(what: str) -> Iterator[None]:
    """Start a thread in this block; what keeps it from starting becomes a BackendError.

    Without memory for its first frame a thread of Python's never tells that it has begun, and
    `Thread.start` waits for that for ever: see first that there is some.
    """
    try:
        mmap.mmap(-1, _THREAD_BYTES).close()
        with keep_interrupts():
            yield
    except (OSError, RuntimeError) as error:
        raise BackendError(f"cannot start {what}: {error}") from error
