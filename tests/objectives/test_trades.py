import numpy as np
import pytest
import torch
from by_hand import (
    ADVERSARIAL,
    CLEAN,
    LABELS,
    agree,
    cross_entropy,
    divergence,
    losses_of_answers,
)

from equipoise.attacks import goals, losses
from equipoise.objectives import TRADES


@pytest.mark.parametrize("beta", [0.0, 1.0, 6.0])
def test_loss_and_gradients_match_the_formula(beta):
    clean, adversarial = CLEAN.copy(), ADVERSARIAL.copy()
    terms, logits = losses_of_answers(TRADES(beta=beta), clean, adversarial)

    def by_hand():
        return cross_entropy(clean, LABELS) + beta * divergence(clean, adversarial)

    agree(terms["loss"], logits, by_hand, [clean, adversarial])
    expected = divergence(CLEAN, ADVERSARIAL)
    np.testing.assert_allclose(terms["loss_robust"].detach(), expected, rtol=1e-5)


def test_the_divergence_of_equal_predictions_is_zero_and_flat():
    logits = torch.tensor(CLEAN, dtype=torch.float32, requires_grad=True)
    shifted = (logits + 3.0).detach().requires_grad_()  # the same prediction
    value = losses.kl_divergence(shifted, logits)
    torch.testing.assert_close(value, torch.zeros(4), rtol=0, atol=1e-6)
    for gradient in torch.autograd.grad(value.sum(), (logits, shifted)):
        torch.testing.assert_close(gradient, torch.zeros(4, 4), rtol=0, atol=1e-6)


def test_the_divergence_is_from_the_clean_prediction_to_the_adversarial_one():
    terms, _ = losses_of_answers(TRADES(), CLEAN, ADVERSARIAL)
    there, back = divergence(CLEAN, ADVERSARIAL), divergence(ADVERSARIAL, CLEAN)
    assert abs(there - back).max() > 0.1
    np.testing.assert_allclose(terms["loss_robust"].detach(), there, rtol=1e-5)


@pytest.mark.parametrize("gap", [103.0, 104.0, 1e3, 1e30])
def test_a_probability_that_underflows_leaves_a_finite_gradient(gap):
    """With probabilities as the target, torch's gradient is NaN from a gap of 104 up."""
    reference = torch.tensor([[gap, 0.0]], requires_grad=True)
    logits = torch.tensor([[0.0, gap]], requires_grad=True)
    value = losses.kl_divergence(logits, reference)
    assert value.item() == pytest.approx(gap)
    for gradient in torch.autograd.grad(value.sum(), (reference, logits)):
        assert gradient.isfinite().all()


def test_half_precision_logits_are_compared_in_float32():
    reference, logits = (
        torch.tensor(array, dtype=torch.bfloat16) for array in (CLEAN, ADVERSARIAL)
    )
    divergence_in_float32 = losses.kl_divergence(logits, reference)
    assert divergence_in_float32.dtype == torch.float32
    assert torch.equal(
        divergence_in_float32, losses.kl_divergence(logits.float(), reference.float())
    )


def test_its_attack_maximises_the_divergence_from_one_clean_prediction(generator):
    calls = []
    weights = torch.randn(4, 3, generator=generator)

    def predict(images):
        calls.append((images, torch.is_grad_enabled()))
        return images.flatten(1) @ weights

    clean = torch.rand(5, 1, 2, 2, generator=generator)
    goal = TRADES().goal(predict, clean, torch.zeros(5, dtype=torch.long))
    assert calls == []
    for shift in (0.0, 0.1):
        images = (clean + shift * torch.rand(clean.shape, generator=generator)).requires_grad_()
        value = goal(images)
        expected = divergence(
            (clean.flatten(1) @ weights).numpy(), predict(images).detach().numpy()
        )
        np.testing.assert_allclose(value.detach().numpy(), expected, atol=1e-6)
        (gradient,) = torch.autograd.grad(value.sum(), images)
        assert bool(gradient.abs().max() > 1e-4) == (shift > 0)
    assert [enabled for images, enabled in calls if images is clean] == [False]


def test_the_goal_does_not_depend_on_the_labels():
    clean = torch.rand(2, 1, 2, 2)
    goal = goals.kl_divergence(lambda images: images.flatten(1), clean)
    assert goal(clean).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("beta", [-1.0, float("nan")])
def test_a_negative_beta_is_refused(beta):
    with pytest.raises(ValueError, match="beta must be 0 or more, got"):
        TRADES(beta=beta)
