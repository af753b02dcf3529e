"""The explorer of attention on the page: points, what they collect and distribute, in a real Chromium."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.attention import Point, PointAttention, attention_at
from inference.heatmap import draw_attention
from models.config import Direction
from tests.service.browsing import choose, color_at, hover, opened, read_out, view
from tests.service.fakes import app_of, encoded, live, telling, three_colors, tiny_predictor

HW = (80, 120)
IMAGE = three_colors(*HW)
BLACK = np.zeros((*HW, 3), np.uint8)
WHOLE = 0.677
"""Scale at which IMAGE fits a window of 65 pixels: 65 / 96, of the base size."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with live(app_of(telling())) as url:
        yield url


def explore(page: Any, folder: Path, image: np.ndarray = IMAGE) -> None:
    """Open the explorer on an image, and wait until its first point has been told."""
    path = folder / "shown.png"
    path.write_bytes(encoded(image))
    choose(page, path)
    view(page, "Attention")
    told(page)


def told(page: Any) -> None:
    """Until what is shown is about the points as they are."""
    page.locator("#points .point").first.wait_for()
    page.locator("#points .stale").first.wait_for(state="detached")


def seen_from(x: int, y: int, image: np.ndarray = IMAGE, scale: float = WHOLE) -> PointAttention:
    (seen,) = attention_at(telling(), image, [Point(x, y)], scale=scale).points
    return seen


def value_in(text: str) -> float:
    found = re.match(r"([\d.]+)× even · ", text)
    assert found, text
    return float(found.group(1))


def close_to(weights: np.ndarray) -> float:
    """How far the page may be from the network's weights: it has bytes, one decimal, a plainer resampling."""
    return 0.06 + 0.04 * float(weights.max())


def click(page: Any, x: int, y: int) -> None:
    """Click on a pixel of the picture."""
    box = page.locator(".frame").first.bounding_box()
    page.mouse.click(
        box["x"] + (x + 0.5) / HW[1] * box["width"], box["y"] + (y + 0.5) / HW[0] * box["height"]
    )


def test_a_point_is_told_at_once_and_moves_where_one_clicks(page: Any, tmp_path: Path) -> None:
    explore(page, tmp_path)
    assert page.locator("#points .name").inner_text() == "green thing at 60, 40"
    click(page, 20, 10)
    page.locator("#points .name", has_text="red thing at 20, 10").wait_for()
    told(page)
    assert "x=20&y=10" in page.locator("#curl").inner_text()
    mark, frame = (page.locator(name).first.bounding_box() for name in (".mark", ".frame"))
    assert mark["x"] + mark["width"] / 2 == pytest.approx(frame["x"] + 20.5 / 120 * frame["width"], abs=1.5)


@pytest.mark.parametrize("direction", ["collect", "distribute"])
def test_the_value_under_the_pointer_is_that_of_the_network(
    page: Any, tmp_path: Path, direction: Direction
) -> None:
    explore(page, tmp_path)
    page.locator("#directions label", has_text=f"{direction.capitalize()}s").click()
    click(page, 20, 10)
    page.locator("#points .name", has_text="at 20, 10").wait_for()
    told(page)
    weights = seen_from(20, 10).over_image(direction)
    for x, y in ((10, 10), (50, 30), (70, 60), (110, 75)):
        hover(page, (x + 0.5) / HW[1], (y + 0.5) / HW[0])
        assert value_in(read_out(page)) == pytest.approx(weights[y, x], abs=close_to(weights))


def test_the_heat_has_the_colours_of_the_services_own_overlay(page: Any, tmp_path: Path) -> None:
    """Over a black picture the service's overlay is the heat alone."""
    explore(page, tmp_path, BLACK)
    expected = draw_attention(BLACK, seen_from(60, 40, BLACK), "collect", alpha=1.0).astype(float)
    for x, y in ((10, 10), (40, 30), (100, 70), (115, 75)):
        red, green, blue, alpha = color_at(page, x, y)
        drawn = np.array([red, green, blue]) * alpha / 255
        np.testing.assert_allclose(drawn, expected[y, x], atol=14)


def test_both_directions_are_shown_side_by_side(page: Any, tmp_path: Path) -> None:
    explore(page, tmp_path)
    page.locator("#directions label", has_text="Both").click()
    titles = page.locator(".pane:visible .pane-title").all_inner_texts()
    assert titles == ["Point 1 collects from", "Point 1 distributes to"]
    hover(page, 0.9, 0.9, frame=1)
    seen = seen_from(60, 40)
    for frame, direction in enumerate(("collect", "distribute")):
        weights = seen.over_image(direction)  # type: ignore[arg-type]
        expected = weights[int(0.9 * HW[0]), int(0.9 * HW[1])]
        assert value_in(read_out(page, frame)) == pytest.approx(expected, abs=close_to(weights))
    assert page.locator(".mark:visible").count() == 2


def test_the_window_of_the_network_is_drawn_and_nothing_told_outside(page: Any, tmp_path: Path) -> None:
    explore(page, tmp_path)
    assert not page.locator(".seen").first.is_visible()
    page.locator("#reaches label", has_text="one window").click()
    told(page)
    click(page, 10, 10)
    page.locator("#points .name", has_text="at 10, 10").wait_for()
    told(page)
    window = seen_from(10, 10, scale=1.0).window
    box, frame = (page.locator(name).first.bounding_box() for name in (".seen", ".frame"))
    assert box["width"] == pytest.approx(window.width / HW[1] * frame["width"], abs=2)
    hover(page, 0.99, 0.5)
    assert not page.locator(".readout").first.is_visible()
    assert "scale=" not in page.locator("#curl").inner_text()


def test_several_points_are_compared(page: Any, tmp_path: Path) -> None:
    explore(page, tmp_path)
    for count in range(2, 7):
        page.locator("#add-point").click()
        assert page.locator("#points .point").count() == count
    assert page.locator("#add-point").is_disabled()
    told(page)
    sentences = page.locator("#points .sentence").all_inner_texts()
    assert all(re.match(r"Collects from .+ \d+%.*\. Distributes to .+\d+%", text) for text in sentences)
    page.locator("#points .choose").nth(2).click()
    assert page.locator("#points .chosen .badge").inner_text() == "3"
    assert page.locator(".pane:visible .mark.chosen").inner_text() == "3"
    page.get_by_role("button", name="Remove point 1").click()
    assert page.locator("#points .point").count() == 5
    assert page.evaluate("document.activeElement.dataset.point") == "0"


def test_what_a_point_collects_from_is_summed_up_by_class(page: Any, tmp_path: Path) -> None:
    explore(page, tmp_path)
    seen = seen_from(60, 40)
    labels = tiny_predictor().predict(IMAGE).labels
    rows, columns = np.indices((5, 5)) + 0.5
    left, top, width, height = seen.cells
    y, x = np.floor(top + rows * height / 5).astype(int), np.floor(left + columns * width / 5).astype(int)
    inside = (x >= 0) & (y >= 0) & (x < HW[1]) & (y < HW[0])
    weights = seen.weights["collect"]
    shares = {
        name: weights[inside & (labels[y.clip(0, HW[0] - 1), x.clip(0, HW[1] - 1)] == index)].sum()
        / weights[inside].sum()
        for index, name in enumerate(tiny_predictor().info.class_names)
    }
    name = max(shares, key=lambda name: shares[name])
    sentence = page.locator("#points .sentence").inner_text()
    found = re.match(rf"Collects from {name} (\d+)%", sentence)
    assert found, sentence
    assert int(found.group(1)) == pytest.approx(100 * shares[name], abs=1.5)


def test_a_point_moves_with_the_arrow_keys_and_screen_readers_are_told(page: Any, tmp_path: Path) -> None:
    explore(page, tmp_path)
    page.locator(".mark").first.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowUp", "Shift+ArrowLeft"):
        page.keyboard.press(key)
    page.locator("#points .name", has_text="green thing at 54, 38").wait_for()
    told(page)
    page.locator("#status", has_text="Point 1. Collects from ").wait_for(state="attached")
    assert page.evaluate("document.activeElement.className") == "mark chosen"
    page.locator("#add-point").click()
    page.locator(".mark", has_text="2").first.focus()
    page.keyboard.press("Delete")
    assert page.locator("#points .point").count() == 1
    page.locator(".frame").first.focus()
    for key in ("ArrowLeft", "Enter"):
        page.keyboard.press(key)
    page.locator("#points .name", has_text="at 57, 40").wait_for()


def test_a_point_is_dragged_live_with_few_requests(page: Any, tmp_path: Path) -> None:
    explore(page, tmp_path)
    asked: list[str] = []
    page.on("request", lambda sent: asked.append(sent.url) if "/attention" in sent.url else None)
    mark, frame = (page.locator(name).first.bounding_box() for name in (".mark", ".frame"))
    page.mouse.move(mark["x"] + mark["width"] / 2, mark["y"] + mark["height"] / 2)
    page.mouse.down()
    page.mouse.move(frame["x"] + frame["width"] * 0.9, frame["y"] + frame["height"] * 0.9, steps=25)
    page.mouse.up()
    page.locator("#points .name", has_text="blue thing at 108, 72").wait_for()
    told(page)
    assert 1 <= len(asked) <= 12
    assert "x=108&y=72" in asked[-1]


def test_what_is_known_is_not_asked_again(page: Any, tmp_path: Path) -> None:
    explore(page, tmp_path)
    click(page, 20, 10)
    page.locator("#points .name", has_text="at 20, 10").wait_for()
    told(page)
    asked: list[str] = []
    page.on("request", lambda sent: asked.append(sent.url) if "/attention" in sent.url else None)
    click(page, 60, 40)
    page.locator("#points .name", has_text="at 60, 40").wait_for()
    told(page)
    view(page, "Classes")
    view(page, "Attention")
    told(page)
    page.wait_for_timeout(200)
    assert asked == []


def test_heat_and_numbers_can_be_taken_along(page: Any, tmp_path: Path) -> None:
    explore(page, tmp_path)
    page.locator("#strength").fill("50")
    with page.expect_download() as heat:
        page.locator("#save").click()
    assert heat.value.suggested_filename == "shown-collect-60-40.png"
    page.locator("#take label", has_text="JSON").click()
    with page.expect_download() as numbers:
        page.locator("#save").click()
    assert numbers.value.suggested_filename == "shown-attention.json"
    document = json.loads(Path(numbers.value.path()).read_bytes())
    assert (document["points"][0]["x"], document["points"][0]["y"]) == (60, 40)
    if shutil.which("curl"):
        page.locator("#take label", has_text="Heat").click()
        page.locator("#directions label", has_text="Both").click()
        line = page.locator("#curl").inner_text()
        subprocess.run(["bash", "-ec", line], cwd=tmp_path, check=True, capture_output=True)
        written = (tmp_path / "shown-collect-60-40.png").read_bytes()
        assert written == Path(heat.value.path()).read_bytes()
        assert (tmp_path / "shown-distribute-60-40.png").is_file()


def test_errors_are_told_and_the_explorer_goes_on(page: Any, tmp_path: Path) -> None:
    explore(page, tmp_path)
    problem = {
        "title": "Deadline passed",
        "status": 504,
        "detail": "Ask for a smaller image.",
        "code": "deadline",
    }
    page.route(
        "**/attention*",
        lambda route: route.fulfill(
            status=504, content_type="application/problem+json", body=json.dumps(problem)
        ),
    )
    click(page, 20, 10)
    page.locator("#alert:visible").wait_for()
    assert page.locator("#alert-text").inner_text() == problem["detail"]
    page.unroute("**/attention*")
    click(page, 90, 10)
    page.locator("#points .name", has_text="at 90, 10").wait_for()
    told(page)
    assert not page.locator("#alert").is_visible()


def test_a_model_that_does_not_tell_is_explained(browser: Any, tmp_path: Path) -> None:
    app = app_of(tiny_predictor("silent"), telling(name="talking"))
    with live(app) as address, opened(browser, address) as page:
        path = tmp_path / "shown.png"
        path.write_bytes(encoded(IMAGE))
        choose(page, path)
        view(page, "Attention")
        text = page.locator("#attention-cannot").inner_text()
        assert text.startswith("This model does not tell what it attends to")
        assert "Choose talking at the top of the page" in text
        assert page.locator("#points .point").count() == 0
        click(page, 20, 10)
        page.locator("#model").select_option("talking")
        page.locator("#points .point").wait_for()
        told(page)
