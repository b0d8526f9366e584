"""Damaged headers, configs and indexes: either the checkpoint opens or CheckpointError says why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss.checkpoint import estimate_memory, open_checkpoint
from gptoss.errors import CheckpointError
from support.checkpoints import MICRO, make_checkpoint

JSON_FILES = ["config.json", "generation_config.json", "model.safetensors.index.json"]
SHARD = "model-00000-of-00002.safetensors"

# Slices of a file to replace: where (as a fraction), how many bytes go, and which come.
CUTS = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.integers(0, 40),
        st.one_of(
            st.binary(max_size=8),
            st.sampled_from([b'"', b"[", b"}", b"-", b"9" * 30, b"1e999", b"null", b"\\u"]),
        ),
    ),
    min_size=1,
    max_size=3,
)

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from([0, 1, -1, 16, 32, 2**31, 2**63, 2**64, 10**400]),
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    make_checkpoint(folder, MICRO, shard_bytes=35_000)
    open_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def folder(good: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy it; each example damages one file and puts it back."""
    return Path(shutil.copytree(good, tmp_path_factory.mktemp("fuzz") / "model"))


def opens_or_says_why(folder: Path) -> None:
    for use in (open_checkpoint, estimate_memory):
        message = ""
        try:
            use(folder)
        except CheckpointError as error:
            message = str(error)
        assert not message or (str(folder) in message and "expected" in message)


def cut(content: bytes, cuts: list[tuple[float, int, bytes]], end: int) -> bytes:
    for where, gone, come in cuts:
        at = int(where * end)
        content = content[:at] + come + content[at + gone :]
    return content


@settings(max_examples=400, deadline=None)
@given(cuts=CUTS, keep_length=st.booleans())
def test_damaged_header(
    folder: Path, good: Path, cuts: list[tuple[float, int, bytes]], keep_length: bool
) -> None:
    content = (good / SHARD).read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    if keep_length:  # the length fits the new header, so that the damage is inside the JSON
        header = cut(content[8:end], cuts, end - 8)
        damaged = len(header).to_bytes(8, "little") + header + content[end:]
    else:
        damaged = cut(content, cuts, end)
    (folder / SHARD).write_bytes(damaged)
    opens_or_says_why(folder)
    shutil.copyfile(good / SHARD, folder / SHARD)


@settings(max_examples=100, deadline=None)
@given(size=st.floats(0, 1), bits=st.lists(st.integers(0, 10**6), max_size=3))
def test_truncated_file_and_flipped_bits(
    folder: Path, good: Path, size: float, bits: list[int]
) -> None:
    content = bytearray((good / SHARD).read_bytes())
    end = 8 + int.from_bytes(content[:8], "little")
    for bit in bits:
        content[bit // 8 % end] ^= 1 << bit % 8
    (folder / SHARD).write_bytes(content[: round(size * len(content))])
    opens_or_says_why(folder)
    shutil.copyfile(good / SHARD, folder / SHARD)


@settings(max_examples=300, deadline=None)
@given(
    name=st.integers(0, 10**6),
    field=st.sampled_from(["dtype", "shape", "data_offsets"]),
    value=JSON,
)
def test_any_value_in_a_header(folder: Path, good: Path, name: int, field: str, value: Any) -> None:
    content = (good / SHARD).read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header[sorted(header)[name % len(header)]][field] = value
    text = json.dumps(header).encode()
    (folder / SHARD).write_bytes(len(text).to_bytes(8, "little") + text + content[end:])
    opens_or_says_why(folder)
    shutil.copyfile(good / SHARD, folder / SHARD)


@settings(max_examples=300, deadline=None)
@given(file=st.sampled_from(JSON_FILES), cuts=CUTS)
def test_damaged_json(
    folder: Path, good: Path, file: str, cuts: list[tuple[float, int, bytes]]
) -> None:
    content = (good / file).read_bytes()
    (folder / file).write_bytes(cut(content, cuts, len(content)))
    opens_or_says_why(folder)
    shutil.copyfile(good / file, folder / file)


@settings(max_examples=600, deadline=None)
@given(
    file=st.sampled_from(JSON_FILES), path=st.lists(st.integers(0, 10**6), max_size=3), value=JSON
)
def test_any_value_in_json(
    folder: Path, good: Path, file: str, path: list[int], value: Any
) -> None:
    content = json.loads((good / file).read_text())
    inner = content
    for step in path:
        key = sorted(inner)[step % len(inner)]
        if not isinstance(inner[key], dict):
            break
        inner = inner[key]
    inner[sorted(inner)[(path or [0])[-1] % len(inner)]] = value
    (folder / file).write_text(json.dumps(content))
    opens_or_says_why(folder)
    shutil.copyfile(good / file, folder / file)
