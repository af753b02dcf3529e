"""How a network is tested: by the published protocol (hszhao/semseg's) or by MMSegmentation's. Free of torch.

Not here: carrying it out (`inference/`).

    python -c "from models.protocol import TestProtocol; print(TestProtocol(base_size=512))"
"""

from dataclasses import dataclass
from typing import Literal

ProtocolName = Literal["published", "mmsegmentation"]
TestMode = Literal["sliding", "whole"]


@dataclass(frozen=True, kw_only=True)
class TestProtocol:
    """What a checkpoint says of its own testing.

    name: "published" averages the probabilities of windows, mirror images and scales, and resizes them;
        "mmsegmentation" averages the logits of windows, resizes those (twice), and averages probabilities
        over scales and mirror images alone.
    mode: windows of the network's crop ("sliding") or the scaled image at once ("whole").
    base_size: long side in pixels at scale 1; base_short: with "mmsegmentation" the short side may not
        exceed this at scale 1; None: the long side alone decides.
    """

    __test__ = False  # pytest: a name that only looks like a test

    base_size: int
    base_short: int | None = None
    name: ProtocolName = "published"
    mode: TestMode = "sliding"
