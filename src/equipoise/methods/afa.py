"""Adaptive feature alignment: K branches, then a weight generator that fuses the outermost two."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from equipoise.attacks import goals, losses
from equipoise.attacks.goals import Goal
from equipoise.attacks.threat import THREATS, Norm, check_strengths
from equipoise.distributed.shared_generator import processes, randint
from equipoise.methods.training_attack import TrainingAttack
from equipoise.models import AdaptiveNetwork, BranchedNetwork, fuse_branches, with_branches
from equipoise.models.afa.adaptive_network import Placement, WeightGranularity
from equipoise.models.afa.branches import Separate, model_soup
from equipoise.models.afa.layer_placement import AtLayer, FixedBranch, traced
from equipoise.objectives import AnyObjective, Batch, single_network_objective
from equipoise.records.epsilon import Epsilons
from equipoise.runtime.errors import InvalidInput
from equipoise.training.schedule import Schedule
from equipoise.training.stage import MakeNetwork, Stage, UntrainedTask
from equipoise.types import Images, Labels, Predict


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Settings of the weight generator and of stage II, which trains it.

    The defaults train as the paper's plain stage II does: one strength drawn for each image, the
    classification loss alone, and a white-box attack through the generator. The default placement
    is not the paper's: it reads the pixels, where the paper reads "an intermediate layer".

    Args:
        placement: What the generator reads: ``"input"``, ``"stem"``, ``"layer"`` or ``"per_norm"``,
            as in ``AdaptiveNetwork``.
        layer: With ``placement="layer"``, the layer's name as in ``named_modules()``.
        before: With ``placement="layer"``, the branch of the norms that run before the layer ends:
            ``"robust"`` or ``"clean"``.
        hidden: Channels inside the generator, 1 or more.
        each: One fusing weight for each ``"image"``, or for each ``"channel"`` of each norm.
        ceiling: Largest W0, in (0, 1]. It bounds what an attack on the generator can gain.
        pairs: Put each image into the batch clean *and* attacked, so that batch norm and loss see
            the difference between the two rather than the difference between images.
        lead: Share of the stage, [0, 1], during which the attack goes through the fixed robust
            branch; after it, the attack goes through the generator.
        detection: Weight, 0 or more, of a binary cross-entropy on W0 that is added to the
            classification loss. Its target is 1 for clean images, 0 for images attacked at the
            highest strength, and linear in between.

    Raises:
        ValueError: If a number is out of range, or a layer is missing or not used.

    Source:
        AFA Sec. 4.3, stage 2. Deviations: the default placement
        (docs/decisions/034-the-layer-that-the-generator-reads.md), and every setting that is off by
        default (006-guided-gate.md, 007-ceiling-of-the-fusing-weight.md).

    Example:
        >>> Gate(ceiling=0.1, pairs=True, lead=0.5, detection=1.0).placement
        'input'
        >>> Gate(ceiling=2.0)
        Traceback (most recent call last):
        ...
        equipoise...InvalidInput: ceiling must be in (0, 1], got 2.0.
    """

    placement: Placement = "input"
    layer: str | None = None
    before: FixedBranch = "robust"
    hidden: int = 16
    each: WeightGranularity = "image"
    ceiling: float = 1.0
    pairs: bool = False
    lead: float = 0.0
    detection: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.ceiling <= 1:
            raise InvalidInput(f"ceiling must be in (0, 1], got {self.ceiling}.")
        if not 0 <= self.lead <= 1:
            raise InvalidInput(f"lead must be a share in [0, 1], got {self.lead}.")
        if not self.detection >= 0:
            raise InvalidInput(f"detection must be 0 or more, got {self.detection}.")
        if self.hidden < 1:
            raise InvalidInput(f"hidden must be 1 channel or more, got {self.hidden}.")
        if (self.placement == "layer") != (self.layer is not None):
            raise InvalidInput(
                "layer must name a layer if placement is 'layer' and be None otherwise, got "
                f"placement {self.placement!r} and layer {self.layer!r}."
            )
        if self.placement == "layer" and self.each != "image":
            raise InvalidInput(f"each must be 'image' if placement is 'layer', got {self.each!r}.")

    @property
    def reads(self) -> Placement | AtLayer:
        """The placement as ``fuse_branches`` takes it."""
        if self.layer is None:
            return self.placement
        return AtLayer(layer=self.layer, before=self.before)


@dataclass(frozen=True, kw_only=True)
class AFA:
    """Train a K-branch network at K strengths, then a generator that fuses its outermost branches.

    Args:
        objective: Loss of the attacked branches (the paper's "PGD-AT + ours", ...). The clean
            branch has the plain cross-entropy, without label smoothing.
        strengths: Strength of each branch in pixel units, ascending from 0.
        attack: Settings of every training attack.
        schedule: Optimiser and learning rate of stage I.
        separate: What each branch keeps for itself: batch-norm statistics, affine maps, or both.
        split_batch: In stage I, divide the batch among the attacked branches: each image is
            attacked for one of them a step instead of all. Branch 0, whose images cost no attack,
            gets the whole batch. A step with many attack steps then costs little more than one of
            PGD-AT, and each attacked branch sees a share of the images in an epoch.
        soup: Replace stage II: interpolate the norms of the outermost branches once, with this
            share of the clean one, [0, 1], into a plain network without a generator.
        gate: Settings of stage II.
        gate_schedule: Optimiser and learning rate of stage II.
        reduction: ``"mean"`` averages the losses of the K paths; ``"sum"`` adds them, as
            Algorithm 1 prints, which multiplies the learning rate by K.
        norm: Norm of the threat.

    Raises:
        ValueError: If there are fewer than two strengths, they do not ascend from 0 or the norm
            cannot have them; or if the objective runs no attack or trains a companion network.

    Source:
        AFA Sec. 4, Eq. (1)-(3), Algorithm 1.

    Example:
        >>> from equipoise.models import WideResNet
        >>> from equipoise.objectives import TRADES
        >>> afa = AFA(
        ...     objective=TRADES(),
        ...     strengths=(0.0, 4 / 255, 8 / 255),
        ...     schedule=Schedule(epochs=100, learning_rate=0.1, decay_epochs=(75, 90)),
        ...     gate_schedule=Schedule(epochs=20, learning_rate=0.01, decay_epochs=(10,)),
        ... )
        >>> plan = afa.stages(partial(WideResNet, depth=28, width=10, classes=10))
        >>> [(stage.name, stage.needs) for stage in plan]
        [('branches', ()), ('gate', ('branches',))]
    """

    objective: AnyObjective
    strengths: Epsilons
    attack: TrainingAttack = TrainingAttack()
    schedule: Schedule
    separate: Separate = "both"
    split_batch: bool = False
    soup: float | None = None
    gate: Gate = Gate()
    gate_schedule: Schedule
    reduction: Literal["mean", "sum"] = "mean"
    norm: Norm = "Linf"

    def __post_init__(self) -> None:
        check_strengths(self.norm, *self.strengths, self.attack.step_size)
        ascending = all(a < b for a, b in zip(self.strengths, self.strengths[1:], strict=False))
        if len(self.strengths) < 2 or self.strengths[0] != 0 or not ascending:
            raise InvalidInput(
                "strengths must be two or more and ascend from 0, such as (0, 4/255, 8/255), "
                f"got {self.strengths}."
            )
        if self.soup is not None and not 0 <= self.soup <= 1:
            raise InvalidInput(f"soup must be a share in [0, 1], got {self.soup}.")
        if not single_network_objective(self.objective, "AFA").attacks:
            raise InvalidInput(
                f"AFA needs an objective with an attack, got {type(self.objective).__name__}: "
                "without one, branches 1 and up would never be trained on attacked images. Use "
                "PGDAT, TRADES or MART."
            )

    def stages(self, make_network: MakeNetwork) -> list[Stage]:
        """Plan ``branches`` (stage I), then ``gate`` (stage II) or ``soup``."""

        def build_branches(needed: Mapping[str, nn.Module]) -> "BranchTask":
            network = with_branches(make_network(), len(self.strengths), self.separate)
            if isinstance(self.gate.reads, AtLayer) and self.soup is None:
                traced(network, self.gate.reads)  # refuses a wrong layer before hours of stage I
            return BranchTask(network, self)

        def build_gate(needed: Mapping[str, nn.Module]) -> "GateTask":
            branched = needed["branches"]
            assert isinstance(branched, BranchedNetwork)
            adaptive = fuse_branches(
                branched,
                placement=self.gate.reads,
                hidden=self.gate.hidden,
                each=self.gate.each,
                ceiling=self.gate.ceiling,
            )
            return GateTask(adaptive, self)

        def build_soup(needed: Mapping[str, nn.Module]) -> UntrainedTask:
            branched = needed["branches"]
            assert isinstance(branched, BranchedNetwork)
            return UntrainedTask(model_soup(branched, self.soup or 0.0))

        stage = partial(Stage, validation=(self.strengths[0], self.strengths[-1]), norm=self.norm)
        first = stage(name="branches", build=build_branches, schedule=self.schedule)
        second = partial(stage, schedule=self.gate_schedule, needs=("branches",))
        if self.soup is not None:
            return [first, second(name="soup", build=build_soup, trains=False)]
        # PGD accuracy is as high with an untrained generator as with a trained one. The best epoch
        # would be an early one, whose weight does not depend on the image yet.
        return [first, second(name="gate", build=build_gate, keep="last")]


class BranchTask(nn.Module):
    """Stage I: clean images through branch 0, images attacked at strength k through branch k.

    All strengths are attacked as one batch, in one grouped forward a step. An objective that mixes
    or compares images gets one batch for each strength instead. With ``split_batch``, the attacked
    branches get equal parts of the batch and branch 0 gets all of it.

    Args:
        network: A branched network with one branch for each strength.
        method: Strengths, objective and attack.

    Raises:
        ValueError: From ``forward``, if a batch to be split has fewer images than there are
            attacked branches, or is shared by several processes.

    Source:
        AFA Algorithm 1. Branches count from 0, the paper's paths from 1. Eq. (3) adds the clean
        loss to every path; we follow Algorithm 1, which adds it once. Deviation: an objective's
        clean term goes through branch 0, so that branch k sees only images of strength k. The
        attack on path k uses path k alone, as Algorithm 1 does after its switch: under TRADES it
        maximises the divergence from path k's own prediction of the clean images.
    """

    def __init__(self, network: BranchedNetwork, method: AFA) -> None:
        super().__init__()
        self.network = network
        self.method = method
        if method.split_batch:
            # Two images for each attacked branch, which normalises its part by itself.
            self.least_images = 2 * (network.branches - 1)

    def forward(
        self, images: Images, labels: Labels, generator: torch.Generator, progress: float
    ) -> dict[str, Tensor]:
        """Compute one step: the mean or sum over all paths of each path's mean loss."""
        objective = single_network_objective(self.method.objective, "AFA")
        paths = tuple(range(1, self.network.branches))
        groups = [paths] if objective.per_image_loss else [(path,) for path in paths]
        if self.method.split_batch and processes(generator) > 1:
            raise InvalidInput(
                "split_batch divides the batch of one process, but several share this one. Leave "
                "it off, or train on one device."
            )
        by_path = self._divide(images, labels)
        # All attacks come first: no branch's statistics depend on the order of the paths.
        batches = [self._attack(group, by_path, generator, progress) for group in groups]
        clean, clean_labels = by_path[0]
        clean_logits = self.network(clean, branch=0)
        path_losses = [losses.cross_entropy(clean_logits, clean_labels).mean()]
        for group, batch in zip(groups, batches, strict=True):
            loss = objective.losses(batch)["loss"]
            path_losses += [path_loss.mean() for path_loss in loss.chunk(len(group))]
        stacked = torch.stack(path_losses)
        total = stacked.mean() if self.method.reduction == "mean" else stacked.sum()
        return {"loss": total} | {f"loss_{k}": value for k, value in enumerate(stacked)}

    def _attack(
        self,
        group: tuple[int, ...],
        by_path: list[tuple[Tensor, Tensor]],
        generator: torch.Generator,
        progress: float,
    ) -> Batch:
        """Attack the images of a group of paths, each at its strength and through its branch."""
        objective = single_network_objective(self.method.objective, "AFA")
        predict: Predict = partial(self.network, branch=group)
        # Contiguous, because noise is drawn in memory order.
        clean = torch.cat([by_path[path][0] for path in group]).contiguous()
        labels = torch.cat([by_path[path][1] for path in group])
        strengths = [self.method.strengths[path] for path in group]
        epsilon = torch.tensor(strengths, device=clean.device)
        epsilon = epsilon.repeat_interleave(len(clean) // len(group))
        threat = THREATS[self.method.norm](self.method.attack.strength(epsilon, progress))
        goal = objective.goal(predict, clean, labels)
        with self.method.attack.against(self.network, objective.start_noise) as search:
            adversarial = search(goal, clean, threat, generator)
        return Batch(
            clean=clean,
            adversarial=adversarial,
            labels=labels,
            predict_clean=partial(self.network, branch=0),
            predict_adversarial=predict,
            generator=generator,
        )

    def _divide(self, images: Images, labels: Labels) -> list[tuple[Tensor, Tensor]]:
        """List the images and labels of each path: the whole batch, or a part of it."""
        paths = self.network.branches
        if not self.method.split_batch:
            return [(images, labels)] * paths
        size = len(images) // (paths - 1)
        if size == 0:
            raise InvalidInput(
                f"split_batch divides each batch among {paths - 1} attacked branches, so it "
                f"needs at least that many images, got {len(images)}. Raise batch_size."
            )
        parts = zip(images.split(size), labels.split(size), strict=True)
        return [(images, labels), *list(parts)[: paths - 1]]

    def outcome(self) -> nn.Module:
        """Return the branched network."""
        return self.network

    def predictor(self, epsilon: float) -> Predict:
        """Return the branch trained for this strength.

        Choosing it takes an oracle that knows the strength, so its accuracy is not robustness.
        """
        return partial(self.network, branch=self.method.strengths.index(epsilon))


class GateTask(nn.Module):
    """Stage II: train the weight generator; everything else is frozen.

    Args:
        network: The two outermost branches and a fresh generator.
        method: Strengths, attack and settings of the gate.

    Source:
        AFA Sec. 4.3, stage 2; Fig. 4(b).
    """

    def __init__(self, network: AdaptiveNetwork, method: AFA) -> None:
        super().__init__()
        self.network = network
        self.method = method

    def forward(
        self, images: Images, labels: Labels, generator: torch.Generator, progress: float
    ) -> dict[str, Tensor]:
        """Compute one step: the classification loss, plus detection if it is switched on."""
        gate, top = self.method.gate, self.method.strengths[-1]
        strengths = torch.tensor(
            self.method.strengths[1 if gate.pairs else 0 :], device=images.device
        )
        epsilon = strengths[randint(len(strengths), len(images), generator).to(images.device)]
        goal, threat = self._goal(labels, progress), THREATS[self.method.norm](epsilon)
        with self.method.attack.against(self.network) as search:
            adversarial = search(goal, images, threat, generator)
        if gate.pairs:
            images = torch.cat([images, adversarial])
            labels = labels.repeat(2)
            epsilon = torch.cat([torch.zeros_like(epsilon), epsilon])
        else:
            images = adversarial
        logits, gate_logit = self.network.logits_and_gate(images)
        weight = self.network.ceiling * torch.sigmoid(gate_logit)
        loss = classification = losses.cross_entropy(logits, labels).mean()
        if gate.detection:
            detection = losses.gate_cross_entropy(gate_logit, 1 - epsilon / top).mean()
            loss = loss + gate.detection * detection
        return {
            "loss": loss,
            "loss_classification": classification,
            "weight_clean": _mean(weight, epsilon == 0),
            "weight_attacked": _mean(weight, epsilon == top),
        }

    def outcome(self) -> nn.Module:
        """Return the adaptive network."""
        return self.network

    def predictor(self, epsilon: float) -> Predict:
        """Return the adaptive network, which estimates the strength itself."""
        return self.network

    def _goal(self, labels: Labels, progress: float) -> Goal:
        if progress < self.method.gate.lead:
            return goals.cross_entropy(partial(self.network, weight=0.0), labels)
        return goals.cross_entropy(self.network, labels)


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    return (values.detach() * chosen).sum() / chosen.sum().clamp_min(1)
