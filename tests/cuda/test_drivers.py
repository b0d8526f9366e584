"""Drivers of several ages, as the stand-in plays them: what a build's kernels load on. No
driver of any age has loaded them; the facts are those of NVIDIA's documents.

tools/check_cuda.sh --full runs this once more with the kernels that wheels have, machine code for
all cards beside PTX.
"""

from __future__ import annotations

import importlib.machinery
import os
import re
from pathlib import Path

import pytest

import gptoss
from cuda.models import emulated, needs_device, run_elsewhere
from gptoss import _core
from support.checkpoints import MICRO, make_checkpoint

pytestmark = [needs_device, emulated]

ANSWER = re.compile(r"\[\d+, \d+\]")
LOAD = """
import gptoss
try:
    llm = gptoss.load({path!r}, device={device!r}, context_length=128, max_step_tokens=64)
    print(llm.generate([1, 2, 3], max_tokens=2, temperature=0.0, ignore_eos=True).token_ids)
except gptoss.BackendError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("micro")
    make_checkpoint(folder, MICRO)
    return folder


def load(model: Path, driver: str, device: str = "cuda", card: str = "A100", **more: str) -> str:
    code = LOAD.format(path=str(model), device=device)
    return run_elsewhere(code, card, GPTOSS_EMULATOR_DRIVER=driver, **more)


@pytest.mark.parametrize("card", ["A100", "H100"])
def test_kernels_load_on_every_driver_since_525(model: Path, card: str) -> None:
    said = [load(model, driver, card=card) for driver in ("525", "550", "580")]
    assert ANSWER.fullmatch(said[0]), said[0]
    assert said[1:] == said[:1] * 2


@pytest.mark.parametrize(("card", "driver"), [("RTX 5090", "570"), ("B200", "580")])
def test_and_on_newer_cards(model: Path, card: str, driver: str) -> None:
    assert ANSWER.fullmatch(load(model, driver, card=card))


def newer(library: bytes) -> bytes:
    """Turn kernels for driver 525 into such as nvcc of CUDA 13 makes by itself."""
    library, n_texts = re.subn(rb"\n\.version 8\.0\n\.target", b"\n.version 9.0\n.target", library)
    library = library.replace(b"\x7fELF\2\1\1\x33\7", b"\x7fELF\2\1\1\x41\x08")
    # What stands before PTX and machine code: kind, sizes, and the version's two parts.
    entry = rb"(%b\x00\x01\x01[\x40-\xff]\0\0\0.{16})%b"
    library, n = re.subn(entry % (b"\1", b"\0\0\x08\0"), b"\\1\0\0\x09\0", library, flags=re.DOTALL)
    assert n == n_texts > 0
    return re.sub(entry % (b"\2", b"\7\0\1\0"), b"\\1\x08\0\1\0", library, flags=re.DOTALL)


def test_a_driver_that_is_too_old_is_told_with_what_is_needed(model: Path, tmp_path: Path) -> None:
    # The package again, with other kernels in its module.
    package = tmp_path / "gptoss"
    package.mkdir()
    built = Path(_core.__file__)
    for entry in Path(gptoss.__file__).parent.iterdir():
        if not entry.name.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES)):
            (package / entry.name).symlink_to(entry)
    (package / built.name).write_bytes(newer(built.read_bytes()))
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    said = load(model, "525", card="H100", PYTHONPATH=path)
    assert said.startswith(
        "[cuda:0] the NVIDIA driver is too old: it is made for CUDA 12.0 (driver 525), and the "
        "kernels of this build for Emulated H100 (compute capability 9.0) need that for CUDA 13.0 "
        "(driver 580) or a newer one: "
    )
    assert re.search(r"\(CUDA_ERROR_(UNSUPPORTED_PTX_VERSION|INVALID_IMAGE)\)$", said)
    assert ANSWER.fullmatch(load(model, "525", "auto", "H100", PYTHONPATH=path))  # of the CPU
    assert ANSWER.fullmatch(load(model, "580", card="H100", PYTHONPATH=path))
