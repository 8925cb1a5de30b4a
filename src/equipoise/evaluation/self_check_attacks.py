"""Self-checks that attack the model: signs that attacks fail although the model is not robust.

Each image is attacked at the strongest strength that it survived in the evaluation, so an image
that is broken here is one that the score counts as right.
"""

import torch
from torch import Tensor

from equipoise.evaluation.self_check_context import NOISE_DRAWS, SelfCheckContext
from equipoise.evaluation.self_check_finding import Finding, grade
from equipoise.evaluation.suites import suites_for
from equipoise.models import AdaptiveNetwork


def one_step(context: SelfCheckContext) -> Finding:
    """Check whether one step breaks images that many steps of the same budget do not."""
    one_step_only = context.broken_by_one_step & ~context.broken_by_cross_entropy
    hits, count = int(one_step_only.sum()), context.looked_at
    return Finding.of(
        "one step",
        context.grade(hits, count, warn=0.02, fail=0.06),
        f"one step breaks {hits} of {count} images ({hits / count:.1%}) that 20 steps with the "
        "same epsilon do not.",
        {"share": hits / count, "could_flatter": context.could_flatter(hits, count)},
        good="many steps are at least as strong as one, as they must be.",
        bad="following the gradient leads away from what one step finds, so the gradient is "
        "misleading and the score too high; attack a smoothed model or use a gradient-free attack.",
    )


def logit_scale(context: SelfCheckContext) -> Finding:
    """Check whether removing the scale of the logits makes the cross-entropy attack stronger."""
    scale_free_only = context.broken_by_scale_free & ~context.broken_by_cross_entropy
    hits, count = int(scale_free_only.sum()), context.looked_at
    deviation = float(context.logits.float().std(dim=1).median())
    return Finding.of(
        "logit scale",
        context.grade(hits, count, warn=0.03, fail=0.10),
        f"with rescaled logits, 20 steps break {hits} of {count} images ({hits / count:.1%}) that "
        f"the same steps on the plain logits (standard deviation {deviation:.3g}) do not.",
        {
            "share": hits / count,
            "logit_deviation": deviation,
            "could_flatter": context.could_flatter(hits, count),
        },
        good="no image that counts as right owes it to the scale of the logits.",
        bad="the softmax of these logits saturates in float32 or is flat, so cross-entropy attacks "
        "overestimate robustness; rely on scale-free losses (margin, DLR).",
    )


def goals_disagree(context: SelfCheckContext) -> Finding:
    """Check whether attacks on the margin break many more images than on the cross-entropy."""
    count = context.looked_at
    margin = int(context.broken_by_margin.sum())
    cross_entropy = int(context.broken_by_cross_entropy.sum())
    gap = max(0, margin - cross_entropy)
    return Finding.of(
        "goals disagree",
        context.grade(gap, count, warn=0.08, fail=0.13),
        f"of {count} images, 20 steps break {margin} on the margin and {cross_entropy} on the "
        f"cross-entropy: {(margin - cross_entropy) / count:.1%} more.",
        {
            "margin": margin / count,
            "cross_entropy": cross_entropy / count,
            "gap": (margin - cross_entropy) / count,
            "could_flatter": context.could_flatter(gap, count),
        },
        good="the two goals agree to a few points, as they do on sound models.",
        bad="training has flattened the cross-entropy but not the decision, so a cross-entropy "
        "score overestimates robustness; report the worst case over margin and targeted attacks.",
    )


def black_box(context: SelfCheckContext) -> Finding:
    """Check whether attacks without the model's gradient break images that others cannot."""
    queried = context.broken_by_queries | context.broken_by_noise
    if context.differentiable:
        known = context.broken_by_long_only | context.broken_short
        only, resisting = queried & ~known, _resisting_earlier(context)
    else:
        only, resisting = queried, 0.0
    hits, count = int(only.sum()), context.looked_at
    earlier = round(resisting * context.all_images)
    verdicts = (
        context.grade(hits, count, warn=0.01, fail=0.03),
        grade(earlier, context.all_images, warn=0.002, fail=0.02),
    )
    return Finding.of(
        "black box",
        min(verdicts, key=("fail", "warn", "pass").index),
        f"{NOISE_DRAWS} draws of noise and a search by queries break {int(queried.sum())} of "
        f"{count} images that the evaluation counts as right, and gradients cannot break {hits} "
        f"({hits / count:.1%}) of these; in the evaluation, gradients failed on about {earlier} of "
        f"{context.all_images} images that black-box or transfer attacks broke.",
        {
            "share": hits / count,
            "noise": float(context.broken_by_noise.double().sum()) / count,
            "resisting": resisting,
            "could_flatter": min(
                context.exposed, max(context.could_flatter(hits, count), resisting)
            ),
        },
        good="knowing the model helps an attack, as it must.",
        bad="an attack that knows less finds more, so the gradients are misleading and the score "
        "too high; give black-box attacks more queries and attack a smoothed model.",
    )


def _resisting_earlier(context: SelfCheckContext) -> float:
    """Return the share of all images that black-box attacks broke first and gradients cannot.

    The evaluation ran no gradient attack on an image after a black-box attack broke it.
    """
    levels = context.broken_first(("black box", "transfer"), ("white box",))
    return context.resisting(levels) if bool((levels > 0).any()) else 0.0


def gate(context: SelfCheckContext) -> Finding | None:
    """For AFA: check whether only attacks on the weight generator, or around it, break images."""
    if not isinstance(context.model, AdaptiveNetwork):
        return None
    attacks = [o for o in context.profile.outcomes if o.kind in ("gate", "transfer")]
    levels = context.broken_first(("gate", "transfer"), ("white box", "black box"))
    if attacks:
        hits, count = int((levels > 0).sum()), len(levels)
        share = min(hits / count, context.exposed)
        verdict = grade(hits, count, warn=0.03, fail=0.10) if share >= 0.005 else "pass"
        found = (
            f"{hits} of {count} images ({hits / count:.1%}) were broken only, or at a lower "
            "strength, by attacks on the weight generator or transferred from a fixed branch."
        )
    else:
        hits, count = int(_broken_by_gate(context).sum()), max(1, context.looked_at)
        share = context.could_flatter(hits, count)
        verdict = context.grade(hits, count, warn=0.01, fail=0.03)
        found = (
            "the evaluation did not attack the weight generator; these checks did, and broke "
            f"{hits} of {count} images ({hits / count:.1%}) that it counts as right."
        )
    return Finding.of(
        "gate",
        verdict,
        found,
        {"share": hits / count, "attacks": len(attacks), "could_flatter": share},
        good="attacks through the whole model find what attacks on its generator find.",
        bad="the score depends on the gate: the generator misleads ordinary attacks, so report no "
        "score without the suite adaptive, and expect a better attack on the gate to find more.",
    )


def _broken_by_gate(context: SelfCheckContext) -> Tensor:
    """Run the suite ``adaptive`` on the images that the evaluation counts as right."""
    (suite,) = suites_for(context.model, ("adaptive",), classes=context.classes)
    broken = torch.zeros_like(context.attacked)
    for attack in suite.attacks:
        broken |= context.broken_by_attack(attack, context.attacked & ~broken)
    return broken


def huge_epsilon(context: SelfCheckContext) -> Finding | None:
    """Check whether images survive an attack that may turn them into any other image."""
    if context.broken_without_limit is None:
        return None
    hits = int((context.attacked & ~context.broken_without_limit).sum())
    count = context.looked_at
    return Finding.of(
        "huge epsilon",
        context.grade(hits, count, warn=0.01, fail=0.05),
        f"{hits} of {count} images ({hits / count:.1%}) survive 50 steps at an epsilon that allows "
        "every image.",
        {"share": hits / count, "could_flatter": context.could_flatter(hits, count)},
        good="an attack without a limit breaks every image, as it must.",
        bad="each of them could be turned into an image of another class, so the attack has "
        "failed, and surviving it at small strengths proves nothing.",
    )


def flat_curve(context: SelfCheckContext) -> Finding | None:
    """Check whether accuracy is the same at three strengths, and attacks without a limit fail too.

    The second condition spares a robust network at strengths that are close to each other.
    """
    accuracy = context.profile.accuracy()
    longest = max(accuracy.count(value) for value in accuracy)
    level = max(accuracy, key=accuracy.count)
    hits = 0
    if longest >= 3 and level > 0 and context.broken_without_limit is not None:
        hits = int((context.attacked & ~context.broken_without_limit).sum())
    count = context.looked_at
    return Finding.of(
        "flat curve",
        context.grade(hits, count, warn=0.01, fail=0.05),
        f"the accuracy is the same at {longest} of {len(accuracy)} strengths"
        + (
            f", and {hits} of {count} images survive an attack without a limit too."
            if longest >= 3
            else "."
        ),
        {"strengths": longest, "could_flatter": context.could_flatter(hits, count)},
        good="the accuracy falls as the attack gets stronger, as it must.",
        bad="no network is robust without a limit, so attacks do not reach it; find out why they "
        "do not move before you quote any of these numbers.",
    )


def more_steps(context: SelfCheckContext) -> Finding:
    """Check whether five times the steps, twice, break many more images."""
    hits, count = int(context.broken_by_long_only.sum()), context.looked_at
    return Finding.of(
        "more steps",
        context.grade(hits, count, warn=0.02, fail=0.08),
        f"100 steps on the margin, twice, break {hits} of {count} images ({hits / count:.1%}) that "
        "survive 20 steps.",
        {"share": hits / count, "could_flatter": context.could_flatter(hits, count)},
        good="the attack has converged: more steps find little more.",
        bad="the attack has not converged, so the score is too high; raise steps and restarts "
        "until it stops falling.",
    )


def missed(context: SelfCheckContext) -> Finding | None:
    """Check whether these checks break images that survived the evaluation."""
    if not context.profile.outcomes:
        return None
    hits, count = int((context.attacked & context.broken).sum()), context.looked_at
    return Finding.of(
        "missed",
        context.grade(hits, count, warn=0.01, fail=0.03),
        f"the attacks of these checks break {hits} of {count} images ({hits / count:.1%}) that "
        "survived the evaluation, each at the strongest epsilon that it survived.",
        {"share": hits / count, "could_flatter": context.could_flatter(hits, count)},
        good="the evaluation found what these checks found, or nearly."
        if hits
        else "the evaluation found everything that these checks found.",
        bad="the score is too high by at least about that share; add suites, steps or restarts.",
    )
