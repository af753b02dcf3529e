"""What is shown while an engine is built, on a terminal and in a log."""

import io
import logging

import pytest

from export.progress import Bar, Lines, show_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_counts_the_outermost_phase_and_names_the_innermost() -> None:
    shown = Terminal()
    bar = show_progress(shown)
    assert isinstance(bar, Bar)
    bar.start("Building engine", None, 2)
    bar.start("Timing", "Building engine", 3)
    assert bar.step("Timing", 0)
    bar.finish("Timing")
    assert bar.step("Building engine", 0)
    bar.finish("Building engine")
    bar.stop()
    assert not bar.step("Building engine", 1)
    bar.close()
    assert "Building engine" in shown.getvalue()
    assert "Timing" in shown.getvalue()


def test_a_log_gets_a_line_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now = 0.0
    lines = Lines(every_s=10, clock=lambda: now)
    lines.start("Building engine", None, 4)
    lines.start("Timing", "Building engine", 100)
    for done in range(100):
        now += 0.35
        assert lines.step("Timing", done)
    lines.finish("Timing")
    now = 41.0
    assert lines.step("Building engine", 0)
    lines.stop()
    assert not lines.step("Building engine", 1)
    lines.close()
    assert [record.getMessage() for record in caplog.records] == [
        "building: Timing, step 0 of 4, 10 s",
        "building: Timing, step 0 of 4, 20 s",
        "building: Timing, step 0 of 4, 30 s",
        "building: Building engine, step 1 of 4, 41 s",
        "the build has ended after 41 s",
    ]


def test_a_short_build_adds_nothing_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    lines = show_progress(io.StringIO())
    assert isinstance(lines, Lines)
    lines.start("Building engine", None, 1)
    assert lines.step("Building engine", 0)
    lines.finish("Building engine")
    lines.close()
    assert not caplog.records
