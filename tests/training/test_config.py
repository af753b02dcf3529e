import dataclasses
import re
from pathlib import Path

import pytest

from models.config import ConfigError
from training.config import config_from_dict, read_config

CONFIGS = sorted(Path("training/configs").glob("*.yaml"))
CAMVID = "training/configs/camvid_psanet18.yaml"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_that_comes_along_is_valid(path: Path) -> None:
    config = read_config(path)
    assert config.preset == path.stem.partition("_")[2] + "_" + path.stem.partition("_")[0]


def test_the_long_training_goes_on_top_of_the_short_ones() -> None:
    config = read_config([CAMVID, "training/configs/long/camvid.yaml"], ["preset=psanet50_camvid"])
    assert (config.model.depth, config.data.on_device, config.compile) == (50, True, True)


def test_a_finish_goes_on_top_of_the_long_training() -> None:
    files = [CAMVID, "training/configs/long/camvid.yaml", "training/configs/long/finish.yaml"]
    config = read_config(files, ["start=long.pth"])
    assert (config.iterations, config.epochs, config.batch, config.lr) == (1400, None, 4, 0.003)
    assert (config.model.aux, config.compile, config.teacher) == (False, False, None)


@pytest.mark.parametrize(
    ("name", "iterations", "crop", "rotates"),
    [("ade20k", 150_000, 465, True), ("voc2012", 30_000, 465, True), ("cityscapes", 90_000, 705, False)],
)
def test_published_recipes_have_the_papers_settings(
    name: str, iterations: int, crop: int, rotates: bool
) -> None:
    config = read_config(f"training/configs/{name}_psanet50.yaml")
    assert (config.iterations, config.batch, config.lr, config.poly_power) == (iterations, 16, 0.01, 0.9)
    assert (config.momentum, config.weight_decay, config.aux_weight) == (0.9, 1e-4, 0.4)
    assert (config.head_lr_factor, config.augment.scale) == (10.0, (0.5, 2.0))
    assert config.model.crop_hw == (crop, crop)
    assert (config.augment.rotate_degrees, config.augment.blur) == ((10.0, True) if rotates else (0.0, False))


ROWS = Path("training/configs/rows")
TABLES = [
    ("ade20k", "baseline", {"context": "none"}),
    ("ade20k", "global_pooling", {"context": "global"}),
    ("ade20k", "aspp", {"context": "aspp"}),
    ("ade20k", "nonlocal", {"context": "nonlocal"}),
    ("ade20k", "psp", {"context": "ppm"}),
    ("ade20k", "collect_compact", {"context": "psa", "psa_type": "collect", "compact": True}),
    *(
        (dataset, row, {"context": "psa", "psa_type": kind, "compact": False})
        for dataset in ("ade20k", "voc2012", "cityscapes", "camvid")
        for row, kind in (("collect", "collect"), ("distribute", "distribute"))
    ),
    ("voc2012", "baseline", {"context": "none"}),
    ("cityscapes", "collect_distribute", {"context": "psa", "psa_type": "bidirectional"}),
]


@pytest.mark.parametrize(("dataset", "row", "expected"), TABLES)
@pytest.mark.parametrize("deep", [False, True])
def test_every_row_of_the_papers_tables_is_two_files_and_changes_nothing_else(
    dataset: str, row: str, expected: dict[str, object], deep: bool
) -> None:
    base = f"training/configs/{dataset}_{'psanet18' if dataset == 'camvid' else 'psanet50'}.yaml"
    files = [base, ROWS / f"{row}.yaml", *([ROWS / "resnet101.yaml"] if deep else [])]
    alone, config = read_config(base), read_config(files)
    changes = {**expected, **({"depth": 101} if deep else {})}
    assert config.model == alone.model.replace(**changes)
    assert config.out == "runs/" + "_".join(Path(file).stem for file in files)
    assert dataclasses.replace(config, model=alone.model, out=alone.out) == alone


def test_every_row_file_is_one_of_the_tables_or_the_depth() -> None:
    assert {path.stem for path in ROWS.iterdir()} == {row for _, row, _ in TABLES} | {"resnet101"}


def test_a_later_file_changes_single_keys_and_overrides_go_last(tmp_path: Path) -> None:
    later = tmp_path / "later.yaml"
    later.write_text("augment: {blur: true}\nlr: 0.5\nout: elsewhere\n")
    config = read_config(["training/configs/ade20k_psanet50.yaml", later], ["lr=0.25"])
    assert (config.augment.blur, config.augment.rotate_degrees) == (True, 10.0)
    assert (config.lr, config.out) == (0.25, "elsewhere")


def test_overrides_reach_nested_values_and_take_yaml() -> None:
    config = read_config(
        CAMVID,
        ["model.crop_hw=[241, 241]", "weight_decay=5e-4", "epochs=null", "iterations=7", "augment.blur=true"],
    )
    assert config.model.crop_hw == (241, 241)
    assert config.model.psa_mask_hw == (31, 31)
    assert (config.weight_decay, config.iterations, config.epochs, config.augment.blur) == (
        5e-4,
        7,
        None,
        True,
    )


def test_a_context_method_is_one_override() -> None:
    assert read_config(CAMVID, ["model.context=aspp"]).model.context == "aspp"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("learning_rate=0.1", "unknown keys ['learning_rate']"),
        ("augment.rotation=10", "unknown keys ['augment.rotation']"),
        ("model.depht=50", "unknown keys ['model.depht']; known are ['align_corners', "),
        ("data.7=1", "unknown keys ['data.7']"),
        ("epochs=.inf", "epochs does not take inf"),
        ("lr=.nan", "lr does not take nan"),
        ("lr=fast", "lr does not take 'fast'"),
        ("lr=-1", "lr must be above 0"),
        ("batch=true", "batch does not take True"),
        ("batch=1.5", "batch does not take 1.5"),
        ("iterations=5", "give one of iterations and epochs"),
        ("model.crop_hw=[350, 350]", "353 would do"),
        ("model.classes=12", "set model.classes=11"),
        ("data.dataset=mars", "known are ade20k"),
        ("preset=psanet19", "preset 'psanet19' is none of"),
        ("lr", "key.path=value"),
        ("lr.base=1", "lr holds no keys"),
        ("augment.scale=[2, 0.5]", "the smaller first"),
        ("data=3", "data must hold keys and values"),
        ("model=3", "model must hold keys and values"),
        ("preset=[1]", "preset [1] is none of"),
        ("lr=[1", "lr does not take '[1', which is not YAML"),
        ("augment.scale=[1]", "augment.scale takes 2 values"),
        ("augment.scale=[a, b]", "augment.scale does not take 'a'"),
        ("device=gpu", "device is auto, cpu, cuda or cuda:N"),
    ],
)
def test_a_wrong_override_is_refused_with_its_reason(override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        read_config(CAMVID, [override])


def test_a_missing_file_and_missing_keys_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no configuration"):
        read_config(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match=r"missing keys \['data'\]"):
        config_from_dict({"preset": "psanet18_camvid", "epochs": 1})
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="keys and values"):
        read_config(tmp_path / "list.yaml")
    (tmp_path / "numbers.yaml").write_text("{preset: psanet18_camvid, 7: 1, model: {8: 1}}")
    with pytest.raises(ConfigError, match=r"unknown keys \['model\.8'\]"):
        read_config(tmp_path / "numbers.yaml")
    with pytest.raises(ConfigError, match=r"unknown keys \['7'\]"):
        read_config(tmp_path / "numbers.yaml", ["model=null"])
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    with pytest.raises(ConfigError, match="not YAML"):
        read_config(tmp_path / "broken.yaml")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a: [", b"[" * 5_000])
def test_a_file_that_is_no_yaml_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"odd\.yaml is not YAML"):
        read_config(path)
