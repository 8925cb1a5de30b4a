"""One network in one stage: standard training, PGD-AT, and every objective that needs no more."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from equipoise.attacks.threat import THREATS, Norm, check_strengths
from equipoise.distributed.shared_generator import randint
from equipoise.methods.training_attack import TrainingAttack
from equipoise.objectives import (
    AnyObjective,
    Batch,
    ImportedObjective,
    Objective,
    TwoNetworkObjective,
)
from equipoise.objectives.base import objective_at
from equipoise.records.epsilon import Epsilon, Epsilons
from equipoise.runtime.errors import InvalidInput
from equipoise.training.schedule import Schedule
from equipoise.training.stage import MakeNetwork, Stage
from equipoise.types import Images, Labels, Predict


@dataclass(frozen=True, kw_only=True)
class SingleNetwork:
    """Train one network with one objective at one strength.

    Args:
        objective: Loss, and the goal of its training attack.
        epsilon: Strength of the training and the validation attack in pixel units; 0 for standard
            training.
        random_budgets: Strengths from which one is drawn for each image at each step, instead of
            ``epsilon``, which then applies to validation alone.
        attack: Settings of the training attack.
        schedule: Optimiser and learning rate.
        norm: Norm of the threat.
        stage: Name of the only stage. Weights and the order of images are drawn from the run's
            seed and this name, so networks that are to be stacked need different names. With the
            same name they would start from the same weights.

    Raises:
        ValueError: If the norm cannot have such a strength, random budgets are set for an
            objective that runs no attack, or the stage's name is not lower-case letters, digits
            and underscores.

    Source:
        AFA and AFS baselines; AFS Eq. (3), one extractor with its classifier; with random budgets,
        Table VI, "Rand. pert."

    Example:
        >>> from functools import partial
        >>> from equipoise.models import WideResNet
        >>> from equipoise.objectives import PGDAT
        >>> schedule = Schedule(epochs=100, learning_rate=0.1, decay_epochs=(74, 89))
        >>> method = SingleNetwork(objective=PGDAT(), epsilon=8 / 255, schedule=schedule)
        >>> (stage,) = method.stages(partial(WideResNet, depth=28, width=10, classes=10))
        >>> stage.name
        'network'
    """

    objective: AnyObjective
    epsilon: Epsilon
    random_budgets: Epsilons = ()
    attack: TrainingAttack = TrainingAttack()
    schedule: Schedule
    norm: Norm = "Linf"
    stage: str = "network"

    def __post_init__(self) -> None:
        check_strengths(self.norm, self.epsilon, *self.random_budgets, self.attack.step_size)
        if not re.fullmatch("[a-z0-9_]+", self.stage):
            raise InvalidInput(
                "stage must be lower-case letters, digits and underscores, because it names a "
                f"folder, got {self.stage!r}."
            )
        if not isinstance(self.objective, ImportedObjective):
            self._check_objective()

    def _check_objective(self) -> None:
        """Refuse random budgets for an objective without an attack; asks an imported one."""
        attacks = isinstance(self.objective, TwoNetworkObjective) or self.objective.attacks
        if self.random_budgets and not attacks:
            raise InvalidInput(
                f"random_budgets need an objective with an attack, got "
                f"{type(self.objective).__name__}. Leave them out."
            )

    def stages(self, make_network: MakeNetwork) -> list[Stage]:
        """Plan a single stage."""
        self._check_objective()
        return [
            network_stage(
                self.stage,
                make_network,
                objective=self.objective,
                epsilon=self.epsilon,
                attack=self.attack,
                schedule=self.schedule,
                norm=self.norm,
                random_budgets=self.random_budgets,
            )
        ]


def network_stage(
    name: str,
    make_network: MakeNetwork,
    *,
    objective: Objective | TwoNetworkObjective,
    epsilon: float,
    attack: TrainingAttack,
    schedule: Schedule,
    norm: Norm,
    random_budgets: tuple[float, ...] = (),
) -> Stage:
    """Make a stage that trains one fresh network, and a companion if the objective has one.

    Args:
        name: Name of the stage.
        make_network: Makes the network.
        objective: Loss, and the goal of its training attack; any class that follows the protocol.
        epsilon: Strength of the training and the validation attack in pixel units.
        attack: Settings of the training attack.
        schedule: Optimiser and learning rate.
        norm: Norm of the threat.
        random_budgets: Strengths to draw from in training, instead of ``epsilon``.

    Example:
        >>> from functools import partial
        >>> from equipoise.models import WideResNet
        >>> from equipoise.objectives import TRADES
        >>> stage = network_stage(
        ...     "network",
        ...     partial(WideResNet, depth=10, width=1, classes=10, channels=1),
        ...     objective=TRADES(),
        ...     epsilon=8 / 255,
        ...     attack=TrainingAttack(steps=3, relative_step=0.5),
        ...     schedule=Schedule(epochs=3, learning_rate=0.1),
        ...     norm="Linf",
        ... )
        >>> images, labels = torch.rand(2, 1, 8, 8), torch.tensor([3, 1])
        >>> terms = stage.build({})(images, labels, torch.Generator(), 0.0)
        >>> sorted(terms)
        ['loss', 'loss_clean', 'loss_robust']
    """

    def build(needed: Mapping[str, nn.Module]) -> "NetworkTask":
        network = make_network()
        if isinstance(objective, TwoNetworkObjective):
            companion = objective.make_companion(make_network)
            paired = objective.with_companion(companion)
            return NetworkTask(network, paired, epsilon, attack, norm, random_budgets, companion)
        return NetworkTask(network, objective, epsilon, attack, norm, random_budgets)

    settings = {
        "objective": objective,
        "epsilon": epsilon,
        "attack": attack,
        "random_budgets": random_budgets,
    }
    return Stage(
        name=name,
        build=build,
        schedule=schedule,
        validation=(epsilon,),
        norm=norm,
        settings=settings,
    )


class NetworkTask(nn.Module):
    """Train one network with one objective at one strength.

    Args:
        network: The network to train.
        objective: Loss, and the goal of the attack.
        epsilon: Strength of the attack in pixel units; with 0 there is no attack.
        attack: Settings of the attack.
        norm: Norm of the threat.
        random_budgets: Strengths from which one is drawn for each image, instead of ``epsilon``.
        companion: Network that the objective trains beside ``network``. It is trained and
            checkpointed with the task and is not part of the outcome.

    Source:
        AFS Eq. (3)-(4).
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        epsilon: float,
        attack: TrainingAttack,
        norm: Norm,
        random_budgets: tuple[float, ...] = (),
        companion: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.companion = companion
        self.objective = objective
        self.epsilon = epsilon
        self.attack = attack
        self.norm: Norm = norm
        self.random_budgets = random_budgets

    def forward(
        self, images: Images, labels: Labels, generator: torch.Generator, progress: float
    ) -> dict[str, Tensor]:
        """Compute one step: the mean of each of the objective's terms."""
        adversarial, objective = images, objective_at(self.objective, progress)
        if objective.attacks and (self.random_budgets or self.epsilon > 0):
            epsilon = self.attack.strength(self._epsilon(images, generator), progress)
            goal = objective.goal(self.network, images, labels)
            with self.attack.against(self.network, objective.start_noise) as search:
                adversarial = search(goal, images, THREATS[self.norm](epsilon), generator)
        batch = Batch(
            clean=images,
            adversarial=adversarial,
            labels=labels,
            predict_clean=self.network,
            predict_adversarial=self.network,
            generator=generator,
        )
        terms = objective.losses(batch)
        return {name: term.mean() for name, term in terms.items()}

    def outcome(self) -> nn.Module:
        """Return the network."""
        return self.network

    def predictor(self, epsilon: float) -> Predict:
        """Return the network, whatever the strength."""
        return self.network

    def _epsilon(self, images: Images, generator: torch.Generator) -> float | Tensor:
        if not self.random_budgets:
            return self.epsilon
        budgets = torch.tensor(self.random_budgets, device=images.device)
        return budgets[randint(len(budgets), len(images), generator).to(images.device)]
