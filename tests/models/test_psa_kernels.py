"""The Triton kernels against the plain form in float64: on a GPU, and on CPUs through Triton's interpreter.

The interpreter multiplies no bfloat16, knows no tiles too large for a GPU, and takes seconds for what a GPU
does in microseconds: it shows that the kernels' arithmetic and addresses are right.
"""

import os
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor

from models.psa_blocks import Geometry
from models.psa_tiles import FLOAT, HALF, TUNER, Tiles
from tests.models.psa_oracle import GEOMETRIES, errors, expected, some_inputs

GPU = torch.cuda.is_available()
DEVICES = pytest.mark.parametrize(
    "device",
    [
        pytest.param(
            "cpu",
            marks=pytest.mark.skipif(
                os.environ.get("TRITON_INTERPRET") != "1",
                reason="Triton interprets only where there is no GPU",
            ),
        ),
        pytest.param(
            "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not GPU, reason="needs an NVIDIA GPU")]
        ),
    ],
)
DIRECTIONS = pytest.mark.parametrize("distribute", [False, True], ids=["collect", "distribute"])
# Three products of tf32 make one of float32 on a GPU; one alone would be off by 3e-4 or more.
TOLERANCES = {torch.float32: 1e-4 if GPU else 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}

SMALL = {
    "predict": (Tiles((2, 8), 16, 16, 1, 1),),
    "gather": (Tiles(16, 16, 16, 1, 1),),
    "logit_grads": (Tiles(16, 16, 16, 1, 1),),
    "value_grads": (Tiles(16, 16, 16, 1, 1),),
    "feature_grads": (Tiles((4, 4), 16, 16, 1, 1),),
    "weight_grads": (Tiles((2, 8), 16, 16, 1, 1),),
}


# What pads the workspace is anything, and may be multiplied before it is left out.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter")


def poisoned(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *arguments, **options: allocate(*arguments, **options).fill_(torch.nan)


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module, with memory that is NaN until it is written."""
    pytest.importorskip("triton", reason="needs triton")
    from models import psa_launch

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))
    TUNER.forget()
    yield psa_launch
    TUNER.forget()


def found(launch: ModuleType, inputs: list[Tensor], geometry: Geometry) -> list[Tensor]:
    """The results of both passes."""
    features, weight, values, grad, grad_log_sums = inputs
    results = launch.forward(features, weight, values, geometry)
    return [*results, *launch.backward(grad, grad_log_sums, features, weight, values, *results, geometry)]


@DEVICES
@DIRECTIONS
@pytest.mark.parametrize(("feature_hw", "mask_hw"), GEOMETRIES)
def test_both_passes_are_the_plain_form(
    launch: ModuleType,
    device: str,
    feature_hw: tuple[int, int],
    mask_hw: tuple[int, int],
    distribute: bool,
) -> None:
    geometry = Geometry(*feature_hw, *mask_hw, distribute)
    inputs = some_inputs(geometry, device=device)
    assert (
        max(errors(found(launch, inputs, geometry), expected(inputs, geometry))) < TOLERANCES[torch.float32]
    )


@DEVICES
@DIRECTIONS
@pytest.mark.parametrize(
    ("images", "rows", "dtype"),
    [
        pytest.param(1, 1, torch.float32, id="a row"),
        pytest.param(1, 3, torch.float16, id="some rows"),
        pytest.param(2, 4, torch.float32, id="an image"),
    ],
)
def test_small_tiles_and_blocks_fit_together(
    launch: ModuleType,
    device: str,
    images: int,
    rows: int,
    dtype: torch.dtype,
    distribute: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tiles with neighbours on all sides, and blocks that add to what others left."""
    geometry = Geometry(4, 5, 7, 9, distribute)
    monkeypatch.setattr(launch, "HALF", SMALL)
    monkeypatch.setattr(launch, "FLOAT", SMALL)
    monkeypatch.setattr(launch, "WORKSPACE_BYTES", rows * 5 * 20 * dtype.itemsize)
    inputs = some_inputs(geometry, images=images, channels=18, width=17, dtype=dtype, device=device)
    assert max(errors(found(launch, inputs, geometry), expected(inputs, geometry))) < TOLERANCES[dtype]


@DEVICES
def test_logits_beyond_float16_still_give_weights(launch: ModuleType, device: str) -> None:
    geometry = Geometry(4, 4, 7, 7, False)
    features, weight, values, *_ = some_inputs(geometry, dtype=torch.float16, device=device)
    features, weight = features * 8000, weight * 8
    assert (features.double() @ weight.double().mT).abs().max() > 2 * 65504
    gathered, log_sums = launch.forward(features, weight, values, geometry)
    assert log_sums.isfinite().all()
    assert (gathered.abs() <= values.abs().amax(1, keepdim=True) * 1.001).all()


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs an NVIDIA GPU")
@DIRECTIONS
@pytest.mark.parametrize("dtype", list(TOLERANCES), ids=str)
@pytest.mark.parametrize(
    ("feature_hw", "mask_hw", "images", "channels"),
    [
        ((30, 30), (59, 59), 3, 512),
        ((45, 45), (89, 89), 2, 512),
        ((45, 45), (59, 59), 1, 512),
        ((33, 70), (65, 139), 1, 72),
        ((20, 11), (60, 8), 5, 72),
    ],
)
def test_networks_sizes_in_every_type(
    launch: ModuleType,
    feature_hw: tuple[int, int],
    mask_hw: tuple[int, int],
    images: int,
    channels: int,
    dtype: torch.dtype,
    distribute: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the first tiles of each kernel: no search, which would compile all."""
    for table in ("HALF", "FLOAT"):
        first = {name: tiles[:1] for name, tiles in getattr(launch, table).items()}
        monkeypatch.setattr(launch, table, first)
    geometry = Geometry(*feature_hw, *mask_hw, distribute)
    inputs = some_inputs(
        geometry, images=images, channels=channels, width=channels, dtype=dtype, device="cuda"
    )
    assert max(errors(found(launch, inputs, geometry), expected(inputs, geometry))) < TOLERANCES[dtype]


def every_choice() -> Iterator[tuple[str, str, Tiles]]:
    for table, kernels in {"HALF": HALF, "FLOAT": FLOAT}.items():
        yield from ((table, name, tiles) for name, choices in kernels.items() for tiles in choices)


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs an NVIDIA GPU")
@DIRECTIONS
@pytest.mark.parametrize(("table", "kernel", "tiles"), list(every_choice()), ids=str)
def test_every_choice_of_tiles_is_right(
    launch: ModuleType,
    table: str,
    kernel: str,
    tiles: Tiles,
    distribute: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen = {name: choices[:1] for name, choices in getattr(launch, table).items()}
    monkeypatch.setattr(launch, table, {**chosen, kernel: (tiles,)})
    dtype = torch.float16 if table == "HALF" else torch.float32
    geometry = Geometry(21, 27, 41, 53, distribute)
    inputs = some_inputs(geometry, channels=512, width=512, dtype=dtype, device="cuda")
    TUNER.forget()
    results = found(launch, inputs, geometry)
    failures = [trial.failure for trials in TUNER.trials.values() for trial in trials]
    assert not any(failures)
    assert max(errors(results, expected(inputs, geometry))) < TOLERANCES[dtype]
