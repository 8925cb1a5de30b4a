import json

import pytest

from equipoise.report import fill_markers
from equipoise.report.autoattack_table import autoattack_table


def row(**changes):
    verdicts = {"right_here_and_broken_by_autoattack": 0}
    verdicts |= {"broken_here_and_right_under_autoattack": 2}
    fields = {
        "model": "one",
        "seed": 3,
        "epsilon": 8 / 255,
        "images": 200,
        "pyautoattack": {"accuracy": 0.5, "seconds": 7.0},
        "autoattack": verdicts | {"accuracy": 0.5, "forward_passes": 500, "backward_passes": 300},
        "ours": verdicts | {"accuracy": 0.49, "forward_passes": 150, "backward_passes": 50},
    }
    return {key: value for key, value in (fields | changes).items() if value is not None}


def record(*rows):
    return {"models": list(rows)}


def test_every_model_is_a_row_and_the_caption_has_the_largest_gap():
    weak = row(model="two", pyautoattack=None)
    weak["ours"] = weak["ours"] | {"accuracy": 0.506}
    table = autoattack_table(record(row(), weak)).splitlines()
    assert table[2] == "| one | 3 | 8/255 | 200 | 50.0 | 50.0 | 49.0 | 0 | 2 | 0.25 |"
    assert table[3] == "| two | 3 | 8/255 | 200 | 50.0 |  | 50.6 | 0 | 2 | 0.25 |"
    assert "none of the 2 models is it more than 0.6 points above AutoAttack" in table[-1]
    assert "disagree on 2 of 200 images" in table[-1]


def test_a_model_that_was_measured_twice_is_shown_with_more_images():
    few = row(images=20)
    few["ours"] = few["ours"] | {"accuracy": 0.6}
    table = autoattack_table(record(few, row(), row(seed=4, images=20)))
    assert table.count("| one | 3 |") == 1
    assert "none of the 2 models is it more than 0.0 points" in table


def test_the_caption_compares_with_the_package_only_where_it_ran():
    assert "in its own package" not in autoattack_table(record(row(pyautoattack=None)))


def test_a_marker_is_filled_from_its_record(tmp_path):
    (tmp_path / "r.json").write_text(json.dumps(record(row())))
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- autoattack: r.json -->\n<!-- end autoattack -->\nb\n")
    assert fill_markers(page)
    assert autoattack_table(record(row())) in page.read_text()
    assert not fill_markers(page)


def test_a_record_without_models_is_refused():
    with pytest.raises(ValueError, match="holds no model; run the script"):
        autoattack_table(record())
