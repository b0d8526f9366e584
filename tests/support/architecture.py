"""Reads who imports and includes whom, and holds it against the house of docs/architecture.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

# What is known by whom: imports between modules, includes between files.
Graph: TypeAlias = dict[str, set[str]]
# Rooms from the ground up, and the rooms that each may know.
Rooms: TypeAlias = dict[str, frozenset[str]]

_INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)
# A file's name that is included through a macro.
_INCLUDED_MACRO = re.compile(r'^\s*#\s*define\s+\w+\s+"([^"]+\.h)"', re.MULTILINE)


def read_rooms(text: str, title: str) -> Rooms:
    """Read the table below the comment `<!-- rooms: title -->`: a room, then what it may know.

    Raises
    ------
    ValueError
        There is no such table, it has a room twice, or one that knows a room that is not above it
        in the table: the table is the order in which the house stands.
    """
    _, mark, rest = text.partition(f"<!-- rooms: {title} -->\n")
    if not mark:
        raise ValueError(f"no table for {title!r}")
    rooms: Rooms = {}
    table = rest.lstrip("\n").split("\n\n")[0].splitlines()
    for line in table[2:]:  # below the head and its rule
        room, knows = (re.findall(r"`([^`]+)`", cell) for cell in line.split("|")[1:3])
        if len(room) != 1 or room[0] in rooms:
            raise ValueError(f"{title}: expected one new room, found {line!r}")
        later = [name for name in knows if name not in rooms]
        if later:
            raise ValueError(f"{title}: {room[0]} knows {later}, which do not stand before it")
        rooms[room[0]] = frozenset(knows)
    return rooms


def imports(package: Path) -> Graph:
    """Read what each module of a package imports from it.

    Imports inside functions count as those at the top do, and so do those under TYPE_CHECKING: who
    names a type knows it. Importing `a.b.c` also runs the `__init__` of `a` and of `a.b`; those
    that the importing module lies in itself run before it in any case, and are not counted.

    Raises
    ------
    ValueError
        A module imports by computed names, which cannot be read here.
    """
    modules = {_module_name(package, path): path for path in package.rglob("*.py")}
    compiled = {_module_name(package, path) for path in package.rglob("*.pyi")}
    known = modules.keys() | compiled
    graph: Graph = {name: set() for name in known}
    for name, path in modules.items():
        tree = ast.parse(path.read_text(), str(path))
        base = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for imported in _imported(tree, base, known):
            lineage = [*_ancestors(imported), imported]
            within = {*_ancestors(name), name}
            graph[name].update(m for m in lineage if m in known and m not in within)
            if imported in _ancestors(name):
                graph[name].add(imported)  # asks its own package for more than a submodule
    return graph


def includes(root: Path) -> Graph:
    """Read what each C++ file below `root` includes from it; paths are relative to `root`.

    Raises
    ------
    ValueError
        A file includes one in quotation marks that is not there.
    """
    files = {p.relative_to(root).as_posix(): p for p in root.rglob("*") if p.suffix in _SUFFIXES}
    graph: Graph = {}
    for name, path in files.items():
        text = path.read_text()
        found = {*_INCLUDE.findall(text), *_INCLUDED_MACRO.findall(text)}
        missing = sorted(found - files.keys())
        if missing:
            raise ValueError(f"{name} includes {missing}, which are not below {root.name}")
        graph[name] = found - {name}
    return graph


_SUFFIXES = {".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".m", ".metal", ".mm"}


def circles(graph: Graph) -> list[list[str]]:
    """Return the groups that know each other in a circle, each sorted."""
    reached = {start: _reachable(graph, start) for start in graph}
    found = {
        tuple(sorted({node, *(other for other in reach if node in reached.get(other, ()))}))
        for node, reach in reached.items()
        if node in reach
    }
    return [list(group) for group in sorted(found)]


def python_room(module: str) -> str:
    """Return a module's room: the first name below the package, or the package itself."""
    package, _, rest = module.partition(".")
    return rest.partition(".")[0] or package


def csrc_room(file: str, rooms: Iterable[str]) -> str:
    """Return a file's room: the innermost of its folders that is one, else its first folder."""
    holding = [room for room in rooms if file.startswith(f"{room}/")]
    return max(holding, key=len, default=file.partition("/")[0])


def forbidden(graph: Graph, rooms: Rooms, room_of: Mapping[str, str]) -> list[str]:
    """Return what the table does not allow, a sentence each: arrows, and rooms it does not have."""
    used = set(room_of.values())
    wrong = [f"{room} is a room without a row in the table" for room in used - rooms.keys()]
    wrong += [f"{room} is a row of the table without a room" for room in rooms.keys() - used]
    for name, known in graph.items():
        for other in known:
            here, there = room_of[name], room_of[other]
            if here != there and here in rooms and there not in rooms[here]:
                wrong.append(f"{name} knows {other}: {here} may not know {there}")
    return sorted(wrong)


def _module_name(package: Path, path: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _ancestors(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _imported(tree: ast.AST, base: str, known: Iterable[str]) -> Iterator[str]:
    """Yield the names of the modules that a module imports; `base` is the package it lies in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
                if alias.asname is None:
                    yield alias.name.partition(".")[0]  # the name that is bound
        elif isinstance(node, ast.ImportFrom):
            parents = base.split(".")
            start = ".".join(parts) if (parts := parents[: len(parents) - node.level + 1]) else ""
            origin = ".".join(filter(None, (start if node.level else "", node.module)))
            for alias in node.names:
                inner = f"{origin}.{alias.name}"
                yield inner if inner in known else origin
        elif isinstance(node, (ast.Attribute, ast.Name)):
            name = node.attr if isinstance(node, ast.Attribute) else node.id
            if name in ("import_module", "__import__"):
                raise ValueError(f"{base}: {name} in line {node.lineno} hides what is imported")


def _reachable(graph: Graph, start: str) -> set[str]:
    seen: set[str] = set()
    left = list(graph.get(start, ()))
    while left:
        node = left.pop()
        if node not in seen:
            seen.add(node)
            left.extend(graph.get(node, ()))
    return seen
