"""The kernels of csrc/cuda/kernels in the emulator or on a card, with the structs of args.h."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cuda.card import KERNELS_FILE, Card, CardBuffer, card
from emulator.device import Buffer, Device, Module, Result
from gptoss.reference.q8 import decode_q8_0

CSRC = Path(__file__).parents[2] / "csrc"
KERNELS = CSRC / "cuda/kernels"
NVCC = shutil.which("nvcc")
FLAGS = ["-ptx", "-arch=compute_80", "-std=c++17", "-lineinfo", f"-I{CSRC}"]
CACHE = Path(os.environ.get("GPTOSS_PTX_CACHE", Path(tempfile.gettempdir()) / "gptoss-ptx"))
SEEDS = range(int(os.environ.get("GPTOSS_EMULATOR_SEEDS", "2")))

_SCALARS: dict[str, Any] = {
    "int32_t": ctypes.c_int32,
    "uint32_t": ctypes.c_uint32,
    "int64_t": ctypes.c_int64,
    "uint64_t": ctypes.c_uint64,
    "float": ctypes.c_float,
}


@cache
def ptx_of(name: str) -> str:
    """Compile csrc/cuda/kernels/`name`.cu, or take what was compiled of the same text before."""
    assert NVCC is not None
    source = KERNELS / f"{name}.cu"
    digest = hashlib.sha256()
    for path in [source, *sorted(KERNELS.glob("*.h")), *sorted(KERNELS.glob("*.cuh"))]:
        digest.update(path.read_bytes())
    digest.update("\0".join([NVCC, *FLAGS]).encode())
    out = CACHE / f"{name}-{digest.hexdigest()[:32]}.ptx"
    if not out.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        part = out.with_suffix(f".{os.getpid()}")
        subprocess.run([NVCC, *FLAGS, str(source), "-o", str(part)], check=True)
        part.replace(out)
    return out.read_text()


@cache
def structs() -> dict[str, Any]:
    """Read the structs of args.h: ctypes classes by name."""
    text = re.sub(r"//[^\n]*", "", (KERNELS / "args.h").read_text())
    constants = {
        name: int(value) for name, value in re.findall(r"inline constexpr int (\w+) = (\d+);", text)
    }
    types = dict(_SCALARS)
    for name in re.findall(r"enum class (\w+) : int32_t", text):
        types[name] = ctypes.c_int32
    found: dict[str, Any] = {}
    for name, body in re.findall(r"struct (\w+) \{\n(.*?)\n\};", text, re.DOTALL):
        if name == "Launch":
            continue
        fields: list[tuple[str, Any]] = []
        for line in filter(None, map(str.strip, body.split(";"))):
            match = re.fullmatch(r"(?:const )?(\w+)\s*(\*?)\s*(.*)", line, re.DOTALL)
            assert match, line
            kind: Any = ctypes.c_uint64 if match[2] else types[match[1]]
            for field in map(str.strip, match[3].split(",")):
                size = re.fullmatch(r"(\w+)\[(\w+)\]", field)
                fields.append((size[1], kind * constants[size[2]]) if size else (field, kind))
        found[name] = types[name] = type(name, (ctypes.Structure,), {"_fields_": fields})
    return found


def constant(name: str) -> int:
    """Return a constant of args.h, or of another header of the kernels."""
    for path in [KERNELS / "args.h", *sorted(KERNELS.glob("*.cuh"))]:
        match = re.search(rf"constexpr \w+ {name} = (\w+);", path.read_text())
        if match:
            return int(match[1].rstrip("u"), 0)
    raise KeyError(name)


def fill(name: str, **values: Any) -> ctypes.Structure:
    """Make a struct of args.h; fields that are not named are 0."""
    out: ctypes.Structure = structs()[name]()
    for field, value in values.items():
        assert hasattr(out, field), f"{name} has no field {field}"
        if isinstance(value, (Buffer, CardBuffer)):
            value = value.address
        elif isinstance(value, np.generic):
            value = value.item()
        setattr(out, field, value)
    return out


def records(name: str, rows: Sequence[ctypes.Structure]) -> npt.NDArray[np.uint8]:
    """Lay structs out one after the other: uint8."""
    return np.frombuffer(b"".join(map(bytes, rows)) or bytes(1), np.uint8)


def read_records(name: str, buffer: Buffer) -> list[Any]:
    """Read the structs that lie in a buffer of uint8."""
    kind = structs()[name]
    raw = buffer.numpy().tobytes()
    return [kind.from_buffer_copy(raw, i) for i in range(0, len(raw), ctypes.sizeof(kind))]


class Gpu:
    """A device with kernels."""

    def __init__(self, *names: str) -> None:
        self.buffers: list[Any] = []
        self.device: Device | Card
        self.entries: dict[str, Module | Card] = {}
        if KERNELS_FILE:
            self.device = card()
            return
        self.device = device = Device()
        for name in names:
            module = device.load(ptx_of(name))
            for entry in re.findall(r"\.entry (\w+)", ptx_of(name)):
                self.entries[entry] = module

    def put(self, array: Any, dtype: Any = None, name: str = "input") -> Buffer:
        """Copy an array to the device."""
        buffer: Any = self.device.buffer(np.asarray(array, dtype), name)
        return self._kept(buffer)

    def empty(self, shape: int | Sequence[int], dtype: Any, name: str = "output") -> Buffer:
        """Allocate an array that is poisoned until it is written."""
        buffer: Any = self.device.empty(shape, dtype, name)
        return self._kept(buffer)

    def _kept(self, buffer: Any) -> Any:
        """Keep it as long as this is: structs have its address alone."""
        self.buffers.append(buffer)
        return buffer

    def launch(
        self,
        entry: str,
        grid: int | Sequence[int],
        threads: int,
        args: ctypes.Structure,
        **options: Any,
    ) -> Result:
        """Run a kernel; whatever the emulator reports is an error."""
        module: Any = self.device if KERNELS_FILE else self.entries[entry]
        result = module.launch(entry, grid, threads, bytes(args), **options)
        assert not result.reports, "\n".join(r.text for r in result.reports)
        assert result.fault == "none"
        return result


def bf16(x: npt.ArrayLike) -> npt.NDArray[np.uint16]:
    """Round to bf16, ties to even: bits."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float64]:
    """Return the numbers of bf16 bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def random_q8_0(
    rng: np.random.Generator, n: int, k: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float16], npt.NDArray[np.float64]]:
    """Make a matrix in q8_0 (core/q8.h): codes (n, k), scales (n, k/32), and what it means."""
    codes = rng.integers(-128, 128, (n, k)).astype(np.int8)
    scales = (rng.normal(size=(n, k // 32)) / 64).astype(np.float16)
    return codes, scales, decode_q8_0(codes, scales)


def logit_ranges(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """What is highest and lowest of every 16 logits, as LogitRange of args.h has it: (R, ?, 2)."""
    rows = np.pad(logits, [(0, 0), (0, -logits.shape[1] % 16)], constant_values=-np.inf)
    groups = rows.reshape(len(rows), -1, 16)
    odd = ~(groups < np.inf)
    highest = np.where(odd.any(-1), np.inf, np.where(odd, -np.inf, groups).max(-1))
    lowest = np.where(groups > -np.inf, groups, np.inf).min(-1)
    return np.stack([highest, lowest], axis=-1).astype(np.float32)


def begun_norm(
    x: npt.NDArray[np.float32], weight: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.float32]]:
    """A norm that is begun: bits of x * weight in bf16, and sums of squares of 16 columns each."""
    squares = np.pad(np.square(x, dtype=np.float32), [(0, 0), (0, -x.shape[1] % 16)])
    parts = squares.reshape(len(x), -1, 16)
    for step in (8, 4, 2, 1):  # columns of one parity, then of four, ... as a tree
        parts = parts.reshape(*parts.shape[:2], step, 2).sum(axis=-1, dtype=np.float32)
    return bf16(x * weight), parts[..., 0]


class Batch:
    """A ragged batch: what Step of args.h names.

    Parameters
    ----------
    gpu : Gpu
        Where it lies.
    sequences : sequence of (slot, first position, tokens)
        Ids of tokens, -1 for the slot's last.
    last_tokens : sequence of int
        (slots), what each slot sampled last.
    """

    def __init__(
        self,
        gpu: Gpu,
        sequences: Sequence[tuple[int, int, Sequence[int]]],
        last_tokens: Sequence[int] = (),
        logit_rows: Sequence[int] = (),
    ) -> None:
        self.sequences = sequences
        self.tokens = [token for _, _, tokens in sequences for token in tokens]
        self.offsets = np.cumsum([0, *(len(tokens) for _, _, tokens in sequences)])
        self.positions = [first + i for _, first, tokens in sequences for i in range(len(tokens))]
        self.token_slots = [slot for slot, _, tokens in sequences for _ in tokens]
        states = [fill("SlotState", last_token=token) for token in last_tokens]
        self.step = fill(
            "Step",
            tokens=gpu.put(self.tokens, np.int32),
            positions=gpu.put(self.positions, np.int32),
            token_slots=gpu.put(self.token_slots, np.int32),
            sequence_offsets=gpu.put(self.offsets, np.int32),
            first_positions=gpu.put([first for _, first, _ in sequences], np.int32),
            sequence_slots=gpu.put([slot for slot, _, _ in sequences], np.int32),
            logit_rows=gpu.put(logit_rows or [0], np.int32),
            slots=gpu.put(records("SlotState", states)),
            n_tokens=len(self.tokens),
            n_sequences=len(sequences),
            n_logit_rows=len(logit_rows),
        )


def seeds() -> Iterator[int]:
    """Seeds of launches: the order of blocks and warps."""
    yield from SEEDS
