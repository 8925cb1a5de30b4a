"""N-FGSM: one step from strong noise, whose perturbation is not projected. For training only."""

from dataclasses import dataclass, replace

import torch

from equipoise.attacks.goals import Goal, value_and_gradient
from equipoise.attacks.threat import Threat, broadcast_epsilon, check_images, check_threat
from equipoise.runtime.errors import InvalidInput
from equipoise.types import Images


@dataclass(frozen=True, kw_only=True)
class NFGSM:
    """One ascent step from uniform noise that is larger than the threat.

    The images stay in [0, 1], but leave the threat by design: without the projection, one step does
    not overfit catastrophically. So this is no ``Search`` for an evaluation.

    Args:
        noise: Radius of the noise as a multiple of epsilon, above 0.
        relative_step: Length of the step as a multiple of epsilon, above 0.

    Raises:
        ValueError: If one of them is not above 0.

    Source:
        de Jorge et al. 2022, Algorithm 1 and ``train.py`` of their code; they use 2 and 1.

    Example:
        >>> from equipoise.attacks.threat import Linf
        >>> goal = lambda images: images.sum(dim=(1, 2, 3))
        >>> clean, generator = torch.full((1, 1, 1, 1), 0.5), torch.Generator()
        >>> image = NFGSM()(goal, clean, Linf(0.1), generator, start=torch.full_like(clean, 0.7))
        >>> image.flatten()  # 0.2 of noise and a step of 0.1
        tensor([0.8000])
    """

    noise: float = 2.0
    relative_step: float = 1.0

    def __post_init__(self) -> None:
        for name in ("noise", "relative_step"):
            if not getattr(self, name) > 0:
                raise InvalidInput(f"{name} must be above 0, got {getattr(self, name)}.")

    def __call__(
        self,
        goal: Goal,
        clean: Images,
        threat: Threat,
        generator: torch.Generator,
        start: Images | None = None,
    ) -> Images:
        """Take the step.

        Args:
            goal: The goal to maximise.
            clean: Images in [0, 1].
            threat: Its epsilon is the unit of noise and step.
            generator: The only source of randomness.
            start: Where the step starts, in place of the noise.

        Returns:
            Images of the same shape in [0, 1], at most ``noise + relative_step`` times epsilon
            away, detached.

        Raises:
            ValueError: If the images are not in [0, 1].
        """
        check_images(clean)
        check_threat(threat)
        clean = clean.detach()
        if start is None:
            wide: Threat = replace(threat, epsilon=self.noise * threat.epsilon)  # type: ignore[type-var]
            start = wide.random_start(clean, generator)
        _, gradient = value_and_gradient(goal, start)
        direction = threat.ascent(gradient.nan_to_num())
        length = self.relative_step * broadcast_epsilon(threat.epsilon, clean)
        return (start + length * direction).clamp(0.0, 1.0)
