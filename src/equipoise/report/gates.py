"""Decide whether evaluations pass: accuracy at least as high as required, no self-check failed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from equipoise.records.epsilon import format_epsilon, parse_epsilon
from equipoise.report.record import Record
from equipoise.report.self_checks import open_checks
from equipoise.runtime.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """Lowest accuracy that passes at one strength.

    Args:
        accuracy: Share of the images, in [0, 1].
        epsilon: Strength in pixel units; 0 for clean images.
    """

    accuracy: float
    epsilon: float


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One reason for which an evaluation does not pass.

    Args:
        kind: ``"requirement"`` or ``"check"``.
        record: Index of the record among those given.
        text: What failed, with the model's name.
    """

    kind: Literal["requirement", "check"]
    record: int
    text: str


def parse_requirement(text: str) -> Requirement:
    """Parse a lowest accuracy such as ``0.3@8/255``.

    Args:
        text: Accuracy in [0, 1], ``@``, and a strength; ``0.8@0`` is for clean images.

    Raises:
        ValueError: If a part is missing, or the accuracy is not in [0, 1].

    Example:
        >>> parse_requirement("0.3@0.1")
        Requirement(accuracy=0.3, epsilon=0.1)
        >>> parse_requirement("30@8/255")
        Traceback (most recent call last):
        ...
        equipoise...InvalidInput: --fail-under takes an accuracy in [0, 1] and ...
    """
    share, found, strength = text.partition("@")
    try:
        accuracy = float(share)
    except ValueError:
        accuracy = math.nan
    if not found or not 0 <= accuracy <= 1:
        raise InvalidInput(
            "--fail-under takes an accuracy in [0, 1] and a strength, such as 0.3@8/255 or 0.8@0 "
            f"for clean images, got {text!r}."
        )
    return Requirement(accuracy=accuracy, epsilon=parse_epsilon(strength))


def check_strengths(requirements: Sequence[Requirement], epsilons: Sequence[float]) -> None:
    """Reject a requirement at a strength that will not be evaluated.

    Args:
        requirements: Lowest accuracies.
        epsilons: Strengths of the evaluation; 0 is always one of them.

    Raises:
        ValueError: If one is missing.
    """
    for requirement in requirements:
        if _level([0.0, *epsilons], requirement.epsilon) is None:
            raise InvalidInput(
                f"--fail-under asks for {format_epsilon(requirement.epsilon)}, which is not among "
                f"the strengths {', '.join(map(format_epsilon, epsilons))}; add it to --epsilons."
            )


def failures_of(
    records: Sequence[Record], requirements: Sequence[Requirement] = ()
) -> list[Failure]:
    """List what does not pass: accuracies below a requirement, and failed self-checks.

    Args:
        records: Evaluations.
        requirements: Lowest accuracies, which each record must reach. A strength that a record does
            not have fails, too.

    Returns:
        Failures, in the order of the records; empty if all pass.
    """
    found: list[Failure] = []
    for number, record in enumerate(records):
        misses = [_miss(record, requirement) for requirement in requirements]
        found += [
            Failure(kind="requirement", record=number, text=f"{record['model']}: {miss}")
            for miss in misses
            if miss is not None
        ]
        found += [
            Failure(kind="check", record=number, text=f"{record['model']}: check {check.name}")
            for check in open_checks(record)
            if check.verdict == "fail"
        ]
    return found


def _miss(record: Record, requirement: Requirement) -> str | None:
    """Say how a record misses a requirement; ``None`` if it does not."""
    level = _level(record["epsilons"], requirement.epsilon)
    strength = format_epsilon(requirement.epsilon)
    if level is None:
        return f"not evaluated at {strength}"
    accuracy = record["headline"]["accuracy"][level]
    if accuracy >= requirement.accuracy:
        return None
    return f"accuracy {accuracy:.4g} at {strength} is under {requirement.accuracy:g}"


def _level(epsilons: Sequence[float], epsilon: float) -> int | None:
    close = (n for n, value in enumerate(epsilons) if math.isclose(value, epsilon, abs_tol=1e-9))
    return next(close, None)
