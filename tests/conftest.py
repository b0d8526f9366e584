"""Fixtures that several test files share."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from checkpoints import PRESETS, make_checkpoint


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Make the preset "tiny" in a layout, "hf" or "original"; once, so leave it as it is."""

    @cache
    def make(layout: str) -> Path:
        out = tmp_path_factory.mktemp(f"tiny-{layout}")
        make_checkpoint(out, PRESETS["tiny"], layout=layout)
        return out

    return make
