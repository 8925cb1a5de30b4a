import pytest
import torch
from torch import nn

from equipoise.attacks import goals, losses
from equipoise.attacks.finishable_goals import EarlyStoppedGoal, SuccessTracker


@pytest.fixture
def predict():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 3))


@pytest.mark.parametrize("name", ["cross_entropy", "margin", "dlr"])
def test_a_goal_is_the_loss_of_the_predicted_logits(name, predict, images, labels):
    goal = getattr(goals, name)(predict, labels)
    assert torch.equal(goal(images), getattr(losses, name)(predict(images), labels))


@pytest.mark.parametrize("name", ["cross_entropy", "margin", "dlr"])
def test_each_row_of_a_goal_depends_on_its_own_image_only(name, predict, images, labels):
    images.requires_grad_(True)
    value = getattr(goals, name)(predict, labels)(images)
    (gradient,) = torch.autograd.grad(value[2], images)
    assert gradient[2].abs().max() > 0
    assert gradient[[0, 1, 3, 4, 5]].abs().max() == 0


def first_pixel_as_logits(images):
    """Class 0 while the first pixel is dark, class 1 once it is bright."""
    pixel = images[:, 0, 0, 0]
    return torch.stack([1 - pixel, pixel], dim=1)


def dark_then(*pixels):
    return torch.tensor(pixels).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2).clone()


def test_a_success_tracker_returns_its_loss_and_the_added_term():
    images, labels = dark_then(0.2, 0.7), torch.tensor([0, 0])
    plain = SuccessTracker(first_pixel_as_logits, labels, losses.margin)
    with_term = SuccessTracker(
        first_pixel_as_logits,
        labels,
        losses.margin,
        joint=lambda images: (
            first_pixel_as_logits(images),
            first_pixel_as_logits(images),
            images.sum((1, 2, 3)),
        ),
    )
    torch.testing.assert_close(plain(images), torch.tensor([-0.6, 0.4]))
    torch.testing.assert_close(with_term(images), torch.tensor([-0.6 + 0.8, 0.4 + 2.8]))


def test_a_success_tracker_stores_the_first_misclassified_point_of_each_image():
    tracker = SuccessTracker(first_pixel_as_logits, torch.tensor([0, 0, 0]), losses.margin)
    tracker(dark_then(0.1, 0.9, 0.1))
    tracker(dark_then(0.2, 0.1, 0.7))
    tracker(dark_then(0.3, 0.8, 0.9))
    assert tracker.broken.tolist() == [False, True, True]
    assert torch.equal(tracker.images, dark_then(0.0, 0.9, 0.7))


def test_logits_of_nan_count_as_misclassified():
    tracker = SuccessTracker(first_pixel_as_logits, torch.tensor([0, 1, 0]), losses.margin)
    tracker(dark_then(torch.nan, torch.nan, 0.1))
    assert tracker.broken.tolist() == [True, True, False]


def test_a_success_tracker_stores_detached_copies():
    tracker = SuccessTracker(first_pixel_as_logits, torch.tensor([0]), losses.margin)
    images = dark_then(0.9).requires_grad_(True)
    value = tracker(images)
    with torch.no_grad():
        images.zero_()
    assert value.requires_grad
    assert not tracker.images.requires_grad
    assert torch.equal(tracker.images, dark_then(0.9))


def test_an_early_stopped_goal_keeps_the_point_where_it_finished():
    clean, labels = dark_then(0.1), torch.tensor([0])
    goal = EarlyStoppedGoal(
        first_pixel_as_logits,
        clean,
        labels,
        lambda predict, clean, labels: goals.margin(predict, labels),
        tau=0,
    )
    goal(dark_then(0.7).requires_grad_(True))
    goal(dark_then(0.9))
    kept = goal.replace_finished(clean)
    assert torch.equal(kept, dark_then(0.7))
    assert not kept.requires_grad


@pytest.mark.parametrize("name", ["kl_divergence", "guided_cross_entropy"])
def test_the_last_prediction_of_a_goal_is_that_of_its_images(name, images, labels):
    """FAT takes it for theirs; the first call also predicts the clean images."""
    seen = []

    def predict(given):
        seen.append(given.detach())
        return given.flatten(1)[:, :3]

    rest = (labels, 1.0) if name == "guided_cross_entropy" else ()
    moved = images + 0.01
    getattr(goals, name)(predict, images, *rest)(moved)
    assert len(seen) == 2
    assert torch.equal(seen[-1], moved)
