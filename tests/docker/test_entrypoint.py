"""The GPU image's entry point: which models, whether an engine is there, building, becoming the service."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import entrypoint
from entrypoint import Commands, StartError, find, main, prepare, probe
from inference.bundle import BUNDLED_ROOT, MODEL_JSON, MODEL_ONNX
from inference.engines.tensorrt import Gpu
from service.settings import Settings

BUNDLED = "psanet18_camvid"


def copy_bundle(folder: Path) -> Path:
    """A bundle that can be read; nothing here runs its model."""
    folder.mkdir(parents=True)
    shutil.copy(BUNDLED_ROOT / BUNDLED / MODEL_JSON, folder)
    (folder / MODEL_ONNX).write_bytes(b"")
    return folder


class Machine:
    """Stands for the commands that would run: a probe that knows which bundles have engines for which GPUs,
    and an exporter that makes them.

    gpus: number to name. engines: bundle to GPUs. fails: GPUs that engines cannot be built for.
    """

    def __init__(self, *gpus: int, fails: Sequence[int] = ()) -> None:
        self.gpus, self.fails = gpus, fails
        self.engines: dict[Path, set[int]] = {}
        self.built: list[tuple[str, Path, int, list[str]]] = []

    def run(self, command: Sequence[str], *, quiet: bool = False, **environ: str) -> tuple[int, str]:
        if "--probe" in command:
            places = [Path(text) for text in command[command.index("--probe") + 2 :]]
            lacking = [sorted(set(self.gpus) - self.engines.get(place, set())) for place in places]
            gpus = {str(gpu): f"GPU {gpu}" for gpu in self.gpus}
            return 0, json.dumps({"gpus": gpus, "lacking": lacking})
        assert command[1:3] == ["-m", "export.trt"]
        _, _, _, _, name, _, out, *options = command
        gpu = int(environ["CUDA_VISIBLE_DEVICES"])
        self.built.append((name, Path(out), gpu, options))
        if gpu in self.fails:
            return 2, ""
        if not Path(out).exists():
            copy_bundle(Path(out))
        self.engines.setdefault(Path(out), set()).add(gpu)
        return 0, ""

    def prepare(self, store: Path, environ: Mapping[str, str] | None = None, **settings: Any) -> list[str]:
        strict = settings.pop("strict", False)
        asked = Settings(device="cuda", **settings)
        return prepare(asked, {"ENGINE_STORE": str(store), **(environ or {})}, self.run, strict=strict)


def test_the_first_start_builds_and_the_second_takes_what_is_there(tmp_path: Path) -> None:
    machine = Machine(0)
    first = machine.prepare(tmp_path)
    assert [(name, out.parent.parent, gpu) for name, out, gpu, _ in machine.built] == [
        (BUNDLED, tmp_path / "engines", 0)
    ]
    assert Path(first[0]).name == BUNDLED, "it is served under its own name"
    assert machine.prepare(tmp_path) == first
    assert len(machine.built) == 1


def test_a_bundle_with_an_engine_that_fits_is_served_as_it_was_named(tmp_path: Path) -> None:
    bundle = copy_bundle(tmp_path / "street")
    machine = Machine(0)
    machine.engines[bundle] = {0}
    assert machine.prepare(tmp_path, models=(str(bundle),)) == [str(bundle)]
    assert not machine.built


def test_models_keep_their_order_and_other_kinds_of_gpu_get_an_engine_each(tmp_path: Path) -> None:
    bundle = copy_bundle(tmp_path / "street")
    machine = Machine(0, 2)
    machine.engines[bundle] = {0, 2}
    opened = machine.prepare(tmp_path, models=(str(bundle), BUNDLED))
    assert opened[0] == str(bundle)
    assert [gpu for _, _, gpu, _ in machine.built] == [0, 2]
    machine.gpus = (0, 2, 3)
    machine.engines[bundle] = {0, 2, 3}
    assert machine.prepare(tmp_path, models=(str(bundle), BUNDLED)) == opened
    assert [gpu for _, _, gpu, _ in machine.built] == [0, 2, 3], "only what is lacking"


def test_a_model_whose_engine_cannot_be_built_is_served_without_or_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine(0, 1, fails=[0])
    assert machine.prepare(tmp_path) == [BUNDLED]
    assert [gpu for _, _, gpu, _ in machine.built] == [0], "the other kind would be of no use"
    assert "served WITHOUT TensorRT" in caplog.text
    with pytest.raises(StartError, match=r"could not be built .*PSANET_ENGINE=auto"):
        machine.prepare(tmp_path, strict=True)


def test_options_go_to_the_exporter_and_each_set_has_engines_of_its_own(tmp_path: Path) -> None:
    machine = Machine(0)
    plain = machine.prepare(tmp_path)
    other = machine.prepare(tmp_path, {"ENGINE_OPTIONS": "--precision int8 --calib '/my images'"})
    assert machine.built[-1][3] == ["--precision", "int8", "--calib", "/my images"]
    assert plain != other


def test_a_checkpoint_is_told_by_its_content_and_what_it_cannot_say(tmp_path: Path) -> None:
    path = tmp_path / "street net.pth"
    path.write_bytes(b"one")
    first = find(str(path), tmp_path, ["--max-batch", "2"], ["--psa-type", "collect"])
    assert first.own is None
    assert first.places == ()
    assert first.stored.name == "street net"
    assert first.options == ("--psa-type", "collect", "--max-batch", "2")
    assert find(str(path), tmp_path, ["--max-batch", "2"], []).stored != first.stored
    path.write_bytes(b"two")
    assert find(str(path), tmp_path, ["--max-batch", "2"], ["--psa-type", "collect"]).stored != first.stored


def test_what_the_store_holds_in_pieces_is_built_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine(0)
    (stored,) = map(Path, machine.prepare(tmp_path))
    (stored / MODEL_JSON).write_text("{}")
    assert machine.prepare(tmp_path) == [str(stored)]
    assert len(machine.built) == 2
    assert (stored / MODEL_JSON).read_text() != "{}"
    assert "it is built anew" in caplog.text


def test_without_a_gpu_the_mend_is_said(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"NVIDIA Container Toolkit.*docker/compose.cpu.yaml"):
        Machine().prepare(tmp_path)


def test_the_exporter_sees_the_one_gpu_that_it_builds_for(tmp_path: Path) -> None:
    seen = []

    def run(command: Sequence[str], **environ: str) -> tuple[int, str]:
        seen.append(environ["CUDA_VISIBLE_DEVICES"])
        return 0, ""

    model = find(BUNDLED, tmp_path, [], [])
    for gpu, environ in ((0, {}), (3, {}), (1, {"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"})):
        assert entrypoint.build(model, gpu, environ, run)
    assert seen == ["0", "3", "GPU-b"]


def test_the_probe_names_one_gpu_of_each_kind_and_what_each_bundle_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = ["sm90", "sm90", "sm89"]
    monkeypatch.setattr("torch.cuda.device_count", lambda: len(kinds))

    def find_gpu(device: str = "cuda") -> Gpu | None:
        index = int(device.partition(":")[2] or 0)
        return Gpu(index, "Some GPU", kinds[index], 80 * 2**30) if index < len(kinds) else None

    monkeypatch.setattr("inference.engines.tensorrt.find_gpu", find_gpu)
    monkeypatch.setattr("inference.engines.tensorrt.fits", lambda bundle, device: device == "cuda:0")
    bundle = copy_bundle(tmp_path / "street")
    assert probe("cuda", [str(bundle)]) == {
        "gpus": {0: "Some GPU, sm90, 80 GiB", 2: "Some GPU, sm89, 80 GiB"},
        "lacking": [[2]],
    }
    assert probe("cuda:1", [])["gpus"] == {1: "Some GPU, sm90, 80 GiB"}
    kinds.clear()
    assert probe("cuda:1", [str(bundle)]) == {"gpus": {}, "lacking": [[]]}


class Became(SimpleNamespace):
    """What the process was handed over to."""

    command: Sequence[str] | None = None

    def __call__(self, command: Sequence[str], environ: Mapping[str, str]) -> int:
        self.command, self.environ = list(command), environ
        return 0


@pytest.fixture
def handled() -> Any:
    """Signal handlers and logging as they were."""
    import logging

    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    handlers, level = list(logging.root.handlers), logging.root.level
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.mark.usefixtures("handled")
def test_the_service_is_become_with_the_models_that_were_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, became = Machine(0), Became()
    monkeypatch.setattr(Commands, "run", lambda self, *command, **options: machine.run(*command, **options))
    monkeypatch.setenv("ENGINE_STORE", str(tmp_path))
    monkeypatch.setenv("PSANET_DEVICE", "cuda")
    assert main([], became) == 0
    assert became.command == [sys.executable, "-m", "service"]
    assert became.environ["PSANET_MODELS"] == str(machine.built[0][1])
    for engine, device in (("onnxruntime", "cuda"), ("torch", "cuda"), ("auto", "cpu")):
        monkeypatch.setenv("PSANET_ENGINE", engine)
        monkeypatch.setenv("PSANET_DEVICE", device)
        assert main([], became) == 0
        assert "PSANET_MODELS" not in became.environ
    assert len(machine.built) == 1


@pytest.mark.usefixtures("handled")
@pytest.mark.parametrize(
    ("arguments", "engine", "code"), [([], "auto", 0), ([], "tensorrt", 2), (["--prepare"], "auto", 2)]
)
def test_a_failed_build_counts_as_the_engine_setting_says_and_always_when_that_is_all_that_is_wanted(
    arguments: list[str], engine: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, became = Machine(0, fails=[0]), Became()
    monkeypatch.setattr(Commands, "run", lambda self, *command, **options: machine.run(*command, **options))
    monkeypatch.setenv("ENGINE_STORE", str(tmp_path))
    monkeypatch.setenv("PSANET_DEVICE", "cuda")
    monkeypatch.setenv("PSANET_ENGINE", engine)
    assert main(arguments, became) == code
    assert (became.command is None) == (code != 0)
    machine.fails = ()
    assert main(["--prepare"], became) == 0
    assert len(machine.built) == 2
    assert (became.command is None) == (code != 0), "engines alone were wanted"


@pytest.mark.usefixtures("handled")
def test_mistakes_are_told_before_anything_is_built(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    became = Became()
    monkeypatch.setattr(Commands, "run", lambda *command, **options: pytest.fail("nothing is to be run"))
    monkeypatch.setenv("PSANET_DEVICE", "cuda")
    monkeypatch.setenv("PSANET_MODELS", "/nowhere/model")
    assert main([], became) == 2
    assert "no model '/nowhere/model'" in capsys.readouterr().err
    monkeypatch.setenv("PSANET_MODLES", "street")
    assert main([], became) == 2
    assert "did you mean PSANET_MODELS?" in capsys.readouterr().err
    assert became.command is None


def test_any_other_command_is_run_as_it_is() -> None:
    became = Became()
    assert main(["python", "-m", "export.trt", "--help"], became) == 0
    assert became.command == ["python", "-m", "export.trt", "--help"]


def test_an_image_without_tensorrt_is_not_finished(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = {"torch", "onnx", "onnxruntime"}
    monkeypatch.setattr(entrypoint, "find_spec", lambda name: name if name in there else None)
    assert main(["--check-image"], Became()) == 1
    assert "no module tensorrt" in capsys.readouterr().err
    there.add("tensorrt")
    assert main(["--check-image"], Became()) == 0


STOPPABLE = """
import time
print("started", flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    raise SystemExit(130)
"""
STOPPING = f"""
import sys
from entrypoint import Commands
commands = Commands(dict())
commands.listen()
code, _ = commands.run([sys.executable, "-c", {STOPPABLE!r}])
print(code, commands.run(["never"])[0], commands.stopped)
"""


def test_sigterm_stops_a_build_as_ctrl_c_would_and_nothing_follows() -> None:
    environ = {**os.environ, "PYTHONPATH": "docker:."}
    root = Path(entrypoint.__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPING], cwd=root, env=environ, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    written, _ = process.communicate(timeout=20)
    assert written == "130 143 True\n"
