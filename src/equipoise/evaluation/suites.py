"""Which attacks are tried, and in which order."""

from dataclasses import asdict, dataclass, is_dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from equipoise import goals, losses
from equipoise.attacks import PGD, Search
from equipoise.goals import Joint, Predict, Watched
from equipoise.losses import Labels
from equipoise.models import AdaptiveNetwork
from equipoise.threat import Images, Threat

SuiteName = Literal["pgd", "gate"]
GATE_RATIOS = (10.0, 5.0, 2.0, 1.0, 1 / 2, 1 / 5, 1 / 10)
"""Cross-entropy to binary cross-entropy, AFA Sec. 5.2 "Adaptive attack"."""


@dataclass(frozen=True, kw_only=True)
class Attack:
    """A search and what it climbs, named for the record.

    Args:
        name: Unique within its suite.
        search: How to look.
        loss: Per-image loss to climb.
        joint: Gives logits and a number per image that is added to the loss, in one pass.
        source: Climb the loss of this function's logits instead of the model's own, and carry the
            images found over to the model (a transfer attack).
    """

    name: str
    search: Search
    loss: Literal["cross_entropy", "margin"]
    joint: Joint | None = None
    source: Predict | None = None

    def run(
        self,
        model: Predict,
        images: Images,
        labels: Labels,
        threat: Threat,
        generator: torch.Generator,
    ) -> Watched:
        """Attack a batch.

        Args:
            model: The function under evaluation.
            images: Clean images in [0, 1].
            labels: Class indices.
            threat: Where to search.
            generator: The only source of randomness.

        Returns:
            What was broken and by which images. Every point that a white-box search visits counts;
            of a transfer attack, the point that it returns.
        """
        loss = losses.cross_entropy if self.loss == "cross_entropy" else losses.margin
        watched = Watched(model, labels, loss, self.joint)
        if self.source is None:
            self.search(watched, images, threat, generator)
            return watched
        transfer = goals.cross_entropy if self.loss == "cross_entropy" else goals.margin
        found = self.search(transfer(self.source, labels), images, threat, generator)
        with torch.no_grad():
            watched.note(found, model(found))
        return watched

    def describe(self) -> dict[str, Any]:
        """Its settings, for the record."""
        return {
            "name": self.name,
            "loss": self.loss,
            "search": type(self.search).__name__,
            **(asdict(self.search) if is_dataclass(self.search) else {}),
            "transfer": self.source is not None,
        }


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Attacks that are reported together.

    Args:
        name: The column's name.
        attacks: Tried in this order, each on what the earlier ones left.
    """

    name: str
    attacks: tuple[Attack, ...]


def suites_for(
    model: nn.Module, names: tuple[SuiteName, ...], *, steps: int = 20, restarts: int = 2
) -> list[Suite]:
    """Build the named suites for a model.

    Args:
        model: The model under evaluation.
        names: Suites in order. ``"pgd"``: PGD on cross-entropy and on the margin. ``"gate"``: for
            a model with a weight generator, attacks that the generator is part of; it is left out
            for other models.
        steps: Steps of each search, of epsilon / 4 each.
        restarts: Random restarts of each search.

    Returns:
        The suites that apply.

    Source:
        AFA Sec. 5.2: PGD, C&W in its L-inf form, and "Adaptive attack" at seven ratios. Deviation:
        every image keeps its worst case over the ratios, not the set its best single ratio, and
        the generator is pushed both ways.
    """
    suites = []
    for name in names:
        if name == "pgd":
            suites.append(Suite(name=name, attacks=_pgd(steps, restarts)))
        elif isinstance(model, AdaptiveNetwork):
            suites.append(Suite(name=name, attacks=_gate(model, steps)))
    return suites


def _search(steps: int, restarts: int = 1, keep: Literal["last", "best"] = "best") -> PGD:
    return PGD(steps=steps, relative_step=0.25, restarts=restarts, keep=keep)


def _pgd(steps: int, restarts: int) -> tuple[Attack, ...]:
    search = _search(steps, restarts)
    return (
        Attack(name="pgd-cross-entropy", search=search, loss="cross_entropy"),
        Attack(name="pgd-margin", search=search, loss="margin"),
    )


def _gate(model: AdaptiveNetwork, steps: int) -> tuple[Attack, ...]:
    search = _search(steps)
    attacks = []
    for fixed in (1.0, 0.0, 0.5):
        attacks.append(
            Attack(
                name=f"fixed-weight-{fixed:g}",
                search=search,
                loss="margin",
                source=partial(model, weight=fixed),
            )
        )
    for target, side in ((0.0, "clean"), (1.0, "robust")):
        for ratio in GATE_RATIOS:
            attacks.append(
                Attack(
                    name=f"gate-to-{side}-{ratio:g}",
                    search=search,
                    loss="cross_entropy",
                    joint=_pushed(model, target, 1 / ratio),
                )
            )
    return tuple(attacks)


def _pushed(model: AdaptiveNetwork, target: float, share: float) -> Joint:
    def joint(images: Images) -> tuple[Tensor, Tensor]:
        logits, gate = model.logits_and_gate(images)
        return logits, share * losses.gate_cross_entropy(gate, target)

    return joint
