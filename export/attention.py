"""A network as a module of several outputs, for the exporter: coarse logits, and the attention behind them.

The attention is what the PSA module weighs features by while the logits are computed; nothing is computed
twice, and in the tail that is served nothing is computed more. Not here: the tail (`export/rewrite.py`), what
the outputs are called (`inference/bundle.py`).

    module = LogitsAndAttention(with_serving_tail(network), network.config.directions)
"""

import copy
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from export.rewrite import ServingPSA
from models.config import Direction
from models.context import PSA
from models.network import SceneParser


class LogitsAndAttention(nn.Module):
    """What an engine computes, as a module: (N, 3, H, W) RGB in [0, 255] to coarse logits (N, C, H', W') and,
    of each of the directions in turn, (N, t, s), what target t takes from source s:
    `PSA.weights_by_direction`."""

    def __init__(self, network: SceneParser, directions: Sequence[Direction] = ()) -> None:
        super().__init__()
        self._directions = tuple(directions)
        self._told: Callable[[], dict[Direction, Tensor]] = dict
        self.network = network
        if self._directions:
            self.network, self._told = _telling(network)
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """See `SceneParser.coarse_logits`."""
        logits = self.network.coarse_logits(image)
        told = self._told()
        return (logits, *(told[direction] for direction in self._directions))


def _telling(network: SceneParser) -> tuple[SceneParser, Callable[[], dict[Direction, Tensor]]]:
    """A network of the same parts, and a function that gives what its PSA module weighed features by when it
    last ran."""
    assert isinstance(network.context, PSA), "only a PSA module has directions"
    psa, told = copy.copy(network.context), dict[Direction, Tensor]()
    name = "target_weights" if isinstance(psa, ServingPSA) else "attention_weights"
    weigh = getattr(psa, name)

    def weigh_and_tell(predicted: Tensor, *, distribute: bool) -> Tensor:
        weights: Tensor = weigh(predicted, distribute=distribute)
        told["distribute" if distribute else "collect"] = weights if name == "target_weights" else weights.mT
        return weights

    setattr(psa, name, weigh_and_tell)
    telling = copy.copy(network)
    telling.__dict__["_modules"] = {**network._modules, "context": psa}
    return telling, lambda: told
