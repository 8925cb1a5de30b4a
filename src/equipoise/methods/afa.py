"""Adaptive feature alignment: K branches, then a generator that fuses the outermost two."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from equipoise.attacks import goals, losses
from equipoise.attacks.goals import Goal
from equipoise.distributed.shared_generator import processes, randint
from equipoise.methods.stage import (
    MakeNetwork,
    Norm,
    Schedule,
    Stage,
    TrainingAttack,
    Untrained,
    check_strengths,
)
from equipoise.methods.training_attack import attacked
from equipoise.models import AdaptiveNetwork, BranchedNetwork, fuse_branches, with_branches
from equipoise.models.afa.adaptive_network import Placement, WeightGranularity
from equipoise.models.afa.branches import Separate, model_soup
from equipoise.objectives import AnyObjective, Batch, single_network_objective
from equipoise.records.epsilon import Epsilons
from equipoise.types import Images, Labels, Predict


@dataclass(frozen=True, kw_only=True)
class Gate:
    """How stage II trains the weight generator.

    With the defaults it is the paper's plain stage II: one strength drawn for each image, the
    classification loss alone, the attack white-box through the generator.

    Args:
        placement: Where the generator reads.
        hidden: Channels inside it.
        each: One fusing weight an image, or one for each channel of each norm.
        ceiling: Largest W0: bounds what an attack on the generator can gain.
        pairs: Put each image into the batch clean *and* attacked, so that batch norm and loss see
            the difference between the two and not the difference between images.
        lead: Share of the stage during which the attack goes through the fixed robust branch;
            after it, through the generator.
        detection: Weight of a binary cross-entropy of W0 beside the classification loss, whose
            target is 1 for clean images and 0 for images attacked at the highest strength, linear
            between.

    Raises:
        ValueError: If a number is out of range.

    Source:
        AFA Sec. 4.3, stage 2. Deviations: everything that is off by default, with
        measurements in docs/decisions/006-guided-gate.md and 007-ceiling-of-the-fusing-weight.md.
    """

    placement: Placement = "input"
    hidden: int = 16
    each: WeightGranularity = "image"
    ceiling: float = 1.0
    pairs: bool = False
    lead: float = 0.0
    detection: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.ceiling <= 1:
            raise ValueError(f"ceiling must be in (0, 1], got {self.ceiling}.")
        if not 0 <= self.lead <= 1:
            raise ValueError(f"lead must be a share in [0, 1], got {self.lead}.")
        if not self.detection >= 0:
            raise ValueError(f"detection must be 0 or more, got {self.detection}.")
        if self.hidden < 1:
            raise ValueError(f"hidden must be 1 channel or more, got {self.hidden}.")


@dataclass(frozen=True, kw_only=True)
class AFA:
    """Train a K-branch network over K strengths, then a generator that fuses its outermost two.

    Args:
        objective: What the attacked branches minimise (the paper's "PGD-AT + ours", ...). The
            clean branch has the plain cross-entropy, without label smoothing.
        strengths: Strength of each branch, ascending, the first 0.
        attack: Search of every training attack.
        schedule: Optimiser and learning rate of stage I.
        separate: What each branch has for itself: statistics and affine maps, or one of them.
        split_batch: In stage I, deal the batch out among the attacked branches, each image to one
            of them a step, rather than attack every image on every branch. Branch 0, whose images
            cost no attack, gets them all. A step then costs little more than PGD-AT's does if
            attacks have many steps, and each attacked branch sees a share of the images an epoch.
        soup: In place of stage II: mix the norms of the outermost branches once and for all, with
            this share of the clean one, [0, 1], into a plain network without a generator.
        gate: How stage II trains.
        gate_schedule: Optimiser and learning rate of stage II.
        reduction: ``"mean"`` averages the losses of the K paths; ``"sum"`` adds them, as
            Algorithm 1 prints, which multiplies the learning rate by K.
        norm: Geometry of the threat.

    Raises:
        ValueError: If the norm has no such strength, there are fewer than two, they do not ascend
            from 0, or the objective runs no attack or trains a companion network.

    Source:
        AFA Sec. 4, Eq. (1)-(3), Algorithm 1.
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
            raise ValueError(
                "strengths must be two or more and ascend from 0, such as (0, 4/255, 8/255), "
                f"got {self.strengths}."
            )
        if self.soup is not None and not 0 <= self.soup <= 1:
            raise ValueError(f"soup must be a share in [0, 1], got {self.soup}.")
        if not single_network_objective(self.objective, "AFA").attacks:
            raise ValueError(
                f"AFA needs an objective with an attack, got {type(self.objective).__name__}: "
                "branches 1 and up would never see the images they are for."
            )

    def stages(self, make_network: MakeNetwork) -> list[Stage]:
        """The plan: ``branches`` (stage I), then ``gate`` (stage II), or ``soup``."""

        def build_branches(needed: Mapping[str, nn.Module]) -> "BranchTask":
            return BranchTask(
                with_branches(make_network(), len(self.strengths), self.separate), self
            )

        def build_gate(needed: Mapping[str, nn.Module]) -> "GateTask":
            branched = needed["branches"]
            assert isinstance(branched, BranchedNetwork)
            adaptive = fuse_branches(
                branched,
                placement=self.gate.placement,
                hidden=self.gate.hidden,
                each=self.gate.each,
                ceiling=self.gate.ceiling,
            )
            return GateTask(adaptive, self)

        def build_soup(needed: Mapping[str, nn.Module]) -> "Untrained":
            branched = needed["branches"]
            assert isinstance(branched, BranchedNetwork)
            return Untrained(model_soup(branched, self.soup or 0.0))

        stage = partial(Stage, validation=(self.strengths[0], self.strengths[-1]), norm=self.norm)
        first = stage(name="branches", build=build_branches, schedule=self.schedule)
        second = partial(stage, schedule=self.gate_schedule, needs=("branches",))
        if self.soup is not None:
            return [first, second(name="soup", build=build_soup, trains=False)]
        # PGD through a fresh generator scores as well as through a trained one, so the best epoch
        # would be an early one, whose weight does not depend on the image yet.
        return [first, second(name="gate", build=build_gate, keep="last")]


class BranchTask(nn.Module):
    """Stage I: clean images through branch 0, images of strength k through branch k.

    All strengths are attacked as one batch, in one grouped forward a step, unless the objective
    forbids it: then one strength after the other, so that only images of one strength are mixed.
    With ``split_batch`` the attacked branches get equal parts of the batch, and branch 0 gets all
    of it.

    Args:
        network: A branched network with one branch a strength.
        method: Strengths, objective and attack.

    Raises:
        ValueError: From ``forward``, if a batch is to be split and has fewer images than attacked
            branches, or is shared by several processes.

    Source:
        AFA Algorithm 1. Branches count from 0, its paths from 1. Eq. (3) adds the clean
        loss to every path; Algorithm 1, which adds it once, is followed. Deviation: an objective's
        clean term goes through branch 0, so that branch k sees only images of strength k. The
        attack is made on path k alone, as Algorithm 1 has it after its switch: under TRADES it
        climbs the divergence from path k's own prediction of the clean images.
    """

    def __init__(self, network: BranchedNetwork, method: AFA) -> None:
        super().__init__()
        self.network = network
        self.method = method
        if method.split_batch:
            self.least_images = 2 * (network.branches - 1)  # an attacked branch normalises its own

    def forward(
        self, images: Images, labels: Labels, generator: torch.Generator, progress: float
    ) -> dict[str, Tensor]:
        """One step's loss over all paths."""
        objective = single_network_objective(self.method.objective, "AFA")
        paths = tuple(range(1, self.network.branches))
        groups = [paths] if objective.per_image_loss else [(path,) for path in paths]
        if self.method.split_batch and processes(generator) > 1:
            raise ValueError(
                "split_batch deals out the batch of one process; with several, leave it off or "
                "train on one device."
            )
        through_clean: Predict = partial(self.network, branch=0)
        dealt = self._dealt(images, labels)
        batches = []
        for group in groups:
            through: Predict = partial(self.network, branch=group)
            # Rows in plain order: noise is drawn in the order of memory.
            clean = torch.cat([dealt[path][0] for path in group]).contiguous()
            truth = torch.cat([dealt[path][1] for path in group])
            strengths = [self.method.strengths[path] for path in group]
            epsilon = torch.tensor(strengths, device=images.device)
            adversarial = attacked(
                self.network,
                objective.goal(through, clean, truth),
                clean,
                epsilon.repeat_interleave(len(clean) // len(group)),
                self.method.attack,
                self.method.norm,
                generator,
                start_noise=objective.start_noise,
                progress=progress,
            )
            batch = Batch(
                clean=clean,
                adversarial=adversarial,
                labels=truth,
                predict_clean=through_clean,
                predict_adversarial=through,
                generator=generator,
            )
            batches.append((len(group), batch))
        natural = losses.cross_entropy(through_clean(dealt[0][0]), dealt[0][1])
        means = [natural.mean()]
        for paths_in_batch, batch in batches:
            terms = objective.losses(batch)
            means += [part.mean() for part in terms["loss"].chunk(paths_in_batch)]
        by_path = torch.stack(means)
        loss = by_path.mean() if self.method.reduction == "mean" else by_path.sum()
        return {"loss": loss} | {f"loss_{k}": value for k, value in enumerate(by_path)}

    def _dealt(self, images: Images, labels: Labels) -> list[tuple[Tensor, Tensor]]:
        """What each path is given: the whole batch, or a part of its own."""
        paths = self.network.branches
        if not self.method.split_batch:
            return [(images, labels)] * paths
        size = len(images) // (paths - 1)
        if size == 0:
            raise ValueError(
                f"split_batch deals each batch out among {paths - 1} attacked branches, so it "
                f"needs that many images or more, got {len(images)}; raise batch_size."
            )
        parts = zip(images.split(size), labels.split(size), strict=True)
        return [(images, labels), *list(parts)[: paths - 1]]

    def outcome(self) -> nn.Module:
        """The branched network."""
        return self.network

    def predictor(self, epsilon: float) -> Predict:
        """The branch that was trained for this strength; an oracle, never shown as robustness."""
        return partial(self.network, branch=self.method.strengths.index(epsilon))


class GateTask(nn.Module):
    """Stage II: everything is frozen but the weight generator.

    Args:
        network: The two outermost branches and a fresh generator.
        method: Strengths, attack and how the gate trains.

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
        """One step: classification loss, plus detection where it is switched on."""
        gate, top = self.method.gate, self.method.strengths[-1]
        strengths = torch.tensor(
            self.method.strengths[1 if gate.pairs else 0 :], device=images.device
        )
        epsilon = strengths[randint(len(strengths), len(images), generator).to(images.device)]
        adversarial = attacked(
            self.network,
            self._goal(labels, progress),
            images,
            epsilon,
            self.method.attack,
            self.method.norm,
            generator,
        )
        if gate.pairs:
            images = torch.cat([images, adversarial])
            labels = labels.repeat(2)
            epsilon = torch.cat([torch.zeros_like(epsilon), epsilon])
        else:
            images = adversarial
        logits, opening = self.network.logits_and_gate(images)
        weight = self.network.ceiling * torch.sigmoid(opening)
        loss = classification = losses.cross_entropy(logits, labels).mean()
        if gate.detection:
            detection = losses.gate_cross_entropy(opening, 1 - epsilon / top).mean()
            loss = loss + gate.detection * detection
        clean, attacked_most = epsilon == 0, epsilon == top
        return {
            "loss": loss,
            "loss_classification": classification,
            "weight_clean": _mean(weight, clean),
            "weight_attacked": _mean(weight, attacked_most),
        }

    def outcome(self) -> nn.Module:
        """The adaptive network."""
        return self.network

    def predictor(self, epsilon: float) -> Predict:
        """The adaptive network, which estimates the strength itself."""
        return self.network

    def _goal(self, labels: Labels, progress: float) -> Goal:
        if progress < self.method.gate.lead:
            return goals.cross_entropy(partial(self.network, weight=0.0), labels)
        return goals.cross_entropy(self.network, labels)


def _mean(values: Tensor, rows: Tensor) -> Tensor:
    return (values.detach() * rows).sum() / rows.sum().clamp_min(1)
