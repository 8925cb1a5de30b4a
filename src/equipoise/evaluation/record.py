"""A robustness profile as the JSON record that tables and figures are made from."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from equipoise.attacks import PGD
from equipoise.attacks.goals import cross_entropy
from equipoise.attacks.threat import Threat
from equipoise.data import Split
from equipoise.evaluation.profile import NEVER, Profile
from equipoise.evaluation.random_draws import interval_of_mean
from equipoise.evaluation.suite import Suite
from equipoise.models import AdaptiveNetwork, FeatureStack
from equipoise.models.attack_mode.context import attack_mode
from equipoise.records.epsilon import format_epsilon
from equipoise.records.schema import FORMAT
from equipoise.runtime.environment import environment
from equipoise.runtime.seeds import derive_seed
from equipoise.types import Predict

WEIGHTS_PER_RECORD = 256
"""Number of images, the first ones, whose individual fusing weights a record holds."""


@dataclass(frozen=True, kw_only=True)
class EvaluationFacts:
    """What a record says about an evaluation besides its profile.

    Args:
        model: Name of the model in tables.
        data: Name of the data set.
        part: Part of it that was used, ``"test"`` or ``"validation"``.
        images_sha256: Hash of its images and labels, from ``images_hash``.
        norm: Geometry of the threat.
        seed: Random seed of the evaluation.
        batch_size: Number of images attacked at once.
        search_precision: Precision of the searches; scores are always float32.
        seconds: Wall time of this run, without results that were cached before.
        parameters: Number of parameters of the model.
        labels: ``(n,)``, class of each image, for accuracies per class; left out by default.
        extra: Further fields, such as the training seed, self-checks or fusing weights.
    """

    model: str
    data: str
    part: str
    images_sha256: str
    norm: str
    seed: int
    batch_size: int
    search_precision: str
    seconds: float
    parameters: int
    labels: Int[Tensor, " n"] | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def record_of(profile: Profile, facts: EvaluationFacts) -> dict[str, Any]:
    """Build the record: everything needed to interpret the numbers and to reproduce them.

    Args:
        profile: The profile.
        facts: What else the record says.

    Returns:
        A JSON object. ``"headline"`` is the worst case of each image over all attacks.

    Example:
        >>> import torch
        >>> from equipoise.evaluation import EvaluationFacts, Profile, record_of
        >>> from equipoise.evaluation.verification import Rescoring
        >>> profile = Profile(
        ...     epsilons=(0.0, 8 / 255),
        ...     suites=(),
        ...     outcomes=(),
        ...     clean=torch.tensor([True, True, True, False]),
        ...     rescored=Rescoring(images=0, batch_size=86, boundary=0),
        ... )
        >>> facts = EvaluationFacts(
        ...     model="afa_digits",
        ...     data="digits",
        ...     part="test",
        ...     images_sha256="0" * 64,
        ...     norm="Linf",
        ...     seed=0,
        ...     batch_size=256,
        ...     search_precision="32-true",
        ...     seconds=1.0,
        ...     parameters=650,
        ... )
        >>> record = record_of(profile, facts)
        >>> record["epsilons_written"], record["headline"]["accuracy"]
        (['0', '8/255'], [0.75, 0.75])
    """
    accuracy, intervals = _headline(profile)
    return {
        "format": FORMAT,
        "model": facts.model,
        "data": facts.data,
        "part": facts.part,
        "norm": facts.norm,
        "images": len(profile.clean),
        "images_sha256": facts.images_sha256,
        "epsilons": list(profile.epsilons),
        "epsilons_written": [format_epsilon(epsilon) for epsilon in profile.epsilons],
        "headline": {
            "accuracy": accuracy,
            "interval": [list(bounds) for bounds in intervals],
            "average": sum(accuracy) / len(accuracy),
            "clean_and_strongest": (accuracy[0] + accuracy[-1]) / 2,
        },
        **({} if facts.labels is None else {"per_class": per_class(profile, facts.labels)}),
        "broken_at": profile.broken_at().tolist(),
        "broken_by": profile.broken_by(),
        "suites": [_suite_record(profile, suite) for suite in profile.suites],
        "rescored": asdict(profile.rescored),
        "seed": facts.seed,
        "batch_size": facts.batch_size,
        "search_precision": facts.search_precision,
        "order": profile.order,
        "seconds": round(facts.seconds, 2),
        "forward_passes": sum(outcome.forward_passes for outcome in profile.outcomes),
        "backward_passes": sum(outcome.backward_passes for outcome in profile.outcomes),
        "parameters": facts.parameters,
        "environment": environment(),
        **facts.extra,
        **_marks(profile, facts.extra.get("marks", ())),
    }


def per_class(profile: Profile, labels: Int[Tensor, " n"]) -> list[dict[str, Any]]:
    """Worst-case accuracy of each class that has images, at each strength.

    Args:
        profile: The profile.
        labels: ``(n,)``, class of each image.

    Returns:
        For each class, its number of images and its accuracy at each strength, clean first.

    Example:
        >>> import torch
        >>> from equipoise.evaluation import Profile
        >>> from equipoise.evaluation.record import per_class
        >>> from equipoise.evaluation.verification import Rescoring
        >>> clean = torch.tensor([True, False, True])
        >>> rescored = Rescoring(images=0, batch_size=86, boundary=0)
        >>> profile = Profile(
        ...     epsilons=(0.0,), suites=(), outcomes=(), clean=clean, rescored=rescored
        ... )
        >>> per_class(profile, torch.tensor([0, 0, 1]))[0]
        {'class': 0, 'images': 2, 'accuracy': [0.5]}
    """
    broken_at, labels = profile.broken_at().cpu(), labels.cpu()
    levels = torch.arange(len(profile.epsilons))
    correct = (broken_at[:, None] == NEVER) | (broken_at[:, None] > levels)
    rows = []
    for label in labels.unique().tolist():
        own = correct[labels == label].double()
        rows.append({"class": label, "images": len(own), "accuracy": own.mean(dim=0).tolist()})
    return rows


def _single_draw(profile: Profile) -> tuple[list[float], list[tuple[float, float]]]:
    assert profile.single_draw is not None
    rows = list(profile.single_draw)
    return [float(row.double().mean()) for row in rows], [interval_of_mean(row) for row in rows]


def _headline(profile: Profile) -> tuple[list[float], list[tuple[float, float]]]:
    """Accuracy and interval at each strength; of votes and single draws, the lower one."""
    accuracy, intervals = profile.accuracy(), profile.interval()
    if profile.single_draw is None:
        return accuracy, intervals
    pairs = zip(
        zip(accuracy, intervals, strict=True), zip(*_single_draw(profile), strict=True), strict=True
    )
    lower = [min(pair, key=lambda entry: entry[0]) for pair in pairs]
    return [entry[0] for entry in lower], [entry[1] for entry in lower]


def _marks(profile: Profile, marks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The marks; the one of a randomised model with both of its accuracies."""
    if profile.single_draw is None:
        return {"marks": list(marks)} if marks else {}
    single, intervals = _single_draw(profile)
    numbers = {
        "vote_accuracy": profile.accuracy(),
        "single_draw_accuracy": single,
        "interval": [list(ends) for ends in intervals],
    }
    return {"marks": [m | numbers if m["name"] == "randomised" else m for m in marks]}


def _suite_record(profile: Profile, suite: Suite) -> dict[str, Any]:
    return {
        "name": suite.name,
        "independent": suite.independent,
        # A suite attacks what those before it left, so their breaks count too; an independent
        # suite counts alone.
        "accuracy": profile.accuracy(suite.name),
        "broken_at": profile.broken_at(suite.name).tolist(),
        "broken_by": profile.broken_by(suite.name),
        "attacks": [
            {
                **outcome.settings,
                "broken_at": outcome.broken_at.tolist(),
                "images_attacked": list(outcome.images_attacked),
                "forward_passes": outcome.forward_passes,
                "backward_passes": outcome.backward_passes,
                "seconds": outcome.seconds,
                **({} if outcome.alone is None else {"alone": outcome.alone}),
            }
            for outcome in profile.outcomes
            if outcome.suite == suite.name
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
    """Measure the internals of a composite model, for its record.

    Args:
        model: An AFA or AFS model; the result is empty for any other.
        split: Test images.
        threat: Builds the threat of a strength.
        epsilons: Strengths.
        seed: Random seed of the attack.

    Returns:
        For AFA, ``fusing_weight``: mean and standard deviation of W1 = 1 - W0 at each strength, on
        images attacked through the generator and through the fixed robust branch; and W1 of each of
        the first ``WEIGHTS_PER_RECORD`` images, to 4 digits. For AFS, the ``importance`` of each
        member.

    Source:
        AFA Fig. 6; AFS Fig. 4(b).

    Example:
        >>> import torch
        >>> from equipoise.attacks.threat import Linf
        >>> from equipoise.data import Split
        >>> from equipoise.evaluation import model_internals
        >>> from equipoise.models import FeatureStack, WideResNet
        >>> members = [WideResNet(depth=10, width=1, classes=2) for _ in range(2)]
        >>> stack = FeatureStack(members, classes=2).eval()
        >>> pixels = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
        >>> split = Split(images=pixels, labels=torch.tensor([0]), classes=2)
        >>> internals = model_internals(stack, split, threat=Linf, epsilons=(0.0,), seed=0)
        >>> len(internals["importance"])
        2
    """
    if isinstance(model, FeatureStack):
        return {"importance": model.importance().tolist()}
    if not isinstance(model, AdaptiveNetwork):
        return {}
    sources: dict[str, Predict] = {
        "through_generator": model,
        "through_robust_branch": partial(model, weight=0.0),
    }
    curves: dict[str, list[dict[str, Any]]] = {name: [] for name in sources}
    with attack_mode(model):
        for name, source in sources.items():
            for epsilon in epsilons:
                generator = torch.Generator(split.device)
                generator.manual_seed(derive_seed(seed, "insides", name, f"{epsilon}"))
                w1 = _fusing_weights(model, source, split, threat, epsilon, generator)
                curves[name].append(
                    {
                        "mean": float(w1.mean()),
                        "std": float(w1.std(correction=0)),
                        "per_image": [
                            round(value, 4) for value in w1[:WEIGHTS_PER_RECORD].tolist()
                        ],
                    }
                )
    return {"fusing_weight": curves}


def _fusing_weights(
    model: AdaptiveNetwork,
    source: Predict,
    split: Split,
    threat: Callable[[float], Threat],
    epsilon: float,
    generator: torch.Generator,
) -> Tensor:
    """Return W1 of every image, attacked through ``source`` at one strength."""
    search = PGD(steps=20, relative_step=0.25)
    weights = []
    for rows in torch.arange(len(split), device=split.device).split(256):
        images, labels = split.batch(rows)
        images = images.contiguous(memory_format=torch.channels_last)
        if epsilon > 0:
            images = search(cross_entropy(source, labels), images, threat(epsilon), generator)
        with torch.no_grad():
            weights.append(1 - model.logits_and_weight(images)[1])
    return torch.cat(weights)
