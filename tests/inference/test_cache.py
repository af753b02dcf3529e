"""What is kept between runs: by everything that it depends on, never damaged, never in the way."""

from pathlib import Path

import pytest

from inference.cache import Cache, default_folder


def test_the_same_facts_give_what_was_stored_and_any_other_nothing(tmp_path: Path) -> None:
    cache, facts = Cache(tmp_path / "c"), {"model": "a", "version": "1.0", "targets": ["sm80", "sm86"]}
    assert cache.load("plan", facts) is None
    cache.store("plan", facts, b"content")
    assert cache.load("plan", dict(reversed(facts.items()))) == b"content"
    for other in ({**facts, "version": "1.0.1"}, {**facts, "targets": ["sm86"]}, {**facts, "more": None}):
        assert cache.load("plan", other) is None
    assert cache.load("timing", facts) is None


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-1], lambda content: b"", lambda content: content + b"x"]
)
def test_a_damaged_file_is_nothing(tmp_path: Path, damage: object, caplog: pytest.LogCaptureFixture) -> None:
    cache = Cache(tmp_path)
    cache.store("plan", {}, b"content")
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    assert cache.load("plan", {}) is None
    assert "damaged" in caplog.text


def test_only_the_latest_of_a_kind_stay(tmp_path: Path) -> None:
    cache = Cache(tmp_path, keep=2)
    cache.store("kernels", {}, b"other kind")
    for number in range(4):
        cache.store("plan", {"number": number}, b"x")
        newest = max(tmp_path.glob("plan-*"), key=lambda path: path.stat().st_mtime_ns)
        newest.touch()
    assert len(list(tmp_path.glob("plan-*"))) == 2
    assert cache.load("kernels", {}) == b"other kind"


def test_a_folder_that_cannot_be_written_is_a_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = Cache(tmp_path / "file" / "folder")
    cache.store("plan", {}, b"content")
    assert "could not be kept" in caplog.text
    assert cache.load("plan", {}) is None


def test_the_folder_is_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "psanet-serving"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "psanet-serving"


def test_a_user_without_a_home_keeps_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    cache = Cache(default_folder())
    cache.store("plan", {}, b"content")
    assert "could not be kept" in caplog.text
    assert cache.load("plan", {}) is None
