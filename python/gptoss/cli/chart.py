"""Bar charts as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

_COLORS = ("#1f5fa8", "#e08a1e", "#2d8a5b", "#8a4fa8", "#6f7f8f", "#b8404a")
_INK, _FAINT, _PAPER = "#1b1f24", "#6b7480", "#ffffff"
_WIDTH, _MARGIN = 760, 24
_LABEL_WIDTH, _VALUE_WIDTH = 150, 130
_BAR_HEIGHT, _BAR_GAP, _GROUP_GAP, _PANEL_GAP = 16, 4, 12, 26
_FONT = "font-family='system-ui, sans-serif'"


@dataclass(frozen=True)
class Panel:
    """Bars on a common scale.

    Attributes
    ----------
    title : str
        With the unit.
    labels : sequence of str
        One for each group of bars.
    series : mapping of str to sequence of float or None
        A bar for each group, by the name of the series; None leaves it out.
    """

    title: str
    labels: Sequence[str]
    series: Mapping[str, Sequence[float | None]]


def bar_chart(title: str, subtitle: str, panels: Sequence[Panel]) -> str:
    """Draw panels of horizontal bars, one below the other, each with its value.

    Parameters
    ----------
    title, subtitle : str
        Above the panels.
    panels : sequence of Panel
        A series has the same colour in all of them.

    Returns
    -------
    str
        A whole SVG document of fixed width, for light and dark surroundings.
    """
    names = list(dict.fromkeys(name for panel in panels for name in panel.series))
    colors = {name: _COLORS[i % len(_COLORS)] for i, name in enumerate(names)}
    parts = [
        _text(_MARGIN, 34, title, size=17, weight="bold"),
        _text(_MARGIN, 54, subtitle, size=12, color=_FAINT),
    ]
    y = 70.0
    if len(names) > 1:
        x = float(_MARGIN)
        for name in names:
            parts.append(
                f"<rect x='{x:g}' y='{y:g}' width='11' height='11' fill='{colors[name]}'/>"
            )
            parts.append(_text(x + 16, y + 10, name, size=12))
            x += 34 + 7 * len(name)
        y += 22
    for panel in panels:
        y += _PANEL_GAP
        parts.append(_text(_MARGIN, y, panel.title, size=13, weight="bold"))
        y += 10
        known = [v for values in panel.series.values() for v in values if v is not None]
        longest = max(known, default=0.0) or 1.0
        for index, label in enumerate(panel.labels):
            top = y
            for name, values in panel.series.items():
                value = values[index]
                if value is None:
                    continue
                width = (_WIDTH - 2 * _MARGIN - _LABEL_WIDTH - _VALUE_WIDTH) * value / longest
                x = _MARGIN + _LABEL_WIDTH
                about = escape(f"{name}, {label}: {value:.4g}")
                parts.append(
                    f"<rect x='{x}' y='{y:g}' width='{width:.2f}' height='{_BAR_HEIGHT}' "
                    f"fill='{colors[name]}'><title>{about}</title></rect>"
                )
                parts.append(_text(x + width + 6, y + 12.5, short_number(value), size=12))
                y += _BAR_HEIGHT + _BAR_GAP
            middle = (top + y - _BAR_GAP) / 2
            parts.append(
                _text(_MARGIN + _LABEL_WIDTH - 8, middle + 4, label, size=12, anchor="end")
            )
            y += _GROUP_GAP
    height = y + _MARGIN - _GROUP_GAP
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {_WIDTH} {height:g}' "
        f"width='{_WIDTH}' height='{height:g}' role='img' aria-label={quoteattr(title)}>\n"
        f"<rect width='100%' height='100%' fill='{_PAPER}'/>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def short_number(value: float) -> str:
    """A number with three digits, or all of a whole number's."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int,
    weight: str = "normal",
    color: str = _INK,
    anchor: str = "start",
) -> str:
    return (
        f"<text x='{x:g}' y='{y:g}' {_FONT} font-size='{size}' font-weight='{weight}' "
        f"fill='{color}' text-anchor='{anchor}'>{escape(text)}</text>"
    )
