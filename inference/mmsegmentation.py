"""One prediction by MMSegmentation's test protocol: logits resized twice, probabilities of pictures averaged.

Not here: sizes and windows (`mmseg_layout.py`), memory (`mmseg_plan.py`), sums (`mmseg_stitch.py`), the
published protocol (`published.py`).

What differs from the published protocol: pixels are resized as uint8; nothing is padded; windows are summed
as logits; logits are resized to the picture and from there to the image, both by the model's corner rule; a
mirror image is one of the whole picture, so that its windows lie from the other side; softmax comes last, per
picture, and only where pictures are averaged. An engine that takes images of one size alone is given smaller
ones padded with the mean colour at the bottom and on the right, as MMSegmentation 0.5.0 did.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import cv2
import numpy as np
from array_api_compat import is_numpy_array
from numpy.typing import NDArray

from inference.arrays import Workspace
from inference.bundle import ModelInfo
from inference.clock import engine_clock
from inference.engines import Engine, arrays_of
from inference.errors import ParameterError
from inference.mmseg_layout import Picture, WindowAxis, box_of, lay_out_pictures
from inference.mmseg_plan import PicturePlan, PictureRequest, View, plan_pictures
from inference.mmseg_stitch import CoarseLogits, PictureStitcher
from inference.plan import intervals
from inference.prediction import Check, Outputs, Prediction
from models.config import ConfigError

BLOCK_HW_HOST, BLOCK_VALUES_HOST = (64, 256), 1 << 18
"""What a core's cache holds."""
BLOCK_HW_DEVICE, BLOCK_VALUES_DEVICE = (256, 2048), 1 << 24
"""Enough for a GPU to be busy with."""


def plan_mmsegmentation(
    info: ModelInfo,
    engine: Engine,
    image_hw: tuple[int, int],
    *,
    scales: Iterable[float],
    flip: bool,
    base_size: int | None,
    confidence: bool,
    probabilities: bool,
    budget_bytes: int,
) -> PicturePlan:
    """See `Predictor.plan`."""
    on_host = is_numpy_array(arrays_of(engine))
    request = PictureRequest(
        image_hw=image_hw,
        pictures=lay_out_pictures(
            image_hw,
            scales,
            box_of(info, base_size),
            crop_hw=None if info.test_mode == "whole" else info.crop_hw,
            padded=engine.crop_hw is not None,
            coarse_of=_coarse_of(info, engine),
        ),
        classes=info.classes,
        mirrored=flip,
        confidence=confidence,
        probabilities=probabilities,
        # An engine with limits has set its memory aside.
        architecture=info.architecture if engine.crop_hw is None and engine.limits_hw is None else None,
        batch=min(engine.preferred_batch, engine.max_batch or engine.preferred_batch),
        block_hw=BLOCK_HW_HOST if on_host else BLOCK_HW_DEVICE,
        block_values=BLOCK_VALUES_HOST if on_host else BLOCK_VALUES_DEVICE,
    )
    return plan_pictures(request, budget_bytes)


def _coarse_of(info: ModelInfo, engine: Engine) -> Callable[[tuple[int, int]], tuple[int, int]]:
    """Coarse size of a window size, which is refused where the network cannot take it."""
    if engine.crop_hw is not None:
        return lambda window_hw: engine.coarse_hw

    def of_any(window_hw: tuple[int, int]) -> tuple[int, int]:
        network = info.architecture
        _require_within(window_hw, engine)
        if not network.any_size:  # nothing is known of how it shrinks; the size is an estimate
            height, width = (math.ceil(side / network.output_stride) for side in window_hw)
            return height, width
        try:
            network.attention_hw_of(window_hw)
        except ConfigError as error:
            raise ParameterError(
                f"the image is too narrow for this network at this size ({error}): "
                "choose a larger base_size or scale, or a less narrow image"
            ) from error
        return network.feature_hw_of(window_hw)

    return of_any


def _require_within(window_hw: tuple[int, int], engine: Engine) -> None:
    limits = engine.limits_hw
    if limits is None or all(
        low <= side <= high for low, side, high in zip(limits[0], window_hw, limits[1], strict=True)
    ):
        return
    size, least, most = (f"{height}x{width}" for height, width in (window_hw, *limits))
    raise ParameterError(
        f"at this scale the image has {size} pixels, and this {engine.name} engine takes {least} to {most}: "
        "choose another scale or base_size, another engine (onnxruntime), or build this one for it "
        "(python -m export.trt --sizes LEAST,USUAL,MOST)"
    )


class MmsegmentationRun:
    """One prediction at work."""

    def __init__(
        self, info: ModelInfo, engine: Engine, plan: PicturePlan, image: NDArray[np.uint8], check: Check
    ) -> None:
        self._engine, self._plan, self._check, self._image = engine, plan, check, image
        self._mean = np.array(info.mean_rgb, np.float32)[:, None, None]
        self._shown: int | None = None
        self._picture: NDArray[np.uint8] = image[:0]
        self._align_corners = info.align_corners
        like = arrays_of(engine)
        self._work = Workspace(like)
        self._logits = CoarseLogits(info.classes, self._work)
        self._clock, self._windows = engine_clock(like), 0

    def result(self) -> Prediction:
        """Does the work."""
        for views in self._plan.batches():
            self._infer(views)
        self._picture = self._image[:0]
        request, plan = self._plan.request, self._plan
        stitcher = PictureStitcher(plan, self._logits, self._work, align_corners=self._align_corners)
        outputs = Outputs(
            self._work,
            request.image_hw,
            request.classes,
            confidence=request.confidence,
            probabilities=request.probabilities,
        )
        for rows in intervals(0, request.image_hw[0], plan.block_hw[0]):
            shared = stitcher.row_parts(rows)
            for index, columns in enumerate(stitcher.columns):
                self._check()
                block = stitcher.block(shared, index, mean=not plan.single)
                labels, best = self._work.first_maximum(block)
                if plan.single and (request.confidence or request.probabilities):
                    block = stitcher.softmax(block)
                    best = self._work.xp.max(block, axis=0)
                outputs.write(rows, columns, labels, best, block)
        return outputs.result(self._clock.seconds(), self._windows)

    def _infer(self, views: Sequence[View]) -> None:
        """Runs the network on `views`, which are of one picture, and keeps its logits."""
        self._check()
        picture = self._plan.request.pictures[views[0][0]]
        pixels = np.empty((len(views), 3, *picture.window_hw), np.float32)
        for view, window in zip(views, pixels, strict=True):
            self._cut(view, window)
        given = self._engine.to_device(pixels)
        with self._clock:
            logits = self._engine.infer(given)
        self._windows += len(views)
        self._logits.keep(views, logits)

    def _cut(self, view: View, out: NDArray[np.float32]) -> None:
        """Writes the window of `view` into `out`, (3, h, w) float32 RGB in [0, 255]."""
        index, row, column, mirrored = view
        picture = self._plan.request.pictures[index]
        if self._shown != index:
            self._picture = self._image[:0]  # lets the old one go before the new one is made
            self._picture, self._shown = resized(self._image, picture), index
        pixels = self._picture[:, ::-1] if mirrored else self._picture
        cut_window(pixels, picture, self._mean, row, column, out)


def cut_window(
    pixels: NDArray[np.uint8],
    picture: Picture,
    mean: NDArray[np.float32],
    row: int,
    column: int,
    out: NDArray[np.float32],
) -> None:
    """Writes a window of the resized image (H, W, 3) into `out`, (3, h, w) float32 RGB in [0, 255].

    mean: (3, 1, 1), what is below and right of the picture in a window that is larger.
    """
    (top, bottom), (left, right) = _content(picture.rows, row), _content(picture.columns, column)
    height, width = bottom - top, right - left
    if (height, width) != out.shape[1:]:
        out[...] = mean
    out[:, :height, :width] = pixels[top:bottom, left:right].transpose(2, 0, 1)


def resized(image: NDArray[np.uint8], picture: Picture) -> NDArray[np.uint8]:
    """`image`, (H, W, 3), at the picture's size, by OpenCV's INTER_LINEAR on uint8; itself where it has
    it."""
    if image.shape[:2] == picture.hw:
        return image
    result: NDArray[np.uint8] = cv2.resize(  # type: ignore[assignment]
        np.ascontiguousarray(image), picture.hw[::-1], interpolation=cv2.INTER_LINEAR
    )
    return result


def _content(axis: WindowAxis, index: int) -> tuple[int, int]:
    return axis.starts[index], axis.starts[index] + axis.content
