"""Self-checks that attack the model: signs that attacks fail although the model is not robust."""

import torch

from equipoise.evaluation.self_check_context import (
    NOISE_DRAWS,
    Finding,
    SelfCheckContext,
    grade,
)
from equipoise.records.epsilon import format_epsilon


def one_step(context: SelfCheckContext) -> Finding:
    """Check whether one step breaks images that many steps of the same budget do not."""
    one_step_only = context.broken_by_one_step & ~context.broken_by_cross_entropy
    hits, count = int(one_step_only.sum()), len(context)
    return Finding.of(
        "one step",
        grade(hits, count, warn=0.02, fail=0.06),
        f"one step breaks {hits} of {count} images ({hits / count:.1%}) that 20 steps with the "
        "same epsilon do not.",
        {"share": hits / count},
        good="many steps are at least as strong as one, as they must be.",
        bad="following the gradient leads away from what one step finds, so the gradient is "
        "misleading and the score too high; attack a smoothed model or use a gradient-free attack.",
    )


def logit_scale(context: SelfCheckContext) -> Finding:
    """Check whether removing the scale of the logits makes the cross-entropy attack stronger."""
    scale_free_only = context.broken_by_scale_free & ~context.broken_by_cross_entropy
    hits, count = int(scale_free_only.sum()), len(context)
    deviation = float(context.logits.float().std(dim=1).median())
    return Finding.of(
        "logit scale",
        grade(hits, count, warn=0.03, fail=0.10),
        f"with rescaled logits, 20 steps break {hits} of {count} images ({hits / count:.1%}) that "
        f"the same steps on the plain logits (standard deviation {deviation:.3g}) do not.",
        {"share": hits / count, "logit_deviation": deviation},
        good="softmax does not saturate, so cross-entropy attacks have usable gradients.",
        bad="the softmax of these logits saturates in float32 or is flat, so cross-entropy attacks "
        "overestimate robustness; rely on scale-free losses (margin, DLR).",
    )


def goals_disagree(context: SelfCheckContext) -> Finding:
    """Check whether attacks on the margin break many more images than on the cross-entropy."""
    count = len(context)
    margin = int(context.broken_by_margin.sum())
    cross_entropy = int(context.broken_by_cross_entropy.sum())
    gap = margin - cross_entropy
    return Finding.of(
        "goals disagree",
        grade(max(0, gap), count, warn=0.08, fail=0.13),
        f"of {count} images, 20 steps break {margin} on the margin and {cross_entropy} on the "
        f"cross-entropy: {gap / count:.1%} more.",
        {"margin": margin / count, "cross_entropy": cross_entropy / count, "gap": gap / count},
        good="the two goals agree to a few points, as they do on sound models.",
        bad="training has flattened the cross-entropy but not the decision, so a cross-entropy "
        "score overestimates robustness; report the worst case over margin and targeted attacks.",
    )


def black_box(context: SelfCheckContext) -> Finding:
    """Check whether attacks without the model's gradient break images that others cannot."""
    count, strongest = len(context), len(context.epsilons) - 1
    levels = context.broken_first(("black box", "transfer"), ("white box",))[:count]
    levels = torch.where((levels == 0) & context.broken_by_noise, strongest, levels)
    # The evaluation ran no gradient attack on an image after a black-box attack broke it.
    hits = int(((levels > 0) & ~context.broken_again(levels)).sum())
    return Finding.of(
        "black box",
        grade(hits, count, warn=0.002, fail=0.02),
        f"{NOISE_DRAWS} draws of noise, black-box or transfer attacks break "
        f"{int((levels > 0).sum())} of {count} images before gradient attacks do, and gradient "
        f"attacks at the same strength cannot break {hits} ({hits / count:.1%}) of these.",
        {"share": hits / count, "noise": float(context.broken_by_noise.double().mean())},
        good="knowing the model helps an attack, as it must.",
        bad="an attack that knows less finds more, so the gradients are misleading and the score "
        "too high; give black-box attacks more queries and attack a smoothed model.",
    )


def huge_epsilon(context: SelfCheckContext) -> Finding | None:
    """Check whether images survive an attack that may turn them into any other image."""
    if context.broken_without_limit is None:
        return None
    hits, count = int((context.correct & ~context.broken_without_limit).sum()), len(context)
    return Finding.of(
        "huge epsilon",
        grade(hits, count, warn=0.01, fail=0.05),
        f"{hits} of {count} images ({hits / count:.1%}) survive 50 steps at an epsilon that allows "
        "every image.",
        {"share": hits / count},
        good="an attack without a limit breaks every image, as it must.",
        bad="each of them could be turned into an image of another class, so the attack has "
        "failed, and surviving it at small strengths proves nothing.",
    )


def more_steps(context: SelfCheckContext) -> Finding:
    """Check whether five times the steps, twice, break many more images."""
    hits, count = int(context.broken_by_long_only.sum()), len(context)
    return Finding.of(
        "more steps",
        grade(hits, count, warn=0.02, fail=0.08),
        f"100 steps on the margin, twice, break {hits} of {count} images ({hits / count:.1%}) that "
        "survive 20 steps.",
        {"share": hits / count},
        good="the attack has converged: more steps find little more.",
        bad="the attack has not converged, so the score is too high; raise steps and restarts "
        "until it stops falling.",
    )


def missed(context: SelfCheckContext) -> Finding | None:
    """Check whether these checks break images that survived the evaluation."""
    if not context.outcomes:
        return None
    survived, count = context.survived, len(context)
    hits = int((survived & context.broken).sum())
    return Finding.of(
        "missed",
        "warn" if hits else "pass",
        f"the attacks of these checks break {hits} of the {int(survived.sum())} images, out of "
        f"{count}, that survived the evaluation.",
        {"share": hits / count},
        good="the evaluation found everything that these checks found.",
        bad=f"at {format_epsilon(context.epsilons[-1])} the score is too high by at least that "
        "share; add suites, steps or restarts.",
    )
