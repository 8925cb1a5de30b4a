"""What every recipe of the catalogue guarantees."""

import dataclasses
import json

import pytest
import tiny
import torch

from equipoise.data import Digits
from equipoise.recipes import GROUPS, RECIPES, from_json, to_json

DIGITS = [name for name, make in RECIPES.items() if isinstance(make().dataset, Digits)]


def test_names_of_recipes_are_unique():
    names = [make.__name__ for group in GROUPS.values() for make in group]
    assert sorted(names) == sorted(set(names))


def test_each_is_named_like_its_function_and_has_a_summary():
    bad = []
    for name, make in RECIPES.items():
        summary = (make.__doc__ or "").partition("\n")[0]
        if not (make().name == make.__name__ == name and summary.endswith(".")):
            bad.append(name)
    assert not bad


def test_each_is_a_frozen_value_that_prints():
    assert [name for name, make in RECIPES.items() if make() != make()] == []
    assert [name for name, make in RECIPES.items() if name not in repr(make())] == []
    for make in RECIPES.values():
        with pytest.raises(dataclasses.FrozenInstanceError):
            make().seed = 1


def test_each_round_trips_through_json():
    changed = []
    for name, make in RECIPES.items():
        text = json.dumps(to_json(make()), allow_nan=False)
        if from_json(json.loads(text)) != make():
            changed.append(name)
    assert not changed


def test_each_plan_names_its_stages_once_and_needs_only_earlier_ones():
    bad = []
    for name, make in RECIPES.items():
        recipe, seen = make(), set()
        for stage in recipe.method.stages(recipe.network.maker(tiny.digits())):
            if not set(stage.needs) <= seen or stage.name in seen or "/" in stage.name:
                bad.append((name, stage.name))
            seen.add(stage.name)
    assert not bad


@pytest.mark.parametrize("name", DIGITS)
def test_a_step_of_every_stage_gives_gradients_to_what_it_trains(name):
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
