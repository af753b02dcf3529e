"""Files that are no checkpoint, or half of one, or would run code: each error names file and mend."""

import argparse
import itertools
import json
import pickle
import subprocess
import sys
import threading
import time
import warnings
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.errors import CheckpointError, NotACheckpointError
from models.files import FORMAT, file_sha256, read_file, tensors_of, write_safetensors

CONTENT = {"epoch": 3, "state_dict": {f"layer{i}.weight": torch.arange(20.0) + i for i in range(6)}}
WHOLE = "was (it|not) copied or downloaded whole"


def pth(path: Path, content: Any = CONTENT, *, legacy: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before PyTorch 1.6"])
def test_both_formats_of_pytorch_are_read(tmp_path: Path, legacy: bool) -> None:
    content = read_file(pth(tmp_path / "a.pth", legacy=legacy))
    assert content["epoch"] == 3
    assert torch.equal(content["state_dict"]["layer5.weight"], CONTENT["state_dict"]["layer5.weight"])  # type: ignore[index]


def test_safetensors_are_read_with_their_metadata(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensors = {"a": torch.arange(3.0), "b": torch.ones(2, 2, dtype=torch.float16)}
    write_safetensors(path, tensors, {"format": FORMAT, "config": json.dumps({"depth": 18}), "labels": "{}"})
    content = read_file(path)
    assert {key: content[key] for key in ("format", "config", "labels")} == {
        "format": FORMAT,
        "config": {"depth": 18},
        "labels": {},
    }
    assert all(torch.equal(content["state_dict"][key], tensors[key]) for key in tensors)
    write_safetensors(path, tensors, {"made_by": "another program"})
    assert list(read_file(path)) == ["state_dict"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {"a": torch.ones(1)}, {})
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_safetensors(path, {"a": torch.ones(2)}, {"key": 3})  # type: ignore[dict-item]
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_missing_file_a_folder_and_an_empty_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no checkpoint file .*nowhere\.pth"):
        read_file(tmp_path / "nowhere.pth")
    with pytest.raises(CheckpointError, match="is a folder; give the checkpoint file itself"):
        read_file(tmp_path)
    for name in ("empty.pth", "empty.safetensors"):
        (tmp_path / name).touch()
        with pytest.raises(NotACheckpointError, match=rf"{name} is empty; copy or download it again"):
            read_file(tmp_path / name)


def a_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_text("A text file.\n" * 20),
        lambda path: path.write_text("404: Not Found"),
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"),
        lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100)),
        lambda path: path.write_bytes(b"\x80\x02" + bytes(range(3, 90))),
        lambda path: path.write_bytes(bytes(1000)),
        a_zip,
    ],
    ids=["text", "error page", "git-lfs pointer", "png", "bytes", "zeros", "zip"],
)
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, write: Callable[[Path], None], suffix: str) -> None:
    path = tmp_path / f"psanet{suffix}"
    write(path)
    with pytest.raises(NotACheckpointError, match=WHOLE) as caught:
        read_file(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_half_written_file_is_refused_wherever_it_ends(tmp_path: Path, kind: str) -> None:
    if kind == "safetensors":
        path = tmp_path / "half.safetensors"
        write_safetensors(path, CONTENT["state_dict"], {})  # type: ignore[arg-type]
    else:
        path = pth(tmp_path / "half.pth", legacy=kind == "legacy")
    whole = path.read_bytes()
    for length in [*range(1, len(whole) - 1, 29), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(NotACheckpointError, match=rf"half\.{path.suffix[1:]}.*{WHOLE}"):
            read_file(path)
    path.write_bytes(whole)
    assert read_file(path)["state_dict"]


class RunsCode:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return subprocess.call, ([sys.executable, "-c", f"open({str(self.path)!r}, 'w')"],)


@pytest.mark.parametrize("raw", [False, True], ids=["torch.save", "pickle"])
def test_code_in_a_file_is_named_and_never_run(tmp_path: Path, raw: bool) -> None:
    path, written = tmp_path / "evil.pth", tmp_path / "written"
    if raw:
        path.write_bytes(pickle.dumps({"epoch": RunsCode(written)}, protocol=2))
    else:
        pth(path, {"state_dict": {"a": torch.ones(1)}, "epoch": RunsCode(written)})
    with pytest.raises(NotACheckpointError, match=r"evil\.pth holds Python objects \(\w+\.\w+\)") as caught:
        read_file(path)
    assert not written.exists()
    # PyTorch's own message advises to load it with weights_only=False.
    assert "weights_only" not in str(caught.value)
    assert "torch.save" in str(caught.value)


@pytest.mark.parametrize("protocol", [4, 5])
def test_a_plain_pickle_of_a_late_protocol_is_refused_without_a_warning(
    tmp_path: Path, protocol: int
) -> None:
    path, written = tmp_path / "plain.pth", tmp_path / "written"
    for content in ({"weight": [1.0]}, {"epoch": RunsCode(written)}, {}):
        path.write_bytes(pickle.dumps(content, protocol=protocol))
        with (
            warnings.catch_warnings(record=True) as seen,
            pytest.raises(NotACheckpointError, match=r"plain\.pth is a plain pickle.*torch\.save"),
        ):
            read_file(path)
        assert not seen
    assert not written.exists()


def test_objects_beside_the_weights_are_named(tmp_path: Path) -> None:
    path = pth(tmp_path / "a.pth", {"state_dict": {}, "args": argparse.Namespace(lr=0.1)})
    with pytest.raises(NotACheckpointError, match=r"\(argparse\.Namespace\)"):
        read_file(path)
    path = pth(tmp_path / "module.pth", torch.nn.Linear(2, 2))
    with pytest.raises(NotACheckpointError, match="torch.nn.modules.linear.Linear"):
        read_file(path)


def test_logs_are_skipped_in_several_threads_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pth(tmp_path / "a.pth", {"state_dict": {"a": torch.ones(1)}, "log": np.zeros(2)})
    load, all_refused, numbers = torch.load, threading.Barrier(4), itertools.count()

    def timed(*arguments: Any, **options: Any) -> Any:
        time.sleep(0.02 * max(next(numbers) - 3, 0))
        try:
            return load(*arguments, **options)
        except pickle.UnpicklingError:
            all_refused.wait(10)  # the ordinary load of every thread, before one begins to skip
            raise

    monkeypatch.setattr(torch, "load", timed)
    with ThreadPoolExecutor(4) as pool:
        started = [pool.submit(read_file, path) for _ in range(4)]
    assert all(each.result()["state_dict"]["a"] == 1 for each in started)


@pytest.mark.parametrize("content", [[torch.ones(1)], torch.ones(1), 3, None, "text"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(
        NotACheckpointError, match=f"holds a {type(content).__name__}, not a checkpoint's mapping"
    ):
        read_file(pth(tmp_path / "a.pth", content))


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"state_dict": {}},
        {"state_dict": None},
        {"state_dict": [1, 2]},
        {"state_dict": {"a": 3}},
        {"epoch": 3, "optimizer": {}},
    ],
)
def test_a_mapping_without_tensors_is_refused(content: dict[str, Any]) -> None:
    with pytest.raises(
        NotACheckpointError, match=r"x\.pth holds no `state_dict` of tensors.*; give a checkpoint"
    ):
        tensors_of(content, Path("x.pth"))


def test_a_bare_state_dict_will_do() -> None:
    state = {"a": torch.ones(1)}
    assert tensors_of(state, Path("x.pth")) == tensors_of({"state_dict": state}, Path("x.pth")) == state


@pytest.mark.parametrize("metadata", [{}, {"config": "{"}, {"config": "{}", "labels": "[["}])
def test_own_safetensors_with_broken_metadata_are_refused(tmp_path: Path, metadata: dict[str, str]) -> None:
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {"a": torch.ones(1)}, {"format": FORMAT, **metadata})
    with pytest.raises(
        NotACheckpointError, match=r"a\.safetensors: its metadata hold no readable config and labels"
    ):
        read_file(path)


def test_the_digest_is_sha256(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert file_sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
