"""What an evaluation leaves in its folder: figures, the confusion matrix, the worst images.

Not here: counting (`counting.py`), how the pictures are drawn (`confusion.py`, `worst.py`).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from inference.errors import ParameterError
from inference.files import write_atomically
from inference.metrics import ConfusionMatrix
from inference.render import encode_image
from training import confusion as drawing
from training import worst
from training.counting import Counter, Job
from training.ledger import Counts, Ledger


def sum_of(counts: Iterable[Counts], classes: int) -> ConfusionMatrix:
    """One matrix of all images."""
    confusion = ConfusionMatrix(classes)
    for each in counts:
        each.add_to(confusion.counts)
    return confusion


def figures(confusion: ConfusionMatrix) -> dict[str, float | None]:
    """The means as fractions; None where no pixel was counted, so that there is nothing to say."""
    names = ("mIoU", "mIoU_present", "mAcc", "allAcc")
    if not confusion.counts.any():
        return dict.fromkeys(names)
    return {name: round(float(getattr(confusion, name)), 5) for name in names}


def write_report(
    out: Path,
    summary: Mapping[str, Any],
    confusion: ConfusionMatrix,
    counter: Counter,
    jobs: Sequence[Job],
    ledger: Ledger,
    labels: worst.Worst,
    worst_count: int,
) -> None:
    """`metrics.json`, and where labels were given `confusion.png`, `confusion.csv` and `worst/`.

    labels: of the images that are known to be bad already; others are predicted again. Each file is there
    whole or not at all. Raises ParameterError where one cannot be written.
    """
    names = counter.predictor.info.class_names
    try:
        document = dict(summary)
        if confusion.counts.any():
            picture = drawing.picture(confusion, names)
            write_atomically(out / "confusion.png", encode_image(picture, "png"))
            write_atomically(out / "confusion.csv", drawing.as_csv(confusion, names).encode())
            document["iou"] = _by_name(names, confusion.iou)
            document["accuracy"] = _by_name(names, confusion.accuracy)
            document["pixels"] = dict(zip(names, confusion.counts.sum(1).tolist(), strict=True))
            document["worst"] = _draw_worst(out, counter, jobs, ledger, labels, worst_count)
        text = json.dumps(document, indent=2, ensure_ascii=False)
        write_atomically(out / "metrics.json", f"{text}\n".encode())
    except OSError as error:
        raise ParameterError(f"the report cannot be written below {out}: {error}") from error


def _by_name(names: Sequence[str], values: Iterable[float]) -> dict[str, float]:
    return dict(zip(names, (round(float(value), 5) for value in values), strict=True))


def _draw_worst(
    out: Path,
    counter: Counter,
    jobs: Sequence[Job],
    ledger: Ledger,
    labels: worst.Worst,
    count: int,
) -> list[dict[str, Any]]:
    """Writes the pictures; returns an entry for each, the worst image first."""
    folder, info, told = out / "worst", counter.predictor.info, []
    worst.clear(folder)
    scores = {job.index: worst.score(ledger.counts[job.index], info.classes) for job in jobs}
    for rank, index in enumerate(worst.choose(scores, count), 1):
        job = jobs[index]
        image, truth, seen = counter.again(job, labels.labels(index))
        picture = worst.picture(image, truth, seen, info.palette)
        path = folder / f"{rank:02d}_{job.image.stem}.png"
        write_atomically(path, encode_image(picture, "png"))
        accuracy, mean_iou = scores[index] or (0.0, 0.0)
        told.append(
            {
                "image": str(job.image),
                "allAcc": round(accuracy, 5),
                "mIoU_present": round(mean_iou, 5),
                "picture": str(path.relative_to(out)),
            }
        )
    return told
