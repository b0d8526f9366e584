"""Which form stays in memory: chosen, said, and shown."""

from __future__ import annotations

from typing import get_args

import pytest

import gptoss
from gptoss.checkpoint.memory import estimate_config
from gptoss.checkpoint.residency import (
    Residency,
    form_that_stays,
    residencies,
    residency_note,
)
from gptoss.cli import main
from gptoss.options import Dense
from gptoss.published import GPT_OSS_20B

GB = 1_000_000_000


def forms_of(available_gb: float, context: int = 8192) -> dict[Dense, Residency]:
    return residencies(
        lambda dense: estimate_config("20b", GPT_OSS_20B, context, dense=dense),
        int(available_gb * GB),
        "auto",
    )


@pytest.mark.parametrize(
    ("available_gb", "form"), [(24, "bf16"), (13.3, "bf16"), (13, "bf12"), (12.5, "q8"), (8, "q8")]
)
def test_the_first_form_that_stays(available_gb: float, form: Dense) -> None:
    assert form_that_stays(forms_of(available_gb)) == form


def test_a_longer_context_needs_more() -> None:
    assert form_that_stays(forms_of(13.3, 131_072)) == "q8"
    assert form_that_stays(forms_of(16.5, 131_072)) == "bf16"


def test_the_embedding_need_not_stay() -> None:
    residency = forms_of(13)["bf16"]
    embedding = residency.estimate.weights["embedding"]
    assert embedding == GPT_OSS_20B.vocab_size * GPT_OSS_20B.hidden_size * 2
    assert residency.needed_bytes < residency.estimate.total_bytes - embedding + GB


def test_nothing_is_said_of_what_stays() -> None:
    forms = forms_of(24)
    for dense in get_args(Dense):
        assert residency_note(forms, dense, 4 * GB, is_auto=False) is None
    assert residency_note(forms, "bf16", 4 * GB, is_auto=True) is None


def test_the_choice_of_another_form_is_said() -> None:
    note = residency_note(forms_of(12.5), "q8", 3 * GB, is_auto=True)
    assert note == (
        'dense="auto" takes q8, which needs 12.1 GB with 8,192 tokens of context: 12.5 GB are '
        "available, and bf16 needs 13.3"
    )


def test_what_will_not_stay_is_said_with_what_to_do() -> None:
    note = residency_note(forms_of(12.5), "bf16", 4 * GB, is_auto=False)
    assert note is not None
    assert "13.3 GB are needed with 8,192 tokens of context, 12.5 GB are available" in note
    # 0.79 of 12.6 GB of 4 GB
    assert "from the disk again, and each token some 0.2 GB" in note
    assert 'dense="q8" fits, with 12.1 GB' in note
    assert "\n" not in note

    note = residency_note(forms_of(10), "bf16", 4 * GB, is_auto=False)
    assert note is not None
    assert 'raise the limit on it; dense="q8" needs 12.1 GB' in note
    note = residency_note(forms_of(10), "q8", 4 * GB, is_auto=True)
    assert note is not None
    assert note.count("q8") == 0


def test_far_too_little_memory_reads_no_more_than_a_token_needs() -> None:
    note = residency_note(forms_of(0.001), "bf16", 4 * GB, is_auto=False)
    assert note is not None
    assert "each token some 4 GB" in note


def available(monkeypatch: pytest.MonkeyPatch, nbytes: int) -> None:
    monkeypatch.setattr("gptoss._core.available_memory_bytes", lambda: nbytes)


class TestLoad:
    def test_enough(self, capfd: pytest.CaptureFixture[str]) -> None:
        with gptoss.load("demo", dense="auto", threads=1) as llm:
            assert "dense weights" not in llm.description
        assert capfd.readouterr().err == ""

    def test_too_little(
        self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        available(monkeypatch, 1000)
        with gptoss.load("demo", threads=1) as llm:
            assert "dense weights" not in llm.description
        err = capfd.readouterr().err
        assert err.startswith("gptoss: demo: the weights will not stay in memory: ")
        assert err.count("\n") == 1
        with gptoss.load("demo", dense="auto", threads=1) as llm:
            assert "dense weights int8" in llm.description

    def test_room_for_a_smaller_form(
        self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with gptoss.load("demo", threads=1) as llm:
            config = llm.config
        sizes = {
            dense: Residency(estimate_config("demo", config, 2048, dense=dense), 0).needed_bytes
            for dense in get_args(Dense)
        }
        available(monkeypatch, sizes["q8"])
        with gptoss.load("demo", dense="auto", context_length=2048, threads=1) as llm:
            assert "dense weights int8" in llm.description
        assert 'gptoss: demo: dense="auto" takes q8' in capfd.readouterr().err
        # An explicit form is what is loaded.
        with gptoss.load("demo", dense="bf16", context_length=2048, threads=1) as llm:
            assert "dense weights" not in llm.description
        assert 'dense="q8" fits' in capfd.readouterr().err

    def test_the_reference_has_one_form(
        self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        available(monkeypatch, 1000)
        with gptoss.load("demo", dense="auto", precision="reference", threads=1) as llm:
            assert "dense weights" not in llm.description
        assert "dense=" not in capfd.readouterr().err


class TestInfo:
    def test_says_which_forms_stay(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        available(monkeypatch, 1000)
        assert main(["info", "demo", "--dense", "auto"]) == 0
        out = capsys.readouterr().out
        assert "dense q8" in out
        rows = [line for line in out.splitlines() if line.endswith("short │")]
        assert [row.split()[1] for row in rows] == list(get_args(Dense))
        available(monkeypatch, 24 * GB)
        assert main(["info", "demo", "--dense", "auto"]) == 0
        out = capsys.readouterr().out
        assert "dense bf16" in out
        assert out.count("stay in memory") == 3
