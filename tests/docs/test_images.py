"""The pictures are what their script makes."""

from __future__ import annotations

import importlib
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("recording.svg", "memory.svg", "speed.svg", "experts.svg", "attention.svg")


@pytest.mark.parametrize("name", NAMES)
def test_it_is_up_to_date(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools")
    script = importlib.import_module("make_images")
    assert set(script.IMAGES_MADE) == set(NAMES)
    text = (script.IMAGES / name).read_text(encoding="utf-8")
    assert text == script.IMAGES_MADE[name](), "stale: python tools/make_images.py"


@pytest.mark.parametrize("name", NAMES)
def test_it_is_whole_and_asks_nobody(name: str) -> None:
    text = (ROOT / "docs" / "images" / name).read_text(encoding="utf-8")
    ET.fromstring(text)
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    assert any(f"images/{name})" in page.read_text(encoding="utf-8") for page in pages)
