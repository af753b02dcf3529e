import re
from pathlib import Path
from typing import Any

import pytest

from inference.errors import ParameterError
from inference.pairs import DatasetError
from models.config import ConfigError
from tests.training.ablation.conftest import TINY, MakePlan
from training.ablation.plan import differences, identity
from training.ablation.rows import BUDGETS, ROWS
from training.config import config_from_dict


def test_every_row_differs_from_the_baseline_in_its_network_alone(plan: MakePlan) -> None:
    runs = plan(seeds=(0,)).runs
    assert [run.row.name for run in runs] == [row.name for row in ROWS]
    configs = [config_from_dict(run.spec["config"]).to_dict() for run in runs]
    models = [config.pop("model") for config in configs]
    for config in configs:
        config.pop("out")
        assert config == configs[0]
    keys = {"context", "psa_type", "compact"}
    assert models[0]["context"] == "none"
    for row, model in zip(ROWS[1:], models[1:], strict=True):
        changed = {key for key, value in model.items() if value != models[0][key]}
        assert changed <= keys, row.name
        assert bool(changed) == (row.name != "densecrf"), row.name
    assert len({str(model) for model in models}) == 9


@pytest.mark.parametrize("name", list(BUDGETS))
def test_a_budget_fits_every_row(name: str, plan: MakePlan) -> None:
    for run in plan(budget=BUDGETS[name], overrides=()).runs:
        config = config_from_dict(run.spec["config"])
        assert config.preset == "psanet18_camvid"
        assert config.seed == run.seed
        assert Path(config.out) == run.folder
    full = config_from_dict(plan(budget=BUDGETS["full"], overrides=()).runs[0].spec["config"])
    assert (full.epochs, full.batch, full.model.crop_hw) == (60, 16, (353, 353))


def test_all_rows_of_a_seed_come_before_the_next_seed(plan: MakePlan) -> None:
    runs = plan(rows=("collect", "baseline", "densecrf"), seeds=(4, 2)).runs
    assert [run.name for run in runs] == [
        f"{name}, seed {seed}" for seed in (4, 2) for name in ("baseline", "densecrf", "collect")
    ]
    assert [None if run.source is None else run.source.name for run in runs] == [
        None,
        "baseline, seed 4",
        None,
        None,
        "baseline, seed 2",
        None,
    ]


def test_the_paper_s_figures_are_those_of_the_training_page() -> None:
    text = Path("training/README.md").read_text(encoding="utf-8")
    table = text[text.index("Tables 1 and 2") : text.index("Table 4 ")]
    lines = [line.split("|")[2:4] for line in table.splitlines() if re.match(r"\| (`|baseline)", line)]
    lines = [line for line in lines if "." in line[0]]
    assert len(lines) == len(ROWS)
    for row, line in zip(ROWS, lines, strict=True):
        for figures, cell in zip((row.single, row.several), line, strict=True):
            assert f"{figures.miou:.2f} / {figures.accuracy:.2f}" == cell.strip(), row.name


def test_one_image_in_so_many_is_evaluated(plan: MakePlan, miniature: Path) -> None:
    lines = (miniature / "list/train.txt").read_text().splitlines(keepends=True)
    (miniature / "list/val.txt").write_text("\n".join(lines))
    assert plan().validation.decode() == lines[0]
    assert plan(budget=BUDGETS["full"], overrides=()).validation.decode() == "".join(lines)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"rows": ("baseline", "deeplab")}, r"rows \['deeplab'\] are none of baseline, densecrf"),
        ({"rows": ("densecrf",)}, "densecrf post-processes the baseline: name baseline among the rows too"),
        ({"seeds": (1, 1)}, "seeds are different whole numbers"),
        ({"scales": ()}, "scales is empty"),
        ({"overrides": ("seed=3",)}, "seed is not for an override: give --seeds"),
        ({"overrides": ("data.root=x",)}, "give --data-root"),
    ],
)
def test_what_cannot_be_is_refused_with_the_mend(plan: MakePlan, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ParameterError, match=told):
        plan(**changes)


def test_an_override_that_makes_two_rows_one_network_is_refused(plan: MakePlan) -> None:
    with pytest.raises(ConfigError, match="baseline and global_pooling are one network"):
        plan(overrides=(*TINY, "model.context=none"))


def test_missing_initial_weights_are_told_before_anything_starts(plan: MakePlan, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="initial weights .*absent.pth cannot be read"):
        plan(init=tmp_path / "absent.pth")


def test_a_run_is_the_same_whatever_does_not_change_its_figures(plan: MakePlan, tmp_path: Path) -> None:
    one, other = tmp_path / "one.pth", tmp_path / "other.pth"
    one.write_bytes(b"weights")
    other.write_bytes(b"weights")
    before = plan(init=one).runs[0]
    after = plan(init=other, out=tmp_path / "else", overrides=(*TINY, "workers=3", "data.cache=false")).runs[
        0
    ]
    assert differences(before.spec, after.spec) == []
    other.write_bytes(b"other weights")
    changed = differences(before.spec, plan(init=other).runs[0].spec)
    assert len(changed) == 1
    assert "initial weights' sha256" in changed[0]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"overrides": (*TINY, "batch=4")}, ["batch: 2, now 4"]),
        ({"overrides": (*TINY, "augment.scale=[1, 2]")}, ["augment.scale: [0.25, 1.0], now [1.0, 2.0]"]),
        ({"seeds": (7,)}, ["seed: 0, now 7"]),
        (
            {"scales": (1, 2)},
            ["evaluation.scales.several: [0.5, 0.75, 1.0, 1.25, 1.5, 1.75], now [1.0, 2.0]"],
        ),
    ],
)
def test_what_changes_the_figures_makes_another_run(
    plan: MakePlan, changes: dict[str, Any], told: list[str]
) -> None:
    assert differences(plan().runs[0].spec, plan(**changes).runs[0].spec) == told


def test_other_images_in_a_list_make_another_run(plan: MakePlan, miniature: Path) -> None:
    before = plan().runs[0]
    (miniature / "list/train.txt").write_text("images/0.png labels/0.png\n")
    assert [each.split(":")[0] for each in differences(before.spec, plan().runs[0].spec)] == [
        "files.training list's sha256"
    ]


def test_keys_that_an_older_version_did_not_write_have_their_defaults(plan: MakePlan) -> None:
    spec = plan().runs[0].spec
    old = {key: value for key, value in spec["config"].items() if key != "ema"}
    assert differences({**spec, "config": old}, spec) == []
    newer = {**spec, "config": {**spec["config"], "warp": 9}}
    assert "unknown keys ['warp']" in differences(newer, spec)[0]
    assert identity(spec)["row"] == "baseline"
