"""Strict reading of files from elsewhere: regular, of a sane size, JSON without doubles."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from gptoss.errors import CheckpointError

# Files that are read whole are some tens of megabytes at most.
MAX_BYTES = 100_000_000

# Enough of a file to tell what it is.
HEAD_BYTES = 512

# What other files begin with, and what to do about them.
_SAFETENSORS = "use the checkpoint's safetensors files, as openai/gpt-oss-20b has them"
_FORMATS: tuple[tuple[bytes, str], ...] = (
    (
        rb"version https://git-lfs",
        "a Git LFS pointer in place of the file: run `git lfs pull` in its folder",
    ),
    (rb"GGUF", "a GGUF file: pass it as the model, in place of a folder"),
    (
        rb"FUGG|tjgg|lmgg|fmgg|algg",
        f"an old file of ggml, which is not read; {_SAFETENSORS}, or GGUF as of 2023 and later",
    ),
    (
        rb"PK\x03\x04|\x80[\x02-\x05]",
        "a PyTorch file or another archive: pickles are not read; save the model as safetensors "
        "(model.save_pretrained(FOLDER) of transformers)",
    ),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf", "a compressed archive: unpack it"),
    (rb"\x89HDF|\x93NUMPY", f"a file of HDF5 or numpy; {_SAFETENSORS}"),
    (
        rb"(?i)\s*<(!doctype|html|\?xml)",
        "a web page in place of the file: download it anew, with `hf download`",
    ),
    (
        rb"(?i)\s*(\{\s*\"error\"|(entry|repository) not found|access to model|invalid username"
        rb"|unauthorized|forbidden|not found)",
        "a server's error message in place of the file: download it anew, with `hf download`",
    ),
    (rb"\x00{16}", "nothing but zeros at its beginning: the download was not finished"),
)


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises
    ------
    CheckpointError
        The file cannot be read, is above 100 MB, is not UTF-8 JSON, repeats a key, or holds
        something other than an object.
    """
    with open_regular(path) as file:
        data = file.read()
    value = parse_json_object(data, str(path))
    if next(iter(value), None) == "error":
        raise CheckpointError(
            f"{path}: expected a checkpoint's file, found {what_it_is(data[:HEAD_BYTES])}"
        )
    return value


def read_bytes(path: Path) -> bytes:
    """Read a file of up to 100 MB; raises CheckpointError if that fails."""
    with open_regular(path) as file:
        return file.read()


def parse_json_object(data: bytes, what: str) -> dict[str, Any]:
    """Parse one JSON object, refusing repeated keys at any depth; `what` starts the messages."""
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{what}: expected a JSON object, found {error}{and_what_it_is(data)}"
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{what}: expected a JSON object, found {type(value).__name__}")
    return value


def what_it_is(head: bytes) -> str | None:
    """Name the format of a file that begins so, and the way out; None for what may be right."""
    if not head:
        return "an empty file: the download was not finished"
    return next((name for pattern, name in _FORMATS if re.match(pattern, head)), None)


def and_what_it_is(head: bytes) -> str:
    """The same, to append to a message."""
    name = what_it_is(head)
    return "" if name is None else f"; it is {name}"


@contextmanager
def clear_system_errors() -> Iterator[None]:
    """Turn the system's errors, of permissions say, into CheckpointErrors that name the file."""
    try:
        yield
    except OSError as error:
        where = "a file" if error.filename is None else error.filename
        raise CheckpointError(
            f"{where}: expected to be readable, found: {error.strerror or error}"
        ) from error


def open_regular(path: Path, limit: int | None = MAX_BYTES) -> BufferedReader:
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
