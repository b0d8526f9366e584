"""Damaged adapters: either one is read or CheckpointError says why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss.adapters import AdapterReader
from gptoss.checkpoint import open_checkpoint
from gptoss.errors import CheckpointError
from support.adapters import make_adapter
from support.checkpoints import MICRO, make_checkpoint

FILES = ("adapter_config.json", "adapter_model.safetensors")
FIELDS = (
    *("peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules"),
    *("target_parameters", "use_rslora", "bias", "modules_to_save", "init_lora_weights"),
    *("layers_to_transform", "exclude_modules", "base_model_name_or_path", "task_type", "new"),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from([0, 1, -1, 2**31, 2**64, 10**400, "q_proj", "mlp.experts.down_proj", "LORA"]),
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.one_of(st.text(max_size=5), st.sampled_from(["q_proj", "(", ".*", "a{2}"])),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=6,
)
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


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[AdapterReader, Path]:
    base = tmp_path_factory.mktemp("base")
    make_checkpoint(base, MICRO)
    checkpoint = open_checkpoint(base)
    folder = make_adapter(tmp_path_factory.mktemp("adapter"), checkpoint.config, rank=2)
    return AdapterReader(checkpoint.config, checkpoint.tensors), folder


def reads_or_says_why(reader: AdapterReader, folder: Path) -> None:
    message = ""
    try:
        adapter = reader.read(folder)
    except CheckpointError as error:
        message = str(error)
    if message:
        assert str(folder) in message
        assert len(message) < 2000
        return
    for change in adapter.changes.values():
        for factor in change:
            assert factor.dtype == np.float32
            assert factor.flags.c_contiguous
            assert np.isfinite(factor).all()


@given(fields=st.dictionaries(st.sampled_from(FIELDS), JSON, min_size=1, max_size=3))
@settings(deadline=None)
def test_configs(
    good: tuple[AdapterReader, Path], tmp_path_factory: pytest.TempPathFactory, fields: Any
) -> None:
    reader, folder = good
    copy = Path(shutil.copytree(folder, tmp_path_factory.mktemp("fuzz") / "a"))
    values = json.loads((copy / FILES[0]).read_text())
    (copy / FILES[0]).write_text(json.dumps({**values, **fields}))
    reads_or_says_why(reader, copy)


@given(file=st.sampled_from(FILES), cuts=CUTS)
@settings(deadline=None)
def test_bytes(
    good: tuple[AdapterReader, Path],
    tmp_path_factory: pytest.TempPathFactory,
    file: str,
    cuts: list[tuple[float, int, bytes]],
) -> None:
    reader, folder = good
    copy = Path(shutil.copytree(folder, tmp_path_factory.mktemp("fuzz") / "a"))
    content = (copy / file).read_bytes()
    # Most of a safetensors file is numbers: the header is where it can lie.
    span = len(content) if file.endswith("json") else 8 + int.from_bytes(content[:8], "little")
    for place, length, text in cuts:
        begin = int(place * span)
        content = content[:begin] + text + content[begin + length :]
    (copy / file).write_bytes(content)
    reads_or_says_why(reader, copy)
