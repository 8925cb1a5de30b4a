from dataclasses import dataclass

import pytest
import torch
from torch import nn

from equipoise.attacks import APGD
from equipoise.attacks.apgd import checkpoints
from equipoise.attacks.finishable_goals import SuccessTracker
from equipoise.attacks.goals import cross_entropy, margin
from equipoise.attacks.losses import margin as margin_loss
from equipoise.attacks.threat import L2, Linf


@dataclass(frozen=True)
class Open:
    """An unbounded threat with epsilon 1 and clean starts, so that every move is visible."""

    epsilon: object = 1.0

    def with_epsilon(self, epsilon):
        return Open(epsilon)

    def project(self, images, clean):
        return images

    def random_start(self, clean, generator):
        return clean.clone()

    def ascent(self, gradient):
        return gradient.sign()


class Script:
    """A goal with scripted values and signs of its gradient.

    Args:
        values: One value per call, or one per call and image. The last one repeats.
        slopes: Likewise; 1 after the last one.
    """

    def __init__(self, values, slopes=()):
        self.values, self.slopes = list(values), list(slopes)
        self.visited = []

    def __call__(self, images):
        call = len(self.visited)
        self.visited.append(images.detach().clone())
        value = torch.tensor(self.values[min(call, len(self.values) - 1)]).expand(len(images))
        slope = self.slopes[call] if call < len(self.slopes) else 1.0
        pull = (images * slope).sum(dim=(1, 2, 3))
        return pull - pull.detach() + value

    def pixels(self, image=0):
        return [images[image].item() for images in self.visited]


def climb(script, images=1, **settings):
    clean = torch.zeros(images, 1, 1, 1)
    return APGD(**settings)(script, clean, Open(), torch.Generator())


def test_the_checkpoints_of_a_hundred_steps_are_the_papers():
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]


@pytest.mark.parametrize(
    ("steps", "marks"),
    [(1, []), (2, [1]), (10, [2, 3, 4, 5, 6, 7, 8, 9]), (50, [11, 21, 30, 38, 45])],
)
def test_few_steps_have_checkpoints_at_whole_steps(steps, marks):
    # 50: windows of 11, then one (int of 1.5) shorter each, 3 at least.
    assert checkpoints(steps) == marks


def test_the_first_step_is_twice_epsilon_and_the_next_ones_add_a_quarter_of_the_last_move():
    script = Script(values=[0.0, 1.0, 2.0, 3.0], slopes=[1.0, -1.0, 1.0])
    climb(script, steps=3)
    # 0 + 2; 2 - 3/4 * 2 + 1/4 * 2; 1 + 3/4 * 2 + 1/4 * -1.  (The first check, after step 1, finds
    # every step a rise.)
    assert script.pixels() == [0.0, 2.0, 1.0, 2.25]


# With 20 steps the windows are 4, 3, 2, 1, ... steps long. Without momentum each move is one step.


def test_a_step_is_kept_while_more_than_rho_of_the_steps_rise():
    script = Script(values=[0.0, 1.0, 2.0, 3.0, 4.0])
    climb(script, steps=20, momentum=1.0)
    assert script.pixels()[:6] == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]


def test_too_few_rises_halve_the_step_and_return_to_the_best_point():
    script = Script(values=[0.0, 1.0, 2.0, 3.0, 0.0])  # three of four rise; the best is at 6
    climb(script, steps=20, momentum=1.0)
    assert script.pixels()[:6] == [0.0, 2.0, 4.0, 6.0, 8.0, 6.0 + 1.0]


def test_the_best_point_is_stored_with_its_gradient():
    script = Script(values=[0.0, 1.0, 2.0, 3.0, 0.0], slopes=[1.0, 1.0, 1.0, -1.0, 1.0])
    climb(script, steps=20, momentum=1.0)
    assert script.pixels()[:6] == [0.0, 2.0, 4.0, 6.0, 4.0, 6.0 - 1.0]


def test_an_unchanged_best_point_halves_the_step():
    # Three of four rise (over half): kept. Then all of three rise, and none to more than 7.
    script = Script(values=[0.0, 5.0, 6.0, 7.0, 1.0, 2.0, 3.0, 4.0])
    climb(script, steps=20, momentum=1.0, rho=0.5)
    assert script.pixels()[:9] == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 6.0 + 1.0]


def test_an_unchanged_best_point_does_not_halve_the_step_twice_in_a_row():
    # Two of four rise: halved, back to 4. Then all of three rise, and none to more than 6.
    script = Script(values=[0.0, 5.0, 6.0, 1.0, 1.0, 2.0, 3.0, 4.0])
    climb(script, steps=20, momentum=1.0, rho=0.5)
    assert script.pixels()[:9] == [0.0, 2.0, 4.0, 6.0, 8.0, 5.0, 6.0, 7.0, 8.0]


def test_the_first_checkpoint_ignores_an_unchanged_best_point():
    script = Script(values=[9.0, 1.0, 2.0, 3.0, 4.0])
    climb(script, steps=20, momentum=1.0, rho=0.5)
    assert script.pixels()[:6] == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]


def test_a_checkpoint_counts_only_the_rises_since_the_last_one():
    script = Script(values=[0.0, 1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 5.0])
    climb(script, steps=20, momentum=1.0)
    assert script.pixels()[:9] == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 14.0 + 1.0]


def test_each_image_has_its_own_step():
    script = Script(values=[[0.0, 0.0], [1.0, 1.0], [2.0, 2.0], [3.0, 3.0], [0.0, 4.0]])
    climb(script, images=2, steps=20, momentum=1.0)
    assert script.pixels(0)[5] == 7.0
    assert script.pixels(1)[5] == 10.0


def test_the_best_point_is_returned_even_if_it_is_the_start_or_the_last():
    start, last = Script(values=[1.0, 0.0]), Script(values=[0.0, 0.0, 0.0, 1.0])
    assert climb(start, steps=3).item() == 0.0
    assert climb(last, steps=3).item() == last.pixels()[-1] != 0.0


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_restart_calls_the_goal_once_more_than_it_has_steps(steps):
    script = Script(values=[0.0])
    climb(script, steps=steps, restarts=3)
    assert len(script.visited) == 3 * (steps + 1)


def test_a_nan_goal_is_never_kept():
    script = Script(values=[0.0, 1.0, float("nan"), 0.5])
    assert climb(script, steps=20, momentum=1.0).item() == 2.0
    script = Script(values=[float("nan"), float("nan"), 0.5, 0.0])
    assert climb(script, steps=20, momentum=1.0).item() == 4.0


@pytest.mark.parametrize("threat", [Linf(0.4), L2(0.4)])
def test_a_nan_gradient_leaves_images_finite(threat):
    def goal(images):
        assert images.isfinite().all()
        return -(0.7 - images).sqrt().sum(dim=(1, 2, 3))  # NaN above 0.7, and so is its gradient

    adversarial = APGD(steps=20)(goal, torch.full((8, 1, 1, 1), 0.5), threat, torch.Generator())
    assert goal(adversarial).isfinite().float().mean() > 0.5


def waves(images):
    return torch.sin(40 * images).sum(dim=(1, 2, 3))


def test_restarts_keep_each_images_best_search():
    clean, threat = torch.full((8, 1, 1, 2), 0.5), Linf(0.2)
    generator = torch.Generator().manual_seed(5)
    searches = [APGD(steps=3)(waves, clean, threat, generator) for _ in range(4)]
    values = torch.stack([waves(images) for images in searches])
    assert len(set(values.argmax(dim=0).tolist())) > 1
    adversarial = APGD(steps=3, restarts=4)(waves, clean, threat, torch.Generator().manual_seed(5))
    assert torch.equal(waves(adversarial), values.amax(dim=0))


@pytest.fixture
def two_classes():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).requires_grad_(False)


@pytest.mark.parametrize(("threat", "dual"), [(Linf, 1), (L2, 2)])
def test_breaks_exactly_the_images_within_epsilon_of_the_boundary(threat, dual, two_classes):
    clean = torch.full((1, 3, 2, 2), 0.5).expand(6, -1, -1, -1)
    weight = two_classes[1].weight
    label = int(two_classes(clean[:1]).argmax())
    labels = torch.full((6,), label)
    normal = weight[1 - label] - weight[label]
    distance = -margin(two_classes, labels)(clean) / torch.linalg.vector_norm(normal, ord=dual)
    epsilon = distance * torch.tensor([0.0, 0.5, 0.98, 1.02, 1.5, 2.0])
    tracker = SuccessTracker(two_classes, labels, margin_loss)
    APGD(steps=20)(tracker, clean, threat(epsilon), torch.Generator().manual_seed(0))
    assert tracker.broken.tolist() == [False, False, False, True, True, True]


class Counted:
    """Predicts with a network and records the number of images of each call."""

    def __init__(self, network):
        self.network, self.sizes = network, []

    def __call__(self, images):
        self.sizes.append(len(images))
        return self.network(images)


@pytest.fixture
def hard_and_easy(external_cnn, generator):
    """Images, the network's predictions, and epsilons from easy to impossible."""
    images = torch.rand(6, 3, 8, 8, generator=generator)
    network = external_cnn.eval().requires_grad_(False)
    network.head.bias -= network(images).mean(dim=0)  # so that it predicts more than one class
    return network, images, network(images).argmax(dim=1), torch.linspace(0.5, 0.0, 6)


@pytest.mark.parametrize("kind", [Linf, L2])
@pytest.mark.parametrize(("steps", "restarts"), [(10, 1), (1, 3)])
def test_dropping_finished_images_does_not_change_the_others(kind, steps, restarts, hard_and_easy):
    network, images, labels, epsilon = hard_and_easy
    threat = kind(epsilon * (0.05 if kind is Linf else 0.4))
    attack, counted = APGD(steps=steps, restarts=restarts), Counted(network)
    tracker = SuccessTracker(counted, labels, margin_loss)
    adversarial = attack(tracker, images, threat, torch.Generator().manual_seed(0))
    plain = attack(margin(network, labels), images, threat, torch.Generator().manual_seed(0))
    left = ~tracker.broken
    assert 1 < left.sum() < 6
    torch.testing.assert_close(adversarial[left], plain[left])
    assert torch.equal(adversarial[~left], tracker.images[~left])
    assert counted.sizes == sorted(counted.sizes, reverse=True)
    assert counted.sizes[-1] == left.sum()


def test_images_finished_before_cost_nothing(hard_and_easy):
    network, images, labels, _ = hard_and_easy
    counted = Counted(network)
    tracker = SuccessTracker(counted, (labels + 1) % 3, margin_loss)
    tracker(images)
    assert torch.equal(APGD()(tracker, images, Linf(0.1), torch.Generator()), images)
    assert counted.sizes == [6]


def test_runs_inside_no_grad(hard_and_easy):
    network, images, labels, epsilon = hard_and_easy
    goal = cross_entropy(network, labels)
    with torch.no_grad():
        adversarial = APGD(steps=3)(goal, images, Linf(epsilon), torch.Generator())
        assert (goal(adversarial) > goal(images))[:-1].all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps and restarts must be 1 or more, got 0 and 1"),
        ({"restarts": 0}, "steps and restarts must be 1 or more, got 100 and 0"),
        ({"rho": 75.0}, "rho must be a share in \\[0, 1\\], got 75"),
        ({"momentum": 0.0}, "momentum must be in \\(0, 1\\], got 0.0; 1 is ascent"),
        ({"momentum": float("nan")}, "momentum must be in \\(0, 1\\], got nan"),
    ],
)
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        APGD(**settings)
