"""PyTorch, on the CPU or a CUDA GPU: runs checkpoints as they are. The only importer of torch in `inference`.

python -m inference photo.jpg --model psanet50_ade20k.pth --engine torch --out out
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inference.bundle import ModelInfo
from inference.errors import EngineError
from models.checkpoint import Checkpoint, build_from_checkpoint, load_checkpoint
from models.network import SceneParser
from models.options import ArchitectureOptions


class PyTorchEngine:
    """A network in eval mode. On the CPU it takes and gives numpy arrays, on a GPU torch tensors there.

    threads: of one call on the CPU; PyTorch has one number for the whole process, which this sets.
    Raises EngineError for a GPU that is not there.
    """

    name = "torch"

    def __init__(self, network: SceneParser, *, device: str = "cpu", threads: int | None = None) -> None:
        if device != "cpu":
            _require_gpu(device)
            # PyTorch's own choice for convolutions, TF32, has the 10 bits of float16; for the whole process.
            torch.backends.cudnn.allow_tf32 = False
        elif threads is not None:
            torch.set_num_threads(threads)
        self.device = device
        config = network.config
        self.crop_hw: tuple[int, int] | None = None if config.any_size else config.crop_hw
        self.limits_hw: tuple[tuple[int, int], tuple[int, int]] | None = None
        self.coarse_hw = config.feature_hw
        self.preferred_batch = 1 if device == "cpu" else 8
        self.max_batch: int | None = None
        self._network: SceneParser | None = network.to(device).eval()

    def to_device(self, array: NDArray[Any]) -> NDArray[Any] | torch.Tensor:
        """See `Engine.to_device`."""
        return array if self.device == "cpu" else torch.from_numpy(array).to(self.device)

    def infer(self, images: NDArray[np.float32] | torch.Tensor) -> NDArray[np.float32] | torch.Tensor:
        """See `Engine.infer`."""
        if self._network is None:
            raise EngineError("this engine was closed: open the model again")
        tensor = torch.from_numpy(images) if isinstance(images, np.ndarray) else images
        try:
            with torch.inference_mode():
                logits = self._network.coarse_logits(tensor.to(self.device))
        except torch.OutOfMemoryError as error:
            raise EngineError(
                f"the GPU's memory is too small for {tuple(images.shape)}: free some, or choose --device cpu"
            ) from error
        return logits.numpy(force=True) if isinstance(images, np.ndarray) else logits

    def close(self) -> None:
        """Lets go of the network and its memory."""
        self._network = None


def open_checkpoint(
    path: Path, *, dataset: str | None, options: ArchitectureOptions, device: str, threads: int | None
) -> tuple[ModelInfo, PyTorchEngine]:
    """Opens a checkpoint file; raises EngineError, and CheckpointError for a file that cannot be loaded."""
    if device != "cpu":
        _require_gpu(device)
    checkpoint = load_checkpoint(path, dataset=dataset, options=options)
    engine = PyTorchEngine(build_from_checkpoint(checkpoint), device=device, threads=threads)
    return describe(checkpoint), engine


def describe(checkpoint: Checkpoint) -> ModelInfo:
    """What `model.json` would say of a checkpoint that runs in PyTorch as it is; exporters build on it."""
    config, labels, protocol = checkpoint.config, checkpoint.labels, checkpoint.protocol
    return ModelInfo(
        name=checkpoint.path.stem,
        architecture=config,
        dataset=labels.name,
        class_names=labels.class_names,
        palette=labels.palette,
        label_ids=labels.label_ids,
        crop_hw=config.crop_hw,
        align_corners=config.align_corners,
        base_size=protocol.base_size,
        base_short=protocol.base_short,
        test_mode=protocol.mode,
        protocol=protocol.name,
        psa_form="torch",
        source_file=checkpoint.path.name,
        source_sha256=checkpoint.sha256,
        built_with={"torch": torch.__version__},
    )


def _require_gpu(device: str) -> None:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(device.partition(":")[2] or 0) >= count:
        raise EngineError(
            f"PyTorch finds {count} GPUs here, so {device} cannot be used: "
            "choose --device cpu, or install a CUDA build of torch and a driver that fits it"
        )
