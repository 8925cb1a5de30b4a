"""The contract of a search: inside the threat, reproducible, and without a trace in the model."""

import math

import torch
from torch import Tensor, nn

from equipoise.attacks import Search
from equipoise.attacks.goals import cross_entropy
from equipoise.attacks.threat import L2, Linf, Threat
from equipoise.contracts.base import (
    Check,
    equal,
    require,
    require_global_seed_unused,
    require_unchanged,
    seeded,
    state_of,
)
from equipoise.models.attack_mode.context import attack_mode
from equipoise.types import Images, PerImage

LABELS = torch.tensor([0, 1, 2, 0])
TOLERANCE = 1e-5
"""Rounding of a distance in float32."""


def threats() -> tuple[Threat, ...]:
    """Both norms, with one strength and with one per image."""
    return (
        Linf(0.2),
        Linf(torch.tensor([0.0, 0.03, 0.1, 0.3])),
        L2(0.3),
        L2(torch.tensor([0.0, 0.1, 0.2, 0.4])),
    )


def clean_images() -> Images:
    """Four images of 3 channels and 4x4 pixels."""
    return torch.rand(4, 3, 4, 4, generator=seeded())


def mixed_network() -> nn.Module:
    """A network with dropout and batch norms, in mixed modes, partly frozen, with gradients."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 2), nn.BatchNorm2d(4)
        )
        network.extend([nn.Dropout(0.2), nn.Flatten(), nn.Linear(4, 3)])
    network.train()
    network[1].eval()
    network[3].requires_grad_(False)
    next(network[0].parameters()).grad = torch.ones(4, 3, 3, 3)
    return network


def waves(images: Images) -> PerImage:
    """A goal with many local maxima: where a search starts decides where it ends."""
    return torch.sin(40 * images).sum(dim=(1, 2, 3))


def require_inside(adversarial: Tensor, clean: Images, threat: Threat) -> None:
    """Require images of the right shape, in [0, 1], no further from the clean ones than allowed.

    Args:
        adversarial: The images.
        clean: The clean ones.
        threat: The threat.
    """
    where, shape = f"under {type(threat).__name__}", tuple(adversarial.shape)
    require(shape == tuple(clean.shape), f"{where} images have shape {shape}")
    require(adversarial.isfinite().all(), f"{where} images have NaN or infinity")
    low, high = float(adversarial.min()), float(adversarial.max())
    require(
        low >= 0 and high <= 1, f"{where} pixels go from {low:.4g} to {high:.4g}, outside [0, 1]"
    )
    order = math.inf if isinstance(threat, Linf) else 2
    moved = torch.linalg.vector_norm((adversarial - clean).flatten(1), ord=order, dim=1)
    allowed = torch.as_tensor(threat.epsilon).expand(len(clean))
    worst = int((moved - allowed).argmax())
    require(
        moved[worst] <= allowed[worst] + TOLERANCE,
        f"{where} an image moved by {float(moved[worst]):.4g}; epsilon is "
        f"{float(allowed[worst]):.4g}",
    )


def stays_in_the_ball_and_in_0_to_1(search: Search) -> None:
    """At every threat, whatever the goal."""
    for threat in threats():
        clean = clean_images()
        require_inside(search(waves, clean, threat, seeded()), clean, threat)


def evaluates_the_goal_only_there(search: Search) -> None:
    """Every point that it visits counts: one that fools the model breaks the image."""
    for threat in threats():
        clean = clean_images()

        def goal(points: Images, clean: Images = clean, threat: Threat = threat) -> PerImage:
            require_inside(points.detach(), clean, threat)
            return waves(points)

        search(goal, clean, threat, seeded())


def never_worse_than_clean(search: Search) -> None:
    """The goal of a network is at least as high as at the clean image."""
    goal, clean = cross_entropy(mixed_network().eval(), LABELS), clean_images()
    for threat in threats():
        gain = (goal(search(goal, clean, threat, seeded())) - goal(clean)).detach()
        require(
            (gain >= -TOLERANCE).all(),
            f"under {type(threat).__name__} the goal of an image fell by {-float(gain.min()):.4g}",
        )


def returns_the_clean_image_where_epsilon_is_0(search: Search) -> None:
    """Under both norms."""
    for threat in (Linf(0.0), L2(0.0)):
        clean = clean_images()
        moved = (search(waves, clean, threat, seeded()) - clean).abs().max()
        require(moved <= TOLERANCE, f"a pixel moved by {float(moved):.4g} under {threat}")


def the_same_generator_gives_the_same_images(search: Search) -> None:
    """Bit for bit, at every threat."""
    for threat in threats():
        first, second = (search(waves, clean_images(), threat, seeded(7)) for _ in range(2))
        require(equal(first, second), "two runs with the same seed differ")


def does_not_use_the_global_generator(search: Search) -> None:
    """Randomness is an argument."""
    require_global_seed_unused(lambda: search(waves, clean_images(), Linf(0.1), seeded()))


def returns_new_detached_images(search: Search) -> None:
    """The clean images are neither changed nor returned, nor do they get a gradient."""
    clean = clean_images()
    before = clean.clone()
    adversarial = search(waves, clean, Linf(0.1), seeded())
    require(equal(clean, before) and not clean.requires_grad, "the clean images were changed")
    require(not adversarial.requires_grad, "the images are not detached")
    require(adversarial.data_ptr() != clean.data_ptr(), "the clean images are returned, not a copy")


def leaves_the_model_as_it_was(search: Search) -> None:
    """In attack mode, with and without batch statistics: weights, gradients, flags and modes."""
    for mode in ("eval", "train"):
        network = mixed_network()
        before = state_of(network)
        with attack_mode(network, mode):
            search(cross_entropy(network, LABELS), clean_images(), Linf(0.1), seeded())
        require_unchanged(network, before)


def gives_the_weights_no_gradient(search: Search) -> None:
    """Not even where nobody has switched the gradients of parameters off."""
    network = mixed_network().eval()
    before = state_of(network)
    search(cross_entropy(network, LABELS), clean_images(), Linf(0.1), seeded())
    require_unchanged(network, before)


SEARCH_CHECKS: tuple[Check[Search], ...] = (
    stays_in_the_ball_and_in_0_to_1,
    evaluates_the_goal_only_there,
    never_worse_than_clean,
    returns_the_clean_image_where_epsilon_is_0,
    the_same_generator_gives_the_same_images,
    does_not_use_the_global_generator,
    returns_new_detached_images,
    leaves_the_model_as_it_was,
    gives_the_weights_no_gradient,
)
