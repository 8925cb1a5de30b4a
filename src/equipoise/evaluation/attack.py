"""One attack of an evaluation: a search, what it climbs, and what of it goes into the record."""

import contextlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass
from functools import partial
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool
from torch import Tensor

from equipoise.attacks import Search, losses
from equipoise.attacks.goals import Joint, SuccessTracker
from equipoise.attacks.threat import Threat
from equipoise.types import Images, Labels, Logits, PerImage, Predict

Kind = Literal["white box", "black box", "transfer", "gate"]
Loss = Literal["cross_entropy", "margin", "dlr", "cw", "targeted_dlr", "targeted_margin"]
Autocast = Callable[[], contextlib.AbstractContextManager[Any]]


@dataclass(frozen=True, kw_only=True)
class AttackResult:
    """What one attack did to a batch.

    Args:
        broken: ``(batch,)``, whether a misclassified point was found.
        images: ``(batch, channel, height, width)``, that point; other rows have no meaning.
        forward_passes: Images sent through a network.
        backward_passes: Images whose gradient was taken.
    """

    broken: Bool[Tensor, " batch"]
    images: Images
    forward_passes: int
    backward_passes: int


@runtime_checkable
class Attack(Protocol):
    """What the engine runs: ``SearchAttack``, or AutoAttack's parts."""

    @property
    def name(self) -> str:
        """Unique within its suite."""
        ...

    @property
    def kind(self) -> Kind:
        """What the attacker sees."""
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
        """Attack a batch of images that are classified rightly."""
        ...

    def describe(self) -> dict[str, Any]:
        """Its settings, for the record; two attacks that describe alike do the same."""
        ...


@dataclass(frozen=True, kw_only=True)
class SearchAttack:
    """A search and what it climbs, named for the record.

    Args:
        name: Unique within its suite.
        search: How to look.
        loss: Per-image loss to climb.
        kind: What the attacker sees.
        targets: Classes to aim at, one search each, the likeliest wrong ones first; for targeted
            losses.
        joint: Gives, from one forward pass, the logits that are judged, the logits that the loss
            is taken of, and a number per image that is added to the loss.
        source: Climb the loss of this function's logits instead of the model's own, and carry the
            images found over to the model (a transfer attack).
        kappa: Of the loss ``"cw"``.
        surrogate: Hash of the weights of a source that is another model.
    """

    name: str
    search: Search
    loss: Loss
    kind: Kind = "white box"
    targets: int = 0
    joint: Joint | None = None
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
        """Attack a batch.

        Args:
            model: The function under evaluation.
            images: Clean images in [0, 1].
            labels: Class indices.
            threat: Where to search.
            generator: The only source of randomness.
            autocast: Precision of the search; what it finds is judged in float32.

        Returns:
            What was broken and by which images. Every point that a white-box search visits counts;
            of a transfer attack, the point that it returns.
        """
        predict = self.source or model
        lower = autocast is not contextlib.nullcontext
        watched = SuccessTracker(
            _under(autocast, predict),
            labels,
            self._loss(),
            None if self.joint is None else _under(autocast, self.joint),
            judge=model if lower else None,
        )
        if self.source is None:
            self._search(watched, model, images, threat, generator)
            return _found(watched, images, 0)
        # A surrogate's own mistakes do not count, so its search is not cut short by them either.
        loss = self._loss()
        climbed = 0

        def goal(points: Images) -> PerImage:
            nonlocal climbed
            climbed += len(points)
            return loss(_under(autocast, predict)(points), labels)

        carried = self.search(goal, images, threat, generator)
        with torch.no_grad():
            watched.note(carried, model(carried))
        found = _found(watched, images, len(images))
        return AttackResult(
            broken=found.broken,
            images=found.images,
            forward_passes=found.forward_passes + climbed,
            backward_passes=found.backward_passes + climbed,
        )

    def describe(self) -> dict[str, Any]:
        """Its settings, for the record."""
        found: dict[str, Any] = {
            "name": self.name,
            "kind": self.kind,
            "loss": self.loss,
            "search": type(self.search).__name__,
            **(asdict(self.search) if is_dataclass(self.search) else {}),
        }
        if self.targets:
            found["targets"] = self.targets
        if self.kappa is not None:
            found["kappa"] = self.kappa
        if self.surrogate is not None:
            found["surrogate"] = self.surrogate
        return found

    def _loss(self) -> Callable[..., PerImage]:
        if self.loss == "cw":
            return partial(losses.carlini_wagner, kappa=self.kappa or 0.0)
        found: Callable[..., PerImage] = getattr(losses, self.loss)
        return found

    def _search(
        self,
        watched: SuccessTracker,
        model: Predict,
        images: Images,
        threat: Threat,
        generator: torch.Generator,
    ) -> None:
        if not self.targets:
            _judge(watched, self.search(watched, images, threat, generator), model)
            return
        with torch.no_grad():
            order = _wrong_classes(model(images), watched.labels)
        for number in range(min(self.targets, order.shape[1])):
            if bool(watched.broken.all()):
                break
            goal = watched.towards(order[:, number])
            _judge(watched, self.search(goal, images, threat, generator), model)


@torch.no_grad()
def _judge(watched: SuccessTracker, images: Images, model: Predict) -> None:
    """The point that a search ends at counts too, which a search of FGSM's kind never asks for."""
    rows = (~watched.broken).nonzero().squeeze(1)
    if len(rows):
        watched.narrowed(rows).note(images[rows], model(images[rows]))
        watched.forward_passes += len(rows)


def _wrong_classes(logits: Logits, labels: Labels) -> Tensor:
    """Every wrong class of each image, the likeliest first."""
    wrong = logits.float().scatter(1, labels[:, None].long(), float("-inf"))
    return wrong.argsort(dim=1, descending=True)[:, :-1]


def _under(autocast: Autocast, function: Callable[[Images], Any]) -> Callable[[Images], Any]:
    if autocast is contextlib.nullcontext:
        return function

    def call(images: Images) -> Any:
        with autocast():
            return function(images)

    return call


def _found(watched: SuccessTracker, images: Images, more_forward: int) -> AttackResult:
    return AttackResult(
        broken=watched.broken,
        images=watched.found(images),
        forward_passes=watched.forward_passes + more_forward,
        backward_passes=watched.backward_passes,
    )
