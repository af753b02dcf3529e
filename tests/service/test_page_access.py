"""The page for everybody: keys alone, fingers, small screens, dark rooms, screen readers; and its zoom."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.service.browsing import PHONE, choose, hover, opened, read_out, view, wait_for_labels
from tests.service.fakes import app_of, live, telling

FOCUS_IS_SEEN = """() => {
  const focused = document.activeElement;
  const drawn = (...of) => getComputedStyle(...of).outlineStyle !== "none";
  return drawn(focused) || drawn(focused, "::after") || drawn(focused.nextElementSibling);
}"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with live(app_of(telling())) as url:
        yield url


def press(page: Any, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def tab_to(page: Any, selector: str) -> None:
    """Press Tab until an element has the focus, which must be seen there."""
    for _ in range(60):
        press(page, "Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            assert page.evaluate(FOCUS_IS_SEEN)
            return
    raise AssertionError(f"{selector} cannot be reached with Tab")


def test_all_can_be_done_with_the_keyboard(page: Any) -> None:
    press(page, "Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the picture"
    press(page, "Enter")
    tab_to(page, ".sample")
    press(page, "Enter")
    wait_for_labels(page)
    tab_to(page, "[name=view]")
    press(page, "ArrowRight", "ArrowRight")
    assert page.locator("#attention-card").is_visible()
    page.locator("#points .point:not(.stale)").wait_for()
    tab_to(page, "#split")
    press(page, "Space")
    tab_to(page, ".frame")
    press(page, "ArrowLeft")
    assert "× even · " in page.locator("#status").inner_text()
    tab_to(page, ".mark")
    press(page, "ArrowLeft")
    tab_to(page, "[role=slider].divider")
    press(page, "End")
    assert page.locator(".divider").first.get_attribute("aria-valuenow") == "100"
    tab_to(page, "[name=direction]")
    press(page, "ArrowLeft")
    assert page.locator(".pane:visible").count() == 2
    tab_to(page, "#save")
    with page.expect_download():
        press(page, "Enter")
    tab_to(page, "#scales input")
    press(page, "Space")
    tab_to(page, "#again")
    press(page, "Enter")
    page.locator("#caption", has_text="scales 0.5,1").wait_for()


def test_the_focus_is_not_lost_when_what_had_it_goes(page: Any, picture: Path) -> None:
    page.locator(".sample").first.focus()
    press(page, "Enter")
    wait_for_labels(page)
    assert page.evaluate("document.activeElement.id") == "stage"
    page.get_by_role("button", name="Remove street.jpg").focus()
    press(page, "Enter")
    assert page.evaluate("document.activeElement.id") == "choose"


def test_the_keyboard_reads_the_picture(page: Any, picture: Path) -> None:
    choose(page, picture)
    page.locator(".frame").first.focus()
    told = set()
    for _ in range(10):
        press(page, "Shift+ArrowLeft")
        told.add(page.locator("#status").inner_text())
    assert told == {"green thing", "red thing"}
    assert read_out(page) == "red thing"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_to_complain_of(browser: Any, address: str, picture: Path, scheme: str) -> None:
    with opened(browser, address, color_scheme=scheme, reduced_motion="reduce") as page:
        rules = {"runOnly": ["color-contrast"]} if scheme == "dark" else {}  # all else is the same

        def check(where: str) -> None:
            found = Axe().run(page, options={"resultTypes": ["violations"], **rules})
            assert found.violations_count == 0, f"{where}: {found.generate_report()}"

        check("before the first picture")
        choose(page, picture)
        page.locator("#split").click()
        check("classes")
        page.locator("#legend button").first.click()
        view(page, "Confidence")
        page.locator("#confidence-text", has_text="On average").wait_for()
        check("confidence")
        view(page, "Attention")
        page.locator("#directions label", has_text="Both").click()
        page.locator("#add-point").click()
        page.locator("#points .stale").first.wait_for(state="detached")
        check("attention")
        broken = picture.with_name("text.jpg")
        broken.write_text("no image at all")
        page.set_input_files("#file", broken)
        page.locator("#alert:visible").wait_for()
        check("an error")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(browser: Any, address: str, picture: Path, scheme: str) -> None:
    with opened(browser, address, color_scheme=scheme, **PHONE) as page:

        def fits() -> bool:
            return bool(page.evaluate("document.documentElement.scrollWidth <= 390 && innerWidth === 390"))

        assert fits()
        choose(page, *[picture] * 6)
        assert fits()
        view(page, "Confidence")
        page.locator("#confidence-text", has_text="On average").wait_for()
        assert fits()
        view(page, "Attention")
        page.locator("#directions label", has_text="Both").click()
        page.locator("#points .point:not(.stale)").wait_for()
        assert fits()
        broken = picture.with_name("text.jpg")
        broken.write_text("no image at all " * 20)
        page.set_input_files("#file", broken)
        page.locator("#alert:visible").wait_for()
        assert fits()


def ground_is(page: Any, scheme: str) -> bool:
    """Whether the page is drawn in that scheme, once it has heard of it."""
    page.locator(f"html[data-theme={scheme}]").wait_for()
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(value) for value in re.findall(r"\d+", ground)) / 3
    return brightness < 60 if scheme == "dark" else brightness > 200


def test_light_or_dark_follows_the_system_until_it_is_chosen(browser: Any, address: str) -> None:
    with opened(browser, address, color_scheme="dark") as page:
        switch = page.get_by_role("button", name="Dark colours")
        assert ground_is(page, "dark")
        assert switch.get_attribute("aria-pressed") == "true"
        page.emulate_media(color_scheme="light")
        assert ground_is(page, "light")
        switch.click()
        assert ground_is(page, "dark")
        page.reload()
        assert ground_is(page, "dark")
        switch.click()
        assert ground_is(page, "light")
        page.emulate_media(color_scheme="dark")
        assert ground_is(page, "dark"), "the choice was the system's own, so that it is followed again"


def test_a_finger_reads_the_class_and_it_stays(browser: Any, address: str, picture: Path) -> None:
    with opened(browser, address, **PHONE) as page:
        choose(page, picture)
        box = page.locator(".frame").first.bounding_box()
        page.touchscreen.tap(box["x"] + box["width"] * 0.85, box["y"] + box["height"] / 2)
        assert read_out(page) == "blue thing"


def test_two_fingers_enlarge_and_one_moves(browser: Any, address: str, picture: Path) -> None:
    with opened(browser, address, **PHONE) as page:
        choose(page, picture)
        box = page.locator(".frame").first.bounding_box()
        session = page.context.new_cdp_session(page)

        def touch(kind: str, *places: tuple[float, float]) -> None:
            points = [
                {"x": box["x"] + u * box["width"], "y": box["y"] + v * box["height"], "id": number}
                for number, (u, v) in enumerate(places)
            ]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        touch("touchStart", (0.4, 0.5))
        touch("touchStart", (0.4, 0.5), (0.6, 0.5))
        for spread in (0.15, 0.2, 0.3):
            touch("touchMove", (0.5 - spread, 0.5), (0.5 + spread, 0.5))
        touch("touchEnd")
        assert page.locator("#zoom-value").inner_text() == "300%"
        touch("touchStart", (0.5, 0.5))
        touch("touchMove", (0.9, 0.5))
        touch("touchMove", (1.2, 0.5))
        touch("touchEnd")
        page.touchscreen.tap(box["x"] + box["width"] * 0.5, box["y"] + box["height"] / 2)
        assert read_out(page) == "red thing", "what was in the middle is moved to the right"


def test_wheel_keys_and_buttons_enlarge_what_is_looked_at(page: Any, picture: Path) -> None:
    choose(page, picture)
    value = page.locator("#zoom-value")
    hover(page, 0.9, 0.5)
    page.mouse.wheel(0, -600)
    page.locator("#zoom-value", has_text="448%").wait_for()
    assert read_out(page) == "blue thing"
    hover(page, 0.1, 0.5)
    assert read_out(page) == "blue thing", "a third of the width is wider than the frame now"
    box = page.locator(".frame").first.bounding_box()
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.95, box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    hover(page, 0.05, 0.5)
    assert read_out(page) == "green thing"
    page.locator(".frame").first.focus()
    press(page, "0")
    assert value.inner_text() == "100%"
    press(page, "+")
    assert value.inner_text() == "150%"
    page.locator("#zoom-out").click()
    assert value.inner_text() == "100%"
    assert page.locator("#zoom-out").is_disabled()


def test_the_wheel_scrolls_the_page_where_there_is_nothing_to_enlarge(page: Any, picture: Path) -> None:
    choose(page, picture)
    hover(page, 0.5, 0.5)
    page.mouse.wheel(0, 200)
    page.wait_for_timeout(100)
    assert page.evaluate("scrollY") > 0
    page.mouse.wheel(0, -400)
    page.wait_for_timeout(100)
    assert page.evaluate("scrollY") == 0
    assert page.locator("#zoom-value").inner_text() == "100%"
