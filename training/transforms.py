"""The augmentations of one image and its label map (paper 4.1), in the published order, by OpenCV.

Images are (H, W, 3) float32 RGB in [0, 255], labels (H, W) uint8 class ids. The network normalises, so what
is padded takes the mean colour; padded labels are IGNORE. What chance decides is a `Draw`, made before any
pixel is touched: `device_data.py` does the same to the same draws on a GPU.

    transform = TrainingTransform(AugmentConfig(), crop_hw=(465, 465))
    image, label = transform(image, label, np.random.default_rng(0))
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from models.config import MEAN_RGB
from models.labels import IGNORE
from training.config import AugmentConfig

BLUR_SIDE = 5
"""Of the Gaussian kernel, in pixels; OpenCV derives its deviation, 1.1, from it."""

LUMA = (0.299, 0.587, 0.114)
"""Of red, green and blue in a grey (ITU-R BT.601)."""


@dataclass(frozen=True)
class Color:
    """A change of colours: first brightness, a factor; then contrast, about the mean colour; then saturation,
    about the grey. 1 leaves each as it is."""

    brightness: float
    contrast: float
    saturation: float

    def affine(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(3, 3) and (3,): the colour `matrix @ rgb + offset`, before it is clipped to [0, 255]."""
        saturate = self.saturation * np.eye(3) + (1 - self.saturation) * np.array([LUMA] * 3)
        offset = (1 - self.contrast) * saturate @ np.array(MEAN_RGB)
        matrix = self.contrast * self.brightness * saturate
        return matrix.astype(np.float32), offset.astype(np.float32)


@dataclass(frozen=True)
class Draw:
    """What chance decided for one image.

    factor: of the scale; degrees: counter-clockwise, 0 for no rotation; top, left: of the crop in the scaled
    and padded picture; color: None for no change.
    """

    factor: float
    degrees: float
    blurred: bool
    mirrored: bool
    top: int
    left: int
    color: Color | None

    @classmethod
    def of(
        cls,
        config: AugmentConfig,
        image_hw: tuple[int, int],
        crop_hw: tuple[int, int],
        rng: np.random.Generator,
    ) -> "Draw":
        """For an image of that size. `rng` alone decides, so the same state gives the same draw."""
        factor = at_least_a_pixel(rng.uniform(*config.scale), image_hw)
        degrees = 0.0
        if config.rotate_degrees and rng.random() < 0.5:
            degrees = rng.uniform(-config.rotate_degrees, config.rotate_degrees)
        blurred = bool(config.blur and rng.random() < 0.5)
        mirrored = bool(config.mirror and rng.random() < 0.5)
        padded = [max(side, crop) for side, crop in zip(scaled_hw(image_hw, factor), crop_hw, strict=True)]
        top, left = (int(rng.integers(side - crop + 1)) for side, crop in zip(padded, crop_hw, strict=True))
        color = None
        if config.color:
            color = Color(*rng.uniform(1 - config.color, 1 + config.color, 3))
        return cls(factor, degrees, blurred, mirrored, top, left, color)


class TrainingTransform:
    """Random scale, rotation, blur, mirror, colours and crop, as the configuration has them."""

    def __init__(self, config: AugmentConfig, crop_hw: tuple[int, int]) -> None:
        self.config, self.crop_hw = config, crop_hw

    def __call__(
        self, image: np.ndarray, label: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """A crop of the configured size. `rng` alone decides, so the same state gives the same crop."""
        height, width = label.shape
        draw = Draw.of(self.config, (height, width), self.crop_hw, rng)
        image, label = scale(image, label, draw.factor)
        if draw.degrees:
            image, label = rotate(image, label, draw.degrees)
        if draw.blurred:
            image = cv2.GaussianBlur(image, (BLUR_SIDE, BLUR_SIDE), 0)
        if draw.mirrored:
            image, label = image[:, ::-1], label[:, ::-1]
        image, label = pad(image, label, self.crop_hw)
        rows = slice(draw.top, draw.top + self.crop_hw[0])
        columns = slice(draw.left, draw.left + self.crop_hw[1])
        image, label = np.ascontiguousarray(image[rows, columns]), np.ascontiguousarray(label[rows, columns])
        return image if draw.color is None else recolor(image, draw.color), label


def at_least_a_pixel(factor: float, image_hw: tuple[int, int]) -> float:
    """The factor, or what leaves one pixel of the shorter side."""
    return max(factor, 1 / min(image_hw))


def scaled_hw(image_hw: tuple[int, int], factor: float) -> tuple[int, int]:
    """Size of an image that `scale` has resized; OpenCV rounds halves to even, as Python does."""
    return round(image_hw[0] * factor), round(image_hw[1] * factor)


def recolor(image: np.ndarray, color: Color) -> np.ndarray:
    """(H, W, 3) RGB in other colours. What was padded changes too: it is as good as any colour there."""
    matrix, offset = color.affine()
    return np.clip(cv2.transform(image, np.hstack([matrix, offset[:, None]])), 0, 255)


def scale(image: np.ndarray, label: np.ndarray, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Both resized by `factor`, to one pixel at least: the image bilinearly, the labels by the nearest pixel.

    OpenCV gets the factor and no size, as in the published code: it rounds sides, and places pixels by it.
    """
    factor = at_least_a_pixel(factor, (label.shape[0], label.shape[1]))
    return (
        cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR),
        cv2.resize(label, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST),
    )


def rotate(image: np.ndarray, label: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Both turned counter-clockwise about the middle; the corners left empty are mean colour and IGNORE."""
    height, width = label.shape
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    constant = cv2.BORDER_CONSTANT
    return (
        cv2.warpAffine(
            image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=constant, borderValue=MEAN_RGB
        ),
        cv2.warpAffine(
            label,
            matrix,
            (width, height),
            flags=cv2.INTER_NEAREST,
            borderMode=constant,
            borderValue=(IGNORE,),
        ),
    )


def pad(image: np.ndarray, label: np.ndarray, least_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Both at least `least_hw`, centred: half of the padding before, floor first."""
    missing_h, missing_w = (max(0, least - side) for least, side in zip(least_hw, label.shape, strict=True))
    if not missing_h and not missing_w:
        return image, label
    top, left = missing_h // 2, missing_w // 2
    margins = (top, missing_h - top, left, missing_w - left)
    return (
        cv2.copyMakeBorder(image, *margins, cv2.BORDER_CONSTANT, value=MEAN_RGB),
        cv2.copyMakeBorder(label, *margins, cv2.BORDER_CONSTANT, value=(IGNORE,)),
    )
