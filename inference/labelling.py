"""Label many image files: read ahead, predict, write behind. The work of the command line.

The engine runs in the calling thread, on a GPU in two others by turns; two more decode the next images, and
encode and write the last ones.
Few images are held at a time, however many there are.

    label_images(predictor, plan_jobs(["photos"], out=out, suffixes=options.suffixes()), options, summary)
"""

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Final, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from inference import render
from inference.budget import explained
from inference.bundle import ModelInfo
from inference.errors import EngineError, InferenceError
from inference.files import Job, write_atomically
from inference.images import read_image
from inference.predictor import Prediction, Predictor

OUTPUTS: Final = ("labels", "overlay", "color", "confidence", "json")
_ENDINGS: Final = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
_THREADS, _READ_AHEAD, _WRITE_BEHIND, _PREDICTIONS = 2, 2, 2, 2

Image = npt.NDArray[np.uint8]
_Bar: TypeAlias = "tqdm[NoReturn]"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to make of each image; `scales`, `flip`, `base_size` as in `Predictor.predict`.

    outputs: some of OUTPUTS; max_pixels: larger images fail, None for no limit; overwrite: also what is done.
    """

    outputs: tuple[str, ...]
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    base_size: int | None = None
    alpha: float = 0.5
    overlay_format: render.ImageFormat = "png"
    max_pixels: int | None = None
    overwrite: bool = False

    def suffixes(self) -> dict[str, str]:
        """File ending of each output."""
        endings = {"overlay": _ENDINGS[self.overlay_format], "json": ".json"}
        return {kind: endings.get(kind, ".png") for kind in self.outputs}


@dataclass(frozen=True)
class _Labelled:
    """An image, what the network says of it, and the seconds that took."""

    image: Image
    prediction: Prediction
    infer_s: float


@dataclass
class Summary:
    """How far a run has come; filled in as it goes, so that it holds when the run is cut short."""

    written: int = 0
    skipped: int = 0
    failed: int = 0
    started: float = field(default_factory=time.perf_counter)

    def report(self) -> dict[str, Any]:
        """Ready for JSON; `seconds` since it was made."""
        seconds = round(time.perf_counter() - self.started, 3)
        counts = {"written": self.written, "skipped": self.skipped, "failed": self.failed}
        return {**counts, "seconds": seconds}


def label_images(predictor: Predictor, jobs: Sequence[Job], options: Options, summary: Summary) -> None:
    """Do the jobs, counting them in `summary`; however it ends, no file is left half-written.

    An image that cannot be read, decoded or predicted is reported on stderr and left out. Raises EngineError
    and OSError (a result that cannot be written), which would befall every other image too.
    """
    pool = ThreadPoolExecutor(_THREADS, "files")
    writing: deque[tuple[Job, Future[None]]] = deque()
    with tqdm(total=len(jobs), unit="image", file=sys.stderr, disable=None) as bar:
        to_do = _still_to_do(jobs, options, summary, bar)
        try:
            with (
                closing(_read_ahead(to_do, options, pool)) as images,
                closing(_predict_ahead(predictor, images, options)) as predictions,
            ):
                for job, prediction in predictions:
                    try:
                        labelled = prediction()
                    except EngineError:
                        raise
                    except (InferenceError, OSError) as error:
                        _report(job, error, summary, bar)
                    else:
                        writing.append((job, pool.submit(_write, job, labelled, predictor.info, options)))
                    _settle(writing, _WRITE_BEHIND, summary, bar)
            _settle(writing, 0, summary, bar)
        finally:
            # Of a run that is cut short, what was predicted is written all the same.
            pool.shutdown(wait=True)
            summary.written += sum(written.exception() is None for _, written in writing)


def _still_to_do(jobs: Sequence[Job], options: Options, summary: Summary, bar: _Bar) -> Iterator[Job]:
    for job in jobs:
        if options.overwrite or not job.done:
            yield job
        else:
            summary.skipped += 1
            bar.update()


def _read_ahead(
    jobs: Iterator[Job], options: Options, pool: ThreadPoolExecutor
) -> Generator[tuple[Job, Future[Image]], None, None]:
    """Each job with its image, while the next ones are being decoded."""
    reading: deque[tuple[Job, Future[Image]]] = deque()
    try:
        while True:
            for job in islice(jobs, _READ_AHEAD + 1 - len(reading)):
                reading.append((job, pool.submit(read_image, job.source, max_pixels=options.max_pixels)))
            if not reading:
                return
            yield reading.popleft()
    finally:
        for _, image in reading:
            image.cancel()


def _predict_ahead(
    predictor: Predictor, images: Iterator[tuple[Job, Future[Image]]], options: Options
) -> Generator[tuple[Job, Callable[[], _Labelled]], None, None]:
    """Each job with what gives its prediction. On a GPU the next one's is under way by then, so that the GPU
    does not wait for the host; a CPU has nothing to spare."""
    if predictor.engine.device == "cpu":
        for job, image in images:
            yield job, partial(_predict, predictor, image, options)
        return
    predicting: deque[tuple[Job, Future[_Labelled]]] = deque()
    with ThreadPoolExecutor(_PREDICTIONS, "predict") as pool:
        try:
            for job, image in images:
                predicting.append((job, pool.submit(_predict, predictor, image, options)))
                if len(predicting) == _PREDICTIONS:
                    done, labelled = predicting.popleft()
                    yield done, labelled.result
            while predicting:
                done, labelled = predicting.popleft()
                yield done, labelled.result
        finally:
            for _, labelled in predicting:
                labelled.cancel()


def _predict(predictor: Predictor, decoding: Future[Image], options: Options) -> _Labelled:
    image = decoding.result()
    started = time.perf_counter()
    prediction = predictor.predict(
        image,
        scales=options.scales,
        flip=options.flip,
        base_size=options.base_size,
        confidence="confidence" in options.outputs,
    )
    return _Labelled(image, prediction, time.perf_counter() - started)


def _settle(writing: deque[tuple[Job, Future[None]]], limit: int, summary: Summary, bar: _Bar) -> None:
    """Wait until at most `limit` images are being written."""
    while len(writing) > limit:
        job, written = writing[0]
        try:
            written.result()
        except InferenceError as error:  # a format that cannot hold so large an image
            _report(job, error, summary, bar)
        else:
            summary.written += 1
            bar.update()
        writing.popleft()  # only now: a wait that is cut short leaves it to be counted


def _report(job: Job, error: Exception, summary: Summary, bar: _Bar) -> None:
    summary.failed += 1
    tqdm.write(f"{job.source}: {explained(error)}", file=sys.stderr)
    bar.update()


def _write(job: Job, labelled: _Labelled, info: ModelInfo, options: Options) -> None:
    # All of it is made before any of it is written.
    contents = [
        (target, _content(kind, job, labelled, info, options)) for kind, target in job.targets.items()
    ]
    for target, content in contents:
        write_atomically(target, content)


def _content(kind: str, job: Job, labelled: _Labelled, info: ModelInfo, options: Options) -> bytes:
    prediction, labels = labelled.prediction, labelled.prediction.labels
    if kind == "labels":
        return render.label_png(labels, info.palette)
    if kind == "overlay":
        blended = render.overlay(labelled.image, labels, info.palette, alpha=options.alpha)
        return render.encode_image(blended, options.overlay_format)
    if kind == "color":
        return render.encode_image(render.colorize(labels, info.palette), "png")
    if kind == "confidence":
        assert prediction.confidence is not None
        return render.encode_image(render.confidence_image(prediction.confidence), "png")
    document = {
        "model": info.name,
        "file": str(job.source),
        "image": {"height": labels.shape[0], "width": labels.shape[1]},
        "classes": render.statistics(labels, info),
        "timings_ms": {
            "infer": round(labelled.infer_s * 1000, 1),
            "engine": round(prediction.engine_s * 1000, 1),
        },
    }
    # Bytes of a file's name that are no text: Python's escape for them is JSON's, too.
    return json.dumps(document, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"
