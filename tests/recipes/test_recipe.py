import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny

from equipoise.data import Cifar10
from equipoise.recipes import RECIPES, Evaluation, from_json, to_json


def stored(name: str = "afa_digits") -> dict:
    return json.loads(json.dumps(to_json(RECIPES[name]())))


def test_the_parts_of_a_union_name_their_kind():
    content = stored()
    assert content["method"]["kind"] == "AFA"
    assert content["method"]["objective"]["kind"] == "PGDAT"
    assert content["dataset"]["kind"] == "Digits"


def test_a_part_alone_round_trips_too():
    recipe = RECIPES["afs_digits"]()
    assert from_json(to_json(recipe.evaluation), Evaluation) == recipe.evaluation


def test_a_folder_survives_as_a_path():
    recipe = replace(tiny.recipe(), dataset=Cifar10(folder=Path("/data/cifar10"), limit=5))
    loaded = from_json(json.loads(json.dumps(to_json(recipe))))
    assert loaded == recipe
    assert isinstance(loaded.dataset.folder, Path)


@pytest.mark.parametrize(
    "path", [(), ("method",), ("method", "schedule"), ("method", "objective"), ("loop",)]
)
def test_an_unknown_field_is_refused_by_name(path):
    content = stored()
    part = content
    for key in path:
        part = part[key]
    part["speling"] = 1
    with pytest.raises(ValueError, match=r"not a recipe of this version: .*speling"):
        from_json(content)


def test_a_missing_field_is_refused_by_name():
    content = stored()
    del content["method"]["schedule"]["epochs"]
    with pytest.raises(ValueError, match=r"epochs"):
        from_json(content)


def test_an_unknown_kind_is_refused_by_name():
    content = stored()
    content["method"]["kind"] = "MAGIC"
    with pytest.raises(ValueError, match=r"not a recipe of this version: .*MAGIC"):
        from_json(content)


@pytest.mark.parametrize("value", ["many", None, [1]])
def test_a_value_of_the_wrong_type_is_refused_by_its_field(value):
    content = stored()
    content["loop"]["batch_size"] = value
    with pytest.raises(ValueError, match="batch_size"):
        from_json(content)


def test_a_value_out_of_range_is_refused_with_the_rule():
    content = stored("afs_digits")
    content["method"]["alpha"] = 2
    with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\]"):
        from_json(content)


REMOVED_FIELDS = [
    ("afa_digits", ("method",), "nested", False, True),
    ("afa_digits", ("method", "gate"), "evasion", 0.0, 0.5),
    ("afa_digits", ("method", "gate"), "strengths", None, [0.1]),
    ("oat_digits", ("method",), "encoding_seed", 0, 1),
    ("oat_digits", ("method",), "default", None, 0.5),
    ("afa_digits", ("loop", "augmentation"), "operations", 0, 2),
    ("afa_digits", ("loop", "augmentation"), "magnitude", 0.5, 0.9),
]


@pytest.mark.parametrize(("name", "path", "field", "default", "other"), REMOVED_FIELDS)
def test_a_removed_field_is_read_at_its_old_default_and_refused_otherwise(
    name, path, field, default, other
):
    content = stored(name)
    part = content
    for key in path:
        part = part[key]
    part[field] = default
    assert from_json(content) == RECIPES[name]()
    part[field] = other
    with pytest.raises(ValueError, match=rf"had a field {field} in an earlier version.*got"):
        from_json(content)


@pytest.mark.parametrize("content", [[], "recipe", None, 3])
def test_content_that_is_not_an_object_is_refused(content):
    with pytest.raises(ValueError, match="not a recipe of this version"):
        from_json(content)


def test_from_json_does_not_change_its_input():
    content = stored()
    before = copy.deepcopy(content)
    from_json(content)
    assert content == before


def test_a_recipe_with_a_removed_field_at_its_old_default_is_still_read():
    content = to_json(tiny.recipe())
    augmentation = content["loop"]["augmentation"]
    augmentation |= {"operations": 0, "magnitude": 0.5}
    assert from_json(content) == tiny.recipe()
    augmentation["operations"] = 2
    with pytest.raises(ValueError, match=r"had a field operations .* only its default, 0.* got 2"):
        from_json(content)
