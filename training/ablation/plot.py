"""The ablation as an SVG picture: mean mIoU and its deviation by row, beside the paper's figures.

Not here: where the numbers come from (`summary.py`). No plotting library is needed for it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple
from xml.sax.saxutils import escape

_LINE: Final = 30  # pixels of a row
_TOP: Final = 64
_NAMES: Final = 190
_PANEL: Final = 300
_GAP: Final = 40
_COLOURS: Final = {"single": "#1f5fa8", "several": "#c2571a"}


class _Mark(NamedTuple):
    """A figure in percent at a row, with the deviation to either side."""

    row: int
    scales: str
    mean: float
    deviation: float


class _Axis(NamedTuple):
    """Maps percent to pixels: `low` lies at `left`."""

    left: float
    low: float
    high: float

    def x(self, value: float) -> float:
        return self.left + (value - self.low) / (self.high - self.low) * _PANEL


def svg(summary: Mapping[str, Any]) -> str:
    """A `summarize`d ablation, drawn; rows without a figure have their name alone."""
    rows = summary["rows"]
    ours = list(_marks(row[scales]["mIoU"] for row in rows for scales in _COLOURS))
    theirs = list(
        _marks(
            {"mean": row["paper"][scales]["mIoU"], "deviation": None} for row in rows for scales in _COLOURS
        )
    )
    width, height = _NAMES + 2 * _PANEL + 2 * _GAP, _TOP + _LINE * len(rows) + 44
    small = ", small budget" if summary["budget"]["warning"] else ""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        *(_text(_NAMES - 12, _y(index) + 4, row["title"], anchor="end") for index, row in enumerate(rows)),
        *_panel(f"{summary['dataset']}, mIoU in percent{small}", ours, len(rows), _NAMES),
        *_panel("paper: ADE20K val, ResNet-50", theirs, len(rows), _NAMES + _PANEL + _GAP),
        *_legend(height - 12),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _marks(spreads: Any) -> Iterator[_Mark]:
    for index, spread in enumerate(spreads):
        if spread["mean"] is not None:
            row, second = divmod(index, len(_COLOURS))
            yield _Mark(row, list(_COLOURS)[second], 100 * spread["mean"], 100 * (spread["deviation"] or 0))


def _panel(title: str, marks: Sequence[_Mark], rows: int, left: float) -> Iterator[str]:
    yield _text(left, 24, title, weight="bold")
    if not marks:
        return
    ticks = ticks_of(
        min(mark.mean - mark.deviation for mark in marks), max(mark.mean + mark.deviation for mark in marks)
    )
    axis = _Axis(left, ticks[0], ticks[-1])
    bottom = _y(rows - 1) + _LINE / 2
    for tick in ticks:
        x = axis.x(tick)
        yield f'<line x1="{x:.1f}" y1="{_TOP - 12}" x2="{x:.1f}" y2="{bottom}" stroke="#dddddd"/>'
        yield _text(x, _TOP - 18, f"{tick:g}", anchor="middle", fill="#555555")
    for mark in marks:
        yield from _draw(mark, axis)


def _draw(mark: _Mark, axis: _Axis) -> Iterator[str]:
    y = _y(mark.row) + (-5 if mark.scales == "single" else 5)
    colour = _COLOURS[mark.scales]
    if mark.deviation:
        first, last = axis.x(mark.mean - mark.deviation), axis.x(mark.mean + mark.deviation)
        yield f'<line x1="{first:.1f}" y1="{y}" x2="{last:.1f}" y2="{y}" stroke="{colour}" stroke-width="2"/>'
    yield (
        f'<circle cx="{axis.x(mark.mean):.1f}" cy="{y}" r="4" fill="{colour}">'
        f"<title>{mark.mean:.2f} ± {mark.deviation:.2f}</title></circle>"
    )


def _legend(y: float) -> Iterator[str]:
    for index, (scales, colour) in enumerate(_COLOURS.items()):
        x = _NAMES + 130 * index
        yield f'<circle cx="{x + 4}" cy="{y - 4}" r="4" fill="{colour}"/>'
        yield _text(x + 14, y, {"single": "single scale", "several": "several scales"}[scales])


def ticks_of(low: float, high: float) -> list[float]:
    """Round numbers at equal distances that enclose both, four to nine of them."""
    span = max(high - low, 0.5)
    power = 10.0 ** math.floor(math.log10(span))
    step = next(step for step in (power / 5, power / 2, power, 2 * power) if span / step <= 6)
    first, last = math.floor(low / step), math.ceil(high / step)
    last = max(last, first + 3)
    return [round(number * step, 6) for number in range(first, last + 1)]


def _y(row: int) -> float:
    return _TOP + _LINE * (row + 0.5)


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal", fill: str = "black"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" fill="{fill}">'
        f"{escape(text)}</text>"
    )
