"""The summary, the table and the picture of made-up results, against numbers computed apart from them."""

import hashlib
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.ablation.conftest import ENVIRONMENT, MakePlan, write_result
from training.ablation.plan import Plan
from training.ablation.plot import svg, ticks_of
from training.ablation.results import result_of
from training.ablation.rows import BUDGETS
from training.ablation.summary import summarize
from training.ablation.table import markdown

SVG = "{http://www.w3.org/2000/svg}"


def summary_of(plan: Plan, failed: dict[str, str] | None = None) -> dict[str, Any]:
    results = {run.name: result for run in plan.runs if (result := result_of(run)) is not None}
    summary = summarize(plan, results, failed=failed or {}, parallel=2, command="python -m x 'a b'")
    return dict(json.loads(json.dumps(summary)))


def cells_of(page: str) -> dict[str, list[str]]:
    """The table's cells by the row's name."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if "|" in line]
    return {row[0]: row[1:] for row in rows}


def test_the_table_holds_means_and_sample_deviations_over_the_seeds(plan: MakePlan) -> None:
    made = plan(seeds=(0, 1, 5))
    rng = np.random.default_rng(0)
    single, several = rng.uniform(0.2, 0.7, (2, 10, 3)).round(5)
    names = list(dict.fromkeys(run.row.name for run in made.runs))
    for run in made.runs:
        place = names.index(run.row.name), (0, 1, 5).index(run.seed)
        seconds = None if run.row.name == "densecrf" else 100.0 + run.seed
        write_result(run, single[place], several[place], training_seconds=seconds)
    cells = cells_of(markdown(summary_of(made)))
    assert len(cells) == 12  # with the head and the line below it
    for index, row in enumerate(list(cells)[2:]):
        for column, values in ((0, single[index]), (1, single[index] / 2), (2, several[index])):
            mean, deviation = 100 * values.mean(), 100 * values.std(ddof=1)
            assert cells[row][column] == f"{mean:.2f} ± {deviation:.2f}"
        assert cells[row][3] == "50.00 ± 0.00"
        assert cells[row][4] == "12.35"
        assert cells[row][5] == ("–" if row == "+DenseCRF" else "102")
    assert cells["+COLLECT+DISTRIBUTE"][6:] == ["41.92 / 80.17", "42.97 / 80.92"]


def test_one_seed_has_no_deviation_and_what_is_not_there_is_told(plan: MakePlan) -> None:
    one = plan(seeds=(3,), rows=("baseline",))
    write_result(one.runs[0], 0.41926)
    assert cells_of(markdown(summary_of(one)))["Baseline"][0] == "41.93"

    made = plan(seeds=(0, 1), rows=("baseline", "collect", "psp"))
    for run in made.runs[:2]:
        write_result(run, 0.5)
    page = markdown(summary_of(made, {"collect, seed 0": "error: no luck"}))
    cells = cells_of(page)
    assert cells["Baseline (1 of 2 seeds)"][0] == cells["+PSP (1 of 2 seeds)"][0] == "50.00"
    assert cells["+COLLECT (0 of 2 seeds)"][:6] == ["–"] * 6
    assert "- Failed: collect, seed 0: error: no luck" in page
    assert "- Not finished yet: baseline, seed 1; psp, seed 1; collect, seed 1" in page


def test_the_page_says_what_was_compared_and_how(plan: MakePlan, tmp_path: Path) -> None:
    weights = tmp_path / "resnet18.pth"
    weights.write_bytes(b"weights")
    made = plan(seeds=(0, 1), rows=("baseline",), init=weights, scales=(0.5, 1.25))
    write_result(made.runs[0], 0.5)
    write_result(made.runs[1], 0.5, environment={**ENVIRONMENT, "device": "cuda, H100", "threads": None})
    page = markdown(summary_of(made))
    for told in (
        "**A small budget for a CPU",
        "Data: camvid; figures of `list/val.txt`, one image in",
        "2 steps of 2 crops of 33×33, images scaled by 0.25 to 1; model.crop_hw=[33, 33] ",
        "several scales are 0.5, 1.25; long side at scale 1 240 pixels",
        f"starts from resnet18.pth (sha256 {hashlib.sha256(b'weights').hexdigest()[:12]}…)",
        "Seeds: 0, 1;",
        "cpu, abacus, threads: 1; PyTorch 2.0; Python 3.11.",
        "cuda, H100; PyTorch 2.0",
        "with 2 at a time",
        "Command: `python -m x 'a b'`",
        "(ADE20K val, ResNet-50)",
    ):
        assert told in page, told
    full = markdown(summary_of(plan(budget=BUDGETS["full"], overrides=())))
    assert "small budget" not in full
    assert "60 epochs of 16 crops of 353×353, images scaled by 0.5 to 2." in full
    assert "`list/val.txt`, all images (2)" in full
    assert "fresh weights: the backbone has seen no other data" in full


def test_the_picture_has_a_mark_for_each_figure_where_its_axis_says(plan: MakePlan) -> None:
    made = plan(seeds=(0, 1))
    for index, run in enumerate(made.runs):
        write_result(run, 0.3 + 0.004 * index, 0.35 + 0.004 * index)
    summary = summary_of(made)
    summary["rows"][0]["title"] = "<Baseline> & more"
    picture = ElementTree.fromstring(svg(summary))
    texts = [text.text for text in picture.iter(f"{SVG}text")]
    assert "<Baseline> & more" in texts
    assert "camvid, mIoU in percent, small budget" in texts
    circles = [circle for circle in picture.iter(f"{SVG}circle") if len(circle)]
    assert len(circles) == 40
    ticks = {
        float(text.text or ""): float(text.get("x", ""))
        for text in picture.iter(f"{SVG}text")
        if re.fullmatch(r"[\d.]+", text.text or "") and float(text.get("x", "")) < 500
    }
    for circle in circles[:20]:
        mean = float((circle[0].text or "").split(" ± ")[0])
        expected = np.interp(mean, sorted(ticks), [ticks[tick] for tick in sorted(ticks)])
        assert float(circle.get("cx", "")) == pytest.approx(expected, abs=0.2)


@pytest.mark.parametrize(("low", "high"), [(37.2, 43.0), (0.0, 0.0), (21.37, 21.38), (5.0, 95.0), (1.1, 9.9)])
def test_ticks_are_round_enclose_both_ends_and_are_few(low: float, high: float) -> None:
    ticks = ticks_of(low, high)
    assert ticks[0] <= low <= high <= ticks[-1]
    assert 4 <= len(ticks) <= 9
    steps = np.diff(ticks)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6)
    assert f"{steps[0]:.6e}"[0] in "125"
