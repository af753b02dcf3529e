"""The ablation as a Markdown page: what was compared, how, and the table beside the paper's.

Not here: where the numbers come from (`summary.py`).
"""

from collections.abc import Mapping
from typing import Any

_PAPER = "ADE20K val, ResNet-50"
_HEAD = (
    "| | single scale, mIoU | pixel accuracy | several scales, mIoU | pixel accuracy | parameters, M "
    f"| training, s | paper ({_PAPER}), single | several |"
)


def markdown(summary: Mapping[str, Any]) -> str:
    """The page of a `summarize`d ablation; figures in percent, mean ± sample deviation over the seeds."""
    lines = [f"# The paper's Table 1 in small, on {summary['dataset']}", ""]
    if summary["budget"]["warning"]:
        lines += [f"**{summary['budget']['warning']}**", ""]
    lines += [f"- {line}" for line in _conditions(summary)]
    lines += ["", _HEAD, "|---|---|---|---|---|---|---|---|---|"]
    lines += [_line(row, len(summary["seeds"])) for row in summary["rows"]]
    lines += ["", *(f"- {line}" for line in _notes(summary))]
    return "\n".join(lines).rstrip() + "\n"


def _conditions(summary: Mapping[str, Any]) -> list[str]:
    budget, evaluation = summary["budget"], summary["evaluation"]
    length = f"{budget['iterations']} steps" if budget["iterations"] else f"{budget['epochs']:g} epochs"
    height, width = budget["crop_hw"]
    low, high = budget["scale"]
    every = "all images" if evaluation["every"] == 1 else f"one image in {evaluation['every']}"
    base = "the data set's own" if evaluation["base_size"] is None else f"{evaluation['base_size']} pixels"
    scales = ", ".join(f"{scale:g}" for scale in evaluation["scales"]["several"])
    changed = f"; {' '.join(budget['overrides'])}" if budget["overrides"] else ""
    if summary["init"] is None:
        start = "fresh weights: the backbone has seen no other data"
    else:
        sha256 = summary["files"]["initial weights' sha256"]
        start = f"the backbone of all rows starts from {summary['init']} (sha256 {sha256[:12]}…)"
    return [
        f"Data: {summary['dataset']}; figures of `{evaluation['list']}`, {every} ({evaluation['images']}).",
        f"Budget `{budget['config']}`, of every row alike: ResNet-{budget['depth']}, head width "
        f"{budget['head_width']}; {length} of {budget['batch']} crops of {height}×{width}, images scaled by "
        f"{low:g} to {high:g}{changed}.",
        f"Evaluation: flip; several scales are {scales}; long side at scale 1 {base}.",
        f"Start: {start}.",
        f"Seeds: {', '.join(map(str, summary['seeds']))}; mean ± sample deviation over them.",
        *(f"Computed on: {_environment(each)}." for each in summary["environments"]),
        f"Seconds are those of a training, with {summary['parallel']} at a time.",
        f"Command: `{summary['command']}`",
    ]


def _environment(values: Mapping[str, Any]) -> str:
    threads = "" if values["threads"] is None else f", threads: {values['threads']}"
    precision = f"; trained in {values['training']}" if "training" in values else ""
    return f"{values['device']}{threads}{precision}; PyTorch {values['torch']}; Python {values['python']}"


def _line(row: Mapping[str, Any], seeds: int) -> str:
    found = len(row["seeds"])
    title = row["title"] if found == seeds else f"{row['title']} ({found} of {seeds} seeds)"
    cells = [title]
    for scales in ("single", "several"):
        cells += [percent(row[scales][figure]) for figure in ("mIoU", "allAcc")]
    cells.append("–" if row["parameters"] is None else f"{row['parameters'] / 1e6:.2f}")
    cells.append("–" if row["training_seconds"] is None else f"{row['training_seconds']:.0f}")
    for scales in ("single", "several"):
        paper = row["paper"][scales]
        cells.append(f"{100 * paper['mIoU']:.2f} / {100 * paper['allAcc']:.2f}")
    return f"| {' | '.join(cells)} |"


def percent(spread: Mapping[str, float | None]) -> str:
    """`41.92 ± 0.31`, without the deviation where there is none."""
    mean, deviation = spread["mean"], spread["deviation"]
    if mean is None:
        return "–"
    return f"{100 * mean:.2f}" + ("" if deviation is None else f" ± {100 * deviation:.2f}")


def _notes(summary: Mapping[str, Any]) -> list[str]:
    notes = ["+DenseCRF is the baseline of the same seed, post-processed with the paper's parameters."]
    if not any(row["name"] == "densecrf" for row in summary["rows"]):
        notes = []
    notes += [f"Failed: {name}: {reason}" for name, reason in summary["failed"].items()]
    if summary["missing"]:
        notes.append(f"Not finished yet: {'; '.join(summary['missing'])}")
    return notes
