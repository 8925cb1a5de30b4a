"""What every recipe of the catalogue guarantees."""

import pytest
import tiny

from equipoise.contracts import RECIPE_CHECKS, RecipeCase, run_checks
from equipoise.contracts.base import title
from equipoise.data import Digits
from equipoise.recipes import GROUPS, RECIPES

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


@pytest.mark.parametrize("check", RECIPE_CHECKS[:-1], ids=title)
def test_every_check_of_a_recipe_holds(check):
    broken = {}
    for name, make in RECIPES.items():
        for outcome in run_checks([check], RecipeCase(make, tiny.digits())):
            if outcome.reason:
                broken[name] = outcome.reason
    assert broken == {}


@pytest.mark.parametrize("name", DIGITS)
def test_a_step_of_every_stage_gives_gradients_to_what_it_trains(name):
    RECIPE_CHECKS[-1](RecipeCase(RECIPES[name], tiny.digits()))
