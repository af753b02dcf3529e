"""DenseCRF after a network: labels that follow the edges of the image (Krähenbühl and Koltun, NIPS 2011).

Not here: learning its parameters; the network's probabilities (`inference/predictor.py`). The only importer
of `pydensecrf`, which wraps the authors' own C++.

    python -m training.evaluate --model psanet18_camvid --data-root data/camvid \\
        --list data/camvid/list/val.txt --densecrf
"""

import math
import signal
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, fields
from multiprocessing import get_context
from types import ModuleType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from inference.errors import EngineError, ParameterError

_LEAST = 1e-8  # of a probability, so that its logarithm is finite
_GRACE_S = 600  # longer than any image takes


@dataclass(frozen=True, kw_only=True)
class DenseCRFParameters:
    """The energy and how often its mean field is updated; defaults of the paper's Table 1, footnote a.

    bi_w, bi_xy_std, bi_rgb_std: weight of the appearance kernel, its reach in pixels, and in grey levels;
    pos_w, pos_xy_std: those of the smoothness kernel. A weight of 0 leaves a kernel out.
    Raises ParameterError for a negative weight, a reach of 0 or below, or fewer than 0 iterations.
    """

    bi_w: float = 3.5
    bi_xy_std: float = 55.0
    bi_rgb_std: float = 3.0
    pos_w: float = 2.0
    pos_xy_std: float = 1.0
    iterations: int = 10

    def __post_init__(self) -> None:
        for name in ("bi_w", "pos_w"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ParameterError(f"DenseCRF's {name} is a weight of 0 or more, not {value}")
        for name in ("bi_xy_std", "bi_rgb_std", "pos_xy_std"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ParameterError(f"DenseCRF's {name} is a standard deviation above 0, not {value}")
        if self.iterations < 0:
            raise ParameterError(f"DenseCRF's iterations must be 0 or more, not {self.iterations}")


def refine(
    image: NDArray[np.uint8], probabilities: NDArray[np.float32], parameters: DenseCRFParameters
) -> NDArray[np.uint8]:
    """(H, W, 3) RGB and (C, H, W) probabilities to (H, W) class ids; the lowest id wins ties.

    Takes about eight times the memory of `probabilities` beside them, and holds Python's lock all the time.
    Raises EngineError where the library is missing, ParameterError for sizes that differ and above 255
    classes.
    """
    crf = _library()
    classes, height, width = probabilities.shape
    if image.shape != (height, width, 3):
        raise ParameterError(f"an image of {image.shape} and probabilities of {probabilities.shape}")
    if classes > 255:
        raise ParameterError(f"DenseCRF takes up to 255 classes, not {classes}")
    field = crf.DenseCRF2D(width, height, classes)
    unary = np.maximum(probabilities, _LEAST).reshape(classes, -1)
    np.negative(np.log(unary, out=unary), out=unary)
    field.setUnaryEnergy(np.ascontiguousarray(unary))
    del unary
    if parameters.pos_w:
        field.addPairwiseGaussian(sxy=parameters.pos_xy_std, compat=parameters.pos_w)
    if parameters.bi_w:
        field.addPairwiseBilateral(
            sxy=parameters.bi_xy_std,
            srgb=parameters.bi_rgb_std,
            rgbim=np.array(image, order="C"),
            compat=parameters.bi_w,
        )
    beliefs = np.asarray(field.inference(parameters.iterations))
    return np.asarray(beliefs.argmax(0), np.uint8).reshape(height, width)


class Refiner:
    """`refine` in processes of its own, since the library holds Python's lock. Any thread may call it.

    Raises EngineError at once where the library is missing.
    """

    def __init__(self, parameters: DenseCRFParameters, processes: int) -> None:
        _library()
        self._parameters = parameters
        # Not forked: the engine's threads do not live on in a copy.
        self._pool = ProcessPoolExecutor(
            max(1, processes), mp_context=get_context("spawn"), initializer=_leave_signals_to_the_parent
        )

    def __call__(self, image: NDArray[np.uint8], probabilities: NDArray[np.float32]) -> NDArray[np.uint8]:
        """As `refine`; EngineError where its process was killed."""
        try:
            refining: Future[NDArray[np.uint8]] = self._pool.submit(
                refine, image, probabilities, self._parameters
            )
            return refining.result()
        except BrokenProcessPool as error:
            raise EngineError(
                "a DenseCRF process was killed, most likely for memory: fewer --workers need less"
            ) from error

    def close(self) -> None:
        """Ends the processes; what waits is given up."""
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def parameters_from_text(text: str) -> DenseCRFParameters:
    """`bi_w=3.5,iterations=5`: what is not named keeps its default. Raises ParameterError."""
    kinds = {item.name: int if item.name == "iterations" else float for item in fields(DenseCRFParameters)}
    values: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        try:
            values[name] = kinds[name](value)
        except (KeyError, ValueError):
            raise ParameterError(
                f"--densecrf takes name=number of {', '.join(kinds)}, not {part!r}"
            ) from None
    return DenseCRFParameters(**values)


def _leave_signals_to_the_parent() -> None:
    """They may go to the whole group; the parent ends its processes. SIGTERM ends one left behind."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_S))


def _library() -> ModuleType:
    try:
        import pydensecrf.densecrf as crf
    except ImportError as error:
        raise EngineError(
            "DenseCRF needs pydensecrf2, which pip compiles (a C++ compiler is needed): "
            "pip install 'psanet-serving[densecrf]'"
        ) from error
    found: ModuleType = crf
    return found
