"""Pages of the KV cache in a folder: private, checksummed, bounded in bytes.

Nothing that is read is trusted: a page counts if its size, its owner and its checksum are right,
and is removed otherwise. Nothing that is written is waited for: a file gets its name when it is
whole, and one that a crash cuts off has a wrong checksum. So a folder may be shared by processes,
and be lost or cleared at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gptoss import _private

_MAGIC = b"gptoss kv page 1"
_DIGEST_BYTES = 32
# Magic, SHA-256 of name and contents, zeros: contents begin at a multiple of a cache line.
HEADER_BYTES = 64

_NAME = re.compile(r"[0-9a-f]{40}-\d+\.kv")
_UNFINISHED = re.compile(r"\.\d+-\d+\.kv\.part")
# A process that was killed leaves one behind. Writing one takes milliseconds.
_UNFINISHED_AGE_S = 60.0

# Files are counted again after a share of 1/32 of the limit has been written, and evicted where
# they take more than 28/32 of it: so up to four processes that write at the same time keep to it.
_SHARES = 32
_HIGH_SHARES, _LOW_SHARES = 28, 27


class _Entry(NamedTuple):
    last_use_ns: int
    size_bytes: int
    name: str


class PageFiles:
    """A folder of pages; one process may have several, and several processes one.

    Reading and writing are independent of each other; each is for one thread at a time.

    Parameters
    ----------
    folder : str or path
        Made, with mode 0700, if it is not there.
    max_bytes : int
        Most bytes of all pages in it, of whatever model.

    Raises
    ------
    PermissionError
        The folder is another user's, or others may write into it.
    OSError
        It cannot be made, or is not a folder.
    """

    def __init__(self, folder: str | os.PathLike[str], max_bytes: int) -> None:
        self.folder = Path(folder).absolute()
        self.max_bytes = max_bytes
        self._unfinished_names = (f".{os.getpid()}-{n}.kv.part" for n in itertools.count())
        self._uncounted_bytes: int | None = None  # written since files were counted; None: never
        self._make_folder()
        self._check_folder()

    def _make_folder(self) -> None:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            self.folder.mkdir(mode=0o700)

    def _check_folder(self) -> None:
        status = self.folder.stat()
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(f"{self.folder}: expected a folder for the prefix cache")
        user, mode = _private.user(), stat.S_IMODE(status.st_mode)
        if user is None:
            return
        if status.st_uid != user:
            raise PermissionError(
                f"{self.folder}: expected a folder of this user ({user}) for the prefix cache, "
                f"found one of user {status.st_uid}"
            )
        if mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(
                f"{self.folder}: expected a folder for the prefix cache that no other user may "
                f"write into, found mode {mode:04o}: chmod 700 it"
            )

    def read(self, name: str, size_bytes: int) -> npt.NDArray[np.uint8] | None:
        """Return the contents of a page, or None; what is damaged is removed."""
        path = self.folder / name
        # A pipe in its place would block.
        flags = _private.flags("O_RDONLY", "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC")
        try:
            descriptor = os.open(path, flags)
        except FileNotFoundError:
            return None
        except OSError:
            contents = None
        else:
            try:
                contents = _read(descriptor, name, size_bytes)
            except OSError:  # the disk fails: as if it were damaged
                contents = None
            finally:
                os.close(descriptor)
        if contents is None:
            with contextlib.suppress(OSError):
                path.unlink()
        return contents

    def has(self, name: str, size_bytes: int) -> bool:
        """Whether there is a page of that name and size; the rest is seen when it is read.

        One that a crash has cut off is removed.
        """
        path = self.folder / name
        try:
            size = path.lstat().st_size
        except OSError:
            return False
        if size == HEADER_BYTES + size_bytes:
            return True
        with contextlib.suppress(OSError):
            path.unlink()
        return False

    def touch(self, name: str, size_bytes: int, time_ns: int) -> bool:
        """Note that a page was used then; returns whether there is one, as `has` does."""
        if not self.has(name, size_bytes):
            return False
        with contextlib.suppress(OSError):  # a folder that can only be read
            follow = os.utime not in os.supports_follow_symlinks
            os.utime(self.folder / name, ns=(time_ns, time_ns), follow_symlinks=follow)
        return True

    def write(self, name: str, contents: npt.NDArray[np.uint8], time_ns: int) -> None:
        """Keep a page; others are evicted for it, the least recently used first.

        Raises
        ------
        OSError
            It cannot be written.
        """
        self._make_room(HEADER_BYTES + contents.nbytes)
        try:
            self._write(name, contents, time_ns)
        except FileNotFoundError:  # somebody has cleared the folder, and the folder with it
            self._make_folder()
            self._check_folder()
            self._write(name, contents, time_ns)

    def _write(self, name: str, contents: npt.NDArray[np.uint8], time_ns: int) -> None:
        unfinished = self.folder / next(self._unfinished_names)
        flags = _private.flags("O_WRONLY", "O_CREAT", "O_EXCL", "O_NOFOLLOW", "O_CLOEXEC")
        try:
            with os.fdopen(os.open(unfinished, flags, 0o600), "wb", buffering=0) as file:
                for part in (_header(name, contents), contents.data):
                    left = memoryview(part)
                    while left:
                        left = left[file.write(left) :]
            os.utime(unfinished, ns=(time_ns, time_ns))
            try:
                unfinished.replace(self.folder / name)
            except PermissionError:  # Windows: another process reads that page, which is the same
                if not self.has(name, contents.nbytes):
                    raise
                unfinished.unlink()
        except BaseException:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise

    def _make_room(self, size_bytes: int) -> None:
        share = self.max_bytes // _SHARES
        if self._uncounted_bytes is not None and self._uncounted_bytes + size_bytes <= share:
            self._uncounted_bytes += size_bytes
            return
        entries = sorted(self._entries())
        total = sum(entry.size_bytes for entry in entries)
        if total > share * _HIGH_SHARES:
            for entry in entries:
                if total <= share * _LOW_SHARES:
                    break
                # Another process was first, or (Windows) is reading it.
                with contextlib.suppress(FileNotFoundError, PermissionError):
                    (self.folder / entry.name).unlink()
                total -= entry.size_bytes
        self._uncounted_bytes = size_bytes

    def _entries(self) -> Iterator[_Entry]:
        """All pages; forgotten unfinished ones are removed."""
        try:
            found = os.scandir(self.folder)
        except FileNotFoundError:
            return
        with found:
            for file in found:
                is_unfinished = _UNFINISHED.fullmatch(file.name) is not None
                if not is_unfinished and _NAME.fullmatch(file.name) is None:
                    continue  # not ours
                try:
                    status = file.stat(follow_symlinks=False)
                    if is_unfinished and time.time() - status.st_mtime > _UNFINISHED_AGE_S:
                        Path(file.path).unlink()
                        continue
                except (FileNotFoundError, PermissionError):
                    # Another process has removed it, or (Windows) has it open.
                    continue
                yield _Entry(status.st_mtime_ns, status.st_size, file.name)


def _read(descriptor: int, name: str, size_bytes: int) -> npt.NDArray[np.uint8] | None:
    status = os.fstat(descriptor)
    if not _private.is_own_file(status) or status.st_size != HEADER_BYTES + size_bytes:
        return None
    header, contents = bytearray(HEADER_BYTES), np.empty(size_bytes, np.uint8)
    with open(descriptor, "rb", buffering=0, closefd=False) as file:
        if file.readinto(header) != HEADER_BYTES or file.readinto(contents.data) != size_bytes:
            return None
    return contents if header == _header(name, contents) else None


def _header(name: str, contents: npt.NDArray[np.uint8]) -> bytes:
    digest = hashlib.sha256(name.encode())
    digest.update(contents.data)
    return (_MAGIC + digest.digest()).ljust(HEADER_BYTES, b"\0")


class PageNames:
    """Names of a text's pages: each depends on all tokens up to the page's end.

    Parameters
    ----------
    identity : bytes
        Of everything beside the text that the bits of a page depend on.
    tokens : numpy.ndarray
        (n,) int32: the text.
    salt : int
        Pages of different salts have different names.
    page_tokens : int
        Tokens of a page.
    """

    def __init__(
        self, identity: bytes, tokens: npt.NDArray[np.int32], salt: int, page_tokens: int
    ) -> None:
        chain: Any = hashlib.sha256(b"gptoss prefix 1" + identity + salt.to_bytes(8, "little"))
        self._keys: list[str] = []
        for begin in range(0, len(tokens) - page_tokens + 1, page_tokens):
            page = tokens[begin : begin + page_tokens].astype("<i4", copy=False)
            chain = hashlib.sha256(chain.digest() + page.tobytes())
            self._keys.append(chain.hexdigest()[:40])

    def __len__(self) -> int:
        """Return the number of complete pages."""
        return len(self._keys)

    def of(self, page: int, group: int) -> str:
        """Return the name of a page of a KV group."""
        return f"{self._keys[page]}-{group}.kv"
