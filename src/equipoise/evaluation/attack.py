"""One attack of an evaluation: a search, the loss it maximises, and its settings for the record."""

import contextlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass
from functools import partial
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from equipoise.attacks import Search, losses
from equipoise.attacks.finishable_goals import SuccessTracker
from equipoise.attacks.goals import JointForward
from equipoise.attacks.threat import Threat
from equipoise.evaluation.asked_model import draws_of, fold_of, folded_logits, misclassifies
from equipoise.types import Images, Labels, Logits, PerImage, Predict

Kind = Literal["white box", "black box", "transfer", "gate", "external"]
"""What the attacker knows: the model, its logits alone, another model, or (AFA) the gate too;
``"external"`` for images from a file."""

Loss = Literal["cross_entropy", "margin", "dlr", "cw", "targeted_dlr", "targeted_margin"]
"""Names of functions in ``equipoise.attacks.losses``; ``"cw"`` is ``carlini_wagner``."""

WITNESSES = 8
"""Number of unbroken images of a batch whose last point is stored, with the logits there."""

Autocast = Callable[[], contextlib.AbstractContextManager[Any]]


@dataclass(frozen=True, kw_only=True)
class AttackResult:
    """The result of one attack on a batch.

    Args:
        broken: Whether a misclassified point was found, ``(batch,)``.
        images: That point, ``(batch, channel, height, width)``; for an unbroken image the point
            where the search ended, or the clean image if the attack does not tell.
        forward_passes: Number of images sent through a network.
        backward_passes: Number of images whose gradient was computed.
        logits: Logits at the points of the first ``WITNESSES`` unbroken images, by which a cached
            result is recognised as the model's own; ``EvaluationContext.run`` adds them.
    """

    broken: Bool[Tensor, " batch"]
    images: Images
    forward_passes: int
    backward_passes: int
    logits: Float[Tensor, "witnesses classes"] | None = None

    @classmethod
    def of(cls, tracker: SuccessTracker, images: Images, calls: int = 1) -> "AttackResult":
        """Read the result from a tracker; ``images`` are the points where the search ended.

        ``calls`` is the number of passes through the network that one pass of the tracker is.
        """
        return cls(
            broken=tracker.broken,
            images=tracker.replace_finished(images),
            forward_passes=calls * tracker.passes.forward,
            backward_passes=calls * tracker.passes.backward,
        )


@runtime_checkable
class Attack(Protocol):
    """What an evaluation runs: a ``SearchAttack``, or a part of AutoAttack."""

    @property
    def name(self) -> str:
        """Name, unique within its suite."""
        ...

    @property
    def kind(self) -> Kind:
        """What the attacker knows."""
        ...

    def run(
        self,
        model: Predict,
        images: Images,
        labels: Labels,
        threat: Threat,
        generator: torch.Generator,
        autocast: Autocast = contextlib.nullcontext,
    ) -> AttackResult:
        """Attack a batch of images that the model classifies correctly.

        Args:
            model: The function under evaluation.
            images: Clean images in [0, 1].
            labels: Class indices.
            threat: Where to search.
            generator: The only source of randomness.
            autocast: Precision of the search; what it finds is confirmed in float32.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Return the settings for the record and the cache key, ``"name"`` and ``"kind"`` included.

        Two attacks with equal settings must have equal results.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class SearchAttack:
    """A search and the loss that it maximises, with a name for the record.

    Args:
        name: Name, unique within its suite.
        search: The search.
        loss: Per-image loss to maximise.
        kind: What the attacker knows.
        targets: For targeted losses: number of wrong classes to aim at, one search each, in the
            order of their logits.
        joint: Called instead of the model; see ``JointForward``.
        source: Attack this function instead of the model, and evaluate the images that it finds on
            the model (a transfer attack).
        kappa: Confidence of the loss ``"cw"``.
        surrogate: Hash of the weights, if ``source`` is another model.

    Example:
        >>> import torch
        >>> from equipoise.attacks import PGD
        >>> from equipoise.attacks.threat import Linf
        >>> from equipoise.evaluation import SearchAttack
        >>> search = PGD(steps=10, relative_step=0.25)
        >>> attack = SearchAttack(name="pgd-10", search=search, loss="margin")
        >>> model = lambda images: torch.cat([0.5 - images, images - 0.5], dim=1)[:, :, 0, 0]
        >>> images, labels = torch.tensor([0.45, 0.1]).reshape(2, 1, 1, 1), torch.tensor([0, 0])
        >>> result = attack.run(model, images, labels, Linf(0.1), torch.Generator().manual_seed(0))
        >>> result.broken
        tensor([ True, False])
    """

    name: str
    search: Search
    loss: Loss
    kind: Kind = "white box"
    targets: int = 0
    joint: JointForward | None = None
    source: Predict | None = None
    kappa: float | None = None
    surrogate: str | None = None

    def run(
        self,
        model: Predict,
        images: Images,
        labels: Labels,
        threat: Threat,
        generator: torch.Generator,
        autocast: Autocast = contextlib.nullcontext,
    ) -> AttackResult:
        """Attack a batch, as ``Attack`` says.

        Of a white-box search every visited point counts, of a transfer attack only the last one.
        """
        tracker = tracker_of(model, labels, self.loss_function(), autocast, self.joint)
        if self.source is None:
            ends = self._search(tracker, model, images, threat, generator)
        else:
            predict = _under(autocast, self.source)
            ends = self._transfer(predict, tracker, model, images, threat, generator)
        return AttackResult.of(tracker, ends, calls=max(1, draws_of(model)))

    def describe(self) -> dict[str, Any]:
        """Return the settings for the record and the cache key."""
        settings: dict[str, Any] = {
            "name": self.name,
            "kind": self.kind,
            "loss": self.loss,
            "search": type(self.search).__name__,
            **(asdict(self.search) if is_dataclass(self.search) else {}),
        }
        if self.targets:
            settings["targets"] = self.targets
        if self.kappa is not None:
            settings["kappa"] = self.kappa
        if self.surrogate is not None:
            settings["surrogate"] = self.surrogate
        return settings

    def loss_function(self) -> Callable[..., PerImage]:
        """Return the function that ``loss`` names."""
        if self.loss == "cw":
            return partial(losses.carlini_wagner, kappa=self.kappa or 0.0)
        loss: Callable[..., PerImage] = getattr(losses, self.loss)
        return loss

    def _search(
        self,
        tracker: SuccessTracker,
        model: Predict,
        images: Images,
        threat: Threat,
        generator: torch.Generator,
    ) -> Images:
        if not self.targets:
            ends = self.search(tracker, images, threat, generator)
            record_last_point(tracker, ends, model)
            return ends
        ends = images
        with torch.no_grad():
            logits = folded_logits(model, images, tracker.labels)
            wrong = wrong_classes(logits, tracker.labels)
        for number in range(min(self.targets, wrong.shape[1])):
            if bool(tracker.broken.all()):
                break
            goal = tracker.with_targets(wrong[:, number])
            ends = self.search(goal, images, threat, generator)
            record_last_point(tracker, ends, model)
        return ends

    def _transfer(
        self,
        source: Predict,
        tracker: SuccessTracker,
        model: Predict,
        images: Images,
        threat: Threat,
        generator: torch.Generator,
    ) -> Images:
        # The goal is not the tracker: a surrogate's own mistakes neither count nor end its search.
        loss = self.loss_function()

        def goal(points: Images) -> PerImage:
            tracker.passes.forward += len(points)
            tracker.passes.backward += len(points)
            return loss(source(points), tracker.labels)

        found = self.search(goal, images, threat, generator)
        record_last_point(tracker, found, model)
        return found


def tracker_of(
    model: Predict,
    labels: Labels,
    loss: Callable[..., PerImage],
    autocast: Autocast = contextlib.nullcontext,
    joint: JointForward | None = None,
) -> SuccessTracker:
    """Make the tracker of an attack on a model, whichever way the model has to be asked.

    Args:
        model: The function under evaluation.
        labels: Class indices.
        loss: Per-image loss to maximise.
        autocast: Precision of the search.
        joint: Called instead of the model; see ``JointForward``.
    """
    exact = autocast is contextlib.nullcontext and not draws_of(model)
    return SuccessTracker(
        _under(autocast, model),
        labels,
        loss,
        None if joint is None else _under(autocast, joint),
        confirm=None if exact else partial(misclassifies, model),
        fold=fold_of(model),
    )


@torch.no_grad()
def record_last_point(tracker: SuccessTracker, images: Images, model: Predict) -> None:
    """Count the point that a search returns, which FGSM, for example, never evaluates.

    Args:
        tracker: Counts it, if the image is not broken yet.
        images: The points.
        model: Decides whether they are misclassified.
    """
    rows = (~tracker.broken).nonzero().squeeze(1)
    if len(rows):
        part, points = tracker.select(rows), images[rows]
        part.record_broken(points, misclassifies(model, points, part.labels))
        tracker.passes.forward += len(rows)


def wrong_classes(logits: Logits, labels: Labels) -> Tensor:
    """Return every wrong class of each image, by descending logit."""
    wrong = logits.float().scatter(1, labels[:, None].long(), float("-inf"))
    return wrong.argsort(dim=1, descending=True)[:, :-1]


def _under(autocast: Autocast, function: Callable[[Images], Any]) -> Callable[[Images], Any]:
    if autocast is contextlib.nullcontext:
        return function

    def call(images: Images) -> Any:
        with autocast():
            return function(images)

    return call
