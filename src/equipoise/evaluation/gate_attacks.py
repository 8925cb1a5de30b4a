"""AFA's adaptive attack: PGD on the cross-entropy and on the fusing weight, at seven ratios."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from equipoise.attacks import Search, losses
from equipoise.evaluation.attack import Attack, SearchAttack
from equipoise.types import Images

GATE_RATIOS = (10.0, 5.0, 2.0, 1.0, 1 / 2, 1 / 5, 1 / 10)
"""Ratios of cross-entropy to binary cross-entropy, AFA Sec. 5.2 "Adaptive attack"."""

LogitsAndGate = Callable[[Images], tuple[Tensor, Tensor]]
"""Images to logits and to W0 before its sigmoid."""


def gate_attacks(forward: LogitsAndGate, search: Search, prefix: str = "") -> Iterator[Attack]:
    """Yield PGD attacks that push the fusing weight to either side, at every ratio of the losses.

    Args:
        forward: Images to logits and to W0 before its sigmoid.
        search: The search.
        prefix: Beginning of the attacks' names.

    Source:
        AFA Sec. 5.2, "Adaptive attack": cross-entropy plus binary cross-entropy of W0. Inference:
        the paper does not print the target, so both are tried, 0 ("to clean") and 1 ("to robust").
        The ratio a : b of the paper is 1 : b / a here, which PGD's signed steps do not tell apart.

    Example:
        >>> from equipoise.attacks import fgsm
        >>> attacks = gate_attacks(lambda images: (images, images), fgsm())
        >>> names = [attack.name for attack in attacks]
        >>> len(names), names[0], names[-1]
        (14, 'gate-to-clean-10', 'gate-to-robust-0.1')
    """
    for target, side in ((0.0, "clean"), (1.0, "robust")):
        for ratio in GATE_RATIOS:
            yield SearchAttack(
                name=f"{prefix}gate-to-{side}-{ratio:g}",
                search=search,
                loss="cross_entropy",
                kind="gate",
                joint=GateTerm(forward, target, 1 / ratio),
            )


@dataclass(frozen=True)
class GateTerm:
    """A joint forward pass that adds the gate's binary cross-entropy, times a weight."""

    forward: LogitsAndGate
    target: float
    weight: float

    def __call__(self, images: Images) -> tuple[Tensor, Tensor, Tensor]:
        """Return the logits, the same for the loss, and the term that is added to it."""
        logits, gate = self.forward(images)
        return logits, logits, self.weight * losses.gate_cross_entropy(gate, self.target)
