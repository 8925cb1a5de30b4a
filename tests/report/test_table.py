import io

import pytest
import tiny
from headline_records import RECORD, record
from rich.console import Console

from equipoise.report import markdown_table, rich_table
from equipoise.report.table import caption, fullest, headline_rows, wrap_name


def test_a_row_has_headline_percentages_and_those_of_the_first_suite_alone():
    header, body = headline_rows([record()])
    assert header == [
        "model",
        "clean",
        "ε = 8/255",
        "average",
        "(clean + strongest)/2",
        "pgd alone, 8/255",
    ]
    assert body == [["one", "90.0", "50.0", "70.0", "70.0", "60.0"]]


def test_models_keep_their_order():
    _, body = headline_rows([record("b"), record("a"), record("b")])
    assert [row[0] for row in body] == ["b", "a"]


def test_several_seeds_become_their_mean_and_standard_deviation():
    _, body = headline_rows([record(clean=0.9), record(clean=0.8), record(clean=0.7)])
    assert body[0][1] == "80.0 (10.0)"
    assert "Mean over 3 seeds" in caption([record(), record(), record()])
    assert "Mean over up to 2 seeds" in caption([record(), record(), record("b")])
    assert "Mean over" not in caption([record("a"), record("b")])


@pytest.mark.parametrize(
    ("key", "value"),
    [("epsilons", [0.0, 0.1]), ("data", "cifar10"), ("norm", "L2"), ("images", 10)],
)
def test_records_that_differ_are_refused_with_the_field_that_differs(key, value):
    with pytest.raises(ValueError, match=rf"must agree in {key}: one has .*, two has"):
        headline_rows([record("one"), record("two", **{key: value})])


def test_a_table_without_records_is_refused():
    with pytest.raises(ValueError, match="a table needs at least one record, got none"):
        headline_rows([])


def test_the_caption_describes_the_numbers():
    text = caption([record()])
    for part in ("450 test images of digits", "Linf", "the model's 3 attacks", "45.4 to 54.6"):
        assert part in text


def test_the_markdown_table_has_one_row_for_each_model():
    lines = markdown_table([record("one"), record("two", robust=0.6)]).splitlines()
    assert lines[0].startswith("| model | clean | ε = 8/255 |")
    assert lines[1] == "|---|---:|---:|---:|---:|---:|"
    assert lines[2] == "| one | 90.0 | 50.0 | 70.0 | 70.0 | 60.0 |"
    assert lines[3].startswith("| two | 90.0 | 60.0 |")
    assert lines[5] == caption([record("one"), record("two")])


def test_the_terminal_table_prints_the_best_average_in_bold():
    console = Console(record=True, width=120, force_terminal=True)
    console.print(rich_table([record("one"), record("best", robust=0.8)], "Title"))
    line = next(text for text in console.export_text(styles=True).splitlines() if "best" in text)
    assert "\x1b[1m" in line


def test_the_evaluation_with_the_most_attacks_is_shown():
    quick = RECORD | {"training_seed": 0, "suites": RECORD["suites"][:1]}
    full = RECORD | {"training_seed": 0}
    second_seed = RECORD | {"training_seed": 1}
    assert fullest([quick, full, second_seed]) == [full, second_seed]
    _, body = headline_rows([quick, full])
    assert "(" not in body[0][1]  # one seed, no deviation


def test_two_models_with_one_name_are_refused():
    first = RECORD | {"training_seed": 0, "weights_sha256": "a"}
    again = first | {"seed": 1}
    assert len(fullest([first, again])) == 1
    with pytest.raises(ValueError, match=r"one set of weights, got two for one, seed 0; .*--name"):
        headline_rows([first, again, first | {"weights_sha256": "b"}])


def test_the_interval_of_several_seeds_is_the_interval_of_their_mean():
    seeds = [record(robust=0.4), record(robust=0.6), record("b", robust=0.1)]
    assert "strongest attack: 45.4 to 54.6." in caption(seeds)


def test_a_long_name_is_broken_after_an_underscore_and_fits_into_80_columns():
    console = Console(record=True, width=80)
    written = ["0", *(f"{k}/255" for k in (1, 2, 4, 8))]
    long = record(
        "standard_cifar10_compact_long_name", epsilons=[0.0] * 5, epsilons_written=written
    )
    long["headline"] |= {"accuracy": [0.9] * 5, "interval": [[0.8, 1.0]] * 5}
    long["suites"] = [RECORD["suites"][0] | {"accuracy": [0.9] * 5}]
    console.print(rich_table([long], "Title"))
    lines = console.export_text().splitlines()
    assert any(line.startswith("standard_cifar10_ ") for line in lines)
    assert "…" not in "".join(lines)


def test_a_name_is_broken_only_after_the_given_character():
    assert wrap_name("a_b_c", 2) == "a_\nb_\nc"
    assert wrap_name("a_b-c", 2, after="-") == "a_b-\nc"
    assert wrap_name("apgd-dlr", 20, after="-") == "apgd-dlr"


@pytest.mark.parametrize("strengths", [6, 7])
def test_names_are_readable_at_many_strengths(strengths):
    written = ["0", *(f"{k}/255" for k in range(1, strengths + 1))]
    accuracy = [0.9] * len(written)
    suite = {"name": "quick", "accuracy": accuracy, "attacks": [{"name": "pgd"}]}
    suite |= {"broken_at": [-1, 1], "broken_by": [None, "pgd"]}
    headline = {"accuracy": accuracy, "interval": [[0.3, 0.9]] * len(written)}
    shown = tiny.record(
        "pgd_at_cifar10_compact",
        epsilons=[k / 255 for k in range(strengths + 1)],
        epsilons_written=written,
        headline=headline | {"average": 0.9, "clean_and_strongest": 0.9},
        suites=[suite],
    )
    file = io.StringIO()
    Console(file=file, width=80).print(rich_table([shown], "Worst case"))
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("pgd_at_") for line in lines)
    assert " ".join(lines).split().count("90.0") == len(written) + 3  # no column is left out


def test_at_nine_strengths_every_table_names_the_model_and_no_strength_is_lost():
    console = Console(record=True, width=80)
    strengths = [f"{k}/255" for k in (1, 2, 4, 6, 8, 10, 12, 16)]
    long = record("afa_cifar10", epsilons=[0.0] * 9, epsilons_written=["0", *strengths])
    long["headline"] |= {"accuracy": [0.9] * 9, "interval": [[0.8, 1.0]] * 9}
    long["suites"] = [RECORD["suites"][0] | {"accuracy": [0.9] * 9}]
    console.print(rich_table([long], "Title"))
    lines = console.export_text().splitlines()
    assert lines[0].rstrip() == "Title"
    names = [line for line in lines if line.startswith("afa_")]
    assert len(names) == 2
    assert all(len(line) <= 80 and "…" not in line for line in lines)
    text = " ".join(lines)
    assert all(strength in text for strength in strengths)
    assert " ".join(names).split().count("90.0") == 10  # clean and the suite alone, too
