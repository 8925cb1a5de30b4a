import pytest
import torch
from torch import nn

from equipoise.attacks import PGD
from equipoise.evaluation import Attack, suites_for
from equipoise.evaluation.suites import GATE_RATIOS
from equipoise.goals import Watched
from equipoise.losses import cross_entropy
from equipoise.models import fuse, with_branches
from equipoise.threat import Linf
from tiny import images_and_labels, linear, wide_resnet

SEARCH = PGD(steps=4, relative_step=0.5, keep="best")


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def adaptive() -> nn.Module:
    network = with_branches(wide_resnet(), 2)
    drawn = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=drawn)
            nn.init.normal_(module.bias, generator=drawn)
    torch.manual_seed(2)
    fused = fuse(network, placement="input").eval()
    with torch.no_grad():
        fused.generator.linears[-1].weight.mul_(20)  # a generator that tells images apart
    return fused


def labels_of(model, images):
    with torch.no_grad():
        return model(images).argmax(dim=1)


def test_the_pgd_suite_climbs_cross_entropy_and_the_margin():
    (suite,) = suites_for(linear(), ("pgd",), steps=7, restarts=3)
    assert [(a.name, a.loss) for a in suite.attacks] == [
        ("pgd-cross-entropy", "cross_entropy"),
        ("pgd-margin", "margin"),
    ]
    for attack in suite.attacks:
        described = attack.describe()
        assert (described["steps"], described["restarts"]) == (7, 3)
        assert described["relative_step"] == 0.25
        assert described["random_start"]
        assert not described["transfer"]


def test_the_gate_suite_is_for_models_with_a_generator_alone():
    assert [s.name for s in suites_for(linear(), ("pgd", "gate"))] == ["pgd"]
    assert [s.name for s in suites_for(adaptive(), ("gate", "pgd"))] == ["gate", "pgd"]


def test_the_gate_suite_fixes_the_weight_and_pushes_it_both_ways_at_seven_ratios():
    (suite,) = suites_for(adaptive(), ("gate",))
    assert GATE_RATIOS == (10, 5, 2, 1, 0.5, 0.2, 0.1)
    names = [attack.name for attack in suite.attacks]
    assert len(names) == len(set(names))
    for side in ("clean", "robust"):
        for ratio in GATE_RATIOS:
            assert f"gate-to-{side}-{ratio:g}" in names
    transfers = [attack.name for attack in suite.attacks if attack.describe()["transfer"]]
    assert {"fixed-weight-1", "fixed-weight-0"} <= set(transfers)


def gate_attack(model: nn.Module, name: str) -> Attack:
    (suite,) = suites_for(model, ("gate",), steps=10)
    return next(attack for attack in suite.attacks if attack.name == name)


def weight_under(name: str) -> float:
    """Mean W0 at the point that an attack on the gate finds."""
    model = adaptive()
    images, _ = images_and_labels()
    labels = labels_of(model, images)
    attack = gate_attack(model, name)
    goal = Watched(model, labels, cross_entropy, attack.joint)
    found = attack.search(goal, images, Linf(0.2), generator())
    with torch.no_grad():
        return float(model.logits_and_weight(found)[1].mean())


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

    attack = Attack(name="a", search=SEARCH, loss="cross_entropy")
    found = attack.run(model, images, labels, Linf(0.1), generator())
    assert found.broken.tolist() == [True] * 4


def test_what_is_called_broken_is_misclassified_and_within_the_threat():
    model = wide_resnet().eval()
    images, _ = images_and_labels(16)
    labels = labels_of(model, images)
    attack = Attack(name="a", search=SEARCH, loss="margin")
    found = attack.run(model, images, labels, Linf(0.2), generator())
    rows = found.broken
    assert bool(rows.any())
    assert bool((labels_of(model, found.images[rows]) != labels[rows]).all())
    assert float((found.images[rows] - images[rows]).abs().max()) <= 0.2 + 1e-6


def test_a_transfer_attack_climbs_its_source_and_is_judged_on_the_model():
    model, source = wide_resnet(seed=0).eval(), wide_resnet(seed=1).eval()
    images, _ = images_and_labels(16)
    labels = labels_of(model, images)
    asked = []

    def judged(given):
        assert not given.requires_grad  # no gradient of the model is used
        asked.append(given)
        return model(given)

    attack = Attack(name="a", search=SEARCH, loss="cross_entropy", source=source)
    found = attack.run(judged, images, labels, Linf(0.2), generator())
    assert len(asked) == 1
    assert torch.equal(found.broken, labels_of(model, asked[0]) != labels)
    with torch.no_grad():
        loss = nn.functional.cross_entropy
        assert loss(source(asked[0]), labels) > loss(source(images), labels)


@pytest.mark.parametrize(("steps", "restarts"), [(0, 1), (1, 0)])
def test_counts_below_one_are_refused(steps, restarts):
    with pytest.raises(ValueError, match="must be 1 or more"):
        suites_for(linear(), ("pgd",), steps=steps, restarts=restarts)
