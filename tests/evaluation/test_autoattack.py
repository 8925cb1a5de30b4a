import dataclasses

import pytest
import torch
from pyautoattack import AutoAttack
from tiny import digits, fgsm_trained, linear

from equipoise.attacks.autoattack import PARTS
from equipoise.attacks.threat import L2, Linf
from equipoise.data import Split
from equipoise.evaluation import SearchOptions, measure_profile, suites_for
from equipoise.evaluation.autoattack_part import AutoAttackPart


@pytest.fixture(scope="module")
def model():
    return fgsm_trained(digits(400, 40).train)


def held_images() -> Split:
    return digits(400, 40).test


@pytest.mark.slow
@pytest.mark.parametrize(("threat", "norm", "epsilon"), [(Linf, "Linf", 0.12), (L2, "L2", 0.8)])
def test_each_image_has_the_outcome_of_the_package_itself(
    model, threat, norm, epsilon, monkeypatch
):
    # Fewer steps on both sides: this tests the bookkeeping, not the attacks.
    make = AutoAttack.__init__

    def smaller(self, *arguments, **settings):
        make(self, *arguments, **settings)
        self.apgd.n_iter = self.apgd_targeted.n_iter = self.fab.n_iter = 8
        self.square.n_queries = 40

    monkeypatch.setattr(AutoAttack, "__init__", smaller)
    data = held_images()
    images, labels = data.batch(slice(None))
    package = AutoAttack(model, norm=norm, eps=epsilon, seed=7, device="cpu", version="standard")
    adversarial, _ = package.run_standard_evaluation(images, labels, batch_size=16)
    with torch.no_grad():
        expected = model(adversarial).argmax(dim=1) == labels
    suites = suites_for(model, ("autoattack",), classes=10, seed=7)
    ours = measure_profile(
        model,
        data,
        threat=threat,
        epsilons=(epsilon,),
        suites=suites,
        seed=7,
        options=SearchOptions(batch_size=16),
    )
    assert 0.05 < float(expected.float().mean()) < 0.95
    assert torch.equal(ours.correct()[1], expected)


def test_the_parts_are_the_standard_version_at_its_original_settings():
    (suite,) = suites_for(linear(), ("autoattack",), classes=10, seed=3)
    described = [attack.describe() for attack in suite.attacks]
    assert [settings["name"] for settings in described] == ["apgd-ce", "apgd-t", "fab-t", "square"]
    package = AutoAttack(linear(), eps=0.1, seed=3, version="standard")
    assert list(PARTS) == package.attacks_to_run
    assert described[0]["steps"] == package.apgd.n_iter == 100
    assert described[0]["restarts"] == package.apgd.n_restarts == 1
    assert described[1]["targets"] == package.apgd_targeted.n_target_classes == 9
    assert described[2]["steps"] == package.fab.n_iter == 100
    assert described[2]["targets"] == package.fab.n_target_classes == 9
    assert described[3]["queries"] == package.square.n_queries == 5000
    assert {settings["seed"] for settings in described} == {3}


def test_the_global_generator_is_left_alone(model):
    images, labels = held_images().take(slice(0, 4)).batch(slice(None))
    attack = AutoAttackPart(part="apgd-ce", seed=0, classes=10)
    before = torch.random.get_rng_state()
    attack.run(model, images, labels, Linf(0.1), torch.Generator())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_passes_are_counted(model):
    images, labels = held_images().take(slice(0, 4)).batch(slice(None))
    result = AutoAttackPart(part="apgd-ce", seed=0, classes=10).run(
        model, images, labels, Linf(0.01), torch.Generator()
    )
    assert result.backward_passes == 101 * 4
    assert result.forward_passes > result.backward_passes


def test_fewer_than_ten_classes_reduce_the_targets():
    assert AutoAttackPart(part="apgd-t", seed=0, classes=5).describe()["targets"] == 4


def test_fewer_than_four_classes_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"AutoAttack needs 4 classes or more, got 3.*standard"):
        suites_for(linear(3), ("autoattack",), classes=3)


def test_parts_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        AutoAttackPart(part="square", seed=0, classes=10).seed = 1
