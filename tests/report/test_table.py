import subprocess
import sys

import pytest
from headline_records import RECORD, record
from rich.console import Console

from equipoise.report import markdown_table, rich_table
from equipoise.report.table import caption, fullest, in_lines, rows


def test_a_row_holds_percents_of_the_headline_and_of_the_first_suite_alone():
    header, body = rows([record()])
    assert header == [
        "model",
        "clean",
        "ε = 8/255",
        "average",
        "(clean + strongest)/2",
        "pgd alone, 8/255",
    ]
    assert body == [["one", "90.0", "50.0", "70.0", "70.0", "60.0"]]


def test_models_keep_the_order_in_which_they_come():
    _, body = rows([record("b"), record("a"), record("b")])
    assert [row[0] for row in body] == ["b", "a"]


def test_several_seeds_become_their_mean_and_standard_deviation():
    _, body = rows([record(clean=0.9), record(clean=0.8), record(clean=0.7)])
    assert body[0][1] == "80.0 (10.0)"
    assert "Mean over 3 seeds" in caption([record(), record(), record()])
    assert "Mean over up to 2 seeds" in caption([record(), record(), record("b")])
    assert "Mean over" not in caption([record("a"), record("b")])


@pytest.mark.parametrize(
    ("key", "value"),
    [("epsilons", [0.0, 0.1]), ("data", "cifar10"), ("norm", "L2"), ("images", 10)],
)
def test_records_that_do_not_compare_are_refused_by_what_differs(key, value):
    with pytest.raises(ValueError, match=rf"must agree in {key}: one has .*, two has"):
        rows([record("one"), record("two", **{key: value})])


def test_no_record_makes_no_table():
    with pytest.raises(ValueError, match="no record"):
        rows([])


def test_the_caption_says_what_the_numbers_are():
    text = caption([record()])
    for part in ("digits", "450 test images", "Linf", "over a model's 3 attacks", "45.4 to 54.6"):
        assert part in text


def test_the_markdown_table_has_a_row_a_model():
    lines = markdown_table([record("one"), record("two", robust=0.6)]).splitlines()
    assert lines[0].startswith("| model | clean | ε = 8/255 |")
    assert lines[1] == "|---|---:|---:|---:|---:|---:|"
    assert lines[2] == "| one | 90.0 | 50.0 | 70.0 | 70.0 | 60.0 |"
    assert lines[3].startswith("| two | 90.0 | 60.0 |")
    assert lines[5] == caption([record("one"), record("two")])


def test_the_terminals_table_prints_the_best_trade_off_in_bold():
    console = Console(record=True, width=120, force_terminal=True)
    console.print(rich_table([record("one"), record("best", robust=0.8)], "Title"))
    line = next(text for text in console.export_text(styles=True).splitlines() if "best" in text)
    assert "\x1b[1m" in line


def test_reports_are_made_without_torch():
    code = "import equipoise.report, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_of_several_evaluations_of_one_model_the_fullest_is_shown():
    quick = RECORD | {"training_seed": 0, "suites": RECORD["suites"][:1]}
    full = RECORD | {"training_seed": 0}
    other = RECORD | {"training_seed": 1}
    assert fullest([quick, full, other]) == [full, other]
    _, body = rows([quick, full])
    assert "(" not in body[0][1]  # one seed, no deviation


def test_two_models_of_one_name_are_refused():
    mine = RECORD | {"training_seed": 0, "weights_sha256": "a"}
    again = mine | {"seed": 1}
    assert len(fullest([mine, again])) == 1
    with pytest.raises(
        ValueError, match=r"two models of other weights are named one, seed 0; .*--na"
    ):
        rows([mine, again, mine | {"weights_sha256": "b"}])


def test_the_interval_of_several_seeds_is_that_of_their_mean():
    seeds = [record(robust=0.4), record(robust=0.6), record("b", robust=0.1)]
    assert "strongest column: 45.4 to 54.6." in caption(seeds)


def test_a_name_is_broken_where_it_has_an_underscore_and_fits_into_80_columns():
    console = Console(record=True, width=80)
    written = ["0", *(f"{k}/255" for k in (1, 2, 4, 8))]
    long = record("standard_cifar10_compact", epsilons=[0.0] * 5, epsilons_written=written)
    long["headline"] |= {"accuracy": [0.9] * 5, "interval": [[0.8, 1.0]] * 5}
    long["suites"] = [RECORD["suites"][0] | {"accuracy": [0.9] * 5}]
    console.print(rich_table([long], "Title"))
    lines = console.export_text().splitlines()
    assert any(line.startswith("standard_ ") for line in lines)
    assert "…" not in "".join(lines)


def test_a_name_ends_lines_only_after_the_character_that_is_asked_for():
    assert in_lines("a_b_c", 2) == "a_\nb_\nc"
    assert in_lines("a_b-c", 2, after="-") == "a_b-\nc"
    assert in_lines("apgd-dlr", 20, after="-") == "apgd-dlr"
