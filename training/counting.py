"""From a list's image to its counts: decode, predict, refine, count, write. `evaluate.py` sums them up.

Not here: windows, scales and flips (`inference/predictor.py`), what runs beside what (`overlap.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inference.errors import EngineError, MemoryBudgetError, ParameterError
from inference.metrics import ConfusionMatrix
from inference.pairs import Pair, load_pair
from inference.prediction import Prediction
from inference.predictor import Predictor
from models.labels import IGNORE
from training.densecrf import Refiner
from training.ledger import Counts
from training.submission import SubmissionWriter

Image = NDArray[np.uint8]
Truth = NDArray[np.uint8] | None
Labels = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True)
class Job:
    """An image of the list at its place in it; labels: its label file, or None."""

    index: int
    image: Path
    labels: Path | None

    def stamp(self) -> tuple[int, ...]:
        """Size and time of change of each file: another one where a file was changed."""
        states = [path.stat() for path in (self.image, self.labels) if path is not None]
        return tuple(number for state in states for number in (state.st_size, state.st_mtime_ns))


@dataclass(frozen=True)
class Predicted:
    """What is left to finish: (H, W, 3) image, (H, W) truth, and what the network says."""

    image: Image
    truth: Truth
    prediction: Prediction


@dataclass(frozen=True, kw_only=True)
class Counter:
    """The three steps of an image, as `overlap.overlapped` takes them; no step keeps state.

    scales, flip, base_size: as in `Predictor.predict`. refiner, writer: DenseCRF and a test server's files,
    where asked for; check: as in `Predictor.predict`. Errors name the image.
    """

    predictor: Predictor
    scales: Sequence[float]
    flip: bool
    base_size: int | None
    refiner: Refiner | None
    writer: SubmissionWriter | None
    check: Callable[[], None] | None = None

    def load(self, job: Job) -> tuple[Image, Truth]:
        """Raises DatasetError and ParameterError for files that cannot be read or do not fit."""
        if job.labels is None:
            return Pair(job.image).read()
        return load_pair((job.image, job.labels), self.predictor.info.classes)

    def predict(self, job: Job, loaded: tuple[Image, Truth]) -> Predicted:
        """Raises ParameterError, MemoryBudgetError and EngineError."""
        image, truth = loaded
        try:
            prediction = self.predictor.predict(
                image,
                scales=self.scales,
                flip=self.flip,
                base_size=self.base_size,
                probabilities=self.refiner is not None,
                check=self.check,
            )
        except (ParameterError, MemoryBudgetError, EngineError) as error:
            raise type(error)(f"{job.image}: {error}") from error
        return Predicted(image, truth, prediction)

    def finish(self, job: Job, predicted: Predicted) -> tuple[Counts, Labels]:
        """The image's counts and labels; its file for the test server is written before it returns."""
        labels = self._refined(job, predicted)
        confusion = ConfusionMatrix(self.predictor.info.classes)
        if predicted.truth is not None:
            confusion.update(labels, predicted.truth, ignore=IGNORE)
        if self.writer is not None:
            try:
                self.writer.write(job.image, labels)
            except OSError as error:
                path = self.writer.target(job.image)
                raise ParameterError(f"{path} cannot be written: {error.strerror}") from error
        return Counts.of_matrix(confusion.counts, predicted.prediction.engine_s, job.stamp()), labels

    def again(self, job: Job, labels: Labels | None) -> tuple[Image, Image, Labels]:
        """Image, truth and labels of a job that has a truth, for a picture; predicted where not given."""
        image, truth = self.load(job)
        assert truth is not None
        if labels is None:
            labels = self._refined(job, self.predict(job, (image, truth)))
        return image, truth, labels

    def done(self, job: Job, counts: Counts | None) -> bool:
        """Whether an earlier run has left nothing to do for the image, whose files are as they were."""
        written = self.writer is None or self.writer.target(job.image).is_file()
        return counts is not None and written and counts.stamp == job.stamp()

    def _refined(self, job: Job, predicted: Predicted) -> Labels:
        prediction = predicted.prediction
        if self.refiner is None:
            return prediction.labels
        assert prediction.probabilities is not None
        try:
            return self.refiner(predicted.image, prediction.probabilities)
        except (ParameterError, EngineError) as error:
            raise type(error)(f"{job.image}: {error}") from error
