"""The contract of an objective."""

from typing import Protocol, runtime_checkable

import torch

from equipoise.goals import Goal, Predict
from equipoise.losses import Labels, PerImage
from equipoise.threat import Images


@runtime_checkable
class Objective(Protocol):
    """What training minimises, and the goal that its attack climbs.

    An objective is a frozen dataclass of its settings. It never runs an attack and never sees a
    branch: a method gives it one function for clean and one for adversarial images, which AFA
    routes through different branches.
    """

    @property
    def attacks(self) -> bool:
        """Whether it needs adversarial images at all."""
        ...

    def goal(self, predict: Predict, clean: Images, labels: Labels) -> Goal:
        """What the attack climbs.

        Args:
            predict: Images to logits, in the mode that the method chose for attacks.
            clean: The images under attack.
            labels: Their labels.
        """
        ...

    def losses(
        self,
        predict_clean: Predict,
        predict_adversarial: Predict,
        clean: Images,
        adversarial: Images,
        labels: Labels,
        generator: torch.Generator,
    ) -> dict[str, PerImage]:
        """Per-image terms, not reduced; ``"loss"`` is what training minimises.

        Args:
            predict_clean: Images to logits, in training mode, for clean images.
            predict_adversarial: The same for adversarial images.
            clean: Clean images.
            adversarial: Adversarial images, row by row belonging to ``clean``; equal to it where
                ``attacks`` is false.
            labels: Class indices.
            generator: The only source of randomness.
        """
        ...
