"""The chart of `compare.py`'s figures.

python bench/compare.py MODEL | tail -1 > result.json
python bench/plot.py result.json speed      writes speed.svg and speed.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_COLORS = {
    "gptoss": "#1f5fa8",
    "llama.cpp": "#e08a1e",
    "ik_llama.cpp": "#a83a3a",
    "transformers": "#6f7f8f",
}
_HATCHES = {"bf16": "", "bf12": "..", "q8": "//"}
_LINES = {"bf16": "-", "bf12": ":", "q8": "--"}
_DENSE_NAMES = {"bf16": "bf16 dense", "bf12": "12-bit dense", "q8": "8-bit dense"}

Series = dict[tuple[str, str], dict[str, float]]


def plot_comparison(result: dict[str, Any], path: Path) -> None:
    """Draw decode, prefill, batched decode and memory, as SVG and PNG.

    Parameters
    ----------
    result : dict
        What `compare.py` prints as its last line.
    path : Path
        Where to, without a suffix.
    """
    series: Series = {}
    for row in result["rows"]:
        # Others' forms stand beside several of gptoss, with the same values.
        series.setdefault((row["program"], row["held"]), {})[row["measure"]] = row["value"]
    style = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    with mpl.rc_context({**style, "svg.hashsalt": "compare"}):
        figure = Figure(figsize=(10, 6.4), layout="constrained")
        (decode, prefill), (batch, memory) = figure.subplots(2, 2)
        names = _measures(series)
        single = [n for n in names if n == "batch 1" or n.startswith("depth")]
        prompts = [n for n in names if n.startswith("prefill")]
        _bars(decode, series, single, "Decode, one sequence (tokens/s)")
        _bars(prefill, series, prompts, "Prefill (tokens/s)")
        _lines(batch, series)
        _bars(memory, series, ["peak GB", "anonymous GB"], "Memory (GB)")
        handles, labels = decode.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
        figure.suptitle(f"{result['layers']} layers, {result['threads']} threads, {result['cpu']}")
        for suffix in (".svg", ".png"):
            figure.savefig(f"{path}{suffix}", dpi=150)


def _measures(series: Series) -> list[str]:
    return list(dict.fromkeys(name for values in series.values() for name in values))


def _title(measure: str) -> str:
    kind, _, number = measure.partition(" ")
    return {
        "batch": "short context",
        "depth": f"after {number} tokens",
        "prefill": f"{number} tokens",
        "peak": "peak, with mapped files",
        "anonymous": "without mapped files",
    }[kind]


def _bars(axes: Axes, series: Series, measures: list[str], title: str) -> None:
    """Draw a group of bars for each measure, with the values on them."""
    width = 0.8 / len(series)
    for i, ((program, dense), values) in enumerate(series.items()):
        known = [(x, values[name]) for x, name in enumerate(measures) if name in values]
        bars = axes.bar(
            [x + (i - (len(series) - 1) / 2) * width for x, _ in known],
            [value for _, value in known],
            width * 0.92,
            color=_COLORS[program],
            hatch=_HATCHES[dense],
            edgecolor="white",
            label=f"{program}, {_DENSE_NAMES[dense]}",
        )
        axes.bar_label(bars, fmt="{:.3g}", fontsize=8, padding=1)
    axes.set_xticks(range(len(measures)), [_title(name) for name in measures])
    axes.set_title(title, loc="left")


def _lines(axes: Axes, series: Series) -> None:
    for (program, dense), values in series.items():
        points = {int(n.split()[1]): v for n, v in values.items() if n.startswith("batch")}
        if len(points) > 1:
            axes.plot(
                list(points),
                list(points.values()),
                marker="o",
                color=_COLORS[program],
                linestyle=_LINES[dense],
            )
    counts = sorted({int(n.split()[1]) for n in _measures(series) if n.startswith("batch")})
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("sequences; dotted: 12-bit dense, dashed: 8-bit dense")
    axes.set_title("Decode, all sequences together (tokens/s)", loc="left")


def _main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("result", type=Path, help="a file with the JSON line")
    parser.add_argument("path", type=Path, help="where to, without a suffix")
    args = parser.parse_args()
    plot_comparison(json.loads(args.result.read_text()), args.path)


if __name__ == "__main__":
    _main()
