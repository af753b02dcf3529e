"""A confusion matrix for the eye: a table by class, a picture, and a file for spreadsheets.

Not here: counting and the definitions of the figures (`inference/metrics.py`).
"""

import csv
import io
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from inference.metrics import ConfusionMatrix

_EMPTY: Final = (225, 225, 225)
_DARK: Final = np.array((8, 48, 107))
_NUMBERS_FROM: Final = 24  # pixels a cell, for a number to be read in it
_MARGIN: Final = 8


def table(confusion: ConfusionMatrix, names: Sequence[str]) -> str:
    """Lines of text: IoU, accuracy, and share of the true pixels of each class, and the means; in percent.

    A class that is neither true nor predicted anywhere has dashes; the official means count it as 0.
    """
    wide = max([*(len(name) for name in names), len("mean of present classes")])
    pixels = confusion.counts.sum(1)
    lines = [f"{'class':{wide}}     IoU     acc  pixels"]
    for index, name in enumerate(names):
        iou, accuracy = (f"{100 * float(each[index]):7.2f}" for each in (confusion.iou, confusion.accuracy))
        if not confusion.union[index]:
            iou = accuracy = f"{'-':>7}"
        lines.append(f"{name:{wide}} {iou} {accuracy} {100 * pixels[index] / max(1, pixels.sum()):7.2f}")
    present = f"{100 * confusion.mIoU_present:7.2f}"
    lines += [
        f"{'mean (official)':{wide}} {100 * confusion.mIoU:7.2f} {100 * confusion.mAcc:7.2f}",
        f"{'mean of present classes':{wide}} {present}",
        f"{'pixel accuracy':{wide}} {'':7} {100 * confusion.allAcc:7.2f}",
    ]
    return "\n".join(lines)


def as_csv(confusion: ConfusionMatrix, names: Sequence[str]) -> str:
    """Pixels by true class (rows) and predicted class (columns), with the names."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["true \\ predicted", *names])
    writer.writerows([name, *row.tolist()] for name, row in zip(names, confusion.counts, strict=True))
    return text.getvalue()


def picture(confusion: ConfusionMatrix, names: Sequence[str]) -> NDArray[np.uint8]:
    """(H, W, 3) RGB: rows are true classes, columns predicted ones, white 0 to dark blue 1 of a row's pixels.

    Rows of classes without a true pixel are grey. Cells that are large enough hold their percentage.
    """
    classes = confusion.classes
    cell = int(np.clip(1400 // classes, 12, 44))
    # Sizes in points that Pillow's own font reads well at.
    font, small = (ImageFont.load_default(size) for size in (min(14.0, cell - 1.0), min(12.0, cell / 3 + 1)))
    rows = confusion.counts.sum(1, keepdims=True)
    shares = np.divide(confusion.counts, rows, out=np.zeros((classes, classes)), where=rows > 0)
    cells = (255 + shares[..., None] * (_DARK - 255)).round().astype(np.uint8)
    cells[rows[:, 0] == 0] = _EMPTY
    text = max(round(max(font.getlength(name) for name in names)), 20) + 2 * _MARGIN
    side = text + classes * cell + _MARGIN
    canvas = Image.new("RGB", (side, side), "white")
    canvas.paste(Image.fromarray(cells.repeat(cell, 0).repeat(cell, 1)), (text, text))
    draw = ImageDraw.Draw(canvas)
    draw.text(
        (_MARGIN, _MARGIN), "rows: true\ncolumns: predicted" if text > 130 else "", fill="grey", font=font
    )
    upright = Image.new("RGB", (classes * cell, text), "white")
    for index, name in enumerate(names):
        middle = text + index * cell + cell / 2
        draw.text((text - _MARGIN, middle), name, fill="black", font=font, anchor="rm")
        label = Image.new("RGB", (text, cell), "white")
        ImageDraw.Draw(label).text((_MARGIN, cell / 2), name, fill="black", font=font, anchor="lm")
        upright.paste(label.rotate(90, expand=True), (index * cell, 0))
    canvas.paste(upright, (text, 0))
    if cell >= _NUMBERS_FROM:
        for row, column in zip(*np.nonzero(shares >= 0.005), strict=True):
            at = (text + (column + 0.5) * cell, text + (row + 0.5) * cell)
            color = "white" if shares[row, column] > 0.5 else "black"
            draw.text(at, f"{100 * shares[row, column]:.0f}", fill=color, font=small, anchor="mm")
    for index in range(classes + 1 if cell >= _NUMBERS_FROM else 0):
        line, end = text + index * cell, text + classes * cell
        draw.line((text, line, end, line), fill=_EMPTY)
        draw.line((line, text, line, end), fill=_EMPTY)
    return np.asarray(canvas, np.uint8)
