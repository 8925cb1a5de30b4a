"""Square attack: random search by squares of shrinking size. It reads no gradient."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from equipoise.attacks.active_batch import Work, better, value_only
from equipoise.attacks.goals import Goal
from equipoise.attacks.threat import L2, Linf, Threat, per_image
from equipoise.types import Images

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""After how many proposals the area of the squares is halved, of 10,000."""


@dataclass(frozen=True, kw_only=True)
class Square:
    """Change a random square of the image and keep the change if the goal rises.

    With the margin as its goal this is the published attack; it climbs any other as well. It
    calls the goal without gradients, once a query. An image that a ``Finishable`` goal is done
    with costs nothing further, and what is found for one image does not depend on when others
    are done.

    Args:
        queries: Calls of the goal in one restart, the start's included, 1 or more.
        p_init: Share of the image's area that the first squares cover, (0, 1].
        restarts: Independent searches; each image keeps the one whose goal is highest.
        rescale: Stretch the schedule of areas, made for 10,000 queries, to ``queries``.

    Raises:
        ValueError: If a count is not positive or ``p_init`` lies outside (0, 1].
        TypeError: From a call, if the threat is neither ``Linf`` nor ``L2``.

    Source:
        Andriushchenko et al. 2020, Algorithms 1 to 3; schedule, start and shape of the L2 bumps
        in the form of the code in AutoAttack. Deviations from that code: each image has squares
        and signs of its own; a square may touch the last row and column (as printed; the code
        never draws that place); only a strict rise is kept, and being done is the goal's matter
        (the code also keeps every misclassified point and stops at a tie); the L2 start covers
        images of any size (the code leaves out a border whose width follows from the height).
    """

    queries: int = 5000
    p_init: float = 0.8
    restarts: int = 1
    rescale: bool = False

    def __post_init__(self) -> None:
        if self.queries < 1 or self.restarts < 1:
            raise ValueError(
                f"queries and restarts must be 1 or more, got {self.queries} and {self.restarts}."
            )
        if not 0 < self.p_init <= 1:
            raise ValueError(f"p_init must be a share of the area in (0, 1], got {self.p_init}.")

    def __call__(
        self, goal: Goal, clean: Images, threat: Threat, generator: torch.Generator
    ) -> Images:
        """Search from random stripes (L-inf) or random bumps (L2) around ``clean``.

        Args:
            goal: What to climb.
            clean: Images in [0, 1].
            threat: Where to search, ``Linf`` or ``L2``.
            generator: The only source of randomness.

        Returns:
            Images of the same shape, inside the threat, detached.
        """
        if not isinstance(threat, Linf | L2):
            raise TypeError(f"Square attacks threats Linf and L2, got {type(threat).__name__}.")
        linf = isinstance(threat, Linf)
        begin, change = (_stripes, _square) if linf else (_bumps, _bump)
        work = Work(goal, clean.detach(), threat)
        dice = _Dice(work, len(clean), generator)
        height, width = clean.shape[2:]
        best: Sequence[Tensor] = ()
        for _ in range(self.restarts):
            best = work.drop_finished(*best)
            if work.is_over():
                break
            images = begin(work, dice)
            value = value_only(work.goal, images)
            for proposal in range(self.queries - 1):
                images, value, *best = work.drop_finished(images, value, *best)
                if work.is_over():
                    break
                side = self.side(proposal, height, width, least=1 if linf else 3)
                rival = change(work, dice, images, side)
                images, value = better((images, value), rival, value_only(work.goal, rival))
            best = better(best, images, value)
        return work.finish(best[0] if best else work.clean)

    def side(self, proposal: int, height: int, width: int, least: int = 1) -> int:
        """Side of the square in a proposal.

        Args:
            proposal: Which one, counted from 0.
            height: Of the image, in pixels.
            width: Of the image, in pixels.
            least: The smallest side, 3 for L2.

        Returns:
            Pixels, never more than the image has.

        Source:
            Andriushchenko et al. 2020, Sec. 5; L2 squares are odd as in the official code.
        """
        if self.rescale:
            proposal = int(proposal / self.queries * 10_000)
        area = self.p_init / 2 ** bisect_left(HALVINGS, proposal)
        side = max(round(math.sqrt(area * height * width)), least)
        if least > 1 and side % 2 == 0:
            side += 1
        return min(side, height, width)


class _Dice:
    """Random numbers for the images that are left, drawn for all, so that what one image gets does
    not depend on when others are done."""

    def __init__(self, work: Work, count: int, generator: torch.Generator) -> None:
        self.work, self.count, self.generator = work, count, generator

    def below(self, limit: int, *shape: int) -> Tensor:
        """Whole numbers in [0, limit), shape ``(batch, *shape)``."""
        size, device = (self.count, *shape), self.work.clean.device
        drawn = torch.randint(limit, size, generator=self.generator, device=device)
        return drawn[self.work.rows]

    def signs(self, *shape: int) -> Tensor:
        """-1.0 or 1.0, shape ``(batch, *shape)``."""
        return 2.0 * self.below(2, *shape) - 1.0


def _stripes(work: Work, dice: _Dice) -> Images:
    _, channels, _, width = work.clean.shape
    radius = per_image(work.threat.epsilon, work.clean)
    return work.threat.project(work.clean + radius * dice.signs(channels, 1, width), work.clean)


def _square(work: Work, dice: _Dice, images: Images, side: int) -> Images:
    """Set one square to plus or minus epsilon, the sign drawn for each channel."""
    _, channels, height, width = images.shape
    rows = _covers(dice.below(height - side + 1), side, height)[:, None, :, None]
    columns = _covers(dice.below(width - side + 1), side, width)[:, None, None, :]
    radius = per_image(work.threat.epsilon, work.clean)
    changed = work.clean + radius * dice.signs(channels, 1, 1)
    return work.threat.project(torch.where(rows & columns, changed, images), work.clean)


def _covers(first: Tensor, side: int, length: int) -> Tensor:
    """Which of ``length`` places lie in the ``side`` places from ``first`` on, per image."""
    places = torch.arange(length, device=first.device)
    return (places >= first[:, None]) & (places < first[:, None] + side)


def _bumps(work: Work, dice: _Dice) -> Images:
    """A grid of bumps, about five by five, that uses the whole epsilon."""
    count, channels, height, width = work.clean.shape
    side = max(min(height, width) // 5, 1)
    down, across = height // side, width // side
    signs = dice.signs(channels, down, across)[..., None, None]
    shapes = _either_way(bump(side).to(work.clean), dice.below(2, 1, down, across))
    tiles = (signs * shapes).transpose(3, 4)  # (batch, channel, down, side, across, side)
    perturbation = torch.zeros_like(work.clean)
    top, left = (height - down * side) // 2, (width - across * side) // 2
    perturbation[:, :, top : top + down * side, left : left + across * side] = tiles.reshape(
        count, channels, down * side, across * side
    )
    return _on_the_sphere(work, perturbation)


def _bump(work: Work, dice: _Dice, images: Images, side: int) -> Images:
    """Move the length of the perturbation in one window, and what is unused, to another."""
    count, channels, height, width = images.shape
    perturbation = images - work.clean
    places = (height - side + 1, width - side + 1)
    here, there = (_window(dice, side, *places) for _ in range(2))
    by_pixel = perturbation.permute(0, 2, 3, 1)  # a view, (batch, height, width, channel)

    both = torch.zeros(count, height, width, 1, device=images.device, dtype=torch.bool)
    both[here] = both[there] = True
    taken = (by_pixel * both).square().sum(dim=(1, 2), keepdim=True)
    used = perturbation.square().sum(dim=(1, 2, 3))[:, None, None, None]
    radius = per_image(work.threat.epsilon, images)
    available = (taken + (radius**2 - used).clamp_min(0) / channels).sqrt()

    shape = _either_way(bump(side).to(images), dice.below(2))[..., None]
    direction = shape * dice.signs(1, 1, channels) + _unit(by_pixel[here])
    changed = _unit(direction) * available
    by_pixel[there] = 0.0
    by_pixel[here] = changed
    return _on_the_sphere(work, perturbation)


def _window(dice: _Dice, side: int, down: int, across: int) -> tuple[Tensor, Tensor, Tensor]:
    """Index of a square in ``(batch, height, width)``, at a place of its own in each image."""
    top, left = dice.below(down)[:, None], dice.below(across)[:, None]
    image = torch.arange(len(top), device=top.device)[:, None, None]
    place = torch.arange(side, device=top.device)
    return image, (top + place)[:, :, None], (left + place)[:, None, :]


def _on_the_sphere(work: Work, perturbation: Images) -> Images:
    radius = per_image(work.threat.epsilon, work.clean)
    return work.threat.project(work.clean + work.threat.ascent(perturbation) * radius, work.clean)


def _unit(windows: Tensor) -> Tensor:
    """``(batch, side, side, channel)`` with every channel of length one; zero stays zero."""
    return windows / (windows.square().sum(dim=(1, 2), keepdim=True).sqrt() + 1e-12)


def _either_way(shape: Tensor, turned: Tensor) -> Tensor:
    """``shape`` or its transpose for each entry of ``turned``."""
    return torch.where(turned[..., None, None] == 1, shape.T, shape)


def bump(side: int) -> Tensor:
    """The shape that an L2 square adds: two pyramids one above the other, of opposite signs.

    Returns:
        ``(side, side)``, of length one.

    Source:
        Andriushchenko et al. 2020, Sec. 4.2, Eq. (2), with the sums of the official code.
    """
    halves = [_pyramid(side // 2, side), -_pyramid(side - side // 2, side)]
    shape = torch.cat([half / half.norm() for half in halves if half.numel()])
    return shape / shape.norm()


def _pyramid(height: int, width: int) -> Tensor:
    """1/1 + 1/4 + 1/9 + ... in the middle; each ring around it lacks the first term of the last."""
    rows = (torch.arange(height) - height // 2).abs()
    columns = (torch.arange(width) - width // 2).abs()
    ring = torch.maximum(rows[:, None], columns[None, :])
    terms = 1.0 / torch.arange(1, max(height, width) // 2 + 2) ** 2
    return terms.flip(0).cumsum(0).flip(0)[ring]
