"""AFA's stage I: K branches, each trained on images attacked at its own strength."""

from dataclasses import replace
from functools import partial
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from equipoise.attacks import losses
from equipoise.attacks.threat import THREATS, Norm
from equipoise.distributed.shared_generator import processes
from equipoise.methods.training_attack import TrainingAttack
from equipoise.models import BranchedNetwork
from equipoise.models.recalled import Recalled
from equipoise.objectives import AnyObjective, Batch, Objective, single_network_objective
from equipoise.objectives.base import objective_at
from equipoise.runtime.errors import InvalidInput
from equipoise.types import Images, Labels, Predict

CleanTerm = Literal["branch_0", "own_branch"]
"""Branch of the clean images in the loss of an attacked path."""


@runtime_checkable
class BranchSettings(Protocol):
    """What stage I reads of AFA's settings; see ``AFA``."""

    @property
    def objective(self) -> AnyObjective:
        """Loss of the attacked branches."""
        ...

    @property
    def strengths(self) -> tuple[float, ...]:
        """Strength of each branch in pixel units."""
        ...

    @property
    def attack(self) -> TrainingAttack:
        """Settings of the attack."""
        ...

    @property
    def norm(self) -> Norm:
        """Norm of the threat."""
        ...

    @property
    def split_batch(self) -> bool:
        """Whether the batch is divided among the attacked branches."""
        ...

    @property
    def reduction(self) -> Literal["mean", "sum"]:
        """How the losses of the paths become one."""
        ...

    @property
    def clean_term(self) -> CleanTerm:
        """Branch of the clean images in the loss of an attacked path."""
        ...

    @property
    def adds_cross_entropy(self) -> bool:
        """Whether each attacked path has a cross-entropy beside its adversarial loss."""
        ...


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
        AFA Algorithm 1. Branches count from 0, the paper's paths from 1. Eq. (3) adds a
        cross-entropy to every path; by default we follow Algorithm 1, which does not. Deviation:
        by default an objective's clean term goes through branch 0, so that branch k sees only
        images of strength k. Clean images are predicted once a step through each branch that they
        go through. The attack on path k uses path k alone, as Algorithm 1 does after its switch:
        under TRADES it maximises the divergence from path k's own prediction of the clean images.
    """

    def __init__(self, network: BranchedNetwork, method: BranchSettings) -> None:
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
        method = self.method
        objective = objective_at(single_network_objective(method.objective, "AFA"), progress)
        paths = tuple(range(1, self.network.branches))
        groups = [paths] if objective.per_image_loss else [(path,) for path in paths]
        if method.split_batch and processes(generator) > 1:
            raise InvalidInput(
                "split_batch divides the batch of one process, but several share this one. Leave "
                "it off, or train on one device."
            )
        parts = self._divide(images)
        # All attacks come first: no branch's statistics depend on the order of the paths.
        batches = [
            self._attack(
                objective,
                group,
                # Contiguous, because noise is drawn in memory order.
                torch.cat([images[parts[path]] for path in group]).contiguous(),
                torch.cat([labels[parts[path]] for path in group]),
                generator,
                progress,
            )
            for group in groups
        ]
        clean_logits = self.network(images, branch=0)
        path_losses = [losses.cross_entropy(clean_logits, labels).mean()]
        for group, batch in zip(groups, batches, strict=True):
            if method.clean_term == "branch_0":
                known = torch.cat([clean_logits[parts[path]] for path in group])
                recalled = Recalled(partial(self.network, branch=0), batch.clean, known)
            else:
                recalled = Recalled(batch.predict_adversarial, batch.clean)
            loss = self._loss(objective, replace(batch, predict_clean=recalled))
            path_losses += [path_loss.mean() for path_loss in loss.chunk(len(group))]
        stacked = torch.stack(path_losses)
        total = stacked.mean() if method.reduction == "mean" else stacked.sum()
        return {"loss": total} | {f"loss_{k}": value for k, value in enumerate(stacked)}

    def _loss(self, objective: Objective, batch: Batch) -> Tensor:
        """Compute the loss of each attacked image, with Eq. (3)'s cross-entropy if it is asked."""
        if not self.method.adds_cross_entropy:
            return objective.losses(batch)["loss"]
        predict = Recalled(batch.predict_adversarial, batch.adversarial)
        loss = objective.losses(replace(batch, predict_adversarial=predict))["loss"]
        return loss + losses.cross_entropy(predict(batch.adversarial), batch.labels)

    def _attack(
        self,
        objective: Objective,
        group: tuple[int, ...],
        clean: Images,
        labels: Labels,
        generator: torch.Generator,
        progress: float,
    ) -> Batch:
        """Attack the images of a group of paths, each at its strength and through its branch."""
        predict: Predict = partial(self.network, branch=group)
        strengths = [self.method.strengths[path] for path in group]
        epsilon = torch.tensor(strengths, device=clean.device, dtype=clean.dtype)
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

    def _divide(self, images: Images) -> list[slice]:
        """List the rows of each path: the whole batch, or a part of it."""
        paths = self.network.branches
        if not self.method.split_batch:
            return [slice(None)] * paths
        size = len(images) // (paths - 1)
        if size == 0:
            raise InvalidInput(
                f"split_batch divides each batch among {paths - 1} attacked branches, so it "
                f"needs at least that many images, got {len(images)}. Raise batch_size."
            )
        parts = [slice(size * path, size * (path + 1)) for path in range(paths - 1)]
        return [slice(None), *parts]

    def outcome(self) -> nn.Module:
        """Return the branched network."""
        return self.network

    def predictor(self, epsilon: float) -> Predict:
        """Return the branch trained for this strength.

        Choosing it takes an oracle that knows the strength, so its accuracy is not robustness.
        """
        return partial(self.network, branch=self.method.strengths.index(epsilon))
