import pytest
from rich.console import Console

from equipoise.report import markdown_columns, rich_columns
from equipoise.report.columns import attack_rows, columns_caption

NAMES = {
    "fgsm": "FGSM",
    "pgd-10": "PGD-10",
    "pgd-20": "PGD-20",
    "cw-30-kappa-50": "C&W",
    "square-5000": "Square",
}


def record(model: str = "one", *suites: dict, **changes) -> dict:
    """Four images at two strengths: one wrong when clean, one broken at the weaker strength, one at
    the stronger, one never."""
    return {
        "model": model,
        "data": "digits",
        "part": "test",
        "norm": "Linf",
        "images": 4,
        "images_sha256": "ab",
        "epsilons": [0.0, 4 / 255, 8 / 255],
        "epsilons_written": ["0", "4/255", "8/255"],
        "broken_at": [0, 1, 2, -1],
        "headline": {"accuracy": [0.75, 0.5, 0.25]},
        "suites": list(suites or [paper()]),
        "training_seed": 0,
    } | changes


def paper(**changes) -> dict:
    """An independent suite; only some of its attacks record the image that is wrong when clean."""
    levels = {"FGSM": [0, -1, -1, -1], "PGD-10": [-1, 2, -1, -1], "Square": [0, 1, 2, -1]}
    attacks = [{"name": name, "broken_at": broken_at} for name, broken_at in levels.items()]
    suite = {"name": "paper", "independent": True, "attacks": attacks, "broken_at": [0, 1, 2, -1]}
    return suite | changes


def cumulative(**changes) -> dict:
    """The first attack breaks image 2 at the strongest; the second, image 1 below that."""
    attacks = [
        {"name": "first", "broken_at": [-1, -1, 2, -1]},
        {"name": "second", "broken_at": [-1, 1, -1, -1]},
    ]
    suite = {"name": "pgd", "attacks": attacks, "broken_at": [0, 1, 2, -1]}
    return suite | changes


def printed(renderable) -> list[str]:
    console = Console(width=80)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get().splitlines()


def test_an_independent_attack_is_scored_alone_on_every_image():
    header, body = attack_rows([record()])
    assert header == ["model", "clean", "worst case", "FGSM", "PGD-10", "Square"]
    assert body == [["one", "75.0", "25.0", "75.0", "50.0", "25.0"]]


def test_a_later_attack_of_a_suite_is_scored_by_the_accuracy_it_leaves():
    header, body = attack_rows([record("one", cumulative())], "pgd")
    # Image 1 fell at the weaker strength, before any attack was tried at the strongest.
    assert header[3:] == ["first", "second"]
    assert body[0][3:] == ["25.0", "25.0"]
    attacks = [
        {"name": "first", "broken_at": [-1, 2, -1, -1]},
        {"name": "second", "broken_at": [-1, -1, 2, -1]},
    ]
    assert attack_rows([record("one", cumulative(attacks=attacks))], "pgd")[1][0][3:] == [
        "50.0",
        "25.0",
    ]


def test_images_broken_by_earlier_suites_count_as_broken():
    gate = {
        "name": "gate",
        "attacks": [{"name": "a", "broken_at": [-1] * 4}, {"name": "b", "broken_at": [-1] * 4}],
        "broken_at": [-1] * 4,
    }
    _, body = attack_rows([record("one", cumulative(), gate)], "gate")
    assert body[0][3:] == ["25.0", "25.0"]


def test_images_broken_by_an_independent_suite_are_attacked_again_by_a_later_one():
    attacks = [{"name": "first", "broken_at": [0, -1, 2, -1]}]
    _, body = attack_rows([record("one", paper(), cumulative(attacks=attacks))], "pgd")
    assert body[0][3:] == ["50.0"]


def test_older_records_name_only_the_attack_that_broke_an_image_first():
    attacks = [{"name": "first"}, {"name": "second"}]
    old = cumulative(attacks=attacks, broken_by=["clean", "second", "second", None])
    old["broken_at"] = [0, 2, 2, -1]
    _, body = attack_rows([record("one", old, broken_at=[0, 2, 2, -1])], "pgd")
    assert body[0][3:] == ["75.0", "25.0"]


def test_several_seeds_become_their_mean_and_standard_deviation():
    second_seed = paper(attacks=[{"name": "FGSM", "broken_at": [0, 2, 2, -1]}])
    first_seed = paper(attacks=[{"name": "FGSM", "broken_at": [0, -1, -1, -1]}])
    records = [record("one", first_seed), record("one", second_seed, training_seed=1)]
    assert attack_rows(records)[1] == [["one", "75.0 (0.0)", "25.0 (0.0)", "50.0 (35.4)"]]
    assert "Mean over 2 seeds" in columns_caption(records)
    assert any(
        line.split() == ["one", "75.0", "(0.0)", "25.0", "(0.0)", "50.0"]
        for line in printed(rich_columns(records, "Title"))
    )


def test_an_attack_that_was_not_run_is_a_dash():
    records = [record("one"), record("two", cumulative())]
    assert attack_rows(records)[1][1] == ["two", "75.0", "25.0", "–", "–", "–"]


def test_a_suite_that_no_record_has_is_refused_with_the_known_suites():
    with pytest.raises(ValueError, match=r"got paper; these records have pgd\. Choose one of them"):
        attack_rows([record("one", cumulative())])


def test_an_independent_and_a_cumulative_suite_with_one_name_are_refused():
    records = [record("one"), record("two", paper(independent=False))]
    with pytest.raises(ValueError, match="paper is independent for one and not for two"):
        attack_rows(records)


def test_records_that_differ_are_refused_with_the_field_that_differs():
    with pytest.raises(ValueError, match="one table of attacks must agree in norm: one has Linf"):
        attack_rows([record(), record("two", norm="L2")])
    with pytest.raises(ValueError, match="a table of attacks needs at least one record, got none"):
        attack_rows([])


def test_markdown_prints_the_worst_case_in_bold_and_diagnostics_in_italics():
    lines = markdown_columns([record()]).splitlines()
    assert lines[0] == "| model | clean | **worst case** | *FGSM* | *PGD-10* | *Square* |"
    assert lines[1] == "|---|---:|---:|---:|---:|---:|"
    assert lines[2] == "| one | 75.0 | **25.0** | 75.0 | 50.0 | 25.0 |"
    assert lines[4] == columns_caption([record()])


def test_the_caption_explains_what_to_quote_and_what_the_columns_are():
    text = columns_caption([record()])
    assert "Accuracy in % on 4 test images of digits, Linf 8/255." in text
    assert "Quote the worst case" in text
    assert "diagnostics" in text
    assert "each attack alone on every image" in text
    left = columns_caption([record("one", cumulative())], "pgd")
    assert "the accuracy left after that attack and all before it" in left


def test_the_papers_attacks_of_five_models_with_seeds_fit_one_table_of_80_columns():
    attacks = [{"name": name, "broken_at": [-1] * 4} for name in NAMES]
    models = ["standard_cifar10_compact", "pgd_at_digits", "afa_digits", "afs_digits", "five"]
    records = [
        record(model, paper(attacks=attacks), training_seed=seed)
        for model in models
        for seed in range(3)
    ]
    lines = printed(rich_columns(records, "Title"))
    assert max(map(len, lines)) <= 80
    (head,) = [line for line in lines if line.startswith("model")]
    assert head.split()[3:] == list(NAMES.values())
    assert "C&W is cw-30-kappa-50, Square is square-5000." in " ".join("\n".join(lines).split())
    assert sum(line.startswith("standard_cifar10_compact") for line in lines) == 1


def test_many_attacks_fit_80_columns_in_several_tables_with_the_worst_case_in_each():
    names = [f"gate-to-{side}-{ratio}" for side in ("clean", "robust") for ratio in range(10)]
    attacks = [{"name": name, "broken_at": [-1] * 4} for name in names]
    records = [record("standard_cifar10_compact_of_a_long_name", paper(attacks=attacks))]
    lines = printed(rich_columns(records, "Title"))
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)
    heads = [line for line in lines if line.startswith("model")]
    assert len(heads) > 1
    assert all("clean" in head and "case" in head for head in heads)
    printed_cells = sum(line.split().count("75.0") for line in lines)
    assert printed_cells == len(names) + len(heads)  # each attack once, clean in each table
