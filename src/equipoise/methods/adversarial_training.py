"""One network, one stage: standard training, PGD-AT, and every objective that needs no more."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from equipoise.epsilon import Epsilon
from equipoise.goals import Predict
from equipoise.losses import Labels
from equipoise.methods.stage import MakeNetwork, Norm, Schedule, Stage, TrainingAttack
from equipoise.methods.training_attack import attacked
from equipoise.objectives import AnyObjective, Objective
from equipoise.threat import Images


@dataclass(frozen=True, kw_only=True)
class SingleNetwork:
    """Train one network with one objective at one strength.

    Args:
        objective: What is minimised.
        epsilon: Strength of the training attack; 0 for standard training.
        attack: Search of the training attack.
        schedule: Optimiser and learning rate.
        norm: Geometry of the threat.

    Source:
        AFA and AFS baselines; AFS Eq. (3), one extractor with its classifier.
    """

    objective: AnyObjective
    epsilon: Epsilon
    attack: TrainingAttack = TrainingAttack()
    schedule: Schedule
    norm: Norm = "Linf"

    def stages(self, make_network: MakeNetwork) -> list[Stage]:
        """The plan: a single stage named ``network``."""
        return [
            network_stage(
                "network",
                make_network,
                objective=self.objective,
                epsilon=self.epsilon,
                attack=self.attack,
                schedule=self.schedule,
                norm=self.norm,
            )
        ]


def network_stage(
    name: str,
    make_network: MakeNetwork,
    *,
    objective: Objective,
    epsilon: float,
    attack: TrainingAttack,
    schedule: Schedule,
    norm: Norm,
) -> Stage:
    """A stage that trains one fresh network.

    Args:
        name: The stage's name.
        make_network: Makes the network.
        objective: What is minimised.
        epsilon: Strength of the training attack and of the validation attack.
        attack: Search of the training attack.
        schedule: Optimiser and learning rate.
        norm: Geometry of the threat.

    Returns:
        The stage.
    """

    def build(needed: Mapping[str, nn.Module]) -> "NetworkTask":
        return NetworkTask(make_network(), objective, epsilon, attack, norm)

    return Stage(name=name, build=build, schedule=schedule, validation=(epsilon,), norm=norm)


class NetworkTask(nn.Module):
    """One network, one objective, one strength.

    Args:
        network: What is trained.
        objective: What is minimised.
        epsilon: Strength of the attack; with 0 none is run.
        attack: Its search.
        norm: Geometry of the threat.

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
    ) -> None:
        super().__init__()
        self.network = network
        self.objective = objective
        self.epsilon = epsilon
        self.attack = attack
        self.norm: Norm = norm

    def forward(
        self, images: Images, labels: Labels, generator: torch.Generator, progress: float
    ) -> dict[str, Tensor]:
        """One step's mean loss."""
        adversarial = images
        if self.objective.attacks and self.epsilon > 0:
            goal = self.objective.goal(self.network, images, labels)
            adversarial = attacked(
                self.network, goal, images, self.epsilon, self.attack, self.norm, generator
            )
        terms = self.objective.losses(
            self.network, self.network, images, adversarial, labels, generator
        )
        return {name: term.mean() for name, term in terms.items()}

    def outcome(self) -> nn.Module:
        """The network."""
        return self.network

    def predictor(self, epsilon: float) -> Predict:
        """The network, whatever the strength."""
        return self.network
