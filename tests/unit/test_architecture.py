"""The house of docs/architecture.md: who may import and include whom."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.architecture import (
    circles,
    csrc_room,
    forbidden,
    imports,
    includes,
    python_room,
    read_rooms,
)

ROOT = Path(__file__).resolve().parents[2]
HOUSE = ROOT / "docs" / "architecture.md"
PACKAGE = ROOT / "python" / "gptoss"
CSRC = ROOT / "csrc"


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


SYSTEM = re.compile(
    r"#\s*(?:if|elif|ifdef|ifndef)\b.*\b_*(?:WIN32|WIN64|APPLE|linux|unix|MINGW32|MSC_VER)_*\b"
    r"|#\s*include\s*<(?:windows\.h|unistd\.h|fcntl\.h|pthread\.h|sched\.h|sys/|mach/|linux/|asm/)"
)


def systems_named(
    folder: Path, apart_from: tuple[str, ...] = ("platform", "emulator")
) -> list[str]:
    """Lines of C++ that ask which operating system this is, or include a header of one."""
    found = []
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder)
        if path.suffix not in {".h", ".cpp"} or place.parts[0] in apart_from:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if SYSTEM.match(line.strip()):
                found.append(f"{place}:{number}: {line.strip()}")
    return found


class TestTheHouseThatStands:
    def test_python_has_no_import_circle(self) -> None:
        assert circles(imports(PACKAGE)) == []

    def test_python_rooms_know_what_the_table_allows(self) -> None:
        graph = imports(PACKAGE)
        rooms = read_rooms(HOUSE.read_text(), "python/gptoss")
        assert forbidden(graph, rooms, {name: python_room(name) for name in graph}) == []

    def test_csrc_has_no_include_circle(self) -> None:
        assert circles(includes(CSRC)) == []

    def test_csrc_rooms_include_what_the_table_allows(self) -> None:
        graph = includes(CSRC)
        rooms = read_rooms(HOUSE.read_text(), "csrc")
        assert forbidden(graph, rooms, {name: csrc_room(name, rooms) for name in graph}) == []

    def test_one_room_knows_which_system_it_is(self) -> None:
        assert systems_named(CSRC) == []
        assert systems_named(CSRC / "platform", apart_from=()) != []

    def test_all_of_it_was_read(self) -> None:
        graph = imports(PACKAGE)
        assert "gptoss.harmony.vocabulary" in graph["gptoss.harmony.parser"]
        assert {"gptoss._core", "gptoss.llm", "gptoss.tokenizer"} <= graph["gptoss.load"]
        assert "gptoss.checkpoint.hub" in graph["gptoss.checkpoint.open"]  # inside a function
        assert "gptoss" in graph["gptoss.cli.doctor"]
        files = includes(CSRC)
        assert "backend/backend.h" in files["engine/engine.h"]
        assert "cpu/simd/avx2.h" in files["cpu/isa/avx2.cpp"]


class TestImportCircles:
    @pytest.mark.parametrize(
        "back",
        [
            "from house.roof import tiles",
            "from .roof import tiles",
            "from . import roof",
            "from house import roof",
            "import house.roof",
            "def build():\n    from house.roof import tiles",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.roof import tiles",
        ],
    )
    def test_two_modules(self, tmp_path: Path, back: str) -> None:
        files = {
            "house/__init__.py": "",
            "house/roof.py": "from house.wall import height\n",
            "house/wall.py": back,
        }
        graph = imports(write(tmp_path, files) / "house")
        assert ["house.roof", "house.wall"] in circles(graph)

    def test_through_the_package_that_exports_it(self, tmp_path: Path) -> None:
        files = {
            "house/__init__.py": "from house.roof import tiles\n",
            "house/roof.py": "import house\n",
        }
        assert circles(imports(write(tmp_path, files) / "house")) == [["house", "house.roof"]]

    def test_through_the_init_that_an_import_runs(self, tmp_path: Path) -> None:
        files = {
            "house/__init__.py": "",
            "house/roof/__init__.py": "from house.wall import height\n",
            "house/roof/tiles.py": "",
            "house/wall.py": "from house.roof.tiles import colour\n",
        }
        graph = imports(write(tmp_path, files) / "house")
        assert circles(graph) == [["house.roof", "house.wall"]]

    def test_a_longer_one_and_another(self, tmp_path: Path) -> None:
        files = {
            "house/__init__.py": "",
            "house/a.py": "from house import b",
            "house/b.py": "from house import c",
            "house/c.py": "from house import a, d",
            "house/d.py": "",
            "house/e.py": "from house import f",
            "house/f.py": "from house import d, e",
        }
        graph = imports(write(tmp_path, files) / "house")
        assert circles(graph) == [["house.a", "house.b", "house.c"], ["house.e", "house.f"]]

    def test_a_package_and_its_own_modules_are_none(self, tmp_path: Path) -> None:
        files = {
            "house/__init__.py": "from house.roof import tiles\nfrom house import _core\n",
            "house/_core.pyi": "",
            "house/roof.py": "import os\nfrom house import _core\nfrom house._core import nail\n",
        }
        graph = imports(write(tmp_path, files) / "house")
        assert circles(graph) == []
        assert graph["house.roof"] == {"house._core"}

    @pytest.mark.parametrize("call", ["importlib.import_module(name)", "__import__(name)"])
    def test_what_hides_an_import_is_refused(self, tmp_path: Path, call: str) -> None:
        folder = write(tmp_path, {"house/__init__.py": f"import importlib\n{call}\n"})
        with pytest.raises(ValueError, match="hides what is imported"):
            imports(folder / "house")


TABLE = """
<!-- rooms: house -->

| room | may know | |
|---|---|---|
| `ground` | | earth |
| `wall` | `ground` | stone |
| `wall/door` | `ground`, `wall` | oak |
| `roof` | `wall` | slate |

Below it.
"""


class TestRooms:
    def test_a_table(self) -> None:
        assert read_rooms(TABLE, "house") == {
            "ground": frozenset(),
            "wall": {"ground"},
            "wall/door": {"ground", "wall"},
            "roof": {"wall"},
        }

    def test_no_table(self) -> None:
        with pytest.raises(ValueError, match="no table for 'garden'"):
            read_rooms(TABLE, "garden")

    def test_a_room_that_knows_one_above_it(self) -> None:
        with pytest.raises(ValueError, match=r"ground knows \['roof'\]"):
            read_rooms(TABLE.replace("| `ground` | |", "| `ground` | `roof` |"), "house")

    def test_a_room_twice(self) -> None:
        with pytest.raises(ValueError, match="one new room"):
            read_rooms(TABLE.replace("| `roof` |", "| `wall` |"), "house")

    def test_python_arrows(self) -> None:
        rooms = read_rooms(TABLE.replace("wall/door", "door"), "house")
        graph = {
            "house.ground": {"house.wall.brick"},
            "house.wall.brick": {"house.wall.mortar", "house.ground"},
            "house.wall.mortar": set[str](),
            "house.door": set[str](),
            "house.roof": {"house.ground"},
            "house": {"house.roof"},
        }
        assert forbidden(graph, rooms, {name: python_room(name) for name in graph}) == [
            "house is a room without a row in the table",
            "house.ground knows house.wall.brick: ground may not know wall",
            "house.roof knows house.ground: roof may not know ground",
        ]

    def test_a_row_without_a_room(self) -> None:
        rooms = read_rooms(TABLE, "house")
        found = forbidden({"ground/a.h": set()}, rooms, {"ground/a.h": "ground"})
        assert "roof is a row of the table without a room" in found


class TestIncludes:
    def test_upward(self, tmp_path: Path) -> None:
        files = {
            "ground/earth.h": "#pragma once\n",
            "ground/stone.cpp": '#include <vector>\n#include "roof/tile.h"\n',
            "wall/brick.h": '#include "ground/earth.h"\n#include "wall/door/knob.inl.h"\n',
            "wall/door/knob.inl.h": '#  include "ground/earth.h"\n',
            "roof/tile.h": '// #include "ground/earth.h" is not one\n#include "wall/brick.h"\n',
        }
        graph = includes(write(tmp_path, files))
        rooms = read_rooms(TABLE, "house")
        assert forbidden(graph, rooms, {name: csrc_room(name, rooms) for name in graph}) == [
            "ground/stone.cpp knows roof/tile.h: ground may not know roof",
            "wall/brick.h knows wall/door/knob.inl.h: wall may not know wall/door",
        ]

    def test_through_a_macro(self, tmp_path: Path) -> None:
        files = {"a.cpp": '#define HEADER "b/b.h"\n#include HEADER\n', "b/b.h": ""}
        assert includes(write(tmp_path, files))["a.cpp"] == {"b/b.h"}

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"a\.h includes \['b\.h'\]"):
            includes(write(tmp_path, {"a.h": '#include "b.h"\n'}))

    def test_a_circle(self, tmp_path: Path) -> None:
        files = {"a.h": '#include "b.h"\n', "b.h": '#include "a.h"\n'}
        assert circles(includes(write(tmp_path, files))) == [["a.h", "b.h"]]
