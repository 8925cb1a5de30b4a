"""Square attack: random search with squares of decreasing size. It uses no gradient."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from equipoise.attacks.active_batch import ActiveBatch, keep_better
from equipoise.attacks.goals import Goal, value_only
from equipoise.attacks.threat import L2, Linf, Threat, broadcast_epsilon
from equipoise.runtime.errors import InvalidInput
from equipoise.types import Images

AREA_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Numbers of the proposals, out of 10,000, after which the area of the squares is halved."""


@dataclass(frozen=True, kw_only=True)
class Square:
    """Change a random square of the image, and keep the change if the goal rises.

    This is the published attack if the goal is the margin; it can maximise any other goal as well.
    It calls the goal without gradients, once per query. Images that a ``Finishable`` goal has
    finished cost nothing more, and the result for one image does not depend on when others are
    finished.

    Args:
        queries: Calls of the goal in one restart, including the one at the start, 1 or more.
        p_init: Share of the image's area that the first squares cover, in (0, 1].
        restarts: Number of independent searches; each image keeps the one with the highest goal.
        rescale: Stretch the schedule of areas, which is made for 10,000 queries, to ``queries``.

    Raises:
        ValueError: If a count is not positive or ``p_init`` is outside (0, 1].
        TypeError: From a call, if the threat is neither ``Linf`` nor ``L2``.

    Source:
        Andriushchenko et al. 2020, Algorithms 1 to 3; schedule, start and shape of the L2 bumps as
        implemented in AutoAttack. Deviations from that code: every image has its own squares and
        signs; a square may touch the last row and column (as printed; the code never draws that
        position); only a strict increase is kept, and the goal decides when an image is finished
        (the code also keeps every misclassified point and stops at a tie); the L2 start covers
        images of any size (the code leaves out a border whose width follows from the height).

    Example:
        >>> import torch
        >>> from equipoise.attacks import Square
        >>> from equipoise.attacks.threat import Linf
        >>> goal = lambda images: images.round(decimals=1).mean(dim=(1, 2, 3))  # no gradient
        >>> clean = torch.full((1, 1, 4, 4), 0.5)
        >>> square = Square(queries=30, rescale=True)
        >>> found = square(goal, clean, Linf(0.1), torch.Generator().manual_seed(0))
        >>> goal(clean).item() < goal(found).item()
        True
    """

    queries: int = 5000
    p_init: float = 0.8
    restarts: int = 1
    rescale: bool = False

    def __post_init__(self) -> None:
        if self.queries < 1 or self.restarts < 1:
            raise InvalidInput(
                f"queries and restarts must be 1 or more, got {self.queries} and {self.restarts}."
            )
        if not 0 < self.p_init <= 1:
            raise InvalidInput(f"p_init must be a share of the area in (0, 1], got {self.p_init}.")

    def __call__(
        self, goal: Goal, clean: Images, threat: Threat, generator: torch.Generator
    ) -> Images:
        """Search from random stripes (``Linf``) or random bumps (``L2``), as ``Search`` says."""
        if not isinstance(threat, Linf | L2):
            raise TypeError(
                f"the threat of Square must be Linf or L2, got {type(threat).__name__}."
            )
        linf = isinstance(threat, Linf)
        start, propose = (_stripes, _propose_square) if linf else (_bumps, _propose_bump)
        batch = ActiveBatch(goal, clean.detach(), threat)
        random = _Random(batch, len(clean), generator)
        height, width = clean.shape[2:]
        best: Sequence[Tensor] = ()
        for _ in range(self.restarts):
            best = batch.drop_finished(*best)
            if batch.is_empty():
                break
            images = start(batch, random)
            value = value_only(batch.goal, images)
            for number in range(self.queries - 1):
                images, value, *best = batch.drop_finished(images, value, *best)
                if batch.is_empty():
                    break
                side = self.side(number, height, width, least=1 if linf else 3)
                proposal = propose(batch, random, images, side)
                proposed_value = value_only(batch.goal, proposal)
                images, value = keep_better((images, value), proposal, proposed_value)
            best = keep_better(best, images, value)
        return batch.whole_batch(best[0] if best else batch.clean)

    def side(self, number: int, height: int, width: int, least: int = 1) -> int:
        """Return the side of the square in one proposal.

        Args:
            number: Number of the proposal, counted from 0.
            height: Height of the image in pixels.
            width: Width of the image in pixels.
            least: Smallest side in pixels, 3 for L2.

        Returns:
            Pixels, at most the smaller side of the image.

        Source:
            Andriushchenko et al. 2020, Sec. 5; L2 squares are odd as in the official code.
        """
        if self.rescale:
            number = int(number / self.queries * 10_000)
        area = self.p_init / 2 ** bisect_left(AREA_HALVINGS, number)
        side = max(round(math.sqrt(area * height * width)), least)
        if least > 1 and side % 2 == 0:
            side += 1
        return min(side, height, width)


class _Random:
    """Random numbers for the images that remain, drawn for the whole batch.

    So the numbers of one image do not depend on when other images are finished.
    """

    def __init__(self, batch: ActiveBatch, size: int, generator: torch.Generator) -> None:
        self.batch, self.size, self.generator = batch, size, generator

    def integers(self, limit: int, *shape: int) -> Tensor:
        """Draw integers in [0, limit), shape ``(remaining, *shape)``."""
        whole_shape, device = (self.size, *shape), self.batch.clean.device
        drawn = torch.randint(limit, whole_shape, generator=self.generator, device=device)
        return drawn[self.batch.rows]

    def signs(self, *shape: int) -> Tensor:
        """Draw -1.0 or 1.0, shape ``(remaining, *shape)``."""
        return 2.0 * self.integers(2, *shape) - 1.0


def _stripes(batch: ActiveBatch, random: _Random) -> Images:
    """Start of L-inf: vertical stripes of plus and minus epsilon."""
    _, channels, _, width = batch.clean.shape
    radius = broadcast_epsilon(batch.threat.epsilon, batch.clean)
    stripes = batch.clean + radius * random.signs(channels, 1, width)
    return batch.threat.project(stripes, batch.clean)


def _propose_square(batch: ActiveBatch, random: _Random, images: Images, side: int) -> Images:
    """Set one square to plus or minus epsilon; the sign is drawn for each channel."""
    _, channels, height, width = images.shape
    rows = _interval(random.integers(height - side + 1), side, height)[:, None, :, None]
    columns = _interval(random.integers(width - side + 1), side, width)[:, None, None, :]
    radius = broadcast_epsilon(batch.threat.epsilon, batch.clean)
    changed = batch.clean + radius * random.signs(channels, 1, 1)
    return batch.threat.project(torch.where(rows & columns, changed, images), batch.clean)


def _interval(first: Tensor, side: int, length: int) -> Tensor:
    """Mark the ``side`` positions from ``first`` on, out of ``length``, per image."""
    positions = torch.arange(length, device=first.device)
    return (positions >= first[:, None]) & (positions < first[:, None] + side)


def _bumps(batch: ActiveBatch, random: _Random) -> Images:
    """Start of L2: a grid of bumps, about five by five, of length epsilon."""
    count, channels, height, width = batch.clean.shape
    side = max(min(height, width) // 5, 1)
    down, across = height // side, width // side
    signs = random.signs(channels, down, across)[..., None, None]
    bumps = _transpose_some(bump(side).to(batch.clean), random.integers(2, 1, down, across))
    tiles = (signs * bumps).transpose(3, 4)  # (batch, channel, down, side, across, side)
    perturbation = torch.zeros_like(batch.clean)
    top, left = (height - down * side) // 2, (width - across * side) // 2
    perturbation[:, :, top : top + down * side, left : left + across * side] = tiles.reshape(
        count, channels, down * side, across * side
    )
    return _scale_to_epsilon(batch, perturbation)


def _propose_bump(batch: ActiveBatch, random: _Random, images: Images, side: int) -> Images:
    """Move the perturbation of one window, and the unused part of epsilon, to another window."""
    count, channels, height, width = images.shape
    perturbation = images - batch.clean
    positions = (height - side + 1, width - side + 1)
    to_window, from_window = (_window(random, side, *positions) for _ in range(2))
    by_pixel = perturbation.permute(0, 2, 3, 1)  # a view, (batch, height, width, channel)

    both = torch.zeros(count, height, width, 1, device=images.device, dtype=torch.bool)
    both[to_window] = both[from_window] = True
    in_windows = (by_pixel * both).square().sum(dim=(1, 2), keepdim=True)
    used = perturbation.square().sum(dim=(1, 2, 3))[:, None, None, None]
    radius = broadcast_epsilon(batch.threat.epsilon, images)
    available = (in_windows + (radius**2 - used).clamp_min(0) / channels).sqrt()

    shape = _transpose_some(bump(side).to(images), random.integers(2))[..., None]
    direction = shape * random.signs(1, 1, channels) + _normalise_channels(by_pixel[to_window])
    changed = _normalise_channels(direction) * available
    by_pixel[from_window] = 0.0
    by_pixel[to_window] = changed
    return _scale_to_epsilon(batch, perturbation)


def _window(random: _Random, side: int, down: int, across: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a square for each image, as an index into ``(batch, height, width)``."""
    top, left = random.integers(down)[:, None], random.integers(across)[:, None]
    image = torch.arange(len(top), device=top.device)[:, None, None]
    offsets = torch.arange(side, device=top.device)
    return image, (top + offsets)[:, :, None], (left + offsets)[:, None, :]


def _scale_to_epsilon(batch: ActiveBatch, perturbation: Images) -> Images:
    radius = broadcast_epsilon(batch.threat.epsilon, batch.clean)
    scaled = batch.threat.ascent(perturbation) * radius
    return batch.threat.project(batch.clean + scaled, batch.clean)


def _normalise_channels(windows: Tensor) -> Tensor:
    """Scale each channel of ``(batch, side, side, channel)`` to length one; zero stays zero."""
    return windows / (windows.square().sum(dim=(1, 2), keepdim=True).sqrt() + 1e-12)


def _transpose_some(shape: Tensor, transpose: Tensor) -> Tensor:
    """Return ``shape``, or its transpose where ``transpose`` is 1."""
    return torch.where(transpose[..., None, None] == 1, shape.T, shape)


def bump(side: int) -> Tensor:
    """Return the shape that an L2 square adds: two pyramids of opposite signs, one above the other.

    Returns:
        ``(side, side)``, of length one.

    Source:
        Andriushchenko et al. 2020, Sec. 4.2, Eq. (2), with the sums of the official code.

    Example:
        >>> from equipoise.attacks.square import bump
        >>> bump(3)
        tensor([[ 0.1361,  0.6804,  0.1361],
                [-0.1291, -0.1291, -0.1291],
                [-0.1291, -0.6455, -0.1291]])
    """
    halves = [_pyramid(side // 2, side), -_pyramid(side - side // 2, side)]
    shape = torch.cat([half / half.norm() for half in halves if half.numel()])
    return shape / shape.norm()


def _pyramid(height: int, width: int) -> Tensor:
    """Sum 1/1 + 1/4 + 1/9 + ... in the middle; each ring outwards omits one more first term."""
    rows = (torch.arange(height) - height // 2).abs()
    columns = (torch.arange(width) - width // 2).abs()
    ring = torch.maximum(rows[:, None], columns[None, :])
    terms = 1.0 / torch.arange(1, max(height, width) // 2 + 2) ** 2
    return terms.flip(0).cumsum(0).flip(0)[ring]
