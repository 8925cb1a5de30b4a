"""Comparison with Foolbox: our PGD breaks at least as many images as Foolbox's at equal steps."""

import warnings

import pytest
import torch
from tiny import digits, fgsm_trained

from equipoise.attacks import PGD, goals, losses
from equipoise.attacks.finishable_goals import SuccessTracker
from equipoise.attacks.threat import L2, Linf

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its imports raise deprecation warnings
    foolbox = pytest.importorskip("foolbox")

STEPS = 20


@pytest.fixture(scope="module")
def model():
    return fgsm_trained(digits(600, 120).train)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("threat", "epsilon", "attack"),
    [(Linf, 0.12, "LinfPGD"), (L2, 0.8, "L2PGD")],
    ids=["Linf", "L2"],
)
def test_pgd_breaks_at_least_as_many_images_as_foolboxs(model, threat, epsilon, attack):
    images, labels = digits(600, 120).test.batch(slice(None))
    ours, theirs = [], []
    for seed in range(3):
        search = PGD(steps=STEPS, relative_step=0.1)
        generator = torch.Generator().manual_seed(seed)
        adversarial = search(goals.cross_entropy(model, labels), images, threat(epsilon), generator)
        ours.append(int((model(adversarial).argmax(1) != labels).sum()))
        torch.manual_seed(seed)
        foolbox_model = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        attack_by_foolbox = getattr(foolbox.attacks, attack)(rel_stepsize=0.1, steps=STEPS)
        _, points, broken = attack_by_foolbox(foolbox_model, images, labels, epsilons=epsilon)
        theirs.append(int(broken.sum()))
        assert float((points - images).abs().max()) <= epsilon + 1e-6
    assert 10 < sum(theirs) / 3 < 110  # neither none nor all, so the numbers can differ
    assert sum(ours) >= sum(theirs) - 3  # one image a seed: random starts differ


@pytest.mark.slow
def test_a_success_tracker_counts_at_least_as_many_images_as_foolbox(model):
    """At equal steps and starts, every visited point counts: never fewer than the last one."""
    images, labels = digits(600, 120).test.batch(slice(None))
    torch.manual_seed(0)
    foolbox_model = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    attack_by_foolbox = foolbox.attacks.LinfPGD(rel_stepsize=0.1, steps=STEPS)
    _, _, broken = attack_by_foolbox(foolbox_model, images, labels, epsilons=0.12)
    tracker = SuccessTracker(model, labels, losses.margin)
    search = PGD(steps=STEPS, relative_step=0.1, keep="best")
    search(tracker, images, Linf(0.12), torch.Generator().manual_seed(0))
    assert int(tracker.broken.sum()) >= int(broken.sum())
