"""A bundle is written at once or not at all, and nothing of the user's is lost."""

import errno
from pathlib import Path

import pytest

from export.errors import OutputError
from export.output import check_out, staged_bundle


def write(folder: Path, text: str) -> None:
    for name in ("model.onnx", "model.json"):
        (folder / name).write_text(text)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_new_folder_appears_whole_with_the_folders_that_lead_to_it(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    with staged_bundle(out) as staging:
        write(staging, "new")
        assert not out.exists()
    assert contents(out) == {"model.onnx": "new", "model.json": "new"}
    assert [path.name for path in out.parent.iterdir()] == ["b"]


def test_a_new_folder_is_readable_by_those_whom_the_umask_allows(tmp_path: Path) -> None:
    with staged_bundle(tmp_path / "out") as staging:
        write(staging, "new")
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_nothing_is_left_when_it_fails(tmp_path: Path) -> None:
    def fail() -> None:
        with staged_bundle(tmp_path / "out") as staging:
            write(staging, "half")
            raise ValueError("no")

    pytest.raises(ValueError, fail)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", ["sub", "sub/sub"])
def test_a_folder_below_a_file_is_refused_before_the_work(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file is no folder: name another with --out"):
        check_out(tmp_path / "file" / below, tmp_path / "psanet.pth")


def test_what_cannot_be_written_is_said_with_the_mend(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"out cannot be written \(No space left on device\): make room"):  # noqa: SIM117
        with staged_bundle(tmp_path / "out"):
            raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_an_old_bundle_stays_when_the_new_one_fails(tmp_path: Path) -> None:
    def fail() -> None:
        with staged_bundle(tmp_path) as staging:
            write(staging, "new")
            raise KeyboardInterrupt

    write(tmp_path, "old")
    pytest.raises(KeyboardInterrupt, fail)
    assert contents(tmp_path) == {"model.onnx": "old", "model.json": "old"}


def test_an_old_bundle_is_replaced_its_engines_go_and_other_files_stay(tmp_path: Path) -> None:
    write(tmp_path, "old")
    (tmp_path / "sm80.plan").write_text("built from the old model")
    (tmp_path / "README.md").write_text("card")
    with staged_bundle(tmp_path) as staging:
        write(staging, "new")
    assert contents(tmp_path) == {"model.onnx": "new", "model.json": "new", "README.md": "card"}


def test_engines_of_an_old_bundle_are_there_as_long_as_its_model_json_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Path, target: Path) -> Path:
        if target.name == "model.json":
            raise OSError(errno.ENOSPC, "no space left")
        return replace(self, target)

    write(tmp_path, "old")
    (tmp_path / "sm80.plan").write_text("built from the old model")
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OutputError, match=r"no space left.*make room"), staged_bundle(tmp_path) as staging:
        write(staging, "new")
    assert (tmp_path / "sm80.plan").is_file()
    assert sorted(contents(tmp_path)) == ["model.json", "model.onnx", "sm80.plan"]


def test_a_folder_that_is_a_mount_of_its_own_is_written_within(tmp_path: Path) -> None:
    out = tmp_path / "mounted"
    out.mkdir()
    tmp_path.chmod(0o500)
    try:
        with staged_bundle(out) as staging:
            assert staging.parent == out
            write(staging, "new")
    finally:
        tmp_path.chmod(0o700)
    assert contents(out) == {"model.onnx": "new", "model.json": "new"}


def test_an_empty_folder_a_bundle_and_the_checkpoints_own_folder_will_do(tmp_path: Path) -> None:
    checkpoint = tmp_path / "own" / "net.safetensors"
    for name in ("empty", "bundle", "own"):
        (tmp_path / name).mkdir()
    write(tmp_path / "bundle", "old")
    checkpoint.write_text("weights")
    for name in ("empty", "bundle", "own", "missing"):
        check_out(tmp_path / name, checkpoint)


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(OutputError, match="name another folder with --out"):
        check_out(tmp_path, tmp_path / "elsewhere" / "net.pth")


def test_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "net"
    file.write_text("weights")
    with pytest.raises(OutputError, match="no folder"):
        check_out(file, file)


def test_errors_of_other_files_are_not_taken_for_the_outputs(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="elsewhere"), staged_bundle(tmp_path / "bundle"):
        Path("elsewhere/absent.onnx").read_bytes()
    assert not any(tmp_path.iterdir())
