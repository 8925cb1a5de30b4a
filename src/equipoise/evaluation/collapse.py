"""Whether a model answers better than one that gives the same class for every image."""

import math
from itertools import pairwise
from typing import Any

from equipoise.evaluation.statistics import wilson_interval

COLLAPSED = "collapsed"
"""Name of the check that a record of a collapsed model fails, whatever its own checks say."""
_WITHIN = 0.1
"""Largest distance from chance of the upper end of a collapsed model's 95 % interval."""
_FLAT_AT_MOST = 0.5
"""A record that does not say how many images each class has is collapsed if its accuracy is the
same at every strength and at most this high."""


def chance_level(record: dict[str, Any]) -> float:
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


def above_chance(record: dict[str, Any]) -> bool:
    """Whether the accuracy at the strongest strength is above chance, or above 0 if unknown."""
    return bool(record["headline"]["accuracy"][-1] > chance_level(record))


def at_chance(clean: float, chance: float, images: int) -> bool:
    """Whether a model answers no better than one that gives the same class for every image.

    Its clean accuracy is at most one standard error above chance. Few images show nothing: the 95 %
    interval must end within ``_WITHIN`` of chance.

    Args:
        clean: Clean accuracy.
        chance: Share of the largest class.
        images: Number of images.

    Example:
        >>> at_chance(0.1, 0.1, 1000), at_chance(0.1, 0.1, 4), at_chance(0.2, 0.1, 1000)
        (True, False, False)
    """
    error = math.sqrt(chance * (1 - chance) / images)
    return chance < 1 and clean <= chance + error and _high(clean, images) <= chance + _WITHIN


def collapse_of(record: dict[str, Any]) -> str | None:
    """Say why a model counts as collapsed.

    A collapsed model is ``at_chance``. In a record without accuracies per class, its accuracy is
    the same at every strength, and at most 50 %.

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
    if chance:
        if not at_chance(clean, chance, images):
            return None
        return (
            f"Clean accuracy is {100 * clean:.1f} %; one class for every image would reach "
            f"{100 * chance:.1f} %."
        )
    attacked = record["epsilons"][-1] > 0 and any(suite["attacks"] for suite in record["suites"])
    flat = all(first == second for first, second in pairwise(accuracy))
    near = 0 < clean <= _FLAT_AT_MOST and _high(clean, images) <= clean + _WITHIN
    if not (attacked and flat and near):
        return None
    return (
        f"Accuracy is {100 * clean:.1f} % at every strength, without an attack and under all of "
        "them."
    )


def _high(accuracy: float, images: int) -> float:
    """Upper end of the 95 % interval of an accuracy."""
    return wilson_interval(round(accuracy * images), images)[1]
