"""Where tests find the data files of the published models."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_BESIDE_THE_CHECKOUT = Path(__file__).resolve().parents[3] / "shared" / "data"


def real_data() -> Path:
    """Return the folder with the published configs and tokenizer, or skip the test.

    It is the one that the environment variable GPTOSS_TEST_DATA names, else ../shared/data
    beside the checkout.
    """
    folder = Path(os.environ.get("GPTOSS_TEST_DATA", _BESIDE_THE_CHECKOUT))
    if not (folder / "gpt-oss-20b" / "config.json").is_file():
        pytest.skip(f"no published data in {folder} (set GPTOSS_TEST_DATA)")
    return folder
