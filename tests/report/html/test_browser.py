"""The report in a real browser: no request, no error, and every control does what it says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import blobs, write_bank
from troubled import EVIL, cte

from cte_dask.report.html.facts import facts
from cte_dask.report.html.page import page
from cte_dask.results.run_folder import RunFolder
from cte_dask.volume import write_ome_zarr

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


class Opened:
    """A page with all that went wrong on it."""

    def __init__(self, page, url: str) -> None:
        self.page, self.troubles, self.requests, self.failed = page, [], [], []
        page.on("console", lambda m: self.troubles.append(f"{m.type}: {m.text}"))
        page.on("pageerror", lambda e: self.troubles.append(str(e)))
        page.on("dialog", lambda d: (self.troubles.append(f"dialog: {d.message}"), d.dismiss()))
        page.on("request", lambda r: self.requests.append(r.url))
        page.on("requestfailed", lambda r: self.failed.append((r.url, r.failure)))
        page.goto(url)

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()

    def column(self, selector: str) -> list[str]:
        return self.page.locator(selector).all_inner_texts()

    def pixels(self, selector: str) -> str:
        return self.page.locator(selector).first.evaluate("c => c.toDataURL()")


@pytest.fixture(scope="module")
def browser() -> Iterator:
    if BROWSER is None:
        pytest.skip("no Chromium: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=BROWSER, args=list(FLAGS))
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def report(run, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("browser")
    text = cte("report", run, "--out", out / "report.html", "--quiet")
    assert text.exit_code == 0, text.output
    return out / "report.html"


@pytest.fixture(params=[(s, c) for s in SIZES for c in ("light", "dark")], ids="-".join)
def shown(request, browser, report) -> Iterator[Opened]:
    """The report at the sizes and in the colours that people have."""
    size, colours = request.param
    yield from opened(browser, report, size, colours)


@pytest.fixture
def desktop(browser, report) -> Iterator[Opened]:
    yield from opened(browser, report, "desktop", "light")


def opened(browser, report: Path, size: str, colours: str) -> Iterator[Opened]:
    width, height = SIZES[size]
    page = browser.new_page(
        viewport={"width": width, "height": height}, color_scheme=colours, offline=True
    )
    yield Opened(page, report.as_uri())
    page.close()


def test_it_opens_without_error_or_request_and_fits_the_screen(shown, report):
    assert shown.troubles == []
    assert [u for u in shown.requests if not u.startswith("data:image/png")] == [report.as_uri()]
    wide, window = shown.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= window
    assert EVIL in shown.text("main")


def test_no_rule_of_accessibility_is_broken(shown):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    shown.page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    found = axe.run(shown.page)
    told = [(v["id"], [n["html"][:200] for n in v["nodes"]]) for v in found.response["violations"]]
    assert told == []
    assert len(found.response["passes"]) > 20


def test_the_ranking_with_all_its_columns_needs_no_scroll_bar(browser, moved, tmp_path):
    ranking = json.loads((moved / "ranking.json").read_text())
    number = {"value": 0.942, "low": 0.937, "high": 0.944}
    for model in ranking["models"]:
        model |= {"transfer": number, "consistency": number, "first": 0.995, "beaten": 0.995}
        model["estimated_f1"] = {**number, "sensitivity": 0.9, "false_positive_rate": 0.1}
    (moved / "ranking.json").write_text(json.dumps(ranking | {"primary": "transfer"}))
    content, _ = facts(RunFolder(str(moved)).finished())
    for model in content["models"]:
        model["name"] = "nuclei-u2os-sharp"
    (tmp_path / "report.html").write_text(page({**content, "gallery": None}))
    for shown in opened(browser, tmp_path / "report.html", "desktop", "light"):
        assert len(shown.column("#ranking table.sortable thead th")) == 11
        wide, window = shown.page.evaluate(
            "(e => [e.scrollWidth, e.clientWidth])(document.querySelector('#ranking .scroll'))"
        )
        assert wide <= window


@pytest.mark.parametrize(
    ("shape", "axes", "last"),
    [
        ((1, 32, 640), "y ↓ x →", "x 608–639"),
        ((1, 640, 64), "x ↓ y →", "y 608–639"),
        ((20, 32, 32), "y ↓ z →", "z 19"),
    ],
    ids=["a line along x", "a strip along y", "one tile a plane"],
)
def test_a_long_target_is_one_map_across_the_page(browser, tmp_path, shape, axes, last):
    bank = write_bank(tmp_path / "bank", 2)
    target = tmp_path / "target.zarr"
    write_ome_zarr(target, blobs(shape), axes="zyx", voxel_size_nm=(10.0,) * 3, chunks=(1, 32, 32))
    options = ["--tile", "1,32,32", "--cluster", "none", "--perturb", "gaussian:0.1", "--quiet"]
    assert cte("rank", target, "--bank", bank, "--out", tmp_path / "RUN", *options).exit_code == 0
    assert cte("report", tmp_path / "RUN", "--gallery", "0", "--quiet").exit_code == 0
    for shown in opened(browser, tmp_path / "RUN" / "report.html", "desktop", "light"):
        assert shown.column(".planes") == [axes, axes], "the other planes are one row of cells"
        box = shown.page.locator("#map-value canvas").bounding_box()
        assert box["width"] > 1000
        assert box["height"] >= 44
        click = {"x": box["width"] - 5, "y": 5}
        shown.page.locator("#map-value canvas").click(position=click)
        assert last in shown.text("#readout")
        assert shown.troubles == []


def test_columns_sort_both_ways_and_unknown_values_stay_last(desktop):
    rows = "#ranking table.sortable tbody tr"
    ranks = desktop.column(f"{rows} td:first-child")
    assert ranks == ["1", "2", "3"]
    desktop.page.get_by_role("button", name="CTE").click()
    values = [float(t) for t in desktop.column(f"{rows} td:nth-child(3)")]
    assert values == sorted(values)
    desktop.page.get_by_role("button", name="CTE").click()
    values = [float(t) for t in desktop.column(f"{rows} td:nth-child(3)")]
    assert values == sorted(values, reverse=True)
    head = desktop.page.locator("th", has=desktop.page.get_by_role("button", name="CTE"))
    assert head.get_attribute("aria-sort") == "descending"
    for _ in range(2):  # the degenerate model never comes first: its share is not known
        desktop.page.get_by_role("button", name="First in").click()
        assert desktop.column(f"{rows} td:nth-child(6)")[-1] == "–"
    assert desktop.troubles == []


def test_choosing_a_model_shows_it_everywhere(desktop):
    before = desktop.pixels("#map-value canvas")
    desktop.page.locator("#ranking").get_by_role("button", name=EVIL).click()
    assert EVIL in desktop.text("#map-value figcaption")
    assert EVIL in desktop.text("#readout")
    assert desktop.pixels("#map-value canvas") != before
    current = desktop.page.locator("#ranking table.sortable tr[aria-current]")
    assert current.count() == 1
    assert EVIL in current.inner_text()
    assert desktop.page.locator("details[open] summary", has_text=EVIL).count() == 1
    other = next(t for t in desktop.column("#model option") if "model-0" in t)
    desktop.page.locator("#model").select_option(label=other)
    assert desktop.text("#map-value figcaption") == "Consistency of model-0"
    assert desktop.troubles == []


def test_slices_move_by_keyboard_and_the_maps_and_numbers_follow(desktop):
    slider = desktop.page.get_by_role("slider", name="z slice")
    told, drawn = desktop.text("#readout"), desktop.pixels("#map-value canvas")
    slider.focus()
    desktop.page.keyboard.press("ArrowRight")
    assert desktop.text("#readout") != told
    assert desktop.pixels("#map-value canvas") != drawn
    assert slider.get_attribute("aria-valuetext") == "voxels 3"
    assert desktop.text("[data-axis='0'] output") == "3"
    desktop.page.keyboard.press("Home")
    assert desktop.text("#readout").startswith("At z 0, ")


def test_a_click_on_a_map_tells_what_lies_there(desktop):
    canvas = desktop.page.locator("#map-winner canvas").first
    canvas.click(position={"x": 3, "y": 3})
    told = desktop.text("#readout")
    assert "y 0–31, x 0–31" in told
    assert "not scored" in told, "that corner is masked"
    assert "No model wins here" in told


def test_everything_that_acts_is_reached_by_the_tab_key(desktop):
    wanted = desktop.page.evaluate(
        "[...document.querySelectorAll('a[href], button, select, input, summary')]"
        ".filter(e => e.checkVisibility()).length"
    )
    number = """() => {
      const acts = document.activeElement.matches('a[href], button, select, input, summary');
      return acts ? [...document.querySelectorAll('*')].indexOf(document.activeElement) : -1;
    }"""
    seen = set()
    for _ in range(wanted + 30):
        desktop.page.keyboard.press("Tab")
        seen.add(desktop.page.evaluate(number))
    assert len(seen - {-1}) == wanted


def test_the_policy_stops_what_would_get_past_the_escaping(desktop):
    desktop.page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "document.title = 'taken'";
          document.body.append(script);
          const image = new Image();
          image.src = "https://example.org/leak.png";
          document.body.append(image);
        }"""
    )
    desktop.page.wait_for_timeout(200)
    assert desktop.page.title() != "taken"
    assert desktop.failed == [("https://example.org/leak.png", "csp")]
    assert any("Content Security Policy" in t for t in desktop.troubles)


def test_it_can_be_read_without_its_script(browser, report):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.locator("#ranking table.sortable tbody tr").count() == 3
    assert "need the script" in page.locator("noscript").first.inner_text()
    context.close()
