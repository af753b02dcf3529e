"""The models that are served, as the process that speaks HTTP knows them: by name, without their engines.

Not here: opening them (`hosting.py`). Free of numpy: how much work an image makes is arithmetic.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from inference.bundle import ModelInfo
from inference.mmseg_layout import box_of, lay_out_pictures
from inference.windows import lay_out
from service.errors import Problem


@dataclass(frozen=True, kw_only=True)
class HostedModel:
    """A model in a worker. engine, device: what runs it; one_size: whether its engine takes images of the
    crop alone; batch: images in an engine call at most; window_s: seconds that one window took when the
    worker started."""

    info: ModelInfo
    engine: str
    device: str
    one_size: bool
    batch: int
    window_s: float

    def windows(self, image_hw: tuple[int, int], scales: Iterable[float], *, flip: bool) -> int:
        """How much work an image is, in windows of the model's crop; whole images count by their pixels.

        Raises ParameterError for scales that the image cannot have.
        """
        info = self.info
        if info.protocol == "published":
            layouts = lay_out(image_hw, scales, info.base_size, info.crop_hw)
            count = sum(len(each.rows.starts) * len(each.columns.starts) for each in layouts)
            return count * (1 + flip)
        pictures = lay_out_pictures(
            image_hw,
            scales,
            box_of(info, None),
            crop_hw=None if info.test_mode == "whole" else info.crop_hw,
            padded=self.one_size,
            coarse_of=lambda window_hw: window_hw,
        )
        pixels = sum(each.windows * math.prod(each.window_hw) for each in pictures) * (1 + flip)
        return max(1, math.ceil(pixels / math.prod(info.crop_hw)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `from_dict` reads them back."""
        facts = {"engine": self.engine, "device": self.device, "one_size": self.one_size}
        return {**facts, "batch": self.batch, "window_s": self.window_s, "info": self.info.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "HostedModel":
        """The inverse of `to_dict`."""
        return cls(**{**values, "info": ModelInfo.from_dict(values["info"])})


class Catalog:
    """The models by name, the first is the default; empty until they are loaded."""

    def __init__(self, models: Iterable[HostedModel] = ()) -> None:
        self._models = {model.info.name: model for model in models}

    def __iter__(self) -> Iterator[HostedModel]:
        return iter(self._models.values())

    def __len__(self) -> int:
        return len(self._models)

    def find(self, name: str | None) -> HostedModel:
        """The model of that name, the first one for None. Raises Problem 404 that lists the names."""
        if name is None:
            return next(iter(self))
        model = self._models.get(name)
        if model is None:
            detail = f"No model is called {name!r}: there is {', '.join(self._models)}."
            raise Problem(404, "unknown_model", detail, title="Unknown model")
        return model
