"""The pictures of docs/inside.md: what fires and what is attended to while the demo answers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from xml.sax.saxutils import escape

import numpy as np
import numpy.typing as npt

import gptoss
from update_snippets import ISA

QUESTION = "What is 17 + 25?"

_INK, _FAINT, _PAPER, _LINE = "#1b1f24", "#6b7480", "#ffffff", "#d6dae0"
_LAYER_COLORS = ("#1f5fa8", "#b8404a", "#2d8a5b", "#8a4fa8")
_FONT = "font-family='system-ui, sans-serif'"
_MONO = "font-family='ui-monospace, Menlo, Consolas, monospace'"
_WIDTH, _LEFT, _TOP = 760, 92, 70
_LEVELS = 6  # of shade: what rounding does to a share is not seen


@cache
def _answer() -> tuple[list[str], int, gptoss.Trace]:
    """The tokens' names, how many of them are the prompt's, and what is inside."""
    with _one_instruction_set(), gptoss.load("demo", precision="reference", threads=2) as llm:
        result = llm.chat(QUESTION, temperature=0)
        ids = [*result.prompt_token_ids, *result.token_ids]
        names = [llm.tokenizer.decode([token]) for token in ids]
        return names, len(result.prompt_token_ids), llm.trace(ids)


@contextmanager
def _one_instruction_set() -> Iterator[None]:
    before = os.environ.get("GPTOSS_ISA")
    os.environ["GPTOSS_ISA"] = ISA
    try:
        yield
    finally:
        if before is None:
            del os.environ["GPTOSS_ISA"]
        else:
            os.environ["GPTOSS_ISA"] = before


def experts() -> str:
    """Weights of all experts of all layers, for each token of the answer."""
    names, first, trace = _answer()
    assert trace.router is not None
    assert trace.experts is not None
    assert trace.expert_weights is not None
    n_experts = trace.router.shape[-1]
    shown = names[first:]
    cell = (_WIDTH - _LEFT - 20) / len(shown)
    row, gap = 7, 12
    parts = [
        _text(24, 30, f"Which experts fire: “{QUESTION}”", size=17, bold=True),
        _text(
            24,
            50,
            "a column for each token of the demo's answer, a row for each expert; the darker, the "
            "more weight",
            color=_FAINT,
        ),
    ]
    y = float(_TOP)
    for place, layer in enumerate(trace.layers):
        height = n_experts * row
        shares = np.zeros((n_experts, len(shown)))
        columns = np.arange(len(shown))[:, None]
        shares[trace.experts[place][first:], columns] = trace.expert_weights[place][first:]
        parts.append(_text(_LEFT - 8, y + height / 2 + 4, f"layer {layer}", anchor="end"))
        parts.append(_frame(_LEFT, y, cell * len(shown), height))
        parts.append(_cells(shares, _LEFT, y, cell, row, _LAYER_COLORS[place % 4]))
        y += height + gap
    for column, name in enumerate(shown):
        x = _LEFT + (column + 0.5) * cell + 3
        parts.append(
            f"<text x='{x:.1f}' y='{y:g}' {_MONO} font-size='9' fill='{_INK}' text-anchor='end' "
            f"transform='rotate(-90 {x:.1f} {y:g})'>{escape(_visible(name))}</text>"
        )
    return _svg(f"Experts of the demo by token: {QUESTION}", y + 88, parts)


def attention() -> str:
    """Of a banded and a full layer: the head that leaves least to its sink."""
    names, first, trace = _answer()
    assert trace.sinks is not None
    parts = [
        _text(24, 30, f"What is attended to: “{QUESTION}”", size=17, bold=True),
        _text(
            24,
            50,
            "a row for each token of the demo's answer, a column for each token before it; on the "
            "right the sink's share",
            color=_FAINT,
        ),
    ]
    cell = 3.7
    banded = trace.attention is not None and trace.attention[-2].shape[-1]
    titles = {
        trace.layers[-2]: f"the last {banded} tokens",
        trace.layers[-1]: "all tokens",
    }
    width = cell * len(names)
    x = 24.0
    for layer, seen in titles.items():
        place = trace.layers.index(layer)
        head = int(trace.sinks[place].mean(axis=0).argmin())
        shares = trace.attention_over(layer)[first:, head]
        sinks = trace.sinks[place][first:, head]
        height = cell * len(shares)
        parts.append(_text(x, _TOP + 8, f"layer {layer} sees {seen}; head {head}", bold=True))
        top = _TOP + 18
        parts.append(_frame(x, top, width, height))
        parts.append(_cells(shares, x, top, cell, cell, _LAYER_COLORS[0]))
        at = x + width + 5
        parts.append(_frame(at, top, 8, height))
        parts.append(_cells(sinks[:, None], at, top, 8, cell, _LAYER_COLORS[1]))
        end = x + cell * first
        parts.append(
            f"<path d='M{end:g} {top + height:g}v6' stroke='{_FAINT}'/>"
            + _text(x, top + height + 18, "prompt", size=11, color=_FAINT)
            + _text(end + 3, top + height + 18, "answer", size=11, color=_FAINT)
            + _text(at + 8, top + height + 18, "sink", size=11, color=_FAINT, anchor="end")
        )
        x += width + 13 + 34
    return _svg(
        f"Attention of the demo: {QUESTION}", _TOP + 18 + cell * (len(names) - first) + 32, parts
    )


def _cells(
    shares: npt.NDArray[np.floating], x: float, y: float, width: float, height: float, color: str
) -> str:
    """Rectangles (rows, columns), one path for each shade."""
    levels = np.rint(np.sqrt(np.clip(shares, 0, 1)) * _LEVELS).astype(int)
    paths = []
    for level in range(1, _LEVELS + 1):
        rows, columns = np.nonzero(levels == level)
        if not len(rows):
            continue
        steps = "".join(
            f"M{x + column * width:.1f} {y + line * height:.1f}"
            f"h{width:.1f}v{height:.1f}h-{width:.1f}z"
            for line, column in zip(rows.tolist(), columns.tolist(), strict=True)
        )
        paths.append(f"<path fill='{color}' fill-opacity='{level / _LEVELS:.2f}' d='{steps}'/>")
    return "\n".join(paths)


def _frame(x: float, y: float, width: float, height: float) -> str:
    return (
        f"<rect x='{x:g}' y='{y:g}' width='{width:.1f}' height='{height:.1f}' fill='none' "
        f"stroke='{_LINE}'/>"
    )


def _visible(name: str) -> str:
    shown = name.replace("\n", "↵").replace(" ", "␣")
    return shown if len(shown) <= 13 else shown[:12] + "…"


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 12,
    bold: bool = False,
    color: str = _INK,
    anchor: str = "start",
) -> str:
    weight = " font-weight='bold'" if bold else ""
    return (
        f"<text x='{x:g}' y='{y:g}' {_FONT} font-size='{size}'{weight} fill='{color}' "
        f"text-anchor='{anchor}'>{escape(text)}</text>"
    )


def _svg(label: str, height: float, parts: Sequence[str]) -> str:
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {_WIDTH} {height:.0f}' "
        f"width='{_WIDTH}' height='{height:.0f}' role='img' aria-label='{escape(label)}'>\n"
        f"<rect width='100%' height='100%' fill='{_PAPER}'/>\n" + "\n".join(parts) + "\n</svg>\n"
    )
