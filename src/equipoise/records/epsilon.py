"""Parse and format attack strengths such as ``8/255``. Never imports torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

import tyro

from equipoise.runtime.errors import InvalidInput


def parse_epsilon(text: str) -> float:
    """Parse an attack strength in pixel units.

    Args:
        text: ``"8/255"``, ``"0.03"``, ``"0"``, or ``"3"`` for a length under L2.

    Returns:
        The strength, 0 or more. There is no upper bound here: ``Linf`` refuses ``8``, the papers'
        shorthand for 8/255, which would allow any image.

    Raises:
        ValueError: If the text is not a number, or is negative.

    Example:
        >>> parse_epsilon("8/255") == 8 / 255
        True
        >>> parse_epsilon("8/256/2")
        Traceback (most recent call last):
        ...
        equipoise...InvalidInput: epsilon must be a number or a fraction such as 8/255, got ...
    """
    try:
        numerator, _, denominator = text.partition("/")
        # Not Fraction, which would expand 1e999999999.
        value = float(numerator) / (int(denominator) if "/" in text else 1)
        if not math.isfinite(value):
            raise ValueError
    except (ValueError, ZeroDivisionError, OverflowError):
        raise InvalidInput(
            f"epsilon must be a number or a fraction such as 8/255, got {text!r}."
        ) from None
    if value < 0:
        raise InvalidInput(f"epsilon must be 0 or more, got {text.strip()}.")
    return value


def check_epsilon(value: float) -> float:
    """Return a distance if it is in [0, 1] pixel units, as between two pixel values.

    Args:
        value: The distance.

    Raises:
        ValueError: If it is not in [0, 1].

    Example:
        >>> check_epsilon(8)
        Traceback (most recent call last):
        ...
        equipoise...InvalidInput: epsilon must be in [0, 1] pixel units, got 8. For the papers' ...
    """
    if math.isfinite(value) and 0.0 <= value <= 1.0:
        return float(value)
    remedy = f" For the papers' {value:g} write {value:g}/255." if 1 < value <= 255 else ""
    raise InvalidInput(f"epsilon must be in [0, 1] pixel units, got {value:g}.{remedy}")


def format_epsilon(value: float) -> str:
    """Format a strength as a fraction of 255 if it is one, otherwise as a short decimal.

    Args:
        value: The strength in pixel units.

    Returns:
        ``"8/255"`` for 0.03137..., ``"0"`` for 0, and ``"0.2"`` for 0.2, although that is 51/255.

    Example:
        >>> [format_epsilon(value) for value in (0, 8 / 255, 0.2)]
        ['0', '8/255', '0.2']
    """
    levels = value * 255
    if value == 0 or value == 1:
        return f"{value:g}"
    if abs(levels - round(levels)) < 1e-6 and round(value, 2) != value and levels > 0.5:
        return f"{round(levels)}/255"
    return f"{value:.4g}"


def _argument(parse: Callable[[str], float]) -> tyro.constructors.PrimitiveConstructorSpec[float]:
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="EPSILON",
        instance_from_str=lambda arguments: parse(arguments[0]),
        is_instance=lambda value: isinstance(value, (int, float)),
        str_from_instance=lambda value: [format_epsilon(value)],
    )


Epsilon = Annotated[float, _argument(parse_epsilon)]
"""A strength in pixel units; ``8/255`` or a decimal on the command line."""

Distance = Annotated[float, _argument(lambda text: check_epsilon(parse_epsilon(text)))]
"""A distance in [0, 1] pixel units, written like a strength."""

Epsilons = Annotated[
    tuple[float, ...],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="[EPSILON [EPSILON ...]]",
        instance_from_str=lambda arguments: tuple(
            parse_epsilon(text) for text in ",".join(arguments).split(",") if text
        ),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [format_epsilon(epsilon) for epsilon in value],
    ),
]
"""Strengths, separated by spaces or commas. tyro's own tuples would hide the reason of an error."""
