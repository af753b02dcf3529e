"""The ten rows of the paper's Table 1 and the budgets that they are trained with in small.

Not here: the keys of a row or a budget, which are files below `training/configs`.

    python -m training.ablation --data-root data/camvid --out runs/ablation --rows baseline,collect
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

CONFIGS: Final = Path(__file__).parents[1] / "configs"
BASE: Final = CONFIGS / "camvid_psanet18.yaml"

BASELINE: Final = "baseline"
DENSECRF: Final = "densecrf"
"""The row that is no training: the baseline of the same seed, post-processed."""


class Figures(NamedTuple):
    """Mean IoU and pixel accuracy in percent."""

    miou: float
    accuracy: float


class Row(NamedTuple):
    """A row of Table 1 and what the paper has in it: ADE20K val, ResNet-50, a single scale and several."""

    name: str
    title: str
    single: Figures
    several: Figures

    @property
    def config(self) -> Path:
        """What the row changes of the data set's configuration; DenseCRF's is the baseline's."""
        return CONFIGS / "rows" / f"{BASELINE if self.name == DENSECRF else self.name}.yaml"


ROWS: Final = (
    Row(BASELINE, "Baseline", Figures(37.23, 78.01), Figures(38.48, 78.92)),
    Row(DENSECRF, "+DenseCRF", Figures(37.97, 78.51), Figures(38.86, 79.32)),
    Row("global_pooling", "+GlobalPooling", Figures(40.07, 79.52), Figures(41.22, 80.35)),
    Row("aspp", "+ASPP", Figures(40.39, 79.71), Figures(42.18, 80.73)),
    Row("nonlocal", "+NonLocal", Figures(40.93, 79.97), Figures(41.94, 80.71)),
    Row("psp", "+PSP", Figures(41.68, 80.04), Figures(42.78, 80.76)),
    Row("collect_compact", "+COLLECT (compact)", Figures(41.07, 79.61), Figures(41.99, 80.32)),
    Row("collect", "+COLLECT", Figures(41.27, 79.74), Figures(42.56, 80.56)),
    Row("distribute", "+DISTRIBUTE", Figures(41.46, 80.12), Figures(42.63, 80.90)),
    Row("collect_distribute", "+COLLECT+DISTRIBUTE", Figures(41.92, 80.17), Figures(42.97, 80.92)),
)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What every row gets alike: a file of the training's keys, and how it is evaluated.

    base_size: long side in pixels at scale 1, None: the data set's. every: only each N-th image of the
    validation list. warning: stands above the table, where the figures are worth less than they seem.
    """

    config: Path
    base_size: int | None = None
    every: int = 1
    warning: str | None = None


BUDGETS: Final[Mapping[str, Budget]] = MappingProxyType(
    {
        "full": Budget(config=CONFIGS / "ablation" / "full.yaml"),
        "cpu": Budget(
            config=CONFIGS / "ablation" / "cpu.yaml",
            base_size=240,
            every=6,
            warning="A small budget for a CPU: far too few steps, on images of half size. Networks are "
            "compared at the start of their training; differences within the deviations say nothing.",
        ),
    }
)
