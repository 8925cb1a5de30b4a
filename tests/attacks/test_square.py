import pytest
import torch
from torch import nn

from equipoise.attacks import Square
from equipoise.attacks.finishable_goals import SuccessTracker
from equipoise.attacks.goals import cross_entropy, margin
from equipoise.attacks.losses import margin as margin_loss
from equipoise.attacks.square import bump
from equipoise.attacks.threat import L2, Linf


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def waves(images):
    return torch.sin(40 * images).sum(dim=(1, 2, 3))


class Recording:
    """A goal that records the images it is called with."""

    def __init__(self, goal):
        self.goal, self.visited = goal, []

    def __call__(self, images):
        assert not torch.is_grad_enabled()
        self.visited.append(images.clone())
        return self.goal(images)


def test_the_squares_follow_the_published_schedule():
    # The area starts at 0.8 * 32 * 32 = 819.2 pixels, a side of 28.6, and is halved nine times.
    proposals = [0, 10, 11, 50, 51, 200, 201, 501, 1001, 2001, 4001, 6001, 8000, 8001, 50000]
    sides = [Square().side(proposal, 32, 32) for proposal in proposals]
    assert sides == [29, 29, 20, 20, 14, 14, 10, 7, 5, 4, 3, 2, 2, 1, 1]


def test_the_squares_of_l2_have_odd_sides_of_three_or_more():
    sides = [Square().side(p, 32, 32, least=3) for p in (0, 11, 51, 201, 501, 2001, 8001)]
    assert sides == [29, 21, 15, 11, 7, 5, 3]


def test_a_square_is_never_larger_than_the_image():
    assert Square(p_init=1.0).side(0, 3, 12) == 3
    assert Square().side(8001, 2, 2, least=3) == 2


def test_the_schedule_is_stretched_to_the_queries_on_request():
    stretched, fixed = Square(queries=1000, rescale=True), Square(queries=1000)
    assert stretched.side(1, 32, 32) == 29
    assert stretched.side(2, 32, 32) == fixed.side(20, 32, 32) == 20
    assert stretched.side(900, 32, 32) == 1
    assert fixed.side(900, 32, 32) == 7


def test_the_linf_start_is_vertical_stripes_of_plus_and_minus_epsilon():
    goal, clean = Recording(waves), torch.full((3, 2, 5, 7), 0.5)
    Square(queries=1)(goal, clean, Linf(0.1), seeded())
    (start,) = goal.visited
    assert torch.equal(start, start[:, :, :1].expand_as(start))
    torch.testing.assert_close((start - clean).abs(), torch.full_like(clean, 0.1))
    assert len({tuple(stripes.flatten().tolist()) for stripes in start}) == 3


def test_each_linf_proposal_is_one_square_at_its_own_position_in_each_image():
    goal, clean = Recording(lambda images: torch.zeros(len(images))), torch.full((40, 1, 9, 9), 0.5)
    Square(queries=2, p_init=0.12)(goal, clean, Linf(0.1), seeded())  # a side of 3
    start, proposal = goal.visited
    positions = set()
    for changed in (start != proposal)[:, 0]:
        rows, columns = changed.nonzero().unbind(dim=1)
        if len(rows):
            assert rows.max() - rows.min() <= 2
            assert columns.max() - columns.min() <= 2
            positions.add((int(rows.min()), int(columns.min())))
    assert len(positions) > 10
    assert max(row for row, _ in positions) == 6  # the square may touch the last row


def test_the_bump_is_two_pyramids_of_opposite_signs():
    # side 3: half of 1 x 3 with ring sums 1, 5/4, 1 ... and the rest of 2 x 3, each of length one.
    upper = torch.tensor([[1.0, 5.0, 1.0]]) / 27**0.5
    lower = torch.tensor([[1.0, 1.0, 1.0], [1.0, 5.0, 1.0]]) / 30**0.5
    torch.testing.assert_close(bump(3), torch.cat([upper, -lower]) / 2**0.5)
    assert bump(1).tolist() == [[-1.0]]
    for side in range(1, 12):
        assert bump(side).norm().item() == pytest.approx(1.0)


@pytest.mark.parametrize("size", [(2, 3), (8, 8), (16, 11)])
def test_every_l2_point_uses_the_whole_epsilon_away_from_the_pixel_bounds(size):
    goal, clean = Recording(waves), torch.full((4, 3, *size), 0.5)
    threat = L2(torch.tensor([0.0, 0.1, 0.2, 0.3]))
    Square(queries=40)(goal, clean, threat, seeded())
    for images in goal.visited:
        length = (images - clean).flatten(1).norm(dim=1)
        torch.testing.assert_close(length, threat.epsilon, rtol=1e-4, atol=1e-6)


def test_the_l2_start_covers_the_whole_image():
    goal, clean = Recording(waves), torch.full((4, 3, 10, 5), 0.5)
    Square(queries=1)(goal, clean, L2(0.5), seeded())
    assert (goal.visited[0] != clean).all()


def test_an_l2_proposal_moves_weight_from_one_window_to_another():
    goal, clean = (
        Recording(lambda images: torch.zeros(len(images))),
        torch.full((40, 1, 20, 20), 0.5),
    )
    Square(queries=2, p_init=0.02)(goal, clean, L2(0.5), seeded())  # windows of 3 x 3
    start, proposal = (images - clean for images in goal.visited)
    changed = (start - proposal).abs() > 1e-6
    assert (changed.sum(dim=(1, 2, 3)) <= 18).all()
    emptied = (changed & (proposal.abs() < 1e-6)).sum(dim=(1, 2, 3))
    assert (emptied == 9).sum() > 20  # fewer where the windows overlap


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.5)])
def test_reaches_more_than_half_the_optimum_of_a_linear_goal(threat):
    clean = torch.full((4, 1, 8, 8), 0.5)
    slope = torch.randn(4, 1, 8, 8, generator=seeded(1))
    goal = lambda images: ((images - clean) * slope).sum(dim=(1, 2, 3))  # noqa: E731
    adversarial = Square(queries=300, rescale=True)(goal, clean, threat, seeded())
    dual = 1 if isinstance(threat, Linf) else 2
    most = threat.epsilon * torch.linalg.vector_norm(slope.flatten(1), ord=dual, dim=1)
    assert (goal(adversarial) > 0.5 * most).all()
    assert (goal(adversarial) <= most + 1e-5).all()


def test_a_nan_goal_is_never_kept_over_a_finite_one():
    def goal(images):
        return torch.where(images[:, 0, 0, 0] > 0.5, images.sum(dim=(1, 2, 3)), float("nan"))

    adversarial = Square(queries=30)(goal, torch.full((16, 1, 4, 4), 0.5), Linf(0.1), seeded())
    assert goal(adversarial).isfinite().all()


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.5)])
def test_a_restart_calls_the_goal_once_a_query(threat):
    goal = Recording(waves)
    Square(queries=7, restarts=3)(goal, torch.rand(2, 1, 6, 6), threat, seeded())
    assert len(goal.visited) == 21


@pytest.fixture
def quantised():
    """A network behind a rounding of the pixels, which has no gradient."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).requires_grad_(False)
    return lambda images: network((images * 255).round() / 255)


@pytest.mark.parametrize("loss", [cross_entropy, margin])
@pytest.mark.parametrize("threat", [Linf(0.2), L2(0.6)])
def test_raises_a_goal_without_a_gradient(loss, threat, quantised, generator):
    images = torch.rand(6, 1, 6, 6, generator=generator)
    labels = quantised(images).argmax(dim=1)
    goal = loss(quantised, labels)
    adversarial = Square(queries=50)(goal, images, threat, generator)
    assert (goal(adversarial) > goal(images)).all()


@pytest.mark.parametrize("kind", [Linf, L2])
@pytest.mark.parametrize("restarts", [1, 2])
def test_dropping_finished_images_does_not_change_the_others(kind, restarts, quantised, generator):
    images = torch.rand(6, 1, 6, 6, generator=generator)
    labels, shown = quantised(images).argmax(dim=1), []
    threat = kind(torch.linspace(0.4 if kind is Linf else 1.5, 0.0, 6))
    counted = lambda images: shown.append(len(images)) or quantised(images)  # noqa: E731
    tracker, attack = (
        SuccessTracker(counted, labels, margin_loss),
        Square(queries=60, restarts=restarts),
    )
    adversarial = attack(tracker, images, threat, seeded())
    plain = attack(margin(quantised, labels), images, threat, seeded())
    left = ~tracker.broken
    assert 0 < left.sum() < 6
    assert torch.equal(adversarial[left], plain[left])
    assert torch.equal(adversarial[~left], tracker.images[~left])
    assert shown == sorted(shown, reverse=True)
    assert shown[-1] == left.sum()


def test_images_finished_before_cost_nothing(quantised, generator):
    images = torch.rand(6, 1, 6, 6, generator=generator)
    labels, shown = (quantised(images).argmax(dim=1) + 1) % 3, []
    counted = lambda images: shown.append(len(images)) or quantised(images)  # noqa: E731
    tracker = SuccessTracker(counted, labels, margin_loss)
    tracker(images)
    assert torch.equal(Square()(tracker, images, Linf(0.1), seeded()), images)
    assert shown == [6]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queries": 0}, "queries and restarts must be 1 or more, got 0 and 1"),
        ({"restarts": 0}, "queries and restarts must be 1 or more, got 5000 and 0"),
        ({"p_init": 80.0}, "p_init must be a share of the area in \\(0, 1\\], got 80"),
        ({"p_init": float("nan")}, "p_init must be a share of the area"),
    ],
)
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Square(**settings)


def test_an_unknown_threat_is_refused():
    class Other(Linf):
        pass

    class Unknown:
        epsilon = 0.1
        with_epsilon = project = random_start = ascent = lambda *rest: rest

    images = torch.full((1, 1, 4, 4), 0.5)
    Square(queries=2)(waves, images, Other(0.1), seeded())
    with pytest.raises(TypeError, match="the threat of Square must be Linf or L2, got Unknown"):
        Square()(waves, images, Unknown(), seeded())
