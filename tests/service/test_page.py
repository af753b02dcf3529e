"""The page in a real Chromium: pictures in, classes out, errors told, answers taken along."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.documents import PAGE
from service.keys import make_key
from tests.service.browsing import choose, color_at, hover, opened, read_out, view, wait_for_labels
from tests.service.fakes import (
    PALETTE,
    FakeEngine,
    app_of,
    decoded,
    encoded,
    live,
    three_colors,
    tiny_app,
    tiny_predictor,
)

BUSY = {
    "title": "The service is busy",
    "status": 503,
    "detail": "Its queue is full: come again.",
    "code": "full",
}
PROBLEM = "application/problem+json"


def names(page: Any) -> list[str]:
    found: list[str] = page.locator("#legend .name").all_inner_texts()
    return found


def test_a_picture_is_shown_under_its_classes_with_their_shares(page: Any, picture: Path) -> None:
    choose(page, picture)
    labels = tiny_predictor().predict(three_colors(120, 180)).labels
    for x in (30, 90, 150):
        assert color_at(page, x, 60) == [*PALETTE[labels[60, x]], 255]
    shares = page.locator("#legend .share").all_inner_texts()
    counts = {name: (labels == index).mean() for index, name in enumerate(tiny_predictor().info.class_names)}
    assert sorted(names(page)) == ["blue thing", "green thing", "red thing"]
    assert names(page) == sorted(names(page), key=lambda name: -counts[name])
    assert shares == [f"{counts[name] * 100:.0f}%" for name in names(page)]
    assert page.evaluate("document.querySelector('.photo').naturalWidth") == 180


def test_every_pixel_on_the_page_is_that_of_the_labels(page: Any, tmp_path: Path) -> None:
    image = np.random.default_rng(3).integers(0, 256, (47, 61, 3)).astype(np.uint8)
    path = tmp_path / "noise.png"
    path.write_bytes(encoded(image))
    choose(page, path)
    script = "() => [...document.querySelector('.layer').getContext('2d').getImageData(0, 0, 61, 47).data]"
    pixels = np.asarray(page.evaluate(script), np.uint8).reshape(47, 61, 4)
    expected = np.asarray(PALETTE, np.uint8)[tiny_predictor().predict(image).labels]
    np.testing.assert_array_equal(pixels[..., :3], expected)


def test_looking_at_classes_costs_one_request(page: Any, address: str, picture: Path) -> None:
    sent: list[str] = []
    page.on("request", lambda asked: sent.append(asked.url) if "/segment" in asked.url else None)
    choose(page, picture)
    page.locator("#opacity").fill("20")
    page.locator("#legend button").first.click()
    page.locator("#split").click()
    assert sent == [f"{address}/segment"]


def test_the_opacity_changes_at_once(page: Any, picture: Path) -> None:
    choose(page, picture)
    for value in ("0", "35", "100"):
        page.locator("#opacity").fill(value)
        opacity = page.evaluate("getComputedStyle(document.querySelector('.layer')).opacity")
        assert float(opacity) == int(value) / 100
        assert page.locator("#opacity-value").inner_text() == f"{value}%"


def test_classes_can_be_hidden_and_shown(page: Any, picture: Path) -> None:
    choose(page, picture)
    button = page.locator("#legend button", has_text="red thing")
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "false"
    assert color_at(page, 30, 60)[3] == 0
    assert color_at(page, 90, 60)[3] == 255
    page.locator("#none").click()
    assert color_at(page, 90, 60)[3] == 0
    page.locator("#all").click()
    assert color_at(page, 30, 60)[3] == 255


def test_the_class_under_the_pointer_is_named(page: Any, picture: Path) -> None:
    choose(page, picture)
    for u, name in ((0.15, "red thing"), (0.5, "green thing"), (0.85, "blue thing")):
        hover(page, u, 0.5)
        assert read_out(page) == name


def test_the_divider_shows_the_picture_before_and_after(page: Any, picture: Path) -> None:
    choose(page, picture)
    divider = page.get_by_role("slider", name="Before and after")
    assert divider.count() == 0
    page.locator("#split").click()
    clip = "getComputedStyle(document.querySelector('.after')).clipPath"
    assert page.evaluate(clip) == "inset(0px 0px 0px 50%)"
    divider.focus()
    page.keyboard.press("ArrowRight")
    assert divider.get_attribute("aria-valuenow") == "52"
    page.keyboard.press("Home")
    assert page.evaluate(clip) == "inset(0px 0px 0px 0%)"
    box, frame = divider.bounding_box(), page.locator(".frame").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(frame["x"] + frame["width"] * 0.75, box["y"] + 60)
    page.mouse.up()
    assert divider.get_attribute("aria-valuenow") == "75"
    page.locator("#split").click()
    assert page.evaluate(clip) == "none"


def test_each_picture_keeps_its_own_result(page: Any, picture: Path, tmp_path: Path) -> None:
    red = tmp_path / "red.png"
    red.write_bytes(encoded(three_colors(30, 90)[:, :30]))
    broken = tmp_path / "broken.png"
    broken.write_bytes(picture.read_bytes()[:-150])
    choose(page, picture, broken, red)
    thumbs = page.locator("#strip .thumb:not(.more)")
    assert thumbs.count() == 3
    page.locator(".thumb[aria-label='red.png, done']").click()
    page.locator("#caption", has_text="30 × 30").wait_for()
    assert names(page) == ["red thing"]
    page.locator(".thumb[aria-label='broken.png, failed']").click()
    page.locator("#alert:visible").wait_for()
    assert not page.locator("#legend").is_visible()
    page.locator(".thumb").first.click()
    page.locator("#caption", has_text="180 × 120").wait_for()
    assert not page.locator("#alert").is_visible()
    assert len(names(page)) == 3
    for name in ("three colours.png", "broken.png", "red.png"):
        page.get_by_role("button", name=f"Remove {name}").click(force=True)
    assert page.locator("#empty").is_visible()


def test_the_pictures_that_wait_say_so_and_can_be_cancelled(
    page: Any, picture: Path, engine: FakeEngine
) -> None:
    engine.gate.clear()
    page.set_input_files("#file", [picture] * 4)
    assert engine.entered.wait(10)
    page.locator(".thumb").nth(3).click()
    assert page.locator("#busy-text").inner_text() == "Waits for its turn"
    page.locator("#cancel").click()
    page.locator("#busy").wait_for(state="hidden")
    assert page.locator("#status").inner_text() == "Cancelled."
    page.locator(".thumb").nth(0).click()
    page.locator("#busy-text", has_text="Labelling").wait_for()
    page.locator("#cancel").click()
    page.locator("#busy").wait_for(state="hidden")
    engine.gate.set()
    page.locator(".thumb").nth(2).click()
    wait_for_labels(page)
    states = [thumb.get_attribute("data-state") for thumb in page.locator(".thumb:not(.more)").all()]
    assert states == ["cancelled", "done", "done", "cancelled"]


def test_a_broken_file_is_told_in_the_words_of_the_service(page: Any, picture: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(picture.read_bytes()[:-150])
    page.set_input_files("#file", broken)
    page.locator("#alert:visible").wait_for()
    assert page.locator("#alert-title").inner_text() == "The image cannot be decoded"
    assert len(page.locator("#alert-text").inner_text()) > 20
    assert page.get_by_role("alert").is_visible()
    page.locator("#retry").click()
    page.locator("#alert:visible").wait_for()
    choose(page, picture)
    assert not page.locator("#alert").is_visible()


def test_a_file_over_the_limit_is_told(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "noise.png"
    path.write_bytes(encoded(np.random.default_rng(0).integers(0, 256, (300, 300, 3)).astype(np.uint8)))
    with live(tiny_app(max_bytes=50_000)) as address, opened(browser, address) as page:
        page.set_input_files("#file", path)
        page.locator("#alert:visible").wait_for()
        assert page.locator("#alert-title").inner_text() in {"Too many bytes", "No answer"}


def test_a_busy_service_is_asked_again_when_it_says(page: Any, picture: Path) -> None:
    refusals = [1, 1]

    def refuse(route: Any) -> None:
        if not refusals:
            route.continue_()
            return
        headers = {"Retry-After": str(refusals.pop()), "Content-Type": PROBLEM}
        route.fulfill(status=503, headers=headers, body=json.dumps(BUSY))

    page.route("**/segment*", refuse)
    page.set_input_files("#file", picture)
    page.locator("#busy-text", has_text="The service is busy: trying again in 1 s").wait_for()
    assert page.locator("#status").inner_text() == "The service is busy. This page tries again by itself."
    wait_for_labels(page)
    assert refusals == []
    assert not page.locator("#alert").is_visible()


def test_waiting_for_a_busy_service_can_be_cancelled(page: Any, picture: Path) -> None:
    headers = {"Retry-After": "60", "Content-Type": PROBLEM}
    page.route("**/segment*", lambda route: route.fulfill(status=503, headers=headers, body=json.dumps(BUSY)))
    page.set_input_files("#file", picture)
    page.locator("#busy-text", has_text="trying again in").wait_for()
    page.locator("#cancel").click()
    page.locator("#busy").wait_for(state="hidden")
    assert page.locator("#status").inner_text() == "Cancelled."


def test_a_service_that_does_not_say_when_is_not_asked_again(page: Any, picture: Path) -> None:
    asked: list[str] = []

    def refuse(route: Any) -> None:
        asked.append(route.request.url)
        route.fulfill(status=503, content_type=PROBLEM, body=json.dumps(BUSY))

    page.route("**/segment*", refuse)
    page.set_input_files("#file", picture)
    page.locator("#alert:visible").wait_for()
    assert page.locator("#alert-text").inner_text() == BUSY["detail"]
    assert len(asked) == 1


def test_a_service_with_keys_is_given_one(browser: Any, picture: Path, tmp_path: Path) -> None:
    key, line = make_key("visitor")
    keys = tmp_path / "keys.txt"
    keys.write_text(line)
    with (
        live(tiny_app(api_keys_file=keys)) as address,
        opened(browser, address, ready="#alert:visible") as page,
    ):
        page.get_by_label("API key").fill("a wrong one")
        with page.expect_response(re.compile("/models")):
            page.keyboard.press("Enter")
        page.locator("#alert:visible").wait_for()
        page.get_by_label("API key").fill(key)
        page.keyboard.press("Enter")
        page.locator("#model:enabled").wait_for()
        choose(page, picture)
        assert '-H "Authorization: Bearer $PSANET_API_KEY"' in page.locator("#curl").inner_text()
        assert key not in page.content()


def test_a_client_over_its_limit_goes_on_when_it_may(browser: Any, picture: Path) -> None:
    with live(tiny_app(rate_per_minute=60, rate_burst=2)) as address, opened(browser, address) as page:
        page.set_input_files("#file", [picture, picture])
        page.locator(".thumb").nth(1).click()
        page.locator("#busy-text", has_text="trying again in 1 s").wait_for()
        wait_for_labels(page)
        assert not page.locator("#alert").is_visible()


def test_pictures_can_be_dropped_and_pasted(page: Any) -> None:
    script = """async (how) => {
      const data = new DataTransfer();
      for (const width of [40, 50]) {
        const canvas = new OffscreenCanvas(width, 30);
        canvas.getContext("2d").fillRect(0, 0, width, 30);
        data.items.add(new File([await canvas.convertToBlob()], "drawn.png", { type: "image/png" }));
      }
      const event = how === "drop" ? new DragEvent("drop", { dataTransfer: data, bubbles: true })
                                   : new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
      document.body.dispatchEvent(event);
    }"""
    for number, how in enumerate(("drop", "paste"), 1):
        page.evaluate(script, how)
        page.locator("#caption", has_text="40 × 30").wait_for()
        assert page.locator(".thumb:not(.more)").count() == 2 * number
    assert names(page) == ["dark"]


def test_a_sample_is_one_click_away(page: Any, address: str) -> None:
    files = sorted((PAGE / "samples").glob("*.jpg"))
    assert sum(file.stat().st_size for file in files) < 200_000
    credits = (PAGE / "samples" / "README.md").read_text()
    assert all(f"`{file.name}`" in credits for file in files)
    samples = page.locator(".sample")
    assert samples.count() == len(files) == 3
    for sample in samples.all():
        assert sample.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") > 300
    samples.first.click()
    wait_for_labels(page)
    assert page.locator("#curl").inner_text().startswith(f"curl -O {address}/page/samples/street.jpg\n")


def test_scales_flip_and_model_are_sent_for_one_picture_or_for_all(browser: Any, picture: Path) -> None:
    app = app_of(tiny_predictor("first"), tiny_predictor("second"))
    other = picture.with_name("other.png")
    other.write_bytes(picture.read_bytes())
    with live(app) as address, opened(browser, address) as page:
        choose(page, picture, other)
        page.locator("#scales label", has_text="0.75").click()
        page.locator("#flip").check()
        with page.expect_request(re.compile("/segment")) as sent:
            page.locator("#again").click()
        assert sent.value.url == f"{address}/segment?scales=0.75,1&flip=true"
        page.locator("#caption", has_text="first · scales 0.75,1 · mirrored too").wait_for()
        assert "&scales=0.75,1&flip=true" not in page.locator("#curl").inner_text()
        assert (
            "/segment?scales=0.75,1&flip=true&output=overlay&alpha=0.6" in page.locator("#curl").inner_text()
        )
        page.locator(".thumb").nth(1).click()
        page.locator("#caption", has_text="other.png · ").wait_for()
        assert "scales" not in page.locator("#caption").inner_text()
        page.locator("#model").select_option("second")
        page.locator("#caption", has_text="second · scales").wait_for()
        page.locator(".thumb").first.click()
        page.locator("#caption", has_text=" · first · ").wait_for()
        page.locator("#again-all").click()
        page.locator("#caption", has_text="second · ").wait_for()
        assert "?model=second&scales" in page.locator("#curl").inner_text()


def test_the_files_are_those_that_the_curl_lines_give(page: Any, picture: Path, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    choose(page, picture)
    page.locator("#legend button", has_text="green thing").click()
    page.locator("#opacity").fill("40")
    for what, name in (("Overlay", "overlay.png"), ("Labels", "labels.png"), ("JSON", "classes.json")):
        page.locator("#take label", has_text=what).click()
        with page.expect_download() as download:
            page.locator("#save").click()
        assert download.value.suggested_filename == f"three colours-{name}"
        saved = Path(download.value.path()).read_bytes()
        subprocess.run(
            ["bash", "-ec", page.locator("#curl").inner_text()], cwd=tmp_path, check=True, capture_output=True
        )
        written = (tmp_path / f"three colours-{name}").read_bytes()
        if what == "JSON":
            told, again = json.loads(saved), json.loads(written)
            assert told["classes"] == again["classes"]
        else:
            np.testing.assert_array_equal(decoded(saved), decoded(written))
    labels = tiny_predictor().predict(three_colors(120, 180)).labels
    np.testing.assert_array_equal(decoded((tmp_path / "three colours-labels.png").read_bytes()), labels)
    overlay = decoded((tmp_path / "three colours-overlay.png").read_bytes())[..., :3]
    photo, colors = three_colors(120, 180).astype(float), np.asarray(PALETTE, float)[labels]
    expected = np.where((labels == 2)[..., None], photo, 0.6 * photo + 0.4 * colors)
    np.testing.assert_allclose(overlay, expected, atol=1)


def test_the_curl_line_can_be_copied(page: Any, picture: Path) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    choose(page, picture)
    page.locator("#copy").click()
    page.locator("#copy", has_text="Copied").wait_for()
    line = page.locator("#curl").inner_text()
    assert page.evaluate("navigator.clipboard.readText()") == line
    assert line.startswith("curl -F 'image=@three colours.png'")


def test_odd_file_names_survive_the_shell_and_curl(page: Any, picture: Path, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    odd = tmp_path / """it's; "so", $HOME.png"""
    odd.write_bytes(picture.read_bytes())
    choose(page, odd)
    line = page.locator("#curl").inner_text()
    subprocess.run(["bash", "-ec", line], cwd=tmp_path, check=True, capture_output=True)
    assert decoded((tmp_path / """it's; "so", $HOME-overlay.png""").read_bytes()).shape == (120, 180, 3)


def test_confidence_is_asked_for_once_and_told(page: Any, picture: Path) -> None:
    sent: list[str] = []
    page.on("request", lambda asked: sent.append(asked.url) if "output=" in asked.url else None)
    choose(page, picture)
    view(page, "Confidence")
    page.locator("#confidence-text", has_text="On average").wait_for()
    confidence = tiny_predictor().predict(three_colors(120, 180), confidence=True).confidence
    assert confidence is not None
    for u in (0.1, 0.34, 0.8):
        hover(page, u, 0.5)
        assert re.match(rf"{confidence[60, int(u * 180)] * 100:.0f}% sure of ", read_out(page))
    assert color_at(page, 90, 60)[3] == pytest.approx(255 * (1 - confidence[60, 90]), abs=1)
    view(page, "Classes")
    view(page, "Confidence")
    page.locator("#confidence-text", has_text="On average").wait_for()
    assert len(sent) == 1
    assert "output=confidence" in page.locator("#curl").inner_text()


def test_what_browsers_cannot_show_is_drawn_by_the_service(page: Any, tmp_path: Path) -> None:
    path = tmp_path / "photo.tif"
    path.write_bytes(encoded(three_colors(60, 90), "TIFF"))
    with page.expect_response(re.compile("alpha=0")):
        choose(page, path)
    page.locator("#panes:not(.blind)").wait_for()
    for shown in (".photo", "#strip img"):
        width = page.locator(shown).first.evaluate("image => image.decode().then(() => image.naturalWidth)")
        assert width == 90
    assert not page.locator("#alert").is_visible()


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
