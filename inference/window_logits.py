"""The coarse logits of windows, kept while some band needs them; on numpy and torch alike.

Not here: which windows and bands there are (`plan.py`), what is made of the logits (`stitch.py`, `device/`).
"""

import math
from collections.abc import Sequence

import numpy as np

from inference.arrays import Array, Workspace
from inference.errors import EngineError
from inference.plan import Band, Plan, View

SAFE_SPAN = 60.0
"""Where a window's logits lie closer together than this, `exp` needs no further care: less the greatest of
their class at every coarse pixel they are at most 0 wherever they are upsampled to, and one is above -3/4
of the span."""


class WindowLogits:
    """Logits of the plan's windows in slots that are used again.

    values: (slots, C, h', w') float32, less the greatest of the classes at every coarse pixel, and turned
    back for mirrored windows; slots: where in it each view's are. work: of the kind of the engine's logits.
    """

    def __init__(self, plan: Plan, work: Workspace) -> None:
        request = plan.request
        self._request, self._work, self._xp = request, work, work.xp
        self.values = work.empty((plan.slots, request.classes, *request.coarse_hw))
        self._free = list(range(plan.slots))
        self.slots: dict[View, int] = {}
        self._safe: dict[View, bool] = {}
        self._lowest: list[Array] = []

    def safe(self, view: View) -> bool:
        """Whether its upsampled logits can be given to `exp` as they are."""
        return self._safe[view]

    def keep(self, views: Sequence[View], logits: Array) -> None:
        """Keeps the engine's logits of `views`, (N, C, h', w') float32, until `release`.

        Raises EngineError for another shape and, on numpy, for values that are not finite: elsewhere `verify`
        does, as a look at them here would wait for all that the device still has to do.
        """
        request, xp = self._request, self._xp
        expected = (len(views), request.classes, *request.coarse_hw)
        if tuple(logits.shape) != expected:
            raise EngineError(
                f"the engine gave logits of {tuple(logits.shape)} where its model has {expected}"
            )
        with np.errstate(invalid="ignore"):
            logits = logits - xp.max(logits, axis=1, keepdims=True)
        lowest = xp.min(logits)
        if self._work.on_numpy:
            _require_finite(float(lowest))
        else:
            self._lowest.append(lowest)
        for view, values in zip(views, logits, strict=True):
            slot = self.slots[view] = self._free.pop()
            self._safe[view] = self._work.on_numpy and bool(lowest > -SAFE_SPAN)
            self.values[slot, ...] = xp.flip(values, axis=2) if view[3] else values

    def verify(self) -> None:
        """Raises EngineError where logits that were kept are not finite."""
        if self._lowest:
            _require_finite(float(self._xp.min(self._xp.stack(self._lowest))))
            self._lowest = []

    def release(self, band: Band) -> None:
        """Forgets the windows that neither `band` nor any band after it needs."""
        for view in [view for view in self.slots if view[1] < band.needed[view[0]][0]]:
            self._free.append(self.slots.pop(view))
            del self._safe[view]


def _require_finite(lowest: float) -> None:
    if not math.isfinite(lowest):
        raise EngineError("the engine gave logits that are not finite: try another precision, or fp32")
