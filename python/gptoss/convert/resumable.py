"""Large files, written so that an interruption loses nothing and nobody sees half of them.

They are written into a folder beside the place where they will be, whose name ends in ".partial",
with a journal of how far each has come. The same call goes on from there.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_JOURNAL = "convert.json"
_LOCK = "convert.lock"
# How much is written before it is made to last and noted: some seconds of work.
_SYNC_BYTES = 1 << 28


@dataclass(frozen=True)
class Unit:
    """Bytes of a file that are made together, in pieces."""

    nbytes: int
    pieces: Callable[[], Iterator[npt.NDArray[Any]]]


@dataclass(frozen=True)
class OutputFile:
    """A file: what it begins with, then its units, one after the other."""

    name: str
    header: bytes
    units: Sequence[Unit]

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return len(self.header) + sum(unit.nbytes for unit in self.units)


def partial_folder(out: Path) -> Path:
    """Where what will be `out` is written."""
    return out.with_name(out.name + ".partial")


@contextmanager
def partial(out: Path, fingerprint: str) -> Iterator[Path]:
    """Make or take up the folder beside `out`, and hold it.

    Raises
    ------
    OSError
        It cannot be made, or another process holds it.
    ValueError
        Something else was being written there.
    """
    folder = partial_folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    with _held(folder):
        journal = _read_journal(folder)
        if journal.get("of", fingerprint) != fingerprint:
            raise ValueError(
                f"{folder}: expected what an interrupted run of the same command left, found that "
                "of another model or of other options: delete the folder, or choose another OUT"
            )
        _write_journal(folder, {"of": fingerprint, "done": journal.get("done", {})})
        yield folder


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Keep other processes out."""
    path = folder / _LOCK
    if sys.platform == "win32":  # where a folder with an open file cannot be renamed
        path = folder.with_name(folder.name + ".lock")
    try:
        with path.open("a") as lock:
            if not _try_lock(lock.fileno()):
                raise OSError(errno.EBUSY, f"{folder}: another process is writing there")
            try:
                yield
            finally:
                _unlock(lock.fileno())  # Windows does it some time after the file is closed
    finally:
        if sys.platform == "win32":
            with suppress(OSError):  # another process has it, or takes the folder up
                path.unlink()


def _try_lock(descriptor: int) -> bool:
    """Lock a file; returns whether it was free."""
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # Windows says EACCES of a file that is locked, Wine nothing.
        held = {errno.EACCES, 0} if sys.platform == "win32" else {errno.EAGAIN}
        if error.errno in held:
            return False
        raise
    return True


def _unlock(descriptor: int) -> None:
    if sys.platform == "win32":
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def write_files(folder: Path, files: Sequence[OutputFile], on_bytes: Callable[[int], None]) -> None:
    """Write the files into a folder of `partial`, going on where it was left.

    Parameters
    ----------
    folder : Path
        As `partial` gave it.
    files : sequence of OutputFile
        The same as before, if anything is there.
    on_bytes : callable
        Called with every number of bytes that are there.

    Raises
    ------
    OSError
        A file cannot be written; what is there stays.
    """
    try:
        for file in files:
            _write_file(folder, file, on_bytes)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(
                error.errno,
                f"{folder}: the disk is full; what is written is kept: make room, and run the same "
                "command again",
            ) from error
        raise


def finish(folder: Path, out: Path, only: str | None = None) -> None:
    """Put what was written in its place: the folder, or the one file of it.

    Raises
    ------
    OSError
        It cannot be put there; what is written stays, and the same call goes on from there.
    """
    if only is not None:
        (folder / only).replace(out)
        shutil.rmtree(folder)
    else:
        journal = _read_journal(folder)
        for name in (_JOURNAL, _LOCK):
            (folder / name).unlink(missing_ok=True)
        # An empty folder of the user's; Windows alone does not replace it.
        is_in_the_way = sys.platform == "win32" and out.is_dir()
        try:
            if is_in_the_way:
                out.rmdir()
            folder.replace(out)
        except OSError:
            _write_journal(folder, journal)
            if is_in_the_way:
                out.mkdir(exist_ok=True)
            raise
    with suppress(OSError):
        descriptor = os.open(out.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_file(folder: Path, file: OutputFile, on_bytes: Callable[[int], None]) -> None:
    journal = _read_journal(folder)
    done = int(journal["done"].get(file.name, 0))
    path = folder / file.name
    if not path.exists() or path.stat().st_size < done:
        done = 0
    on_bytes(done)
    if done == file.nbytes:
        return
    with path.open("r+b" if done else "wb") as out:
        out.truncate(done)
        out.seek(done)

        def keep(end: int) -> None:
            out.flush()
            os.fsync(out.fileno())
            journal["done"][file.name] = end
            _write_journal(folder, journal)

        whole = noted = done  # the end of the last whole unit, and what the journal says
        try:
            if not done:
                out.write(file.header)
                whole = len(file.header)
                on_bytes(whole)
            end = len(file.header)
            for unit in file.units:
                begin, end = end, end + unit.nbytes
                if end <= done:
                    continue
                for piece in unit.pieces():
                    out.write(piece.data)
                    on_bytes(piece.nbytes)
                if out.tell() != end:
                    raise AssertionError(
                        f"{file.name}: {out.tell() - begin} bytes of {unit.nbytes}"
                    )
                whole = end
                if whole - noted >= _SYNC_BYTES:
                    keep(whole)
                    noted = whole
        finally:
            # Also if it was interrupted, or the disk is full; what does not fit is made again.
            with suppress(OSError):
                keep(whole)
        keep(file.nbytes)


def _read_journal(folder: Path) -> dict[str, Any]:
    try:
        journal = json.loads((folder / _JOURNAL).read_text())
    except (OSError, ValueError):
        return {"done": {}}
    return journal if isinstance(journal, dict) else {"done": {}}


def _write_journal(folder: Path, journal: dict[str, Any]) -> None:
    new = folder / (_JOURNAL + ".new")
    new.write_text(json.dumps(journal))
    new.replace(folder / _JOURNAL)
