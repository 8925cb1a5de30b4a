"""The HTML report in a real browser: Debian's or any other Chromium that is installed."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from real_records import HOSTILE, digits, gallery

from equipoise.report.html.page import write_page
from equipoise.report.run_files import gallery_path
from equipoise.runtime.files import write_json

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"needs a browser, one of {', '.join(BROWSERS)}: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """Four models, one of two seeds and one with a hostile name; each kind of figure."""
    folder = tmp_path_factory.mktemp("page")
    pairs = []
    names = ("afa_digits__seed3", "afs_digits__seed3", "pgd_at_digits", "standard_digits__seed3")
    for number, (_, record) in enumerate(digits(*names)):
        pairs.append((folder / str(number) / "records" / "x.json", record))
    path, adaptive = pairs[0]
    for point in adaptive["fusing_weight"]["through_generator"]:
        point["per_image"] = [point["mean"], 0.96]
    write_json(gallery_path(path), gallery(adaptive))
    stage = path.parent.parent / "stages" / "network"
    stage.mkdir(parents=True)
    entry = {"epoch": 0, "train": {"loss": 2.0}, "validation": {"0": 0.5}}
    (stage / "metrics.jsonl").write_text(f"{json.dumps(entry)}\n")
    pairs[-1][1]["model"] = HOSTILE
    write_page(pairs, folder / "report.html")
    return folder / "report.html"


@pytest.fixture
def opened(browser, report):
    """Open the page offline; the console must have no messages afterwards."""
    contexts, complaints = [], []

    def at(size: dict, scheme: str = "light"):
        context = browser.new_context(viewport=size, color_scheme=scheme, offline=True)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda sent: sent.url.startswith("http") and complaints.append(sent.url))
        page.goto(report.as_uri())
        page.wait_for_selector("#figure-curves[data-drawn]")
        return page

    yield at
    for context in contexts:
        context.close()
    assert complaints == []


def shown(page, selector: str) -> list[str]:
    """Texts of the elements that can be seen."""
    return [
        element.inner_text() for element in page.locator(selector).all() if element.is_visible()
    ]


@pytest.mark.parametrize(
    ("size", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")], ids=["desktop", "phone"]
)
def test_every_figure_is_drawn_and_nothing_is_wider_than_the_screen(opened, size, scheme):
    page = opened(size, scheme)
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    page.wait_for_function(
        "[...document.querySelectorAll('.figure')].every(each => each.dataset.drawn)"
    )
    figures = page.locator(".figure").all()
    assert len(figures) == 7
    for figure in figures:
        assert figure.locator(".scatterlayer .trace, .barlayer .trace").count() > 0
    assert page.evaluate("document.documentElement.scrollWidth") == size["width"]
    ink = page.locator("#figure-curves .xtick text").first.evaluate("e => getComputedStyle(e).fill")
    assert ink == {"light": "rgb(90, 100, 110)", "dark": "rgb(156, 167, 177)"}[scheme]


@pytest.mark.slow
def test_hovering_over_a_point_shows_its_numbers(opened):
    page = opened(DESKTOP)
    figure = page.locator("#figure-curves")
    figure.scroll_into_view_if_needed()
    ((_, record),) = digits("standard_digits__seed3")
    points = figure.locator(".scatterlayer .point")
    points.nth(points.count() - 3).hover(force=True)  # the last model at the third of five
    words = figure.locator(".hoverlayer .hovertext")
    words.wait_for()
    low, high = (100 * end for end in record["headline"]["interval"][2])
    accuracy = 100 * record["headline"]["accuracy"][2]
    expected = f"{HOSTILE}ε = 0.1: {accuracy:.1f} % [{low:.1f}, {high:.1f}]"
    assert words.text_content() == expected


def test_filter_and_buttons_select_the_models_in_table_and_figures(opened):
    page = opened(DESKTOP)
    lines = "#figure-curves .scatterlayer .trace"
    assert len(shown(page, "table.headline tbody tr")) == 4
    assert page.locator(lines).count() == 8  # a line and a band each
    page.fill("#filter", "AF")
    assert [row.split()[0] for row in shown(page, "table.headline tbody tr")] == [
        "afs_digits",
        "afa_digits",
    ]
    assert page.locator(lines).count() == 4
    page.click(".chip:has-text('afs_digits')")
    assert len(shown(page, "table.headline tbody tr")) == 1
    assert page.locator(lines).count() == 2
    page.fill("#filter", "nobody")
    assert shown(page, "#nothing") != []
    page.fill("#filter", "")
    assert len(shown(page, "table.headline tbody tr")) == 3
    page.click(".chip:has-text('afs_digits')")
    assert page.locator(lines).count() == 8


def test_columns_sort_in_both_directions(opened):
    page = opened(DESKTOP)

    def column(number: int) -> list[float]:
        cells = page.locator(f"table.headline tbody td:nth-of-type({number})")
        return [float(text.split()[0]) for text in cells.all_inner_texts()]

    for head, number in (("clean", 1), ("ε = 0.1", 3)):
        button = page.locator("thead button", has_text=head).first
        button.click()
        assert column(number) == sorted(column(number), reverse=True)
        button.click()
        assert column(number) == sorted(column(number))
        assert button.evaluate("e => e.parentElement.ariaSort") == "ascending"


@pytest.mark.slow
def test_a_tap_on_a_check_shows_its_meaning(opened):
    page = opened(PHONE)
    ((_, record),) = digits("afa_digits__seed3")
    (warned,) = [check for check in record["self_checks"] if check["verdict"] == "warn"]
    page.locator("tr", has_text="afa_digits").locator("button.badge").click()
    box = page.locator(".popover:popover-open")
    assert warned["meaning"] in box.inner_text()
    assert box.bounding_box()["width"] <= PHONE["width"]
    page.click(".popover:popover-open >> text=Close")
    assert box.count() == 0


def test_a_hostile_name_is_shown_as_text(opened):
    page = opened(DESKTOP)
    assert page.title() == "Robustness report: digits"
    assert HOSTILE in page.locator("table.headline tbody").inner_text()
    assert page.locator("[onclick]").count() == 0


def test_an_injected_script_does_not_run(report, tmp_path, browser):
    """Tests the content security policy without the escaping."""
    injected = tmp_path / "injected.html"
    injected.write_text(report.read_text().replace("</h1>", "<script>owned = 1</script></h1>", 1))
    page = browser.new_page()
    page.goto(injected.as_uri())
    assert page.evaluate("typeof owned + typeof Plotly") == "undefinedobject"
    page.close()


@pytest.mark.slow
def test_table_and_records_can_be_downloaded(opened, tmp_path):
    page = opened(DESKTOP)
    files = {}
    for kind in ("csv", "records"):
        with page.expect_download() as waiting:
            page.click(f"[data-download={kind}]")
        files[kind] = tmp_path / kind
        waiting.value.save_as(files[kind])
    rows = list(csv.DictReader(files["csv"].read_text().splitlines()))
    ((_, record),) = digits("afa_digits__seed3")
    assert [float(row["accuracy"]) for row in rows[:5]] == record["headline"]["accuracy"]
    assert json.loads(files["records"].read_text())[0]["broken_at"] == record["broken_at"]
