"""What can be told of attention, by a model and by what runs it; and if it cannot, the mend. Free of numpy.

Not here: telling it (`attention.py`).
"""

from collections.abc import Sequence

from inference.bundle import ModelInfo
from inference.errors import NoAttentionError
from models.config import Direction


def choose_directions(
    info: ModelInfo, engine: str, able: Sequence[Direction] | None, wanted: Sequence[Direction] | None
) -> tuple[Direction, ...]:
    """The directions to ask an engine for: those wanted, or all of the model's where None.

    engine, able: its name, and the directions that it can tell of, None for an engine that never tells.
    Raises NoAttentionError, with the mend, where it cannot be asked.
    """
    known = info.architecture.directions
    if not known:
        raise NoAttentionError(
            f"{info.name} has no point-wise spatial attention, its context is "
            f"{info.architecture.context!r}: choose a PSANet"
        )
    missing = [direction for direction in wanted or () if direction not in known]
    if missing:
        raise NoAttentionError(
            f"{info.name} does not {' or '.join(missing)}, it has one branch alone: ask for {known[0]}"
        )
    chosen = tuple(wanted or known)
    if able is None:
        raise NoAttentionError(
            f"the {engine} engine of {info.name} gives logits alone: choose --engine onnxruntime or torch"
        )
    if not set(chosen) <= set(able):
        raise NoAttentionError(
            f"the model file of {info.name} gives logits alone: export the checkpoint anew "
            "(python -m export.onnx --ckpt), which adds the outputs that tell of attention"
        )
    return chosen
