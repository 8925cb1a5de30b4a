"""Series that two libraries draw: plotly.js on the HTML page, matplotlib in figure files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""The palette of Okabe and Ito, distinguishable with colour blindness; without its yellow."""
GREY = "#7F7F7F"
ATTACK_PATHS = ("through_generator", "through_robust_branch")
"""Fields of a record's fusing weight: what the attacked images were made through."""


@dataclass(frozen=True, kw_only=True)
class Band:
    """A curve with a band of one standard deviation.

    Args:
        mean: Height of the curve at each point.
        spread: Standard deviation at each point.
        low: Lower edge of the band.
        high: Upper edge of the band.
    """

    mean: list[float]
    spread: list[float]
    low: list[float]
    high: list[float]


def over_seeds(curves: Sequence[Sequence[float]]) -> tuple[list[float], list[float] | None]:
    """Mean and standard deviation over seeds at each point of a curve.

    Args:
        curves: One curve for each seed, all of one length.

    Returns:
        The means, and the standard deviations; ``None`` for a single seed.

    Example:
        >>> over_seeds([[0.9, 0.5], [0.7, 0.5]])[0]
        [0.8, 0.5]
        >>> over_seeds([[0.9, 0.5]])
        ([0.9, 0.5], None)
    """
    points = list(zip(*curves, strict=True))
    spread = [stdev(point) for point in points] if len(curves) > 1 else None
    return [mean(point) for point in points], spread


def fusing_weight_band(curves: Sequence[Sequence[Mapping[str, Any]]]) -> Band:
    """Mean fusing weight W1 at each strength, with its deviation over images as a band.

    Args:
        curves: For each seed, a record's ``"mean"`` and ``"std"`` over images at each strength.

    Returns:
        Mean and deviation, each averaged over seeds; the band is cut off at 0 and 1.

    Source:
        AFA Fig. 6.

    Example:
        >>> curve = [{"mean": 0.25, "std": 0.5}, {"mean": 0.75, "std": 0.125}]
        >>> band = fusing_weight_band([curve])
        >>> band.mean, band.low, band.high
        ([0.25, 0.75], [0.0, 0.625], [0.75, 0.875])
    """
    points = list(zip(*curves, strict=True))
    means = [mean(seed["mean"] for seed in point) for point in points]
    spread = [mean(seed["std"] for seed in point) for point in points]
    pairs = list(zip(means, spread, strict=True))
    return Band(
        mean=means,
        spread=spread,
        low=[max(0.0, middle - deviation) for middle, deviation in pairs],
        high=[min(1.0, middle + deviation) for middle, deviation in pairs],
    )
