"""Examine a trained stage on validation images: what it learned that no error message tells."""

import torch

from equipoise.attacks import PGD, goals
from equipoise.attacks.threat import THREATS, Norm
from equipoise.data import Split
from equipoise.evaluation import robust_accuracy
from equipoise.models import AdaptiveNetwork, BranchedNetwork, FeatureExtractor, FeatureStack
from equipoise.models.attack_mode.context import attack_mode
from equipoise.types import Predict

MOST_IMAGES = 500
CONSTANT = 0.01
"""A weight generator is constant if attacked images move it by less than this share of its range,
branches are alike if their probabilities differ by less on average."""
WORSE = 0.02
"""A stack is worse than a member by this much of (clean + strongest)/2."""
_SEARCH = PGD(steps=10, relative_step=0.25, keep="best")


def constant_gate(
    network: AdaptiveNetwork, split: Split, epsilon: float, norm: Norm = "Linf"
) -> list[str]:
    """Warn if the weight generator does not tell attacked images from clean ones.

    Args:
        network: The network, in eval mode.
        split: Images on its device.
        epsilon: Strength of the attack, which goes through the generator.
        norm: Norm of the attack.

    Returns:
        A warning, or nothing.
    """
    images, labels = split.first(MOST_IMAGES).batch(slice(None))
    with attack_mode(network):
        goal, generator = goals.cross_entropy(network, labels), torch.Generator().manual_seed(0)
        attacked = _SEARCH(goal, images, THREATS[norm](epsilon), generator)
    with torch.no_grad():
        clean, strongest = (
            1 - float(network.logits_and_weight(given)[1].mean()) for given in (images, attacked)
        )
    if abs(strongest - clean) >= CONSTANT * network.ceiling:
        return []
    return [
        f"the weight generator is constant: W1 is {clean:.4f} on clean validation images and "
        f"{strongest:.4f} on those attacked at the highest strength. The network mixes its two "
        "branches in fixed shares; train the generator longer, with AdamW, or with pairs and "
        "detection (Gate)."
    ]


def alike_branches(network: BranchedNetwork, split: Split) -> list[str]:
    """Warn if the first and the last branch predict the same.

    Args:
        network: The network, in eval mode.
        split: Images on its device.

    Returns:
        A warning, or nothing.
    """
    images, _ = split.first(MOST_IMAGES).batch(slice(None))
    with torch.no_grad():
        first, last = (
            network(images, branch=branch).softmax(dim=1) for branch in (0, network.branches - 1)
        )
    difference = float((first - last).abs().amax(dim=1).mean())
    if difference >= CONSTANT:
        return []
    return [
        f"the branches are alike: on clean validation images the probabilities of the first and "
        f"the last differ by {difference:.4f} on average. Nothing is gained by fusing them; train "
        "longer, or at a higher strength."
    ]


def weak_stack(stack: FeatureStack, split: Split, epsilon: float, norm: Norm = "Linf") -> list[str]:
    """Warn if a member of a stack is better than the stack.

    Args:
        stack: The stack, in eval mode.
        split: Images on its device.
        epsilon: Strength of the attack, of which each network gets its own.
        norm: Norm of the attack.

    Returns:
        A warning, or nothing.
    """
    split = split.first(MOST_IMAGES)

    def score(network: Predict) -> float:
        return sum(
            robust_accuracy(
                network,
                split,
                threat=THREATS[norm](strength),
                search=_SEARCH,
                generator=torch.Generator().manual_seed(0),
            )
            / 2
            for strength in (0.0, epsilon)
        )

    with attack_mode(stack):
        own = score(stack)
        members = [
            score(member.network)
            for member in stack.members
            if isinstance(member, FeatureExtractor)
        ]
    best = max(members)
    if own > best - WORSE:
        return []
    return [
        f"the stack is worse than its member {members.index(best)}: (clean + strongest)/2 on "
        f"validation images is {100 * own:.1f} % for the stack and {100 * best:.1f} % for the "
        "member. Use that network alone, or train the merger longer or at another alpha."
    ]
