"""What a verification found, as one HTML file that needs nothing else, or Markdown with pictures beside it.

Not here: finding it (`export/verification.py`), how a document is written (`export/document.py`).

    write_report(verification, Path("out"), "html")
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from export.comparison import Comparison
from export.document import Block, Color, Figure, Heading, Table, Text, to_html, to_markdown
from export.pictures import Picture
from export.runs import EngineResult
from export.verification import Verification
from inference.files import write_atomically
from inference.render import colorize, encode_image

ReportFormat = Literal["html", "markdown"]


def write_report(verification: Verification, out: Path, format: ReportFormat) -> Path:
    """Writes `report.html`, or `report.md` and `pictures/`, into `out`, which is made; returns the report."""
    blocks, title = list(_blocks(verification)), f"Verification of {verification.info.name}"
    if format == "html":
        path = out / "report.html"
        write_atomically(path, to_html(title, blocks).encode())
        return path
    for figure in (block for block in blocks if isinstance(block, Figure)):
        for index, (_, ending, data) in enumerate(figure.parts):
            write_atomically(out / "pictures" / f"{figure.name}-{index}.{ending}", data)
    path = out / "report.md"
    write_atomically(path, to_markdown(title, blocks).encode())
    return path


def _blocks(verification: Verification) -> Iterator[Block]:
    info, engines = verification.info, verification.engines
    ran = [result for result in engines if result.ran]
    yield Text("Passed" if verification.passed else "Failed", "good" if verification.passed else "bad")
    for result in engines:
        if result.failure:
            yield Text(f"{result.name}: {result.failure}", "bad")
        if result.suspects:
            names = ", ".join(info.class_names[index] for index in result.suspects)
            yield Text(f"{result.name}: look at {names}, of which a tenth or more get another label", "bad")
    images = f"{verification.images} image{'s' if verification.images > 1 else ''}"
    yield Text(
        f"{images}, {verification.windows} windows for logits, in {verification.seconds:.0f} s. "
        f"Model: {info.dataset}, {info.classes} classes, PSA mask: {info.psa_form}. "
        f"Checkpoint: {verification.checkpoint.name}"
        + ("." if verification.same_checkpoint else ", which is not the file that the bundle was made from.")
    )
    yield Heading("Engines")
    yield _engine_table(verification)
    yield Text(
        "Logits are compared at the size of the window: with PyTorch in float32, and with PyTorch in "
        "float64, by which PyTorch's own row says what float32 costs. Labels are of whole images, against "
        "PyTorch's in float32. Times are medians."
    )
    for result in ran:
        yield Heading(f"{result.name}: labels that differ, by class")
        yield _class_table(verification, result)
        for index, picture in enumerate(result.worst.pictures):
            yield _figure(f"engine{engines.index(result)}-image{index}", picture, info.palette)


def _engine_table(verification: Verification) -> Table:
    header = [
        "engine",
        "device",
        "precision",
        "largest logit error",
        "mean",
        "largest, float64",
        "mean, float64",
    ]
    header += [
        "same labels",
        *(["mIoU", "pixels right"] if verification.labelled else []),
        "a window",
        "an image",
    ]
    rows = []
    for result in (verification.reference, *verification.engines):
        row = [result.name, result.device, result.precision]
        if result.ran and result.image_s:
            row += [*_errors(result.logits), *_errors(result.exact), f"{result.agreement:.4%}"]
            if verification.labelled:
                row += [f"{result.truth.mIoU:.4f}", f"{result.truth.allAcc:.4%}"]
            row += [_milliseconds(result.window_s), _milliseconds(result.image_s)]
        row += [""] * (len(header) - len(row))
        if result.note:
            row[0] += f" ({result.note})"
        rows.append(tuple(row))
    return Table(tuple(header), tuple(rows))


def _errors(comparison: Comparison | None) -> tuple[str, str]:
    if comparison is None:
        return "", ""
    return f"{comparison.max_logit_error:.1e}", f"{comparison.mean_logit_error:.1e}"


def _milliseconds(seconds: Sequence[float]) -> str:
    return f"{1000 * float(np.median(seconds)):.0f} ms"


def _class_table(verification: Verification, result: EngineResult) -> Table:
    """Classes that PyTorch gives somewhere, those first of which most pixels get another label."""
    info, counts = verification.info, result.confusion.counts
    pixels, rows = counts.sum(1), []
    others = counts - np.diag(counts.diagonal())
    share = others.sum(1) / np.maximum(pixels, 1)
    order = [index for index in np.argsort(-share, kind="stable").tolist() if pixels[index]]
    for index in order:
        most = int(others[index].argmax())
        lost = int(others[index, most])
        mostly = f"{info.class_names[most]} ({lost / pixels[index]:.3%})" if lost else ""
        rows.append((info.class_names[index], f"{pixels[index]:,}", f"{share[index]:.3%}", mostly))
    colors = tuple(info.palette[index] for index in order)
    return Table(("class", "pixels by PyTorch", "another label", "mostly"), tuple(rows), colors)


def _figure(name: str, picture: Picture, palette: Sequence[Color]) -> Figure:
    photograph = encode_image(picture.image, "jpeg")
    reference, labels = (
        encode_image(colorize(labels, palette), "png") for labels in (picture.reference, picture.labels)
    )
    difference = encode_image(picture.difference(), "png")
    parts = (
        ("image", "jpg", photograph),
        ("PyTorch", "png", reference),
        ("engine", "png", labels),
        ("differences", "png", difference),
    )
    return Figure(name, f"{picture.name}: {picture.share:.3%} of labels differ", parts)
