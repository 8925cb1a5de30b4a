"""What holds for every recipe of the catalogue."""

import dataclasses
import json

import pytest
import tiny
import torch

from equipoise.recipes import GROUPS, RECIPES, from_json, to_json

NAMES = list(RECIPES)
DIGITS = [name for name in NAMES if RECIPES[name]().dataset.__class__.__name__ == "Digits"]


def test_no_two_recipes_have_one_name():
    names = [make.__name__ for group in GROUPS.values() for make in group]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("name", NAMES)
def test_it_is_named_like_its_function_and_says_what_it_trains(name):
    make = RECIPES[name]
    assert make().name == make.__name__ == name
    assert make.__doc__
    assert make.__doc__.splitlines()[0].endswith(".")


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_frozen_value_that_prints(name):
    recipe = RECIPES[name]()
    assert recipe == RECIPES[name]()
    assert name in repr(recipe)
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.seed = 1


@pytest.mark.parametrize("name", NAMES)
def test_it_goes_through_json_and_back(name):
    recipe = RECIPES[name]()
    text = json.dumps(to_json(recipe), allow_nan=False)
    assert from_json(json.loads(text)) == recipe


@pytest.mark.parametrize("name", NAMES)
def test_its_plan_names_its_stages_once_and_needs_only_earlier_ones(name):
    recipe = RECIPES[name]()
    seen = []
    for stage in recipe.method.stages(recipe.network.maker(tiny.digits())):
        assert set(stage.needs) <= set(seen)
        assert stage.name not in seen
        assert "/" not in stage.name
        seen.append(stage.name)


@pytest.mark.parametrize("name", DIGITS)
def test_a_step_of_every_stage_moves_what_it_trains(name):
    recipe = RECIPES[name]()
    images, labels = tiny.digits().train.batch(slice(0, 16))
    outcomes = {}
    for stage in recipe.method.stages(recipe.network.maker(tiny.digits())):
        task = stage.build({need: outcomes[need] for need in stage.needs}).train()
        if not stage.trains:
            outcomes[stage.name] = task.outcome()
            assert bool(outcomes[stage.name].eval()(images).isfinite().all())
            continue
        trained = [p for p in task.parameters() if p.requires_grad]
        loss = task(images, labels, torch.Generator().manual_seed(0), 0.0)["loss"]
        assert bool(loss.isfinite())
        loss.backward()
        moved = [p for p in trained if p.grad is not None and bool(p.grad.any())]
        assert all(bool(p.grad.isfinite().all()) for p in moved)
        assert len(moved) > len(trained) / 2
        outcomes[stage.name] = task.outcome()
