"""`gptoss bench`: the table, the JSON, the chart, and what is counted."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptoss.checkpoint import open_checkpoint
from gptoss.checkpoint.traffic import decode_bytes
from gptoss.cli import bench, main
from gptoss.cli.chart import Panel, bar_chart
from gptoss.measure import EnergyMeter

SVG = "{http://www.w3.org/2000/svg}"
SMALL = ["--prompt", "16,40", "--batch", "1,3", "--new", "6", "--rounds", "2"]


@pytest.fixture
def model(tiny_checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("gptoss.measure.ReadProbe.__init__", lambda probe: None)
    monkeypatch.setattr("gptoss.measure.ReadProbe.gb_s", lambda probe: 20.0)
    return str(tiny_checkpoint("hf"))


def run(model: str, tmp_path: Path, *arguments: str) -> dict[str, Any]:
    file = tmp_path / "result.json"
    assert main(["bench", model, *SMALL, "--json", str(file), *arguments]) == 0
    result: dict[str, Any] = json.loads(file.read_text())
    return result


def test_figures(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(model, tmp_path, "--hourly-price", "1.8", "--dense", "q8")
    assert (result["model"], result["rounds"], result["new_tokens"]) == ("tiny-hf0", 2, 6)
    (device,) = result["runs"]
    figures = device["figures"]
    assert [(f["measure"], f["count"]) for f in figures] == [
        ("prefill", 16),
        ("prefill", 40),
        ("decode", 1),
        ("decode", 3),
    ]
    config = open_checkpoint(model).config
    for figure in figures:
        low, high = figure["tps_range"]
        assert 0 < low <= figure["tps"] <= high
        assert figure["price_per_million"] == pytest.approx(1.8 / 3600 / figure["tps"] * 1e6)
        assert figure["memory_gb_s"] == 20
        if figure["measure"] == "decode":
            count = figure["count"]
            step = decode_bytes(config, dense="q8", depth=8 + 3, sequences=count)
            assert figure["read_gb_s"] == pytest.approx(figure["tps"] / count * step / 1e9)
        else:
            assert figure["read_gb_s"] is None
    out = capsys.readouterr().out
    for text in ("prompt of 40", "decode, 1 request", "decode, 3 together", "price of 1M", "of 20"):
        assert text in out
    assert "J/token" not in out or EnergyMeter().source


def test_energy(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Meter:
        source = "RAPL, 1 package(s)"
        why_not = ""
        used = 0.0

        def joules(self) -> float:
            """Nothing between the measures, 12 in each."""
            self.used = 12.0 - self.used
            return 12.0 - self.used

    monkeypatch.setattr(bench, "EnergyMeter", Meter)
    result = run(model, tmp_path)
    assert result["energy"] == "RAPL, 1 package(s)"
    assert "J/token" in capsys.readouterr().out
    joules = [figure["joules_per_token"] for figure in result["runs"][0]["figures"]]
    assert joules == [12 / 16, 12 / 40, 12 / 6, 12 / 18]


def test_json_on_stdout(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *SMALL, "--json", "-", model]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["model"] == "tiny-hf0"
    assert "decode, 3 together" in err


def test_plot(model: str, tmp_path: Path) -> None:
    file = tmp_path / "bench.svg"
    result = run(model, tmp_path, "--devices", "cpu,auto", "--plot", str(file))
    assert [device["device"] for device in result["runs"]] == ["cpu", "auto"]
    texts = [element.text for element in ET.parse(file).iter(f"{SVG}text")]
    for text in ("tiny-hf0", "Reading a prompt, tokens/s", "prompt of 40", "decode, 3 together"):
        assert text in texts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--devices", "cuda"], "device 'cuda' is not available"),
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--new", "1"], "--new must be at least 2"),
        (["--hourly-price", "-1"], "--hourly-price must be at least 0"),
        (["--hourly-price", "nan"], "--hourly-price must be at least 0"),
        (["--context-length", "40"], "40 tokens and one more do not fit into the context of 40"),
        (["--plot", "/no/such/folder/a.svg"], "No such file"),
    ],
)
def test_mistakes(
    model: str, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", model, *SMALL, *options]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("counts", ["0", "a", "1,,2", "-4"])
def test_counts(counts: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "demo", f"--batch={counts}"])
    assert "argument --batch: expected" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("auto", ["auto"]),
        ("cpu,cuda:0,1,cuda:2", ["cpu", "cuda:0,1", "cuda:2"]),
        ("cuda,1", ["cuda", "1"]),
    ],
)
def test_cards_of_one_device(text: str, names: list[str]) -> None:
    assert bench._devices(text) == names


class TestChart:
    PANELS = (
        Panel("A & B", ["one", "two"], {"x": [10.0, 5.0], "<y>": [None, 2.5]}),
        Panel("C", ["three"], {"x": [1234.5]}),
    )

    def bars(self) -> list[ET.Element]:
        root = ET.fromstring(bar_chart("T", "S", self.PANELS))
        return [rect for rect in root.iter(f"{SVG}rect") if rect.find(f"{SVG}title") is not None]

    def test_lengths_and_colours(self) -> None:
        bars = self.bars()
        widths = [float(bar.attrib["width"]) for bar in bars]
        assert len(bars) == 4
        assert widths[1] == pytest.approx(widths[0] / 2, abs=0.01)
        assert widths[2] == pytest.approx(widths[0] / 4, abs=0.01)
        assert widths[3] == widths[0]  # each panel has its scale
        colors = [bar.attrib["fill"] for bar in bars]
        assert colors[0] == colors[1] == colors[3] != colors[2]

    def test_nothing_overlaps_or_leaves_the_picture(self) -> None:
        root = ET.fromstring(bar_chart("T", "S", self.PANELS))
        width, height = float(root.attrib["width"]), float(root.attrib["height"])
        bottom = 0.0
        for bar in self.bars():
            x, y = float(bar.attrib["x"]), float(bar.attrib["y"])
            assert y >= bottom
            bottom = y + float(bar.attrib["height"])
            assert x + float(bar.attrib["width"]) < width - 100  # room for the value
            assert bottom < height
        for text in root.iter(f"{SVG}text"):
            assert 0 < float(text.attrib["x"]) < width
            assert 0 < float(text.attrib["y"]) < height

    def test_values_are_told(self) -> None:
        root = ET.fromstring(bar_chart("T", "S", self.PANELS))
        texts = [element.text for element in root.iter(f"{SVG}text")]
        for text in ("10", "5", "2.5", "1,234", "A & B", "<y>"):
            assert text in texts

    def test_no_value_at_all(self) -> None:
        root = ET.fromstring(bar_chart("T", "S", [Panel("P", ["a"], {"x": [None], "y": [0.0]})]))
        assert root.attrib["viewBox"].startswith("0 0 760 ")
