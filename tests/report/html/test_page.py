"""The HTML report, without a browser; ``test_page_in_browser.py`` opens it in one."""

import base64
import copy
import csv
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import plotly.graph_objects
import plotly.offline
import pytest
from headline_records import RECORD
from real_records import HOSTILE, RESULTS, digits, gallery

from equipoise.evaluation.statistics import wilson_interval
from equipoise.records.files import iterate_records
from equipoise.report.html.models import models_of, published_beside
from equipoise.report.html.page import html_report, table_as_csv, write_page
from equipoise.report.run_files import gallery_path
from equipoise.runtime.errors import RunError
from equipoise.runtime.files import write_json


class Page(HTMLParser):
    """The cells of the headline table, the scripts, and the links of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.scripts: list[tuple[dict, str]] = []
        self.links: list[str] = []
        self.inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.links += [found[name] for name in ("src", "href", "action") if name in found]
        if tag == "tr" and found.get("data-model") is not None:
            self.rows.append([])
        if tag == "script":
            self.scripts.append((found, ""))
        if tag in ("td", "th", "script", "thead", "section"):
            self.inside.append(tag)
        if tag in ("td", "th") and self.rows and "data-value" in found:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        if self.inside and self.inside[-1] == tag:
            self.inside.pop()

    def handle_data(self, data):
        if self.inside[-1:] == ["script"]:
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        elif self.inside and self.inside[-1] in ("td", "th") and self.rows and self.rows[-1]:
            self.rows[-1][-1] += data

    def data(self, name: str):
        (text,) = [text for given, text in self.scripts if given.get("id") == f"data-{name}"]
        return json.loads(text)


def test_a_changed_record_changes_table_curve_and_download():
    ((path, record),) = digits("pgd_at_digits__seed3")
    record["headline"] |= {
        "accuracy": [0.9876, 0.7654, 0.5432, 0.3211, 0.1234],
        "average": 0.5481,
        "clean_and_strongest": 0.5546,
    }
    page = Page(html_report([(path, record)]))
    low, high = wilson_interval(round(0.1234 * 450), 450)
    (cells,) = page.rows
    assert cells[1].startswith("98.8")
    assert cells[5].startswith(f"12.3{100 * low:.1f} to {100 * high:.1f}")
    assert cells[6:8] == ["54.8", "55.5"]
    assert page.data("figures")["curves"]["data"][1]["y"] == [98.76, 76.54, 54.32, 32.11, 12.34]
    table = list(csv.DictReader(io.StringIO(page.data("csv"))))
    assert [float(row["accuracy"]) for row in table[:5]] == record["headline"]["accuracy"]
    assert page.data("records") == [record]


def test_rows_are_sorted_by_the_average():
    pairs = digits("standard_digits", "pgd_at_digits", "afs_digits")
    page = Page(html_report(pairs))
    scores = [float(row[6].split()[0]) for row in page.rows]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 3


def test_several_seeds_have_a_mean_a_spread_and_the_interval_of_the_mean():
    pairs = digits("pgd_at_digits")[:2]
    for (_, record), clean in zip(pairs, (0.9, 0.7), strict=True):
        record["headline"]["accuracy"][0] = clean
    (model,) = models_of(pairs)
    value = model.accuracies[0]
    assert value.mean == pytest.approx(0.8)
    assert value.spread == pytest.approx(0.2 / 2**0.5)
    assert value.interval == wilson_interval(360, 450)


def test_the_fuller_of_two_evaluations_of_one_trained_model_is_shown():
    full = digits("afa_digits__seed3")[0]
    usual = (full[0].with_name("usual.json"), full[1] | {"suites": full[1]["suites"][:1]})
    (model,) = models_of([usual, full])
    assert model.paths == (full[0],)
    assert "1 less complete omitted" in html_report([usual, full])


@pytest.mark.slow
def test_text_in_a_record_cannot_become_markup_or_script():
    ((path, record),) = digits("afa_digits__seed3")
    record["model"] = record["training_commit"] = record["data"] = HOSTILE
    record["self_checks"][0] |= {"verdict": "warn", "found": HOSTILE, "meaning": HOSTILE}
    record["suites"][0]["attacks"][0]["name"] = HOSTILE
    record["broken_by"] = [f"quick/{HOSTILE}"] * 450
    text = html_report([(path, record)])
    page = Page(text)
    assert len(page.scripts) == 5  # three of data, two of ours
    assert "<b onclick" not in text
    assert page.data("records")[0]["model"] == HOSTILE
    assert "<script" not in json.dumps(page.data("figures"))


@pytest.mark.slow
def test_only_the_pages_own_scripts_can_run_and_nothing_is_fetched():
    text = html_report(digits("standard_digits__seed3"))
    page = Page(text)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1].replace("&#39;", "'")
    running = [body for given, body in page.scripts if "type" not in given]
    hashes = [base64.b64encode(hashlib.sha256(b.encode()).digest()).decode() for b in running]
    assert len(hashes) == 2
    assert policy.endswith("script-src " + " ".join(f"'sha256-{digest}'" for digest in hashes))
    assert policy.startswith("default-src 'none'")
    assert page.links == []


@pytest.mark.slow
def test_the_same_records_give_the_same_bytes():
    assert html_report(digits("afs_digits")) == html_report(digits("afs_digits"))


def test_a_record_of_an_early_version_still_makes_a_page():
    """It has no checks, no environment, and does not say what broke which image."""
    text = html_report([(Path("records/x.json"), copy.deepcopy(RECORD))])
    assert Page(text).rows[0][2].startswith("50.0")
    assert "hold no self-checks" in text
    assert "do not say which attack" in text


@pytest.mark.slow
def test_a_record_of_clean_images_alone_makes_a_page():
    ((path, record),) = digits("standard_digits__seed3")
    record |= {"epsilons": [0.0], "epsilons_written": ["0"]}
    record["headline"]["accuracy"] = record["headline"]["accuracy"][:1]
    assert len(Page(html_report([(path, record)])).rows[0]) == 5


def test_records_at_other_strengths_are_refused():
    pairs = digits("standard_digits")[:2]
    pairs[1][1]["epsilons"] = [0.0, 0.3]
    with pytest.raises(ValueError, match="must agree in epsilons"):
        html_report(pairs)


def test_a_name_cannot_become_a_formula_in_a_spreadsheet():
    ((path, record),) = digits("standard_digits__seed3")
    record["model"] = "=1+1"
    rows = list(csv.reader(io.StringIO(table_as_csv(models_of([(path, record)])))))
    assert rows[1][0] == "'=1+1"


@pytest.mark.slow
def test_every_image_counts_for_exactly_one_attack():
    for model in models_of(digits("afa_digits__", "standard_digits")):
        assert sum(model.broken_by().values()) == pytest.approx(450)
    ((path, record),) = digits("standard_digits__seed3")
    del record["broken_by"]
    assert "do not say which attack" in html_report([(path, record)])


def test_published_results_are_shown_only_for_the_same_data_norm_and_strength():
    cifar10 = next(iterate_records(RESULTS / "cifar10"))
    record = cifar10[1]
    assert record["data"] == "cifar10-jpeg"
    names = {(row["model"], row["source"][-8:]) for row in published_beside(record)}
    assert ("AFS", "Table IV") in names
    assert ("PGD-AT + AFA", " Table 1") in names
    assert published_beside(record | {"norm": "L2"}) == []
    assert published_beside(record | {"data": "digits"}) == []
    assert published_beside(record | {"epsilons_written": ["0", "16/255"]}) == []
    text = html_report([cifar10])
    assert "AFS, arXiv:2103.13124, Table IV" in text
    traces = Page(text).data("figures")["scatter"]["data"]
    assert [trace["meta"] for trace in traces] == [0, "published"]


def test_published_results_agree_with_their_published_means():
    text = (RESULTS.parent / "src/equipoise/report/published.json").read_text()
    rows = [row for table in json.loads(text)["tables"] for row in table["rows"]]
    summed = [row for row in rows if "mean" in row or "trade_off" in row]
    assert len(summed) == 40
    for row in summed:
        values = list(row["accuracy"].values())
        if "mean" in row:  # AFA's own means are off by up to 0.16
            assert sum(values) / len(values) == pytest.approx(row["mean"], abs=0.17)
        else:
            assert sum(values) / 2 == pytest.approx(row["trade_off"], abs=0.0051)


def test_fusing_weights_of_single_images_are_drawn_if_a_record_has_them():
    ((path, record),) = digits("afa_digits__seed3")
    for point in record["fusing_weight"]["through_generator"]:
        point.pop("per_image", None)  # older records have none
    old = html_report([(path, record)])
    assert "hold no weights of single images" in old
    assert "weights-per-image" not in Page(old).data("figures")
    for number, point in enumerate(record["fusing_weight"]["through_generator"]):
        point["per_image"] = [0.1 * number, 0.2 * number]
    drawn = Page(html_report([(path, record)])).data("figures")["weights-per-image"]["data"]
    assert drawn[0]["y"] == pytest.approx(
        [0, 0.1, 0.2, 0.3, 0.4, None, 0, 0.2, 0.4, 0.6, 0.8, None]
    )


def test_importance_names_budgets_if_the_run_folder_has_the_recipe(tmp_path):
    ((path, record),) = digits("afs_digits__seed3")
    bars = Page(html_report([(path, record)])).data("figures")["importance"]["data"][0]
    assert bars["x"] == ["member 0", "member 1", "member 2"]
    assert bars["y"] == pytest.approx([100 * x for x in record["importance"]], abs=0.01)
    record_path = tmp_path / "records" / "x.json"
    write_json(tmp_path / "recipe.json", {"method": {"budgets": [0.0, 4 / 255, 0.25]}})
    text = html_report([(record_path, record)])
    bars = Page(text).data("figures")["importance"]["data"][0]
    assert [name.split("<br>")[1] for name in bars["x"]] == ["ε = 0", "ε = 4/255", "ε = 0.25"]
    named = {
        "extractors": ["runs/a", "runs/b/", "m:<c>", "d"],
        "mask": "1110",
        "budgets": [0.1] * 3,
    }
    write_json(tmp_path / "recipe.json", {"method": named})
    bars = Page(html_report([(record_path, record)])).data("figures")["importance"]["data"][0]
    assert [name.split("<br>")[1] for name in bars["x"]] == ["a", "b", "m:&lt;c&gt;"]
    assert "There is no recipe for this record" not in text


def test_training_curves_come_from_the_run_folder_or_are_reported_missing(tmp_path):
    ((_, record),) = digits("standard_digits__seed3")
    path = tmp_path / "records" / "x.json"
    sentence = "There are no training curves beside these records."
    assert sentence in html_report([(path, record)])
    lines = [
        {"epoch": 0, "train": {"loss": 2.0}, "validation": {"0": 0.5, "0.0313725": 0.25}},
        {"epoch": 1, "train": {"loss": 1.0}},
    ]
    stage = tmp_path / "stages" / "network"
    stage.mkdir(parents=True)
    cut_short = "\n".join(map(json.dumps, lines)) + '\n{"epoch": 2, "tr'
    (stage / "metrics.jsonl").write_text(cut_short)
    text = html_report([(path, record)])
    figures = Page(text).data("figures")
    assert figures["loss-0"]["data"][0]["y"] == [2.0, 1.0]
    names = {trace["name"]: trace["y"] for trace in figures["accuracy-0"]["data"]}
    assert names == {"network, ε = 0": [50.0], "network, ε = 8/255": [25.0]}
    assert "no training curves" not in text
    other = record | {"model": "other", "training_seed": 3}
    both = html_report([(path, record), (tmp_path / "other" / "records" / "y.json", other)])
    assert "There are no training curves for other, seed 3." in both


def test_a_gallery_is_shown_with_the_recorded_result_of_each_image(tmp_path):
    ((_, record),) = digits("standard_digits__seed3")
    path = tmp_path / "records" / "x.json"
    assert 'id="gallery"' not in html_report([(path, record)])
    write_json(gallery_path(path), gallery(record))
    record["broken_at"][0], record["broken_by"][0] = -1, None
    record["broken_at"][7], record["broken_by"][7] = 2, "quick/some-attack"
    text = html_report([(path, record)])
    shown = text.split('id="gallery"')[1].split("</section>")[0]
    assert shown.count("<article") == 2
    assert "✓ still correct" in shown
    assert "No attack broke it." in shown
    assert "✕ fooled" in shown
    assert "First broken at ε = 0.1 by quick/some-attack." in shown
    assert re.search(r"class 3 <small>90&nbsp;%</small> → class 8", shown)


def test_a_gallery_of_other_images_is_refused(tmp_path):
    ((_, record),) = digits("standard_digits__seed3")
    path = tmp_path / "records" / "x.json"
    write_json(gallery_path(path), gallery(record) | {"images_sha256": "0"})
    with pytest.raises(RunError, match="make it again with --gallery"):
        html_report([(path, record)])


def test_every_figure_is_valid_for_the_version_of_plotly_that_draws_it(tmp_path):
    """plotly's Python package, which the page does not need, knows the schema of plotly.js."""
    pairs = digits("afa_digits__seed3", "afs_digits__seed3", "pgd_at_digits")
    pairs = [(tmp_path / str(n) / "records" / "x.json", r) for n, (_, r) in enumerate(pairs)]
    for point in pairs[0][1]["fusing_weight"]["through_generator"]:
        point["per_image"] = [point["mean"], 0.96]
    stage = tmp_path / "0" / "stages" / "network"
    stage.mkdir(parents=True)
    epoch = {"epoch": 0, "train": {"loss": 2.0}, "validation": {"0": 0.5}}
    (stage / "metrics.jsonl").write_text(json.dumps(epoch))
    text = html_report(pairs)
    figures = Page(text).data("figures")
    assert len(figures) == 7
    for figure in figures.values():
        plotly.graph_objects.Figure(figure)  # refuses unknown properties and values
    version = re.search(r"plotly\.js \(basic - minified\) v(\d+)", text)[1]
    assert version == plotly.offline.get_plotlyjs_version().split(".")[0]


def test_a_page_is_written_completely_or_not_at_all(tmp_path):
    write_page(digits("standard_digits__seed3"), tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < 3e6
    with pytest.raises(ValueError, match="a report needs at least one record, got none"):
        write_page([], tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()


def zoo() -> list[tuple[Path, dict]]:
    """A sound model, one at 0 under attack, a black-box one, a failed one and a collapsed one."""
    pairs = digits("pgd_at_digits__seed3", "standard_digits__seed3")
    for name, accuracy in (("onnx", 0.95), ("failed", 0.94), ("flat", 0.1)):
        path, record = copy.deepcopy(pairs[0])
        record |= {"model": name, "weights_sha256": name, "self_checks": []}
        record["headline"] |= {"accuracy": [accuracy] * 5, "average": accuracy}
        pairs.append((path.with_name(f"{name}.json"), record))
    check = {"name": "gradients", "verdict": "fail", "found": "F.", "meaning": "M."}
    pairs[2][1]["suites"][0]["attacks"] = [{"name": "square", "kind": "black box"}]
    pairs[2][1]["suites"] = pairs[2][1]["suites"][:1]
    pairs[3][1]["self_checks"] = [check | {"numbers": {"could_flatter": 0.76}}]
    return pairs


@pytest.mark.slow
def test_the_first_card_names_the_best_average_among_reliable_models():
    text = html_report(zoo())
    card = re.search(r"Best average accuracy</dt><dd>(.*?)</dd><dd class=\"note\">(.*?)</dd>", text)
    average = zoo()[0][1]["headline"]["average"]
    assert card.groups() == (f"{100 * average:.1f}<small> %</small>", "pgd_at_digits")
    assert "Ranked by the average accuracy over all strengths" in text


def test_a_page_without_a_reliable_model_names_no_best_one():
    text = html_report(zoo()[1:])
    assert "<dd>none</dd>" in text
    assert "no model has a reliable score above chance" in text


def test_failed_and_black_box_models_are_below_the_others_under_headings():
    text = html_report(zoo())
    rows = [row[0] for row in Page(text).rows]
    assert [name.removesuffix("black box only") for name in rows] == [
        *("pgd_at_digits", "standard_digits", "failed", "flat", "onnx"),
    ]
    headings = re.findall(r'scope="rowgroup">(.*?)<', text)
    assert headings == ["A check failed: not reliable", "Black box only: not comparable"]
    assert text.index(headings[1]) < text.index("</table>")


def test_marks_and_points_of_flattery_are_on_the_page():
    text = html_report(zoo())
    assert 'class="mark" title="No attack used' in text
    assert "<b>black box only</b>: No attack used" in text
    assert "<strong>Could flatter the score by up to 76.0 points.</strong>" in text
    assert "pgd_at_digits</small>" not in text
    table = list(csv.DictReader(io.StringIO(Page(text).data("csv"))))
    assert {row["model"]: row["marks"] for row in table}["onnx"] == "black box only"


def test_a_collapsed_model_has_no_green_badge():
    text = html_report(zoo())
    row = re.search(r'<th scope="row" data-value="flat">.*?</tr>', text, re.DOTALL)[0]
    assert "badge fail" in row
    assert "badge pass" not in row


def test_accuracy_of_each_class_is_a_panel_and_missing_ones_are_named():
    pairs = zoo()[:2]
    rows = [{"class": c, "images": 45, "accuracy": [0.9, 0.8, 0.7, 0.6, c / 20]} for c in (0, 7)]
    pairs[0][1]["per_class"] = rows
    text = html_report(pairs)
    assert "pgd_at_digits: lowest for class 0, 0.0 %" in text
    assert '<th scope="row">7</th><td>45</td><td>90.0</td>' in text
    assert "There are no accuracies per class for standard_digits." in text
