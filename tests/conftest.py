"""Fixtures that several test files share."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest

from support.checkpoints import PRESETS, make_checkpoint


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Make the preset "tiny" in a layout, "hf" or "original"; once, so leave it as it is."""

    @cache
    def make(layout: str) -> Path:
        out = tmp_path_factory.mktemp(f"tiny-{layout}")
        make_checkpoint(out, PRESETS["tiny"], layout=layout)
        return out

    return make


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail whatever asks the network."""

    def refuse(*args: object, **_: object) -> NoReturn:
        raise AssertionError(f"the network was asked: {args[1:]}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
