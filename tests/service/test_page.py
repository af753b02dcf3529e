"""The page in a real Chromium: a picture goes in, the classes come out, errors are told, a phone has room."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.service.fakes import (
    PALETTE,
    FakeEngine,
    decoded,
    encoded,
    three_colors,
    tiny_predictor,
)


def choose(page: Any, path: Path) -> None:
    page.set_input_files("#file", path)
    page.wait_for_selector("#view:not([hidden])")
    page.wait_for_selector("#busy", state="hidden")


def color_at(page: Any, x: int, y: int) -> list[int]:
    """A pixel of the layer of classes: red, green, blue, alpha."""
    script = "([x, y]) => [...document.getElementById('map').getContext('2d').getImageData(x, y, 1, 1).data]"
    color: list[int] = page.evaluate(script, [x, y])
    return color


def test_a_picture_is_shown_under_its_classes_with_their_shares(page: Any, picture: Path) -> None:
    choose(page, picture)
    labels = tiny_predictor().predict(three_colors(120, 180)).labels
    for x in (30, 90, 150):
        assert color_at(page, x, 60) == [*PALETTE[labels[60, x]], 255]
    names = page.locator("#legend .name").all_inner_texts()
    shares = page.locator("#legend .share").all_inner_texts()
    counts = {name: (labels == index).mean() for index, name in enumerate(tiny_predictor().info.class_names)}
    assert sorted(names) == ["blue thing", "green thing", "red thing"]
    assert names == sorted(names, key=lambda name: -counts[name])
    assert shares == [f"{counts[name] * 100:.0f}%" for name in names]
    natural = page.evaluate(
        "[document.getElementById('photo').naturalWidth, document.getElementById('map').width]"
    )
    assert natural == [180, 180]


def test_every_pixel_on_the_page_is_that_of_the_labels(page: Any, tmp_path: Path) -> None:
    image = np.random.default_rng(3).integers(0, 256, (47, 61, 3)).astype(np.uint8)
    path = tmp_path / "noise.png"
    path.write_bytes(encoded(image))
    choose(page, path)
    script = "() => [...document.getElementById('map').getContext('2d').getImageData(0, 0, 61, 47).data]"
    pixels = np.asarray(page.evaluate(script), np.uint8).reshape(47, 61, 4)
    expected = np.asarray(PALETTE, np.uint8)[tiny_predictor().predict(image).labels]
    np.testing.assert_array_equal(pixels[..., :3], expected)


def test_one_picture_costs_one_request(page: Any, address: str, picture: Path) -> None:
    sent: list[str] = []
    page.on("request", lambda asked: sent.append(asked.url) if "/segment" in asked.url else None)
    choose(page, picture)
    page.locator("#opacity").fill("20")
    page.locator("#legend button").first.click()
    assert sent == [f"{address}/segment"]


def test_the_slider_changes_the_opacity_at_once(page: Any, picture: Path) -> None:
    choose(page, picture)
    for value in ("0", "35", "100"):
        page.locator("#opacity").fill(value)
        assert float(page.evaluate("document.getElementById('map').style.opacity")) == int(value) / 100
        assert page.locator("#opacity-value").inner_text() == f"{value}%"
    page.locator("#opacity").focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#opacity-value").inner_text() == "99%"


def test_a_class_can_be_hidden_and_shown_from_the_keyboard(page: Any, picture: Path) -> None:
    choose(page, picture)
    button = page.locator("#legend button", has_text="red thing")
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "false"
    assert color_at(page, 30, 60)[3] == 0
    assert color_at(page, 90, 60)[3] == 255
    page.locator("#all").click()
    assert color_at(page, 30, 60)[3] == 255


def test_the_class_under_the_pointer_is_named(page: Any, picture: Path) -> None:
    choose(page, picture)
    box = page.locator("#map").bounding_box()
    for fraction, name in ((0.15, "red thing"), (0.5, "green thing"), (0.85, "blue thing")):
        page.mouse.move(box["x"] + box["width"] * fraction, box["y"] + box["height"] * 0.5)
        assert page.locator("#readout").inner_text() == name


def test_a_broken_file_is_told_in_the_words_of_the_service(page: Any, picture: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(picture.read_bytes()[:-150])
    page.set_input_files("#file", broken)
    page.wait_for_selector("#alert:not([hidden])")
    assert page.locator("#alert-title").inner_text() == "The image cannot be decoded"
    assert len(page.locator("#alert-text").inner_text()) > 20
    assert page.get_by_role("alert").is_visible()
    choose(page, picture)
    assert not page.locator("#alert").is_visible()


def test_a_picture_can_be_dropped_and_pasted(page: Any) -> None:
    script = """async (how) => {
      const canvas = new OffscreenCanvas(40, 30);
      canvas.getContext("2d").fillRect(0, 0, 40, 30);
      const file = new File([await canvas.convertToBlob()], "drawn.png", { type: "image/png" });
      const data = new DataTransfer();
      data.items.add(file);
      const event = how === "drop" ? new DragEvent("drop", { dataTransfer: data, bubbles: true })
                                   : new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
      document.body.dispatchEvent(event);
    }"""
    for how in ("drop", "paste"):
        page.evaluate("document.getElementById('caption').textContent = ''")
        page.evaluate(script, how)
        page.locator("#caption", has_text="40 × 30").wait_for()
    assert page.locator("#legend .name").all_inner_texts() == ["dark"]


def test_scales_flip_and_model_are_sent_and_stand_in_the_curl_line(page: Any, picture: Path) -> None:
    choose(page, picture)
    page.locator("#scales label", has_text="0.75").click()
    page.locator("#flip").check()
    with page.expect_request(re.compile("/segment")) as sent:
        page.locator("#again").click()
    assert sent.value.url.endswith("/segment?scales=0.75,1&flip=true")
    page.wait_for_selector("#busy", state="hidden")
    line = page.locator("#curl").inner_text()
    assert "image=@three colours.png" in line
    assert "/segment?scales=0.75,1&flip=true" in line


def test_work_can_be_cancelled(page: Any, picture: Path, engine: FakeEngine) -> None:
    engine.gate.clear()
    page.set_input_files("#file", picture)
    assert engine.entered.wait(10)
    page.locator("#cancel").click()
    page.wait_for_selector("#busy", state="hidden")
    assert page.locator("#status").inner_text() == "Cancelled."
    assert page.locator("#empty").is_visible()
    engine.gate.set()
    choose(page, picture)


def test_labels_and_overlay_can_be_saved(page: Any, picture: Path) -> None:
    choose(page, picture)
    with page.expect_download() as labels:
        page.locator("#save-labels").click()
    assert labels.value.suggested_filename == "three colours-labels.png"
    expected = tiny_predictor().predict(three_colors(120, 180)).labels
    np.testing.assert_array_equal(decoded(Path(labels.value.path()).read_bytes()), expected)
    page.locator("#opacity").fill("100")
    with page.expect_download() as overlay:
        page.locator("#save-overlay").click()
    pixels = decoded(Path(overlay.value.path()).read_bytes())[..., :3]
    np.testing.assert_array_equal(pixels, np.asarray(PALETTE, np.uint8)[expected])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(browser: Any, address: str, picture: Path, scheme: str) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme, has_touch=True)
    page.set_default_timeout(15_000)
    page.goto(address)
    page.wait_for_selector("#model:enabled")

    def fits() -> bool:
        return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))

    assert fits()
    choose(page, picture)
    assert fits()
    broken = picture.with_name("text.jpg")
    broken.write_text("no image at all " * 20)
    page.set_input_files("#file", broken)
    page.wait_for_selector("#alert:not([hidden])")
    assert fits()
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(int(value) for value in re.findall(r"\d+", ground)) < 200) == (scheme == "dark")
    page.close()


def test_every_control_has_a_name_and_the_page_a_heading(page: Any, picture: Path) -> None:
    choose(page, picture)
    unnamed = page.evaluate("""() => [...document.querySelectorAll("button, input, select, a, progress")]
      .filter((e) => !e.closest("[hidden]"))
      .filter((e) => !(e.innerText || e.ariaLabel || [...(e.labels ?? [])].some((l) => l.innerText.trim())))
      .map((e) => e.outerHTML)""")
    assert unnamed == []
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.locator("h2:visible").count() == 3


def test_the_documentation_renders_offline(browser: Any, address: str) -> None:
    page = browser.new_page()
    elsewhere: list[str] = []
    page.on(
        "request",
        lambda asked: None if asked.url.startswith(("data:", address)) else elsewhere.append(asked.url),
    )
    page.goto(f"{address}/docs")
    page.wait_for_selector(".opblock-post >> text=/segment", timeout=15_000)
    page.close()
    assert elsewhere == []
