"""The choice of tiles: measured where it can be, never where it must not."""

import pytest
import torch

from models import psa_tiles
from models.psa_tiles import FLOAT, HALF, Tiles, Trial, Tuner
from models.psa_workspace import ROW_MULTIPLE

CHOICES = (Tiles(64, 64, 32, 4, 2), Tiles(128, 64, 32, 8, 2), Tiles((8, 8), 64, 32, 4, 2))
GPU = torch.device("cuda", 0)


@pytest.fixture
def capturing(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether a CUDA graph is being captured, as PyTorch would say."""
    state = [False]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: state[0])
    return state


def trials_of(monkeypatch: pytest.MonkeyPatch, results: dict[Tiles, Trial]) -> list[Tiles]:
    """What is tried from now on, with made-up results."""
    tried: list[Tiles] = []

    def attempt(tiles: Tiles, run: object) -> Trial:
        tried.append(tiles)
        return results[tiles]

    monkeypatch.setattr(psa_tiles, "_try", attempt)
    return tried


def test_the_fastest_that_runs_is_taken_and_remembered(
    monkeypatch: pytest.MonkeyPatch, capturing: list[bool]
) -> None:
    results = [Trial(CHOICES[0], 2.0), Trial(CHOICES[1], 1.0), Trial(CHOICES[2], float("inf"), "too large")]
    tried = trials_of(monkeypatch, {trial.tiles: trial for trial in results})
    tuner = Tuner()
    for _ in range(2):
        assert tuner.best("gather", CHOICES, lambda tiles: None, GPU) == CHOICES[1]
    assert tried == list(CHOICES)
    assert tuner.trials == {"gather": results}
    tuner.best("another", CHOICES, lambda tiles: None, GPU)
    assert len(tried) == 6
    tuner.forget()
    tuner.best("gather", CHOICES, lambda tiles: None, GPU)
    assert len(tried) == 9


def test_where_none_runs_the_reason_is_told(monkeypatch: pytest.MonkeyPatch, capturing: list[bool]) -> None:
    trials_of(monkeypatch, {tiles: Trial(tiles, float("inf"), "out of memory") for tiles in CHOICES})
    with pytest.raises(RuntimeError, match="no tiles run for gather: out of memory"):
        Tuner().best("gather", CHOICES, lambda tiles: None, GPU)


def test_nothing_is_measured_without_a_gpu_in_a_graph_or_where_results_must_not_depend_on_it(
    monkeypatch: pytest.MonkeyPatch, capturing: list[bool]
) -> None:
    tried = trials_of(monkeypatch, {tiles: Trial(tiles, -tiles.warps) for tiles in CHOICES})
    tuner = Tuner()
    assert tuner.best("gather", CHOICES, lambda tiles: None, torch.device("cpu")) == CHOICES[0]
    capturing[0] = True
    assert tuner.best("gather", CHOICES, lambda tiles: None, GPU) == CHOICES[0]
    assert not tried
    capturing[0] = False
    assert tuner.best("gather", CHOICES, lambda tiles: None, GPU) == CHOICES[1]
    torch.use_deterministic_algorithms(True)
    try:
        assert tuner.best("gather", CHOICES, lambda tiles: None, GPU) == CHOICES[0]
    finally:
        torch.use_deterministic_algorithms(False)


def test_tiles_of_channels_are_no_wider_than_the_channels() -> None:
    tiles = Tiles(64, 256, 64, 8, 3)
    assert tiles.arguments(None)["BLOCK_N"] == 256
    assert [tiles.arguments(count)["BLOCK_N"] for count in (1, 16, 17, 200, 512)] == [16, 16, 32, 256, 256]


def test_what_a_launch_is_given() -> None:
    launch = Tiles((8, 16), 128, 64, 4, 3, 128).arguments(None)
    assert launch == {
        "TILE_H": 8,
        "TILE_W": 16,
        "BLOCK_N": 128,
        "BLOCK_K": 64,
        "num_warps": 4,
        "num_stages": 3,
        "maxnreg": 128,
    }
    assert "maxnreg" not in Tiles(64, 128, 64, 4, 3).arguments(None)


@pytest.mark.parametrize("table", [HALF, FLOAT])
def test_rows_of_the_workspace_hold_whole_tiles(table: dict[str, tuple[Tiles, ...]]) -> None:
    """Kernels do not look at the end of a row: what runs along one must divide what rows are padded to."""
    along_rows = {"gather": ("m", "k"), "value_grads": ("m", "k"), "logit_grads": ("m", "n")}
    for kernel, names in along_rows.items():
        for tiles in table[kernel]:
            assert all(ROW_MULTIPLE % getattr(tiles, name) == 0 for name in names)
