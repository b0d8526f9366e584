"""The prefix cache beyond a process: what the engine has computed, kept in files.

Two threads of its own read and write, and never hold up a step. The reader looks for the prompts
that the engine asks about, all of them in turn, a few pages each, and hands over what is there.
The writer is told of finished prompts and asks the engine for those pages that the files lack, as
many at a time as it has room for: what waits is texts, not pages.
"""

from __future__ import annotations

import contextlib
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from gptoss import _core
from gptoss.page_files import HEADER_BYTES, PageFiles, PageNames

_PAGE_TOKENS = 64

# What is read or copied at a time. Bounds how long a step waits for a copy.
_PIECE_BYTES = 16 << 20
# Pieces that the engine has not taken yet: it takes none during a step, which may be seconds long.
_PIECES_AHEAD = 16
# Texts that wait for the writer; of more, the oldest is forgotten.
_MOST_OFFERS = 256
# After a failure nothing is written for so long.
_PAUSE_S = 60.0
# The limit must have room for so many pages, so that it can be kept to.
_LEAST_PAGES = 32

_Ref: TypeAlias = tuple[int, int]  # page of a text, KV group
_Page: TypeAlias = npt.NDArray[np.uint8]
_Found: TypeAlias = tuple[_Ref, _Page]


class _Search(NamedTuple):
    sequence: int
    prompt: npt.NDArray[np.int32]
    salt: int
    first_page: int


class _Offer(NamedTuple):
    tokens: npt.NDArray[np.int32]
    salt: int
    refs: list[_Ref]


class _Lack(NamedTuple):
    """Pages of an offer that the files do not have, with their names."""

    offer: _Offer
    pages: deque[tuple[_Ref, str]]


class PageStore:
    """Keeps complete pages of one engine in files, and finds them again.

    Parameters
    ----------
    files : PageFiles
        Where.
    identity : bytes
        Of everything beside the tokens that the bits of a page depend on.
    page_bytes : sequence of int
        Size of a page, by KV group.
    windows : sequence of int
        Tokens that a token of the group sees, itself included; 0 is all.

    Raises
    ------
    ValueError
        The files' limit is too small for pages of this size.
    """

    def __init__(
        self,
        files: PageFiles,
        identity: bytes,
        page_bytes: Sequence[int],
        windows: Sequence[int],
    ) -> None:
        least = _LEAST_PAGES * (max(page_bytes) + HEADER_BYTES)
        if files.max_bytes < least:
            raise ValueError(
                f"prefix_cache_bytes must be at least {least} for this model, {_LEAST_PAGES} pages "
                f"of {_PAGE_TOKENS} tokens, got {files.max_bytes}"
            )
        self._files = files
        self._identity = identity
        self._page_bytes = page_bytes
        self._windows = windows
        self._piece_pages = max(1, _PIECE_BYTES // max(page_bytes))
        self._engine: _core.Engine | None = None
        self._ring: Callable[[], object] = lambda: None
        self._threads: list[threading.Thread] = []
        self._has_threads = True  # or will have
        self._is_writing = False
        self._has_failed = False  # which is told once
        # How many so far.
        self.read_pages = self.written_pages = 0

        self._searches: SimpleQueue[_Search | None] = SimpleQueue()  # None: no more
        self._credits: SimpleQueue[bool] = SimpleQueue()  # one for each piece; False: no more
        for _ in range(_PIECES_AHEAD):
            self._credits.put(True)

        # Offers; what the engine gives; None: no more.
        self._to_write: SimpleQueue[_Offer | list[_Page | None] | None] = SimpleQueue()
        self._offers: deque[_Offer] = deque(maxlen=_MOST_OFFERS)
        self._lack: _Lack | None = None
        self._asked: list[tuple[_Ref, str]] = []  # of the engine, which has not answered yet
        self._paused_until_s = 0.0

    def attach(self, engine: _core.Engine, ring: Callable[[], object]) -> None:
        """Serve an engine; `ring` wakes the thread that steps it."""
        self._engine = engine
        self._ring = ring
        engine.set_page_store(self)

    def stored_pages(self, prompt: npt.NDArray[np.int32], salt: int) -> int:
        """Return how many pages of a prompt there seem to be, from its first one on.

        Takes a microsecond a page. The least recently used pages are the last ones of a text, and
        go first: so the number is sought by halves.
        """
        names = self._names(prompt, salt)
        has, lacks = 0, len(names) + 1
        while lacks - has > 1:
            middle = (has + lacks) // 2 if has else 1  # most often there is none
            if self._has(names, (middle - 1, 0)):
                has = middle
            else:
                lacks = middle
        return has

    # Called by the engine, in the thread that steps it.

    def find(
        self, sequence: int, prompt: npt.NDArray[np.int32], salt: int, first_page: int
    ) -> None:
        """Look for a prompt's pages from `first_page` on; answers with `Engine.deliver`."""
        if self._start():
            self._searches.put(_Search(sequence, prompt, salt, first_page))
        else:
            self._deliver(sequence, [], is_last=True)

    def taken(self) -> None:
        """Take note that the engine has used a delivery."""
        self._credits.put(True)

    def offer(self, tokens: npt.NDArray[np.int32], salt: int, refs: list[_Ref]) -> None:
        """Take note of pages of a text that the engine has; answers with `Engine.want`."""
        if self._start():
            self._to_write.put(_Offer(tokens, salt, refs))

    def put(self, pages: list[_Page | None]) -> None:
        """Take what was wanted; None is what the engine does not have any more."""
        self._to_write.put(pages)

    # Called by the engine's loop.

    def finish(self) -> None:
        """Have the threads end, the writer when it has written what it knows of."""
        self._to_write.put(None)
        self._searches.put(None)
        self._credits.put(False)

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will be written; `ring` tells when that has come."""
        return not self._is_writing

    def close(self) -> None:
        """Let go of the engine; what is not written is lost."""
        self.finish()
        self._engine = None

    def _start(self) -> bool:
        """Begin with the first thing to do; returns whether the threads run."""
        if not self._threads:
            for name, target in (("reader", self._read), ("writer", self._write)):
                # Daemons: what they have not done is not worth waiting for.
                thread = threading.Thread(target=target, name=f"gptoss prefix {name}", daemon=True)
                self._threads.append(thread)
                try:
                    thread.start()
                except RuntimeError as error:
                    self._has_threads = False
                    self._fail(str(error))
            self._is_writing = self._threads[-1].is_alive()
        return self._has_threads

    def _fail(self, what: str) -> None:
        self._paused_until_s = time.monotonic() + _PAUSE_S
        if self._has_failed:
            return
        self._has_failed = True
        with contextlib.suppress(Warning):  # where warnings are errors
            warnings.warn(
                f"prefix cache {self._files.folder}: {what}; going on without it",
                RuntimeWarning,
                stacklevel=2,
            )

    def _names(self, tokens: npt.NDArray[np.int32], salt: int) -> PageNames:
        return PageNames(self._identity, tokens, salt, _PAGE_TOKENS)

    def _has(self, names: PageNames, ref: _Ref) -> bool:
        return self._files.has(names.of(*ref), self._page_bytes[ref[1]])

    # The reader's thread.

    def _read(self) -> None:
        running: deque[tuple[int, Iterator[list[_Found]]]] = deque()
        while True:
            while not running or not self._searches.empty():
                search = self._searches.get()
                if search is None:
                    return
                running.append((search.sequence, self._search(search)))
            sequence, pieces = running.popleft()
            try:
                piece = next(pieces, None)
            except Exception as error:  # whatever it is, nobody must wait for ever
                self._fail(repr(error))
                piece = None
            if not self._credits.get():
                return
            self._deliver(sequence, piece or [], is_last=piece is None)
            if piece is not None:
                running.append((sequence, pieces))

    def _search(self, search: _Search) -> Iterator[list[_Found]]:
        """Read the pages of the longest beginning of a prompt from which a sequence can go on."""
        names = self._names(search.prompt, search.salt)
        end = search.first_page
        while end < len(names) and self._has(names, (end, 0)):
            end += 1

        def windows_before(end: int) -> list[_Ref]:
            # The last token of a prompt is always computed.
            position = min(end * _PAGE_TOKENS, len(search.prompt) - 1)
            return [
                (page, group)
                for group, window in enumerate(self._windows)
                if window > 0
                for page in range(max(0, position - window + 1) // _PAGE_TOKENS, end)
            ]

        def shortened(end: int) -> int:
            while end > search.first_page and not all(
                self._has(names, ref) for ref in windows_before(end)
            ):
                end -= 1
            return end

        end = shortened(end)
        read = search.first_page
        while read < end:
            refs = [(page, 0) for page in range(read, min(end, read + self._piece_pages))]
            piece = self._read_pages(names, refs)
            yield piece
            read += len(piece)
            if len(piece) < len(refs):
                break
        # A file that was damaged, or has gone: what is before it is still good.
        end = shortened(min(end, read))
        while end > search.first_page:
            refs = windows_before(end)
            piece = self._read_pages(names, refs)
            if len(piece) == len(refs):
                yield piece
                return
            end = shortened(end - 1)

    def _read_pages(self, names: PageNames, refs: list[_Ref]) -> list[_Found]:
        """Read pages up to the first that is not there."""
        found: list[_Found] = []
        for page, group in refs:
            contents = self._files.read(names.of(page, group), self._page_bytes[group])
            if contents is None:
                break
            found.append(((page, group), contents))
        self.read_pages += len(found)
        return found

    def _deliver(self, sequence: int, found: list[_Found], *, is_last: bool) -> None:
        engine = self._engine
        if engine is not None:
            refs, pages = [ref for ref, _ in found], [contents for _, contents in found]
            engine.deliver(sequence, refs, pages, is_last)
            self._ring()

    # The writer's thread.

    def _write(self) -> None:
        is_finishing = False
        try:
            while self._ask() or not is_finishing:
                message = self._to_write.get()
                if message is None:
                    is_finishing = True
                elif isinstance(message, _Offer):
                    self._offers.append(message)
                else:
                    self._keep(message)
        finally:
            self._is_writing = False
            self._ring()

    def _ask(self) -> bool:
        """Ask the engine for the next pages, unless it has yet to answer; False: nothing to do."""
        while not self._asked:
            if time.monotonic() < self._paused_until_s:
                self._lack = None
                self._offers.clear()
            if self._lack is None or not self._lack.pages:
                if not self._offers:
                    return False
                self._lack = self._lack_of(self._offers.popleft())
                continue
            engine = self._engine
            if engine is None:
                return False
            offer, pages = self._lack
            for _ in range(min(len(pages), self._piece_pages)):
                self._asked.append(pages.popleft())
            engine.want(offer.tokens, offer.salt, [ref for ref, _ in self._asked])
            self._ring()
        return True

    def _lack_of(self, offer: _Offer) -> _Lack:
        names, now_ns = self._names(offer.tokens, offer.salt), time.time_ns()
        pages: deque[tuple[_Ref, str]] = deque()
        for ref in offer.refs:
            name = names.of(*ref)
            if not self._files.touch(name, self._page_bytes[ref[1]], _use_ns(now_ns, ref)):
                pages.append((ref, name))
        return _Lack(offer, pages)

    def _keep(self, pages: list[_Page | None]) -> None:
        now_ns = time.time_ns()
        try:
            for (ref, name), contents in zip(self._asked, pages, strict=True):
                if contents is not None:
                    self._files.write(name, contents, _use_ns(now_ns, ref))
                    self.written_pages += 1
        except Exception as error:  # whatever it is, offers must not pile up
            self._fail(str(error) or repr(error))
        self._asked.clear()


def _use_ns(now_ns: int, ref: _Ref) -> int:
    """When a page was used: later ones of a text go first, being no use without the others."""
    return now_ns - 1000 * ref[0]
