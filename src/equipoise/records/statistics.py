"""Confidence intervals."""

import math


def wilson_interval(hits: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The Wilson score interval of a proportion.

    Args:
        hits: Successes.
        count: Trials, 1 or more.
        z: Normal quantile; 1.96 for 95 %.

    Returns:
        Lower and upper end, in [0, 1].

    Source:
        Wilson 1927.
    """
    if count < 1 or not 0 <= hits <= count:
        raise ValueError(f"hits must be in [0, count] and count 1 or more, got {hits} of {count}.")
    share, width = hits / count, z * z / count
    centre = (share + width / 2) / (1 + width)
    half = z * math.sqrt(share * (1 - share) / count + width / (4 * count)) / (1 + width)
    return max(0.0, centre - half), min(1.0, centre + half)
