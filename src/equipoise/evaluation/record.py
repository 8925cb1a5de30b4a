"""A profile as the JSON record that tables and figures are made from."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from equipoise.attacks import PGD
from equipoise.attacks.goals import cross_entropy
from equipoise.attacks.threat import Threat
from equipoise.data import Split
from equipoise.evaluation.robustness_profile import Profile
from equipoise.evaluation.suites import Suite
from equipoise.models import AdaptiveNetwork, FeatureStack
from equipoise.models.attack_mode.context import attack_mode
from equipoise.records.epsilon import format_epsilon
from equipoise.records.schema import FORMAT
from equipoise.runtime.environment import environment
from equipoise.runtime.seeds import derive_seed
from equipoise.types import Predict

PER_IMAGE = 256
"""Of how many images, the first ones, a record holds each one's own fusing weight."""


def record_of(
    found: Profile,
    *,
    model: str,
    data: str,
    part: str,
    images_sha256: str,
    norm: str,
    seed: int,
    batch_size: int,
    search_precision: str,
    seconds: float,
    parameters: int,
    extra: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything a reader needs to judge the numbers, and to make them again.

    Args:
        found: The profile.
        model: The model's name in tables.
        data: Name of the data set.
        part: Which images of it were used, ``"test"`` or ``"validation"``.
        images_sha256: Hash of those images and their labels.
        norm: Geometry of the threat.
        seed: Of the evaluation.
        batch_size: Images attacked at once.
        search_precision: Of the searches; scores are float32.
        seconds: Wall time it took, from what was known before.
        parameters: Number of parameters of the model.
        extra: Further facts, such as the training seed, self-checks or the fusing weights.

    Returns:
        A JSON object. ``"headline"`` is the per-image worst case over everything tried.
    """
    worst, intervals = found.accuracy(), found.interval()
    return {
        "format": FORMAT,
        "model": model,
        "data": data,
        "part": part,
        "norm": norm,
        "images": len(found.clean),
        "images_sha256": images_sha256,
        "epsilons": list(found.epsilons),
        "epsilons_written": [format_epsilon(epsilon) for epsilon in found.epsilons],
        "headline": {
            "accuracy": worst,
            "interval": [list(pair) for pair in intervals],
            "average": sum(worst) / len(worst),
            "clean_and_strongest": (worst[0] + worst[-1]) / 2,
        },
        "broken_at": found.broken_at().tolist(),
        "broken_by": found.broken_by(),
        "suites": [_suite(found, suite) for suite in found.suites],
        "rescored": asdict(found.rescored),
        "seed": seed,
        "batch_size": batch_size,
        "search_precision": search_precision,
        "order": found.order,
        "seconds": round(seconds, 2),
        "forward_passes": sum(tried.forward_passes for tried in found.tried),
        "backward_passes": sum(tried.backward_passes for tried in found.tried),
        "parameters": parameters,
        "environment": environment(),
        **(extra or {}),
    }


def _suite(found: Profile, suite: Suite) -> dict[str, Any]:
    return {
        "name": suite.name,
        "independent": suite.independent,
        # Of this suite and those before it, which left it the rest; of itself if independent.
        "accuracy": found.accuracy(suite.name),
        "broken_at": found.broken_at(suite.name).tolist(),
        "broken_by": found.broken_by(suite.name),
        "attacks": [
            {
                **tried.settings,
                "broken_at": tried.broken_at.tolist(),
                "images_attacked": list(tried.images_attacked),
                "forward_passes": tried.forward_passes,
                "backward_passes": tried.backward_passes,
                "seconds": tried.seconds,
            }
            for tried in found.tried
            if tried.suite == suite.name
        ],
    }


def model_internals(
    model: torch.nn.Module,
    split: Split,
    *,
    threat: Callable[[float], Threat],
    epsilons: Sequence[float],
    seed: int,
) -> dict[str, Any]:
    """What a composite model does inside, for its record.

    Args:
        model: An AFA or AFS model; any other gives nothing.
        split: Test images.
        threat: Makes the threat of a strength.
        epsilons: Strengths.
        seed: Of the attack's random starts.

    Returns:
        For AFA, ``fusing_weight``: mean and deviation of W1 = 1 - W0 on images attacked through
        the generator, and through the fixed robust branch, at each strength; and W1 of each of the
        first ``PER_IMAGE`` images, to 4 digits. For AFS, each member's ``importance``.

    Source:
        AFA Fig. 6; AFS Fig. 4(b).
    """
    if isinstance(model, FeatureStack):
        return {"importance": model.importance().tolist()}
    if not isinstance(model, AdaptiveNetwork):
        return {}
    search = PGD(steps=20, relative_step=0.25)
    curves: dict[str, list[dict[str, Any]]] = {}
    sources: dict[str, Predict] = {
        "through_generator": model,
        "through_robust_branch": partial(model, weight=0.0),
    }
    with attack_mode(model):
        for name, source in sources.items():
            curves[name] = []
            for epsilon in epsilons:
                weights = []
                generator = torch.Generator(split.device)
                generator.manual_seed(derive_seed(seed, "insides", name, f"{epsilon}"))
                for rows in torch.arange(len(split), device=split.device).split(256):
                    images, labels = split.batch(rows)
                    victims = images.contiguous(memory_format=torch.channels_last)
                    if epsilon > 0:
                        goal = cross_entropy(source, labels)
                        victims = search(goal, victims, threat(epsilon), generator)
                    with torch.no_grad():
                        weights.append(1 - model.logits_and_weight(victims)[1])
                w1 = torch.cat(weights)
                curves[name].append(
                    {
                        "mean": float(w1.mean()),
                        "std": float(w1.std(correction=0)),
                        "per_image": [round(value, 4) for value in w1[:PER_IMAGE].tolist()],
                    }
                )
    return {"fusing_weight": curves}
