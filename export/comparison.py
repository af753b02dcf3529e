"""How far an engine is from the PyTorch network: logits and labels at full size, on noise and a smooth image.

Every exporter calls this on what it wrote. Not here: opening engines (`inference/engines`), whole images and
reports (`export/verification.py`, `export/report.py`).

    comparison = compare(engine, network, sample_images((465, 465)), align_corners=True)
    require(comparison, "fp32")
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from export.errors import VerificationError
from inference.bundle import Precision
from inference.engines import AttentionEngine, Engine
from models.network import SceneParser

LOGIT_TOLERANCE = 2e-3
LABEL_TOLERANCE = {"fp32": 0.9999, "fp16": 0.9, "int8": 0.9}
"""The least share of equal labels."""
USUAL_DEVIATION = 10.0
"""Trained networks' logits deviate by about 5, untrained ones' by up to thousands, which float32 blurs."""


@dataclass(frozen=True)
class Comparison:
    """Differences over all images and pixels.

    max_logit_error, mean_logit_error: absolute; label_agreement: share of pixels with the same label;
    deviation: standard deviation of the network's own logits; finite: whether both sides are, everywhere;
    max_attention_error: of the weights in the engine's attention, None where it gives none.
    """

    max_logit_error: float
    mean_logit_error: float
    label_agreement: float
    deviation: float
    finite: bool
    max_attention_error: float | None = None

    @property
    def logit_tolerance(self) -> float:
        """What float32 must keep: 2e-3, in proportion more where the logits deviate by more than 10."""
        return LOGIT_TOLERANCE * max(1.0, self.deviation / USUAL_DEVIATION)

    def __str__(self) -> str:
        return (
            f"logit error at most {self.max_logit_error:.2e}, {self.mean_logit_error:.2e} on average "
            f"(logits deviate by {self.deviation:.2g}), {self.label_agreement:.4%} of labels agree"
        )


def sample_images(size_hw: tuple[int, int], *, seed: int = 0) -> NDArray[np.float32]:
    """(2, 3, H, W) float32 RGB in [0, 255]: noise, and a picture whose detail falls off as in photographs."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(1, 3, *size_hw, generator=generator)
    smooth, cells = torch.zeros(1, 3, *size_hw), 2
    while cells <= max(size_hw):
        octave = torch.randn(1, 3, cells, cells, generator=generator)
        # Colours of natural images vary together.
        octave = octave + 2 * octave.mean(1, keepdim=True)
        smooth += F.interpolate(octave, size_hw, mode="bilinear", align_corners=True) / cells
        cells *= 2
    lowest, highest = smooth.aminmax()
    images: NDArray[np.float32] = (torch.cat((noise, (smooth - lowest) / (highest - lowest))) * 255).numpy()
    return images


@torch.inference_mode()
def compare(
    engine: Engine, network: nn.Module, images: NDArray[np.float32], *, align_corners: bool
) -> Comparison:
    """Runs the engine on all images at once and on each alone, the network on each; compares at full size.

    network: in eval mode on the CPU, (N, 3, H, W) to logits (N, C, H, W). The engine's coarse logits are
    resampled bilinearly by the corner rule. Raises VerificationError for logits of another shape.
    """
    limit = engine.max_batch or len(images)
    together = np.concatenate(
        [infer_numpy(engine, images[at : at + limit]) for at in range(0, len(images), limit)]
    )
    sums = Differences()
    for index, image in enumerate(images):
        own = network(torch.from_numpy(image[None]))
        for coarse in (together[index : index + 1], infer_numpy(engine, image[None])):
            sums.add(own, at_full_size(coarse, own, align_corners=align_corners))
    return sums.comparison()


def require_near(
    engine: Engine,
    network: nn.Module,
    subjects: Iterable[NDArray[np.float32]],
    precision: Precision,
    *,
    align_corners: bool,
) -> Comparison:
    """`compare` and `require` on each of the subjects, at least one: the comparison that is farthest off."""
    comparisons = []
    for images in subjects:
        comparisons.append(compare(engine, network, images, align_corners=align_corners))
        require(comparisons[-1], precision)
    return max(comparisons, key=lambda comparison: comparison.max_logit_error)


def require(comparison: Comparison, precision: Precision) -> None:
    """Raises VerificationError where an engine of that precision is farther from the network than allowed."""
    if not comparison.finite:
        raise VerificationError("there are logits that are not finite; is the checkpoint sound?")
    if comparison.label_agreement < LABEL_TOLERANCE[precision]:
        raise VerificationError(
            f"{comparison}; at least {LABEL_TOLERANCE[precision]:.4%} of labels must agree in {precision}"
        )
    if precision == "fp32" and comparison.max_logit_error > comparison.logit_tolerance:
        raise VerificationError(f"{comparison}; the error may be {comparison.logit_tolerance:.1e} in fp32")


@torch.inference_mode()
def compare_attention(
    engine: AttentionEngine, network: SceneParser, subjects: Iterable[NDArray[np.float32]]
) -> tuple[float, float]:
    """(largest difference of a weight, standard deviation of the network's own) over all images.

    engine: gives numpy arrays. Raises VerificationError for attention of another shape.
    """
    largest, deviation = 0.0, 0.0
    for images in subjects:
        own = network.attention(torch.from_numpy(images))
        found = engine.attend(images, engine.directions)
        for direction, weights in found.items():
            expected = own[direction].numpy()
            if weights.shape != expected.shape:
                raise VerificationError(
                    f"attention of shape {weights.shape} does not fit the network's {expected.shape}"
                )
            largest = float(np.maximum(largest, abs(weights - expected).max()))  # keeps nan, as max does not
            deviation = max(deviation, float(expected.std()))
    return largest, deviation


def require_attention(error: float, deviation: float, precision: Precision) -> None:
    """Raises VerificationError where the attention of a file of that precision is farther from the network's
    than allowed: fp32 as with logits, in proportion where weights are no shares (`psa_softmax` false)."""
    tolerance = LOGIT_TOLERANCE * max(1.0, deviation / USUAL_DEVIATION)
    if not math.isfinite(error) or (precision == "fp32" and error > tolerance):
        raise VerificationError(
            f"attention is up to {error:.2e} off; it must be finite, and in fp32 within {tolerance:.1e}"
        )


class Differences:
    """Differences of logits, added up over any number of images; `comparison` says how far they got."""

    def __init__(self) -> None:
        self.largest, self.error, self.same, self.values, self.pixels = 0.0, 0.0, 0, 0, 0
        self.total, self.squares, self.finite = 0.0, 0.0, True

    def add(self, own: Tensor, other: Tensor) -> None:
        """own: the network's, other: the engine's; (N, C, H, W) both, of any floating point type."""
        error = (own - other).abs()
        self.finite &= bool(error.isfinite().all())
        self.largest = max(self.largest, float(error.max()))
        self.error += float(error.sum(dtype=torch.float64))
        del error
        self.same += int((own.argmax(1) == other.argmax(1)).sum())
        self.values, self.pixels = self.values + own.numel(), self.pixels + own[:, 0].numel()
        self.total += float(own.sum(dtype=torch.float64))
        self.squares += float(own.square().sum(dtype=torch.float64))

    def comparison(self) -> Comparison:
        """Over all that was added, at least one image."""
        mean = self.total / self.values
        variance = max(0.0, self.squares / self.values - mean * mean) if self.finite else math.nan
        return Comparison(
            self.largest if self.finite else math.nan,
            self.error / self.values,
            self.same / self.pixels,
            math.sqrt(variance),
            self.finite,
        )


def infer_numpy(engine: Engine, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Coarse logits (N, C, h', w') of images (N, 3, H, W), wherever the engine runs."""
    return np.ascontiguousarray(engine.infer(images), np.float32)


def at_full_size(coarse: NDArray[np.float32], like: Tensor, *, align_corners: bool) -> Tensor:
    """An engine's coarse logits at the size of `like`, the network's; VerificationError for another shape."""
    if coarse.ndim != 4 or coarse.shape[:2] != like.shape[:2]:
        raise VerificationError(
            f"logits of shape {coarse.shape} do not fit the network's {tuple(like.shape)}"
        )
    size_hw = (like.shape[2], like.shape[3])
    return F.interpolate(torch.from_numpy(coarse), size_hw, mode="bilinear", align_corners=align_corners)
