"""Draw README's picture of a report: the table and first figure of a protocol. It needs Debian's `chromium`.

python -m clsweep.report outputs/reference --output report
python scripts/report_picture.py report split_mnist-task-on-mnist-full-budget docs/figures/report.png
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

WIDTH = 1280


def main() -> None:
    """Open the page and keep what the protocol's heading, table and first figure show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="the folder of report.html")
    parser.add_argument("protocol", help="its anchor on the page, as in the links of the contents")
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 1200}, color_scheme="light")
        page.goto((arguments.report / "report.html").absolute().as_uri())
        section = page.locator(f"#{arguments.protocol}")
        top, figure = section.bounding_box(), section.locator("figure").first.bounding_box()
        assert top is not None
        assert figure is not None
        height = figure["y"] + figure["height"] - top["y"]
        page.screenshot(
            path=arguments.output,
            full_page=True,
            clip={"x": 0, "y": top["y"], "width": WIDTH, "height": height + 12},
        )
        browser.close()


if __name__ == "__main__":
    main()
