import pytest
import torch
from by_hand import batch
from tiny import SCHEDULE, images_and_labels, linear, replace_attacks

from equipoise.attacks import PGD
from equipoise.attacks.threat import Linf
from equipoise.methods import SingleNetwork
from equipoise.objectives import FAT, MART, PGDAT, TRADES
from equipoise.objectives.fat import AUTHORS_RAISES

STEPS, STEP = 8, 0.05
FLIPS = [0, 1, 3, 5, 8, 99]
"""Index of the first point of the search at which each image of ``ramp`` is misclassified."""


def brightness(images):
    """Predict class 1 for images whose mean is above 0.5, else class 0."""
    above = 100 * (images.mean(dim=(1, 2, 3)) - 0.5)
    return torch.stack([-above, above], dim=1)


def ramp() -> tuple[torch.Tensor, torch.Tensor]:
    """Images of class 0 that cross the boundary after ``FLIPS`` steps of ``STEP``."""
    start = torch.tensor([0.5 - STEP * flips + STEP / 2 for flips in FLIPS]).clamp(0.02, 1)
    return start[:, None, None, None].expand(-1, 1, 2, 2), torch.zeros(len(FLIPS), dtype=int)


def search(objective, predict=brightness):
    clean, labels = ramp()
    goal = objective.goal(predict, clean, labels)
    attack = PGD(steps=STEPS, step_size=STEP, random_start=False)
    return goal, attack(goal, clean, Linf(0.9), torch.Generator().manual_seed(0))


@pytest.mark.parametrize("tau", [0, 1, 2, 7])
def test_an_image_stops_tau_steps_after_it_is_first_misclassified(tau):
    goal, adversarial = search(FAT(tau=tau))
    clean, _ = ramp()
    steps = ((adversarial - clean)[:, 0, 0, 0] / STEP).round().int().tolist()
    assert steps == [min(flips + tau, STEPS) for flips in FLIPS]
    # The point that the last step reaches is not looked at any more.
    assert goal.finished.tolist() == [flips + tau < STEPS for flips in FLIPS]


def test_an_image_that_is_done_is_not_predicted_again():
    sizes = []
    search(FAT(tau=1), lambda images: sizes.append(len(images)) or brightness(images))
    assert sizes == [6, 6, 5, 4, 4, 3, 3, 2]


def test_tau_counts_misclassified_points_as_in_algorithm_1():
    """An image that crosses back and forth stops at its (tau + 1)-th misclassified point."""
    wrong = iter([True, False, True, False, True])

    def predict(images):
        return torch.tensor([[0.0, 1.0 if next(wrong) else -1.0]]) + 0 * images.mean()

    clean = torch.full((1, 1, 2, 2), 0.5)
    goal = FAT(tau=2).goal(predict, clean, torch.tensor([0]))
    done = []
    for step in range(5):
        goal(clean + 0.1 * step)
        done.append(goal.finished.item())
    assert done == [False, False, False, False, True]
    torch.testing.assert_close(goal.replace_finished(clean), clean + 0.4)


def test_the_adversarial_image_is_the_point_where_the_search_stopped():
    goal, adversarial = search(FAT(tau=0))
    stopped = goal.replace_finished(torch.zeros_like(adversarial))
    assert torch.equal(stopped[:3], adversarial[:3])
    assert (brightness(adversarial)[:3].argmax(dim=1) == 1).all()


def test_with_a_large_tau_the_images_are_those_of_the_base_objective():
    clean, labels = ramp()
    for over in (PGDAT(), TRADES(), MART()):
        attack = PGD(steps=STEPS, step_size=STEP, start_noise=0.001)
        plain, friendly = (
            attack(
                objective.goal(brightness, clean, labels),
                clean,
                Linf(0.3),
                torch.Generator().manual_seed(1),
            )
            for objective in (over, FAT(over=over, tau=99))
        )
        assert torch.equal(plain, friendly)


def test_rows_keep_their_order_and_clean_images_when_others_are_dropped():
    """TRADES' goal compares each remaining row with its own clean image."""
    clean, labels = ramp()
    goal = FAT(over=TRADES(), tau=0).goal(brightness, clean, labels)
    goal(clean)
    left = torch.tensor([5, 2])
    part = goal.select(left)
    points = clean[left] + 0.001
    expected = TRADES().goal(brightness, clean[left], labels[left])(points)
    assert torch.equal(part(points), expected)
    assert part.finished.tolist() == goal.finished[left].tolist()


def test_its_start_and_losses_are_those_of_the_base_objective():
    assert FAT(over=PGDAT()).start_noise is None
    assert FAT(over=MART()).start_noise == MART().start_noise == 0.001
    clean, labels = ramp()
    for over in (PGDAT(), TRADES(), MART()):
        ours, theirs = (
            objective.losses(batch(clean, clean + 0.1, labels, brightness))
            for objective in (FAT(over=over), over)
        )
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_a_negative_tau_is_refused():
    with pytest.raises(ValueError, match="tau must be 0 or more steps, got -1"):
        FAT(tau=-1)


def test_tau_rises_from_0_to_3_at_the_authors_epochs():
    fat = FAT(over=TRADES(), raise_at=AUTHORS_RAISES)
    taus = [fat.at(epoch / 85).tau for epoch in range(85)]
    assert taus == [0] * 30 + [1] * 20 + [2] * 20 + [3] * 15
    assert fat.at(0.5).over == TRADES()


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.6, 0.4), (0.0,), (1.0,)])
def test_raises_that_do_not_ascend_inside_the_training_are_refused(shares):
    with pytest.raises(ValueError, match=r"raise_at must be shares .* inside \(0, 1\)"):
        FAT(raise_at=shares)


@pytest.mark.parametrize(("progress", "tau"), [(0.0, 0), (0.4, 1), (0.99, 3)])
def test_a_training_step_uses_the_tau_of_its_time(monkeypatch, progress, tau):
    seen = []

    def keep(search, goal, clean, **call):
        seen.append(goal._visited.limit - 1)
        return clean

    replace_attacks(monkeypatch, keep)
    method = SingleNetwork(
        objective=FAT(over=TRADES(), raise_at=AUTHORS_RAISES), epsilon=0.1, schedule=SCHEDULE
    )
    (stage,) = method.stages(linear)
    images, labels = images_and_labels()
    stage.build({})(images, labels, torch.Generator(), progress)
    assert seen == [tau]
