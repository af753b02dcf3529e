"""PyTorch, on the CPU or a CUDA GPU: runs checkpoints as they are, or on a GPU in half precision.

python -m inference photo.jpg --model psanet50_ade20k.pth --engine torch --out out
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from inference.bundle import ModelInfo
from inference.engines.gpu_network import LARGEST_BATCH, PRECISIONS, GpuNetwork
from inference.errors import EngineError
from models.checkpoint import Checkpoint, build_from_checkpoint, load_checkpoint
from models.config import Direction
from models.network import SceneParser
from models.options import ArchitectureOptions

T = TypeVar("T")


class PyTorchEngine:
    """A network in eval mode. On the CPU it takes and gives numpy arrays, on a GPU torch tensors there.

    threads: of one call on the CPU; PyTorch has one number for the whole process, which this sets.
    precision: "fp32" is the network as it is, in float32 without TF32, which others are held against; "fp16"
    and "bf16" on a GPU alone, see `gpu_network.py`. compiled: what `torch.compile` makes of it runs where
    that is faster, on a GPU alone; found out when a size of batch is first met, in a minute or more.
    Raises EngineError for a GPU that is not there, and for what a CPU does not do.
    """

    name = "torch"

    def __init__(
        self,
        network: SceneParser,
        *,
        device: str = "cpu",
        threads: int | None = None,
        precision: str = "fp32",
        compiled: bool = False,
    ) -> None:
        _require_possible(device, precision, compiled)
        if device != "cpu":
            # PyTorch's own choice for convolutions, TF32, has the 10 bits of float16; for the whole process.
            torch.backends.cudnn.allow_tf32 = False
        elif threads is not None:
            torch.set_num_threads(threads)
        self.device, self.precision, self.threads = device, precision, threads
        config = network.config
        self.crop_hw: tuple[int, int] | None = None if config.any_size else config.crop_hw
        self.limits_hw: tuple[tuple[int, int], tuple[int, int]] | None = None
        self.coarse_hw = config.feature_hw
        self.preferred_batch = 1 if device == "cpu" else LARGEST_BATCH
        self.max_batch: int | None = None
        self.directions = config.directions
        self._run: Callable[[torch.Tensor], torch.Tensor] | None
        self._attention: Callable[[torch.Tensor], dict[Direction, torch.Tensor]] | None
        if precision == "fp32" and not compiled:
            network = network.to(device).eval()
            self._run, self._attention = network.coarse_logits, network.attention
        else:
            dtype = PRECISIONS[precision]
            on_gpu = GpuNetwork(network, torch.device(device), dtype, compiled=compiled)
            self._run, self._attention = on_gpu, on_gpu.attention

    def to_device(self, array: NDArray[Any]) -> NDArray[Any] | torch.Tensor:
        """See `Engine.to_device`."""
        return array if self.device == "cpu" else torch.from_numpy(array).to(self.device)

    def form(self, batch: int) -> str:
        """How it runs batches of that size: what `gpu_network.py` found to be fastest, or "eager"."""
        if not isinstance(self._run, GpuNetwork) or self.crop_hw is None:
            return "eager"
        with torch.inference_mode():
            return self._run.form(batch)

    def infer(self, images: NDArray[np.float32] | torch.Tensor) -> NDArray[np.float32] | torch.Tensor:
        """See `Engine.infer`."""
        return _as_given(self._on_device(self._run, images), images)

    def attend(
        self, images: NDArray[np.float32] | torch.Tensor, directions: Sequence[Direction]
    ) -> dict[Direction, NDArray[np.float32] | torch.Tensor]:
        """See `AttentionEngine.attend`."""
        found = self._on_device(self._attention, images)
        return {direction: _as_given(found[direction], images) for direction in directions}

    def _on_device(
        self, work: Callable[[torch.Tensor], T] | None, images: NDArray[np.float32] | torch.Tensor
    ) -> T:
        if work is None:
            raise EngineError("this engine was closed: open the model again")
        tensor = torch.from_numpy(images) if isinstance(images, np.ndarray) else images
        try:
            with torch.inference_mode():
                return work(tensor.to(self.device))
        except torch.OutOfMemoryError as error:
            raise EngineError(
                f"the GPU's memory is too small for {tuple(images.shape)}: free some, or choose --device cpu"
            ) from error
        except RuntimeError as error:
            said = str(error).strip().partition("\n")[0]
            raise EngineError(f"PyTorch failed on {tuple(images.shape)}: {said}") from error

    def close(self) -> None:
        """Lets go of the network and its memory."""
        self._run = self._attention = None


def _as_given(
    found: torch.Tensor, images: NDArray[np.float32] | torch.Tensor
) -> NDArray[np.float32] | torch.Tensor:
    """What was found, of the kind that the images were."""
    return found.numpy(force=True) if isinstance(images, np.ndarray) else found


def open_checkpoint(
    path: Path,
    *,
    dataset: str | None,
    options: ArchitectureOptions,
    device: str,
    threads: int | None,
    precision: str = "fp32",
    compiled: bool = False,
) -> tuple[ModelInfo, PyTorchEngine]:
    """Opens a checkpoint file; raises EngineError, and CheckpointError for a file that cannot be loaded."""
    _require_possible(device, precision, compiled)
    checkpoint = load_checkpoint(path, dataset=dataset, options=options)
    engine = PyTorchEngine(
        build_from_checkpoint(checkpoint),
        device=device,
        threads=threads,
        precision=precision,
        compiled=compiled,
    )
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


def _require_possible(device: str, precision: str, compiled: bool) -> None:
    if device != "cpu":
        _require_gpu(device)
    elif precision != "fp32" or compiled:
        wanted = "a compiled network" if precision == "fp32" else precision
        raise EngineError(
            f"PyTorch runs {wanted} on a GPU alone here: choose --device cuda, or for a CPU an exported int8 "
            "bundle (python -m export.onnx --precision int8)"
        )


def _require_gpu(device: str) -> None:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(device.partition(":")[2] or 0) >= count:
        raise EngineError(
            f"PyTorch finds {count} GPUs here, so {device} cannot be used: "
            "choose --device cpu, or install a CUDA build of torch and a driver that fits it"
        )
