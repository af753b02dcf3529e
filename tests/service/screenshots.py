"""The pictures of docs/page.md, made anew: the bundled model, the page's own samples, a real Chromium.

python -m tests.service.screenshots [--model psanet18_camvid] [--out docs]
"""

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from inference.predictor import Predictor
from tests.service.browsing import PHONE, chromium, hover, opened, view, wait_for_labels
from tests.service.fakes import app_of, live

DOCS = Path(__file__).parents[2] / "docs"
DESKTOP = {"viewport": {"width": 1280, "height": 860}}


def main() -> None:
    """Write page-desktop.webp, page-explorer.webp and page-phone.webp."""
    parser = argparse.ArgumentParser(description="Makes the screenshots of docs/page.md anew.")
    parser.add_argument("--model", default="psanet18_camvid", help="bundle or name of a bundled model")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder to write to")
    arguments = parser.parse_args()
    predictor = Predictor.open(arguments.model)
    predictor.predict(np.zeros((480, 640, 3), np.uint8))  # the times on the page are not those of a first run
    with live(app_of(predictor)) as address, chromium() as browser:
        with opened(browser, address, color_scheme="light", **DESKTOP) as page:
            show_classes(page)
            write(page, arguments.out / "page-desktop.webp")
        with opened(browser, address, color_scheme="dark", **DESKTOP) as page:
            show_explorer(page)
            write(page, arguments.out / "page-explorer.webp")
        with opened(browser, address, color_scheme="light", **(PHONE | {"device_scale_factor": 2})) as page:
            page.locator(".sample", has_text="An avenue").tap()
            wait_for_labels(page)
            write(page, arguments.out / "page-phone.webp")


def show_classes(page: Any) -> None:
    """Two pictures, the first half before and half after."""
    page.locator(".sample", has_text="A street").click()
    wait_for_labels(page)
    page.locator("#split").click()
    hover(page, 0.8, 0.45)


def show_explorer(page: Any) -> None:
    """Two points, both directions, the pointer on one of the maps."""
    page.locator(".sample", has_text="A street").click()
    wait_for_labels(page)
    view(page, "Attention")
    page.locator("#points .point:not(.stale)").wait_for()
    click(page, 0.47, 0.86)
    page.locator("#add-point").click()
    click(page, 0.62, 0.57)
    page.locator("#directions label", has_text="Both").click()
    page.locator("#points .stale").first.wait_for(state="detached")
    hover(page, 0.3, 0.7)


def click(page: Any, u: float, v: float) -> None:
    """Click at a place of the picture, both as fractions."""
    hover(page, u, v)
    page.mouse.down()
    page.mouse.up()


def write(page: Any, path: Path) -> None:
    """Write what is on the screen as a small WebP file."""
    with Image.open(io.BytesIO(page.screenshot())) as picture:
        picture.convert("RGB").save(path, "WEBP", quality=82, method=6)
    print(f"{path}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
