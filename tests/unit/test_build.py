"""The build: which compilers and processors it takes, what it says of others, what kernels link."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import struct
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(
    not (ROOT / "CMakeLists.txt").is_file(), reason="needs the source tree"
)


def load_tool(name: str) -> ModuleType:
    path = str(ROOT / "tools" / name)
    loader = SourceFileLoader(Path(name).stem, path)
    spec = importlib.util.spec_from_file_location(loader.name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module  # dataclasses look for their module there
    loader.exec_module(module)
    return module


def ask_cmake(**values: str) -> dict[str, str]:
    """Return what cmake/compiler.cmake says of a compiler and a processor."""
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("needs cmake")
    defines = [f"-D{name}={value}" for name, value in values.items()]
    run = subprocess.run(
        [cmake, *defines, "-P", ROOT / "cmake" / "compiler.cmake"],
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(re.findall(r"-- (\w+): ?(.*)", run.stdout))


def run_cmake(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    """Run CMake's language."""
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("needs cmake")
    script = folder / "script.cmake"
    script.write_text(f"cmake_minimum_required(VERSION 3.20)\n{text}")
    return subprocess.run([cmake, "-P", script], capture_output=True, text=True)


class TestCompilers:
    @pytest.mark.parametrize(
        ("compiler", "version", "simulate"),
        [
            ("GNU", "11.0.0", ""),
            ("GNU", "15.2.0", ""),
            ("Clang", "14.0.0", ""),
            ("Clang", "19.1.0", "MSVC"),
            ("AppleClang", "14.0.3", ""),
        ],
    )
    def test_those_that_build_it(self, compiler: str, version: str, simulate: str) -> None:
        assert ask_cmake(ID=compiler, VERSION=version, SIMULATE=simulate)["fault"] == ""

    @pytest.mark.parametrize(
        ("compiler", "version", "simulate", "says"),
        [
            ("GNU", "10.2.1", "", "GCC 10.2.1 is too old: gptoss needs GCC 11"),
            ("Clang", "13.0.1", "", "clang 13.0.1 is too old: gptoss needs clang 14"),
            ("AppleClang", "13.1.6", "", "Apple clang 13.1.6 is too old"),
            ("MSVC", "19.44.35207", "", "cl.exe does not build gptoss: use clang-cl"),
            ("GNU", "14.2.0", "MINGW", "use clang-cl"),
        ],
    )
    def test_those_that_do_not(self, compiler: str, version: str, simulate: str, says: str) -> None:
        assert says in ask_cmake(ID=compiler, VERSION=version, SIMULATE=simulate)["fault"]


class TestProcessors:
    @pytest.mark.parametrize(
        ("name", "kernels"),
        [
            ("x86_64", "x86"),
            ("AMD64", "x86"),
            ("aarch64", "arm"),
            ("ARM64", "arm"),
            ("arm64", "arm"),
            ("x86_64;arm64", ""),
            ("riscv64", ""),
            ("i686", ""),
            ("", ""),
        ],
    )
    def test_kernels(self, name: str, kernels: str) -> None:
        assert ask_cmake(PROCESSOR=name)["kernels"] == kernels


@pytest.mark.skipif(sys.platform != "linux", reason="builds as Linux does")
class TestWhatABuildSays:
    """Configures with compilers that are not what they say, or not there."""

    def configure(self, folder: Path, **environment: str) -> str:
        cmake = shutil.which("cmake")
        ninja = shutil.which("ninja")
        if cmake is None or ninja is None:
            pytest.skip("needs cmake and ninja")
        options = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}", "-DCCACHE="]
        run = subprocess.run(
            [cmake, "-S", ROOT, "-B", folder / "build", *options],
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
        )
        assert run.returncode != 0
        return run.stderr

    def test_no_compiler(self, tmp_path: Path) -> None:
        said = self.configure(tmp_path, CXX="", PATH=str(tmp_path))
        (line,) = [line for line in said.splitlines() if "no C++ compiler was found" in line]
        assert "install GCC 11 or clang 14 or newer" in line
        assert "or use a finished wheel" in line

    def test_a_compiler_that_is_not_there(self, tmp_path: Path) -> None:
        said = self.configure(tmp_path, CXX="g++-that-is-not-here")
        assert "no C++ compiler was found (CXX is g++-that-is-not-here)" in said

    @pytest.mark.parametrize(
        ("macros", "says"),
        [
            ("-U__GNUC__ -D__GNUC__=10", "GCC 10."),
            (
                "-D__clang__ -D__clang_major__=13 -D__clang_minor__=0 -D__clang_patchlevel__=1",
                "clang 13.0.1 is too old: gptoss needs clang 14 or newer",
            ),
        ],
    )
    def test_an_old_compiler(self, tmp_path: Path, macros: str, says: str) -> None:
        real = shutil.which("g++")
        if real is None:
            pytest.skip("needs g++")
        fake = tmp_path / "c++"
        fake.write_text(f'#!/bin/sh\nexec {real} {macros} "$@"\n')
        fake.chmod(0o755)
        said = self.configure(tmp_path, CXX=str(fake))
        assert len([line for line in said.splitlines() if says in line]) == 1

    def backend_says(self, folder: Path, before: str, **environment: str) -> str:
        """Return the last line of a build without isolation, where pip brings no programs."""
        pytest.importorskip("scikit_build_core")
        pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        assert 'build-backend = "build_backend"\nbackend-path = ["cmake"]\n' in pyproject
        code = (
            f"import sys; {before}; sys.path.insert(0, 'cmake'); import build_backend as backend; "
            "backend.build_wheel(sys.argv[1])"
        )
        run = subprocess.run(
            [sys.executable, "-B", "-c", code, folder / "wheel"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
        )
        assert run.returncode == 1
        *warnings, line = run.stderr.splitlines()
        assert all("WARNING - Could not determine CMake version" in said for said in warnings)
        return line

    @pytest.mark.parametrize(
        ("body", "found"),
        [
            ('echo \'{"version": {"string": "3.10.2"}}\'', "3.10.2"),
            ("echo ModuleNotFoundError: cmake; exit 1", "one that does not run"),
        ],
    )
    @pytest.mark.parametrize("is_named", [True, False])
    def test_a_wrong_cmake(self, tmp_path: Path, body: str, found: str, is_named: bool) -> None:
        fake = tmp_path / "cmake"
        fake.write_text(f"#!/bin/sh\n{body}\n")
        fake.chmod(0o755)
        if is_named:
            line = self.backend_says(tmp_path, "pass", CMAKE_EXECUTABLE=str(fake))
            advice = "unset CMAKE_EXECUTABLE, which names it"
        else:
            without_its_package = "sys.modules['cmake'] = None"
            line = self.backend_says(
                tmp_path, without_its_package, CMAKE_EXECUTABLE="", PATH=str(tmp_path)
            )
            advice = (
                "pip install -U cmake, or leave out --no-build-isolation, and pip brings its own"
            )
        assert line == (
            f"gptoss: Could not find CMake with version >=3.20; found {found} ({fake}): {advice}"
        )

    def test_no_ninja(self, tmp_path: Path) -> None:
        cmake = shutil.which("cmake")
        if cmake is None:
            pytest.skip("needs cmake")
        (tmp_path / "cmake").symlink_to(cmake)
        line = self.backend_says(
            tmp_path,
            "sys.modules['ninja'] = None",
            PATH=str(tmp_path),
            CMAKE_EXECUTABLE="",
            CMAKE_GENERATOR="",
            CMAKE_ARGS="",
        )
        assert line == (
            "gptoss: Ninja or make is required to build; found none: pip install -U ninja, or "
            "leave out --no-build-isolation, and pip brings its own"
        )


class TestWhatTheDocumentsExplain:
    @pytest.mark.parametrize(
        ("text", "source"),
        [
            ("no C++ compiler was found", "CMakeLists.txt"),
            ("gptoss has no kernels for the processor", "CMakeLists.txt"),
            ("is too old", "cmake/compiler.cmake"),
            ("cl.exe does not build gptoss", "cmake/compiler.cmake"),
            ("gptoss does not run on free-threaded Python yet", "python/gptoss/__init__.py"),
        ],
    )
    def test_what_a_build_says(self, text: str, source: str) -> None:
        assert text in (ROOT / source).read_text(encoding="utf-8")
        assert text in (ROOT / "docs" / "install.md").read_text(encoding="utf-8")


def coff_object(symbols: list[tuple[str, int, int]]) -> bytes:
    """Return an object for x86-64 without sections; symbols are name, section and type."""
    table, names = b"", b""
    for name, section, kind in symbols:
        encoded = name.encode()
        if len(encoded) > 8:
            at = 4 + len(names)
            names += encoded + b"\0"
            encoded = struct.pack("<II", 0, at)
        # Each with a further record, which is no symbol.
        table += struct.pack("<8sIhHBB", encoded, 0, section, kind, 2, 1) + b"\xff" * 18
    header = struct.pack("<HHIIIHH", 0x8664, 0, 0, 20, len(table) // 18, 0, 0)
    return header + table + struct.pack("<I", 4 + len(names)) + names


def macho_file(commands: list[bytes], after: bytes = b"", processor: int = 0x0100000C) -> bytes:
    size = sum(map(len, commands))
    head = struct.pack("<8I", 0xFEEDFACF, processor, 0, 0, len(commands), size, 0, 0)
    return head + b"".join(commands) + after


def macho_object(sections: list[str], symbols: list[tuple[str, int, int, int]]) -> bytes:
    """Return an object whose symbols are name, type, section and description."""
    named = b"".join(name.encode().ljust(80, b"\0") for name in sections)
    segment = struct.pack("<II56xII", 0x19, 72 + len(named), len(sections), 0) + named
    table, names = b"", b"\0"
    for name, kind, section, description in symbols:
        table += struct.pack("<IBBHQ", len(names), kind, section, description, 0)
        names += name.encode() + b"\0"
    begin = 32 + len(segment) + 24
    end = begin + len(table)
    table_command = struct.pack("<6I", 0x02, 24, begin, len(symbols), end, len(names))
    return macho_file([segment, table_command], table + names)


@pytest.mark.skipif(sys.platform != "linux", reason="reads ELF objects")
class TestSymbols:
    def compile(self, folder: Path, source: str) -> bytes:
        compiler = shutil.which("g++")
        if compiler is None:
            pytest.skip("needs g++")
        (folder / "a.cpp").write_text(source)
        subprocess.run([compiler, "-c", "a.cpp", "-o", "a.o"], cwd=folder, check=True)
        return (folder / "a.o").read_bytes()

    def test_a_function_in_its_namespace(self, tmp_path: Path) -> None:
        elf = self.compile(
            tmp_path,
            "namespace gptoss::cpu::avx2 { namespace { int inner() { return 1; } }"
            " int outer() { return inner(); } } int data = 1;",
        )
        check_symbols = load_tool("check_symbols.py")
        assert check_symbols.strangers(elf, "avx2") == []
        assert len(check_symbols.strangers(elf, "avx512")) == 2

    def test_an_inline_function_that_all_share(self, tmp_path: Path) -> None:
        elf = self.compile(
            tmp_path,
            "namespace gptoss { inline int shared(int x) { return x; } }"
            " namespace gptoss::cpu::avx2 { int (*table)(int) = gptoss::shared; }",
        )
        found = load_tool("check_symbols.py").strangers(elf, "avx2")
        assert found == ["_ZN6gptoss6sharedEi"]

    def test_coff(self) -> None:
        inside = "_ZN6gptoss3cpu4avx25outerEv"
        long = "x" * 400  # so that the next name's place in the file is no text
        coff = coff_object(
            [(long, 1, 0), (inside, 1, 0x20), ("main", 1, 0x20), ("data", 1, 0), ("puts", 0, 0x20)]
        )
        check_symbols = load_tool("check_symbols.py")
        assert check_symbols.defined_functions(coff) == [inside, "main"]
        assert check_symbols.strangers(coff, "avx2") == ["main"]

    def test_macho(self) -> None:
        inside = "_ZN6gptoss3cpu4neon5outerEv"
        defined, undefined = 0x0F, 0x01
        symbols = [
            ("_" + inside, defined, 1, 0),
            ("_main", defined, 1, 0),
            ("ltmp0", 0x0E, 1, 0),  # a label
            ("_data", defined, 2, 0),
            ("_puts", undefined, 0, 0),
        ]
        macho = macho_object(["__text", "__const"], symbols)
        check_symbols = load_tool("check_symbols.py")
        assert check_symbols.defined_functions(macho) == [inside, "main"]
        assert check_symbols.strangers(macho, "neon") == ["main"]

    def test_something_else_than_an_object(self) -> None:
        with pytest.raises(ValueError, match="expected a 64-bit ELF, Mach-O or COFF object"):
            load_tool("check_symbols.py").defined_functions(b"!<arch>\n")


@pytest.mark.skipif(sys.platform != "linux", reason="builds wheels on Linux")
class TestWheels:
    @pytest.fixture
    def build_wheels(self, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        return load_tool("build_wheels")

    def python(self, folder: Path, says: str) -> str:
        """Return a command that answers like a Python."""
        command = folder / "python"
        command.write_text(f"#!/bin/sh\necho {says}\n")
        command.chmod(0o755)
        return str(command)

    def test_a_python_with_its_headers(self, tmp_path: Path, build_wheels: ModuleType) -> None:
        (tmp_path / "Python.h").write_text("")
        command = self.python(tmp_path, f"3 12 {tmp_path}")
        assert build_wheels.ask_python(command) == ("3.12", tmp_path)

    @pytest.mark.parametrize(
        ("says", "error"),
        [
            ("3 9 /headers", "expected Python 3.10 to 3.14, .*python is 3.9"),
            ("3 12 /headers", "expected /headers/Python.h, the headers of .*python"),
        ],
    )
    def test_pythons_that_none_is_built_for(
        self, tmp_path: Path, build_wheels: ModuleType, says: str, error: str
    ) -> None:
        with pytest.raises(SystemExit, match=error):
            build_wheels.ask_python(self.python(tmp_path, says))

    def test_no_python(self, tmp_path: Path, build_wheels: ModuleType) -> None:
        with pytest.raises(SystemExit, match=r"expected a Python that runs, got .*nothing"):
            build_wheels.ask_python(str(tmp_path / "nothing"))

    def test_what_a_module_for_macos_needs(self, build_wheels: ModuleType) -> None:
        name = b"/usr/lib/libSystem.B.dylib\0".ljust(32, b"\0")
        library = struct.pack("<6I", 0x0C, 24 + len(name), 24, 0, 0, 0) + name
        version = struct.pack("<6I", 0x32, 24, 1, 11 << 16, 14 << 16, 0)
        signature = struct.pack("<4I", 0x1D, 16, 0, 0)
        found = build_wheels.MachO.read(macho_file([library, version, signature]))
        assert found == build_wheels.MachO(
            "arm64", "11.0", ("/usr/lib/libSystem.B.dylib",), (), is_signed=True
        )
        found.check("arm64")
        with pytest.raises(SystemExit, match=r"expected MachO\(processor='x86_64'.*got .*'arm64'"):
            found.check("x86_64")
        newer = struct.pack("<6I", 0x32, 24, 1, 13 << 16 | 3 << 8, 14 << 16, 0)
        for commands in ([library, newer, signature], [library, version], [version, signature]):
            wrong = build_wheels.MachO.read(macho_file(commands))
            with pytest.raises(SystemExit, match=r"expected MachO\(processor='arm64'"):
                wrong.check("arm64")
        with pytest.raises(ValueError, match="expected a 64-bit little-endian Mach-O file"):
            build_wheels.MachO.read(b"\x7fELF")

    def test_macs_with_x86_load_what_is_not_signed(self, build_wheels: ModuleType) -> None:
        name = b"/usr/lib/libSystem.B.dylib\0".ljust(32, b"\0")
        library = struct.pack("<6I", 0x0C, 24 + len(name), 24, 0, 0, 0) + name
        version = struct.pack("<6I", 0x32, 24, 1, 11 << 16, 14 << 16, 0)
        found = build_wheels.MachO.read(macho_file([library, version], processor=0x01000007))
        assert found.processor == "x86_64"
        assert not found.is_signed
        found.check("x86_64")

    def test_symbols_that_macos_would_look_up_anywhere(self, build_wheels: ModuleType) -> None:
        undefined, of_library = 0x01, 1 << 8
        symbols = [
            ("_PyList_New", undefined, 0, 0),
            ("__Py_Dealloc", undefined, 0, 254 << 8),
            ("_malloc", undefined, 0, of_library),
            ("_main", 0x0F, 1, 0),
            ("__ZNSt3__16thread4joinEv", undefined, 0, 254 << 8),
        ]
        found = build_wheels.MachO.read(macho_object(["__text"], symbols))
        assert found.strangers == ("__ZNSt3__16thread4joinEv",)

    def test_what_windows_python_exports(self, tmp_path: Path, build_wheels: ModuleType) -> None:
        (tmp_path / "Python.h").write_text(
            "PyAPI_FUNC(PyObject *) PyList_New(Py_ssize_t size);\n"
            "PyAPI_DATA(PyTypeObject) PyList_Type;\nint PyList_Size;\n"
        )
        (tmp_path / "inner").mkdir()
        (tmp_path / "inner" / "list.h").write_text("PyAPI_FUNC(int)\n    PyList_Sort(PyObject *);")
        names = build_wheels.exported_names(tmp_path)
        assert names == ["PyList_New", "PyList_Sort", "PyList_Type DATA"]

    def test_names_of_wheels(self, build_wheels: ModuleType) -> None:
        platforms = {name: target.platform for name, target in build_wheels.TARGETS.items()}
        assert platforms == {
            "linux-x86_64": "linux_x86_64",
            "linux-aarch64": "linux_aarch64",
            "windows": "win_amd64",
            "macos-arm64": "macosx_11_0_arm64",
            "macos-x86_64": "macosx_11_0_x86_64",
        }

    def test_pythons_are_those_of_the_package(self, build_wheels: ModuleType) -> None:
        text = (ROOT / "pyproject.toml").read_text()
        (listed,) = re.findall(r'^build = "(.*)"$', text, re.MULTILINE)
        names = [f"cp{version.replace('.', '')}-*" for version in build_wheels.PYTHONS]
        assert listed.split() == names


def cubin(
    kernels: dict[str, int],
    *,
    abi: tuple[int, int] = (0x33, 7),
    frames: dict[str, int] | None = None,
) -> bytes:
    """Return an ELF file that names kernels, the registers of each, and bytes of stack."""
    names = b"\0.nv.info\0.symtab\0.strtab\0" + b"".join(k.encode() + b"\0" for k in kernels)
    symbols, info = bytes(24), b""
    for i, (kernel, registers) in enumerate(kernels.items(), 1):
        symbols += struct.pack("<I20x", names.index(kernel.encode() + b"\0"))
        frame = (frames or {}).get(kernel, 0)
        info += struct.pack("<BBHII", 4, 0x2F, 8, i, registers) + struct.pack("<BBH", 3, 0x1B, 9)
        info += struct.pack("<BBHII", 4, 0x11, 8, i, frame)
    head = b"\x7fELF\2\1\1" + bytes(abi)
    body, sections = b"", bytes(64)
    for name, kind, content in (
        (".nv.info", 0, info),
        (".symtab", 2, symbols),
        (".strtab", 3, names),
    ):
        place = 64 + len(body)
        at = names.index(name.encode())
        sections += struct.pack("<II16xQQII16x", at, kind, place, len(content), 3, 0)
        body += content
    table = struct.pack("<QIHHHHHH", 64 + len(body), 0, 64, 0, 0, 64, 4, 3)
    return head.ljust(0x28, b"\0") + table + body + sections


# What nvcc --list-gpu-code says, by release.
KNOWN_CODES = {
    "12.0": (75, 80, 86, 87, 89, 90),
    "12.8": (75, 80, 86, 87, 89, 90, 100, 101, 120),
    "13.0": (75, 80, 86, 87, 88, 89, 90, 100, 110, 103, 120, 121),
}


@pytest.mark.skipif(sys.platform != "linux", reason="builds kernels on Linux")
class TestKernels:
    """What tools/build_fatbin finds wrong with a file of kernels, and what builds take."""

    @pytest.fixture
    def build_fatbin(self, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        return load_tool("build_fatbin")

    def file_of(
        self,
        tool: ModuleType,
        *,
        version: str = "8.0",
        digest: str = "",
        leave_out: str = "",
        flags: int = 0,
        entry: tuple[int, int] = (8, 0),
        **of_cubin: object,
    ) -> bytes:
        """Return a file as the tool makes them, or one that is wrong in one way."""
        out = b""
        for source, made_of in tool.source_digests().items():
            if source == leave_out:
                continue
            kernels = {f"{source[:-3]}_a": 40, f"{source[:-3]}_b": 255}
            text = f".version {version}\n.target sm_{{}}\n.address_size 64\n"
            text += "".join(f".visible .entry {kernel}()\n" for kernel in kernels)
            text += f'.file 9999 "gptoss kernels of {source} {digest or made_of}"\n'
            body = b""
            for name in tool.ARCHITECTURES:
                if name == leave_out:
                    continue
                kind, number, suffix = re.fullmatch(r"(\w+)_(\d+)([af]?)", name).groups()
                if kind == "compute":
                    payload, major, minor = text.format(number).encode(), *entry
                else:
                    of = {"abi": (0x41, 8) if int(number) >= 100 else (0x33, 7)} | of_cubin
                    payload, major, minor = cubin(kernels, **of), 1, of["abi"][1]
                bits = {"": 0x11, "a": 0x100011, "f": 0x1200011}[suffix] | flags
                body += struct.pack(
                    "<HHIQQHHIQQ16x", 1 + (kind == "sm"), 0x101, 64, len(payload), 0,
                    minor, major, int(number), 0, bits,
                ) + payload  # fmt: skip
            out += struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body
        return out

    def test_a_file_for_wheels(self, build_fatbin: ModuleType) -> None:
        table = build_fatbin.check(self.file_of(build_fatbin))
        n_sources = len(list((ROOT / "csrc/cuda/kernels").glob("*.cu")))
        assert f"{2 * n_sources} kernels of {n_sources} sources, no spills" in table
        assert re.search(r"^sm_90a +\d+ +\d+ +255  525 \(12.0\)$", table, re.MULTILINE)
        assert re.search(r"^compute_80 +\d+ +\d+ +525 \(12.0\)$", table, re.MULTILINE)

    @pytest.mark.parametrize(
        ("wrong", "error"),
        [
            (
                {"version": "8.3"},
                r"compute_80 of .*, version of PTX: expected \(8, 0\), got \(8, 3",
            ),
            ({"entry": (9, 0)}, r"version of PTX in the entry: expected \(8, 0\), got \(9, 0\)"),
            ({"abi": (0x41, 8)}, r"sm_80 of .*, ABI .*: expected \(51, 7\), got \(65, 8\)"),
            ({"abi": (0x33, 7)}, r"sm_100f of .*, ABI .*: expected \(65, 8\), got \(51, 7\)"),
            ({"frames": {"attention_b": 8}}, r"sm_80 of attention.cu, .*'attention_b': 8"),
            ({"digest": "0" * 64}, r"attention.cu, hash of the source .*, got 0000"),
            ({"leave_out": "sample.cu"}, r"sources that are not in the file: .* \['sample.cu'\]"),
            ({"leave_out": "sm_87"}, r"architectures: expected .*'sm_87'"),
            ({"flags": 0x8000}, "expected no compressed entry"),
        ],
    )
    def test_a_file_that_is_wrong(
        self, build_fatbin: ModuleType, wrong: dict[str, object], error: str
    ) -> None:
        with pytest.raises(build_fatbin.WrongKernels, match=error):
            build_fatbin.check(self.file_of(build_fatbin, **wrong))

    def test_something_else(self, build_fatbin: ModuleType) -> None:
        whole = self.file_of(build_fatbin)
        for data, error in (
            (b"\x7fELF" * 8, "expected a fat binary at byte 0"),
            (whole[:-1], "bytes"),
        ):
            with pytest.raises(build_fatbin.WrongKernels, match=error):
                build_fatbin.check(data)

    @pytest.mark.parametrize(
        ("cards", "release", "architectures"),
        [
            ("", "13.0", "NONE"),
            ("NVIDIA-SMI has failed", "13.0", "NONE"),
            ("9.0, 580.95.05", "13.0", "sm_90"),
            ("9.0, 570.86.15\n9.0, 570.86.15", "12.8", "sm_90"),
            ("8.6, 570.86.15\n7.5, 570.86.15\n12.0, 570.86.15", "12.8", "sm_86;sm_120"),
            ("9.0, 575.57.08", "13.0", "PTX"),
            ("7.5, 580.95.05", "13.0", ""),
            # Cards that nvcc does not know yet.
            ("8.6, 570.86.15\n12.0, 570.86.15", "12.0", "sm_86"),
            ("10.0, 570.86.15", "12.0", ""),
            ("10.3, 575.57.08\n10.0, 575.57.08", "12.8", "sm_100"),
            ("10.3, 580.95.05\n12.1, 580.95.05", "13.0", "sm_103;sm_121"),
        ],
    )
    def test_machine_code_of_cards_is_what_their_driver_loads(
        self, tmp_path: Path, cards: str, release: str, architectures: str
    ) -> None:
        codes = "".join(f"sm_{number}\n" for number in KNOWN_CODES[release])
        said = run_cmake(
            tmp_path,
            f"include({ROOT}/cmake/cuda_cards.cmake)\n"
            f'gptoss_architectures_of_cards("{cards}" "release {release}, V1" "{codes}" found)\n'
            'message("found: ${found}")\n',
        )
        assert said.stderr.rstrip() == f"found: {architectures}".rstrip()

    def test_a_build_takes_no_kernels_of_other_sources(
        self, build_fatbin: ModuleType, tmp_path: Path
    ) -> None:
        kernels = tmp_path / "kernels.fatbin"

        def said() -> str:
            run = run_cmake(
                tmp_path,
                f"include({ROOT}/cmake/cuda_digest.cmake)\n"
                f"file(GLOB sources {ROOT}/csrc/cuda/kernels/*.cu)\n"
                f"file(GLOB headers {ROOT}/csrc/cuda/kernels/*.cuh {ROOT}/csrc/cuda/kernels/*.h)\n"
                f'gptoss_check_kernels({kernels} "${{sources}}" "${{headers}}")\n',
            )
            assert (run.returncode != 0) == bool(run.stderr)
            return " ".join(run.stderr.split())

        kernels.write_bytes(self.file_of(build_fatbin))
        assert said() == ""
        kernels.write_bytes(self.file_of(build_fatbin, digest="0" * 64))
        assert (
            'kernels.fatbin was not made of these sources: expected "gptoss kernels of attention.cu'
            in said()
        )
        kernels.write_bytes(b"junk")
        assert 'is no fat binary: expected it to begin with 50ed55ba, got "6a756e6b"' in said()
        kernels.write_bytes(b"")
        assert 'is no fat binary: expected it to begin with 50ed55ba, got ""' in said()
        machine_code = cubin({"attention_a": 40})
        kernels.write_bytes(
            struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(machine_code)) + machine_code
        )
        assert "does not say which sources it was made of: expected PTX" in said()

    def test_a_build_checks_kernels_again_when_sources_change(
        self, build_fatbin: ModuleType, tmp_path: Path
    ) -> None:
        cmake, ninja = shutil.which("cmake"), shutil.which("ninja")
        if cmake is None or ninja is None:
            pytest.skip("needs cmake and ninja")
        shutil.copytree(ROOT / "cmake", tmp_path / "cmake")
        shutil.copytree(ROOT / "csrc" / "cuda", tmp_path / "csrc" / "cuda")
        (tmp_path / "kernels.fatbin").write_bytes(self.file_of(build_fatbin))
        (tmp_path / "CMakeLists.txt").write_text(
            "cmake_minimum_required(VERSION 3.20)\nproject(kernels NONE)\nset(GPTOSS_CUDA ON)\n"
            "add_custom_target(gptoss_core)\ninclude(cmake/cuda.cmake)\n"
        )
        configure = [cmake, "-S", tmp_path, "-B", tmp_path / "build", "-G", "Ninja"]
        configure += [f"-DCMAKE_MAKE_PROGRAM={ninja}"]
        configure += [f"-DGPTOSS_CUDA_FATBIN={tmp_path / 'kernels.fatbin'}"]
        subprocess.run(configure, capture_output=True, check=True)
        build = [cmake, "--build", tmp_path / "build"]
        subprocess.run(build, capture_output=True, check=True)
        header = next((tmp_path / "csrc" / "cuda" / "kernels").glob("*.cuh"))
        header.write_text(header.read_text() + "\n")
        run = subprocess.run(build, capture_output=True, text=True)
        assert run.returncode != 0
        assert "was not made of these sources" in " ".join((run.stdout + run.stderr).split())

    def compile_fake(self, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Compile a kernel in a folder with tools that note what they are asked for."""
        cmake = shutil.which("cmake")
        if cmake is None:
            pytest.skip("needs cmake")
        tools = folder.parent / "bin"
        if not tools.exists():
            tools.mkdir()
            for name in ("nvcc", "ptxas", "fatbinary"):
                (tools / name).write_text(
                    "#!/bin/sh\n"
                    'case "$*" in --version) echo 1.0; exit;; esac\n'
                    f'echo "{name} $*" >>"{folder.parent}/calls"\n'
                    "for a; do case $a in --create=*) o=${a#--create=};; esac\n"
                    '[ "$last" = -o ] && o=$a; last=$a; done\n'
                    '[ -z "$o" ] || printf ".target sm_80\\n.version 8.0\\n" >"$o"\n'
                    f'[ "$BROKEN" != {name} ]\n'
                )
                (tools / name).chmod(0o755)
        if not folder.exists():
            shutil.copytree(ROOT / "cmake", folder / "cmake")
            (folder / "a.cu").write_text("kernel\n")
            (folder / "a.cuh").write_text("header\n")
        return subprocess.run(
            [
                cmake, f"-DNVCC={tools / 'nvcc'}", "-DARCHITECTURES=compute_80,sm_80",
                f"-DSOURCES={folder / 'a.cu'}", f"-DHEADERS={folder / 'a.cuh'}",
                f"-DOUT={folder / 'out'}", "-P", folder / "cmake" / "cuda_kernels.cmake",
            ],
            capture_output=True,
            text=True,
            env={**os.environ, "XDG_CACHE_HOME": str(folder.parent / "cache"), **environment},
        )  # fmt: skip

    def test_kernels_are_compiled_once_for_all_folders(self, tmp_path: Path) -> None:
        def compiled() -> list[str]:
            calls = (tmp_path / "calls").read_text().splitlines()
            (tmp_path / "calls").unlink()
            return [call.split()[0] for call in calls]

        assert self.compile_fake(tmp_path / "one").returncode == 0
        assert compiled() == ["nvcc", "ptxas", "fatbinary"]
        assert self.compile_fake(tmp_path / "two").returncode == 0
        assert compiled() == ["fatbinary"]
        (tmp_path / "two" / "a.cuh").write_text("another header\n")
        assert self.compile_fake(tmp_path / "two").returncode == 0
        assert compiled() == ["nvcc", "ptxas", "fatbinary"]

    @pytest.mark.parametrize("tool", ["nvcc", "ptxas", "fatbinary"])
    def test_a_compiler_that_fails_leaves_nothing(self, tmp_path: Path, tool: str) -> None:
        run = self.compile_fake(tmp_path / "one", BROKEN=tool)
        assert run.returncode != 0
        assert "failed (1)" in run.stderr
        kept = [path.suffix for path in (tmp_path / "cache" / "gptoss" / "kernels").iterdir()]
        assert (
            sorted(kept) == {"nvcc": [], "ptxas": [".ptx"], "fatbinary": [".cubin", ".ptx"]}[tool]
        )
        assert list((tmp_path / "one").glob("out*")) == []


class TestFreeThreadedPython:
    def test_is_refused_in_one_sentence(self) -> None:
        code = (
            "import sysconfig\n"
            "real = sysconfig.get_config_var\n"
            "def free_threaded(name):\n"
            "    return 1 if name == 'Py_GIL_DISABLED' else real(name)\n"
            "sysconfig.get_config_var = free_threaded\n"
            "try:\n"
            "    import gptoss\n"
            "except ImportError as error:\n"
            "    print(error)\n"
        )
        run = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout == (
            "gptoss does not run on free-threaded Python yet: expected the ordinary build, whose "
            "name does not end in t\n"
        )
