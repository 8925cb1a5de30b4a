"""How an attack strength is written and read: ``8/255`` in, ``8/255`` out. Never imports torch."""

from __future__ import annotations

import math
from typing import Annotated

import tyro


def parse_epsilon(text: str) -> float:
    """Read an attack strength in [0, 1] pixel units from text.

    Args:
        text: ``"8/255"``, ``"0.03"`` or ``"0"``.

    Returns:
        The strength as a float in [0, 1].

    Raises:
        ValueError: If the text is no number, or the number lies outside [0, 1]. A bare ``8`` is
            refused: it is the papers' shorthand for 8/255 and, read as pixels, allows any image.
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
    return check_epsilon(value)


def check_epsilon(value: float) -> float:
    """Return ``value`` if it is an attack strength in [0, 1] pixel units.

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


def _from_arguments(arguments: list[str]) -> float:
    return parse_epsilon(arguments[0])


Epsilon = Annotated[
    float,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="EPSILON",
        instance_from_str=_from_arguments,
        is_instance=lambda value: isinstance(value, (int, float)),
        str_from_instance=lambda value: [format_epsilon(value)],
    ),
]
"""A strength in [0, 1] pixel units; on the command line ``8/255`` or a decimal."""

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
