import pytest
from headline_records import record
from rich.console import Console

from equipoise.report import (
    markdown_columns,
    markdown_comparison,
    markdown_table,
    rich_comparison,
    rich_table,
)
from equipoise.report.marks import apart_last, black_box_only, marked_name, marks_of
from equipoise.report.table import best_model, fullest, ranked

RANDOMISED = {"name": "randomised", "meaning": "Scores are means over\n20 draws.", "draws": 20}
HEADING = "black box only: not comparable"


def suite(kind: str | None) -> list[dict]:
    attack = {"name": "a", "broken_at": [-1] * 450} | ({"kind": kind} if kind else {})
    outcome = {"accuracy": [0.9, 0.5], "broken_at": [-1] * 450, "broken_by": [None] * 450}
    return [{"name": "s", "attacks": [attack], "independent": True} | outcome]


def onnx(model: str = "onnx", **changes) -> dict:
    return record(model, 0.99, 0.95, suites=suite("black box"), **changes)


def printed(renderable, width: int = 100) -> str:
    console = Console(width=width)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def test_marks_of_a_record_are_those_that_it_names():
    assert marks_of(record(marks=[RANDOMISED])) == [RANDOMISED]
    assert marks_of(record()) == []


@pytest.mark.parametrize(
    ("kind", "marked"),
    [("black box", True), ("transfer", True), ("white box", False), ("gate", False), (None, False)],
)
def test_a_record_without_an_attack_that_used_gradients_is_black_box_only(kind, marked):
    assert black_box_only(record(suites=suite(kind))) is marked


def test_a_record_without_attacks_is_not_black_box_only():
    assert not black_box_only(record(suites=[{"name": "quick", "attacks": []}]))


def test_one_white_box_attack_is_enough_to_be_comparable():
    assert not black_box_only(record(suites=[*suite("black box"), *suite("white box")]))


def test_a_mark_that_the_record_names_itself_is_not_repeated():
    mark = {"name": "black box only", "meaning": "ONNX."}
    assert marks_of(onnx(marks=[mark])) == [mark]


def test_a_mark_without_a_meaning_is_refused():
    with pytest.raises(ValueError, match=r"a mark must have a name and a meaning, got .* for one"):
        marks_of(record(marks=[{"name": "randomised"}]))


def test_black_box_rows_are_below_the_others_in_every_order():
    records = [onnx(), record("a", robust=0.1), record("b", robust=0.6)]
    assert [r["model"] for r in apart_last(records)] == ["a", "b", "onnx"]
    assert [r["model"] for r in ranked(records)] == ["b", "a", "onnx"]


def test_a_black_box_only_model_is_never_the_best():
    assert best_model([onnx(), record("a", robust=0.1)]) == "a"
    assert best_model([onnx()]) is None


def test_an_evaluation_with_gradients_represents_a_model_rather_than_a_black_box_one():
    white = record("net", suites=suite("white box"), training_seed=0)
    black = onnx("net", training_seed=0)
    black["suites"] *= 3
    assert fullest([white, black]) == fullest([black, white]) == [white]


def test_markdown_has_black_box_rows_under_a_heading_and_letters_for_the_marks():
    lines = markdown_table([onnx(), record("a", marks=[RANDOMISED]), record("b")]).splitlines()
    assert lines[2].startswith("| a [a] | 90.0 |")
    assert lines[3].startswith("| b | 90.0 |")
    assert lines[4] == f"| *{HEADING}* | | | | | |"
    assert lines[5].startswith("| onnx [b] | 99.0 |")
    assert " [a] randomised: Scores are means over 20 draws." in lines[7]
    assert "[b] black box only: No attack used the model's gradients." in lines[7]


def test_the_terminal_has_black_box_rows_under_a_heading_and_prints_the_letters():
    text = printed(rich_table([onnx(), record("a", marks=[RANDOMISED])], "Title"), 80)
    lines = [line.strip() for line in text.splitlines()]
    assert max(map(len, text.splitlines())) <= 80
    assert lines.index(HEADING) > next(n for n, line in enumerate(lines) if "a [a]" in line)
    assert lines.index(HEADING) < next(n for n, line in enumerate(lines) if "onnx [b]" in line)
    assert "[b] black box only: No attack" in " ".join(text.split())


def test_a_table_without_marks_is_as_before():
    assert "[" not in markdown_table([record("a"), record("b")])
    assert HEADING not in markdown_table([record("a")])


def test_the_table_of_attacks_has_the_marks():
    marked = record("a", suites=suite("white box"), marks=[RANDOMISED])
    lines = markdown_columns([onnx(broken_at=[-1] * 450), marked | {"broken_at": [-1] * 450}], "s")
    assert [line.split(" |")[0] for line in lines.splitlines()[2:4]] == ["| a [a]", "| onnx [b]"]
    assert "[a] randomised: Scores" in lines


@pytest.mark.parametrize("both", [False, True])
def test_a_comparison_of_a_black_box_score_with_another_has_no_verdict(both):
    first = onnx("one") if both else record("one", suites=suite("white box"))
    pair = [first | {"broken_at": [1] * 450}, onnx("two") | {"broken_at": [-1] * 450}]
    markdown, terminal = markdown_comparison(pair), printed(rich_comparison(pair))
    for text in (markdown, terminal):
        assert ("better" in text) is both
        assert ("not comparable" in text) is not both
        assert "two [a]" in text
    words = "Not comparable: one of the two models was attacked as a black box only."
    assert (words in markdown) is not both


def test_a_name_has_the_letters_of_its_own_marks_only():
    records = [record("a", marks=[RANDOMISED]), onnx(), record("c")]
    assert [marked_name(name, records) for name in ("a", "onnx", "c")] == ["a [a]", "onnx [b]", "c"]


def test_a_model_is_shown_by_its_evaluation_with_gradients_and_without_the_mark():
    white = record("net", suites=suite("white box"), training_seed=0)
    text = markdown_table([onnx("net", training_seed=0), white])
    assert HEADING not in text
    assert "| net | 90.0 |" in text
