#!/usr/bin/env python3
"""Check that the kernels of an instruction set define no function that others could be given.

An inline function that is not inlined is kept once by the linker, from whichever object comes
first: with AVX-512 in it, it would end a program on older processors. So every function in an
object of `csrc/cpu/isa` lies in the namespace of its instruction set.

    tools/check_symbols.py build/CMakeFiles/gptoss_core.dir/csrc/cpu/isa/*.o
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

_SYMBOL_TABLE = 2  # SHT_SYMTAB
_FUNCTIONS = (2, 10)  # STT_FUNC, STT_GNU_IFUNC


def defined_functions(elf: bytes) -> list[str]:
    """Return the mangled names of the functions that a 64-bit little-endian ELF object defines.

    Raises:
        ValueError: the bytes are something else.
    """
    if elf[:6] != b"\x7fELF\x02\x01":
        raise ValueError(f"expected a 64-bit little-endian ELF object, got {elf[:6]!r}")
    (sections_at,) = struct.unpack_from("<Q", elf, 0x28)
    size, count = struct.unpack_from("<HH", elf, 0x3A)
    # type, offset, size, link
    sections = [
        (
            struct.unpack_from("<I", elf, sections_at + i * size + 4)[0],
            *struct.unpack_from("<QQI", elf, sections_at + i * size + 24),
        )
        for i in range(count)
    ]
    names = []
    for kind, offset, length, link in sections:
        if kind != _SYMBOL_TABLE:
            continue
        strings = sections[link][1]
        for at in range(offset, offset + length, 24):
            name, info, _, section = struct.unpack_from("<IBBH", elf, at)
            if info & 15 in _FUNCTIONS and section != 0:
                start = strings + name
                names.append(elf[start : elf.index(b"\0", start)].decode())
    return names


def strangers(elf: bytes, namespace: str) -> list[str]:
    """Return the functions that the object defines outside gptoss::cpu::`namespace`."""
    inside = f"6gptoss3cpu{len(namespace)}{namespace}"
    return [name for name in defined_functions(elf) if inside not in name]


def main(paths: list[str]) -> int:
    """Check objects named after their instruction set; isa.cpp's own is passed over."""
    objects = [Path(path) for path in paths if not Path(path).name.startswith("isa.")]
    if not objects:
        print("check_symbols: expected objects of csrc/cpu/isa, got none", file=sys.stderr)
        return 2
    found = [
        f"{path}: {name} is not in namespace gptoss::cpu::{path.name.split('.')[0]}"
        for path in objects
        for name in strangers(path.read_bytes(), path.name.split(".")[0])
    ]
    for line in found:
        print(line, file=sys.stderr)
    if not found:
        print(f"check_symbols: {len(objects)} objects, every function in its own namespace")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
