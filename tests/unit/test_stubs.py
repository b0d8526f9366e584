"""The stub of the compiled core says what the module has."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import gptoss
from gptoss import _core

# pybind11's classes have a metaclass of its own, which no stub can name.
METACLASS_DIFFERS = [
    f"gptoss._core.{name}" for name in ("Drafter", "Engine", "Event", "RequestParams", "RopeConfig")
]
# pybind11 gives a class without a constructor one that raises.
NO_CONSTRUCTOR = ["gptoss._core.Event.__init__"]


def test_stub_agrees_with_the_module(tmp_path: Path) -> None:
    allowlist = tmp_path / "allowlist"
    allowlist.write_text("\n".join(METACLASS_DIFFERS + NO_CONSTRUCTOR))
    command = [sys.executable, "-m", "mypy.stubtest", "gptoss._core", "--allowlist", str(allowlist)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


def parameters_in_stub() -> dict[str, list[str]]:
    """Map each function and method of the stub to its parameters, "=" after those with defaults."""
    found = {}
    stub = Path(gptoss.__file__).with_name("_core.pyi").read_text()
    for parent in [tree := ast.parse(stub), *ast.iter_child_nodes(tree)]:
        prefix = f"{parent.name}." if isinstance(parent, ast.ClassDef) else ""
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, ast.FunctionDef) and not node.decorator_list:
                args, defaults = node.args.args, node.args.defaults
                required = [None] * (len(args) - len(defaults))
                pairs = [*zip(args, [*required, *defaults], strict=True)]
                pairs += zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
                names = [arg.arg + ("" if default is None else "=") for arg, default in pairs]
                found[prefix + node.name] = names
    return found


def parameters_in_module(name: str) -> list[str]:
    """Read the parameters from the signature that pybind11 puts first in the docstring."""
    value: object = _core
    for part in name.split("."):
        value = getattr(value, part)
    signature = str(value.__doc__).splitlines()[0]
    inside = signature[signature.index("(") + 1 : signature.rindex(") ->")]
    # Annotations hold commas too, but never a name before a colon.
    starts = list(re.finditer(r"(?:^|, )(\w+): ", inside))
    ends = [*(start.start() for start in starts[1:]), len(inside)]
    return [
        start[1] + ("=" if " = " in inside[start.start() : end] else "")
        for start, end in zip(starts, ends, strict=False)
    ]


def test_stub_has_the_parameters_of_the_module() -> None:
    stub = parameters_in_stub()
    assert len(stub) > 20
    assert stub == {name: parameters_in_module(name) for name in stub}
