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


def _text(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode()


def _in_elf(elf: bytes) -> list[str]:
    symbol_table = 2  # SHT_SYMTAB
    functions = (2, 10)  # STT_FUNC, STT_GNU_IFUNC
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
        if kind != symbol_table:
            continue
        for at in range(offset, offset + length, 24):
            name, info, _, section = struct.unpack_from("<IBBH", elf, at)
            if info & 15 in functions and section != 0:
                names.append(_text(elf, sections[link][1] + name))
    return names


def _in_coff(coff: bytes) -> list[str]:
    function = 0x20
    table, count = struct.unpack_from("<II", coff, 8)
    names = []
    i = 0
    while i < count:
        at = table + i * 18
        section, kind, _, n_further = struct.unpack_from("<hHBB", coff, at + 12)
        if kind == function and section > 0:
            zeros, offset = struct.unpack_from("<II", coff, at)  # zeros: a name of more than 8
            if zeros == 0:
                names.append(_text(coff, table + count * 18 + offset))
            else:
                names.append(coff[at : at + 8].rstrip(b"\0").decode())
        i += 1 + n_further
    return names


def _in_macho(macho: bytes) -> list[str]:
    segment, symbol_table = 0x19, 0x02  # LC_SEGMENT_64, LC_SYMTAB
    stab, kinds, in_section = 0xE0, 0x0E, 0x0E  # N_STAB, N_TYPE, N_SECT
    (n_commands,) = struct.unpack_from("<I", macho, 16)
    at = 32
    sections = []
    names = []
    for _ in range(n_commands):
        command, size = struct.unpack_from("<II", macho, at)
        if command == segment:
            (n_sections,) = struct.unpack_from("<I", macho, at + 64)
            sections += [macho[at + 72 + i * 80 :][:16].rstrip(b"\0") for i in range(n_sections)]
        if command == symbol_table:
            symbols, count, strings = struct.unpack_from("<III", macho, at + 8)
            for symbol in range(symbols, symbols + count * 16, 16):
                name, kind, section = struct.unpack_from("<IBB", macho, symbol)
                is_defined = kind & stab == 0 and kind & kinds == in_section
                # Labels of the assembler begin with l or L.
                text = _text(macho, strings + name)
                if is_defined and sections[section - 1] == b"__text" and text.startswith("_"):
                    names.append(text[1:])
        at += size
    return names


_READERS = {
    b"\x7fELF\x02\x01": _in_elf,
    b"\x64\x86": _in_coff,  # its first bytes are the processor: x86-64
    b"\xcf\xfa\xed\xfe": _in_macho,
}


def defined_functions(data: bytes) -> list[str]:
    """Return the mangled names of the functions that an object defines.

    Raises:
        ValueError: it is neither 64-bit little-endian ELF or Mach-O nor COFF for x86-64.
    """
    for magic, read in _READERS.items():
        if data.startswith(magic):
            return read(data)
    raise ValueError(f"expected a 64-bit ELF, Mach-O or COFF object, got {data[:6]!r}")


def strangers(data: bytes, namespace: str) -> list[str]:
    """Return the functions that the object defines outside gptoss::cpu::`namespace`."""
    inside = f"6gptoss3cpu{len(namespace)}{namespace}"
    return [name for name in defined_functions(data) if inside not in name]


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
