"""The contract of an attack of an evaluation, checked on a small network in attack mode."""

import json
import pickle
from dataclasses import dataclass, fields
from typing import get_args

import torch
from torch import Tensor, nn

from equipoise.attacks.goals import misclassified
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
from equipoise.contracts.searches import require_inside
from equipoise.evaluation.attack import Attack, AttackResult, Kind
from equipoise.models.attack_mode.context import attack_mode
from equipoise.runtime.errors import InvalidInput
from equipoise.types import Images

CLASSES = 4


def small_network() -> nn.Module:
    """A network of 4 classes in eval mode, partly frozen, for images of 3x8x8 pixels."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU())
        network.extend([nn.Flatten(), nn.Linear(36, CLASSES)])
    network[0].requires_grad_(False)
    next(network[4].parameters()).grad = torch.ones(CLASSES, 36)
    return network.eval()


@dataclass(frozen=True)
class AttackCase:
    """An attack, and the network that it attacks.

    Args:
        attack: The attack.
        network: From ``small_network``; the attack may have been made for it.
    """

    attack: Attack
    network: nn.Module

    def images(self) -> tuple[Images, Tensor]:
        """Six images and the classes that the network gives them."""
        images = torch.rand(6, 3, 8, 8, generator=seeded())
        with torch.no_grad():
            return images, self.network(images).argmax(dim=1)

    def run(self, threat: Threat, shift: int = 0) -> AttackResult:
        """Attack the images; a shift of the labels makes all of them wrong from the start."""
        images, labels = self.images()
        labels = (labels + shift) % CLASSES
        with attack_mode(self.network):
            result = self.attack.run(self.network, images, labels, threat, seeded())
        require(
            isinstance(result, AttackResult),
            f"run must return an AttackResult, got {type(result).__name__}",
        )
        return result

    def under_every_norm(self) -> list[tuple[Threat, AttackResult]]:
        """Results by threat, without a norm that the attack refuses by ``InvalidInput``."""
        results: list[tuple[Threat, AttackResult]] = []
        for threat in (Linf(0.1), Linf(8 / 255), L2(0.5)):
            try:
                results.append((threat, self.run(threat)))
            except InvalidInput:
                continue
        require(bool(results), "it refuses both norms")
        return results


def stays_in_the_ball_and_in_0_to_1(case: AttackCase) -> None:
    """Also the points that broke nothing, from which later attacks may start."""
    for threat, result in case.under_every_norm():
        require_inside(result.images, case.images()[0], threat)


def breaks_only_what_is_misclassified(case: AttackCase) -> None:
    """What is called broken, the network misclassifies at the point that is returned."""
    _, labels = case.images()
    for threat, result in case.under_every_norm():
        broken = result.broken
        require(
            broken.dtype == torch.bool and broken.shape == labels.shape,
            f"broken must be one truth value per image, got {broken.dtype}, {tuple(broken.shape)}",
        )
        with torch.no_grad():
            wrong = misclassified(case.network(result.images), labels)
        false = int((broken & ~wrong).sum())
        require(not false, f"under {threat} {false} images are called broken, but classified right")
        passes = (result.forward_passes, result.backward_passes)
        require(all(isinstance(n, int) and n >= 0 for n in passes), f"passes are {passes}")


def never_worse_than_clean(case: AttackCase) -> None:
    """An image that is misclassified without an attack counts as broken."""
    broken = case.run(Linf(0.01), shift=1).broken
    missed = int((~broken).sum())
    require(not missed, f"{missed} of 6 images that are wrong from the start are not broken")


def the_same_generator_gives_the_same_result(case: AttackCase) -> None:
    """Bit for bit."""
    first, second = case.run(Linf(0.1)), case.run(Linf(0.1))
    for field in fields(AttackResult):
        same = equal(getattr(first, field.name), getattr(second, field.name))
        require(same, f"two runs with the same seed differ in {field.name}")


def does_not_use_the_global_generator(case: AttackCase) -> None:
    """Randomness is an argument."""
    require_global_seed_unused(lambda: case.run(Linf(0.1)))


def leaves_the_clean_images_alone(case: AttackCase) -> None:
    """They are neither changed nor get a gradient, and the result is detached."""
    images, labels = case.images()
    before = images.clone()
    result = case.attack.run(case.network, images, labels, Linf(0.1), seeded())
    require(equal(images, before) and not images.requires_grad, "the clean images were changed")
    require(not result.images.requires_grad, "the images are not detached")


def leaves_the_model_as_it_was(case: AttackCase) -> None:
    """Weights, buffers, gradients, ``requires_grad`` and the modes of all layers."""
    images, labels = case.images()
    with attack_mode(case.network):  # which would undo some changes
        before = state_of(case.network)
        case.attack.run(case.network, images, labels, Linf(0.1), seeded())
        require_unchanged(case.network, before)


def describes_itself_in_json(case: AttackCase) -> None:
    """With its name and kind, the same each time: the description identifies cached results."""
    described = case.attack.describe()
    require(json.loads(json.dumps(described)) == described, "describe does not survive JSON")
    require(case.attack.describe() == described, "describe changes from call to call")
    for key in ("name", "kind"):
        expected = getattr(case.attack, key)
        require(described.get(key) == expected, f"describe must give the {key}, {expected!r}")
    require(case.attack.kind in get_args(Kind), f"kind must be one of {', '.join(get_args(Kind))}")


def can_be_sent_to_other_processes(case: AttackCase) -> None:
    """``--workers`` pickles it."""
    again = pickle.loads(pickle.dumps(case.attack))
    require(again.describe() == case.attack.describe(), "a pickled copy describes itself otherwise")


ATTACK_CHECKS: tuple[Check[AttackCase], ...] = (
    stays_in_the_ball_and_in_0_to_1,
    breaks_only_what_is_misclassified,
    never_worse_than_clean,
    the_same_generator_gives_the_same_result,
    does_not_use_the_global_generator,
    leaves_the_clean_images_alone,
    leaves_the_model_as_it_was,
    describes_itself_in_json,
    can_be_sent_to_other_processes,
)
