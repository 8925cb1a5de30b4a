"""Confidence intervals."""

import math

from equipoise.runtime.errors import InvalidInput


def wilson_interval(hits: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson score interval of a proportion.

    Args:
        hits: Number of successes; a sum of shares is one, too.
        count: Number of trials, 1 or more.
        z: Normal quantile; 1.96 for 95 %.

    Returns:
        Lower and upper end, in [0, 1].

    Raises:
        ValueError: If ``count`` is below 1 or ``hits`` is not in [0, count].

    Source:
        Wilson 1927, "Probable inference, the law of succession, and statistical inference".

    Example:
        >>> low, high = wilson_interval(81, 263)
        >>> round(low, 4), round(high, 4)
        (0.2553, 0.3662)
    """
    if count < 1 or not 0 <= hits <= count:
        raise InvalidInput(
            f"hits must be in [0, count] and count must be 1 or more, got {hits} of {count}."
        )
    share, width = hits / count, z * z / count
    centre = (share + width / 2) / (1 + width)
    half = z * math.sqrt(share * (1 - share) / count + width / (4 * count)) / (1 + width)
    return max(0.0, centre - half), min(1.0, centre + half)
