import json

import pytest

from equipoise.report import fill_markers
from equipoise.report.autoattack_table import reference_table


def row(**changes):
    verdicts = {"right_here_and_broken_by_autoattack": 0}
    verdicts |= {"broken_here_and_right_under_autoattack": 2}
    found = {
        "model": "one",
        "seed": 3,
        "epsilon": 8 / 255,
        "images": 200,
        "pyautoattack": {"accuracy": 0.5, "seconds": 7.0},
        "autoattack": verdicts | {"accuracy": 0.5, "forward_passes": 500, "backward_passes": 300},
        "ours": verdicts | {"accuracy": 0.49, "forward_passes": 150, "backward_passes": 50},
    }
    return {key: value for key, value in (found | changes).items() if value is not None}


def record(*rows):
    return {"models": list(rows)}


def test_every_model_is_a_row_and_the_worst_one_is_said():
    weak = row(model="two", pyautoattack=None)
    weak["ours"] = weak["ours"] | {"accuracy": 0.506}
    table = reference_table(record(row(), weak)).splitlines()
    assert table[2] == "| one | 3 | 8/255 | 200 | 50.0 | 50.0 | 49.0 | 0 | 2 | 0.25 |"
    assert table[3] == "| two | 3 | 8/255 | 200 | 50.0 |  | 50.6 | 0 | 2 | 0.25 |"
    assert "of 2 models, none has more than 0.6 points over AutoAttack" in table[-1]
    assert "differ on 2 of 200 images" in table[-1]


def test_of_a_model_that_was_measured_twice_the_row_of_more_images_counts():
    few = row(images=20)
    few["ours"] = few["ours"] | {"accuracy": 0.6}
    table = reference_table(record(few, row(), row(seed=4, images=20)))
    assert table.count("| one | 3 |") == 1
    assert "of 2 models, none has more than 0.0 points" in table


def test_a_package_that_did_not_run_alone_is_not_compared_with():
    assert "package alone, AutoAttack" not in reference_table(record(row(pyautoattack=None)))


def test_a_page_is_renewed_from_its_record(tmp_path):
    (tmp_path / "r.json").write_text(json.dumps(record(row())))
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- autoattack: r.json -->\n<!-- end autoattack -->\nb\n")
    assert fill_markers(page)
    assert reference_table(record(row())) in page.read_text()
    assert not fill_markers(page)


def test_a_record_without_models_is_refused():
    with pytest.raises(ValueError, match="holds no model; run the script"):
        reference_table(record())
