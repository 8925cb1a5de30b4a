"""The attack inside a training step."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from equipoise.attacks import PGD
from equipoise.models.attack_mode.context import attack_mode
from equipoise.records.epsilon import Epsilon
from equipoise.runtime.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class TrainingAttack:
    """Settings of a method's training attack, in the papers' terms.

    Args:
        steps: Gradient steps, 1 or more.
        step_size: Length of a step in pixel units; it may be longer than epsilon, as AFS's is for
            its extractor at 1/255. Set either this or ``relative_step``.
        relative_step: Length of a step as a share of epsilon; it may exceed 1 for a single step
            (fast adversarial training).
        random_start: Start at a random point of the threat, unless the objective sets a
            ``start_noise``.
        mode: Mode of the network under attack: ``"eval"`` uses running batch-norm statistics,
            ``"train"`` those of the attacked batch.
        warm_up: Share of a stage's steps, [0, 1], during which epsilon rises linearly from 0 to
            its final value. It applies to stages that train a network; the frozen networks of
            AFA's gate and AFS's merger are always attacked at full strength.

    Raises:
        ValueError: If ``warm_up`` is not in [0, 1], or ``PGD`` refuses the other settings.

    Source:
        AFS Sec. III uses 10 steps of 2/255 at every budget; AFA gives no numbers. The default step
        equals AFS's at 8/255 and shrinks with the budget.

    Example:
        >>> attack = TrainingAttack(steps=7, step_size=2 / 255, relative_step=None, warm_up=0.5)
        >>> attack.strength(0.1, progress=0.25)  # halfway through the warm-up
        0.05
    """

    steps: int = 10
    step_size: Epsilon | None = None
    relative_step: float | None = 0.25
    random_start: bool = True
    mode: Literal["eval", "train"] = "eval"
    warm_up: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.warm_up <= 1:
            raise InvalidInput(
                f"warm_up must be a share of the steps in [0, 1], got {self.warm_up}."
            )
        self.search()  # refuses invalid settings before anything is trained

    def search(self, start_noise: float | None = None) -> PGD:
        """Make the search.

        Args:
            start_noise: Standard deviation of Gaussian noise around the clean images at which the
                search starts; ``None`` to follow ``random_start``.
        """
        return PGD(
            steps=self.steps,
            step_size=self.step_size,
            relative_step=self.relative_step,
            random_start=self.random_start,
            start_noise=start_noise,
        )

    @contextmanager
    def against(self, module: nn.Module, start_noise: float | None = None) -> Iterator[PGD]:
        """Put a module into the attack's mode, and restore it afterwards.

        Args:
            module: The module that the goal calls.
            start_noise: The objective's ``start_noise``, or ``None``.

        Returns:
            A context manager that gives the search.

        Example:
            >>> import torch
            >>> from equipoise.attacks import goals
            >>> from equipoise.attacks.threat import Linf
            >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
            <torch...>
            >>> network = nn.Sequential(nn.Flatten(), nn.Linear(16, 10))
            >>> clean, labels = torch.rand(4, 1, 4, 4), torch.tensor([3, 1, 4, 1])
            >>> goal = goals.cross_entropy(network, labels)
            >>> with TrainingAttack().against(network) as search:
            ...     adversarial = search(goal, clean, Linf(0.1), torch.Generator())
            >>> bool((goal(adversarial) > goal(clean)).all())
            True
        """
        with attack_mode(module, self.mode, fold=True):
            yield self.search(start_noise)

    def strength(self, epsilon: float | Tensor, progress: float) -> float | Tensor:
        """Scale epsilon during the warm-up.

        Args:
            epsilon: Final strength in pixel units.
            progress: Share of the stage's steps already done, [0, 1].
        """
        return epsilon * (progress / self.warm_up) if progress < self.warm_up else epsilon
