"""Adversarial feature stacking: N extractors trained at different budgets, one linear merger."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from torch import Tensor, nn

from equipoise.attacks import goals, losses
from equipoise.distributed.shared_generator import global_size, local_mean, subset
from equipoise.methods.single_network import network_stage
from equipoise.methods.stage import (
    MakeNetwork,
    Norm,
    Schedule,
    Stage,
    TrainingAttack,
    check_strengths,
)
from equipoise.methods.training_attack import attacked
from equipoise.models import BranchedNetwork, FeatureStack, load
from equipoise.models.io.external import import_network, is_external
from equipoise.models.last_linear import find_last_linear
from equipoise.objectives import AnyObjective
from equipoise.records.epsilon import Epsilon, Epsilons, format_epsilon
from equipoise.types import Images, Labels, PerImage, Predict

_MASKS = ({"1"}, {"0", "1"})


@dataclass(frozen=True, kw_only=True)
class AFS:
    """Train extractors at several budgets, then a linear merger over their features.

    Args:
        objective: What the extractors minimise; the merger's loss is Eq. (5) whatever this is.
        budgets: Strength of each extractor's training attack; 0 trains on clean images alone, which
            with PGD-AT's or TRADES' loss is standard training.
        extractors: Trained networks to stack instead of training any: run folders, model folders,
            or ``module:function``. Budgets, schedule and objective then have no meaning.
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
        ValueError: If the norm has no such strength, there is no budget and no extractor, an
            extractor is named twice, alpha is not in [0, 1], or the mask does not have a 1 or 0
            for each extractor and a 1 among them.

    Source:
        AFS Sec. II, Eq. (1)-(5). Deviation: the best epoch is chosen on a validation split held
        out of the training set.
    """

    objective: AnyObjective
    budgets: Epsilons
    extractors: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["--extractors"])] = ()
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
        check_strengths(self.norm, *self.budgets, self.merger_epsilon, self.attack.step_size)
        if not self.budgets and not self.extractors:
            raise ValueError("budgets must name at least one strength, got none.")
        same = [
            name if is_external(name) else str(Path(name).resolve()) for name in self.extractors
        ]
        twice = {
            name for name, one in zip(self.extractors, same, strict=True) if same.count(one) > 1
        }
        if twice:
            raise ValueError(f"extractors must differ, but {', '.join(twice)} is named twice.")
        if self.merger not in ("trained", "average"):
            raise ValueError(f"merger must be trained or average, got {self.merger!r}.")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {self.alpha}.")
        count = len(self.extractors or self.budgets)
        if self.mask is not None and (len(self.mask) != count or set(self.mask) not in _MASKS):
            raise ValueError(
                f"mask must have a 1 or 0 for each of the {count} extractors, and a 1 among them, "
                f"got {self.mask!r}."
            )

    def stacked_extractors(self) -> tuple[str, ...]:
        """Those of ``extractors`` that are in the mask."""
        return tuple(compress(self.extractors, self.taken()))

    def taken(self) -> list[bool]:
        """For each extractor, whether it is in the mask."""
        return [bit == "1" for bit in self.mask or "1" * len(self.extractors or self.budgets)]

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
        extractors = [] if self.extractors else list(compress(extractors, self.taken()))
        names = tuple(stage.name for stage in extractors)

        def build(needed: Mapping[str, nn.Module]) -> "MergerTask":
            stack = stacked(needed or {name: extractor(name) for name in self.stacked_extractors()})
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


def extractor(name: str) -> nn.Module:
    """A trained network to stack, by name.

    Args:
        name: A run folder, a model folder, or ``module:function``; code must be trusted here.

    Returns:
        The network.

    Raises:
        RunError: If it cannot be loaded, or its code is not trusted.
        ValueError: If it cannot be a member of a stack.
    """
    if name.endswith((".onnx", ".pt2")):
        raise ValueError(
            f"{name} cannot be stacked: the layers of an exported network cannot be seen. Name the "
            "model folder or the function that it was exported from."
        )
    network = import_network(name, {}) if is_external(name) else load(name)
    if isinstance(network, BranchedNetwork):
        raise ValueError(
            f"{name} cannot be stacked: it is a branched network, the first stage of AFA, and "
            "answers through a branch that is named. Stack the whole AFA model."
        )
    return network


def stacked(networks: Mapping[str, nn.Module]) -> FeatureStack:
    """A stack of networks for the same classes, with a fresh merger.

    Args:
        networks: Each under the name that a refusal gives it.

    Returns:
        The stack; the networks may differ in all but their number of classes.

    Raises:
        ValueError: If they differ in that, or one has no linear layer.
    """
    classes = {name: find_last_linear(network).out_features for name, network in networks.items()}
    if len(set(classes.values())) > 1:
        listed = ", ".join(f"{name} has {count}" for name, count in classes.items())
        raise ValueError(f"a stack's members must know the same number of classes, but {listed}.")
    return FeatureStack(list(networks.values()), next(iter(classes.values())))


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
        if method.split_batch and method.alpha > 0:
            self.least_images = math.ceil(1 / method.alpha)

    def forward(
        self, images: Images, labels: Labels, generator: torch.Generator, progress: float
    ) -> dict[str, Tensor]:
        """One step: alpha times the clean loss plus 1 - alpha times the adversarial loss."""
        clean_rows, attacked_rows, alpha = self._rows(labels, generator)
        clean = self._clean_loss(images, labels, clean_rows, generator)
        adversarial = self._adversarial_loss(images, labels, attacked_rows, generator)
        loss = alpha * clean + (1 - alpha) * adversarial  # Eq. (5)
        return {"loss": loss, "loss_clean": clean, "loss_adversarial": adversarial}

    def outcome(self) -> nn.Module:
        """The stack."""
        return self.stack

    def predictor(self, epsilon: float) -> Predict:
        """The stack, whatever the strength."""
        return self.stack

    def _rows(self, labels: Labels, generator: torch.Generator) -> tuple[Tensor, Tensor, float]:
        """Masks of the whole batch for the two terms, and the weight of the clean one.

        Eq. (5) has both terms on every image; with ``split_batch`` each image has one of them.
        """
        alpha, count = self.method.alpha, global_size(len(labels), generator)
        if not self.method.split_batch:
            every = torch.ones(count, dtype=torch.bool)
            return every & (alpha > 0), every & (alpha < 1), alpha
        clean = torch.arange(count) < int(count * alpha)
        return clean, ~clean, float(clean.sum()) / count

    def _clean_loss(
        self, images: Images, labels: Labels, rows: Tensor, generator: torch.Generator
    ) -> Tensor:
        if not bool(rows.any()):
            return self._zero()
        with subset(rows, generator) as count:  # clean images come first
            return local_mean(self._cross_entropy(images[:count], labels[:count]), generator)

    def _adversarial_loss(
        self, images: Images, labels: Labels, rows: Tensor, generator: torch.Generator
    ) -> Tensor:
        if not bool(rows.any()):
            return self._zero()
        with subset(rows, generator) as count:  # attacked images come last
            first = len(labels) - count
            images, labels = images[first:], labels[first:]
            adversarial = attacked(
                self.stack,
                goals.cross_entropy(self.stack, labels),
                images,
                self.method.merger_epsilon,
                self.method.attack,
                self.method.norm,
                generator,
            )
            return local_mean(self._cross_entropy(adversarial, labels), generator)

    def _cross_entropy(self, images: Images, labels: Labels) -> PerImage:
        with torch.no_grad():
            features = self.stack.features(images)
        return losses.cross_entropy(self.stack.merger(features), labels)

    def _zero(self) -> Tensor:
        return self.stack.merger.bias.sum() * 0  # with a graph: a step needs gradients
