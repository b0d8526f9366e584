"""safetensors files: where each tensor's bytes lie, told by a header that is read strictly.

The format: 8 bytes little-endian header length, the header (a JSON object that maps names to
dtype, shape and byte range), then the data that the ranges count from.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gptoss._files import HEAD_BYTES, MAX_BYTES, and_what_it_is, open_regular, parse_json_object
from gptoss.errors import CheckpointError

# The dtypes that gpt-oss checkpoints are made of; numpy has no bfloat16, so its bits are uint16.
ITEM_BYTES = {"BF16": 2, "U8": 1}
# Also those of fine-tunes that were saved in another one, and are converted.
NUMPY_DTYPES: dict[str, npt.DTypeLike] = {
    "BF16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
}

_LENGTH_BYTES = 8

# gpt-oss-120b has some 700. Told before a header is parsed, which takes 20 us for each.
_MAX_TENSORS = 50_000

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


@dataclass(frozen=True)
class TensorSource:
    """Where a tensor's bytes lie: in a file, or in an array made at load.

    Attributes
    ----------
    path : Path
        The file. For an array made at load, the file that it was made from.
    offset : int
        First byte, from the start of the file; unused if `array` is set.
    nbytes : int
        Size of the tensor.
    dtype : str
        "BF16" or "U8", and "F16" of the scales of Q8_0; of a header also any other of the format.
    shape : tuple of int
        Row-major.
    array : numpy.ndarray or None
        C-contiguous uint16 (the bits of bf16), uint8 or float16.
    """

    path: Path
    offset: int
    nbytes: int
    dtype: str
    shape: tuple[int, ...]
    array: npt.NDArray[Any] | None = field(default=None, compare=False, repr=False)

    def read(self) -> npt.NDArray[Any]:
        """Map the tensor into memory, read-only; BF16 comes as its bits in uint16."""
        if self.array is not None:
            return self.array
        return np.memmap(
            self.path, NUMPY_DTYPES[self.dtype], "r", offset=self.offset, shape=self.shape
        )

    def pieces(self, items: int) -> Iterator[npt.NDArray[Any]]:
        """Read the tensor so many items at a time, flat; BF16 comes as its bits in uint16.

        Unlike `read`, whose pages fault if the file is cut off meanwhile, this raises
        CheckpointError then.
        """
        if self.array is not None:
            flat = self.array.reshape(-1)
            for begin in range(0, flat.size, items):
                yield flat[begin : begin + items]
            return
        left = math.prod(self.shape)
        with open_regular(self.path, limit=None) as file:
            file.seek(self.offset)
            while left > 0:
                piece = np.empty(min(items, left), NUMPY_DTYPES[self.dtype])
                # Not numpy's fromfile, which makes a TypeError of a KeyboardInterrupt.
                if file.readinto(piece.view(np.uint8).data) < piece.nbytes:
                    raise CheckpointError(
                        f"{self.path}: expected the file's bytes to stay, found them cut off while "
                        "it was read; replace files by renaming, never in place"
                    )
                yield piece
                left -= len(piece)


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
    with open_regular(path, limit=None) as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(HEAD_BYTES)
        length = int.from_bytes(head[:_LENGTH_BYTES], "little")
        longest = min(size - _LENGTH_BYTES, MAX_BYTES)
        if longest < 0:
            raise CheckpointError(
                f"{path}: expected a safetensors file of at least {_LENGTH_BYTES} bytes, "
                f"found {size}{and_what_it_is(head) or '; the download was not finished'}"
            )
        if length > longest:
            raise CheckpointError(
                f"{path}: expected a safetensors header of at most {longest} bytes, found a "
                f"header length of {length}; the file is cut off or of another format"
                f"{and_what_it_is(head)}"
            )
        if length == 0:
            raise CheckpointError(
                f"{path}: safetensors header: expected a JSON object, found nothing"
                f"{and_what_it_is(head)}"
            )
        file.seek(_LENGTH_BYTES)
        text = file.read(length)
    count = text.count(b'"dtype"')
    if count > _MAX_TENSORS:
        raise CheckpointError(
            f"{path}: safetensors header: expected at most {_MAX_TENSORS} tensors, found {count}"
        )
    header = parse_json_object(text, f"{path}: safetensors header")
    start = _LENGTH_BYTES + length
    header.pop("__metadata__", None)
    tensors = {name: _entry(path, name, value, start) for name, value in header.items()}
    _check_ranges(path, tensors, size)
    return tensors


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
                f"found the end at {end}; the file is cut off: download it anew"
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
