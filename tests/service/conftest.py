"""Chromium and the page in it, for the tests of the page."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service.browsing import CHROMIUM, chromium, opened, required
from tests.service.fakes import FakeEngine, encoded, live, three_colors, tiny_app


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None and not required():
        pytest.skip("needs Chromium: apt-get install chromium")
    with chromium() as browser:
        yield browser


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def address(engine: FakeEngine) -> Iterator[str]:
    with live(tiny_app(engine)) as url:
        yield url


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    with opened(browser, address) as page:
        yield page


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "three colours.png"
    path.write_bytes(encoded(three_colors(120, 180)))
    return path
