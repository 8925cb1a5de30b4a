import csv
import io
import json
from dataclasses import replace
from importlib import resources
from statistics import mean

import pytest

from equipoise.recipes import RECIPES
from equipoise.report.papers import (
    ENTRIES,
    SCALES,
    Figure,
    Result,
    Table,
    find_entries,
    recipe_of,
    recipes_of,
    rich_entry,
    write_entry,
    write_index,
)
from equipoise.report.papers.entry import AS_PRINTED, MEASURED, WORST, WORST_CASE, Column
from equipoise.report.papers.measurements import Number, accuracies, measure
from equipoise.report.papers.pages import drawing_of
from equipoise.report.papers.published import published_row, published_table
from equipoise.report.papers.style import WIDTH, styled
from equipoise.report.papers.tables import (
    caption,
    cell_text,
    csv_entry,
    latex_entry,
    markdown_entry,
    measured_as,
    table_lines,
)

TINY = SCALES["tiny"]
EPSILONS = [0.0, 0.05, 0.1, 0.15, 0.2]
TABLES = json.loads(
    resources.files("equipoise.report").joinpath("published.json").read_text("utf-8")
)["tables"]
PARTS = [(entry, part) for entry in ENTRIES.values() for part in entry.parts()]


def record(model="m", broken=(0, 1, 3, -1), pgd=(-1, 2, 4, -1), **changes):
    """Four images; the first is wrong when clean."""
    worst = [
        sum(broken_at < 0 or broken_at > level for broken_at in broken) / 4 for level in range(5)
    ]
    attacks = [{"name": name, "broken_at": list(pgd)} for name in ("pgd-10", "pgd-20", "fgsm")]
    attacks.append({"name": "cw-30-kappa-50", "broken_at": list(pgd)})
    return {
        "model": model,
        "data": "digits",
        "part": "test",
        "norm": "Linf",
        "images": 4,
        "images_sha256": "0",
        "epsilons": EPSILONS,
        "epsilons_written": ["0", "0.05", "0.1", "0.15", "0.2"],
        "headline": {
            "accuracy": worst,
            "clean_and_strongest": (worst[0] + worst[-1]) / 2,
            "interval": [[0, 1]] * 5,
        },
        "broken_at": list(broken),
        "training_seed": 0,
        "parameters": 1234567,
        "suites": [
            {"name": "tables", "independent": True, "attacks": attacks, "accuracy": [0.75] * 5},
            {"name": "adaptive", "independent": False, "attacks": [], "accuracy": worst},
        ],
        "fusing_weight": {
            way: [{"mean": 0.9, "std": 0.1}] * 5
            for way in ("through_generator", "through_robust_branch")
        },
        "importance": [0.2, 0.3, 0.5],
        **changes,
    }  # fmt: skip


def result(**changes):
    recipe = {
        "network": {"kind": "WideResNetShape", "depth": 10, "width": 1},
        "method": {"schedule": {"epochs": 3}, "budgets": [0.15, 0.2, 0.25]},
    }
    settings = {"transfer": record(), "multiply_adds": 2_500_000, "record": record()}
    return Result(recipe=recipe, **(settings | changes))


def everything(entry, scale=TINY, seeds=1):
    names = [recipe_of(row, part, scale) for part in entry.parts() for row in part.rows]
    return {name: (result(),) * seeds for name in names if name}


def test_accuracy_under_one_attack_counts_images_broken_when_clean_or_at_lower_strengths():
    assert accuracies(record(), "pgd-20") == [0.75, 0.75, 0.5, 0.5, 0.25]
    assert accuracies(record(), WORST) == [0.75, 0.5, 0.5, 0.25, 0.25]
    assert accuracies(record(), "adaptive")[1] == 0.5
    assert accuracies(record(), "autoattack") is None


def test_an_attack_of_a_cumulative_suite_has_no_accuracy_of_its_own():
    suite = {"name": "quick", "independent": False, "accuracy": [1.0] * 5}
    suite["attacks"] = [{"name": "pgd-margin", "broken_at": [-1] * 4}]
    assert accuracies(record(suites=[suite]), "pgd-margin") is None


def test_a_cell_is_mean_and_deviation_over_seeds():
    results = [result(), result(record=record(broken=(-1, -1, -1, -1)))]
    column = Column(head="clean", published="0", at=0)
    cell = measure(results, column, MEASURED)
    assert (cell.mean, cell.spread, cell.seeds) == (87.5, pytest.approx(17.68, abs=0.01), 2)
    average = Column(head="Avg", published="mean", at=None)
    assert measure(results[:1], average, MEASURED).mean == pytest.approx(45)
    assert measure(results[:1], average, MEASURED).spread is None


def test_a_number_that_one_seed_lacks_is_not_shown():
    black_box = Column(head="BB", published=None, under="transfer")
    assert measure([result(), result(transfer=None)], black_box, WORST_CASE) is None
    suite = {"name": "transfer", "independent": False, "attacks": [], "accuracy": [0.9] * 5}
    moved = [result(transfer=record(suites=[suite]))]
    assert measure(moved, black_box, WORST_CASE).mean == pytest.approx(90)
    assert measure(moved, black_box, AS_PRINTED) is None  # not measured as printed
    sizes = Column(head="Para.", published=None, under="parameters")
    assert measure([result()], sizes, MEASURED).mean == pytest.approx(1.234567)


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        (None, "–"),
        (12.345, "12.345"),
        (328, "328"),
        (Number(mean=12.345, spread=None, seeds=1), "12.3"),
        (Number(mean=12.345, spread=1, seeds=2), "12.3 (1.0)"),
    ],
)
def test_a_cell_is_formatted(cell, written):
    assert cell_text(cell) == written


@pytest.mark.parametrize(("entry", "part"), PARTS, ids=lambda value: getattr(value, "name", None))
def test_every_published_row_and_column_of_an_entry_is_shown(entry, part):
    if part.source is None:
        return
    published = {row["model"] for row in published_table(part.source, part.data)["rows"]}
    labels = [row.label for row in part.rows]
    assert len(set(labels)) == len(labels)
    if isinstance(entry.content, Table):
        assert published <= set(labels)
        keys = {key for label in labels for key in published_row(part.source, part.data, label)}
        assert {column.published for column in entry.content.columns} - {None} <= keys
    else:
        assert published & set(labels)


@pytest.mark.parametrize("table", TABLES, ids=lambda t: f"{t['source']}-{t['data']}")
def test_published_means_agree_with_their_rows(table):
    """Detects typing errors; the papers' own averages are off by up to 0.16."""
    for row in table["rows"]:
        assert all(0 <= value <= 100 for value in row["accuracy"].values())
        if "mean" in row:
            assert row["mean"] == pytest.approx(mean(row["accuracy"].values()), abs=0.17)
        if "trade_off" in row:
            assert row["trade_off"] == pytest.approx(mean(row["accuracy"].values()), abs=0.011)


def test_a_table_has_published_above_measured_lines_and_omits_data_that_is_not_measured():
    entry = ENTRIES["afa-table-1"]
    lines = table_lines(entry, TINY, everything(entry))
    assert {line.source for line in lines if line.part.data == "svhn"} == {"published"}
    pgd_at = [line for line in lines if line.part.data == "cifar10" and line.label == "PGD-AT"]
    assert [line.source for line in pgd_at] == [
        "published",
        "measured, PGD-20",
        "measured, worst case",
    ]
    assert pgd_at[0].cells == (86.9, 81.5, 78.5, 68.8, 46.2, 72.4)
    assert [round(cell.mean) for cell in pgd_at[1].cells] == [75, 75, 50, 50, 25, 55]
    assert "Not measured at scale tiny: svhn." in caption(entry, TINY, everything(entry))


def test_a_caption_describes_published_and_measured_numbers():
    entry = ENTRIES["afs-table-1"]
    text_of_caption = caption(entry, TINY, everything(entry))
    assert "WRN-28-10, PGD at 8/255" in text_of_caption
    assert "digits, 4 test images, WRN-10-1, 3 epochs, strongest ε 0.2, seed 0" in text_of_caption
    assert TINY.note in text_of_caption


def test_a_caption_gives_what_all_stacks_share():
    def stack(mask, alpha):
        method = {"kind": "AFS", "schedule": {"epochs": 3}, "alpha": alpha, "mask": mask}
        unstacked = result()
        method["budgets"] = [0.0, 4 / 255, 8 / 255]
        return replace(unstacked, recipe=unstacked.recipe | {"method": method})

    masked = measured_as([stack("011", 0.3), stack("101", 0.3), result()])
    assert masked.endswith("seed 0; AFS with budgets 0, 4/255, 8/255; α = 0.3")
    assert measured_as([stack(None, 0), stack(None, 1)]).endswith(
        "; AFS with budgets 0, 4/255, 8/255"
    )
    assert measured_as([result()]).endswith("seed 0")


def test_members_of_a_masked_stack_are_labelled_with_their_own_budgets():
    entry, shown = ENTRIES["afs-fig-4b"], result()
    method = shown.recipe["method"] | {"budgets": [0.0, 0.1, 0.15, 0.2, 0.25], "mask": "01011"}
    masked = replace(shown, recipe=shown.recipe | {"method": method})
    results = dict.fromkeys(everything(entry), (masked,))
    with styled():
        figure = entry.content.draw(drawing_of(entry, TINY, results, []))
    ticks = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert ticks == ["0.1", "0.2", "0.25"]


def test_markdown_csv_and_latex_hold_the_same_numbers():
    entry = ENTRIES["afa-table-3"]
    results = everything(entry)
    assert "| PGD-AT + AFA | published | 95.8 | 50.0 | 81.1 | 48.3 | 48.2 |" in markdown_entry(
        entry, TINY, results
    )
    rows = list(csv.DictReader(io.StringIO(csv_entry(entry, TINY, results))))
    (ada,) = [
        row
        for row in rows
        if (row["row"], row["column"], row["source"])
        == ("MART + AFA", "PGD+Ada.", "measured, worst case")
    ]
    assert (ada["data"], float(ada["value"]), ada["seeds"]) == ("digits", 25.0, "1")
    tex = latex_entry(entry, TINY, results)
    assert r"C\&W" in tex
    assert "α" not in latex_entry(ENTRIES["afs-table-2"], TINY, everything(ENTRIES["afs-table-2"]))
    assert tex.count(r"\\") == len(table_lines(entry, TINY, results)) + 1


def test_a_column_names_the_strength_that_was_measured_if_it_is_another():
    entry = ENTRIES["afa-table-1"]
    digits = everything(entry)
    head = markdown_entry(entry, TINY, digits).splitlines()[0]
    assert head == (
        "|  |  | ε = 0 | ε = 1/255 (measured: 0.05) | ε = 2/255 (measured: 0.1) | "
        "ε = 4/255 (measured: 0.15) | ε = 8/255 (measured: 0.2) | Avg |"
    )
    columns = {}
    for _, _, _, source, column, *_ in csv.reader(csv_entry(entry, TINY, digits).splitlines()[1:]):
        columns.setdefault(source == "published", set()).add(column)
    assert columns[True] == {"Avg", *(f"ε = {k}" for k in (0, 1, 2, 4, 8))}
    assert columns[False] == {"Avg", "ε = 0", *(f"ε = 0.{k}" for k in ("05", "1", "15", "2"))}
    for results in digits.values():
        results[0].record["epsilons_written"] = ["0", "1/255", "2/255", "4/255", "8/255"]
    assert "measured:" not in markdown_entry(entry, TINY, digits).splitlines()[0]


def test_records_of_other_images_are_refused():
    entry = ENTRIES["afs-table-6"]
    results = everything(entry)
    results["afs_digits"] = (result(record=record(images_sha256="1")),)
    with pytest.raises(ValueError, match="must agree in images_sha256"):
        table_lines(entry, TINY, results)


def test_several_seeds_have_a_deviation(capsys):
    from rich.console import Console

    entry = ENTRIES["afs-table-3"]
    console = Console(width=120)
    console.print(rich_entry(entry, TINY, everything(entry, seeds=2)))
    printed = capsys.readouterr().out
    assert "25.0 (0.0)" in printed
    assert "101010101" in printed  # published alone


THREE_POINTS = {"points": [[0, 0], [1, 1], [2, 0]], "silhouette": 0.5}
FIGURE_DATA = {
    "channels": {
        "layer": "x",
        "epsilons": EPSILONS,
        "mean": [[0.0, 1.0]] * 5,
        "variance": [[1.0, 2.0]] * 5,
    },
    "transferred_weights": {"epsilons": [0.0, 0.1, 0.2], "w1": [[0.1, 0.5, 0.9]] * 2},
    "embeddings": {"labels": [0, 1, 1], "embeddings": [THREE_POINTS] * 3},
    "weights": {"edges": [0, 1, 2], "models": [{"density": [0.5, 0.5], "kurtosis": 0.1}] * 3},
    "gradients": {"images": [[[[0, 255], [9, 9]]]], "gradients": [[[[0.0, 1.0], [0.1, 0.2]]]] * 6},
}


@pytest.mark.parametrize("name", [n for n, e in ENTRIES.items() if isinstance(e.content, Figure)])
def test_a_figure_labels_its_models_and_is_a_column_wide(name):
    entry = ENTRIES[name]
    data = [FIGURE_DATA[entry.content.needs]] if entry.content.needs else []
    content = io.StringIO()
    with styled():
        figure = entry.content.draw(drawing_of(entry, TINY, everything(entry), data))
        figure.savefig(content, format="svg")
    assert figure.get_figwidth() == WIDTH
    words = content.getvalue()
    shown = [row for row in entry.content.part.rows if recipe_of(row, entry.content.part, TINY)]
    if len(shown) > 1:
        assert [row.label for row in shown if row.label not in words] == []


def test_the_same_figure_is_written_to_the_same_bytes(tmp_path):
    entry = ENTRIES["afs-fig-4b"]
    first = write_entry(entry, TINY, everything(entry), [], tmp_path / "a")
    again = write_entry(entry, TINY, everything(entry), [], tmp_path / "b")
    assert [path.suffix for path in first] == [".svg", ".png", ".pdf", ".md"]
    for path, path_again in zip(first, again, strict=True):
        assert path.read_bytes() == path_again.read_bytes(), path.name


def test_the_index_shows_the_entries_that_have_files(tmp_path):
    entry = ENTRIES["afs-table-5"]
    write_entry(entry, TINY, {}, [], tmp_path)
    page = write_index(list(ENTRIES.values()), TINY, tmp_path).read_text()
    assert "## AFS Table V:" in page
    assert "| published | 70.28 | 28.43 | 26.97 | 48.62 |" in page
    assert "Table IV" not in page


def test_each_entry_is_found_once_and_unknown_names_are_refused():
    assert find_entries(["afs-fig-1", "all"])[0] == ENTRIES["afs-fig-1"]
    assert len(find_entries(["all", "afs-fig-1"])) == len(ENTRIES)
    with pytest.raises(
        ValueError, match=r"no table or figure 'afs-tabel-1'\. Did you mean afs-tab"
    ):
        find_entries(["afs-tabel-1"])
    with pytest.raises(ValueError, match="needs at least one table or figure, got none"):
        find_entries([])


def test_unknown_published_values_are_refused():
    with pytest.raises(ValueError, match="no published values of 'x' on cifar10"):
        published_table("x", "cifar10")
    assert published_row(TABLES[0]["source"], TABLES[0]["data"], "nobody") == {}


def ratios(*alone):
    """A record of suite ``ratios`` with the accuracy of each ratio alone."""
    attacks = [{"name": f"gate-to-clean-{k}", "alone": value} for k, value in enumerate(alone)]
    return record(suites=[{"name": "ratios", "independent": True, "attacks": attacks}])


def test_table_3_shows_what_the_paper_prints_beside_our_worst_case():
    """At the strongest strength alone, and at the one ratio that is worst for the whole set."""
    attacks = [
        {"name": name, "broken_at": [-1, 2, 4, -1], "alone": alone}
        for name, alone in (("fgsm", 0.75), ("pgd-20", 0.5), ("cw-30-kappa-50", 0.25))
    ]
    suites = [
        {"name": "tables", "independent": True, "attacks": attacks, "accuracy": [0.75] * 5},
        {"name": "adaptive", "independent": False, "attacks": [], "accuracy": [0.25] * 5},
    ]
    entry = ENTRIES["afa-table-3"]
    found = result(record=record(suites=suites), ratios=ratios(0.75, 0.5))
    lines = table_lines(entry, TINY, {"afa_digits": (found,)})
    printed, worst = (line for line in lines if line.source.startswith("measured"))
    assert (printed.source, worst.source) == ("measured, as printed", "measured, worst case")
    assert [cell.mean for cell in printed.cells[:5]] == [75, 50, 75, 25, 50]
    assert [cell.mean for cell in worst.cells[:5]] == [75, 25, 25, 25, 25]
    assert printed.cells[5:] == worst.cells[5:]


def test_records_without_these_numbers_have_no_line_as_printed():
    entry = ENTRIES["afa-table-3"]
    lines = table_lines(entry, TINY, {"afa_digits": (result(),)})
    own = [line for line in lines if line.label == "PGD-AT + AFA"]
    assert [line.source for line in own] == ["published", "measured, worst case"]
    assert own[1].cells[0].mean == 75


def test_only_table_3_needs_the_ratios():
    assert [name for name, entry in ENTRIES.items() if entry.suites_apart()] == ["afa-table-3"]


def test_figure_1_of_afs_shows_the_methods_of_its_caption():
    (part,) = ENTRIES["afs-fig-1"].parts()
    assert [row.label for row in part.rows] == [
        *("FAT", "TLA", "TRADES", "LBGAT+TRADES", "PGD-AT", "AFS"),
    ]


def test_figure_6_of_afa_has_a_point_for_each_eighth_of_the_surrogates_strengths():
    entry = ENTRIES["afa-fig-6"]
    assert not entry.needs_models()
    strengths = [0.2 * k / 16 for k in range(16)]
    data = {"epsilons": strengths, "w1": [strengths, strengths]}
    drawing = drawing_of(entry, TINY, everything(entry), [data])
    with styled():
        panel = entry.content.draw(drawing).axes[0]
    points = [line for line in panel.lines if str(line.get_label()).endswith("the surrogate")]
    assert [line.get_label() for line in points] == [
        "AFA, from the surrogate",
        "AFA, plain stage II, from the surrogate",
    ]
    means = [(a + b) / 2 for a, b in zip(strengths[::2], strengths[1::2], strict=True)]
    assert list(points[0].get_xdata()) == pytest.approx(means)
    assert list(points[0].get_ydata()) == pytest.approx(means)
    assert not any(line.get_label() == "surrogate" for line in panel.lines)


@pytest.mark.parametrize("scale", SCALES.values(), ids=lambda scale: scale.name)
@pytest.mark.parametrize("entry", ENTRIES.values(), ids=lambda entry: entry.name)
def test_records_of_one_table_have_the_strengths_of_their_recipes_in_common(entry, scale):
    for part in entry.parts():
        strengths = {RECIPES[name]().evaluation.epsilons for name in recipes_of(part, scale)}
        assert len(strengths) <= 1
