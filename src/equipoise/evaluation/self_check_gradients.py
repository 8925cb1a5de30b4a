"""Self-checks of the gradient: whether there is one, and whether it predicts changes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from equipoise.attacks import losses
from equipoise.attacks.goals import value_and_gradient
from equipoise.attacks.threat import broadcast_epsilon
from equipoise.evaluation.self_check_context import SelfCheckContext
from equipoise.evaluation.self_check_finding import Finding
from equipoise.evaluation.self_check_measures import scale_free_cross_entropy
from equipoise.types import Images, Labels, PerImage

STEPS = (0.02, 0.1, 0.3)
"""Half lengths of the central difference, as shares of epsilon. The smallest is exact where the
logits curve, the larger ones where rounding blurs them; the best of the three counts."""

DIRECTIONS = 6
"""Random directions, besides the gradient's."""

LEAST_PREDICTED = 0.5
"""Share of the changes along these directions that an honest gradient predicts at least."""


def zero_gradients(context: SelfCheckContext) -> Finding | None:
    """Check whether an attack has a gradient to follow at images that count as right."""
    count = context.looked_at
    if not count:
        return None
    zero = not_finite = 0
    if context.differentiable:
        flat, bad = torch.zeros_like(context.attacked), torch.zeros_like(context.attacked)
        for points in (context.images, context.noisy):
            margin = context.gradient_at(points, losses.margin).flatten(1)
            other = context.gradient_at(points, scale_free_cross_entropy).flatten(1)
            flat |= (margin == 0).all(dim=1) & (other == 0).all(dim=1)
            bad |= ~(margin.isfinite().all(dim=1) | other.isfinite().all(dim=1))
        zero = int((flat & context.attacked).sum())
        not_finite = int((bad & context.attacked).sum())
        found = (
            f"at {count} images that the evaluation counts as right, or at a random point near "
            f"them, the gradient is exactly zero for {zero} and NaN or infinite for {not_finite}."
        )
    else:
        zero = count
        found = "autograd finds no gradient: the logits do not depend on the images."
        if not getattr(context.model, "gives_gradients", True):
            found = "the model gives no gradients, so only black-box attacks were run."
    hits = zero + not_finite
    verdict = context.grade(hits, count, warn=0.01, fail=0.05)
    declared = not getattr(context.model, "gives_gradients", True)
    return Finding.of(
        "gradients",
        "warn" if declared else verdict,
        found,
        {
            "zero": zero / count,
            "not_finite": not_finite / count,
            "could_flatter": context.could_flatter(hits, count),
        },
        good="gradient attacks have a gradient to follow.",
        bad="black-box attacks find less than gradients do; evaluate the network that this file "
        "was made from, or quote the score as one of black-box attacks alone."
        if declared
        else "gradient attacks do not move there, so surviving them means nothing; bypass the "
        "quantisation or saturation in the backward pass (BPDA), or attack another loss.",
    )


def finite_difference(context: SelfCheckContext) -> Finding | None:
    """Check whether autograd's gradient predicts how the logits change."""
    count = context.looked_at
    if not count or not context.differentiable:
        return None
    rows = context.attacked.nonzero().squeeze(1)
    generator = context.generator("finite difference")
    worst = torch.ones(len(rows), device=rows.device, dtype=torch.float64)
    for points in (context.images, context.noisy, context.stepped):
        chunks = [
            predicted_share(context, points[part], part, generator)
            for part in rows.split(context.batch_size)
        ]
        worst = torch.minimum(worst, torch.cat(chunks))
    hits = int((worst < LEAST_PREDICTED).sum())
    return Finding.of(
        "finite difference",
        context.grade(hits, count, warn=0.05, fail=0.15),
        f"at {hits} of {count} images ({hits / count:.1%}) the gradient does not predict how the "
        f"logits change along it and along {DIRECTIONS} random directions.",
        {
            "share": hits / count,
            "median_predicted": float(worst.median()),
            "could_flatter": context.could_flatter(hits, count),
        },
        good="the gradient is that of the function, as an attack needs it.",
        bad="the backward pass is not the forward pass's, or the logits are not smooth, so "
        "gradient attacks are led astray; name a stand-in for the backward pass, attack a smoothed "
        "model, or use a gradient-free attack.",
    )


@dataclass
class _Pair:
    """The label's largest rival minus the label's logit, with the rival fixed, as it is smooth."""

    context: SelfCheckContext
    labels: Labels
    rivals: Labels

    def __call__(self, points: Images) -> PerImage:
        logits: Tensor = self.context.model(points).double()
        pair = torch.stack([self.rivals, self.labels], dim=1)
        rival, own = logits.gather(1, pair).unbind(dim=1)
        return rival - own


def predicted_share(
    context: SelfCheckContext, points: Images, rows: Tensor, generator: torch.Generator
) -> Tensor:
    """Return which share of the logits' change autograd predicts, per image.

    The derivative along the gradient's ascent direction and along random ones is compared with
    central differences. For one direction the share is ``1 - (a - b)^2 / (a^2 + b^2)``: 1 where
    they agree, 0 where one is much larger, and about 0 on average where they are unrelated. It is
    1 where nothing changes and nothing is predicted to.

    Args:
        context: Model, threat and labels.
        points: Where to differentiate.
        rows: Which images of the context they belong to.
        generator: The only source of randomness.

    Returns:
        ``(rows,)``, in [-1, 1]: the best of three step lengths.
    """
    labels = context.labels[rows]
    with torch.no_grad():
        wrong = context.model(points).float().scatter(1, labels[:, None], -torch.inf)
    pair = _Pair(context, labels, wrong.argmax(dim=1))
    _, gradient = value_and_gradient(pair, points)
    threat = context.threat.with_epsilon(context.epsilons[context.levels[rows]])
    radius = broadcast_epsilon(threat.epsilon, points)
    draws = [
        torch.randn(points.shape, generator=generator, device=points.device)
        for _ in range(DIRECTIONS)
    ]
    directions = [threat.ascent(gradient), *map(threat.ascent, draws)]
    best = torch.full((len(rows),), -1.0, device=points.device, dtype=torch.float64)
    for step in STEPS:
        predicted, changed = [], []
        for direction in directions:
            above, below = (
                (points + step * radius * direction),
                (points - step * radius * direction),
            )
            above, below = above.clamp(0, 1), below.clamp(0, 1)
            moved = (above.double() - below.double()) * gradient.double()
            predicted.append(moved.sum(dim=(1, 2, 3)))
            with torch.no_grad():
                changed.append(pair(above) - pair(below))
        best = torch.maximum(best, _agreement(torch.stack(predicted), torch.stack(changed)))
    return best


def _agreement(predicted: Tensor, changed: Tensor) -> Tensor:
    """Compare two matrices ``(directions, images)``; NaN agrees with nothing.

    Each direction counts by the size of its change, not its square: along the gradient the change
    is many times that along a random direction.
    """
    size = predicted.square() + changed.square()
    weight = 1 / size.clamp_min(1e-30).sqrt()
    error = ((predicted - changed).square() * weight).sum(dim=0)
    total = (size * weight).sum(dim=0)
    share = 1 - error / total.clamp_min(1e-30)
    return torch.where(size.sum(dim=0) == 0, 1.0, share).nan_to_num(-1.0)
