"""What the compiler says of each kernel: nothing is spilled, nothing warned of."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from cuda.kernels import CSRC, KERNELS, NVCC

ARCHITECTURES = ["sm_80", "sm_90a"]  # tools/build_fatbin looks at all


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", sorted(path.stem for path in KERNELS.glob("*.cu")))
def test_no_kernel_spills(name: str, architecture: str, tmp_path: Path) -> None:
    assert NVCC is not None
    source = KERNELS / f"{name}.cu"
    command = [NVCC, "-cubin", f"-arch={architecture}", "-std=c++17", f"-I{CSRC}", str(source)]
    command += ["-Xptxas=-v", "-Werror=all-warnings", "-o", str(tmp_path / "out.cubin")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    said = result.stdout + result.stderr
    assert result.returncode == 0, said
    # Notes of the assembler on what it had to repair.
    assert not re.search(r"warning|C75\d\d", said), said
    properties = re.findall(
        r"Function properties for (\w+)\s+(\d+) bytes stack frame, (\d+) bytes spill stores", said
    )
    assert len(properties) == len(set(re.findall(r"entry function '(\w+)'", said))) > 0, said
    for kernel, frame, spilled in properties:
        assert (frame, spilled) == ("0", "0"), f"{kernel}: {frame} of frame, {spilled} spilled"
