"""An evaluation that tries to break its own claims: signs that a score is not robustness.

A gradient attack that fails may have met a robust model, or a model whose gradients mislead. Each
check looks for one known way of the second kind and says what it measured, in one finding.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from equipoise.attacks.threat import Threat
from equipoise.data import Split
from equipoise.evaluation.robustness_profile import AttackOutcome as AttackOutcome
from equipoise.evaluation.self_check_attacks import DRAWS, SelfCheckContext, apart, graded
from equipoise.evaluation.self_check_attacks import Finding as Finding
from equipoise.evaluation.self_check_attacks import Verdict as Verdict
from equipoise.models import AdaptiveNetwork
from equipoise.models.attack_mode.context import attack_mode
from equipoise.records.epsilon import format_epsilon

ROUNDING = 1e-5
"""Of a row's spread over the classes: what two orders of float32 sums may differ by."""
NEIGHBOUR_TOLERANCE = 1e-2
"""The same for other images in the batch, where TF32 and other kernels may come in."""


def self_checks(
    model: nn.Module,
    split: Split,
    *,
    threat: Callable[[float], Threat],
    epsilons: Sequence[float],
    tried: Sequence[AttackOutcome],
    seed: int,
    images: int = 128,
    batch_size: int = 256,
    report: Callable[[str, float], None] = lambda text, share: None,
) -> list[Finding]:
    """Look for signs that a model's score is not robustness.

    Costs up to about 450 forward and backward passes over the images, most of them for images that
    nothing breaks.

    Args:
        model: Images in [0, 1] to logits. Left as it was found.
        split: The images of the evaluation, on the model's device.
        threat: Makes the threat of a strength: ``Linf`` or ``L2``.
        epsilons: Strengths of the evaluation, ascending from 0; checks attack at the last one.
        tried: What the evaluation tried, on the images of ``split``; may be empty.
        seed: Of all random numbers.
        images: Look at the first so many images.
        batch_size: Images at once.
        report: Called with what is being done and the share done.

    Returns:
        One finding for each check that applies, cheapest first. A check in which the model raises
        an error is a finding with the verdict ``"fail"``.

    Raises:
        ValueError: As ``SelfCheckContext``.

    Source:
        Athalye et al. 2018, Sec. 3.1 (one step, black box, huge epsilon, random points); Carlini
        et al. 2019 (more steps, several goals); the flags of Croce and Hein 2020's AutoAttack in
        its ``checks.py`` (randomised, probabilities, zero gradients, Square). The thresholds, and
        the checks of logit scale, batch and gate, are ours.
    """
    probes = SelfCheckContext(
        model,
        split,
        threat=threat,
        epsilons=epsilons,
        tried=tried,
        seed=seed,
        images=images,
        batch_size=batch_size,
    )
    checks = {**LOOKS, **ATTACKS}
    findings = []
    with attack_mode(model), torch.autocast(split.device.type, enabled=False):
        for number, (name, check) in enumerate(checks.items()):
            report(f"self-check: {name}", number / len(checks))
            try:
                found = None if name in ATTACKS and not probes.attackable else check(probes)
            except Exception as error:
                found = _raised(name, error)
            if found is not None:
                findings.append(found)
    return findings


def _mode(probes: SelfCheckContext) -> Finding:
    """Whether a module is in train mode, where dropout is random and batch norm sees the batch."""
    awake = [name or "the model itself" for name in probes.awake]
    named = ": " + ", ".join(awake[:3]) + ", ..." * (len(awake) > 3) if awake else ""
    return Finding.of(
        "mode",
        "fail" if awake else "pass",
        f"{len(awake)} modules are in train mode{named}.",
        {"modules_in_train_mode": len(awake)},
        good="the model answers as it does when deployed.",
        bad="in train mode an answer depends on chance and on the batch, so the score is not that "
        "of the deployed model; call model.eval() and evaluate again.",
    )


def check_range(images: Tensor) -> Finding:
    """Whether images lie in [0, 1] and use it.

    Args:
        images: What the model is given, of any shape.

    Returns:
        The finding: ``"fail"`` if a value lies outside [0, 1] or is NaN, or if none is above
        2/255, as happens to images that were divided by 255 twice.
    """
    low, high = float(images.min()), float(images.max())
    fits = low >= 0.0 and 2 / 255 < high <= 1.0  # False for NaN
    return Finding.of(
        "range",
        "pass" if fits else "fail",
        f"pixel values lie in [{low:.4g}, {high:.4g}].",
        {"lowest": low, "highest": high},
        good="an epsilon is in the pixel units that it is written in.",
        bad="a model is given images that fill [0, 1] and normalises them itself, or else no "
        "epsilon means what it says; give the images unnormalised, as uint8 levels 0 to 255.",
    )


def _randomised(probes: SelfCheckContext) -> Finding:
    """Whether the same batch is answered in two ways, clean or with noise on it."""
    generator = probes.generator("randomised")
    noisy = probes.threat.random_start(probes.images, generator)
    worst = moved = 0.0
    for images in (probes.images, noisy):
        one, other = probes.logits_of(images), probes.logits_of(images)
        worst = max(worst, apart(one, other))
        moved += float((one.argmax(dim=1) != other.argmax(dim=1)).sum())
    return Finding.of(
        "randomised",
        "pass" if worst == 0 else "warn" if worst < ROUNDING and not moved else "fail",
        f"two answers to the same batch differ by up to {worst:.2g} of their spread over the "
        f"classes, and {moved:g} of {2 * len(probes)} predictions change.",
        {"largest_difference": worst, "predictions_changed": moved},
        good="the model is deterministic, so one answer an image is enough.",
        bad="an attack sees one draw and is scored on another, so the score flatters the model; "
        "average gradients over draws (EoT) and score every image many times.",
    )


def _batch_dependent(probes: SelfCheckContext) -> Finding | None:
    """Whether an image's logits depend on the other images of its batch, or on its place in it."""
    images = probes.images[: probes.batch_size]
    half = len(images) // 2
    if not half or apart(probes.logits_of(probes.images), probes.logits) > ROUNDING:
        return None  # no other image, or nobody can tell company from chance
    others = 1.0 - images  # as unlike the images as it gets, in a batch of the same size
    worst = 0.0
    for rows in (slice(None, half), slice(half, None)):
        mixed = others.clone()
        mixed[rows] = images[rows]
        answer = probes.logits_of(mixed.flip(0)).flip(0)
        worst = max(worst, apart(answer[rows], probes.logits[: len(images)][rows]))
    return Finding.of(
        "batch-dependent",
        "fail" if worst > NEIGHBOUR_TOLERANCE else "pass",
        f"with other images in the batch an image's logits move by up to {worst:.2g} of their "
        "spread over the classes.",
        {"largest_difference": worst},
        good="each image is answered on its own, beyond float rounding.",
        bad="the score depends on which images are attacked together; make the model answer each "
        "image on its own (batch norm needs running statistics).",
    )


def _probabilities(probes: SelfCheckContext) -> Finding:
    """Whether the model returns probabilities in place of logits, or no numbers at all."""
    low, high = float(probes.logits.min()), float(probes.logits.max())
    off = float((probes.logits.sum(dim=1) - 1).abs().max())
    softmax = low >= 0 and high <= 1 + 1e-4 and off < 1e-3
    broken = int((~probes.logits.isfinite()).any(dim=1).sum())
    return Finding.of(
        "probabilities",
        "fail" if softmax or broken else "pass",
        f"outputs lie in [{low:.4g}, {high:.4g}], a row's sum is up to {off:.2g} away from 1, and "
        f"{broken} of {len(probes)} rows hold NaN or infinity.",
        {"lowest": low, "highest": high, "largest_distance_from_sum_1": off, "not_finite": broken},
        good="the outputs are no probabilities, so no softmax hides gradients.",
        bad="a softmax at the end saturates and hides the gradients of every loss; return the "
        "logits in front of it."
        if softmax
        else "NaN is neither right nor wrong, so the score means nothing; find where it arises.",
    )


def _gradients(probes: SelfCheckContext) -> Finding | None:
    """Whether the loss has a usable gradient at the images that are right."""
    count = int(probes.right.sum())
    if not count:
        return None
    zero = unusable = 0
    if probes.differentiable:
        gradient = probes.gradient[probes.right].flatten(1)
        zero = int((gradient == 0).all(dim=1).sum())
        unusable = int((~gradient.isfinite()).any(dim=1).sum())
        found = f"exactly zero at {zero} and NaN or infinite at {unusable}"
    else:
        zero, found = count, "cut off, for autograd finds none, at all"
    return Finding.of(
        "gradients",
        graded(zero + unusable, count, warn=0.01, fail=0.10),
        f"the cross-entropy's gradient is {found} of {count} images that are right.",
        {"zero": zero / count, "not_finite": unusable / count},
        good="gradient attacks have something to follow.",
        bad="gradient attacks stand still there, so surviving them means nothing; take "
        "quantisation or saturation out of the gradient's way (BPDA), or climb another loss.",
    )


def _one_step(probes: SelfCheckContext) -> Finding:
    """Whether one step breaks images that many steps of the same budget do not."""
    hits, count = int((probes.one_step & ~probes.by_cross_entropy).sum()), len(probes)
    return Finding.of(
        "one step",
        graded(hits, count, warn=0.02, fail=0.06),
        f"one step breaks {hits} of {count} images ({hits / count:.1%}) that 20 steps with the "
        "same epsilon do not.",
        {"share": hits / count},
        good="many steps are at least as strong as one, as they must be.",
        bad="following the gradient leads away from what one step finds, so the gradient misleads "
        "and the score is too high; attack a smoothed model or use an attack without gradients.",
    )


def _logit_scale(probes: SelfCheckContext) -> Finding:
    """Whether dividing out the logits' scale makes the cross-entropy attack stronger."""
    hits, count = int((probes.by_scale_free & ~probes.by_cross_entropy).sum()), len(probes)
    scale = float(probes.logits.float().std(dim=1).median())
    return Finding.of(
        "logit scale",
        graded(hits, count, warn=0.03, fail=0.10),
        f"with logits of one scale 20 steps break {hits} of {count} images ({hits / count:.1%}) "
        f"that the same steps on the plain logits (deviation {scale:.3g}) do not.",
        {"share": hits / count, "logit_deviation": scale},
        good="softmax does not saturate, so cross-entropy attacks are not blinded.",
        bad="the softmax of these logits saturates in float32 or is flat, so cross-entropy attacks "
        "overstate robustness; count on scale-free losses (margin, DLR).",
    )


def _goals_disagree(probes: SelfCheckContext) -> Finding:
    """Whether attacks on the margin break many more images than those on the cross-entropy."""
    count = len(probes)
    margin, entropy = int(probes.by_margin.sum()), int(probes.by_cross_entropy.sum())
    gap = margin - entropy
    return Finding.of(
        "goals disagree",
        graded(max(0, gap), count, warn=0.08, fail=0.13),
        f"of {count} images 20 steps on the margin break {margin}, on the cross-entropy {entropy}: "
        f"{gap / count:.1%} more.",
        {"margin": margin / count, "cross_entropy": entropy / count, "gap": gap / count},
        good="the two goals agree, as they do on honest models, to a few points.",
        bad="training has flattened the cross-entropy, not the decision, so a cross-entropy score "
        "overstates robustness; quote the worst case over margin and targeted attacks.",
    )


def _black_box(probes: SelfCheckContext) -> Finding:
    """Whether attacks without the model's gradient break images that gradient attacks cannot."""
    count, strongest = len(probes), len(probes.epsilons) - 1
    at = probes.ahead(("black box", "transfer"), ("white box",))[:count]
    at = torch.where((at == 0) & probes.noise, strongest, at)
    # What a black-box attack broke first no later attack was run on: attack it here.
    hits = int(((at > 0) & ~probes.again(at)).sum())
    return Finding.of(
        "black box",
        graded(hits, count, warn=0.002, fail=0.02),
        f"{DRAWS} draws of noise, black-box or transfer attacks break {int((at > 0).sum())} of "
        f"{count} images before gradient attacks do, and these leave {hits} ({hits / count:.1%}) "
        "of them at equal strength.",
        {"share": hits / count, "noise": float(probes.noise.double().mean())},
        good="knowing the model helps an attack, as it must.",
        bad="an attack that knows less finds more, so the model's gradients mislead and the score "
        "is too high; give black-box attacks more queries and attack a smoothed model.",
    )


def _huge_epsilon(probes: SelfCheckContext) -> Finding | None:
    """Whether images stay right although the attack may turn them into any image."""
    if probes.anywhere is None:
        return None
    hits, count = int((probes.right & ~probes.anywhere).sum()), len(probes)
    return Finding.of(
        "huge epsilon",
        graded(hits, count, warn=0.01, fail=0.05),
        f"{hits} of {count} images ({hits / count:.1%}) stay right under 50 steps at an epsilon "
        "that allows every image.",
        {"share": hits / count},
        good="an attack without a limit wins, as it must.",
        bad="each of them could be turned into an image of another class, so it is the attack that "
        "failed; survivors at small strengths prove nothing either.",
    )


def _more_steps(probes: SelfCheckContext) -> Finding:
    """Whether five times the steps, twice, break many more images."""
    hits, count = int(probes.only_long.sum()), len(probes)
    return Finding.of(
        "more steps",
        graded(hits, count, warn=0.02, fail=0.08),
        f"100 steps on the margin, twice, break {hits} of {count} images ({hits / count:.1%}) that "
        "20 steps leave.",
        {"share": hits / count},
        good="the attack has converged: more work finds little more.",
        bad="the attack had not converged, so the score is too high; raise steps and restarts "
        "until it stops falling.",
    )


def _missed(probes: SelfCheckContext) -> Finding | None:
    """Whether the attacks of these checks break images that the evaluation counts as right."""
    if not probes.tried:
        return None
    survived, count = probes.survived, len(probes)
    hits = int((survived & probes.broken).sum())
    return Finding.of(
        "missed",
        "warn" if hits else "pass",
        f"the attacks of these checks break {hits} of {int(survived.sum())} images that survived "
        f"everything tried, of {count} looked at.",
        {"share": hits / count},
        good="the evaluation found all that these checks found.",
        bad=f"at {format_epsilon(probes.epsilons[-1])} the score is too high by at least that "
        "share; add suites, steps or restarts.",
    )


def _gate(probes: SelfCheckContext) -> Finding | None:
    """For AFA: whether only attacks on the weight generator, or past it, break the images."""
    if not isinstance(probes.model, AdaptiveNetwork):
        return None
    past = [one for one in probes.tried if one.kind in ("gate", "transfer")]
    ahead = probes.ahead(("gate", "transfer"), ("white box", "black box")) > 0
    hits, count = int(ahead.sum()), len(ahead)
    found = (
        f"{hits} of {count} images ({hits / count:.1%}) were broken only, or at a lower "
        "strength, by attacks on the weight generator or carried over from a fixed branch."
        if past
        else "no attack on the weight generator was tried."
    )
    return Finding.of(
        "gate",
        graded(hits, count, warn=0.03, fail=0.10) if past else "warn",
        found,
        {"share": hits / count, "attacks": len(past)},
        good="attacks through the whole model find what attacks on its generator find.",
        bad="the gate decides: ordinary attacks are led astray by the generator, so quote no score "
        "without the suite adaptive, and suspect that a better attack on it finds more."
        if past
        else "not tested: run the suite adaptive too, which attacks the generator.",
    )


Check = Callable[[SelfCheckContext], Finding | None]

LOOKS: dict[str, Check] = {
    "mode": _mode,
    "gate": _gate,
    "range": lambda probes: check_range(probes.images),
    "randomised": _randomised,
    "batch-dependent": _batch_dependent,
    "probabilities": _probabilities,
    "gradients": _gradients,
}
"""Checks that attack nothing."""

ATTACKS: dict[str, Check] = {
    "one step": _one_step,
    "logit scale": _logit_scale,
    "goals disagree": _goals_disagree,
    "black box": _black_box,
    "huge epsilon": _huge_epsilon,
    "more steps": _more_steps,
    "missed": _missed,
}
"""Checks that need a strength, a gradient, and images which are right without an attack."""


def _raised(name: str, error: Exception) -> Finding:
    return Finding(
        name=name,
        verdict="fail",
        found=f"the model raised {type(error).__name__}: {error}",
        meaning="this check could not run, so nothing speaks for the score here; repair the model.",
        numbers={},
    )
