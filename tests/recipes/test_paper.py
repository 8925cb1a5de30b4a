"""The recipes of the papers' tables have the papers' settings."""

import pytest
import torch

from equipoise.attacks.threat import Linf
from equipoise.data import SVHN, Cifar10, Cifar100, DataSet, Split, TinyImageNet
from equipoise.methods import Gate
from equipoise.models import count_parameters, with_branches
from equipoise.models.afa.layer_placement import traced
from equipoise.objectives import FAT, PGDAT, TRADES, Standard
from equipoise.objectives.fat import AUTHORS_RAISES
from equipoise.recipes import GROUPS, RECIPES

AFA = [make() for group, rows in GROUPS.items() if group.startswith("AFA, ") for make in rows]
AFS = [make() for group, rows in GROUPS.items() if group.startswith("AFS, ") for make in rows]
SOURCES = {"svhn": SVHN, "cifar10": Cifar10, "tiny_imagenet": TinyImageNet}
FIVE = (0.0, 1 / 255, 2 / 255, 4 / 255, 8 / 255)


def name_of(recipe):
    return recipe.name


def like(recipe) -> DataSet:
    """A data set of two images with the recipe's image size and classes."""
    classes = {"Cifar10": 10, "Cifar100": 100, "SVHN": 10, "TinyImageNet": 200}
    kind = type(recipe.dataset).__name__
    size = 64 if kind == "TinyImageNet" else 32
    part = Split(
        images=torch.zeros(2, 3, size, size, dtype=torch.uint8),
        labels=torch.zeros(2, dtype=torch.long),
        classes=classes[kind],
    )
    return DataSet(name=kind, train=part, test=part, class_names=("",) * classes[kind])


@pytest.mark.parametrize("recipe", AFA, ids=name_of)
def test_afas_schedules_match_its_section_5_1(recipe):
    rate = 0.01 if "svhn" in recipe.name else 0.1
    first = recipe.method.schedule
    assert (first.epochs, first.decay_epochs, first.decay_factor) == (100, (74, 89), 0.1)
    assert first.learning_rate == rate
    if hasattr(recipe.method, "gate_schedule"):
        second = recipe.method.gate_schedule
        assert second.epochs == 20
        if "led" not in recipe.name:
            assert (second.learning_rate, second.decay_epochs) == (pytest.approx(rate / 10), (9,))
            assert not recipe.method.gate.pairs
    assert recipe.evaluation.epsilons == FIVE
    assert "adaptive" in recipe.evaluation.suites


@pytest.mark.parametrize("recipe", AFS, ids=name_of)
def test_afss_settings_match_its_section_3(recipe):
    method = recipe.method
    assert (method.schedule.epochs, method.schedule.decay_epochs) == (70, (59,))
    assert (method.schedule.learning_rate, method.schedule.weight_decay) == (0.1, 5e-4)
    assert (method.attack.steps, method.attack.step_size) == (10, 2 / 255)
    assert method.attack.relative_step is None
    assert recipe.loop.batch_size == 128
    assert recipe.loop.augmentation.flip
    if hasattr(method, "merger_schedule"):
        merger = method.merger_schedule
        assert (merger.epochs, merger.learning_rate, merger.decay_epochs) == (5, 0.1, (2,))
        assert merger.batch_size == 100
        assert method.merger_epsilon == 8 / 255
    curve = tuple(k / 255 for k in (0, 2, 4, 6, 8))
    assert recipe.evaluation.epsilons == ((0.0, 8 / 255) if "cifar100" in recipe.name else curve)


@pytest.mark.parametrize("recipe", AFA + AFS, ids=name_of)
def test_the_network_has_the_papers_size(recipe):
    make = recipe.network.maker(like(recipe))
    with torch.device("meta"):
        network = make()
    parameters = {
        "large": 328.0,
        "svhn": 10.96,
        "tiny": 11.06,
        "cifar100": 36.54,
        "resnet34": 21.28,
        "surrogate": 23.52,
    }
    millions = next((m for word, m in parameters.items() if word in recipe.name), 36.48)
    assert count_parameters(network) / 1e6 == pytest.approx(millions, abs=0.015)


def stages(name):
    return [stage.name for stage in RECIPES[name]().method.stages(lambda: None)]


@pytest.mark.parametrize(
    ("group", "data", "objectives"),
    [
        ("AFA, Table 1, SVHN", "svhn", ("pgd_at", "trades", "iat", "mart")),
        ("AFA, Table 1, CIFAR-10", "cifar10", ("pgd_at", "trades", "iat", "mart")),
        ("AFA, Table 2", "tiny_imagenet", ("pgd_at", "trades", "mart")),
    ],
)
def test_afas_tables_have_all_rows(group, data, objectives):
    rows = [make.__name__ for make in GROUPS[group]]
    expected = ["standard"]
    for objective in objectives:
        expected += [objective, "afa" if objective == "pgd_at" else f"afa_{objective}"]
    assert rows == [*(f"{row}_{data}_paper" for row in expected), f"afa_{data}_paper_led"]
    assert all(RECIPES[row]().method.strengths == FIVE for row in rows if row.startswith("afa"))
    assert {RECIPES[row]().dataset for row in rows} == {SOURCES[data]()}


def test_the_generator_of_every_plain_row_reads_the_first_convolution():
    readings = {
        make.__name__ for make in GROUPS["AFA, Table 1, CIFAR-10: other readings of Sec. 4.3"]
    }
    assert readings == {"afa_cifar10_paper_layer", "afa_cifar10_paper_per_norm"}
    plain = [recipe for recipe in AFA if recipe.name not in readings and "led" not in recipe.name]
    gates = [recipe.method.gate for recipe in plain if hasattr(recipe.method, "gate")]
    assert len(gates) == 4 + 4 + 3 + 3  # the tables' rows and the numbers of branches
    assert set(gates) == {Gate(placement="stem")}


def test_the_layer_of_another_reading_is_one_of_the_network():
    recipe = RECIPES["afa_cifar10_paper_layer"]()
    make = recipe.network.maker(like(recipe))
    with torch.device("meta"):
        found = traced(with_branches(make(), 2), recipe.method.gate.reads)
    assert (found.layer, found.before, found.channels) == ("stages.0", "robust", 160)


def test_table_5_of_afs_is_on_cifar_100():
    rows = GROUPS["AFS, Table V"]
    assert [make.__name__.split("_cifar100")[0] for make in rows] == [
        *("lbgat_trades", "avm", "pgd_at", "afs"),
    ]
    assert {make().dataset for make in rows} == {Cifar100()}


def test_svhns_digits_are_never_mirrored():
    for name, make in RECIPES.items():
        if "svhn" in name:
            assert not make().loop.augmentation.flip


def test_table_4_of_afa_has_the_strengths_for_each_k():
    strengths = {len(r().method.strengths): r().method.strengths for r in GROUPS["AFA, Table 4"]}
    assert strengths.keys() == {2, 3, 9}
    assert strengths[2] == (0.0, 8 / 255)
    assert strengths[3] == (0.0, 4 / 255, 8 / 255)
    assert strengths[9] == tuple(k / 255 for k in range(9))


def test_extractors_have_budgets_from_0_to_9():
    methods = [make().method for make in GROUPS["AFS, Table I"]]
    assert [round(method.epsilon * 255, 9) for method in methods] == list(range(10))
    assert [type(method.objective) for method in methods] == [Standard, *[PGDAT] * 9]


def test_the_default_stack_is_number_3_to_number_8():
    assert stages("afs_cifar10_paper") == [
        *(f"extractor{k}_{k}_255" for k in range(3, 9)),
        "merger",
    ]
    assert RECIPES["afs_cifar10_paper"]().method.alpha == 0.5


def test_table_2_has_six_alphas_and_the_default_stack():
    methods = [make().method for make in GROUPS["AFS, Table II"]]
    assert [method.alpha for method in methods] == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert {method.mask for method in methods} == {"000111111"}


@pytest.mark.parametrize(
    ("mask", "members"),
    [
        ("100000001", (0, 8)),
        ("100010001", (0, 4, 8)),
        ("101010101", (0, 2, 4, 6, 8)),
        ("111111111", tuple(range(9))),
    ],
)
def test_table_3_stacks_the_extractors_in_its_masks(mask, members):
    names = stages(f"afs_cifar10_paper_mask_{mask}")
    assert [name.split("_")[0] for name in names[:-1]] == [f"extractor{k}" for k in members]


def test_table_4_of_afs_is_evaluated_with_autoattack():
    rows = GROUPS["AFS, Table IV"]
    assert [make.__name__.split("_cifar10")[0] for make in rows] == [
        *("fat_trades", "tla", "trades", "lbgat_trades", "avm", "pgd_at", "afs"),
    ]
    assert all("autoattack" in make().evaluation.suites for make in rows)


def test_random_budgets_are_those_of_the_default_stack():
    budgets = RECIPES["random_budget_cifar10_paper"]().method.random_budgets
    assert budgets == tuple(k / 255 for k in range(3, 9))


def rates(schedule, numbers):
    """Learning rate in epochs that are counted from 1, in their middle."""
    return [schedule.rate((number - 0.5) / schedule.epochs) for number in numbers]


def test_decays_are_at_the_epoch_that_the_papers_name_counted_from_1():
    """One rule for both papers: the epoch that they name is the first at the lower rate."""
    afa, afs = RECIPES["afa_cifar10_paper"]().method, RECIPES["afs_cifar10_paper"]().method
    for schedule, decays in (
        (afa.schedule, (75, 90)),
        (afa.gate_schedule, (10,)),
        (afs.schedule, (60,)),
        (afs.merger_schedule, (3,)),
    ):
        for number in decays:
            before, at = rates(schedule, (number - 1, number))
            assert at == pytest.approx(before / 10)
        assert len(set(rates(schedule, range(1, schedule.epochs + 1)))) == len(decays) + 1


def test_fats_row_is_the_model_that_the_table_quotes():
    """FAT for TRADES trained at 16/255, tau from 0 to 3; evaluated at 8/255 like the others."""
    recipe = RECIPES["fat_trades_cifar10_paper"]()
    assert recipe.method.epsilon == 16 / 255
    assert recipe.method.objective == FAT(over=TRADES(), raise_at=AUTHORS_RAISES)
    assert recipe.evaluation.epsilons[-1] == 8 / 255
    for name, top in (("digits", 0.2), ("cifar10_compact", 8 / 255)):
        small = RECIPES[f"fat_trades_{name}_afs"]()
        assert small.method.epsilon == 2 * top == 2 * small.evaluation.epsilons[-1]
        assert small.method.objective == recipe.method.objective


def test_lbgats_teacher_is_a_resnet_18():
    for data in ("cifar10", "cifar100"):
        assert RECIPES[f"lbgat_trades_{data}_paper"]().method.objective.teacher == "resnet18"


def test_extractor_1_takes_steps_of_2_255_that_are_longer_than_its_budget():
    method = RECIPES["extractor_1_cifar10_paper"]().method
    assert (
        method.attack.search()._step_length(Linf(method.epsilon), torch.zeros(1, 1, 1, 1))
        == 2 / 255
    )


def test_oats_attack_is_that_of_the_other_rows_on_svhn():
    oat, other = RECIPES["oat_svhn_paper"](), RECIPES["pgd_at_svhn_paper"]()
    assert oat.method.attack == other.method.attack


def test_the_surrogate_of_figure_6_is_a_resnet_34():
    recipe = RECIPES["surrogate_resnet34_cifar10_paper"]()
    assert (type(recipe.network).__name__, recipe.network.depth) == ("ResNetShape", 34)
    assert recipe.method.objective == Standard()
