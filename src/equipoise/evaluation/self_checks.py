"""Self-checks of an evaluation: signs that a score is not robustness.

A gradient attack that fails may have met a robust model, or a model whose gradients are misleading.
Each check looks for one known cause of the second case and reports what it measured as a finding.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from equipoise.attacks.threat import Threat
from equipoise.data import Split
from equipoise.evaluation import self_check_attacks, self_check_gradients
from equipoise.evaluation.asked_model import draws_of
from equipoise.evaluation.collapse import COLLAPSED, at_chance
from equipoise.evaluation.profile import Profile
from equipoise.evaluation.self_check_context import SelfCheckContext
from equipoise.evaluation.self_check_finding import Finding
from equipoise.evaluation.self_check_measures import relative_difference
from equipoise.models.attack_mode.context import attack_mode

REPEAT_TOLERANCE = 1e-5
"""Largest difference between two runs that float32 sums in another order explain, as a share of a
row's spread over the classes."""

NEIGHBOUR_TOLERANCE = 1e-2
"""The same for another batch, which TF32 and other kernels may affect."""

LEAST_FOR_COLLAPSE = 20
"""Number of images below which the predictions say little about a network."""


def self_checks(
    model: nn.Module,
    split: Split,
    profile: Profile,
    *,
    threat: Callable[[float], Threat],
    seed: int = 0,
    images: int = 128,
    batch_size: int = 256,
    report: Callable[[str, float], None] = lambda text, share: None,
) -> list[Finding]:
    """Look for signs that a model's score is not robustness.

    Attacks start from images that the evaluation counts as right, each at the strongest strength
    that it survived. This costs up to about 650 forward and backward passes and 1,200 further
    forward passes for each of them. A model without gradients is checked by queries alone.

    Args:
        model: Images in [0, 1] to logits. It is left unchanged.
        split: The images of the evaluation, on the model's device.
        profile: The result of ``measure_profile`` on the images of ``split``.
        threat: Builds the threat of a strength: ``Linf`` or ``L2``, as in the evaluation.
        seed: Random seed of all checks.
        images: Number of images to look at: survivors, evenly spaced, before others.
        batch_size: Number of images at once.
        report: Called with the current check and the share done.

    Returns:
        One finding for each check that applies, the cheapest first. Its number ``could_flatter`` is
        by how much the score could be too high, in [0, 1]; where that is nothing, no check fails.
        If the model raises an error in a check, that is a finding too.

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
        >>> from equipoise.evaluation import measure_profile, suites_for
        >>> from equipoise.evaluation.self_checks import self_checks
        >>> pixels = torch.tensor([[255, 0], [0, 200]], dtype=torch.uint8).reshape(2, 1, 1, 2)
        >>> split = Split(images=pixels, labels=torch.tensor([0, 1]), classes=2)
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Softmax(dim=1)).eval()
        >>> suites = suites_for(model, ["quick"], classes=2)
        >>> profile = measure_profile(  # epsilon 0 alone, so no check attacks
        ...     model, split, threat=Linf, epsilons=(0.0,), suites=suites, seed=0
        ... )
        >>> findings = self_checks(model, split, profile, threat=Linf)
        >>> [finding.name for finding in findings if finding.verdict == "fail"]
        ['probabilities']
    """
    context = SelfCheckContext(
        model, split, profile, threat=threat, seed=seed, images=images, batch_size=batch_size
    )
    checks = {**PASSIVE_CHECKS, **QUERY_CHECKS, **ATTACK_CHECKS, **LAST_CHECKS}
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
                finding = check(context) if _applies(name, context) else None
            except Exception as error:
                finding = _error(name, error)
            if finding is not None:
                findings.append(finding.weighed(context.exposed))
    return findings


def _applies(name: str, context: SelfCheckContext) -> bool:
    """Return whether there is an image to attack, and a gradient where the check needs one."""
    if name in PASSIVE_CHECKS:
        return True
    return context.attackable and (name not in ATTACK_CHECKS or context.differentiable)


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
    """Check whether an image's logits depend on what surrounds it, or on who asks."""
    images = context.images[: context.batch_size]
    if len(images) < 2 or draws_of(context.model):
        return None  # draws are fresh for every batch
    if relative_difference(context.logits_of(context.images), context.logits) > REPEAT_TOLERANCE:
        return None  # the model is random, which this check would misread
    others = 1.0 - images  # very different images, in a batch of the same size
    largest, half = 0.0, len(images) // 2
    for rows in (slice(None, half), slice(half, None)):
        mixed = others.clone()
        mixed[rows] = images[rows]
        logits = context.logits_of(mixed.flip(0)).flip(0)
        expected = context.logits[: len(images)][rows]
        largest = max(largest, relative_difference(logits[rows], expected))
    asked = _asked_otherwise(context, images)
    return Finding.of(
        "batch-dependent",
        "fail" if max(largest, asked) > NEIGHBOUR_TOLERANCE else "pass",
        f"with other images in the batch, an image's logits change by up to {largest:.2g} of their "
        f"spread over the classes; alone, in another memory layout, or where a gradient is asked "
        f"for, by up to {asked:.2g}.",
        {"largest_difference": largest, "asked_otherwise": asked},
        good="each image is classified on its own, up to float rounding.",
        bad="the score depends on which images are attacked together, or on how; make the model "
        "classify each image on its own (batch norm needs running statistics).",
    )


def _asked_otherwise(context: SelfCheckContext, images: Tensor) -> float:
    """Return the largest change of logits: alone, in another layout, with a gradient."""
    expected = context.logits[: len(images)]
    with torch.no_grad():
        alone = torch.cat([context.model(image[None]) for image in images[:4]])
        layout = context.model(images.contiguous(memory_format=torch.contiguous_format).clone())
    differences = [
        relative_difference(alone, expected[:4]) if len(images) > 1 else 0.0,
        relative_difference(layout, expected),
    ]
    if context.differentiable:
        with torch.enable_grad():
            watched: Tensor = context.model(images.clone().requires_grad_(True))
        differences.append(relative_difference(watched.detach(), expected))
    return max(differences)


def _grid(context: SelfCheckContext) -> Finding:
    """Check whether the model answers otherwise where pixels are not whole 255ths."""
    generator = context.generator("grid")
    noise = torch.rand(context.images.shape, generator=generator, device=context.images.device)
    step = (0.05 + 0.1 * noise) / 255
    inwards = torch.where(context.images < 0.5, step, -step)
    spread = context.logits.float().std(dim=1).clamp_min(1e-30)
    near = context.logits_of(context.images + inwards)
    far = context.logits_of(context.images + 2 * inwards)

    def moved(one: Tensor, other: Tensor) -> Tensor:
        return (one.float() - other.float()).abs().amax(dim=1) / spread

    first, second = moved(near, context.logits), moved(far, near)
    jumps = (first > 0.05) & (first > 5 * second)
    hits, count = int(jumps.sum()), len(context)
    return Finding.of(
        "grid",
        context.grade(hits, count, warn=0.02, fail=0.05),
        f"the logits of {hits} of {count} images ({hits / count:.1%}) jump when pixels leave the "
        "whole 255ths by at most 0.15 of one, and not when they move as far again.",
        {
            "share": hits / count,
            "largest_jump": float(first.max()),
            "could_flatter": context.could_flatter(hits, count),
        },
        good="nothing changes at the grid of 8 bits, on which clean images lie and attacked ones "
        "do not.",
        bad="the model tells attacked images from clean ones by their fractions of a level, which "
        "an attacker avoids by rounding; evaluate it without that, or attack on the grid.",
    )


def _collapsed(context: SelfCheckContext) -> Finding | None:
    """Check whether the model predicts one class for nearly every image, or guesses."""
    shares = torch.bincount(context.labels, minlength=context.classes).double() / len(context)
    largest_label = float(shares.max())
    if len(context) < LEAST_FOR_COLLAPSE or largest_label > 0.9:
        return None
    predicted = torch.bincount(context.logits.argmax(dim=1), minlength=context.classes)
    one_class = float(predicted.max()) / len(context)
    accuracy, labels = context.profile.accuracy(), context.split.labels
    chance = int(torch.bincount(labels).max()) / len(labels)
    collapsed = one_class > 0.95 or one_class - largest_label > 0.7
    collapsed = collapsed or at_chance(accuracy[0], chance, len(labels))
    return Finding.of(
        COLLAPSED,
        "fail" if collapsed else "pass",
        f"{one_class:.1%} of {len(context)} predictions are one class, where {largest_label:.1%} "
        f"of the labels are; clean accuracy is {accuracy[0]:.1%}.",
        {
            "one_class": one_class,
            "largest_label": largest_label,
            "could_flatter": accuracy[-1] if collapsed else 0.0,
        },
        good="the predictions follow the images.",
        bad="a network that answers alike for every image, or guesses, cannot be attacked, so what "
        "it keeps is not robustness; train it again.",
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


def _error(name: str, error: Exception) -> Finding:
    return Finding(
        name=name,
        verdict="fail",
        found=f"the model raised {type(error).__name__}: {str(error).rstrip('.')}.",
        meaning="this check could not run, so it gives no evidence for the score; fix the model.",
        numbers={},
    )


Check = Callable[[SelfCheckContext], Finding | None]

PASSIVE_CHECKS: dict[str, Check] = {
    "mode": _mode,
    "gate": self_check_attacks.gate,
    "range": lambda context: check_range(context.images),
    "randomised": _randomised,
    "batch-dependent": _batch_dependent,
    "probabilities": _probabilities,
    "grid": _grid,
    COLLAPSED: _collapsed,
}
"""Checks that apply whether or not an image is left to attack."""

QUERY_CHECKS: dict[str, Check] = {
    "gradients": self_check_gradients.zero_gradients,
    "black box": self_check_attacks.black_box,
}
"""Checks that need an image that survived some strength, and no gradient."""

ATTACK_CHECKS: dict[str, Check] = {
    "finite difference": self_check_gradients.finite_difference,
    "one step": self_check_attacks.one_step,
    "logit scale": self_check_attacks.logit_scale,
    "goals disagree": self_check_attacks.goals_disagree,
    "huge epsilon": self_check_attacks.huge_epsilon,
    "flat curve": self_check_attacks.flat_curve,
    "more steps": self_check_attacks.more_steps,
}
"""Checks that need a gradient too."""

LAST_CHECKS: dict[str, Check] = {"missed": self_check_attacks.missed}
"""What all attacks of the checks together found."""
