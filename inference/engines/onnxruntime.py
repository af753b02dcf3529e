"""ONNX Runtime, on the CPU or a CUDA GPU.

python -m inference photo.jpg --model psanet18_camvid --engine onnxruntime --out out
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.arrays import Array
from inference.bundle import LOGITS, Bundle, ModelInfo, attention_output
from inference.errors import BundleError, EngineError
from inference.onnxruntime_library import onnxruntime
from models.config import Direction

_ERRORS_ONLY = 3


class OnnxRuntimeEngine:
    """A bundle's `model.onnx` in one session, which any number of threads may run at once.

    threads: of one call, None for all cores. Raises BundleError for a file that cannot be read or is not
    what `model.json` says, EngineError where CUDA is asked for and cannot be had (never the CPU in its
    place).
    """

    name = "onnxruntime"

    def __init__(self, bundle: Bundle, *, device: str = "cpu", threads: int | None = None) -> None:
        self.device, self.threads = device, threads
        self._session: onnxruntime.InferenceSession | None = _session(bundle, device, threads)
        self._binding = None if device == "cpu" else _binding(self._session, device)
        self.crop_hw = _check(bundle, self._session)
        self.directions = bundle.info.directions
        self.limits_hw: tuple[tuple[int, int], tuple[int, int]] | None = None
        self.preferred_batch = 1 if device == "cpu" else 8
        self.max_batch: int | None = _fixed(self._session.get_inputs()[0].shape[0])
        self.coarse_hw = self._coarse_hw(bundle.info, self._session)

    def to_device(self, array: NDArray[Any]) -> Array:
        """See `Engine.to_device`; on a GPU without PyTorch the array itself, which ONNX Runtime copies."""
        return array if self._binding is None else self._binding.put(array)

    def infer(self, images: Array) -> Array:
        """See `Engine.infer`."""
        if self._binding is not None and not isinstance(images, np.ndarray):
            with self._told(images):
                return self._binding.run(images)
        return self._run([LOGITS], images)[0]

    def attend(self, images: Array, directions: Sequence[Direction]) -> dict[Direction, Array]:
        """See `AttentionEngine.attend`."""
        on_host = images if isinstance(images, np.ndarray) else images.cpu().numpy()
        found = self._run([attention_output(direction) for direction in directions], on_host)
        return dict(zip(directions, map(self.to_device, found), strict=True))

    def close(self) -> None:
        """Lets go of the session and its memory."""
        self._session = self._binding = None

    def _run(self, outputs: Sequence[str], images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        with self._told(images):
            if self._session is None:
                raise EngineError("this engine was closed: open the model again")
            found: list[NDArray[np.float32]] = self._session.run(outputs, {"image": images})
        return found

    @contextmanager
    def _told(self, images: Array) -> Iterator[None]:
        """What the library raises, as an EngineError."""
        try:
            yield
        except EngineError:
            raise
        except Exception as error:  # its exceptions share no base but Exception
            shape = tuple(images.shape)
            raise EngineError(f"ONNX Runtime failed on {shape}: {_first_line(error)}") from error

    def _coarse_hw(self, info: ModelInfo, session: onnxruntime.InferenceSession) -> tuple[int, int]:
        """As the file says; where it leaves that open, by a run, which also warms the session up.

        Of a model for any size, which may be large, what its architecture says: nothing relies on it.
        """
        if self.crop_hw is None:
            return info.architecture.feature_hw
        height, width = (_fixed(side) for side in _output(session, LOGITS).shape[2:])
        if height is None or width is None:
            height, width = self.infer(np.zeros((1, 3, *self.crop_hw), np.float32)).shape[2:]
        return height, width


def _binding(session: onnxruntime.InferenceSession, device: str) -> Any:
    """For torch tensors on the device; None where there is no PyTorch that can use it."""
    try:
        from inference.engines.onnxruntime_binding import Binding, usable
    except ModuleNotFoundError:
        return None
    return Binding(session, device) if usable(device) else None


def session_options(threads: int | None) -> onnxruntime.SessionOptions:
    """What every session is opened with. threads: None for all cores."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = threads or 0
    # Spinning threads burn the core that stitching, or another request, could use: a fifth of a call.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # The arena keeps a call's memory for ever (PSANet50: 280 MB) and made no call faster.
    options.enable_cpu_mem_arena = False
    return options


def _session(bundle: Bundle, device: str, threads: int | None) -> onnxruntime.InferenceSession:
    options = session_options(threads)
    providers = _providers(device, any_size=bundle.info.protocol == "mmsegmentation")
    path = str(bundle.onnx_path)
    try:
        session = onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # its exceptions share no base but Exception
        if device != "cpu":
            raise EngineError(f"ONNX Runtime cannot run {path} on {device}: {_first_line(error)}") from error
        raise BundleError(
            f"{path} is no model that ONNX Runtime can run: export the checkpoint anew ({_first_line(error)})"
        ) from error
    if device != "cpu" and "CUDAExecutionProvider" not in session.get_providers():
        raise EngineError(
            "ONNX Runtime could not start CUDA: check that there is a GPU, and that its driver and the CUDA "
            "libraries fit this onnxruntime-gpu; or choose --device cpu"
        )
    return session


def _providers(device: str, *, any_size: bool) -> Sequence[str | tuple[str, dict[str, int | str]]]:
    if device == "cpu":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise EngineError(
            "this ONNX Runtime has no CUDA: install onnxruntime-gpu in place of onnxruntime (pip install "
            "'.[gpu]' in an environment of its own), or choose --device cpu"
        )
    # Its own choice, TF32, has the 10 bits of float16.
    options: dict[str, int | str] = {"device_id": int(device.partition(":")[2] or 0), "use_tf32": 0}
    if any_size:
        # Otherwise it tries all algorithms anew for every size, and its arena grows by powers of two.
        options |= {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}
    return [("CUDAExecutionProvider", options), "CPUExecutionProvider"]


def _check(bundle: Bundle, session: onnxruntime.InferenceSession) -> tuple[int, int] | None:
    """Holds the file against model.json; returns the size of the images that it takes, None for any.

    A file that leaves the size open runs at the crop all the same where the protocol has windows of that
    size alone.
    """
    info, path = bundle.info, bundle.onnx_path
    inputs = {item.name: item for item in session.get_inputs()}
    outputs = [item.name for item in session.get_outputs()]
    if list(inputs) != ["image"] or not set(info.outputs) <= set(outputs):
        raise BundleError(
            f"{path} has inputs {list(inputs)} and outputs {outputs} in place of image and "
            f"{', '.join(info.outputs)}: export the checkpoint anew"
        )
    image, logits = inputs["image"], _output(session, LOGITS)
    if image.type != "tensor(float)" or len(image.shape) != 4 or len(logits.shape) != 4:
        raise BundleError(f"{path} takes {image.type} {image.shape}, not float (N, 3, h, w): export it anew")
    for what, found, said in (
        ("channels", image.shape[1], 3),
        ("crop height", image.shape[2], info.crop_hw[0]),
        ("crop width", image.shape[3], info.crop_hw[1]),
        ("classes", logits.shape[1], info.classes),
    ):
        if _fixed(found) not in (None, said):
            raise BundleError(
                f"{path} has {what} {found} and its model.json says {said}: they belong to different models; "
                "export the checkpoint anew"
            )
    for name in info.outputs[1:]:
        found = _output(session, name)
        if found.type != "tensor(float)" or len(found.shape) != 3:
            raise BundleError(
                f"{path} gives {name} as {found.type} {found.shape}: export the checkpoint anew"
            )
    open_sides = [_fixed(side) is None for side in image.shape[2:]]
    if info.test_mode == "whole" and not all(open_sides):
        raise BundleError(
            f"{path} takes images of {image.shape[2:]} and its model.json says whole images, of any size: "
            "export the checkpoint anew"
        )
    return None if info.protocol == "mmsegmentation" and all(open_sides) else info.crop_hw


def _output(session: onnxruntime.InferenceSession, name: str) -> Any:
    return next(item for item in session.get_outputs() if item.name == name)


def _fixed(side: int | str | None) -> int | None:
    """A dimension where the file fixes it, None where it leaves it open."""
    return side if isinstance(side, int) else None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
