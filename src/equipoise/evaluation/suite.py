"""A suite of attacks, and the names that suites have."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from equipoise.evaluation.attack import Attack
from equipoise.runtime.errors import InvalidInput, did_you_mean
from equipoise.runtime.trust import names_function

SuiteName = Literal[
    "quick",
    "tables",
    "paper",
    "standard",
    "autoattack",
    "adaptive",
    "ratios",
    "queries",
    "transfer",
]
"""Names of our own suites. One of another package is written ``module:function``."""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Attacks that are reported together.

    Args:
        name: Name of the suite, the title of its column.
        attacks: The attacks, in order.
        independent: Run each attack on all images, whatever other attacks have broken, so that each
            has its own accuracy. Otherwise each attack sees only the images that survive so far.

    Example:
        >>> from equipoise.attacks import APGD
        >>> from equipoise.evaluation import SearchAttack, Suite
        >>> attack = SearchAttack(name="apgd-dlr", search=APGD(steps=200), loss="dlr")
        >>> Suite(name="mine", attacks=(attack,)).attacks[0].describe()["steps"]
        200
    """

    name: str
    attacks: tuple[Attack, ...]
    independent: bool = False


def check_suite_names(names: Sequence[str]) -> None:
    """Reject a name of no suite; what ``module:function`` names is imported only when it is used.

    Example:
        >>> check_suite_names(["quick", "my_package:my_suite"])
        >>> check_suite_names(["fast"])
        Traceback (most recent call last):
        equipoise...InvalidInput: a suite must be one of quick, ..., or the module:function ...
    """
    for name in names:
        if name not in get_args(SuiteName) and not names_function(name):
            raise InvalidInput(
                f"a suite must be one of {', '.join(get_args(SuiteName))}, or the module:function "
                f"that returns your own attacks, got {name!r}"
                f"{did_you_mean(name, get_args(SuiteName))}"
            )
