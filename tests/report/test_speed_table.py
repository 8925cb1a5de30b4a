import json

import pytest

from equipoise.report import fill_markers
from equipoise.report.speed_table import speed_table
from equipoise.runtime.errors import RunError


def record(**content) -> dict:
    line = {
        "what": "a step",
        "ours": "ours",
        "against": "usual loop",
        "sense": "speed-up",
        "seconds": {"ours": 0.5, "against": 1.75},
        "ratio": {"median": 3.5, "quartiles": [3.4, 3.6]},
    }
    part = {
        "comparisons": [
            line,
            line | {"sense": "cost", "against": "plain", "ratio": {"median": 1.08}},
        ],
        "share_of_ceiling": {"median": 0.756, "precision": "bfloat16", "ceiling": "product"},
    }
    about = {
        "benchmark": "one",
        "date": "2026-01-02",
        "settings": {"threads": 2},
        "environment": {"processor": "a processor"},
    }
    return about | {"networks": [part]} | content


def test_every_comparison_of_a_record_is_a_row():
    assert speed_table([record()]).splitlines() == [
        "| what | ours | against | seconds | ratio |",
        "|---|---|---|---:|---|",
        "| a step | ours | usual loop | 0.5, 1.75 | 3.50 (3.40 to 3.60) times as fast |",
        "| a step | ours | plain | 0.5, 1.75 | 1.08 times the time |",
        "",
        "Median of paired ratios (quartiles); a processor, 2 threads, 2026-01-02. a step: 76 % of "
        "the rate of a product in bfloat16, measured at the same time.",
    ]


def test_a_benchmark_marker_is_filled_from_all_its_records(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text(json.dumps(record(date=f"2026-01-0{len(name)}")))
    page = tmp_path / "page.md"
    page.write_text("x\n<!-- benchmark: a.json b.json -->\nold\n<!-- end benchmark -->\ny\n")
    assert fill_markers(page)
    table = speed_table([record(date="2026-01-01")] * 2)
    assert page.read_text() == (
        f"x\n<!-- benchmark: a.json b.json -->\n{table}<!-- end benchmark -->\ny\n"
    )
    assert not fill_markers(page)


def test_a_benchmark_marker_may_choose_rows_of_a_record(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(record()))
    page = tmp_path / "page.md"
    page.write_text("<!-- benchmark: a.json#1 -->\n<!-- end benchmark -->\n")
    assert fill_markers(page)
    rows = page.read_text().splitlines()
    assert rows[3] == "| a step | ours | plain | 0.5, 1.75 | 1.08 times the time |"
    assert rows[5] == "Median of paired ratios (quartiles); a processor, 2 threads, 2026-01-02."


def test_a_missing_record_and_one_without_comparisons_are_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- benchmark: a.json -->\n<!-- end benchmark -->\n")
    with pytest.raises(RunError, match="does not exist"):
        fill_markers(page)
    with pytest.raises(
        ValueError, match="must hold a comparison, got none in one; run the benchmark again"
    ):
        speed_table([record(networks=[])])
    with pytest.raises(ValueError, match="at least one benchmark record, got none"):
        speed_table([])
