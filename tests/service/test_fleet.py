"""What tells that models have changed. Exchanging them has its tests beside processes (`test_faults.py`)."""

from pathlib import Path

import pytest

from service.fleet import fingerprint


def test_a_folder_that_is_closed_is_another_one_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGHUP asks for it where nobody would hear the error; a worker that is started then tells it."""
    (tmp_path / "model.json").write_text("{}")
    before = fingerprint([str(tmp_path)])

    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    closed = fingerprint([str(tmp_path)])
    assert closed
    assert closed != before
