"""The stub of the compiled core says what the module has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# pybind11's classes have a metaclass of its own, which no stub can name.
METACLASS_DIFFERS = ["gptoss._core.Engine", "gptoss._core.RopeConfig"]


def test_stub_agrees_with_the_module(tmp_path: Path) -> None:
    allowlist = tmp_path / "allowlist"
    allowlist.write_text("\n".join(METACLASS_DIFFERS))
    command = [sys.executable, "-m", "mypy.stubtest", "gptoss._core", "--allowlist", str(allowlist)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
