"""Strict reading of files from elsewhere: regular, of a sane size, JSON without doubles."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from gptoss.errors import CheckpointError

# Files that are read whole are some tens of megabytes at most.
MAX_BYTES = 100_000_000


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises
    ------
    CheckpointError
        The file cannot be read, is above 100 MB, is not UTF-8 JSON, repeats a key, or holds
        something other than an object.
    """
    with open_regular(path) as file:
        return parse_json_object(file.read(), str(path))


def read_bytes(path: Path) -> bytes:
    """Read a file of up to 100 MB; raises CheckpointError if that fails."""
    with open_regular(path) as file:
        return file.read()


def parse_json_object(data: bytes, what: str) -> dict[str, Any]:
    """Parse one JSON object, refusing repeated keys at any depth; `what` starts the messages."""
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{what}: expected a JSON object, found {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{what}: expected a JSON object, found {type(value).__name__}")
    return value


def open_regular(path: Path, limit: int | None = MAX_BYTES) -> BinaryIO:
    """Open a regular file; other kinds (a pipe, say) could block for ever."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{path}: expected a regular file, found another kind")
        if limit is not None and status.st_size > limit:
            raise CheckpointError(f"{path}: expected at most {limit} bytes, found {status.st_size}")
        return path.open("rb")
    except OSError as error:
        raise CheckpointError(
            f"{path}: expected a readable file, found: {error.strerror}"
        ) from error


def _unique_keys(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key!r} twice")
        result[key] = value
    return result
