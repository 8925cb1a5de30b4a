"""Random points: the attack that asks least of a model."""

from dataclasses import dataclass

import torch

from equipoise.attacks.active_batch import ActiveBatch, keep_better
from equipoise.attacks.goals import Goal, value_only
from equipoise.attacks.threat import Threat, broadcast_epsilon
from equipoise.runtime.errors import InvalidInput
from equipoise.types import Images


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Random points of the threat, half of them at full strength; the best one is kept.

    Args:
        draws: Number of points, 1 or more.

    Raises:
        ValueError: If ``draws`` is below 1.

    Source:
        Athalye et al. 2018, Sec. 3.1, "random sampling".

    Example:
        >>> import torch
        >>> from equipoise.attacks import Noise
        >>> from equipoise.attacks.threat import Linf
        >>> goal = lambda images: images.sum(dim=(1, 2, 3))
        >>> clean = torch.full((1, 1, 1, 1), 0.5)
        >>> Noise(draws=20)(goal, clean, Linf(0.1), torch.Generator().manual_seed(0)).item()
        0.6000000238418579
    """

    draws: int

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise InvalidInput(f"draws must be 1 or more, got {self.draws}.")

    def __call__(
        self, goal: Goal, clean: Images, threat: Threat, generator: torch.Generator
    ) -> Images:
        """Return the point with the highest goal, as ``Search`` says."""
        whole = clean.detach()
        batch = ActiveBatch(goal, whole, threat)
        best: tuple[torch.Tensor, ...] = ()
        for number in range(self.draws):
            points = threat.random_start(whole, generator)
            if number % 2 == 1:
                full = threat.ascent(points - whole)
                full = full * broadcast_epsilon(threat.epsilon, whole)
                points = threat.project(whole + full, whole)
            best = batch.drop_finished(*best)
            if batch.is_empty():
                break
            points = points[batch.rows]
            best = keep_better(best, points, value_only(batch.goal, points))
        return batch.whole_batch(best[0] if best else batch.clean)
