"""Which models a reproduction needs, how they depend on each other, and what they cost."""

from dataclasses import replace

import pytest
import tiny

from equipoise.evaluation import suites_for
from equipoise.methods import AFS, SingleNetwork
from equipoise.models import FeatureStack
from equipoise.recipes import RECIPES
from equipoise.report.papers import ENTRIES, SCALES
from equipoise.reproduce.cost_estimate import ADAPTIVE, training_passes
from equipoise.reproduce.plan import LATER_STAGE_FIELDS, leaders, needed


def test_stacks_take_the_networks_of_table_1_where_a_scale_has_all_of_them(tmp_path):
    names = ("afs-table-1", "afs-table-2", "afs-table-3")
    entries = [ENTRIES[name] for name in names]
    models, _ = needed(entries, SCALES["compact"], (0, 1), tmp_path, None)
    found = {key: model.recipe.method for key, model in models.items() if key[0].startswith("afs")}
    assert len(found) == 2 * (7 + 4)
    for (_, seed), method in found.items():
        by_place = {str(m.place): m.recipe for (_, other), m in models.items() if other == seed}
        singles = [by_place[place].method for place in method.extractors]
        assert tuple(single.epsilon for single in singles) == method.budgets
        assert {single.schedule for single in singles} == {method.schedule}
    assert leaders(models) == {}
    fewer = replace(SCALES["compact"], extractors=SCALES["compact"].extractors[1:])
    models, _ = needed(entries[2:], fewer, (0,), tmp_path, None)
    assert [m.recipe.method.extractors for m in models.values()] == [()] * 4


@pytest.mark.parametrize("scale", ["compact", "paper"])
def test_networks_that_are_stacked_draw_weights_of_their_own(scale):
    singles = [RECIPES[name]().method for name in SCALES[scale].extractors]
    assert len(singles) == 10
    assert len({single.stage for single in singles}) == 10  # from which and the seed they start
    assert len({single.epsilon for single in singles}) == 10


def test_what_a_mask_leaves_out_is_not_trained_and_what_is_only_stacked_is_not_judged(tmp_path):
    models, _ = needed([ENTRIES["afs-fig-4b"]], SCALES["paper"], (0,), tmp_path, None)
    singles = {name: model for (name, _), model in models.items() if name.startswith("extractor")}
    assert sorted(singles) == [f"extractor_{k}_cifar10_paper" for k in range(3, 9)]
    assert not any(model.shown for model in singles.values())
    assert all(m.shown for (name, _), m in models.items() if name not in singles)


@pytest.mark.parametrize("scale", SCALES)
def test_every_entry_has_its_recipes(scale, tmp_path):
    models, surrogates = needed(list(ENTRIES.values()), SCALES[scale], (0,), tmp_path, None)
    assert set(surrogates.values()) == {models[f"surrogate_{SCALES[scale].places['cifar10']}", 0]}
    assert len(models) > 30


@pytest.mark.parametrize("scale", ["tiny", "compact"])
@pytest.mark.parametrize("what", ["budget_0", "budget_8", "alpha_0_2", "mask_111", "k3", "afs"])
def test_a_recipe_that_stands_for_another_is_its_special_case(what, scale):
    for alias, name in SCALES[scale].same_as.items():
        if alias.endswith(f"_{what}"):
            recipe = RECIPES[name]()
            method, top = recipe.method, recipe.evaluation.epsilons[-1]
            assert {
                "budget_0": lambda method, top: method.epsilon == 0,
                "budget_8": lambda method, top: method.epsilon == top,
                "alpha_0_2": lambda method, top: method.alpha == 0.2,
                "mask_111": lambda method, top: (method.mask, len(method.budgets)) == (None, 3),
                "k3": lambda method, top: len(method.strengths) == 3,
                "afs": lambda method, top: isinstance(method, SingleNetwork),
            }[what](method, top)


def test_stages_are_shared_by_what_they_depend_on_alone(tmp_path):
    entries = [ENTRIES[name] for name in ("afs-table-2", "afs-table-3", "afa-table-4")]
    models, _ = needed(entries, SCALES["tiny"], (0, 1), tmp_path, None)
    found = leaders(models)
    stacks = {name for name, _ in models if name.startswith("afs")}
    leader = {model.recipe.name for model in found.values()}
    assert len(leader) == 1
    assert {name for name, _ in found} == stacks - leader  # branches of other K are others
    assert all(found[name, seed].recipe.seed == seed for name, seed in found)


@pytest.mark.parametrize("count", [2, 3])
def test_the_estimate_knows_how_many_attacks_a_stack_meets(count):
    stack = FeatureStack([tiny.wide_resnet()] * count, 10)
    (suite,) = suites_for(stack, ("adaptive",), classes=10)
    assert len(suite.attacks) == ADAPTIVE[AFS] * count


def test_every_field_that_earlier_stages_may_ignore_is_one():
    for method, fields in LATER_STAGE_FIELDS.items():
        assert fields <= set(method.__dataclass_fields__)


def test_passes_are_counted():
    data = tiny.digits()
    images = len(data.train) - tiny.LOOP.validation_images
    recipe = replace(RECIPES["afs_digits"](), loop=tiny.LOOP)
    extractors = 3 * 30 * images * 6
    merger = 20 * images * 3 * 7
    assert training_passes(recipe, data) == extractors + merger  # 5 steps of the attack, 1 after
    assert training_passes(recipe, data, shared=True) == merger
    standard = replace(RECIPES["standard_digits"](), loop=tiny.LOOP)
    assert training_passes(standard, data) == 30 * images
