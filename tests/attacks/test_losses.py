import math

import numpy as np
import pytest
import torch

from equipoise.attacks import losses

LOGITS = np.array([[2.0, -1.0, 0.5], [0.0, 0.0, 0.0], [-3.0, 4.0, 4.5], [10.0, 9.0, -80.0]])
LABELS = np.array([0, 2, 1, 2])


def by_hand_log_probability(logits):
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def call(loss, *rest, **settings):
    logits = torch.tensor(LOGITS, dtype=torch.float32)
    return loss(logits, torch.tensor(LABELS), *rest, **settings).numpy()


def test_cross_entropy_is_the_labels_negative_log_probability():
    expected = -by_hand_log_probability(LOGITS)[range(4), LABELS]
    np.testing.assert_allclose(call(losses.cross_entropy), expected, rtol=1e-5)


def test_label_smoothing_spreads_the_target_over_all_classes():
    target = 0.9 * np.eye(3)[LABELS] + 0.1 / 3
    expected = -(target * by_hand_log_probability(LOGITS)).sum(axis=1)
    np.testing.assert_allclose(call(losses.cross_entropy, label_smoothing=0.1), expected, rtol=1e-5)


def test_margin_is_the_largest_wrong_logit_minus_the_labels():
    np.testing.assert_allclose(call(losses.margin), [-1.5, 0.0, 0.5, 90.0], rtol=1e-6)


def test_margin_is_positive_exactly_where_misclassified(generator):
    logits = torch.randn(500, 4, generator=generator)
    labels = torch.randint(4, (500,), generator=generator)
    assert torch.equal(losses.margin(logits, labels) > 0, logits.argmax(dim=1) != labels)


def test_a_tie_has_margin_zero_whatever_the_order_of_the_classes():
    logits = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    assert losses.margin(logits, torch.tensor([0, 1])).tolist() == [0.0, 0.0]


def test_dlr_is_the_margin_over_the_first_minus_the_third():
    expected = [-1.5 / 3.0, 0.0, 0.5 / 7.5, 90.0 / 90.0]
    np.testing.assert_allclose(call(losses.dlr), expected, rtol=1e-6)


@pytest.mark.parametrize("kappa", [0.0, 2.0, 50.0])
def test_carlini_wagner_is_the_margin_minus_kappa_and_flat_beyond_it(kappa):
    expected = np.minimum(np.array([-1.5, 0.0, 0.5, 90.0]) - kappa, 0)
    np.testing.assert_allclose(call(losses.carlini_wagner, kappa=kappa), expected, rtol=1e-6)


FIVE = torch.tensor([[4.0, 1.0, 3.0, 0.0, -2.0], [4.0, 1.0, 3.0, 0.0, -2.0]])


def test_targeted_margin_is_the_targets_logit_minus_the_labels():
    value = losses.targeted_margin(FIVE, torch.tensor([0, 3]), torch.tensor([2, 1]))
    assert value.tolist() == [-1.0, 1.0]


def test_targeted_dlr_divides_by_the_first_minus_the_mean_of_third_and_fourth():
    value = losses.targeted_dlr(FIVE, torch.tensor([0, 3]), torch.tensor([2, 1]))
    torch.testing.assert_close(value, torch.tensor([-1.0, 1.0]) / (4.0 - (1.0 + 0.0) / 2))


def test_dlr_is_positive_exactly_where_misclassified(generator):
    logits = torch.randn(500, 4, generator=generator)
    labels = torch.randint(4, (500,), generator=generator)
    assert torch.equal(losses.dlr(logits, labels) > 0, logits.argmax(dim=1) != labels)


def test_dlr_does_not_depend_on_the_scale_of_the_logits(generator):
    logits = torch.randn(50, 4, generator=generator)
    labels, targets = torch.randint(4, (2, 50), generator=generator)
    for scale in (1e-3, 1e3):
        torch.testing.assert_close(losses.dlr(scale * logits, labels), losses.dlr(logits, labels))
        torch.testing.assert_close(
            losses.targeted_dlr(scale * logits, labels, targets),
            losses.targeted_dlr(logits, labels, targets),
        )


def test_dlr_of_equal_logits_is_zero_with_a_finite_gradient():
    logits = torch.zeros(1, 4, requires_grad=True)
    label, target = torch.tensor([0]), torch.tensor([1])
    value = losses.dlr(logits, label) + losses.targeted_dlr(logits, label, target)
    value.sum().backward()
    assert value.item() == 0.0
    assert logits.grad.isfinite().all()


def test_too_few_classes_are_refused_with_the_remedy():
    two, three, label = torch.zeros(1, 2), torch.zeros(1, 3), torch.tensor([0])
    with pytest.raises(ValueError, match="DLR loss needs at least 3 classes, got 2"):
        losses.dlr(two, label)
    with pytest.raises(ValueError, match=r"at least 4 classes, got 3\. Use the margin"):
        losses.targeted_dlr(three, label, label)


def test_gate_cross_entropy_is_the_binary_cross_entropy_of_the_weight():
    weight, target = np.array([0.9, 0.2, 0.5]), np.array([1.0, 0.0, 0.25])
    expected = -(target * np.log(weight) + (1 - target) * np.log(1 - weight))
    gate = np.log(weight / (1 - weight))
    value = losses.gate_cross_entropy(
        torch.tensor(gate, dtype=torch.float32), torch.tensor(target, dtype=torch.float32)
    )
    np.testing.assert_allclose(value.numpy(), expected, rtol=1e-5)


def test_one_target_applies_to_all_gates():
    gate = torch.tensor([0.9, -0.2])
    common, per_image = losses.gate_cross_entropy(gate, 1.0), torch.ones(2)
    assert torch.equal(common, losses.gate_cross_entropy(gate, per_image))


@pytest.mark.parametrize(("gate", "target", "slope"), [(-30.0, 1.0, -1.0), (30.0, 0.0, 1.0)])
def test_a_saturated_gate_still_has_a_gradient(gate, target, slope):
    # d BCE(sigmoid(z), t) / dz = sigmoid(z) - t. An adaptive attack that sees 0 here is masked.
    logit = torch.tensor([gate], requires_grad=True)
    losses.gate_cross_entropy(logit, target).sum().backward()
    assert logit.grad.item() == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.margin, losses.dlr])
def test_half_precision_logits_are_reduced_in_float32(loss):
    logits = torch.tensor(LOGITS, dtype=torch.bfloat16)
    value = loss(logits, torch.tensor(LABELS))
    assert value.dtype == torch.float32
    assert torch.equal(value, loss(logits.float(), torch.tensor(LABELS)))


@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.margin, losses.dlr])
def test_losses_leave_their_input_alone(loss):
    logits = torch.tensor(LOGITS, dtype=torch.float32)
    loss(logits, torch.tensor(LABELS))
    assert logits.tolist() == LOGITS.tolist()


def test_the_loss_of_uniform_logits_is_the_log_of_the_class_count():
    logits = torch.zeros(1, 100)
    value = losses.cross_entropy(logits, torch.tensor([7])).item()
    assert value == pytest.approx(math.log(100))


EVERY_LOSS = {
    "cross_entropy": lambda logits, labels: losses.cross_entropy(logits, labels),
    "soft_cross_entropy": lambda logits, labels: losses.soft_cross_entropy(
        logits, torch.full((2, 5), 0.2, dtype=torch.float64)
    ),
    "kl_divergence": lambda logits, labels: losses.kl_divergence(logits, logits.flip(1)),
    "boosted_cross_entropy": losses.boosted_cross_entropy,
    "margin": losses.margin,
    "dlr": losses.dlr,
    "targeted_margin": lambda logits, labels: losses.targeted_margin(logits, labels, labels + 1),
    "targeted_dlr": lambda logits, labels: losses.targeted_dlr(logits, labels, labels + 1),
    "gate_cross_entropy": lambda logits, labels: losses.gate_cross_entropy(logits[:, 0], 0.3),
    "carlini_wagner": lambda logits, labels: losses.carlini_wagner(logits, labels, kappa=5.0),
}


@pytest.mark.parametrize("loss", EVERY_LOSS.values(), ids=EVERY_LOSS)
def test_float64_logits_are_not_lowered_to_float32(loss):
    """Torch's check compares the gradient with central differences, to 1e-6 in float64."""
    labels = torch.tensor([0, 3])
    logits = (FIVE.double() + torch.arange(5) / 7).requires_grad_()
    assert loss(logits, labels).dtype == torch.float64
    assert torch.autograd.gradcheck(lambda given: loss(given, labels), (logits,))


@pytest.mark.parametrize("loss", EVERY_LOSS.values(), ids=EVERY_LOSS)
def test_half_precision_logits_are_raised_to_float32(loss):
    assert loss(FIVE.bfloat16(), torch.tensor([0, 3])).dtype == torch.float32
