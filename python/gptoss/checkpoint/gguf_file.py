"""GGUF files: metadata and where each tensor's bytes lie, told by a header that is read strictly.

The format: "GGUF", a version, the counts of tensors and of metadata fields, the fields (a key, a
type, a value), the tensors (a name, dimensions with the fastest first, a type, an offset), then the
data that the offsets count from, aligned. All numbers are little-endian.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from gptoss._files import HEAD_BYTES, MAX_BYTES, and_what_it_is, open_regular
from gptoss.errors import CheckpointError

MAGIC = b"GGUF"
# Elements of a block, and its bytes, of the types that are read.
BLOCKS = {
    "F32": (1, 4),
    "F16": (1, 2),
    "BF16": (1, 2),
    "Q8_0": (32, 34),
    "MXFP4": (32, 17),
}
# By their number in a file; those that are not read have a name for messages.
_TYPES = {
    **{0: "F32", 1: "F16", 8: "Q8_0", 30: "BF16", 39: "MXFP4"},
    **{2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 9: "Q8_1"},
    **{10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K"},
    **{16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S"},
    **{22: "IQ2_S", 23: "IQ4_XS", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0"},
    **{24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64"},
}

_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_MAX_ALIGNMENT = 1 << 20
_MAX_DIMENSIONS = 4
# gpt-oss-120b has some 700, and 40 fields.
_MAX_TENSORS = 50_000
_MAX_FIELDS = 50_000
_MAX_KEY_BYTES = 65_535
# What is read of a file at a time while its header is parsed.
_READ_BYTES = 1 << 20

_STRING, _ARRAY, _BOOL = 8, 9, 7
_NUMBERS = {
    **{0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f"},
    **{_BOOL: "<?", 10: "<Q", 11: "<q", 12: "<d"},
}
_SPLIT_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


@dataclass(frozen=True)
class GgufArray:
    """An array of numbers or strings in the metadata, as it lies in the file.

    Attributes
    ----------
    type : int
        The elements' type, by its number in the format.
    count : int
        How many there are.
    data : bytes
        The numbers, or of each string its length in eight bytes and its UTF-8.
    """

    type: int
    count: int
    data: bytes = field(repr=False)

    def numbers(self) -> npt.NDArray[np.generic] | None:
        """The array, if it is one of numbers."""
        code = _NUMBERS.get(self.type)
        return None if code is None else np.frombuffer(self.data, code)

    def strings(self) -> list[bytes] | None:
        """The array, if it is one of strings, in UTF-8."""
        if self.type != _STRING:
            return None
        found, at, data = [], 0, self.data
        for _ in range(self.count):
            begin = at + 8
            at = begin + int.from_bytes(data[at:begin], "little")
            found.append(data[begin:at])
        return found


Value: TypeAlias = "int | float | bool | str | GgufArray"


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of a file.

    Attributes
    ----------
    path : Path
        The file.
    type : str
        "F32", "F16", "BF16", "Q8_0", "MXFP4", or a type that is not read.
    shape : tuple of int
        Row-major: the reverse of the file's order.
    offset, nbytes : int
        From the start of the file, and the size; 0 bytes for a type that is not read.
    """

    path: Path
    type: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    @property
    def row_bytes(self) -> int:
        """Bytes of what lies along the last axis."""
        return self.nbytes // math.prod(self.shape[:-1])


@dataclass(frozen=True)
class GgufFile:
    """What the headers of a model's files say.

    Attributes
    ----------
    paths : tuple of Path
        One file, or the parts of a split one.
    metadata : mapping of str to value
        Of the first file.
    tensors : mapping of str to GgufTensor
        Of all of them.
    """

    paths: tuple[Path, ...]
    metadata: Mapping[str, Value]
    tensors: Mapping[str, GgufTensor]

    @property
    def path(self) -> Path:
        """The file to name in messages: the first."""
        return self.paths[0]

    @property
    def name(self) -> str:
        """For display: the file's name without what all such names end in."""
        return split_stem(self.path)


def is_gguf(path: Path) -> bool:
    """Whether a regular file begins as GGUF files do."""
    try:
        with open_regular(path, limit=None) as file:
            return file.read(len(MAGIC)) == MAGIC
    except CheckpointError:
        return False


def split_stem(path: Path) -> str:
    """A file's name without the suffix, and without the number of a part."""
    match = _SPLIT_NAME.fullmatch(path.name)
    return path.stem if match is None else match["stem"]


def read_gguf(path: Path) -> GgufFile:
    """Read and validate the header of a GGUF file, or of all parts of a split one.

    Parameters
    ----------
    path : Path
        The file; of a split one any part.

    Raises
    ------
    CheckpointError
        A file cannot be read or is damaged, of another version or byte order; a part is missing
        or belongs to another model; a tensor's bytes leave the file or overlap another's.
    """
    match = _SPLIT_NAME.fullmatch(path.name)
    if match is None:
        metadata, tensors = _read_header(path)
        count = _split_field(path, metadata, "split.count", 1)
        if count > 1:
            raise CheckpointError(
                f"{path}: expected the name of a part, as NAME-00001-of-{count:05}.gguf, found "
                f"another, and split.count {count}; give the parts their names back"
            )
        return GgufFile((path,), metadata, tensors)
    count = int(match["count"])
    if not 1 <= count <= _MAX_TENSORS or not 1 <= int(match["number"]) <= count:
        raise CheckpointError(f"{path}: expected a part of 1 to {count}, found {match['number']}")
    paths = tuple(
        path.with_name(f"{match['stem']}-{number:05}-of-{count:05}.gguf")
        for number in range(1, count + 1)
    )
    missing = [part.name for part in paths if not part.exists()]
    if missing:
        raise CheckpointError(
            f"{path}: expected {count} parts beside one another, found no {missing[0]}"
        )
    return _merged(paths)


def _merged(paths: tuple[Path, ...]) -> GgufFile:
    first: Mapping[str, Value] = {}
    tensors: dict[str, GgufTensor] = {}
    for number, path in enumerate(paths):
        metadata, own = _read_header(path)
        for key, expected in (("split.no", number), ("split.count", len(paths))):
            found = _split_field(path, metadata, key, -1)
            if found != expected:
                raise CheckpointError(
                    f"{path}: field {key}: expected {expected}, found "
                    f"{'none' if found < 0 else found}"
                )
        for name, tensor in own.items():
            if name in tensors:
                raise CheckpointError(
                    f"{path}: tensor {name}: expected in one file, found in "
                    f"{tensors[name].path.name} too"
                )
            tensors[name] = tensor
        if number == 0:
            first = metadata
    total = _split_field(paths[0], first, "split.tensors.count", len(tensors))
    if total != len(tensors):
        raise CheckpointError(
            f"{paths[0]}: field split.tensors.count: expected {len(tensors)}, found {total}"
        )
    return GgufFile(paths, first, tensors)


def _split_field(path: Path, metadata: Mapping[str, Value], key: str, default: int) -> int:
    value = metadata.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise CheckpointError(f"{path}: field {key}: expected an integer, found {value!r:.100}")
    return value


class _Header:
    """Reads a file's head piece by piece: no more than the file has, whatever it says of itself."""

    def __init__(self, path: Path, file: BufferedReader) -> None:
        self.path = path
        self.size = os.fstat(file.fileno()).st_size
        self.at = 0
        self._file = file
        self._data = bytearray()

    def error(self, what: str, expected: str, found: object) -> CheckpointError:
        text = found if isinstance(found, str) else repr(found)
        return CheckpointError(f"{self.path}: {what}: expected {expected}, found {text:.100}")

    def take(self, count: int, what: str) -> bytes:
        """The next bytes."""
        end = self.at + count
        if end > len(self._data):
            self._fill(end, what)
        data = bytes(self._data[self.at : end])
        self.at = end
        return data

    def number(self, code: str, what: str) -> int | float | bool:
        (value,) = struct.unpack(code, self.take(struct.calcsize(code), what))
        assert isinstance(value, (int, float))
        return value

    def count(self, what: str, smallest_bytes: int, most: int | None = None) -> int:
        """A number of things, each of which takes some bytes of the file."""
        value = int.from_bytes(self.take(8, what), "little")
        limit = (self.size - self.at) // smallest_bytes
        if most is not None:
            limit = min(limit, most)
        if value > limit:
            raise self.error(what, f"at most {limit} in a file of {self.size} bytes", value)
        return value

    def text(self, what: str, most: int | None = None) -> str:
        data = self.take(self.count(f"length of {what}", 1, most), what)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise self.error(what, "UTF-8", str(error)) from error

    def string_array(self, count: int, what: str) -> bytes:
        begin = self.at
        for _ in range(count):
            length_at = self.at
            if length_at + 8 > len(self._data):
                self._fill(length_at + 8, what)
            self.at = length_at + 8
            end = self.at + int.from_bytes(self._data[length_at : self.at], "little")
            if end > len(self._data):
                self._fill(end, what)
            self.at = end
        return bytes(self._data[begin : self.at])

    def _fill(self, end: int, what: str) -> None:
        limit = min(self.size, MAX_BYTES)
        if end > limit:
            which = "the file's" if limit == self.size else "a header's"
            raise self.error(
                what, f"its bytes to end within {which} {limit}", f"the end at {end}; {_CUT_OFF}"
            )
        wanted = min(limit, max(end, len(self._data) + _READ_BYTES))
        while len(self._data) < wanted:
            piece = self._file.read(wanted - len(self._data))
            if not piece:
                raise self.error(what, "the file's bytes to stay", "them cut off while read")
            self._data += piece


_CUT_OFF = "the file is cut off or damaged: download it anew"


def _read_header(path: Path) -> tuple[dict[str, Value], dict[str, GgufTensor]]:
    with open_regular(path, limit=None) as file:
        header = _Header(path, file)
        _check_beginning(header)
        n_tensors = header.count("count of tensors", 8 + 4 + 8 + 4 + 8, _MAX_TENSORS)
        n_fields = header.count("count of metadata fields", 8 + 4 + 1, _MAX_FIELDS)
        metadata: dict[str, Value] = {}
        for _ in range(n_fields):
            key = header.text("a metadata key", _MAX_KEY_BYTES)
            if key in metadata:
                raise header.error(f"field {key:.100}", "one of this name", "two")
            metadata[key] = _value(header, f"field {key:.100}")
        entries = [_entry(header) for _ in range(n_tensors)]
        alignment = _alignment(header, metadata)
        start = -(-header.at // alignment) * alignment
    tensors: dict[str, GgufTensor] = {}
    for name, type_name, shape, offset in entries:
        what = f"tensor {name}"
        if name in tensors:
            raise header.error(what, "one of this name", "two")
        if offset % alignment:
            raise header.error(what, f"an offset that is a multiple of {alignment}", offset)
        nbytes = 0
        if type_name in BLOCKS:
            elements, block_bytes = BLOCKS[type_name]
            if shape[-1] % elements:
                raise header.error(
                    what, f"{type_name} rows of whole blocks of {elements}", f"rows of {shape[-1]}"
                )
            nbytes = math.prod(shape) // elements * block_bytes
        tensors[name] = GgufTensor(path, type_name, shape, start + offset, nbytes)
    _check_ranges(header, tensors)
    return metadata, tensors


def _check_beginning(header: _Header) -> None:
    smallest = len(MAGIC) + 4 + 8 + 8
    head = header.take(min(header.size, HEAD_BYTES), "a GGUF file")
    header.at = 0
    if head[:4] != MAGIC:
        raise CheckpointError(
            f"{header.path}: expected a GGUF file, found one that begins with {head[:4]!r}"
            f"{and_what_it_is(head)}"
        )
    if header.size < smallest:
        raise CheckpointError(
            f"{header.path}: expected a GGUF file of at least {smallest} bytes, found "
            f"{header.size}; {_CUT_OFF}"
        )
    header.at = len(MAGIC)
    version = int.from_bytes(header.take(4, "version"), "little")
    if version not in _VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        found = f"{version}" if swapped not in _VERSIONS else f"{swapped} in big-endian order"
        raise header.error("GGUF version", "2 or 3", found)


def _value(header: _Header, what: str) -> Value:
    kind = int(header.number("<I", what))
    if kind == _STRING:
        return header.text(what)
    if kind == _ARRAY:
        inner = int(header.number("<I", what))
        if inner == _STRING:
            count = header.count(what, 8)
            return GgufArray(inner, count, header.string_array(count, what))
        if inner in _NUMBERS:
            item_bytes = struct.calcsize(_NUMBERS[inner])
            count = header.count(what, item_bytes)
            return GgufArray(inner, count, header.take(count * item_bytes, what))
        raise header.error(what, "an array of numbers or strings", f"type {inner}")
    if kind not in _NUMBERS:
        raise header.error(what, "a known type of value", f"type {kind}")
    return header.number(_NUMBERS[kind], what)


def _entry(header: _Header) -> tuple[str, str, tuple[int, ...], int]:
    name = header.text("a tensor's name", _MAX_KEY_BYTES)
    what = f"tensor {name:.100}"
    n_dimensions = int(header.number("<I", what))
    if not 1 <= n_dimensions <= _MAX_DIMENSIONS:
        raise header.error(what, f"1 to {_MAX_DIMENSIONS} dimensions", n_dimensions)
    sizes = [int(header.number("<Q", what)) for _ in range(n_dimensions)]
    if not all(1 <= size < 1 << 48 for size in sizes) or math.prod(sizes) >= 1 << 60:
        raise header.error(what, "a shape of positive sizes below 2^60 elements", sizes)
    kind = int(header.number("<I", what))
    offset = int(header.number("<Q", what))
    return name, _TYPES.get(kind, f"type {kind}"), tuple(reversed(sizes)), offset


def _alignment(header: _Header, metadata: Mapping[str, Value]) -> int:
    value = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    good = isinstance(value, int) and not isinstance(value, bool)
    if not good or not 1 <= value <= _MAX_ALIGNMENT or value & (value - 1):  # type: ignore[operator]
        raise header.error(
            "field general.alignment", f"a power of two up to {_MAX_ALIGNMENT}", value
        )
    assert isinstance(value, int)
    return value


def _check_ranges(header: _Header, tensors: Mapping[str, GgufTensor]) -> None:
    previous_name, previous_end = "", 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        end = tensor.offset + tensor.nbytes
        if end > header.size:
            raise CheckpointError(
                f"{header.path}: tensor {name:.100}: expected its bytes to end within the file's "
                f"{header.size}, found the end at {end}; the file is cut off: download it anew"
            )
        if tensor.offset < previous_end:
            raise CheckpointError(
                f"{header.path}: tensor {name:.100}: expected bytes of its own, found an overlap "
                f"with tensor {previous_name:.100}"
            )
        previous_name, previous_end = name, end


def read_rows(tensor: GgufTensor, begin: int, count: int) -> npt.NDArray[np.uint8]:
    """Read rows of a tensor, all of its axes but the last taken together.

    Returns
    -------
    numpy.ndarray
        (count, bytes of a row) uint8.

    Raises
    ------
    CheckpointError
        The file has become shorter.
    """
    rows = np.empty((count, tensor.row_bytes), np.uint8)
    with open_regular(tensor.path, limit=None) as file:
        file.seek(tensor.offset + begin * tensor.row_bytes)
        if file.readinto(rows.reshape(-1).data) < rows.nbytes:
            raise CheckpointError(
                f"{tensor.path}: expected the file's bytes to stay, found them cut off while it "
                "was read; replace files by renaming, never in place"
            )
    return rows


def row_pieces(tensor: GgufTensor, piece_bytes: int) -> Iterator[tuple[int, int]]:
    """Cut a tensor into (first row, rows) of about so many bytes."""
    rows = math.prod(tensor.shape[:-1])
    step = max(1, piece_bytes // tensor.row_bytes)
    for begin in range(0, rows, step):
        yield begin, min(step, rows - begin)
