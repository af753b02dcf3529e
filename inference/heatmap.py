"""Attention as a picture: heat over the image in grey, and the point that it is about.

The page's overlay, figures and reports share it. Not here: the weights (`attention.py`), classes' colours
(`render.py`).

    picture = draw_attention(image, seen, "collect")
"""

from typing import Final

import cv2
import numpy as np

from inference.attention import Point, PointAttention
from inference.errors import ParameterError
from inference.plan import intervals
from inference.render import Pixels
from models.config import Direction

Color = tuple[int, int, int]

MARKS: Final = ((230, 30, 30), (40, 110, 255), (30, 170, 60), (240, 160, 0), (170, 60, 200), (0, 170, 180))
"""Colours of points, the first two as in the paper's Fig. 6."""
SATURATED: Final = 0.01
"""Share of the weights within the image, the largest, that are drawn alike: one position that gets most of
the attention would leave the rest in the dark."""
_GREY: Final = 0.7
"""Brightness of the image under the heat."""
_BLOCK_PIXELS: Final = 1 << 18
"""Drawn at once, about, so that a large image takes little memory beside itself."""


def draw_attention(
    image: Pixels,
    seen: PointAttention,
    direction: Direction,
    *,
    alpha: float = 0.8,
    color: Color = MARKS[0],
) -> Pixels:
    """What a point collects from, or distributes to, over the image (H, W, 3) RGB, the point marked.

    Weights go from 0, the image in grey, to the largest ones (`SATURATED`), bright yellow; alpha: strength of
    the heat, 0 to 1. Raises ParameterError for another alpha, or an image of another size.
    """
    if not 0.0 <= alpha <= 1.0:  # also turns away nan
        raise ParameterError(f"alpha is the strength of the heat and lies between 0 and 1, not {alpha}")
    height, width = len(seen.to_rows), len(seen.to_columns)
    if image.shape[:2] != (height, width):
        raise ParameterError(f"the image is {image.shape[:2]} and its attention {(height, width)}")
    lowest, highest = _span(seen, direction)
    steps = 255 / (highest - lowest) if highest > lowest else 0.0
    kept, added = _tables(alpha)
    result = np.empty_like(image)
    for rows in intervals(0, height, max(_BLOCK_PIXELS // width, 1)):
        part = slice(*rows)
        levels = np.clip((seen.over_image(direction, rows) - lowest) * steps, 0, 255).astype(np.uint8)
        grey = cv2.cvtColor(image[part], cv2.COLOR_RGB2GRAY)
        result[part] = (grey * kept[levels])[..., None] + added[levels]
    mark_point(result, seen.point, color)
    return result


def mark_point(image: Pixels, point: Point, color: Color) -> None:
    """Draws a dot with a white rim into the image (H, W, 3) RGB, larger in larger images."""
    radius = max(3, round(max(image.shape[:2]) / 90))
    cv2.circle(image, point, radius + max(1, radius // 3), (255, 255, 255), cv2.FILLED, cv2.LINE_AA)
    cv2.circle(image, point, radius, color, cv2.FILLED, cv2.LINE_AA)


def _span(seen: PointAttention, direction: Direction) -> tuple[float, float]:
    """What is drawn darkest and brightest, of the positions that lie in the image and not in its padding."""
    rows, columns = (np.flatnonzero(each.max(0) >= 0.5) for each in (seen.to_rows, seen.to_columns))
    inside = seen.weights[direction][np.ix_(rows, columns)]
    weights = inside if inside.size else seen.weights[direction]
    return min(float(weights.min()), 0.0), float(np.quantile(weights, 1 - SATURATED))


def _tables(alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """By level 0..255: the share that is kept of the grey (256,), and the colour on top of it (256, 3)."""
    levels = np.arange(256, dtype=np.uint8)[:, None]
    colors = np.asarray(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), np.float32)[:, 0, ::-1]  # from BGR
    strength = alpha * levels / np.float32(255)
    return _GREY * (1 - strength[:, 0]), strength * colors
