"""The published augmentations of one image and its label map (paper 4.1), in the published order.

Images are (H, W, 3) float32 RGB in [0, 255], labels (H, W) uint8 class ids. The network normalises, so what
is padded takes the mean colour; padded labels are IGNORE.

    transform = TrainingTransform(AugmentConfig(), crop_hw=(465, 465))
    image, label = transform(image, label, np.random.default_rng(0))
"""

import cv2
import numpy as np

from models.config import MEAN_RGB
from models.labels import IGNORE
from training.config import AugmentConfig

_BLUR_KERNEL = (5, 5)


class TrainingTransform:
    """Random scale, rotation, blur, mirror and crop, as the configuration has them."""

    def __init__(self, config: AugmentConfig, crop_hw: tuple[int, int]) -> None:
        self.config, self.crop_hw = config, crop_hw

    def __call__(
        self, image: np.ndarray, label: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """A crop of the configured size. `rng` alone decides, so the same state gives the same crop."""
        image, label = scale(image, label, rng.uniform(*self.config.scale))
        if self.config.rotate_degrees and rng.random() < 0.5:
            degrees = rng.uniform(-self.config.rotate_degrees, self.config.rotate_degrees)
            image, label = rotate(image, label, degrees)
        if self.config.blur and rng.random() < 0.5:
            image = cv2.GaussianBlur(image, _BLUR_KERNEL, 0)
        if self.config.mirror and rng.random() < 0.5:
            image, label = image[:, ::-1], label[:, ::-1]
        image, label = pad(image, label, self.crop_hw)
        top = rng.integers(image.shape[0] - self.crop_hw[0] + 1)
        left = rng.integers(image.shape[1] - self.crop_hw[1] + 1)
        rows, columns = slice(top, top + self.crop_hw[0]), slice(left, left + self.crop_hw[1])
        return np.ascontiguousarray(image[rows, columns]), np.ascontiguousarray(label[rows, columns])


def scale(image: np.ndarray, label: np.ndarray, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Both resized by `factor`, to one pixel at least: the image bilinearly, the labels by the nearest pixel.

    OpenCV gets the factor and no size, as in the published code: it rounds sides, and places pixels by it.
    """
    factor = max(factor, 1 / min(label.shape))
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
