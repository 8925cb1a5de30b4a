"""Adversarial feature stacking: N extractors trained at different budgets, one linear merger."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from torch import Tensor, nn

from equipoise.attacks import goals, losses
from equipoise.attacks.threat import THREATS, Norm, check_strengths
from equipoise.distributed.shared_generator import global_size, local_mean, subset
from equipoise.methods.examine import weak_stack
from equipoise.methods.single_network import network_stage
from equipoise.methods.training_attack import TrainingAttack
from equipoise.models import BranchedNetwork, FeatureStack, load
from equipoise.models.io.external import import_with_weights, is_external
from equipoise.models.last_linear import as_linear, find_last_linear
from equipoise.objectives import AnyObjective
from equipoise.records.epsilon import Epsilon, Epsilons, format_epsilon
from equipoise.runtime.errors import InvalidInput
from equipoise.training.schedule import Schedule
from equipoise.training.stage import MakeNetwork, Stage
from equipoise.types import Images, Labels, PerImage, Predict


@dataclass(frozen=True, kw_only=True)
class AFS:
    """Train extractors at several budgets, then a linear merger over their features.

    Args:
        objective: Loss of the extractors. The merger's loss is Eq. (5) whatever this is.
        budgets: Strength of each extractor's training attack in pixel units. Budget 0 trains on
            clean images alone, which is standard training with PGD-AT's or TRADES' loss.
        extractors: Trained networks to stack instead of training any: run folders, model folders,
            or ``module:function``. Budgets, schedule and objective are then ignored.
        mask: Which extractors are stacked, a 1 or 0 for each, such as ``"101"``; all by default.
        merger: ``"trained"``, or ``"average"`` for the mean of the members' logits, without
            training.
        attack: Settings of every training attack.
        schedule: Optimiser and learning rate of each extractor.
        merger_schedule: Optimiser and learning rate of the merger.
        alpha: Weight of the merger's clean term, [0, 1]; its adversarial term has 1 - alpha.
        merger_epsilon: Strength at which the whole stack is attacked while the merger trains.
        split_batch: Give each image one of the two terms, the first ``alpha`` of the batch the
            clean one, as the authors' code does, instead of both, as Eq. (5) says.
        norm: Norm of the threat.

    Raises:
        ValueError: If the norm cannot have such a strength, there is no budget and no extractor,
            an extractor is named twice, alpha is not in [0, 1], or the mask does not have a 1 or 0
            for each extractor and at least one 1.

    Source:
        AFS Sec. II, Eq. (1)-(5). Deviation: the best epoch is chosen on a validation split held
        out of the training set.

    Example:
        >>> from functools import partial
        >>> from equipoise.models import WideResNet
        >>> from equipoise.objectives import PGDAT
        >>> afs = AFS(
        ...     objective=PGDAT(),
        ...     budgets=(4 / 255, 8 / 255),
        ...     schedule=Schedule(epochs=70, learning_rate=0.1, decay_epochs=(59,)),
        ...     merger_schedule=Schedule(epochs=5, learning_rate=0.1, decay_epochs=(2,)),
        ... )
        >>> plan = afs.stages(partial(WideResNet, depth=28, width=10, classes=10))
        >>> [stage.name for stage in plan]
        ['extractor0_4_255', 'extractor1_8_255', 'merger']
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
            raise InvalidInput("budgets must name at least one strength, got none.")
        resolved = [
            name if is_external(name) else str(Path(name).resolve()) for name in self.extractors
        ]
        repeated = {
            name
            for name, path in zip(self.extractors, resolved, strict=True)
            if resolved.count(path) > 1
        }
        if repeated:
            raise InvalidInput(f"extractors must differ, but {', '.join(repeated)} is named twice.")
        if self.merger not in ("trained", "average"):
            raise InvalidInput(f"merger must be trained or average, got {self.merger!r}.")
        if not 0 <= self.alpha <= 1:
            raise InvalidInput(f"alpha must be in [0, 1], got {self.alpha}.")
        count = len(self.extractors or self.budgets)
        if self.mask is not None and not re.fullmatch(f"(?=.*1)[01]{{{count}}}", self.mask):
            raise InvalidInput(
                f"mask must have a 1 or 0 for each of the {count} extractors, and at least one 1, "
                f"got {self.mask!r}."
            )

    def selected_extractors(self) -> tuple[str, ...]:
        """List those of ``extractors`` that the mask selects."""
        return tuple(compress(self.extractors, self.selected()))

    def selected(self) -> list[bool]:
        """Tell for each extractor whether the mask selects it."""
        return [bit == "1" for bit in self.mask or "1" * len(self.extractors or self.budgets)]

    def stages(self, make_network: MakeNetwork) -> list[Stage]:
        """Plan independent extractor stages, then the merger, which needs them all."""
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
        extractors = [] if self.extractors else list(compress(extractors, self.selected()))

        def stack(needed: Mapping[str, nn.Module]) -> FeatureStack:
            loaded = {name: load_extractor(name) for name in self.selected_extractors()}
            return stack_networks(needed or loaded)

        needs = tuple(stage.name for stage in extractors)
        return [*extractors, self.merger_stage(stack, needs)]

    def merger_stage(
        self,
        stack: Callable[[Mapping[str, nn.Module]], FeatureStack],
        needs: tuple[str, ...] = (),
    ) -> Stage:
        """Plan the training of the merger.

        Args:
            stack: Stacks the outcomes of the stages that are needed under a fresh merger.
            needs: Names of these stages.
        """

        def build(needed: Mapping[str, nn.Module]) -> "MergerTask":
            stacked = stack(needed)
            if self.merger == "average":
                stacked.average()
            return MergerTask(stacked, self)

        return Stage(
            name="merger",
            build=build,
            schedule=self.merger_schedule,
            validation=(0.0, self.merger_epsilon),
            norm=self.norm,
            needs=needs,
            trains=self.merger == "trained",
            settings=vars(self),
            schedule_field="merger_schedule",
            examine=lambda task, split: weak_stack(
                task.stack, split, self.merger_epsilon, self.norm
            ),
        )


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
        """Compute Eq. (5): alpha times the clean loss plus 1 - alpha times the adversarial loss."""
        clean_rows, attacked_rows, alpha = self._rows(labels, generator)
        clean = self._clean_loss(images, labels, clean_rows, generator)
        adversarial = self._adversarial_loss(images, labels, attacked_rows, generator)
        loss = alpha * clean + (1 - alpha) * adversarial  # AFS Eq. (5)
        return {"loss": loss, "loss_clean": clean, "loss_adversarial": adversarial}

    def outcome(self) -> nn.Module:
        """Return the stack."""
        return self.stack

    def predictor(self, epsilon: float) -> Predict:
        """Return the stack, whatever the strength."""
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
            goal = goals.cross_entropy(self.stack, labels)
            threat = THREATS[self.method.norm](self.method.merger_epsilon)
            with self.method.attack.against(self.stack) as search:
                adversarial = search(goal, images, threat, generator)
            return local_mean(self._cross_entropy(adversarial, labels), generator)

    def _cross_entropy(self, images: Images, labels: Labels) -> PerImage:
        with torch.no_grad():
            features = self.stack.features(images)
        return losses.cross_entropy(self.stack.merger(features), labels)

    def _zero(self) -> Tensor:
        return self.stack.merger.bias.sum() * 0  # with a graph: a step needs gradients


def load_extractor(name: str) -> nn.Module:
    """Load a trained network to stack.

    Args:
        name: A run folder, a model folder, or ``module:function``, whose code must be trusted.

    Returns:
        The network.

    Raises:
        RunError: If it cannot be loaded, or its code is not trusted.
        ValueError: If it cannot be a member of a stack.

    Example:
        >>> load_extractor("network.onnx")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        equipoise...InvalidInput: network.onnx cannot be stacked: the layers of an exported ...
    """
    if name.endswith((".onnx", ".pt2")):
        raise InvalidInput(
            f"{name} cannot be stacked: the layers of an exported network are not accessible. Name "
            "the model folder or the function that it was exported from."
        )
    network = import_with_weights(name) if is_external(name) else load(name)
    if isinstance(network, BranchedNetwork):
        raise InvalidInput(
            f"{name} cannot be stacked: it is the branched network of AFA's stage I, which needs a "
            "branch to predict through. Stack the whole AFA model."
        )
    return network


def stack_networks(networks: Mapping[str, nn.Module]) -> FeatureStack:
    """Stack networks under a fresh merger.

    Args:
        networks: Each under the name that an error message calls it. They may differ in everything
            but their number of classes.

    Raises:
        ValueError: If their numbers of classes differ, or one has no linear layer.

    Example:
        >>> first = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        >>> second = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        >>> stack_networks({"first": first, "second": second}).sizes()
        [64, 32]
    """
    heads = {name: as_linear(find_last_linear(network)) for name, network in networks.items()}
    classes = {name: head.out_features for name, head in heads.items()}
    if len(set(classes.values())) > 1:
        listed = ", ".join(f"{name} has {count}" for name, count in classes.items())
        raise InvalidInput(
            f"all members of a stack must have the same number of classes, but {listed}."
        )
    return FeatureStack(list(networks.values()), next(iter(classes.values())))
