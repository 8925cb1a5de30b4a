"""The attack inside a training step."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from equipoise.attacks import NFGSM, PGD
from equipoise.attacks.pgd import StartNoise
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
        noise: N-FGSM: start in uniform noise of this many times epsilon, and do not project onto
            the threat. It has one step, of a ``relative_step``; the authors use 2 and 1.
        mode: Mode of the network under attack: ``"eval"`` uses running batch-norm statistics,
            ``"train"`` those of the attacked batch.
        warm_up: Share of a stage's steps, [0, 1], during which epsilon rises linearly from 0 to
            its final value. It applies to stages that train a network; the frozen networks of
            AFA's gate and AFS's merger are always attacked at full strength.

    Raises:
        ValueError: If ``warm_up`` is not in [0, 1], ``noise`` comes with other settings than one
            relative step, or ``PGD`` refuses the other settings.

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
    noise: float | None = None
    mode: Literal["eval", "train"] = "eval"
    warm_up: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.warm_up <= 1:
            raise InvalidInput(
                f"warm_up must be a share of the steps in [0, 1], got {self.warm_up}."
            )
        if self.noise is not None and (self.steps != 1 or self.relative_step is None):
            raise InvalidInput(
                "noise is for a single step of a relative_step, got "
                f"{self.steps} steps and relative_step={self.relative_step}."
            )
        self.search()  # refuses invalid settings before anything is trained

    def search(self, start_noise: StartNoise = None) -> PGD | NFGSM:
        """Make the search.

        Args:
            start_noise: The objective's; ``None`` to follow ``random_start``.
        """
        if self.noise is not None and start_noise is None:
            assert self.relative_step is not None
            return NFGSM(noise=self.noise, relative_step=self.relative_step)
        return PGD(
            steps=self.steps,
            step_size=self.step_size,
            relative_step=self.relative_step,
            random_start=self.random_start,
            start_noise=start_noise,
        )

    @contextmanager
    def against(self, module: nn.Module, start_noise: StartNoise = None) -> Iterator[PGD | NFGSM]:
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
