"""A miniature data set in the official list format, made on the spot."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def miniature(tmp_path: Path) -> Path:
    """`images/`, `labels/` and `list/{train,val}.txt`: six pictures; colours tell the 11 classes."""
    root = tmp_path / "miniature"
    for folder in ("images", "labels", "list"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = []
    for index in range(6):
        label = np.kron(rng.integers(0, 11, (3, 4)), np.ones((20, 20))).astype(np.uint8)
        label[:3] = 255
        image = (np.stack([label * 20 % 251, label * 53 % 241, label * 97 % 239], -1)).astype(np.uint8)
        Image.fromarray(image).save(root / f"images/{index}.png")
        Image.fromarray(label).save(root / f"labels/{index}.png")
        lines.append(f"images/{index}.png labels/{index}.png\n")
    (root / "list/train.txt").write_text("".join(lines[:4]))
    (root / "list/val.txt").write_text("".join(lines[4:]))
    return root
