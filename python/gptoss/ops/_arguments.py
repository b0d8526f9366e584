"""What an op accepts."""

from __future__ import annotations

import math
import operator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

F32Array: TypeAlias = npt.NDArray[np.float32]
I32Array: TypeAlias = npt.NDArray[np.int32]
U8Array: TypeAlias = npt.NDArray[np.uint8]

BLOCK_SIZE = 32
BLOCK_BYTES = 16
MAX_INT = 2**31 - 1


class Arguments:
    """Checks one call's arguments; sizes that go by the same letter must agree."""

    def __init__(self, op: str) -> None:
        self.op = op
        self.sizes: dict[str, tuple[int, ...]] = {}

    def array(
        self,
        name: str,
        value: object,
        dtype: type[np.generic],
        shape: str,
        *,
        called: str | None = None,
        aligned: bool = True,
        smallest: int = 1,
    ) -> None:
        """Check an array against "T K" or "N K/32 16"; "..." stands for any leading sizes."""
        kind = called or np.dtype(dtype).name
        if not isinstance(value, np.ndarray):
            raise TypeError(
                f"[{self.op}] expected {name} as a numpy array of {kind}, got "
                f"{type(value).__name__}"
            )
        if value.dtype != dtype:
            raise TypeError(f"[{self.op}] expected {name} as {kind}, got {value.dtype}")
        if not self._fits(value.shape, shape.split()):
            known = ", ".join(
                f"{letter} = {', '.join(map(str, sizes))}"
                for letter, sizes in self.sizes.items()
                if letter in shape
            )
            raise ValueError(
                f"[{self.op}] expected {name} of shape ({shape.replace(' ', ', ')})"
                f"{f' with {known}' if known else ''}, got {value.shape}"
            )
        if min(value.shape) < smallest or max(value.shape) > MAX_INT:
            raise ValueError(
                f"[{self.op}] expected sizes of {name} from {smallest} to {MAX_INT}, got "
                f"{value.shape}"
            )
        if not value.flags.c_contiguous:
            raise ValueError(
                f"[{self.op}] expected {name} as a C-contiguous array, got strides "
                f"{value.strides} for shape {value.shape}"
            )
        if aligned and not value.flags.aligned:
            raise ValueError(
                f"[{self.op}] expected {name} at an address divisible by {value.itemsize}, got "
                f"{value.ctypes.data:#x}"
            )

    def _fits(self, found: tuple[int, ...], expected: list[str]) -> bool:
        found_sizes: list[tuple[int, ...]] = [(size,) for size in found]
        if expected[0] == "...":
            n_leading = len(found) - len(expected) + 1
            if n_leading < 0:
                return False
            found_sizes[:n_leading] = [found[:n_leading]]
        if len(found_sizes) != len(expected):
            return False
        known = dict(self.sizes)
        for sizes, size_name in zip(found_sizes, expected, strict=True):
            letter, _, divisor = size_name.partition("/")
            if letter.isdigit():
                wanted: tuple[int, ...] = (int(letter),)
            elif divisor:
                wanted = (known[letter][0] // int(divisor),)
            else:
                wanted = known.setdefault(letter, sizes)
            if sizes != wanted:
                return False
        self.sizes = known
        return True

    def multiple_of(self, letter: str, divisor: int) -> None:
        (size,) = self.sizes[letter]
        if size % divisor:
            raise ValueError(
                f"[{self.op}] expected {letter} to be a multiple of {divisor}, got {size}"
            )

    def integer(self, name: str, value: int, low: int, high: int) -> int:
        try:
            number = operator.index(value)
        except TypeError:
            raise TypeError(
                f"[{self.op}] expected {name} as an integer, got {type(value).__name__}"
            ) from None
        if not low <= number <= high:
            raise ValueError(f"[{self.op}] expected {name} from {low} to {high}, got {number}")
        return number

    def number(self, name: str, value: float) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise TypeError(
                f"[{self.op}] expected {name} as a number, got {type(value).__name__}"
            ) from None
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise ValueError(f"[{self.op}] expected {name} to be finite, got {number}")
        return number

    def bf16_bits(self, w: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
        """Check weights w (N, K) and return their bits."""
        # ml_dtypes is not imported for this: its type is known by its name.
        if isinstance(w, np.ndarray) and w.dtype.name == "bfloat16":
            w = w.view(np.uint16)
        self.array("w", w, np.uint16, "N K", called="bfloat16 or uint16", aligned=False)
        return w

    def target(self, target: str | None, isa: str | None = None) -> str:
        """Return the target to run on; `isa` is another name for the CPU's variants."""
        for name, value in (("target", target), ("isa", isa)):
            if value is not None and not isinstance(value, str):
                raise TypeError(
                    f"[{self.op}] expected {name} as a string, got {type(value).__name__}"
                )
        if isa is None:
            return "cpu" if target is None else target
        if target is not None:
            raise ValueError(f"[{self.op}] expected target or isa, got both")
        return f"cpu:{isa}"
