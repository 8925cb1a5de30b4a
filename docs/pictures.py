"""Take the pictures of the HTML report that the pages show.

Run it from the repository: ``python docs/pictures.py RUN...``; the runs of one seed, with galleries
(``equipoise report RUN... --gallery 8 --out page.html`` makes them). ``report.png`` shows the
records of ``results/digits``, ``report_phone.png`` the runs. It needs a Chromium.
"""

import argparse
import io
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from equipoise.records.files import iterate_records
from equipoise.report.html.page import write_page

HERE = Path(__file__).resolve().parent
DESKTOP, PHONE = {"width": 1200, "height": 1640}, {"width": 390, "height": 844}
PANELS = (
    ("Headline", "light"),
    ("Fusing weight against attack strength", "dark"),
    ("Example images", "light"),
)
GAP = 24


def written(places: list[Path], folder: Path, name: str) -> str:
    """A page of all records under some folders."""
    records = [found for place in places for found in iterate_records(place)]
    write_page(records, folder / name)
    return (folder / name).as_uri()


def at_heading(page: Page, heading: str) -> Image.Image:
    """What a screen shows when it is scrolled to a heading."""
    page.get_by_role("heading", name=heading, exact=True).evaluate(
        "e => window.scrollTo(0, e.getBoundingClientRect().top + window.scrollY - 66)"
    )
    page.wait_for_timeout(600)
    return Image.open(io.BytesIO(page.screenshot()))


def main() -> None:
    """Take both pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", type=Path, nargs="+")
    given = parser.parse_args()
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))))
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = opened.new_page(viewport=DESKTOP)
        page.goto(written([HERE.parent / "results" / "digits"], Path(place), "digits.html"))
        page.wait_for_selector("#figure-curves[data-drawn]")
        page.screenshot(path=HERE / "images" / "report.png")
        address = written(given.runs, Path(place), "html")
        panels = []
        for heading, scheme in PANELS:
            phone = opened.new_page(viewport=PHONE, color_scheme=scheme)
            phone.goto(address)
            panels.append(at_heading(phone, heading))
        width = len(panels) * PHONE["width"] + (len(panels) - 1) * GAP
        whole = Image.new("RGB", (width, PHONE["height"]), "white")
        for number, panel in enumerate(panels):
            whole.paste(panel, (number * (PHONE["width"] + GAP), 0))
        whole.save(HERE / "images" / "report_phone.png", optimize=True)


if __name__ == "__main__":
    main()
