"""The longer attack on images that a search has brought near the boundary."""

import contextlib
from dataclasses import asdict, dataclass, is_dataclass, replace
from typing import Any

import torch

from equipoise.attacks import Search, losses
from equipoise.attacks.finishable_goals import PassCount
from equipoise.attacks.threat import Threat, select_rows
from equipoise.evaluation.asked_model import draws_of, folded_logits
from equipoise.evaluation.attack import (
    AttackResult,
    Autocast,
    Kind,
    SearchAttack,
    record_last_point,
    tracker_of,
    wrong_classes,
)
from equipoise.types import Images, Labels, Predict


@dataclass(frozen=True, kw_only=True)
class NearMisses:
    """A search on all images, then a longer attack on those that it brought near the boundary.

    An image is near if its margin has shrunk to a share of that of the clean image. An attack with
    many steps finds little elsewhere, and this spares its cost there.

    Args:
        name: Name, unique within its suite.
        probe: The search on all images; it maximises the margin.
        attack: The attack on those that are near; it needs targets.
        nearest: Share of its clean margin that an image's margin has to fall below, in [0, 1].
        kind: What the attacker knows.

    Example:
        >>> import torch
        >>> from equipoise.attacks import APGD, PGD
        >>> from equipoise.attacks.threat import Linf
        >>> from equipoise.evaluation import SearchAttack
        >>> from equipoise.evaluation.near_misses import NearMisses
        >>> longer = SearchAttack(
        ...     name="longer", search=APGD(steps=100), loss="targeted_margin", targets=1
        ... )
        >>> probe = PGD(steps=2, relative_step=0.25, random_start=False)
        >>> attack = NearMisses(name="near", probe=probe, attack=longer, nearest=0.5)
        >>> model = lambda x: torch.cat([0.5 - x, x - 0.5, 0 * x - 1], dim=1)[:, :, 0, 0]
        >>> images, labels = torch.tensor([0.43, 0.1]).reshape(2, 1, 1, 1), torch.tensor([0, 0])
        >>> result = attack.run(model, images, labels, Linf(0.1), torch.Generator().manual_seed(0))
        >>> result.broken, result.backward_passes < 50
        (tensor([ True, False]), True)
    """

    name: str
    probe: Search
    attack: SearchAttack
    nearest: float
    kind: Kind = "white box"

    def run(
        self,
        model: Predict,
        images: Images,
        labels: Labels,
        threat: Threat,
        generator: torch.Generator,
        autocast: Autocast = contextlib.nullcontext,
    ) -> AttackResult:
        """Attack a batch, as ``Attack`` says."""
        tracker = tracker_of(model, labels, losses.margin, autocast)
        points = self.probe(tracker, images, threat, generator)
        record_last_point(tracker, points, model)
        with torch.no_grad():
            clean, reached = (
                losses.margin(folded_logits(model, x, labels), labels) for x in (images, points)
            )
        tracker.passes.forward += 2 * len(images)
        result = AttackResult.of(tracker, points, calls=max(1, draws_of(model)))
        near = (~tracker.broken & (reached > self.nearest * clean)).nonzero().squeeze(1)
        if not len(near):
            return result
        found = run_all_targets(
            self.attack,
            model,
            images[near],
            labels[near],
            select_rows(threat, near),
            generator,
            autocast,
            batch_size=len(images),
        )
        result.broken[near] |= found.broken
        return replace(
            result,
            images=result.images.index_copy(0, near, found.images.to(result.images.dtype)),
            forward_passes=result.forward_passes + found.forward_passes,
            backward_passes=result.backward_passes + found.backward_passes,
        )

    def describe(self) -> dict[str, Any]:
        """Return the settings for the record and the cache key."""
        probe = {
            "search": type(self.probe).__name__,
            **(asdict(self.probe) if is_dataclass(self.probe) else {}),
        }
        return {
            **self.attack.describe(),
            "name": self.name,
            "kind": self.kind,
            "probe": probe,
            "nearest": self.nearest,
        }


def run_all_targets(
    attack: SearchAttack,
    model: Predict,
    images: Images,
    labels: Labels,
    threat: Threat,
    generator: torch.Generator,
    autocast: Autocast = contextlib.nullcontext,
    *,
    batch_size: int,
) -> AttackResult:
    """Run a targeted attack on every pair of image and target, many pairs at once.

    For few images this is several times faster than one target after the other.

    Args:
        attack: The attack, with targets and without ``joint`` or ``source``.
        model: The function under evaluation.
        images: Clean images in [0, 1].
        labels: Class indices.
        threat: Where to search.
        generator: The only source of randomness.
        autocast: Precision of the search.
        batch_size: Pairs attacked at once. An image that is broken is left out of later batches.
    """
    with torch.no_grad():
        wrong = wrong_classes(folded_logits(model, images, labels), labels)[:, : attack.targets]
    count, targets = len(images), wrong.T.flatten()
    rows = torch.arange(count, device=images.device).repeat(wrong.shape[1])
    broken, points = torch.zeros_like(rows, dtype=torch.bool), images[rows]
    passes = PassCount()
    for pairs in torch.arange(len(rows), device=images.device).split(batch_size):
        done = broken.reshape(-1, count).any(dim=0)
        chosen = pairs[~done[rows[pairs]]]
        if not len(chosen):
            continue
        few = rows[chosen]
        tracker = tracker_of(model, labels[few], attack.loss_function(), autocast)
        goal = tracker.with_targets(targets[chosen])
        ends = attack.search(goal, images[few], select_rows(threat, few), generator)
        record_last_point(tracker, ends, model)
        broken[chosen], points[chosen] = tracker.broken, tracker.replace_finished(ends)
        passes.forward += tracker.passes.forward
        passes.backward += tracker.passes.backward
    first = broken.reshape(-1, count).int().argmax(dim=0)
    calls = max(1, draws_of(model))
    return AttackResult(
        broken=broken.reshape(-1, count).any(dim=0),
        images=points[first * count + torch.arange(count, device=images.device)],
        forward_passes=calls * passes.forward,
        backward_passes=calls * passes.backward,
    )
