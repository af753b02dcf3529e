"""Table and picture of what was measured, for docs/performance.md: from the JSON lines of the benchmarks.

    python benchmarks/summary.py docs/performance.jsonl --svg docs/performance.svg

Takes the last line of each benchmark and device, prints a Markdown table, and draws how far each figure is
from its target: to the right of the line is better. Not here: any measurement.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

LEFT, WIDTH, ROW = 470, 330, 26
BETTER, WORSE, INK, QUIET = "#2f7d4f", "#b4532a", "#333333", "#888888"


@dataclass(frozen=True)
class Figure:
    """One measured value. more: whether more is better; shown: the value in words."""

    what: str
    value: float
    target: float
    more: bool
    shown: str
    device: str
    command: str
    date: str

    @property
    def margin(self) -> float:
        """Times better than the target, below 1 where it is missed."""
        ratio = self.value / self.target
        return ratio if self.more else 1 / max(ratio, 1e-9)

    @property
    def aim(self) -> str:
        return f"{'≥' if self.more else '≤'} {self.target:g}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("lines", type=Path, help="JSON lines, as benchmarks print them last")
    parser.add_argument("--svg", type=Path)
    args = parser.parse_args()
    latest: dict[tuple[str, ...], dict[str, Any]] = {}
    for text in args.lines.read_text().splitlines():
        line = json.loads(text)
        # Of a benchmark of several parts, those that a line has.
        parts = [part for part in ("fp32", "int8") if part in line]
        latest[line["benchmark"], line.get("gpu", line["cpu"]), *parts] = line
    figures = [figure for line in latest.values() for figure in figures_of(line)]
    print("| what | figure | aim | device | command |\n|---|---|---|---|---|")
    for figure in figures:
        bold = "" if figure.margin >= 1 else "**missed** "
        place = f"{figure.device}, {figure.date} | `{figure.command}`"
        print(f"| {figure.what} | {figure.shown} | {bold}{figure.aim} | {place} |")
    if args.svg:
        args.svg.write_text(drawn(figures))


Made = Callable[..., Figure]


def figures_of(line: dict[str, Any]) -> Iterator[Figure]:
    """What a benchmark's line has to show; nothing of one that is not known here."""
    device = line.get("gpu") or f"{line['cores']} cores"
    made = partial(Figure, device=device, command=line["command"], date=line["date"])
    known: dict[str, Callable[[dict[str, Any], Made], Iterator[Figure]]] = {
        "protocol": _protocol,
        "cityscapes": _cityscapes,
        "postprocess": _postprocess,
        "memory": _memory,
        "throughput": _throughput,
        "psa_head": _psa_head,
    }
    return known.get(line["benchmark"], _nothing)(line, made)


def _protocol(line: dict[str, Any], made: Made) -> Iterator[Figure]:
    if "fp32" in line:
        yield from _protocol_fp32(line["fp32"], line["targets"], made)
    if "int8" in line:
        row = line["int8"]
        points = f"; mIoU {row['points']:+.2f} points" if "points" in row else ""
        times = f"{row['times']:.1f} times as fast"
        shown = f"{times} ({row['times_processor']:.1f} by the processor's time{points})"
        what = f"{row['model']}, int8, against its source the straightforward way"
        yield made(what, row["times"], line["targets"]["int8_times"], True, shown)


def _protocol_fp32(rows: dict[str, Any], targets: dict[str, float], made: Made) -> Iterator[Figure]:
    model = rows["model"].partition(",")[0]
    for name, said in (("single", "single scale"), ("six", "six scales with flip")):
        row = rows[name]
        shown = (
            f"{row['times']:.2f} times as fast ({row['times_processor']:.2f} by the processor's time; "
            f"{row['agreement']:.5f} of labels)"
        )
        what = f"{model} at 465, fp32, {said}, against the straightforward way"
        yield made(what, row["times"], targets["fp32_times"], True, shown)


def _cityscapes(line: dict[str, Any], made: Made) -> Iterator[Figure]:
    if not line.get("best"):
        return
    times, whole, ceiling = line["targets"]
    way = f"1024x2048, six scales with flip, {line['best']}"
    what = f"PSANet101 at 705, {way}, against the straightforward way"
    yield made(what, line["six_times"], times, True, f"{line['six_times']:.1f} times as fast")
    what = "… single scale, the whole way over the engine"
    yield made(what, line["single_over_engine"], whole, False, f"{line['single_over_engine']:.3f}")
    if line.get("of_ceiling"):
        what = "… the engine, of the GPU's fp16 matrix product"
        yield made(what, line["of_ceiling"], ceiling, True, f"{line['of_ceiling']:.3f}")


def _postprocess(line: dict[str, Any], made: Made) -> Iterator[Figure]:
    targets = line["targets"]
    for row in line["rows"]:
        size = f"{row['classes']} classes, {row['megapixels']:g} megapixels"
        what = f"PSANet50 at 465, ONNX Runtime fp32, {size}: all but the engine"
        shown = f"{100 * row['share']:.1f}% of the whole"
        yield made(what, row["share"], targets["share"][str(row["classes"])], False, shown)
    for classes, growth in line["dearest_megapixel"].items():
        what = f"… {classes} classes, the dearest megapixel over the cheapest"
        yield made(what, growth, targets["dearest_megapixel"], False, f"{growth:.2f}")


def _memory(line: dict[str, Any], made: Made) -> Iterator[Figure]:
    for row in line["rows"]:
        if "held_mib" in row:
            what = f"{row['megapixels']:g} megapixels, six scales with flip, {line['model']}: memory held"
            shown = f"{row['held_mib']:.0f} MiB (planned {row['plan_mib']:.0f})"
            yield made(what, row["held_mib"], line["budget_mib"], False, shown)


def _throughput(line: dict[str, Any], made: Made) -> Iterator[Figure]:
    what = f"python -m inference over {line['images']} images, {line['model']}: the engine's share"
    yield made(what, line["share"], line["target"], True, f"{line['share']:.3f}")


def _psa_head(line: dict[str, Any], made: Made) -> Iterator[Figure]:
    """Of a GPU, collect (distribute is alike: docs/psa.md), from 45x45 up."""
    for row in line.get("gpu_rows", ()):
        if row["features"] == "30x30" or row["direction"] != "collect":
            continue
        what = f"PSA in one piece against plain, {row['features']}, collect, {row['pass']}"
        shown = f"{row['ratio called ms']:.1f} times as fast ({row['ratio busy ms']:.1f} by the GPU's time)"
        yield made(what, row["ratio called ms"], 1.5, True, shown)
        yield made("… peak memory", row["ratio MB"], 3.0, True, f"{row['ratio MB']:.1f} times less")


def _nothing(line: dict[str, Any], made: Made) -> Iterator[Figure]:
    return iter(())


def drawn(figures: list[Figure]) -> str:
    """A bar for each, from the target; the scale is logarithmic, the ends are 4 times."""
    height = ROW * len(figures) + 50
    middle = LEFT + WIDTH / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 190} {height}" '
        f'font-family="sans-serif" font-size="12" fill="{INK}">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{middle}" y="18" text-anchor="middle" fill="{QUIET}">worse ← target → better</text>',
    ]
    for index, figure in enumerate(figures):
        top = 28 + index * ROW
        reach = max(-1.0, min(1.0, math.log(max(figure.margin, 1e-9), 4.0))) * WIDTH / 2
        colour = BETTER if figure.margin >= 1 else WORSE
        label = figure.what if len(figure.what) <= 78 else figure.what[:77] + "…"
        parts += [
            f"<title>{escape(figure.what)}</title>",
            f'<text x="{LEFT - 8}" y="{top + 14}" text-anchor="end" font-size="11">{escape(label)}</text>',
            f'<rect x="{min(middle, middle + reach):.1f}" y="{top + 3}" width="{max(abs(reach), 1):.1f}" '
            f'height="{ROW - 9}" fill="{colour}"/>',
            f'<text x="{LEFT + WIDTH + 8}" y="{top + 14}" font-size="11">'
            f"{escape(figure.shown.partition(' (')[0])} ({escape(figure.aim)})</text>",
        ]
    parts.append(f'<line x1="{middle}" x2="{middle}" y1="24" y2="{height - 12}" stroke="{INK}"/>')
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    main()
