"""Label files as the test servers of Cityscapes, VOC 2012 and ADE20K take them.

Not here: packing and uploading; the servers want one archive of what is below the folder.

    python -m training.evaluate --model psanet101_cityscapes.pth --data-root data/cityscapes \\
        --list data/cityscapes/list/fine_test.txt --submission cityscapes --out results
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inference.bundle import ModelInfo
from inference.errors import ParameterError
from inference.files import write_atomically
from inference.render import label_png
from models.labels import get_label_set


@dataclass(frozen=True)
class _Form:
    """folder: below which the files lie; colors: whether they carry the palette; values: by class id."""

    folder: str
    colors: bool
    values: tuple[int, ...]


SUBMISSIONS: Mapping[str, _Form] = MappingProxyType(
    {
        # Label ids, grey; the server finds the images by city, sequence and frame in the file's name.
        "cityscapes": _Form("cityscapes", False, get_label_set("cityscapes").label_ids or ()),
        # comp6: trained with more than VOC's own images; ImageNet's count.
        "voc2012": _Form("results/VOC2012/Segmentation/comp6_test_cls", True, tuple(range(21))),
        # 0 is what ADE20K does not label.
        "ade20k": _Form("ade20k", False, tuple(range(1, 151))),
    }
)
"""By data set: what `--submission` takes."""


class SubmissionWriter:
    """Writes `<folder>/…/<name of the image>.png` for each image.

    Raises ParameterError where the model's classes are another data set's, and for two images of one name.
    """

    def __init__(self, name: str, info: ModelInfo, folder: Path, images: Sequence[Path]) -> None:
        if name not in SUBMISSIONS:
            raise ParameterError(f"--submission takes {', '.join(SUBMISSIONS)}, not {name!r}")
        labels = get_label_set(name)
        known = info.dataset == name or info.class_names == labels.class_names
        if not known or info.classes != labels.classes:
            raise ParameterError(
                f"{info.name} tells the {info.classes} classes of {info.dataset}: a submission to {name} "
                f"takes a model of its {labels.classes} (a checkpoint's data set is given with --dataset)"
            )
        self._form, self._palette = SUBMISSIONS[name], labels.palette
        self._values = np.array(self._form.values, np.uint8)
        self.folder = folder / self._form.folder
        owner: dict[Path, Path] = {}
        for image in images:
            other = owner.setdefault(self.target(image), image)
            if other is not image:
                raise ParameterError(
                    f"{other} and {image} would both be {self.target(image)}: list each image once"
                )

    def target(self, image: Path) -> Path:
        """The file of that image."""
        return self.folder / f"{image.stem}.png"

    def write(self, image: Path, labels: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
        """(H, W) class ids of `image` as the server takes them; the file is there whole or not at all."""
        values = self._values[labels]
        if self._form.colors:
            content = label_png(values, self._palette)
        else:
            buffer = io.BytesIO()
            Image.fromarray(values).save(buffer, "PNG", compress_level=1)
            content = buffer.getvalue()
        write_atomically(self.target(image), content)
