import shutil

import pytest
from headline_records import record as headline
from real_records import RESULTS

from equipoise.records.files import read_record
from equipoise.report import fill_markers, markdown_columns
from equipoise.runtime.files import write_json


@pytest.fixture
def page(tmp_path):
    """A Markdown file with two tables, and their records."""
    for folder, model in (("a", "one"), ("b", "two")):
        write_json(tmp_path / folder / "records" / "x.json", headline(model))
    path = tmp_path / "page.md"
    path.write_text(
        "# ε\n\n<!-- records: a -->\nold\n<!-- end records -->\n\nbetween\n\n"
        "<!-- records: b -->\n<!-- end records -->\n\nafter\n"
    )
    return path


def test_every_table_between_markers_is_updated_and_nothing_else(page):
    assert fill_markers(page)
    text = page.read_text()
    assert text.startswith("# ε\n\n<!-- records: a -->\n| model |")
    assert "| one | 90.0 |" in text
    assert "| two | 90.0 |" in text
    assert "old" not in text
    assert "<!-- end records -->\n\nbetween\n\n<!-- records: b -->\n" in text
    assert text.endswith("<!-- end records -->\n\nafter\n")


def test_a_page_that_is_up_to_date_is_left_alone(page):
    fill_markers(page)
    before = page.stat().st_mtime_ns
    assert not fill_markers(page)
    assert page.stat().st_mtime_ns == before


def test_a_marker_for_a_folder_without_records_is_refused(page):
    page.write_text("<!-- records: nothing -->\n<!-- end records -->\n")
    with pytest.raises(ValueError, match="at least one record, got none"):
        fill_markers(page)


def test_a_table_of_attacks_names_its_suite(tmp_path):
    source = next((RESULTS / "reproduced" / "tiny" / "records").glob("avm_digits*.json"))
    (tmp_path / "all" / "records").mkdir(parents=True)
    shutil.copy(source, tmp_path / "all" / "records")
    page = tmp_path / "page.md"
    page.write_text("<!-- attacks: all tables -->\n<!-- end attacks -->\n")
    assert fill_markers(page)
    table = markdown_columns([read_record(source)], "tables")
    assert page.read_text() == f"<!-- attacks: all tables -->\n{table}<!-- end attacks -->\n"
    page.write_text("<!-- attacks: all transfer -->\n<!-- end attacks -->\n")
    with pytest.raises(ValueError, match="suite must be one that a record has, got transfer"):
        fill_markers(page)


def test_a_ranked_table_has_the_best_average_first(tmp_path):
    for name, robust in (("a", 0.2), ("b", 0.8), ("c", 0.5)):
        write_json(tmp_path / "all" / "records" / f"{name}.json", headline(name, robust=robust))
    page = tmp_path / "page.md"
    page.write_text("<!-- records: all ranked -->\n<!-- end records -->\n")
    assert fill_markers(page)
    rows_of_page = [line for line in page.read_text().splitlines() if line.startswith("| ")]
    assert [line.split("|")[1].strip() for line in rows_of_page] == ["model", "b", "c", "a"]
    assert not fill_markers(page)


def test_a_short_table_leaves_out_the_first_suite(page):
    page.write_text("<!-- records: a short -->\n<!-- end records -->\n")
    assert fill_markers(page)
    header = page.read_text().splitlines()[1]
    assert header == "| model | clean | ε = 8/255 | average | (clean + strongest)/2 |"


def test_an_unknown_option_of_a_marker_is_refused(page):
    page.write_text("<!-- records: a shrot -->\n<!-- end records -->\n")
    with pytest.raises(ValueError, match=r"options .* are ranked and short, got shrot"):
        fill_markers(page)
