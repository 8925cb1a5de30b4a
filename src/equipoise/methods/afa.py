"""Adaptive feature alignment: K branches, then a weight generator that fuses the outermost two."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from equipoise.attacks import goals, losses
from equipoise.attacks.goals import Goal
from equipoise.attacks.threat import THREATS, Norm, check_strengths
from equipoise.distributed.shared_generator import randint
from equipoise.methods.branch_task import BranchTask, CleanTerm
from equipoise.methods.examine import alike_branches, constant_gate
from equipoise.methods.training_attack import TrainingAttack
from equipoise.models import AdaptiveNetwork, BranchedNetwork, fuse_branches, with_branches
from equipoise.models.afa.adaptive_network import Placement, WeightGranularity, check_fusable
from equipoise.models.afa.branches import Separate, model_soup
from equipoise.models.afa.layer_placement import AtLayer, FixedBranch, traced
from equipoise.objectives import AnyObjective, ImportedObjective, single_network_objective
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
        clean_term: Branch of the clean images in the loss of an attacked path (TRADES, MART, IAT):
            ``"branch_0"``, so that each branch sees only images of its strength, or
            ``"own_branch"``, as Algorithm 1 reads after its switch to path k.
        adds_cross_entropy: Add the cross-entropy of its adversarial images to the loss of each
            attacked path, as Eq. (3) reads; Algorithm 1 has the adversarial loss alone.
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
        ...     schedule=Schedule(epochs=100, learning_rate=0.1, decay_epochs=(74, 89)),
        ...     gate_schedule=Schedule(epochs=20, learning_rate=0.01, decay_epochs=(9,)),
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
    clean_term: CleanTerm = "branch_0"
    adds_cross_entropy: bool = False
    norm: Norm = "Linf"

    def __post_init__(self) -> None:
        check_strengths(self.norm, *self.strengths, self.attack.step_size)
        ascending = all(a < b for a, b in zip(self.strengths, self.strengths[1:], strict=False))
        if len(self.strengths) < 2 or self.strengths[0] != 0 or not ascending:
            raise InvalidInput(
                "strengths must be two or more and ascend from 0, such as (0, 4/255, 8/255), "
                f"got {self.strengths}."
            )
        if self.clean_term not in get_args(CleanTerm):
            raise InvalidInput(
                f"clean_term must be branch_0 or own_branch, got {self.clean_term!r}."
            )
        if self.soup is not None and not 0 <= self.soup <= 1:
            raise InvalidInput(f"soup must be a share in [0, 1], got {self.soup}.")
        if not isinstance(self.objective, ImportedObjective):
            self._check_objective()

    def _check_objective(self) -> None:
        """Refuse an objective that no branch can be trained with; asks an imported one."""
        if not single_network_objective(self.objective, "AFA").attacks:
            raise InvalidInput(
                f"AFA needs an objective with an attack, got {type(self.objective).__name__}: "
                "without one, branches 1 and up would never be trained on attacked images. Use "
                "PGDAT, TRADES or MART."
            )

    def stages(self, make_network: MakeNetwork) -> list[Stage]:
        """Plan ``branches`` (stage I), then ``gate`` (stage II) or ``soup``."""
        self._check_objective()

        def build_branches(needed: Mapping[str, nn.Module]) -> "BranchTask":
            network = with_branches(make_network(), len(self.strengths), self.separate)
            if self.soup is None:  # refuse before hours of stage I what stage II would refuse
                check_fusable(network)
                if isinstance(self.gate.reads, AtLayer):
                    traced(network, self.gate.reads)
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
        top = self.strengths[-1]
        later = ("gate", "gate_schedule", "soup")
        first = stage(
            name="branches",
            build=build_branches,
            schedule=self.schedule,
            settings={name: value for name, value in vars(self).items() if name not in later},
            examine=lambda task, split: alike_branches(task.network, split),
        )
        second = partial(
            stage,
            schedule=self.gate_schedule,
            needs=("branches",),
            settings=vars(self),
            schedule_field="gate_schedule",
        )
        if self.soup is not None:
            return [first, second(name="soup", build=build_soup, trains=False)]
        # PGD accuracy is as high with an untrained generator as with a trained one. The best epoch
        # would be an early one, whose weight does not depend on the image yet.
        gate = second(
            name="gate",
            build=build_gate,
            keep="last",
            examine=lambda task, split: constant_gate(task.network, split, top, self.norm),
        )
        return [first, gate]


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
        """Compute one step: the classification loss, plus detection if it is switched on.

        ``weight_clean`` and ``weight_attacked`` are means of W0 over the clean images and over
        those attacked at the highest strength; NaN, for unknown, if the batch has none.
        """
        gate, top = self.method.gate, self.method.strengths[-1]
        strengths = torch.tensor(
            self.method.strengths[1 if gate.pairs else 0 :],
            device=images.device,
            dtype=images.dtype,
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
    """Mean of the chosen values; NaN, which means unknown, where there is none."""
    return (values.detach() * chosen).sum() / chosen.sum()
