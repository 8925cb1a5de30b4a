"""The models a reproduction needs, their dependencies, and their cost."""

from dataclasses import replace

import pytest
import tiny

from equipoise.evaluation import suites_for
from equipoise.methods import AFS, SingleNetwork
from equipoise.models import FeatureStack
from equipoise.recipes import RECIPES
from equipoise.report.papers import ENTRIES, SCALES
from equipoise.reproduce.cost_estimate import ADAPTIVE, training_passes
from equipoise.reproduce.plan import LATER_STAGE_FIELDS, plan_models, stage_sources


def test_stacks_use_the_networks_of_table_1_if_a_scale_has_all_of_them(tmp_path):
    names = ("afs-table-1", "afs-table-2", "afs-table-3")
    entries = [ENTRIES[name] for name in names]
    models, _ = plan_models(entries, SCALES["compact"], (0, 1), tmp_path, None)
    stacks = {key: model.recipe.method for key, model in models.items() if key[0].startswith("afs")}
    assert len(stacks) == 2 * (7 + 4)
    for (_, seed), method in stacks.items():
        by_folder = {
            str(m.folder): m.recipe for (_, model_seed), m in models.items() if model_seed == seed
        }
        singles = [by_folder[folder].method for folder in method.extractors]
        assert tuple(single.epsilon for single in singles) == method.budgets
        assert {single.schedule for single in singles} == {method.schedule}
    assert stage_sources(models) == {}
    fewer = replace(SCALES["compact"], extractors=SCALES["compact"].extractors[1:])
    models, _ = plan_models(entries[2:], fewer, (0,), tmp_path, None)
    assert [m.recipe.method.extractors for m in models.values()] == [()] * 4


@pytest.mark.parametrize("scale", ["compact", "paper"])
def test_stacked_networks_have_different_initial_weights(scale):
    singles = [RECIPES[name]().method for name in SCALES[scale].extractors]
    assert len(singles) == 10
    assert len({single.stage for single in singles}) == 10  # the seed of the weights depends on it
    assert len({single.epsilon for single in singles}) == 10


def test_masked_networks_are_not_trained_and_stack_members_are_not_evaluated(tmp_path):
    models, _ = plan_models([ENTRIES["afs-fig-4b"]], SCALES["paper"], (0,), tmp_path, None)
    singles = {name: model for (name, _), model in models.items() if name.startswith("extractor")}
    assert sorted(singles) == [f"extractor_{k}_cifar10_paper" for k in range(3, 9)]
    assert not any(model.shown for model in singles.values())
    assert all(m.shown for (name, _), m in models.items() if name not in singles)


@pytest.mark.parametrize("scale", SCALES)
def test_every_entry_has_recipes(scale, tmp_path):
    models, surrogates = plan_models(list(ENTRIES.values()), SCALES[scale], (0,), tmp_path, None)
    assert set(surrogates.values()) == {models[f"surrogate_{SCALES[scale].datasets['cifar10']}", 0]}
    assert len(models) > 30


@pytest.mark.parametrize("scale", ["tiny", "compact"])
@pytest.mark.parametrize("what", ["budget_0", "budget_8", "alpha_0_2", "mask_111", "k3", "afs"])
def test_a_recipe_that_replaces_another_is_trained_identically(what, scale):
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


def test_models_share_stages_with_the_same_dependencies(tmp_path):
    entries = [ENTRIES[name] for name in ("afs-table-2", "afs-table-3", "afa-table-4")]
    models, _ = plan_models(entries, SCALES["tiny"], (0, 1), tmp_path, None)
    sources = stage_sources(models)
    stacks = {name for name, _ in models if name.startswith("afs")}
    source = {model.recipe.name for model in sources.values()}
    assert len(source) == 1
    assert {
        name for name, _ in sources
    } == stacks - source  # other numbers of branches are trained separately
    assert all(sources[name, seed].recipe.seed == seed for name, seed in sources)


@pytest.mark.parametrize("count", [2, 3])
def test_the_estimate_has_the_number_of_adaptive_attacks_on_a_stack(count):
    stack = FeatureStack([tiny.wide_resnet()] * count, 10)
    (suite,) = suites_for(stack, ("adaptive",), classes=10)
    assert len(suite.attacks) == ADAPTIVE[AFS] * count


def test_table_3_evaluates_the_ratios_of_models_with_a_generator_in_records_of_their_own(tmp_path):
    models, _ = plan_models([ENTRIES["afa-table-3"]], SCALES["tiny"], (0,), tmp_path, None)
    apart = {name for (name, _), model in models.items() if model.apart}
    assert apart == {f"afa_{key}digits" for key in ("", "trades_", "iat_", "mart_")}
    model = models["afa_digits", 0]
    assert model.apart == ("ratios",)
    assert model.evaluation_for(None, "ratios").suites == ("ratios",)
    assert model.settings(None, "ratios") != model.settings(None)
    other, _ = plan_models([ENTRIES["afa-table-4"]], SCALES["tiny"], (0,), tmp_path, None)
    assert not any(model.apart for model in other.values())


def test_every_later_stage_field_exists():
    for method, fields in LATER_STAGE_FIELDS.items():
        assert fields <= set(method.__dataclass_fields__)


def test_training_passes_are_counted():
    data = tiny.digits()
    images = len(data.train) - tiny.LOOP.validation_images
    recipe = replace(RECIPES["afs_digits"](), loop=tiny.LOOP)
    extractors = 3 * 30 * images * 6
    merger = 20 * images * 3 * 7
    assert training_passes(recipe, data) == extractors + merger  # 5 steps of the attack, 1 after
    assert training_passes(recipe, data, shared=True) == merger
    standard = replace(RECIPES["standard_digits"](), loop=tiny.LOOP)
    assert training_passes(standard, data) == 30 * images
