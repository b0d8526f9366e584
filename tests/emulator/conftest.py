"""The emulator's tests run where it was built: tools/check_emulator.sh."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator.device import BUILD, Device

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if BUILD:
        return
    skip = pytest.mark.skip(reason="the emulator was not built: tools/check_emulator.sh does")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(skip)


@pytest.fixture
def device() -> Device:
    """A fresh device."""
    return Device()
