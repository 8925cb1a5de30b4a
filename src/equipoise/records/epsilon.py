"""How an attack strength is written and read: ``8/255`` in, ``8/255`` out. Never imports torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

import tyro


def parse_epsilon(text: str) -> float:
    """Read an attack strength in pixel units from text.

    Args:
        text: ``"8/255"``, ``"0.03"``, ``"0"``, or ``"3"`` for a length under L2.

    Returns:
        The strength, 0 or more. Whether it is too large the threat says: ``Linf`` refuses ``8``,
        which is the papers' shorthand for 8/255 and, read as pixels, allows any image.

    Raises:
        ValueError: If the text is no number of 0 or more.
    """
    try:
        above, _, below = text.partition("/")
        # Not Fraction, which writes 1e999999999 out.
        value = float(above) / (int(below) if "/" in text else 1)
        if not math.isfinite(value):
            raise ValueError
    except (ValueError, ZeroDivisionError, OverflowError):
        raise ValueError(
            f"epsilon must be a number or a fraction such as 8/255, got {text!r}."
        ) from None
    if value < 0:
        raise ValueError(f"epsilon must be 0 or more, got {text.strip()}.")
    return value


def check_epsilon(value: float) -> float:
    """Return ``value`` if it is a distance in [0, 1] pixel units, as between two pixels.

    Raises:
        ValueError: If it is not; the message names the remedy.
    """
    if math.isfinite(value) and 0.0 <= value <= 1.0:
        return float(value)
    remedy = f" For the papers' {value:g} write {value:g}/255." if 1 < value <= 255 else ""
    raise ValueError(f"epsilon must be in [0, 1] pixel units, got {value:g}.{remedy}")


def format_epsilon(value: float) -> str:
    """Write a strength as the fraction of 255 that it is, or else as a short decimal.

    Returns:
        ``"8/255"`` for 0.03137..., ``"0"`` for 0, ``"0.2"`` for 0.2 although it is 51/255.
    """
    levels = value * 255
    if value == 0 or value == 1:
        return f"{value:g}"
    if abs(levels - round(levels)) < 1e-6 and round(value, 2) != value and levels > 0.5:
        return f"{round(levels)}/255"
    return f"{value:.4g}"


def _written(read: Callable[[str], float]) -> tyro.constructors.PrimitiveConstructorSpec[float]:
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="EPSILON",
        instance_from_str=lambda arguments: read(arguments[0]),
        is_instance=lambda value: isinstance(value, (int, float)),
        str_from_instance=lambda value: [format_epsilon(value)],
    )


Epsilon = Annotated[float, _written(parse_epsilon)]
"""A strength in pixel units; on the command line ``8/255`` or a decimal."""

Distance = Annotated[float, _written(lambda text: check_epsilon(parse_epsilon(text)))]
"""A deviation in [0, 1] pixel units, written like a strength."""

Epsilons = Annotated[
    tuple[float, ...],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="[EPSILON [EPSILON ...]]",
        instance_from_str=lambda arguments: tuple(
            parse_epsilon(text) for text in ",".join(arguments).split(",") if text
        ),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [format_epsilon(one) for one in value],
    ),
]
"""Strengths, apart by spaces or commas, whose refusal tyro's own tuples would swallow."""
