"""What one self-check says, and how shares of images are graded."""

from dataclasses import dataclass, replace
from math import isfinite
from typing import Literal

from equipoise.evaluation.statistics import wilson_interval

Verdict = Literal["pass", "warn", "fail"]

LEAST_FAILURE = 0.005
"""Share of images below which a score cannot be flattered enough for a check to fail."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check measured.

    Args:
        name: Name of the check, such as ``"randomised"``.
        verdict: ``"fail"``: the score is meaningless or too high; ``"warn"``: investigate before
            you trust it.
        found: One sentence with the numbers.
        meaning: One sentence: what it means for the score, and what to do.
        numbers: The same numbers for a record; shares are in [0, 1]. ``"could_flatter"`` is by how
            much the score could be too high because of this.
    """

    name: str
    verdict: Verdict
    found: str
    meaning: str
    numbers: dict[str, float]

    @classmethod
    def of(
        cls,
        name: str,
        verdict: Verdict,
        found: str,
        numbers: dict[str, float],
        *,
        good: str,
        bad: str,
    ) -> "Finding":
        """Make a finding whose meaning is ``good`` if it passed, else ``bad``.

        Numbers that are not finite are left out, because JSON has no NaN.
        """
        numbers = {key: value for key, value in numbers.items() if isfinite(value)}
        meaning = good if verdict == "pass" else bad
        return cls(name=name, verdict=verdict, found=found, meaning=meaning, numbers=numbers)

    def weighed(self, exposed: float) -> "Finding":
        """Say by how many points the score could be too high; fail only if it could be.

        Args:
            exposed: Upper bound of it, in [0, 1], where the check does not name one.
        """
        if self.verdict == "pass":
            numbers = {**self.numbers, "could_flatter": self.numbers.get("could_flatter", 0.0)}
            return replace(self, numbers=numbers)
        share = self.numbers.get("could_flatter", exposed)
        points = f"{100 * share:.1f} point{'' if f'{100 * share:.1f}' == '1.0' else 's'}"
        return replace(
            self,
            verdict="warn" if share < LEAST_FAILURE else self.verdict,
            found=f"{self.found} The score could be up to {points} too high because of this.",
            numbers={**self.numbers, "could_flatter": share},
        )


def grade(hits: int, count: int, *, warn: float, fail: float) -> Verdict:
    """Grade a share of images. A single image never counts, because it may be chance.

    Args:
        hits: Number of images that indicate a problem.
        count: Number of images looked at.
        warn: Share, in [0, 1], to exceed by more than sampling noise: the lower end of the Wilson
            interval of one standard error is compared with it.
        fail: The same for a failure.

    Returns:
        The verdict.

    Example:
        >>> from equipoise.evaluation.self_check_finding import grade
        >>> [grade(hits, 128, warn=0.02, fail=0.08) for hits in (1, 3, 6, 20)]
        ['pass', 'pass', 'warn', 'fail']
    """
    least = wilson_interval(hits, count, z=1.0)[0] if hits > 1 else 0.0
    return "fail" if least > fail else "warn" if least > warn else "pass"
