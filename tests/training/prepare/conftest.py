"""Miniature archives in the layouts of the published ones, made on the spot."""

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

HW = (12, 16)


def jpeg(seed: int, hw: tuple[int, int] = HW) -> bytes:
    rng = np.random.default_rng(seed)
    return _saved(Image.fromarray(rng.integers(0, 256, (*hw, 3), dtype=np.uint8)), "JPEG")


def png(values: np.ndarray, *, palette: bool = False) -> bytes:
    image = Image.fromarray(values)
    if palette:
        image = Image.new("P", values.shape[1::-1])
        image.putpalette([value * 37 % 256 for value in range(768)])
        image.putdata(values.ravel().tolist())
    return _saved(image, "PNG")


def _saved(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def numbers(seed: int, choices: list[int], hw: tuple[int, int] = HW) -> np.ndarray:
    """(H, W) uint8 values of `choices`, all of which occur."""
    values = np.random.default_rng(seed).choice(choices, hw).astype(np.uint8)
    values.flat[: len(choices)] = choices
    return values


def write_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_tar(path: Path, files: Mapping[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def write_folder(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def read_png(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.array(image)


@pytest.fixture
def few_ade20k(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published counts, for the miniature."""
    monkeypatch.setattr("training.prepare.ade20k.EXPECTED", {"training": (3,), "validation": (2,)})
