"""What each target takes from each source, pair by pair from the maps that a network predicts (paper 3.2).

The convolutions are the network's own; the rule of the mask and the softmax are written out with loops.
"""

import itertools

import numpy as np
import torch
from numpy.typing import NDArray

from models.context import PSA
from models.network import SceneParser


def slow_attention(network: SceneParser, images: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
    """(N, t, s) by direction, for images (N, 3, H, W); positions row by row."""
    psa = network.context
    assert isinstance(psa, PSA)
    branches = {"distribute" if psa.psa_type == "distribute" else "collect": psa.attention}
    if psa.attention_p is not None:
        branches["distribute"] = psa.attention_p
    maps: dict[str, NDArray[np.float32]] = {}
    hooks = [
        branch.register_forward_hook(lambda _, __, out, name=name: maps.update({name: out.numpy()}))
        for name, branch in branches.items()
    ]
    with torch.inference_mode():
        network.coarse_logits(torch.from_numpy(images))
    for hook in hooks:
        hook.remove()
    return {
        name: np.stack([_pairs(psa, one, distribute=name == "distribute") for one in each])
        for name, each in maps.items()
    }


def _pairs(psa: PSA, picture: NDArray[np.float32], *, distribute: bool) -> NDArray[np.float64]:
    """(t, s) of one predicted map (M, h, w)."""
    _, h, w = picture.shape
    positions = list(itertools.product(range(h), range(w)))
    rows = []
    for target in positions:
        logits = [_logit(psa, picture, target, source, distribute) for source in positions]
        exponents = np.exp(np.array(logits, np.float64))
        rows.append(exponents / exponents.sum() if psa.softmax else np.array(logits, np.float64))
    return np.stack(rows)


def _logit(
    psa: PSA, picture: NDArray[np.float32], target: tuple[int, int], source: tuple[int, int], distribute: bool
) -> float:
    (k, l), (s, t) = (source, target) if distribute else (target, source)  # noqa: E741 - the paper's letters
    mask_h, mask_w = psa.mask_hw
    row, column = (s, t) if psa.compact else (s - k + (mask_h - 1) // 2, t - l + (mask_w - 1) // 2)
    if not (0 <= row < mask_h and 0 <= column < mask_w):
        return 0.0
    return float(picture[row * mask_w + column, k, l])
