"""The report in a real browser: headless Chromium, where one is installed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from trees import write_run, write_seeds, write_study

from clsweep.report.command import main

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt install chromium)")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = tmp_path_factory.mktemp("outputs")
    write_seeds(outputs, [0.95, 0.96, 0.955], regularizer="si")
    write_seeds(outputs, [0.93, 0.941, 0.936], regularizer="ewc")
    write_seeds(outputs, [0.92, 0.9, 0.91], regularizer="mas")
    write_run(outputs / "none", 0.7, regularizer="none", hyperparameters="")
    write_run(outputs / "perm", 0.9, benchmark="perm_mnist", regularizer="mas")
    write_study(outputs / "sweeps" / "split_mnist-online_ewc-0a1b2c3d")
    assert main([str(outputs)]) == 0
    return outputs / "report" / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # The container of a build has no user namespaces for Chromium's sandbox; the page is our own.
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser, report: Path) -> Iterator[Page]:
    opened = browser.new_page()
    opened.goto(report.as_uri())
    yield opened
    opened.close()


def test_it_opens_without_a_network_and_without_complaints(browser: Browser, report: Path) -> None:
    page = browser.new_page()
    requested: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(report.as_uri())
    page.wait_for_load_state("networkidle")
    assert [url for url in requested if not url.startswith("data:")] == [report.as_uri()]
    assert complaints == []
    page.close()


def test_every_figure_is_drawn(page: Page, report: Path) -> None:
    names = {path.stem for path in (report.parent / "figures").glob("*.svg")}
    shown = page.locator("figure")
    assert {shown.nth(number).get_attribute("id") for number in range(shown.count())} == names
    assert len(names) == 9
    for number in range(shown.count()):
        box = shown.nth(number).locator("svg").bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) > 50


@pytest.mark.parametrize("kind", ["pdf", "png", "svg", "csv"])
def test_figures_can_be_had_as_files(page: Page, report: Path, kind: str) -> None:
    figure = page.locator("figure").first
    name = f"{figure.get_attribute('id')}.{kind}"
    link = figure.locator(f'a[href="figures/{name}"]')
    assert link.is_visible()
    assert link.evaluate("element => element.href") == (report.parent / "figures" / name).as_uri()
    assert (report.parent / "figures" / name).is_file()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_tables_hyperparameters_are_in_view(browser: Browser, report: Path, scheme: str) -> None:
    page = browser.new_page(color_scheme=scheme, viewport={"width": 1280, "height": 800})  # type: ignore[arg-type]
    page.goto(report.as_uri())
    for table in page.locator("main .table").all():
        assert table.evaluate("element => element.scrollWidth <= element.clientWidth")
    box = page.locator("td.setting").first.bounding_box()
    assert box is not None
    assert box["x"] + box["width"] < 1280
    page.close()


def test_a_click_on_a_head_sorts_its_table(page: Page) -> None:
    table = page.locator("#leaderboard table")
    column = [head.strip() for head in table.locator("th").all_inner_texts()].index("split_mnist") + 1

    def shown() -> list[float]:
        cells = table.locator(f"td:nth-child({column})").all_inner_texts()
        return [float(found[0]) for cell in cells if (found := re.match(r"[\d.]+", cell))]

    head = table.locator(f"th:nth-child({column})")
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert shown() == sorted(shown(), reverse=True)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert shown() == sorted(shown())
    assert len(shown()) == 5
    table.locator("th:nth-child(1) button").click()
    names = table.locator("td:nth-child(1)").all_inner_texts()
    assert names == sorted(names)


def test_both_colour_schemes_are_readable(browser: Browser, report: Path) -> None:
    for scheme, is_dark in (("light", False), ("dark", True)):
        page = browser.new_page(color_scheme=scheme)  # type: ignore[arg-type]
        page.goto(report.as_uri())
        paper = _brightness(page, "getComputedStyle(document.body).backgroundColor")
        ink = _brightness(page, "getComputedStyle(document.body).color")
        label = _brightness(page, "getComputedStyle(document.querySelector('figure svg text')).fill")
        assert (paper < 60) is is_dark
        assert abs(paper - ink) > 150
        assert abs(paper - label) > 150
        page.close()


def _brightness(page: Page, expression: str) -> float:
    channels = re.findall(r"[\d.]+", page.evaluate(expression))[:3]
    return sum(map(float, channels)) / 3


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_sticks_out_of_the_page(browser: Browser, report: Path, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto(report.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.close()


def test_it_prints_on_white(page: Page) -> None:
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("nav").is_hidden()
