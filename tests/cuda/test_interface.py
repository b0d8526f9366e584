"""The driver's interface as csrc/cuda/driver.h has it is that of the toolkit's cuda.h."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from cuda.kernels import NVCC

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
COMPILER = shutil.which("c++") or shutil.which("g++")
INCLUDES = [
    folder
    for folder in (
        Path(NVCC or "/nowhere/bin/nvcc").parents[1] / "include",
        Path("/usr/local/cuda/include"),
    )
    if (folder / "cudaTypedefs.h").exists()
]
pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler"),
    pytest.mark.skipif(not INCLUDES, reason="needs cuda.h of the CUDA toolkit"),
]

OLDEST = 12000


def asked() -> dict[str, int]:
    """Return each entry point and the version of CUDA that the driver is asked for it of."""
    header = (CSRC / "cuda/driver.h").read_text()
    found = dict.fromkeys(re.findall(r"X\((cu\w+), \(", header), OLDEST)
    later = re.findall(r"X\((cu\w+), (\d+),", header)
    assert f"kOldestVersion = {OLDEST};" in header
    assert len(found) > 40
    assert later
    return found | {name: int(version) for name, version in later}


def compiled(folder: Path, versions: dict[str, int], *options: str) -> str:
    """Compile the comparison; return what the compiler says."""
    typedefs = (INCLUDES[0] / "cudaTypedefs.h").read_text()
    lines = []
    for name, version in versions.items():
        known = {int(v) for v in re.findall(rf"\bPFN_{name}_v(\d+)\)", typedefs)}
        newest = max(v for v in known if v <= version)
        lines.append(f"SAME({name}, PFN_{name}_v{newest})\n")
    (folder / "entry_points.h").write_text("".join(lines))
    command = [
        str(COMPILER), "-std=c++20", "-fsyntax-only", f"-I{CSRC}", f"-I{INCLUDES[0]}", *options,
        f'-DENTRY_POINTS="{folder / "entry_points.h"}"', str(HERE / "driver_interface.cpp"),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr


def test_the_interface_is_that_of_cuda_h(tmp_path: Path) -> None:
    assert compiled(tmp_path, asked()) == ""


def test_another_version_of_an_entry_point_is_seen(tmp_path: Path) -> None:
    said = compiled(tmp_path, asked() | {"cuGraphAddDependencies": 10000})
    assert "cuGraphAddDependencies is not PFN_cuGraphAddDependencies_v10000" in said
