"""A real Chromium on the page, for tests and for the screenshots of the documentation."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
ASKED = ("/segment", "/attention", "/models")
"""Where a refusal is an answer that the page deals with, which Chromium reports all the same."""
OURS = "Canvas2D: Multiple readback operations"
"""What the tests do, and the page does not: looking into canvases."""
WATCH_POLICY = """
  addEventListener("securitypolicyviolation", (event) =>
    console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));
"""


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser. Raises FileNotFoundError, with the mend, where there is none."""
    from playwright.sync_api import sync_playwright

    if CHROMIUM is None:
        raise FileNotFoundError("needs Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


def required() -> bool:
    """Whether a missing browser is an error: it is where CI runs."""
    return bool(os.environ.get("CI"))


@contextmanager
def opened(browser: Any, address: str, *, ready: str = "#model:enabled", **options: Any) -> Iterator[Any]:
    """The page, once there is what `ready` selects.

    When it is closed no script may have failed, the browser may not have complained, no policy may have been
    violated and no request may have left the host.
    """
    page = browser.new_page(**({"viewport": {"width": 1280, "height": 860}} | options))
    complaints: list[str] = []

    def on_console(message: Any) -> None:
        refused = message.text.startswith("Failed to load resource: the server responded with")
        asked = message.location["url"].removeprefix(address).startswith(ASKED)
        if message.type in {"error", "warning"} and not (refused and asked) and OURS not in message.text:
            complaints.append(message.text)

    def on_request(request: Any) -> None:
        if not request.url.startswith((address, "blob:")):
            complaints.append(request.url)

    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", on_console)
    page.on("request", on_request)
    page.add_init_script(WATCH_POLICY)
    page.set_default_timeout(15_000)
    page.goto(address)
    page.wait_for_selector(ready)
    yield page
    page.close()
    assert not complaints, complaints


def choose(page: Any, *paths: Path) -> None:
    """Give files to the page, and wait until the first of them is labelled and nothing is under way."""
    page.set_input_files("#file", paths)
    wait_for_labels(page)


def wait_for_labels(page: Any) -> None:
    """Until the picture on the stage is labelled and nothing is under way."""
    page.locator("#caption", has_text=" × ").wait_for()
    page.locator("#busy").wait_for(state="hidden")


def view(page: Any, name: str) -> None:
    """Switch to one of the views: Classes, Confidence, Attention."""
    page.locator("#tools label", has_text=name).click()


def color_at(page: Any, x: int, y: int, frame: int = 0) -> list[int]:
    """A pixel of the layer over the picture: red, green, blue, alpha."""
    script = """([x, y, frame]) => [...document.querySelectorAll(".layer")[frame]
      .getContext("2d").getImageData(x, y, 1, 1).data]"""
    color: list[int] = page.evaluate(script, [x, y, frame])
    return color


def hover(page: Any, u: float, v: float, frame: int = 0) -> None:
    """Put the mouse at a place of the picture's frame, both as fractions."""
    box = page.locator(".frame").nth(frame).bounding_box()
    page.mouse.move(box["x"] + box["width"] * u, box["y"] + box["height"] * v)


def read_out(page: Any, frame: int = 0) -> str:
    """What is told of the pixel under the pointer."""
    text: str = page.locator(".readout").nth(frame).inner_text()
    return text
