from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models.config import ConfigError
from training import setup
from training.config import TrainingConfig, read_config
from training.distributed import Processes

CPU = torch.device("cpu")


def config_of(*changes: str) -> TrainingConfig:
    return read_config("training/configs/camvid_psanet18.yaml", changes)


@pytest.mark.parametrize("older", [True, False])
def test_buffers_are_left_alone_in_the_words_of_any_pytorch(
    older: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, Any] = {}

    class Before213:
        def __init__(
            self,
            module: nn.Module,
            device_ids: list[torch.device] | None = None,
            broadcast_buffers: bool = True,
            gradient_as_bucket_view: bool = False,
        ) -> None:
            found.update(module=module, device_ids=device_ids, synchronised=broadcast_buffers)

    class Since213:
        def __init__(
            self,
            module: nn.Module,
            device_ids: list[torch.device] | None = None,
            broadcast_buffers: bool | None = None,
            gradient_as_bucket_view: bool = False,
            forward_sync_buffers: bool | None = None,
        ) -> None:
            assert broadcast_buffers is None, "warns"
            found.update(module=module, device_ids=device_ids, synchronised=forward_sync_buffers)

    monkeypatch.setattr(setup, "DistributedDataParallel", Before213 if older else Since213)
    network = nn.Linear(2, 2)
    setup._distributed(network, torch.device("cuda", 1))
    assert found == {"module": network, "device_ids": [torch.device("cuda", 1)], "synchronised": False}


@pytest.mark.parametrize("context", ["global", "ppm"])
def test_one_image_at_a_time_is_refused_where_batch_norm_would_see_one_value(context: str) -> None:
    changes = [f"model.context={context}", "model.crop_hw=[33, 33]", "batch=2", "accumulate=2"]
    with pytest.raises(ConfigError, match=r"2 images or more in each part.*accumulate=1 would do"):
        setup.share_of(config_of(*changes), Processes(CPU))
    # Batch norm is that of all processes.
    assert setup.share_of(config_of(*changes, "batch=4"), Processes(CPU, 0, 2)) == 1
    assert setup.share_of(config_of("batch=2", "accumulate=2"), Processes(CPU)) == 1


def test_a_folder_that_cannot_be_made_is_known_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"out=.*/below cannot be made \(Not a directory\): name another"):
        setup.make_folder(config_of(f"out={tmp_path}/file/below"))
    setup.make_folder(config_of(f"out={tmp_path}/new/below"))
    assert (tmp_path / "new/below").is_dir()
