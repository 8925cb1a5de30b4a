"""One network, one stage: standard training, PGD-AT, and every objective that needs no more."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from equipoise.distributed.shared_generator import randint
from equipoise.methods.stage import (
    MakeNetwork,
    Norm,
    Schedule,
    Stage,
    TrainingAttack,
    check_strengths,
)
from equipoise.methods.training_attack import attacked
from equipoise.objectives import AnyObjective, Batch, Objective, TwoNetworkObjective
from equipoise.records.epsilon import Epsilon, Epsilons
from equipoise.types import Images, Labels, Predict


@dataclass(frozen=True, kw_only=True)
class SingleNetwork:
    """Train one network with one objective at one strength.

    Args:
        objective: What is minimised.
        epsilon: Strength of the training attack and of validation's; 0 for standard training.
        random_budgets: Strengths of which one is drawn for each image at each step, in place of
            ``epsilon``, which then is validation's alone.
        attack: Search of the training attack.
        schedule: Optimiser and learning rate.
        norm: Geometry of the threat.
        stage: Name of its one stage. Weights and the order of images are drawn from the run's seed
            and this name: networks that are to be stacked need names of their own, or they start
            from the same weights.

    Raises:
        ValueError: If the norm has no such strength, strengths are to be drawn for an objective
            that runs no attack, or the stage is no plain name.

    Source:
        AFA and AFS baselines; AFS Eq. (3), one extractor with its classifier; with random budgets,
        Table VI, "Rand. pert."
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
            raise ValueError(
                f"stage must be small letters, digits and underscores, as it names a folder, got "
                f"{self.stage!r}."
            )
        attacks = isinstance(self.objective, TwoNetworkObjective) or self.objective.attacks
        if self.random_budgets and not attacks:
            raise ValueError(
                f"random_budgets need an objective with an attack, got "
                f"{type(self.objective).__name__}. Leave them out."
            )

    def stages(self, make_network: MakeNetwork) -> list[Stage]:
        """The plan: a single stage."""
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
    """A stage that trains one fresh network, with a fresh companion where the objective has one.

    Args:
        name: The stage's name.
        make_network: Makes the network.
        objective: What is minimised.
        epsilon: Strength of the training attack and of the validation attack.
        attack: Search of the training attack.
        schedule: Optimiser and learning rate.
        norm: Geometry of the threat.
        random_budgets: Strengths to draw from in training, in place of ``epsilon``.

    Returns:
        The stage.
    """

    def build(needed: Mapping[str, nn.Module]) -> "NetworkTask":
        network, companion, whole = make_network(), None, objective
        if isinstance(whole, TwoNetworkObjective):
            companion = whole.companion(make_network)
            whole = whole.beside(companion)
        return NetworkTask(network, whole, epsilon, attack, norm, random_budgets, companion)

    return Stage(name=name, build=build, schedule=schedule, validation=(epsilon,), norm=norm)


class NetworkTask(nn.Module):
    """One network, one objective, one strength.

    Args:
        network: What is trained.
        objective: What is minimised.
        epsilon: Strength of the attack; with 0 none is run.
        attack: Its search.
        norm: Geometry of the threat.
        random_budgets: Strengths of which one is drawn for each image, in place of ``epsilon``.
        companion: A network that the objective trains along; it is trained and checkpointed with
            the task and is no part of the outcome.

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
        """One step's mean loss."""
        adversarial = images
        if self.objective.attacks and (self.random_budgets or self.epsilon > 0):
            adversarial = attacked(
                self.network,
                self.objective.goal(self.network, images, labels),
                images,
                self._strength(images, generator),
                self.attack,
                self.norm,
                generator,
                start_noise=self.objective.start_noise,
                progress=progress,
            )
        batch = Batch(
            clean=images,
            adversarial=adversarial,
            labels=labels,
            predict_clean=self.network,
            predict_adversarial=self.network,
            generator=generator,
        )
        terms = self.objective.losses(batch)
        return {name: term.mean() for name, term in terms.items()}

    def outcome(self) -> nn.Module:
        """The network."""
        return self.network

    def predictor(self, epsilon: float) -> Predict:
        """The network, whatever the strength."""
        return self.network

    def _strength(self, images: Images, generator: torch.Generator) -> float | Tensor:
        if not self.random_budgets:
            return self.epsilon
        budgets = torch.tensor(self.random_budgets, device=images.device)
        return budgets[randint(len(budgets), len(images), generator).to(images.device)]
