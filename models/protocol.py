"""How a network is tested: by the published protocol (hszhao/semseg's) or by MMSegmentation's. Free of torch.

Not here: carrying it out (`inference/`).

    python -c "from models.protocol import TestProtocol; print(TestProtocol(base_size=512))"
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from models.config import ConfigError

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
    Raises ConfigError for values that no test can have.
    """

    __test__ = False  # pytest: a name that only looks like a test

    base_size: int
    base_short: int | None = None
    name: ProtocolName = "published"
    mode: TestMode = "sliding"

    def __post_init__(self) -> None:
        for key, least in (("base_size", 1), ("base_short", 1)):
            value = getattr(self, key)
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
            if not whole and (key, value) != ("base_short", None):
                raise ConfigError(f"{key} takes a whole number of {least} or more, not {value!r}")
        for key, known in (("name", get_args(ProtocolName)), ("mode", get_args(TestMode))):
            if getattr(self, key) not in known:
                raise ConfigError(f"{key} {getattr(self, key)!r} is none of {', '.join(known)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TestProtocol":
        """The protocol that `to_dict` wrote. Raises ConfigError for anything else."""
        try:
            return cls(**values)
        except TypeError as error:
            raise ConfigError(f"not a test protocol: {error}") from error
