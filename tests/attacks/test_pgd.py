import pytest
import torch

from equipoise.attacks import PGD, fgsm, iterative_fgsm, losses
from equipoise.attacks.finishable_goals import SuccessTracker
from equipoise.attacks.threat import L2, Linf

CLEAN = torch.full((2, 1, 4, 4), 0.5)


def waves(images):
    """A goal with many local maxima, so that where a search starts decides where it ends."""
    return torch.sin(40 * images).sum(dim=(1, 2, 3))


def towards_clean(images):
    """Climbs back to the clean image, which is not where a long step lands."""
    return -(images - CLEAN).abs().sum(dim=(1, 2, 3))


def test_fgsm_is_one_step_of_epsilon_along_the_sign():
    slope = torch.tensor([1.0, -2.0, 0.5, 0.0]).repeat(4).reshape(1, 4, 4)
    adversarial = fgsm()(lambda x: (x * slope).sum((1, 2, 3)), CLEAN, Linf(0.1), torch.Generator())
    torch.testing.assert_close(adversarial, CLEAN + 0.1 * slope.sign())


def test_iterative_fgsm_takes_equal_fractions_of_epsilon():
    visited = []

    def goal(images):
        visited.append(images.detach().clone())
        return images.sum(dim=(1, 2, 3))

    last = iterative_fgsm(steps=4)(goal, CLEAN, Linf(0.2), torch.Generator())
    moved = [(images - CLEAN).max().item() for images in [*visited, last]]
    assert moved == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2], abs=1e-6)


@pytest.mark.parametrize("steps", [1, 10])
def test_a_step_longer_than_epsilon_ends_at_the_boundary_as_afs_prints_it(steps, generator):
    """2/255 at 1/255: every point after a step has each pixel at one end of the ball."""
    attack = PGD(steps=steps, step_size=2 / 255)
    adversarial = attack(towards_clean, CLEAN, Linf(1 / 255), generator)
    moved = (adversarial - CLEAN).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 1 / 255))


def test_a_step_has_its_length_whatever_each_images_own_epsilon(generator):
    threat = Linf(torch.tensor([0.01, 0.2]))
    search = PGD(steps=1, step_size=0.05, random_start=False)
    adversarial = search(
        lambda x: x.sum((1, 2, 3)), CLEAN.expand(2, *CLEAN.shape[1:]), threat, generator
    )
    moved = (adversarial - CLEAN).abs().mean(dim=(1, 2, 3))
    assert moved.tolist() == pytest.approx([0.01, 0.05], abs=1e-6)


def test_without_a_random_start_the_search_starts_at_the_clean_image():
    started = []
    goal = lambda images: started.append(images.detach().clone()) or waves(images)  # noqa: E731
    PGD(steps=1, relative_step=1.0, random_start=False)(goal, CLEAN, Linf(0.1), torch.Generator())
    assert torch.equal(started[0], CLEAN)


def test_a_random_start_is_drawn_by_the_threat():
    started = []
    goal = lambda images: started.append(images.detach().clone()) or waves(images)  # noqa: E731
    PGD(steps=1, relative_step=1.0)(goal, CLEAN, L2(0.1), torch.Generator().manual_seed(3))
    assert torch.equal(started[0], L2(0.1).random_start(CLEAN, torch.Generator().manual_seed(3)))


def test_a_given_start_is_projected_and_replaces_the_start_of_the_first_search():
    started = []
    goal = lambda images: started.append(images.detach().clone()) or waves(images)  # noqa: E731
    given = CLEAN + torch.linspace(-0.3, 0.05, CLEAN.numel()).view_as(CLEAN)
    search, draw = PGD(steps=1, relative_step=1.0, restarts=2), torch.Generator().manual_seed(3)
    search(goal, CLEAN, Linf(0.1), draw, given)
    assert torch.equal(started[0], Linf(0.1).project(given, CLEAN))
    again = torch.Generator().manual_seed(3)
    Linf(0.1).random_start(CLEAN, again)  # drawn and not used
    assert torch.equal(started[2], Linf(0.1).random_start(CLEAN, again))


@pytest.mark.usefixtures("no_shape_checks")
def test_a_start_of_another_shape_is_refused_and_a_valid_one_is_detached():
    search, draw = PGD(steps=1, relative_step=1.0), torch.Generator()
    with pytest.raises(ValueError, match=r"start must have the shape .* \(2, 1, 4, 4\), got \(3,"):
        search(waves, CLEAN, Linf(0.1), draw, torch.zeros(3, 1, 4, 4))
    adversarial = search(waves, CLEAN, Linf(0.1), draw, CLEAN.clone().requires_grad_(True))
    assert not adversarial.requires_grad


def test_a_given_start_stays_with_its_images_when_others_are_finished():
    images = torch.full((3, 1, 8, 8), 0.5)
    goal = SuccessTracker(lambda x: x.flatten(1)[:, :2], torch.zeros(3).long(), losses.margin)
    goal.record(images, torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))  # the second is broken
    given = images + torch.tensor([-0.1, 0.0, 0.1])[:, None, None, None]
    seen = []
    goal.predict = lambda x: seen.append(x.detach().clone()) or x.flatten(1)[:, :2]
    PGD(steps=1, relative_step=0.5)(goal, images, Linf(0.1), torch.Generator(), given)
    assert torch.equal(seen[0], given[[0, 2]])


@pytest.mark.parametrize("keep", ["last", "best"])
def test_restarts_keep_each_images_best_search(keep):
    attack, threat = {"steps": 3, "relative_step": 0.25, "keep": keep}, Linf(0.2)
    clean = torch.full((8, 1, 1, 2), 0.5)
    generator = torch.Generator().manual_seed(5)
    searches = [PGD(**attack)(waves, clean, threat, generator) for _ in range(4)]
    wins = torch.stack([waves(images) for images in searches]).argmax(dim=0)
    assert len(set(wins.tolist())) > 1  # else one whole batch might have been kept
    expected = torch.stack([searches[win][row] for row, win in enumerate(wins.tolist())])
    adversarial = PGD(**attack, restarts=4)(waves, clean, threat, torch.Generator().manual_seed(5))
    assert torch.equal(adversarial, expected)


def test_keep_best_returns_the_highest_point_visited():
    visited = []

    def goal(images):
        visited.append(images.detach().clone())
        return waves(images)

    attack = PGD(steps=7, relative_step=0.6, keep="best")
    clean = torch.full((8, 1, 1, 2), 0.5)
    adversarial = attack(goal, clean, Linf(0.2), torch.Generator().manual_seed(1))
    values = torch.stack([waves(images) for images in visited])
    assert len(visited) == 8  # seven steps, and the point that the last one reached
    torch.testing.assert_close(waves(adversarial), values.amax(dim=0))
    assert (values.amax(dim=0) > values[-1]).any()  # else "last" would have passed


def test_keep_best_includes_the_point_of_the_last_step():
    attack = PGD(steps=1, relative_step=1.0, random_start=False, keep="best")
    adversarial = attack(lambda x: x.sum((1, 2, 3)), CLEAN, Linf(0.1), torch.Generator())
    torch.testing.assert_close(adversarial, CLEAN + 0.1)


def test_a_finite_goal_is_kept_over_nan():
    def goal(images):
        return torch.where(images[:, 0, 0, 0] > 0.55, images.sum((1, 2, 3)), float("nan"))

    clean = torch.full((16, 1, 1, 1), 0.5)
    attack = PGD(steps=1, step_size=1e-4, restarts=8)
    adversarial = attack(goal, clean, Linf(0.1), torch.Generator().manual_seed(0))
    assert goal(adversarial).isfinite().float().mean() > 0.8


def test_an_attack_runs_inside_no_grad():
    with torch.no_grad():
        adversarial = fgsm()(lambda x: x.sum((1, 2, 3)), CLEAN, Linf(0.1), torch.Generator())
    torch.testing.assert_close(adversarial, CLEAN + 0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0, "step_size": 0.1}, "whole numbers of 1 or more, got 0 and 1"),
        ({"steps": 1, "step_size": 0.1, "restarts": 0}, "whole numbers of 1 or more, got 1 and 0"),
        ({"steps": 1}, "give exactly one of step_size"),
        ({"steps": 1, "step_size": 0.1, "relative_step": 0.1}, "give exactly one of step_size"),
        ({"steps": 1, "step_size": 0.0}, "the length of a step must be above 0, got 0"),
        (
            {"steps": 1, "relative_step": float("nan")},
            "the length of a step must be above 0, got nan",
        ),
        (
            {"steps": 1, "step_size": 0.1, "restarts": 2, "random_start": False},
            "restarts must be 1 without random_start, got 2",
        ),
    ],
)
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PGD(**settings)


@pytest.mark.usefixtures("no_shape_checks")
def test_an_epsilon_for_other_images_is_refused():
    with pytest.raises(ValueError, match="one for each of the 2 images"):
        fgsm()(waves, CLEAN, Linf(torch.tensor([0.1, 0.1, 0.1])), torch.Generator())


def test_images_finished_before_the_search_keep_their_stored_point():
    images = torch.full((3, 1, 8, 8), 0.5)
    labels = torch.zeros(3, dtype=torch.long)
    goal = SuccessTracker(lambda x: x.flatten(1)[:, :2], labels, losses.margin)
    goal.record(images, torch.tensor([[0.0, 1.0]] * 3))
    for restarts in (1, 2):
        search = PGD(steps=2, relative_step=0.5, restarts=restarts, keep="best")
        adversarial = search(goal, images, Linf(0.1), torch.Generator())
        assert torch.equal(adversarial, images)


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.5)])
@pytest.mark.parametrize("keep", ["last", "best"])
def test_a_nan_gradient_moves_nothing_and_leaves_images_finite(threat, keep, generator):
    clean = torch.rand(4, 1, 8, 8, generator=generator)

    def goal(images):
        total = images.sum(dim=(1, 2, 3))
        return torch.cat([(total[:2] - total[:2].detach()).sqrt(), total[2:]])

    adversarial = PGD(steps=3, relative_step=0.5, keep=keep)(goal, clean, threat, generator)
    assert bool(adversarial.isfinite().all())
    assert bool((adversarial[2:] > clean[2:]).any())
