import math

import numpy as np
import pytest
from rich.console import Console

from equipoise.evaluation.statistics import wilson_interval
from equipoise.report import compare_models, markdown_comparison, rich_comparison
from equipoise.report.compare import TRADE_OFF, broken_at, mcnemar, paired_interval
from equipoise.report.table import check_comparable

# Per image: right at every strength (-1), broken at the strongest (2), at the weaker one (1), wrong
# when clean (0). The second model wins images 2 and 5 at the strongest, and loses image 0.
FIRST = [-1, -1, 2, 1, 0, 2, -1, 0]
SECOND = [2, -1, -1, 1, 0, -1, -1, 0]


def record(model: str = "one", levels: list[int] | None = None, **changes) -> dict:
    levels = FIRST if levels is None else levels
    return {
        "model": model,
        "data": "digits",
        "part": "test",
        "norm": "Linf",
        "images": len(levels),
        "images_sha256": "ab",
        "epsilons": [0.0, 4 / 255, 8 / 255],
        "epsilons_written": ["0", "4/255", "8/255"],
        "broken_at": levels,
        "suites": [{"name": "pgd", "attacks": [{"name": "margin", "steps": 10, "seconds": 1.0}]}],
        "training_seed": 0,
    } | changes


def from_wins(wins: int, losses: int, count: int = 450) -> list[dict]:
    """Two records that differ in ``wins + losses`` images, at the strongest strength only."""
    rest = count - wins - losses
    first = [2] * wins + [-1] * losses + [-1] * rest
    return [record("one", first), record("two", [-1] * wins + [2] * losses + [-1] * rest)]


def printed(renderable) -> list[str]:
    console = Console(width=80)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get().splitlines()


def test_differences_are_counted_image_by_image_at_every_strength():
    (compared,) = compare_models([record(), record("two", SECOND)])
    assert (compared.model, compared.baseline, compared.seeds) == ("two", "one", ((0, 0),))
    assert [row.label for row in compared.rows] == ["clean", "ε 4/255", "ε 8/255", TRADE_OFF]
    assert [row.baseline * 8 for row in compared.rows] == [6, 5, 3, 4.5]
    assert [row.accuracy * 8 for row in compared.rows] == [6, 5, 4, 5]
    assert [row.difference * 8 for row in compared.rows] == [0, 0, 1, 0.5]


def test_the_interval_of_agresti_and_min_equals_a_calculation_by_hand():
    # 450 images, 30 won and 12 lost. Half an image more in each cell: 30.5, 12.5, n = 452.
    # Centre 18 / 452 = 0.039823. Variance (43 - 18 ** 2 / 452) / 452 ** 2 = 0.00020696, its root
    # 0.014386, times 1.96 is 0.028197.
    (compared,) = compare_models(from_wins(30, 12))
    assert compared.rows[2].difference == pytest.approx(18 / 450)
    assert compared.rows[2].interval == pytest.approx((0.011626, 0.068020), abs=2e-6)


def test_the_interval_equals_that_of_rs_propcis():
    # R's PropCIs: diffpropci.mp(b = 40, c = 20, n = 160) gives -0.21601726 to -0.03089632.
    low, high = paired_interval([-1.0] * 40 + [1.0] * 20 + [0.0] * 100, z=1.959963984540054)
    assert (low, high) == pytest.approx((-0.21601726, -0.03089632), abs=1e-8)


def test_the_interval_of_the_trade_off_equals_a_calculation_by_hand():
    # Trade-offs of 8 images, second less first: -.5 (image 0), +.5 (2), +.5 (5), else 0. Two images
    # more: sum 0.5, squares 3 * .25 + 1 = 1.75, n = 10. Centre 0.05; half of it
    # 1.96 * sqrt(1.75 - .025) / 10 = 0.257424.
    (compared,) = compare_models([record(), record("two", SECOND)])
    assert compared.rows[-1].interval == pytest.approx((-0.207424, 0.307424), abs=1e-6)
    assert compared.rows[-1].p_values == ()


@pytest.mark.parametrize(
    ("wins", "losses", "expected"),
    [
        (10, 2, 2 * (1 + 12 + 66) / 4096),
        (2, 10, 2 * (1 + 12 + 66) / 4096),
        (1, 0, 1.0),
        (6, 0, 2 / 64),
        (3, 3, 1.0),
        (0, 0, 1.0),
    ],
)
def test_mcnemars_p_value_is_twice_the_binomial_tail(wins, losses, expected):
    assert mcnemar(wins, losses) == pytest.approx(expected, rel=1e-12)


def test_mcnemars_p_value_is_right_for_ten_thousand_images():
    assert mcnemar(5000, 5000) == 1.0
    z = (5200 - 0.5 - 5000) / 50  # normal approximation with continuity correction
    assert mcnemar(4800, 5200) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=0.02)
    assert mcnemar(0, 10_000) == 0.0  # 2 ** -9999 is below every float


def test_mcnemar_refuses_negative_counts():
    with pytest.raises(ValueError, match="0 or more, got 3 and -1"):
        mcnemar(3, -1)


@pytest.mark.parametrize("differences", [[], [0.0, 1.5], [float("nan")]])
def test_an_interval_of_no_differences_or_of_percentages_is_refused(differences):
    with pytest.raises(ValueError, match=r"one or more numbers in \[-1, 1\]"):
        paired_interval(differences)


def test_the_interval_stays_in_range_and_has_width_where_the_models_agree():
    assert paired_interval([1.0] * 3)[1] == 1.0
    low, high = paired_interval([0.0] * 450)
    assert low == -high
    assert high == pytest.approx(1.96 / 452)


def coverage(data: np.ndarray, truth: float) -> float:
    """Share of data sets (rows) whose interval holds the truth."""
    held = [low <= truth <= high for low, high in map(paired_interval, data.tolist())]
    return sum(held) / len(held)


@pytest.mark.parametrize(("wins", "losses"), [(0.10, 0.06), (0.03, 0.03), (0.30, 0.05)])
def test_the_interval_covers_the_true_difference_in_95_percent_of_data_sets(wins, losses):
    random = np.random.default_rng(0)
    data = random.choice([1.0, -1.0, 0.0], size=(2000, 450), p=[wins, losses, 1 - wins - losses])
    assert 0.93 <= coverage(data, wins - losses) <= 0.97


def test_the_interval_of_the_trade_off_covers_the_true_difference_in_95_percent_of_data_sets():
    random = np.random.default_rng(1)
    chances = [0.02, 0.10, 0.07, 0.01, 0.80]
    data = random.choice([1.0, 0.5, -0.5, -1.0, 0.0], size=(2000, 450), p=chances)
    assert 0.93 <= coverage(data, 0.02 + 0.05 - 0.035 - 0.01) <= 0.97


def test_the_interval_over_three_seeds_covers_their_difference_on_all_images():
    # Seeds agree on an image more than by chance: each image has its own chance of a win.
    random = np.random.default_rng(2)
    hard = random.random((2000, 450, 1)) < 0.3
    won = random.random((2000, 450, 3)) < np.where(hard, 0.4, 0.02)
    lost = ~won & (random.random((2000, 450, 3)) < np.where(hard, 0.3, 0.01))
    data = (won.astype(float) - lost).mean(axis=2)
    truth = 0.3 * (0.4 - 0.6 * 0.3) + 0.7 * (0.02 - 0.98 * 0.01)
    assert 0.93 <= coverage(data, truth) <= 0.97


@pytest.mark.parametrize(
    ("wins", "losses", "verdict"),
    [
        (30, 12, "better"),
        (12, 30, "worse"),
        (20, 15, "no significant difference"),
        (0, 0, "no significant difference"),
    ],
)
def test_the_verdict_depends_on_whether_the_interval_contains_0(wins, losses, verdict):
    (compared,) = compare_models(from_wins(wins, losses))
    assert compared.rows[2].verdict == verdict
    assert compared.rows[0].verdict == "no significant difference"


def test_pairing_by_image_finds_a_difference_that_separate_intervals_miss():
    both = [2] * 200 + [-1] * 228  # broken, and right, in either model
    records = [
        record("one", [2] * 16 + [-1] * 6 + both),
        record("two", [-1] * 16 + [2] * 6 + both),
    ]
    right = [sum(level == -1 for level in one_record["broken_at"]) for one_record in records]
    assert wilson_interval(right[0], 450)[1] > wilson_interval(right[1], 450)[0]
    (compared,) = compare_models(records)
    assert compared.rows[2].verdict == "better"


def test_equal_seeds_are_paired_and_averaged_for_each_image():
    ones = [record("one", [2, 2, -1, -1], training_seed=seed) for seed in (0, 1)]
    twos = [
        record("two", [-1, 2, -1, 2], training_seed=1),  # one won, one lost
        record("two", [-1, -1, -1, 2], training_seed=0),  # two won, one lost
    ]
    (compared,) = compare_models([*ones, *twos])
    row = compared.rows[2]
    assert compared.seeds == ((1, 1), (0, 0))
    assert row.by_seed == (0.0, 0.25)
    assert row.difference == 0.125
    assert row.spread == pytest.approx(0.25 / math.sqrt(2))
    assert row.agreeing == 1
    assert row.p_values == (1.0, 1.0)
    # Means over seeds 1, .5, 0, -1: four images, not eight.
    assert row.interval == paired_interval([1.0, 0.5, 0.0, -1.0])


def test_a_seed_that_only_one_model_has_is_left_out_and_reported():
    records = [record("one", training_seed=seed) for seed in (0, 1, 2)]
    records += [record("two", SECOND, training_seed=seed) for seed in (2, 1, 7)]
    (compared,) = compare_models(records)
    assert compared.seeds == ((2, 2), (1, 1))
    assert compared.left_out == (0, 7)
    assert "training seeds 2, 1 (without 0, 7, not in both)" in markdown_comparison(records)


def test_single_records_of_different_seeds_are_compared_and_their_seeds_printed():
    records = [record(), record("two", SECOND, training_seed=4)]
    (compared,) = compare_models(records)
    assert (compared.seeds, compared.left_out) == (((4, 0),), ())
    assert "**two** against one, training seeds 4 and 0" in markdown_comparison(records)


def test_models_without_a_seed_in_common_are_refused():
    records = [record("one", training_seed=seed) for seed in (0, 1)]
    with pytest.raises(
        ValueError, match=r"must have one in common: one has 0, 1, two has 2; train one"
    ):
        compare_models([*records, record("two", training_seed=2)])


def test_two_records_of_one_model_and_seed_are_refused():
    with pytest.raises(ValueError, match="got two of one with seed 0; leave one out"):
        compare_models([record(), record("two"), record()])


def test_one_model_alone_is_refused():
    with pytest.raises(ValueError, match="at least two models, got only one; also name a record"):
        compare_models([record(), record(training_seed=1)])
    with pytest.raises(ValueError, match="a comparison needs at least one record, got none"):
        compare_models([])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data", "cifar10"),
        ("part", "validation"),
        ("norm", "L2"),
        ("epsilons", [0.0, 0.1, 0.2]),
        ("images", 10),
        ("images_sha256", "cd"),
        ("images_sha256", None),
    ],
)
def test_records_of_other_images_or_strengths_are_refused_with_the_field_that_differs(key, value):
    with pytest.raises(ValueError, match=rf"agree in {key}: one has .*, two has .*; evaluate both"):
        compare_models([record(), record("two", **{key: value})])


def test_a_record_without_a_part_is_of_test_images():
    old = record()
    del old["part"]
    check_comparable([old, record("two")], "table")
    with pytest.raises(ValueError, match="agree in part: one has test, two has validation"):
        check_comparable([old, record("two", part="validation")], "table")


def test_the_suites_of_an_older_record_give_the_strength_that_broke_each_image():
    old = record(suites=[{"broken_at": [0, 2, -1, -1]}, {"broken_at": [-1, 1, 2, -1]}], images=4)
    del old["broken_at"]
    assert broken_at(old) == [0, 1, 2, -1]


def test_a_record_with_too_few_images_is_refused():
    with pytest.raises(ValueError, match="got 8 for 9 images of two; evaluate the model again"):
        compare_models([record(images=9, levels=[-1] * 9), record("two", images=9)])


def test_terminal_tables_fit_80_columns():
    records = [record("standard_cifar10_compact", [-1] * 200, training_seed=s) for s in range(3)]
    for model, levels in (("afs_0_8_cifar10_compact", [0] * 200), ("two", [2, -1] * 100)):
        records += [record(model, levels, training_seed=seed) for seed in range(3)]
    for chosen in (records, records[::3]):
        lines = printed(rich_comparison(chosen, "Title"))
        assert max(map(len, lines)) <= 80
        assert not any("…" in line for line in lines)
        assert lines[0].rstrip() == "Title"
        body = [line for line in lines if line.startswith(f"{TRADE_OFF} ")]
        assert len(body) == 2
        assert "-100.0" in body[0]
        assert body[0].rstrip().endswith("worse")


def test_a_row_names_accuracies_difference_interval_p_and_verdict():
    lines = markdown_comparison(from_wins(30, 12)).splitlines()
    assert lines[0] == "**two** against one"
    assert lines[2] == "| accuracy | model | baseline | diff | 95 % interval | p | verdict |"
    assert lines[6] == "| ε 8/255 | 97.3 | 93.3 | +4.0 | +1.2 to +6.8 | 0.0079 | better |"
    assert lines[7].startswith(f"| {TRADE_OFF} | 98.7 | 96.7 | +2.0 | ")
    assert " | – | " in lines[7]


def test_a_row_of_several_seeds_has_their_spread_instead_of_p():
    records = [record("one", training_seed=seed) for seed in (0, 1)]
    records += [record("two", FIRST), record("two", SECOND, training_seed=1)]
    lines = markdown_comparison(records).splitlines()
    assert (
        lines[2] == "| accuracy | model | baseline | diff | 95 % interval | sd | agree | verdict |"
    )
    assert "| ε 8/255 | 43.8 | 37.5 | +6.2 |" in lines[6]
    assert lines[6].endswith("| 8.8 | 1/2 | no significant difference |")


def test_a_difference_of_zero_is_printed_as_plus_zero():
    assert "| +0.0 | -0.4 to +0.4 | 1.0000 |" in markdown_comparison(from_wins(0, 0))


def test_the_caption_explains_what_the_interval_covers():
    single = [record(), record("two", SECOND)]
    text = markdown_comparison(single)
    assert "8 test images of digits, Linf, worst case per image" in text
    assert "covers the choice of test images for these trained models; it does not cover" in text
    assert "exact McNemar" in text
    assert "Means over seeds" not in text
    assert "do not identify their images" not in text
    assert "Caution" not in text
    pooled = markdown_comparison(
        [*single, *(one_record | {"training_seed": 1} for one_record in single)]
    )
    assert "Means over seeds. sd:" in pooled
    assert "McNemar" not in pooled
    unknown = [{**one_record, "images_sha256": None} for one_record in single]
    assert "are assumed to be the same" in markdown_comparison(unknown)


def test_the_caption_warns_of_attacks_with_other_settings_but_not_of_other_run_times():
    def attacked(model: str, **settings) -> dict:
        attack = {"name": "margin", "steps": 10, "seconds": 1.0} | settings
        return record(model, suites=[{"name": "pgd", "attacks": [attack]}])

    assert "Caution" not in markdown_comparison([attacked("one"), attacked("two", seconds=9.0)])
    seeds = [attacked("two", steps=5), attacked("two") | {"training_seed": 1}]
    text = markdown_comparison([attacked("one"), *seeds, attacked("three")])
    assert "Caution: not attacked as the first model was: two." in text


def test_the_caption_warns_of_a_missing_suite_unless_only_some_models_can_have_it():
    def tried(model: str, *suites: str) -> dict:
        return record(model, suites=[{"name": s, "attacks": [{"name": "a"}]} for s in suites])

    assert "Caution" not in markdown_comparison(
        [tried("one", "quick", "adaptive"), tried("two", "quick")]
    )
    for pair in ((("quick", "standard"), ("quick",)), (("quick",), ("quick", "standard"))):
        text = markdown_comparison([tried("one", *pair[0]), tried("two", *pair[1])])
        assert "Caution: not attacked as the first model was: two." in text
