"""What a person sees of a training: a progress bar, and in TensorBoard curves and pictures.

Not here: log lines and the JSON line (`train.py`). The only importer of TensorBoard.

    tensorboard --logdir runs
"""

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from tqdm import tqdm

from inference.pairs import load_pair
from inference.predictor import Predictor
from inference.render import colorize
from models.config import ConfigError
from models.labels import IGNORE
from training.config import TrainingConfig

logger = logging.getLogger(__name__)

_PICTURES: Final = 3
_MAX_SIDE: Final = 480  # of each of a picture's three panels, in pixels


class Monitor:
    """Shows steps as they are taken. Where `speaks` is false it shows nothing.

    Raises ConfigError where `tensorboard: true` and it is not installed.
    """

    def __init__(self, config: TrainingConfig, *, start: int, total: int, speaks: bool) -> None:
        self._config, self._speaks = config, speaks
        self._bar = tqdm(
            desc=config.preset, initial=start, total=total, mininterval=5, disable=not speaks, unit="step"
        )
        self._board = _open_board(config, start) if speaks else None
        self._sums = np.zeros(3)
        self.resume_clock()

    def resume_clock(self) -> None:
        """Starts the measurement of speed anew: what came before (an evaluation) is no training."""
        self._since, self._steps = time.monotonic(), 0
        self._sums[:] = 0

    def step(self, iteration: int, *, loss: float, main: float, aux: float, lr: float) -> None:
        """Counts a step; every `log_every` steps shows the means since the last time."""
        if not self._speaks:
            return
        self._bar.update()
        self._steps += 1
        self._sums += (loss, main, aux)
        if iteration % self._config.log_every:
            return
        loss, main, aux = (float(value) for value in self._sums / self._steps)
        speed = self._steps * self._config.batch / (time.monotonic() - self._since)
        self._bar.set_postfix(loss=f"{loss:.3f}", lr=f"{lr:.5f}", images_s=f"{speed:.1f}")
        scalars = {"loss/total": loss, "loss/main": main, "loss/aux": aux, "lr": lr, "images_per_s": speed}
        self._scalars(scalars, iteration)
        self.resume_clock()

    def evaluated(self, iteration: int, metrics: Mapping[str, Any]) -> None:
        """The validation's figures after that step."""
        names = ("mIoU", "mAcc", "allAcc")
        known = {f"validation/{name}": metrics.get(name) for name in names}
        self._scalars({name: value for name, value in known.items() if value is not None}, iteration)

    def pictures(
        self, iteration: int, checkpoint: Path, pairs: Sequence[tuple[Path, Path]], device: str
    ) -> None:
        """Image, truth and prediction, side by side, of the first validation images."""
        if self._board is None:
            return
        predictor = Predictor.open(str(checkpoint), device=device, precision="fp32")
        try:
            for number, pair in enumerate(pairs[:_PICTURES]):
                image, truth = load_pair(pair, predictor.info.classes)
                labels = predictor.predict(image).labels
                picture = beside(image, truth, np.asarray(labels, np.uint8), predictor.info.palette)
                self._board.add_image(f"validation/{number}", picture, iteration, dataformats="HWC")
        finally:
            predictor.close()
        self._board.flush()

    def close(self) -> None:
        """Ends the bar and writes what is pending."""
        self._bar.close()
        if self._board is not None:
            self._board.close()

    def _scalars(self, values: Mapping[str, float], iteration: int) -> None:
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, iteration)


def beside(
    image: np.ndarray, truth: np.ndarray, labels: np.ndarray, palette: Sequence[tuple[int, int, int]]
) -> np.ndarray:
    """(H, W, 3) RGB and two (H, W) uint8 maps of class ids as one picture, shrunk to a readable size.

    Where the truth is IGNORE both maps are black.
    """
    factor = min(1.0, _MAX_SIDE / max(truth.shape))
    width, height = (max(1, round(side * factor)) for side in truth.shape[::-1])
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    truth, labels = (
        cv2.resize(each, (width, height), interpolation=cv2.INTER_NEAREST) for each in (truth, labels)
    )
    shown = [
        colorize(np.asarray(each, np.uint8), palette) * (truth != IGNORE)[..., None]
        for each in (truth, labels)
    ]
    return np.concatenate([image, *shown], axis=1)


def _open_board(config: TrainingConfig, start: int) -> Any:
    """A writer below `out`, or None. Steps past `start` that an earlier run has written are taken back."""
    if config.tensorboard is False:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        mend = "pip install 'psanet-serving[train]', or set tensorboard=false"
        if config.tensorboard:
            raise ConfigError(f"tensorboard=true and TensorBoard is not installed: {mend}") from error
        logger.warning("TensorBoard is not installed, so no curves are written: %s", mend)
        return None
    return SummaryWriter(str(Path(config.out) / "tensorboard"), purge_step=start + 1)
