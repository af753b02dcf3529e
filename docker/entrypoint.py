"""What the GPU image starts: builds the TensorRT engines that are missing, then becomes the service.

A model whose bundle holds an engine for this GPU and this TensorRT is served as it is. For any other,
`python -m export.trt` builds one into a bundle in the store, a volume, where the next start finds it. Nothing
listens until then, so nothing is ready. Settings are the service's own, PSANET_ENGINE among them:

    auto        a model whose engine cannot be built is served without, by ONNX Runtime or PyTorch
    tensorrt    the container ends with 2 instead, and the log says the mend
    others      nothing is built

and two of its own: ENGINE_STORE (default /var/lib/psanet) and ENGINE_OPTIONS, which go to `export.trt`
("--precision int8 --calib /calib --max-batch 16", say). Not here: building, serving, what runs on a CPU.

    python /opt/psanet/entrypoint.py                              the service
    python /opt/psanet/entrypoint.py --prepare                    engines alone; 2 where one cannot be built
    python /opt/psanet/entrypoint.py python -m export.trt …       any other command, as it is
"""

import hashlib
import json
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

from inference.bundle import MODEL_JSON, Bundle, read_bundle, resolve_model
from inference.errors import InferenceError
from service.logs import configure_logging
from service.settings import Settings, SettingsError, load_settings

log = logging.getLogger("entrypoint")

DEFAULT_STORE = "/var/lib/psanet"
_WITH_TENSORRT = ("auto", "tensorrt")
_KEY_LENGTH = 16
_STOPPED = 128 + signal.SIGTERM


class StartError(Exception):
    """The service cannot be started; the message says the mend."""


@dataclass
class Commands:
    """Runs one command at a time, and hands on to it what tells this process to stop.

    As the first process of a container it would not be stopped by a signal that it does not handle.
    """

    environ: Mapping[str, str]
    stopped: bool = False
    _running: list[subprocess.Popen[str]] = field(default_factory=list)

    def listen(self) -> None:
        """From here on SIGTERM and SIGINT end what runs; `stopped` says so."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def run(self, command: Sequence[str], *, quiet: bool = False, **environ: str) -> tuple[int, str]:
        """The exit code, and with `quiet` what it wrote to stdout, which goes to ours otherwise."""
        if self.stopped:
            return _STOPPED, ""
        stdout = subprocess.PIPE if quiet else None
        process = subprocess.Popen(command, env={**self.environ, **environ}, stdout=stdout, text=True)
        self._running.append(process)
        written, _ = process.communicate()
        self._running.clear()
        return process.returncode, written or ""

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True
        for process in self._running:
            process.send_signal(signal.SIGINT)  # commands clean up on Ctrl-C


@dataclass(frozen=True)
class Model:
    """One model that is asked for. name: as the service was told; own: its bundle, None for a checkpoint;
    stored: the bundle in the store, whether it is there or not."""

    name: str
    own: Path | None
    stored: Path
    options: tuple[str, ...]

    @property
    def places(self) -> tuple[Path, ...]:
        """Bundles that may hold an engine, the model's own first."""
        found = [self.own] if self.own else []
        return (*found, self.stored) if (self.stored / MODEL_JSON).is_file() else tuple(found)


def main(arguments: Sequence[str], replace: Callable[[Sequence[str], Mapping[str, str]], int]) -> int:
    """Prepare, then hand the process over. replace: becomes the command, and returns only in tests."""
    if arguments == ["--check-image"]:
        return check_image()
    if arguments[:1] == ["--probe"]:
        print(json.dumps(probe(arguments[1], arguments[2:])))
        return 0
    environ = dict(os.environ)
    prepare_only = arguments == ["--prepare"]
    if arguments and not prepare_only:
        return replace(arguments, environ)
    try:
        settings = load_settings(environ)
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    configure_logging(settings.log_level, settings.log_format)
    commands = Commands(environ)
    commands.listen()
    try:
        if settings.engine in _WITH_TENSORRT and settings.device != "cpu":
            strict = prepare_only or settings.engine == "tensorrt"
            opened = prepare(settings, environ, commands.run, strict=strict)
            environ["PSANET_MODELS"] = ",".join(opened)
    except (StartError, InferenceError, OSError, ValueError) as error:
        if not commands.stopped:
            log.error("%s", error)
            return 2
    if commands.stopped:
        return _STOPPED
    if prepare_only:
        return 0
    return replace([sys.executable, "-m", "service"], environ)


Run = Callable[..., tuple[int, str]]


def prepare(settings: Settings, environ: Mapping[str, str], run: Run, *, strict: bool) -> list[str]:
    """What the service is to open, in the order asked for: bundles with an engine, where they can be had, or
    with `strict` nothing else.

    Raises StartError, and InferenceError for a model that is not there.
    """
    store = Path(environ.get("ENGINE_STORE") or DEFAULT_STORE)
    options = shlex.split(environ.get("ENGINE_OPTIONS", ""))
    models = [
        find(name, store, options, shlex.split(settings.checkpoint_options)) for name in settings.models
    ]
    gpus, lacking = look(settings.device, [place for model in models for place in model.places], run)
    opened = []
    for model in models:
        ready = [place for place in model.places if not lacking[place]]
        if ready:
            log.info("%s: the engine in %s fits", model.name, ready[0])
            opened.append(model.name if ready[0] == model.own else str(ready[0]))
        elif all(build(model, gpu, environ, run) for gpu in lacking.get(model.stored, gpus)):
            opened.append(str(model.stored))
        else:
            opened.append(without_engine(model, strict=strict))
    return opened


def find(name: str, store: Path, options: Sequence[str], checkpoint_options: Sequence[str]) -> Model:
    """Where a model lies, and where its engine goes: another place for every other model or option, so that
    what was built for another is never taken for its own."""
    found = resolve_model(name)
    digest = hashlib.sha256()
    if isinstance(found, Bundle):
        own, stem, asked = found.folder, found.info.name.replace("/", "_"), tuple(options)
        digest.update((own / MODEL_JSON).read_bytes())
    else:
        own, stem, asked = None, found.stem, (*checkpoint_options, *options)
        with found.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    digest.update(json.dumps(asked).encode())
    stored = store / "engines" / digest.hexdigest()[:_KEY_LENGTH] / stem
    discard_unreadable(stored)
    return Model(name, own, stored, asked)


def discard_unreadable(stored: Path) -> None:
    """Makes room where the store holds what another version of this project wrote, or a disk has spoilt."""
    if stored.exists():
        try:
            read_bundle(stored)
        except InferenceError as error:
            log.warning("%s; it is built anew", error)
            shutil.rmtree(stored)


def look(device: str, places: Sequence[Path], run: Run) -> tuple[list[int], dict[Path, list[int]]]:
    """The GPUs to build for, by number, one of each kind; and those of them that each bundle has no engine
    for. In a process of its own: what looks at a GPU takes memory there until it ends."""
    code, written = run([sys.executable, __file__, "--probe", device, *map(str, places)], quiet=True)
    if code != 0:
        raise StartError("the GPU could not be looked at: the reason stands above")
    answer = json.loads(written)
    if not answer["gpus"]:
        raise StartError(
            f"there is no {device} in this container: that takes an NVIDIA driver (580 or later) and the "
            "NVIDIA Container Toolkit on the host, and docker compose up or docker run --gpus all; without a "
            "GPU take docker compose -f docker/compose.cpu.yaml up"
        )
    log.info("GPU: %s", "; ".join(answer["gpus"].values()))
    return [int(gpu) for gpu in answer["gpus"]], dict(zip(places, answer["lacking"], strict=True))


def build(model: Model, gpu: int, environ: Mapping[str, str], run: Run) -> bool:
    """Builds the engine of one model for one GPU into the store; whether that worked."""
    log.info("%s: building its TensorRT engine, once; this takes minutes", model.name)
    seen = [item for item in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if item]
    # The exporter builds for the first GPU that it sees.
    alone = seen[gpu] if gpu < len(seen) else str(gpu)
    command = [sys.executable, "-m", "export.trt", "--ckpt", model.name, "--out", str(model.stored)]
    code, _ = run([*command, *model.options], CUDA_VISIBLE_DEVICES=alone)
    return code == 0


def without_engine(model: Model, *, strict: bool) -> str:
    """What the service opens of a model whose engine could not be built; StartError where that is not
    wanted."""
    if strict:
        raise StartError(
            f"the engine of {model.name} could not be built (the reason stands above): mend that, or serve "
            "without (PSANET_ENGINE=auto)"
        )
    log.warning(
        "%s is served WITHOUT TensorRT: its engine could not be built (the reason stands above). Mend that "
        "and start again; PSANET_ENGINE=tensorrt refuses instead",
        model.name,
    )
    return model.name


def probe(device: str, folders: Sequence[str]) -> dict[str, object]:
    """What `look` asks. Every visible GPU for "cuda", one of each compute capability."""
    import torch

    from inference.engines.tensorrt import find_gpu, fits

    names = [device] if ":" in device else [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    gpus = {gpu.target: gpu for gpu in map(find_gpu, reversed(names)) if gpu is not None}
    found = sorted(gpus.values(), key=lambda gpu: gpu.index)
    return {
        "gpus": {gpu.index: f"{gpu.name}, {gpu.target}, {gpu.memory_bytes / 2**30:.0f} GiB" for gpu in found},
        "lacking": [
            [gpu.index for gpu in found if not fits(read_bundle(folder), f"cuda:{gpu.index}")]
            for folder in folders
        ],
    }


def check_image() -> int:
    """While the image is built: whether it has what engines need, without a GPU to load it on."""
    missing = [name for name in ("tensorrt", "torch", "onnx", "onnxruntime") if find_spec(name) is None]
    if missing:
        print(f"error: no module {', '.join(missing)} for {sys.executable}: choose another base image with "
              "--build-arg TENSORRT_IMAGE=nvcr.io/nvidia/tensorrt:YY.MM-py3", file=sys.stderr)  # fmt: skip
    return 1 if missing else 0


def _become(command: Sequence[str], environ: Mapping[str, str]) -> int:
    os.execvpe(command[0], list(command), dict(environ))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], _become))
