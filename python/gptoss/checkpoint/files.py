"""Strict reading of what a checkpoint folder holds: JSON objects and safetensors headers.

safetensors: 8 bytes little-endian header length, the header (a JSON object that maps names to
dtype, shape and byte range), then the data that the ranges count from.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from gptoss.checkpoint.tensors import ITEM_BYTES, TensorSource
from gptoss.errors import CheckpointError

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
INDEX = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
TOKENIZER = "tokenizer.json"

# The format's own limit; real headers are some tens of kilobytes.
_MAX_HEADER_BYTES = 100_000_000
_LENGTH_BYTES = 8

# Dtypes of the format that gptoss does not use, so that a file of another kind is told by its
# dtype and not as damaged.
_ITEM_BYTES = {
    "BOOL": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
} | ITEM_BYTES


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises
    ------
    CheckpointError
        The file cannot be read, is above 100 MB, is not UTF-8 JSON, repeats a key, or holds
        something other than an object.
    """
    with _open(path) as file:
        return parse_json_object(file.read(), str(path))


def read_bytes(path: Path) -> bytes:
    """Read a file of up to 100 MB; raises CheckpointError if that fails."""
    with _open(path) as file:
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


def read_header(path: Path) -> dict[str, TensorSource]:
    """Read and validate the header of a safetensors file; no weight is touched.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    dict of str to TensorSource
        Every tensor, with its offset counted from the start of the file.

    Raises
    ------
    CheckpointError
        The file cannot be read or is not a safetensors file; a dtype is unknown; a shape does
        not give the number of bytes; a byte range leaves the file or overlaps another.
    """
    with _open(path, limit=None) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        longest = min(size - _LENGTH_BYTES, _MAX_HEADER_BYTES)
        if longest < 0:
            raise CheckpointError(
                f"{path}: expected a safetensors file of at least {_LENGTH_BYTES} bytes, "
                f"found {size}"
            )
        if length > longest:
            raise CheckpointError(
                f"{path}: expected a safetensors header of at most {longest} bytes, found a "
                f"header length of {length}; the file is cut off or of another format"
            )
        header = parse_json_object(file.read(length), f"{path}: safetensors header")
    start = _LENGTH_BYTES + length
    header.pop("__metadata__", None)
    tensors = {name: _entry(path, name, value, start) for name, value in header.items()}
    _check_ranges(path, tensors, size)
    return tensors


def _open(path: Path, limit: int | None = _MAX_HEADER_BYTES) -> BinaryIO:
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


def _entry(path: Path, name: str, entry: object, start: int) -> TensorSource:
    def error(expected: str, found: object) -> CheckpointError:
        return CheckpointError(f"{path}: tensor {name}: expected {expected}, found {_short(found)}")

    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise error("an object with dtype, shape and data_offsets", entry)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise error("a known dtype", dtype)
    if not _are_sizes(shape):
        raise error("a shape of non-negative integers", shape)
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise error("data_offsets [begin, end] with 0 <= begin <= end", offsets)
    begin, end = offsets
    nbytes = math.prod(shape) * _ITEM_BYTES[dtype]
    if nbytes != end - begin:
        raise error(f"{_short(nbytes)} bytes for {dtype} {_short(shape)}", f"{end - begin} bytes")
    return TensorSource(path, start + begin, nbytes, dtype, tuple(shape))


def _are_sizes(value: object) -> bool:
    # The bound keeps products of sizes cheap; no dimension or offset needs more than 63 bits.
    return (
        isinstance(value, list)
        and len(value) <= 32
        and all(type(item) is int and 0 <= item < 1 << 63 for item in value)
    )


def _check_ranges(path: Path, tensors: dict[str, TensorSource], size: int) -> None:
    previous_name, previous_end = "", 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        end = tensor.offset + tensor.nbytes
        if end > size:
            raise CheckpointError(
                f"{path}: tensor {name}: expected its bytes to end within the file's {size}, "
                f"found the end at {end}; the file is cut off"
            )
        if tensor.offset < previous_end:
            raise CheckpointError(
                f"{path}: tensor {name}: expected bytes of its own, found an overlap with "
                f"tensor {previous_name}"
            )
        previous_name, previous_end = name, end


def _short(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 100 else text[:100] + "..."
