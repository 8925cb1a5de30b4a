import dataclasses

import pytest
import scripted
import torch
from tiny import images_and_labels, linear, wide_resnet
from torch import nn

from equipoise.attacks import PGD
from equipoise.attacks.finishable_goals import SuccessTracker
from equipoise.attacks.losses import cross_entropy, gate_cross_entropy
from equipoise.attacks.threat import Linf
from equipoise.evaluation import SearchAttack, suites_for
from equipoise.evaluation.gate_attacks import GATE_RATIOS
from equipoise.evaluation.near_misses import NearMisses, run_all_targets
from equipoise.evaluation.suites import QUERY_BUDGETS
from equipoise.models import FeatureStack, with_conditioning

SEARCH = PGD(steps=4, relative_step=0.5, keep="best")


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def adaptive() -> nn.Module:
    fused = scripted.adaptive()
    with torch.no_grad():
        # Larger weights, so that the generator's output differs between images.
        fused.generator.linears[-1].weight.mul_(20)
    return fused


def labels_of(model, images):
    with torch.no_grad():
        return model(images).argmax(dim=1)


def test_the_quick_suite_attacks_margin_cross_entropy_targets_near_misses_and_by_queries():
    (suite,) = suites_for(linear(), ("quick",), classes=10, steps=7, restarts=3)
    described = [attack.describe() for attack in suite.attacks]
    assert [(a["name"], a["loss"], a.get("targets", 0)) for a in described] == [
        ("pgd-margin", "margin", 0),
        ("apgd-cross-entropy", "cross_entropy", 0),
        ("apgd-targeted-margin-4", "targeted_margin", 4),
        ("near-misses-9", "targeted_margin", 9),
        ("square-300", "margin", 0),
    ]
    assert [a["steps"] for a in described[:4]] == [7, 14, 7, 35]
    assert [a["restarts"] for a in described[:4]] == [3, 3, 3, 6]
    assert described[3]["probe"]["steps"] == 14
    assert [a["kind"] for a in described] == ["white box"] * 4 + ["black box"]


def test_the_quick_suite_has_as_many_targets_as_there_are_wrong_classes():
    (suite,) = suites_for(linear(), ("quick",), classes=3)
    assert [a.describe().get("targets") for a in suite.attacks] == [None, None, 2, 2, None]


def test_near_misses_get_the_longer_attack_and_other_images_do_not():
    model, passes = wide_resnet().eval(), []
    images, _ = images_and_labels(16)
    labels = labels_of(model, images)
    for nearest in (0.0, 0.9):
        longer = SearchAttack(name="longer", search=SEARCH, loss="targeted_margin", targets=9)
        attack = NearMisses(name="near", probe=SEARCH, attack=longer, nearest=nearest)
        result = attack.run(model, images, labels, Linf(0.02), generator())
        rows = result.broken
        assert bool((labels_of(model, result.images[rows]) != labels[rows]).all())
        assert float((result.images[rows] - images[rows]).abs().max()) <= 0.02 + 1e-6
        passes.append(result.backward_passes)
    assert passes[0] < passes[1]
    assert attack.describe()["probe"]["steps"] == 4
    assert attack.describe()["nearest"] == 0.9


def test_pairs_of_image_and_target_share_batches_that_are_no_larger_than_asked():
    model, sizes = wide_resnet().eval(), []

    def watched(images):
        sizes.append(len(images))
        return model(images)

    images, _ = images_and_labels(5)
    labels = labels_of(model, images)
    search = PGD(steps=4, relative_step=0.5, random_start=False)  # alike in every order
    attack = SearchAttack(name="all", search=search, loss="targeted_margin", targets=9)
    one_by_one = attack.run(model, images, labels, Linf(0.03), generator())
    assert 0 < int(one_by_one.broken.sum()) < 5
    for batch_size in (7, 45):
        sizes.clear()
        result = run_all_targets(
            attack, watched, images, labels, Linf(0.03), generator(), batch_size=batch_size
        )
        assert torch.equal(result.broken, one_by_one.broken)
        broken = result.broken
        assert bool((labels_of(model, result.images[broken]) != labels[broken]).all())
        assert bool((labels_of(model, result.images[~broken]) == labels[~broken]).all())
        assert float((result.images - images).abs().max()) <= 0.03 + 1e-6
        assert max(sizes) == batch_size
        assert result.forward_passes >= result.backward_passes > 0


def test_the_adaptive_suite_needs_a_model_with_a_generator():
    assert [s.name for s in suites_for(linear(), ("quick", "adaptive"), classes=10)] == ["quick"]
    assert [s.name for s in suites_for(adaptive(), ("adaptive", "quick"), classes=10)] == [
        "adaptive",
        "quick",
    ]


def test_the_gate_attacks_fix_the_weight_and_push_it_both_ways_at_seven_ratios():
    (suite,) = suites_for(adaptive(), ("adaptive",), classes=10)
    assert GATE_RATIOS == (10, 5, 2, 1, 0.5, 0.2, 0.1)
    names = [attack.name for attack in suite.attacks]
    assert len(names) == len(set(names))
    for side in ("clean", "robust"):
        for ratio in GATE_RATIOS:
            assert f"gate-to-{side}-{ratio:g}" in names
    transfers = [attack.name for attack in suite.attacks if attack.source is not None]
    assert {"fixed-weight-1", "fixed-weight-0"} <= set(transfers)


def test_the_ratios_are_each_run_on_every_image_for_a_model_with_a_generator():
    """So that the paper's number, the worst single ratio of the set, is in the record."""
    assert suites_for(linear(), ("ratios",), classes=10) == []
    (suite,) = suites_for(adaptive(), ("ratios",), classes=10, steps=2)
    (all_of_them,) = suites_for(adaptive(), ("adaptive",), classes=10, steps=2)
    assert suite.independent
    names = [attack.name for attack in suite.attacks]
    assert names == [a.name for a in all_of_them.attacks if a.name.startswith("gate-to-")]
    assert len(names) == 2 * len(GATE_RATIOS)


def test_the_query_attack_is_run_at_five_budgets_on_every_image():
    (suite,) = suites_for(linear(), ("queries",), classes=10)
    assert suite.independent
    assert [attack.describe()["queries"] for attack in suite.attacks] == [*QUERY_BUDGETS]
    assert QUERY_BUDGETS == (100, 500, 1000, 2500, 5000)
    assert {attack.kind for attack in suite.attacks} == {"black box"}


def gate_attack(model: nn.Module, name: str) -> SearchAttack:
    (suite,) = suites_for(model, ("adaptive",), classes=10, steps=10)
    return next(attack for attack in suite.attacks if attack.name == name)


def weight_under(name: str) -> float:
    """Mean W0 at the point that an attack on the gate finds."""
    model = adaptive()
    images, _ = images_and_labels()
    labels = labels_of(model, images)
    attack = gate_attack(model, name)
    goal = SuccessTracker(model, labels, cross_entropy, attack.joint)
    result = attack.search(goal, images, Linf(0.2), generator())
    with torch.no_grad():
        return float(model.logits_and_weight(result)[1].mean())


def test_an_attack_on_the_gate_moves_the_weight_in_its_direction():
    # Climbing the cross-entropy against target 0 drives W0 up (clean), against 1 down (robust).
    assert weight_under("gate-to-clean-0.1") > weight_under("gate-to-robust-0.1") + 0.01


def test_a_white_box_attack_counts_every_point_it_visits():
    """Only the first point visited is misclassified; the one returned is not."""
    images, labels = images_and_labels(4)
    labels = torch.zeros_like(labels)
    calls = []

    def model(given):
        calls.append(len(given))
        logits = torch.zeros(len(given), 10) + 0 * given.sum(dim=(1, 2, 3))[:, None]
        logits[:, 1 if len(calls) == 1 else 0] += 1
        return logits

    attack = SearchAttack(name="a", search=SEARCH, loss="cross_entropy")
    result = attack.run(model, images, labels, Linf(0.1), generator())
    assert result.broken.tolist() == [True] * 4


def test_broken_images_are_misclassified_and_inside_the_threat():
    model = wide_resnet().eval()
    images, _ = images_and_labels(16)
    labels = labels_of(model, images)
    attack = SearchAttack(name="a", search=SEARCH, loss="margin")
    result = attack.run(model, images, labels, Linf(0.2), generator())
    rows = result.broken
    assert bool(rows.any())
    assert bool((labels_of(model, result.images[rows]) != labels[rows]).all())
    assert float((result.images[rows] - images[rows]).abs().max()) <= 0.2 + 1e-6


def test_a_transfer_attack_searches_on_its_source_and_is_evaluated_on_the_model():
    model, source = wide_resnet(seed=0).eval(), wide_resnet(seed=1).eval()
    images, _ = images_and_labels(16)
    labels = labels_of(model, images)
    asked = []

    def recorded(given):
        assert not given.requires_grad  # no gradient of the model is used
        asked.append(given)
        return model(given)

    attack = SearchAttack(name="a", search=SEARCH, loss="cross_entropy", source=source)
    result = attack.run(recorded, images, labels, Linf(0.2), generator())
    assert len(asked) == 1
    assert torch.equal(result.broken, labels_of(model, asked[0]) != labels)
    with torch.no_grad():
        loss = nn.functional.cross_entropy
        assert loss(source(asked[0]), labels) > loss(source(images), labels)


@pytest.mark.parametrize(("steps", "restarts"), [(0, 1), (1, 0)])
def test_counts_below_one_are_refused(steps, restarts):
    with pytest.raises(ValueError, match="must be whole numbers of 1 or more"):
        suites_for(linear(), ("quick",), classes=10, steps=steps, restarts=restarts)


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_the_standard_suite_runs_with_any_number_of_classes(classes):
    model = linear(classes).eval()
    images, _ = images_and_labels(3)
    labels = labels_of(model, images)
    (suite,) = suites_for(model, ("standard",), classes=classes)
    losses = {attack.loss for attack in suite.attacks}
    assert ("dlr" in losses) == (classes >= 4)
    assert "targeted_margin" in losses
    for attack in suite.attacks:
        small = PGD(steps=2, relative_step=0.5, keep="best")
        quick = dataclasses.replace(attack, search=small)
        assert quick.run(model, images, labels, Linf(0.9), generator()).broken.shape == (3,)
        if attack.targets:
            assert attack.targets <= classes - 1


def test_the_standard_suite_has_autoattacks_steps_and_targets():
    (suite,) = suites_for(linear(), ("standard",), classes=10)
    settings = {attack.name: attack.describe() for attack in suite.attacks}
    assert list(settings) == [
        "pgd-margin",
        "apgd-cross-entropy",
        "apgd-dlr",
        "apgd-targeted-margin-9",
        "square-1000",
    ]
    assert settings["pgd-margin"]["restarts"] == 2
    assert [described["steps"] for described in settings.values() if "steps" in described] == [
        20,
        100,
        100,
        100,
    ]
    assert settings["apgd-targeted-margin-9"]["targets"] == 9
    assert settings["square-1000"]["queries"] == 1000


def test_the_attacks_of_the_paper_suite_are_independent_and_name_kappa():
    (suite,) = suites_for(linear(), ("paper",), classes=10)
    assert suite.independent
    assert [attack.name for attack in suite.attacks] == [
        "fgsm",
        "pgd-10",
        "pgd-20",
        "cw-30-kappa-50",
        "square-5000",
    ]
    assert suite.attacks[3].describe()["kappa"] == 50


def test_a_targeted_attack_aims_at_the_largest_wrong_logits_first():
    aimed = []

    def search(goal, clean, threat, generator):
        aimed.append(goal.targets.tolist())
        return clean

    logits = torch.tensor([[0.0, 3.0, 2.0, 1.0], [9.0, 1.0, 2.0, 3.0]])
    attack = SearchAttack(name="a", search=search, loss="targeted_margin", targets=2)
    images, _ = images_and_labels(2)
    attack.run(lambda images: logits, images, torch.tensor([1, 0]), Linf(0.1), generator())
    assert aimed == [[2, 3], [3, 2]]


def test_the_adaptive_suite_attacks_the_members_of_a_stack():
    stack = FeatureStack([wide_resnet(), wide_resnet(seed=1)], 10).eval()
    (suite,) = suites_for(stack, ("adaptive",), classes=10, steps=2)
    names = [attack.name for attack in suite.attacks]
    assert names == [
        *("member-0", "member-1"),
        *("without-0", "more-of-0", "without-1", "more-of-1"),
    ]
    images, _ = images_and_labels(3)
    with torch.no_grad():
        logits, attacked_logits, added = suite.attacks[2].joint(images)
        features = stack.features(images)
        features[:, :64] = 0
        without = stack.merger(features)
        torch.testing.assert_close(logits, stack(images))
        torch.testing.assert_close(attacked_logits, without)
    assert added == 0


def test_a_stack_of_one_member_has_no_adaptive_suite():
    assert suites_for(FeatureStack([wide_resnet()], 10), ("adaptive",), classes=10) == []


@pytest.mark.parametrize("others", [0, 1])
def test_the_gate_of_a_member_is_attacked_inside_the_stack(others):
    stack = FeatureStack([adaptive(), *[wide_resnet()] * others], 10).eval()
    (suite,) = suites_for(stack, ("adaptive",), classes=10, steps=3)
    gates = [attack for attack in suite.attacks if attack.kind == "gate"]
    assert len(gates) == 2 * len(GATE_RATIOS)
    assert len(suite.attacks) == len(gates) + (6 if others else 0)
    assert gates[0].name == "member-0-gate-to-clean-10"
    images, _ = images_and_labels(4)
    logits, attacked_logits, term = gates[0].joint(images)
    torch.testing.assert_close(logits, stack(images))
    assert attacked_logits is logits
    with torch.no_grad():
        gate = stack.members[0].network.logits_and_gate(images)[1]
    torch.testing.assert_close(term, gate_cross_entropy(gate, 0.0) / 10)


def test_transfer_needs_a_surrogate_and_attacks_each():
    with pytest.raises(ValueError, match=r"needs at least one surrogate.*--surrogates"):
        suites_for(linear(), ("transfer",), classes=10)
    surrogates = {"a": linear(seed=1), "b": linear(seed=2)}
    (suite,) = suites_for(linear(), ("transfer",), classes=10, surrogates=surrogates)
    assert [attack.name for attack in suite.attacks] == [
        *("from-a-cross-entropy", "from-a-margin", "from-b-cross-entropy", "from-b-margin"),
    ]
    assert {attack.kind for attack in suite.attacks} == {"transfer"}


class NoGradients(nn.Module):
    gives_gradients = False

    def forward(self, images):
        return linear()(images)


def test_a_model_without_gradients_gets_the_attacks_that_need_none():
    suites = suites_for(NoGradients(), ("quick", "standard"), classes=10)
    assert [(s.name, [a.name for a in s.attacks]) for s in suites] == [
        ("quick", ["noise-100", "square-1000"]),
        ("standard", ["noise-100", "square-1000"]),
    ]


def test_points_broken_in_lower_precision_are_confirmed_by_the_model():
    """The search sees every image misclassified at once; the model disagrees about the first."""

    class Lower:
        inside = False

        def __enter__(self):
            Lower.inside = True

        def __exit__(self, *problem):
            Lower.inside = False

    def model(images):
        logits = torch.zeros(len(images), 10) + 0 * images.sum(dim=(1, 2, 3))[:, None]
        bright = images[:, 0, 0, 0] > 0.5
        logits[:, 1] += 1.0 if Lower.inside else bright
        return logits

    images = torch.full((2, 1, 8, 8), 0.2)
    images[1] = 0.8
    attack = SearchAttack(name="a", search=SEARCH, loss="margin")
    labels = torch.zeros(2, dtype=torch.long)
    result = attack.run(model, images, labels, Linf(0.1), generator(), Lower)
    assert result.broken.tolist() == [False, True]


def test_the_last_point_of_a_search_counts_although_it_was_not_evaluated():
    """FGSM on a linear model: the only point beyond the clean one is where it ends."""
    model = linear(2).eval()
    images = torch.full((4, 1, 8, 8), 0.5)
    labels = labels_of(model, images)
    (suite,) = suites_for(model, ("paper",), classes=2)
    result = suite.attacks[0].run(model, images, labels, Linf(0.4), generator())
    assert result.broken.all()
    assert torch.equal(labels_of(model, result.images), 1 - labels)


def test_a_conditional_network_is_attacked_from_its_other_preferences():
    network = with_conditioning(wide_resnet(), preferences=(0.0, 0.5, 1.0), size=4).eval()
    (suite,) = suites_for(network.at(0.5), ("adaptive",), classes=10, steps=2)
    assert [attack.name for attack in suite.attacks] == ["preference-0", "preference-1"]
    images, _ = images_and_labels(3)
    with torch.no_grad():
        logits_at_other = suite.attacks[0].source(images)
        assert torch.equal(logits_at_other, network(images, preference=0.0))
        assert not torch.equal(logits_at_other, network.at(0.5)(images))
