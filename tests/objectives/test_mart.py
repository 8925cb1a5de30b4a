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
    log_softmax,
    losses_of_answers,
)

from equipoise.attacks import losses
from equipoise.objectives import MART

ROWS = np.arange(4)


def boosted(logits, labels=LABELS):
    others = np.exp(log_softmax(logits))
    others[np.arange(len(labels)), labels] = 0.0
    return cross_entropy(logits, labels) - np.log(1.0001 - others.max(axis=1) + 1e-12)


@pytest.mark.parametrize("beta", [0.0, 5.0])
def test_loss_and_gradients_match_the_formula(beta):
    clean, adversarial = CLEAN.copy(), ADVERSARIAL.copy()
    terms, logits = losses_of_answers(MART(beta=beta), clean, adversarial)

    def by_hand():
        unsure = 1.0000001 - np.exp(log_softmax(clean))[ROWS, LABELS]
        return boosted(adversarial) + beta * divergence(clean, adversarial) * unsure

    agree(terms["loss"], logits, by_hand, [clean, adversarial])
    np.testing.assert_allclose(terms["loss_adversarial"].detach(), boosted(ADVERSARIAL), rtol=1e-5)


def test_the_margin_is_to_the_most_probable_wrong_class():
    logits = torch.tensor([[4.0, 1.0, 3.0, 0.0], [1.0, 4.0, 3.0, 0.0]])  # right, and wrong
    labels = torch.zeros(2, dtype=torch.long)
    probability = logits.softmax(dim=1)
    margin = losses.boosted_cross_entropy(logits, labels) - losses.cross_entropy(logits, labels)
    expected = -torch.log(1.0001 - torch.stack([probability[0, 2], probability[1, 1]]))
    torch.testing.assert_close(margin, expected)


def test_a_confident_mistake_costs_at_most_9_21_more_than_its_cross_entropy():
    logits = torch.tensor([[0.0, 500.0]], requires_grad=True)
    value = losses.boosted_cross_entropy(logits, torch.tensor([0]))
    assert value.item() == pytest.approx(500.0 - np.log(1e-4), abs=0.01)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert gradient.isfinite().all()


def test_clean_images_have_no_cross_entropy():
    """They affect only the divergence and its weight, so with beta 0 nothing."""
    terms, (clean, _) = losses_of_answers(MART(beta=0.0), CLEAN, ADVERSARIAL)
    (gradient,) = torch.autograd.grad(terms["loss"].sum(), clean)
    assert not gradient.any()
    same, _ = losses_of_answers(MART(beta=5.0), ADVERSARIAL, ADVERSARIAL)
    np.testing.assert_allclose(same["loss"].detach(), boosted(ADVERSARIAL), rtol=1e-5)


def test_a_confident_clean_prediction_of_the_label_removes_the_divergence():
    sure = np.array([[40.0, 0.0, 0.0, 0.0]])
    terms, _ = losses_of_answers(MART(), sure, np.zeros((1, 4)), np.array([0]))
    assert terms["loss_robust"].item() == pytest.approx(0.0, abs=1e-6)
    terms, _ = losses_of_answers(MART(), sure, np.zeros((1, 4)), np.array([1]))
    assert terms["loss_robust"].item() == pytest.approx(np.log(4), abs=1e-5)


def test_its_attack_maximises_cross_entropy(generator):
    images = torch.rand(4, 1, 2, 2, generator=generator)
    labels = torch.tensor(LABELS)
    goal = MART().goal(lambda given: given.flatten(1), images, labels)
    assert torch.equal(goal(images), losses.cross_entropy(images.flatten(1), labels))


def test_a_negative_beta_is_refused():
    with pytest.raises(ValueError, match="beta must be 0 or more, got -1"):
        MART(beta=-1.0)
