"""N-FGSM: noise of twice epsilon, a step of epsilon, no projection but onto the pixel box."""

import pytest
import torch

from equipoise.attacks import NFGSM, PGD
from equipoise.attacks.threat import L2, Linf
from equipoise.methods import TrainingAttack
from equipoise.runtime.errors import InvalidInput


def brightness(images):
    return images.sum(dim=(1, 2, 3))


def test_noise_and_step_add_up_and_leave_the_threat():
    clean, generator = torch.full((1, 3, 32, 32), 0.5), torch.Generator().manual_seed(0)
    moved = NFGSM()(brightness, clean, Linf(0.05), generator) - clean
    assert float(moved.max()) == pytest.approx(0.15, abs=1e-3)
    assert float(moved.min()) == pytest.approx(-0.05, abs=1e-3)
    assert float(moved.mean()) == pytest.approx(0.05, abs=2e-3)


def test_each_image_has_its_own_strength_and_stays_in_the_pixel_box():
    clean, generator = torch.full((2, 1, 8, 8), 0.98), torch.Generator().manual_seed(0)
    found = NFGSM()(brightness, clean, Linf(torch.tensor([0.0, 0.1])), generator)
    assert torch.equal(found[0], clean[0])
    assert float(found[1].max()) == 1.0


def test_under_l2_noise_and_step_are_lengths():
    clean, generator = torch.full((1, 1, 8, 8), 0.5), torch.Generator().manual_seed(0)
    moved = NFGSM()(brightness, clean, L2(0.1), generator) - clean
    assert 0 < float(moved.norm()) <= 0.3 + 1e-6


def test_a_training_attack_with_noise_is_this_one():
    attack = TrainingAttack(steps=1, relative_step=1.0, noise=2.0)
    assert attack.search() == NFGSM()
    assert isinstance(attack.search("signs"), PGD)  # an objective's own start comes first


@pytest.mark.parametrize(
    "settings",
    [{"steps": 2, "relative_step": 1.0}, {"steps": 1, "step_size": 0.1, "relative_step": None}],
)
def test_noise_is_for_one_relative_step(settings):
    with pytest.raises(InvalidInput, match="noise is for a single step of a relative_step"):
        TrainingAttack(noise=2.0, **settings)


@pytest.mark.parametrize("name", ["noise", "relative_step"])
def test_lengths_must_be_positive(name):
    with pytest.raises(InvalidInput, match=f"{name} must be above 0, got 0.0"):
        NFGSM(**{name: 0.0})
