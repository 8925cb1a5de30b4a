"""Self-checks of an evaluation: signs that a score is not robustness.

A gradient attack that fails may have met a robust model, or a model whose gradients are misleading.
Each check looks for one known cause of the second case and reports what it measured as a finding.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from equipoise.attacks.threat import Threat
from equipoise.data import Split
from equipoise.evaluation import self_check_attacks
from equipoise.evaluation.asked_model import draws_of
from equipoise.evaluation.robustness_profile import AttackOutcome
from equipoise.evaluation.self_check_context import (
    Finding,
    SelfCheckContext,
    grade,
    relative_difference,
)
from equipoise.models import AdaptiveNetwork
from equipoise.models.attack_mode.context import attack_mode

REPEAT_TOLERANCE = 1e-5
"""Largest difference between two runs that float32 sums in another order explain, as a share of a
row's spread over the classes."""

NEIGHBOUR_TOLERANCE = 1e-2
"""The same for another batch, which TF32 and other kernels may affect."""


def self_checks(
    model: nn.Module,
    split: Split,
    *,
    threat: Callable[[float], Threat],
    epsilons: Sequence[float],
    outcomes: Sequence[AttackOutcome],
    seed: int,
    images: int = 128,
    batch_size: int = 256,
    report: Callable[[str, float], None] = lambda text, share: None,
) -> list[Finding]:
    """Look for signs that a model's score is not robustness.

    This costs up to about 450 forward and backward passes over the images, most of them on images
    that nothing breaks.

    Args:
        model: Images in [0, 1] to logits. It is left unchanged.
        split: The images of the evaluation, on the model's device.
        threat: Builds the threat of a strength: ``Linf`` or ``L2``.
        epsilons: Strengths of the evaluation, ascending from 0; the checks attack at the last one.
        outcomes: ``Profile.outcomes`` of the evaluation on the images of ``split``; may be empty.
        seed: Random seed of all checks.
        images: Number of images to look at, the first ones.
        batch_size: Number of images at once.
        report: Called with the current check and the share done.

    Returns:
        One finding for each check that applies, the cheapest first. If the model raises an error in
        a check, that is a finding with the verdict ``"fail"``.

    Raises:
        ValueError: As ``SelfCheckContext``.

    Source:
        Athalye et al. 2018, Sec. 3.1 (one step, black box, huge epsilon, random points); Carlini
        et al. 2019 (more steps, several goals); the flags of Croce and Hein 2020's AutoAttack in
        its ``checks.py`` (randomised, probabilities, zero gradients, Square). The thresholds, and
        the checks of logit scale, batch and gate, are ours.

    Example:
        >>> import torch
        >>> from equipoise.attacks.threat import Linf
        >>> from equipoise.data import Split
        >>> from equipoise.evaluation.self_checks import self_checks
        >>> pixels = torch.tensor([[255, 0], [0, 200]], dtype=torch.uint8).reshape(2, 1, 1, 2)
        >>> split = Split(images=pixels, labels=torch.tensor([0, 1]), classes=2)
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Softmax(dim=1)).eval()
        >>> findings = self_checks(  # epsilon 0 alone, so only the checks that attack nothing
        ...     model, split, threat=Linf, epsilons=(0.0,), outcomes=(), seed=0
        ... )
        >>> [finding.name for finding in findings if finding.verdict == "fail"]
        ['probabilities']
    """
    context = SelfCheckContext(
        model,
        split,
        threat=threat,
        epsilons=epsilons,
        outcomes=outcomes,
        seed=seed,
        images=images,
        batch_size=batch_size,
    )
    checks = {**PASSIVE_CHECKS, **ATTACK_CHECKS}
    findings = []
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        attack_mode(model),
        torch.autocast(split.device.type, enabled=False),
    ):
        for number, (name, check) in enumerate(checks.items()):
            report(f"self-check: {name}", number / len(checks))
            try:
                skipped = name in ATTACK_CHECKS and not context.attackable
                finding = None if skipped else check(context)
            except Exception as error:
                finding = _error(name, error)
            if finding is not None:
                findings.append(finding)
    return findings


def _mode(context: SelfCheckContext) -> Finding:
    """Check whether a module is in train mode, where dropout and batch norm act differently."""
    names = [name or "the model itself" for name in context.modules_in_train_mode]
    listed = ": " + ", ".join(names[:3]) + ", ..." * (len(names) > 3) if names else ""
    return Finding.of(
        "mode",
        "fail" if names else "pass",
        f"{len(names)} {'module is' if len(names) == 1 else 'modules are'} in train mode{listed}.",
        {"modules_in_train_mode": len(names)},
        good="the model computes what it computes when deployed.",
        bad="in train mode the logits depend on chance and on the batch, so this is not the score "
        "of the deployed model; call model.eval() and evaluate again.",
    )


def check_range(images: Tensor) -> Finding:
    """Check whether images are in [0, 1] and use that range.

    Args:
        images: What the model is given, of any shape.

    Returns:
        The finding: ``"fail"`` if a value is outside [0, 1] or NaN, or if none is above 2/255,
        which happens to images that are divided by 255 twice.

    Example:
        >>> import torch
        >>> from equipoise.evaluation.self_checks import check_range
        >>> check_range(torch.tensor([0.0, 0.7])).verdict
        'pass'
        >>> check_range(torch.tensor([0.0, 179.0])).found
        'pixel values are in [0, 179].'
    """
    low, high = float(images.min()), float(images.max())
    fits = low >= 0.0 and 2 / 255 < high <= 1.0  # False for NaN
    return Finding.of(
        "range",
        "pass" if fits else "fail",
        f"pixel values are in [{low:.4g}, {high:.4g}].",
        {"lowest": low, "highest": high},
        good="an epsilon is in the pixel units that it is written in.",
        bad="images must fill [0, 1] and the model must normalise them itself, or every epsilon "
        "means something else; pass the images unnormalised, as uint8 levels 0 to 255.",
    )


def _randomised(context: SelfCheckContext) -> Finding:
    """Check whether two runs on the same batch, clean or noisy, give different logits."""
    if draws := draws_of(context.model):
        return Finding.of(
            "randomised",
            "pass",
            f"attacks averaged {draws} draws of the model, and scores counted fresh ones.",
            {"draws": draws},
            good="gradients and scores are those of many draws, not of one.",
            bad="",
        )
    noisy = context.threat.random_start(context.images, context.generator("randomised"))
    largest = changed = 0.0
    for images in (context.images, noisy):
        first, second = context.logits_of(images), context.logits_of(images)
        largest = max(largest, relative_difference(first, second))
        changed += float((first.argmax(dim=1) != second.argmax(dim=1)).sum())
    slight = largest < REPEAT_TOLERANCE and not changed
    return Finding.of(
        "randomised",
        "pass" if largest == 0 else "warn" if slight else "fail",
        f"two runs on the same batch differ by up to {largest:.2g} of the spread over the "
        f"classes, and {changed:g} of {2 * len(context)} predictions change.",
        {"largest_difference": largest, "predictions_changed": changed},
        good="the model is deterministic, so one run per image is enough.",
        bad="an attack sees one draw and is scored on another, so the score is too high; average "
        "gradients over draws (EoT) and score every image many times.",
    )


def _batch_dependent(context: SelfCheckContext) -> Finding | None:
    """Check whether an image's logits depend on its batch or on its position in it."""
    images = context.images[: context.batch_size]
    half = len(images) // 2
    if not half or draws_of(context.model):
        return None  # draws are fresh for every batch
    if relative_difference(context.logits_of(context.images), context.logits) > REPEAT_TOLERANCE:
        return None  # the model is random, which this check would misread
    others = 1.0 - images  # very different images, in a batch of the same size
    largest = 0.0
    for rows in (slice(None, half), slice(half, None)):
        mixed = others.clone()
        mixed[rows] = images[rows]
        logits = context.logits_of(mixed.flip(0)).flip(0)
        expected = context.logits[: len(images)][rows]
        largest = max(largest, relative_difference(logits[rows], expected))
    return Finding.of(
        "batch-dependent",
        "fail" if largest > NEIGHBOUR_TOLERANCE else "pass",
        f"with other images in the batch, an image's logits change by up to {largest:.2g} of their "
        "spread over the classes.",
        {"largest_difference": largest},
        good="each image is classified on its own, up to float rounding.",
        bad="the score depends on which images are attacked together; make the model classify each "
        "image on its own (batch norm needs running statistics).",
    )


def _probabilities(context: SelfCheckContext) -> Finding:
    """Check whether the model returns probabilities instead of logits, or NaN or infinity."""
    low, high = float(context.logits.min()), float(context.logits.max())
    distance = float((context.logits.sum(dim=1) - 1).abs().max())
    softmax = low >= 0 and high <= 1 + 1e-4 and distance < 1e-3
    not_finite = int((~context.logits.isfinite()).any(dim=1).sum())
    return Finding.of(
        "probabilities",
        "fail" if softmax or not_finite else "pass",
        f"outputs are in [{low:.4g}, {high:.4g}], the sum of a row differs from 1 by up to "
        f"{distance:.2g}, and {not_finite} of {len(context)} rows contain NaN or infinity.",
        {
            "lowest": low,
            "highest": high,
            "largest_distance_from_sum_1": distance,
            "not_finite": not_finite,
        },
        good="the outputs are logits, so no softmax masks the gradients.",
        bad="a softmax at the end saturates and masks the gradients of every loss; return the "
        "logits before it."
        if softmax
        else "NaN is neither correct nor wrong, so the score is meaningless; find where it arises.",
    )


def _gradients(context: SelfCheckContext) -> Finding | None:
    """Check whether the loss has a usable gradient at the correctly classified images."""
    count = int(context.correct.sum())
    if not count or not getattr(context.model, "gives_gradients", True):
        return None  # marked "black box only" instead
    zero = not_finite = 0
    if context.differentiable:
        gradient = context.gradient[context.correct].flatten(1)
        zero = int((gradient == 0).all(dim=1).sum())
        not_finite = int((~gradient.isfinite()).any(dim=1).sum())
        found = (
            f"the cross-entropy's gradient is exactly zero at {zero} and NaN or infinite at "
            f"{not_finite} of {count} correctly classified images."
        )
    else:
        zero = count
        found = "autograd finds no gradient: the logits do not depend on the images."
    return Finding.of(
        "gradients",
        grade(zero + not_finite, count, warn=0.01, fail=0.10),
        found,
        {"zero": zero / count, "not_finite": not_finite / count},
        good="gradient attacks have a gradient to follow.",
        bad="gradient attacks do not move there, so surviving them means nothing; bypass the "
        "quantisation or saturation in the backward pass (BPDA), or attack another loss.",
    )


def _gate(context: SelfCheckContext) -> Finding | None:
    """For AFA: check whether only attacks on the weight generator, or around it, break images."""
    if not isinstance(context.model, AdaptiveNetwork):
        return None
    attacks = [outcome for outcome in context.outcomes if outcome.kind in ("gate", "transfer")]
    levels = context.broken_first(("gate", "transfer"), ("white box", "black box"))
    hits, count = int((levels > 0).sum()), len(levels)
    return Finding.of(
        "gate",
        grade(hits, count, warn=0.03, fail=0.10) if attacks else "warn",
        f"{hits} of {count} images ({hits / count:.1%}) were broken only, or at a lower strength, "
        "by attacks on the weight generator or transferred from a fixed branch."
        if attacks
        else "no attack on the weight generator was run.",
        {"share": hits / count, "attacks": len(attacks)},
        good="attacks through the whole model find what attacks on its generator find.",
        bad="the score depends on the gate: the generator misleads ordinary attacks, so report no "
        "score without the suite adaptive, and expect a better attack on the gate to find more."
        if attacks
        else "not tested: run the suite adaptive too, which attacks the generator.",
    )


def _error(name: str, error: Exception) -> Finding:
    return Finding(
        name=name,
        verdict="fail",
        found=f"the model raised {type(error).__name__}: {error}",
        meaning="this check could not run, so it gives no evidence for the score; fix the model.",
        numbers={},
    )


Check = Callable[[SelfCheckContext], Finding | None]

PASSIVE_CHECKS: dict[str, Check] = {
    "mode": _mode,
    "gate": _gate,
    "range": lambda context: check_range(context.images),
    "randomised": _randomised,
    "batch-dependent": _batch_dependent,
    "probabilities": _probabilities,
    "gradients": _gradients,
}
"""Checks that run no attack."""

ATTACK_CHECKS: dict[str, Check] = {
    "one step": self_check_attacks.one_step,
    "logit scale": self_check_attacks.logit_scale,
    "goals disagree": self_check_attacks.goals_disagree,
    "black box": self_check_attacks.black_box,
    "huge epsilon": self_check_attacks.huge_epsilon,
    "more steps": self_check_attacks.more_steps,
    "missed": self_check_attacks.missed,
}
"""Checks that need a strength, a gradient, and a correctly classified image."""
