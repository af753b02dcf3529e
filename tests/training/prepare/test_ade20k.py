from pathlib import Path

import numpy as np
import pytest

from tests.training.prepare.conftest import numbers, read_png, write_folder, write_zip
from tests.training.prepare.miniatures import ade20k_files
from training.prepare.__main__ import run

pytestmark = pytest.mark.usefixtures("few_ade20k")


@pytest.mark.parametrize("kind", ["archive", "its folder", "the folder in it"])
def test_lists_and_labels_are_as_published(tmp_path: Path, kind: str) -> None:
    files = ade20k_files()
    source = {
        "archive": lambda: write_zip(tmp_path / "ADEChallengeData2016.zip", files),
        "its folder": lambda: write_folder(tmp_path / "x", files),
        "the folder in it": lambda: write_folder(tmp_path / "x", files) / "ADEChallengeData2016",
    }[kind]()
    summary = run("ade20k", [source], out=tmp_path / "out")
    assert summary["lists"] == {"training": 3, "validation": 2}
    assert (tmp_path / "out/list/validation.txt").read_text() == (
        "images/validation/ADE_val_00000001.jpg annotations/validation/ADE_val_00000001.png\n"
        "images/validation/ADE_val_00000002.jpg annotations/validation/ADE_val_00000002.png\n"
    )
    # 0 is 255, k is k - 1: 8-bit arithmetic that wraps around does just that.
    expected = numbers(3, [0, 1, 2, 150]) - np.uint8(1)
    ids = read_png(tmp_path / "out/annotations/training/ADE_train_00000003.png")
    np.testing.assert_array_equal(ids, expected)
    image = "images/training/ADE_train_00000003.jpg"
    assert (tmp_path / "out" / image).read_bytes() == files[f"ADEChallengeData2016/{image}"]
