"""Whether a model answers better than one that gives the same class for every image."""

import math
from itertools import pairwise

from equipoise.evaluation.statistics import wilson_interval
from equipoise.report.record import Record, attack_count

COLLAPSED = "collapsed"
"""Name of the check that a record of a collapsed model fails, whatever its own checks say."""
_WITHIN = 0.1
"""Largest distance from chance of the upper end of a collapsed model's 95 % interval."""
_FLAT_AT_MOST = 0.5
"""A record that does not say how many images each class has is collapsed if its accuracy is the
same at every strength and at most this high."""


def chance_level(record: Record) -> float:
    """Accuracy of a model that gives one class for every image: the largest class's share.

    Args:
        record: An evaluation.

    Returns:
        A share of the images; 0 if the record does not say how many images each class has.

    Example:
        >>> chance_level({"images": 4, "per_class": [{"images": 3}, {"images": 1}]})
        0.75
    """
    counts = [row["images"] for row in record.get("per_class") or []]
    return max(counts, default=0) / record["images"]


def above_chance(record: Record) -> bool:
    """Whether the accuracy at the strongest strength is above chance, or above 0 if unknown."""
    return bool(record["headline"]["accuracy"][-1] > chance_level(record))


def collapse_of(record: Record) -> str | None:
    """Say why a model counts as collapsed.

    A collapsed model's clean accuracy is at most one standard error above chance. In a record
    without accuracies per class, it is the same at every strength, and at most 50 %. Few images
    show nothing: the 95 % interval must end within ``_WITHIN`` of chance.

    Args:
        record: An evaluation.

    Returns:
        A sentence with the numbers; ``None`` for a model that has not collapsed, and for a record
        without a headline.

    Example:
        >>> flat = {"images": 90, "epsilons": [0.0, 0.1], "headline": {"accuracy": [0.1, 0.1]},
        ...         "suites": [{"attacks": [{"name": "pgd"}]}]}
        >>> collapse_of(flat)
        'Accuracy is 10.0 % at every strength, without an attack and under all of them.'
    """
    if "headline" not in record:
        return None
    accuracy, chance, images = (
        record["headline"]["accuracy"],
        chance_level(record),
        record["images"],
    )
    clean = accuracy[0]
    high = wilson_interval(round(clean * images), images)[1]
    if chance:
        error = math.sqrt(chance * (1 - chance) / images)
        if chance == 1 or clean > chance + error or high > chance + _WITHIN:
            return None
        return (
            f"Clean accuracy is {100 * clean:.1f} %; one class for every image would reach "
            f"{100 * chance:.1f} %."
        )
    attacked = record["epsilons"][-1] > 0 and attack_count(record) > 0
    flat = all(first == second for first, second in pairwise(accuracy))
    if attacked and flat and 0 < clean <= _FLAT_AT_MOST and high <= clean + _WITHIN:
        return (
            f"Accuracy is {100 * clean:.1f} % at every strength, without an attack and "
            "under all of them."
        )
    return None
