"""Adversarial feature stacking: N extractors trained at different budgets, one linear merger."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from equipoise import draws, goals, losses
from equipoise.epsilon import Epsilon, Epsilons, format_epsilon
from equipoise.goals import Predict
from equipoise.losses import Labels
from equipoise.methods.adversarial_training import network_stage
from equipoise.methods.stage import MakeNetwork, Norm, Schedule, Stage, TrainingAttack
from equipoise.methods.training_attack import attacked
from equipoise.models import FeatureExtractor, FeatureStack, load
from equipoise.objectives import AnyObjective
from equipoise.threat import Images

_MASKS = ({"1"}, {"0", "1"})


@dataclass(frozen=True, kw_only=True)
class AFS:
    """Train extractors at several budgets, then a linear merger over their features.

    Args:
        objective: What the extractors minimise; the merger's loss is Eq. (5) whatever this is.
        budgets: Strength of each extractor's training attack; 0 trains a standard network.
        extractors: Model folders to stack instead of training any; budgets then have no meaning.
        mask: Which extractors are stacked, a 1 or 0 for each, such as ``"101"``; all by default.
        merger: ``"trained"``, or ``"average"``: the mean of the members' logits, nothing trained.
        attack: Search of every training attack.
        schedule: Optimiser and learning rate of each extractor.
        merger_schedule: The same for the merger.
        alpha: Weight of the merger's clean term, [0, 1]; 1 - alpha weighs its adversarial term.
        merger_epsilon: Strength at which the whole stack is attacked while the merger trains.
        split_batch: Give each image one of the two terms, the first ``alpha`` of the batch clean,
            as the authors' code does, rather than both, as Eq. (5) says.
        norm: Geometry of the threat.

    Raises:
        ValueError: If there is no budget, alpha is not in [0, 1], or the mask does not have a 1 or
            0 for each extractor and a 1 among them.

    Source:
        AFS Sec. II, Eq. (1)-(5). Deviation: the best epoch is chosen on a validation split held
        out of the training set.
    """

    objective: AnyObjective
    budgets: Epsilons
    extractors: tuple[Path, ...] = ()
    mask: str | None = None
    merger: Literal["trained", "average"] = "trained"
    attack: TrainingAttack = TrainingAttack()
    schedule: Schedule
    merger_schedule: Schedule
    alpha: float = 0.5
    merger_epsilon: Epsilon = 8 / 255
    split_batch: bool = False
    norm: Norm = "Linf"

    def __post_init__(self) -> None:
        if not self.budgets:
            raise ValueError("budgets must name at least one strength, got none.")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {self.alpha}.")
        count = len(self.extractors or self.budgets)
        if self.mask is not None and (len(self.mask) != count or set(self.mask) not in _MASKS):
            raise ValueError(
                f"mask must have a 1 or 0 for each of the {count} extractors, and a 1 among them, "
                f"got {self.mask!r}."
            )

    def stages(self, make_network: MakeNetwork) -> list[Stage]:
        """The plan: independent extractor stages, then the merger, which needs them all."""
        extractors = [
            network_stage(
                f"extractor{number}_{format_epsilon(budget).replace('/', '_')}",
                make_network,
                objective=self.objective,
                epsilon=budget,
                attack=self.attack,
                schedule=self.schedule,
                norm=self.norm,
            )
            for number, budget in enumerate(self.budgets)
        ]
        taken = [bit == "1" for bit in self.mask or "1" * len(self.extractors or self.budgets)]
        extractors = [] if self.extractors else list(compress(extractors, taken))
        names = tuple(stage.name for stage in extractors)

        def build(needed: Mapping[str, nn.Module]) -> "MergerTask":
            folders = compress(self.extractors, taken)
            networks = [needed[name] for name in names] or [load(folder) for folder in folders]
            classes = FeatureExtractor(networks[0]).head().out_features
            stack = FeatureStack(networks, classes)
            if self.merger == "average":
                stack.average()
            return MergerTask(stack, self)

        merger = Stage(
            name="merger",
            build=build,
            schedule=self.merger_schedule,
            validation=(0.0, self.merger_epsilon),
            norm=self.norm,
            needs=names,
            trains=self.merger == "trained",
        )
        return [*extractors, merger]


class MergerTask(nn.Module):
    """Train the merger of a stack of frozen extractors; its attack goes through the whole stack.

    Args:
        stack: Extractors and merger.
        method: Alpha, strength and attack.

    Source:
        AFS Sec. II-C, Eq. (5).
    """

    def __init__(self, stack: FeatureStack, method: AFS) -> None:
        super().__init__()
        self.stack = stack
        self.method = method

    def forward(
        self, images: Images, labels: Labels, generator: torch.Generator, progress: float
    ) -> dict[str, Tensor]:
        """One step: alpha times the clean loss plus 1 - alpha times the adversarial one."""
        alpha = self.method.alpha
        places = torch.arange(draws.whole(len(labels), generator))  # in the batch of all processes
        natural, attackable = places >= 0, places >= 0
        if self.method.split_batch:
            natural = places < int(len(places) * alpha)
            attackable = ~natural
        clean = adversarial = self.stack.merger.bias.sum() * 0
        if alpha > 0 and bool(natural.any()):
            rows = slice(0, int(draws.own(natural, generator).sum()))
            clean = self._loss(images[rows], labels[rows], natural, generator)
        if alpha < 1 and bool(attackable.any()):
            rows = slice(len(labels) - int(draws.own(attackable, generator).sum()), None)
            victims, truth = images[rows], labels[rows]
            with draws.among(attackable, generator):
                found = attacked(
                    self.stack,
                    goals.cross_entropy(self.stack, truth),
                    victims,
                    self.method.merger_epsilon,
                    self.method.attack,
                    self.method.norm,
                    generator,
                )
            adversarial = self._loss(found, truth, attackable, generator)
        loss = alpha * clean + (1 - alpha) * adversarial
        return {"loss": loss, "loss_clean": clean, "loss_adversarial": adversarial}

    def outcome(self) -> nn.Module:
        """The stack."""
        return self.stack

    def predictor(self, epsilon: float) -> Predict:
        """The stack, whatever the strength."""
        return self.stack

    def _loss(
        self, images: Images, labels: Labels, chosen: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Mean over the chosen rows of all processes, of which ``images`` are those here."""
        with torch.no_grad():
            features = self.stack.features(images)
        found = losses.cross_entropy(self.stack.merger(features), labels)
        # Means of processes are averaged; 1 where this process has its even share of the rows.
        share = len(labels) * draws.processes(generator) / int(chosen.sum())
        return found.mean() * share if len(labels) else found.sum()
