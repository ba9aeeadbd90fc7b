"""Photograph a run's report as a desktop and a phone show it.

cte report demo-run/run && python examples/picture_report.py demo-run/run/report.html docs

Needs Chromium and the package playwright.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Picture:
    """A part of the page: from the top of one section to the bottom of another."""

    width: int
    last: str
    first: str = ""
    scale: int = 1


PICTURES = {
    "report-answer": Picture(1240, "#ranking"),
    "report-desktop": Picture(1240, "#where"),
    "report-gallery": Picture(1240, "#gallery details", "#gallery"),
    "report-phone": Picture(390, "#ranking", scale=2),
}


def photograph(browser: Browser, report: Path, picture: Picture, path: Path, *, dark: bool) -> None:
    page = browser.new_page(
        viewport={"width": picture.width, "height": 900},
        color_scheme="dark" if dark else "light",
        device_scale_factor=picture.scale,
        offline=True,
    )
    page.goto(report.resolve().as_uri())
    edge = "([css, side]) => document.querySelector(css).getBoundingClientRect()[side] + scrollY"
    top = page.evaluate(edge, [picture.first, "top"]) if picture.first else 0
    bottom = page.evaluate(edge, [picture.last, "bottom"]) + 16
    clip = {"x": 0, "y": top, "width": picture.width, "height": bottom - top}
    page.screenshot(path=path, full_page=True, clip=clip)
    page.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path, help="report.html")
    parser.add_argument("folder", type=Path, help="of the pictures, report-….png")
    parser.add_argument("--dark", action="store_true", help="in dark mode")
    options = parser.parse_args()
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        raise SystemExit(f"none of {', '.join(BROWSERS)} is installed")
    options.folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as started:
        flags = ["--no-sandbox", "--disable-gpu"]
        browser = started.chromium.launch(executable_path=program, args=flags)
        for name, picture in PICTURES.items():
            path = options.folder / f"{name}.png"
            photograph(browser, options.report, picture, path, dark=options.dark)
        browser.close()


if __name__ == "__main__":
    main()
