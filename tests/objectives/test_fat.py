import pytest
import torch
from by_hand import batch

from equipoise.attacks import PGD
from equipoise.attacks.threat import Linf
from equipoise.objectives import FAT, MART, PGDAT, TRADES

STEPS, STEP = 8, 0.05
FLIPS = [0, 1, 3, 5, 8, 99]
"""At which visited point each of the images below is misclassified first."""


def brightness(images):
    """Two classes: an image is of class 1 once its mean is above 0.5."""
    above = 100 * (images.mean(dim=(1, 2, 3)) - 0.5)
    return torch.stack([-above, above], dim=1)


def ramp() -> tuple[torch.Tensor, torch.Tensor]:
    """Images of class 0 that so many steps of ``STEP`` carry over the boundary."""
    start = torch.tensor([0.5 - STEP * flips + STEP / 2 for flips in FLIPS]).clamp(0.02, 1)
    return start[:, None, None, None].expand(-1, 1, 2, 2), torch.zeros(len(FLIPS), dtype=int)


def search(objective, predict=brightness):
    clean, labels = ramp()
    goal = objective.goal(predict, clean, labels)
    attack = PGD(steps=STEPS, step_size=STEP, random_start=False)
    return goal, attack(goal, clean, Linf(0.9), torch.Generator().manual_seed(0))


@pytest.mark.parametrize("tau", [0, 1, 2, 7])
def test_an_image_stops_tau_steps_after_it_is_first_misclassified(tau):
    goal, found = search(FAT(tau=tau))
    clean, _ = ramp()
    steps = ((found - clean)[:, 0, 0, 0] / STEP).round().int().tolist()
    assert steps == [min(flips + tau, STEPS) for flips in FLIPS]
    # The point that the last step reaches is not looked at any more.
    assert goal.finished.tolist() == [flips + tau < STEPS for flips in FLIPS]


def test_an_image_that_is_done_is_not_sent_through_the_network_again():
    sizes = []
    search(FAT(tau=1), lambda images: sizes.append(len(images)) or brightness(images))
    assert sizes == [6, 6, 5, 4, 4, 3, 3, 2]


def test_points_are_counted_at_which_it_is_misclassified_as_algorithm_1_says():
    """One that crosses back and forth goes on until it has been wrong tau + 1 times."""
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


def test_the_point_that_is_found_is_the_one_where_it_stopped():
    goal, found = search(FAT(tau=0))
    assert torch.equal(goal.replace_finished(torch.zeros_like(found))[:3], found[:3])
    assert (brightness(found)[:3].argmax(dim=1) == 1).all()


def test_without_early_stopping_the_images_are_those_of_what_it_is_over():
    clean, labels = ramp()
    for over in (PGDAT(), TRADES(), MART()):
        attack = PGD(steps=STEPS, step_size=STEP, start_noise=0.001)
        plain, friendly = (
            attack(
                each.goal(brightness, clean, labels),
                clean,
                Linf(0.3),
                torch.Generator().manual_seed(1),
            )
            for each in (over, FAT(over=over, tau=99))
        )
        assert torch.equal(plain, friendly)


def test_rows_keep_their_order_and_their_clean_image_while_others_leave():
    """TRADES' goal compares with the clean image of each row, whichever rows are left."""
    clean, labels = ramp()
    goal = FAT(over=TRADES(), tau=0).goal(brightness, clean, labels)
    goal(clean)
    left = torch.tensor([5, 2])
    part = goal.select(left)
    points = clean[left] + 0.001
    wanted = TRADES().goal(brightness, clean[left], labels[left])(points)
    assert torch.equal(part(points), wanted)
    assert part.finished.tolist() == goal.finished[left].tolist()


def test_its_start_and_losses_are_those_of_what_it_is_over():
    assert FAT(over=PGDAT()).start_noise is None
    assert FAT(over=MART()).start_noise == MART().start_noise == 0.001
    clean, labels = ramp()
    for over in (PGDAT(), TRADES(), MART()):
        ours, theirs = (
            each.losses(batch(clean, clean + 0.1, labels, brightness))
            for each in (FAT(over=over), over)
        )
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_a_negative_tau_is_refused():
    with pytest.raises(ValueError, match="tau must be 0 or more steps, got -1"):
        FAT(tau=-1)
