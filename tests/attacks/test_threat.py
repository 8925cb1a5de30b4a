import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.attacks.threat import L2, Linf

THREATS = [Linf, L2]

draws = settings(deadline=None, derandomize=True, max_examples=60)
cases = given(
    kind=st.sampled_from(THREATS),
    epsilon=st.floats(0.0, 1.0, width=32),
    spread=st.floats(1e-3, 10.0),
    each=st.booleans(),
    seed=st.integers(0, 2**31),
)


def distance(threat, images, clean):
    order = math.inf if isinstance(threat, Linf) else 2
    return torch.linalg.vector_norm((images - clean).flatten(1), ord=order, dim=1)


def assert_allowed(threat, images, clean):
    assert images.min() >= 0
    assert images.max() <= 1
    assert (distance(threat, images, clean) <= torch.as_tensor(threat.epsilon) + 1e-5).all()


def draw(kind, epsilon, each, seed):
    generator = torch.Generator().manual_seed(seed)
    clean = torch.rand(3, 1, 2, 3, generator=generator)
    return kind(torch.tensor([0.0, epsilon / 2, epsilon]) if each else epsilon), clean, generator


@cases
@draws
def test_a_projection_is_inside_the_ball_and_the_pixel_range(kind, epsilon, spread, each, seed):
    threat, clean, generator = draw(kind, epsilon, each, seed)
    far = clean + spread * torch.randn(clean.shape, generator=generator)
    assert_allowed(threat, threat.project(far, clean), clean)


@cases
@draws
def test_projecting_twice_changes_nothing(kind, epsilon, spread, each, seed):
    threat, clean, generator = draw(kind, epsilon, each, seed)
    far = clean + spread * torch.randn(clean.shape, generator=generator)
    once = threat.project(far, clean)
    torch.testing.assert_close(threat.project(once, clean), once, rtol=0, atol=2e-6)


@cases
@draws
def test_a_random_start_is_inside_the_ball_and_the_pixel_range(kind, epsilon, spread, each, seed):
    threat, clean, generator = draw(kind, epsilon, each, seed)
    assert_allowed(threat, threat.random_start(clean, generator), clean)


@pytest.mark.parametrize("kind", THREATS)
def test_projection_leaves_allowed_images_unchanged(kind):
    clean = torch.full((2, 1, 2, 2), 0.5)
    images = clean + torch.tensor([0.1, -0.1]).reshape(2, 1, 1, 1)
    assert torch.equal(kind(0.3).project(images, clean), images)


def test_linf_projection_clamps_every_pixel_to_the_ball_and_the_pixel_range():
    clean = torch.tensor([0.5, 0.5, 0.95, 0.05]).reshape(1, 1, 2, 2)
    far = torch.tensor([0.9, 0.55, 2.0, -1.0]).reshape(1, 1, 2, 2)
    expected = torch.tensor([0.6, 0.55, 1.0, 0.0]).reshape(1, 1, 2, 2)
    torch.testing.assert_close(Linf(0.1).project(far, clean), expected)


def test_l2_projection_shortens_and_keeps_the_direction():
    clean = torch.full((1, 1, 1, 2), 0.5)
    far = clean + torch.tensor([3.0, -4.0]).reshape(1, 1, 1, 2)
    expected = clean + torch.tensor([0.06, -0.08]).reshape(1, 1, 1, 2)
    torch.testing.assert_close(L2(0.1).project(far, clean), expected)


@pytest.mark.parametrize("kind", THREATS)
def test_each_image_has_its_own_epsilon(kind):
    clean = torch.full((3, 1, 2, 2), 0.5)
    epsilons = torch.tensor([0.0, 0.1, 0.4])
    threat = kind(epsilons)
    torch.testing.assert_close(distance(threat, threat.project(clean + 5, clean), clean), epsilons)


def test_linf_random_start_is_uniform_in_the_ball(generator):
    clean = torch.full((500, 1, 2, 2), 0.5)
    noise = (Linf(0.2).random_start(clean, generator) - clean) / 0.2
    assert noise.mean().abs() < 0.05
    assert noise.var().item() == pytest.approx(1 / 3, abs=0.03)  # of a uniform draw on (-1, 1)


def test_l2_random_start_is_uniform_in_the_ball(generator):
    clean = torch.full((3000, 1, 1, 2), 0.5)
    threat = L2(0.2)
    radius = distance(threat, threat.random_start(clean, generator), clean) / 0.2
    # In two dimensions the share of the disc inside radius r is r squared.
    assert (radius**2).mean().item() == pytest.approx(0.5, abs=0.03)
    assert (radius < 0.5).float().mean().item() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("kind", THREATS)
def test_random_starts_depend_only_on_the_generator(kind):
    clean = torch.full((2, 1, 2, 2), 0.5)

    def start(seed):
        return kind(0.2).random_start(clean, torch.Generator().manual_seed(seed))

    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))


def test_linf_ascent_is_the_sign():
    gradient = torch.tensor([3.0, -1e-20, 0.0, 7.0]).reshape(1, 1, 2, 2)
    expected = torch.tensor([1.0, -1.0, 0.0, 1.0]).reshape(1, 1, 2, 2)
    assert torch.equal(Linf(0.1).ascent(gradient), expected)


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 1e30])
def test_l2_ascent_has_length_one_for_any_size_of_gradient(size):
    gradient = size * torch.tensor([3.0, -4.0]).reshape(1, 1, 1, 2)
    expected = torch.tensor([0.6, -0.8]).reshape(1, 1, 1, 2)
    torch.testing.assert_close(L2(0.1).ascent(gradient), expected)


def test_l2_ascent_of_a_zero_gradient_is_zero():
    assert torch.equal(L2(0.1).ascent(torch.zeros(1, 1, 2, 2)), torch.zeros(1, 1, 2, 2))


@pytest.mark.parametrize("kind", THREATS)
def test_with_epsilon_keeps_the_kind_of_threat(kind):
    assert kind(0.1).with_epsilon(0.2) == kind(0.2)


@pytest.mark.parametrize("epsilon", [8, torch.tensor([0.0, 8.0])])
def test_a_linf_epsilon_of_8_is_refused_with_the_remedy(epsilon):
    with pytest.raises(ValueError, match=r"For the papers' 8 write 8/255"):
        Linf(epsilon)


@pytest.mark.parametrize("kind", THREATS)
@pytest.mark.parametrize("invalid", [-0.1, math.nan, math.inf])
def test_a_negative_or_infinite_epsilon_is_refused(kind, invalid):
    for epsilon in (invalid, torch.tensor([0.1, invalid])):
        with pytest.raises(ValueError, match="epsilon must be"):
            kind(epsilon)


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize("kind", THREATS)
def test_an_epsilon_for_every_pixel_is_refused(kind):
    with pytest.raises(ValueError, match=r"a tensor of shape \(batch,\), got shape \(3, 1\)"):
        kind(torch.full((3, 1), 0.1))


def test_an_l2_epsilon_may_be_above_one():
    assert L2(2.0).epsilon == 2.0


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize("kind", THREATS)
def test_an_epsilon_for_other_images_is_refused(kind):
    clean = torch.zeros(3, 1, 2, 2)
    with pytest.raises(ValueError, match=r"one for each of the 3 images, got .*\(2,\)"):
        kind(torch.tensor([0.1, 0.2])).project(clean, clean)
