"""Damaged GGUF headers: either the model opens or CheckpointError says why."""

from __future__ import annotations

import dataclasses
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gptoss
from gptoss.checkpoint import estimate_memory, open_checkpoint
from gptoss.checkpoint.gguf_file import read_gguf
from gptoss.convert import write_gguf
from gptoss.errors import CheckpointError
from support.checkpoints import MICRO, make_checkpoint
from support.gguf_files import metadata_of, tensors_of, write

SHAPE = dataclasses.replace(MICRO, num_attention_heads=4)
# Any header's claims, and room for what one that is small reads.
MOST_BYTES = 8_000_000

NUMBERS = st.one_of(
    st.integers(0, 64),
    st.sampled_from([2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**48, 2**62, 2**63, 2**64 - 1]),
)
CUTS = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.integers(0, 24),
        st.one_of(
            st.binary(max_size=8),
            NUMBERS.map(lambda n: (n % 2**32).to_bytes(4, "little")),
            NUMBERS.map(lambda n: n.to_bytes(8, "little")),
        ),
    ),
    min_size=1,
    max_size=3,
)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    make_checkpoint(folder / "model", SHAPE)
    path = folder / "m.gguf"
    write_gguf(open_checkpoint(folder / "model"), path, dense="q8_0")
    open_checkpoint(path)
    return path


@pytest.fixture(scope="module")
def damaged(good: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copyfile(good, tmp_path_factory.mktemp("fuzz") / "m.gguf"))


@pytest.fixture(scope="module")
def head_bytes(good: Path) -> int:
    return min(tensor.offset for tensor in read_gguf(good).tensors.values())


def opens_or_says_why(path: Path) -> None:
    uses: list[Callable[[Path], object]] = [
        lambda path: open_checkpoint(path, progress=False),
        lambda path: estimate_memory(path, 1),
        gptoss.Tokenizer,
    ]
    for use in uses:
        message = ""
        tracemalloc.start()
        try:
            use(path)
        except CheckpointError as error:
            message = str(error)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < MOST_BYTES
        assert not message or (str(path) in message and "expected" in message)


def damage(content: bytes, cuts: list[tuple[float, int, bytes]], end: int, keep: bool) -> bytes:
    for where, gone, come in cuts:
        at = int(where * end)
        content = content[:at] + come + content[at + (len(come) if keep else gone) :]
    return content


def check(good: Path, damaged: Path, cuts: Any, end: int, keep: bool) -> None:
    damaged.write_bytes(damage(good.read_bytes(), cuts, end, keep))
    opens_or_says_why(damaged)


@settings(max_examples=60, deadline=None)
@given(cuts=CUTS, keep=st.booleans())
def test_damaged_header(good: Path, damaged: Path, head_bytes: int, cuts: Any, keep: bool) -> None:
    check(good, damaged, cuts, head_bytes, keep)


@pytest.mark.slow
@settings(max_examples=5000, deadline=None)
@given(cuts=CUTS, keep=st.booleans())
def test_many_damaged_headers(
    good: Path, damaged: Path, head_bytes: int, cuts: Any, keep: bool
) -> None:
    check(good, damaged, cuts, head_bytes, keep)


@settings(max_examples=40, deadline=None)
@given(size=st.floats(0, 1), bits=st.lists(st.integers(0, 10**6), max_size=3))
def test_truncated_file_and_flipped_bits(
    good: Path, damaged: Path, head_bytes: int, size: float, bits: list[int]
) -> None:
    content = bytearray(good.read_bytes())
    for bit in bits:
        content[bit // 8 % head_bytes] ^= 1 << bit % 8
    damaged.write_bytes(content[: round(size * len(content))])
    opens_or_says_why(damaged)


class Parts:
    """What a file is written of."""

    def __init__(self, folder: Path) -> None:
        checkpoint = open_checkpoint(folder)
        self.metadata, self.tensors = metadata_of(checkpoint), tensors_of(checkpoint)


@pytest.fixture(scope="module")
def parts(good: Path) -> Parts:
    return Parts(good.parent / "model")


VALUES = st.one_of(
    st.booleans(),
    st.integers(-(2**31), 2**32 - 1),
    st.floats(width=32),
    st.text(max_size=5),
    st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3),
    st.lists(st.text(max_size=3), min_size=1, max_size=3),
)


@settings(max_examples=60, deadline=None)
@given(key=st.integers(0, 10**6), value=VALUES)
def test_any_value_of_a_field(damaged: Path, parts: Parts, key: int, value: Any) -> None:
    names = [*parts.metadata, "general.alignment", "tokenizer.ggml.eos_token_id"]
    write(damaged, parts.metadata | {names[key % len(names)]: value}, parts.tensors)
    opens_or_says_why(damaged)
