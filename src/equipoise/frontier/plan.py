"""What competes: methods, the one setting of each that is searched, and its values."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from equipoise.data import DataSource
from equipoise.recipes import RECIPES, Recipe, from_json, to_json
from equipoise.records.epsilon import parse_epsilon
from equipoise.runtime.errors import InvalidInput, did_you_mean

PREFERENCE = "preference"
"""Knob of a conditional network (OAT), which is turned after training."""
KNOBS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "pgd_at": ("method.epsilon", (0.5, 0.625, 0.75, 0.875, 1.0)),
    "nfgsm": ("method.epsilon", (0.5, 0.75, 1.0)),
    "trades": ("method.objective.beta", (1.0, 3.0, 6.0)),
    "mart": ("method.objective.beta", (1.0, 5.0)),
    "gat": ("method.objective.weight", (5.0, 10.0, 20.0)),
    "iat": ("", ()),
    "fat": ("", ()),
    "lbgat": ("", ()),
    "oat": (PREFERENCE, (0.0, 0.2, 0.5, 1.0)),
    "afa": ("method.gate.ceiling", (0.1, 0.3, 1.0)),
    "afs": ("method.alpha", (0.2, 0.5, 0.8)),
}
"""For each method: the setting that trades clean for robust accuracy, and values to try.

Values of ``method.epsilon`` are shares of the strongest attack of the evaluation.
"""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A method and the values of its one knob.

    Args:
        name: Name in table and figure.
        recipe: The recipe that is varied.
        knob: Dotted path of a field of the recipe; ``preference`` for OAT, whose trained network
            takes it; empty for a method without one.
        values: Values of that field.

    Raises:
        ValueError: If there is a knob without values.
    """

    name: str
    recipe: Recipe
    knob: str = ""
    values: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        if self.knob and not self.values:
            raise InvalidInput(f"{self.name}: {self.knob} needs at least one value, got none.")

    def candidates(self) -> list["Candidate"]:
        """The recipe at each value of the knob.

        Raises:
            ValueError: If the recipe has no such field, or refuses a value.
        """
        if not self.knob:
            return [Candidate(method=self.name, recipe=self.recipe)]
        if self.knob == PREFERENCE:
            return [
                Candidate(method=self.name, recipe=self.recipe, knob=self.knob, value=value)
                for value in self.values
            ]
        content = to_json(self.recipe)
        return [
            Candidate(
                method=self.name,
                recipe=from_json(_with_field(content, self.knob.split("."), value, self.knob)),
                knob=self.knob,
                value=value,
            )
            for value in self.values
        ]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One point that may be on a front.

    Args:
        method: Name of its contender.
        recipe: What is trained.
        knob: The knob of the contender.
        value: Its value here.
    """

    method: str
    recipe: Recipe
    knob: str = ""
    value: Any = None

    @property
    def preference(self) -> float | None:
        """Lambda to evaluate at, for OAT."""
        return float(self.value) if self.knob == PREFERENCE else None

    def key(self) -> str:
        """Name of what is trained, for files: candidates that differ after training share it."""
        if not self.knob or self.knob == PREFERENCE:
            return self.method
        return f"{self.method}__{self.knob.rpartition('.')[2]}_{self.value:g}"


def contender(
    method: str, values: Sequence[float] = (), source: DataSource | None = None
) -> Contender:
    """A method of ``KNOBS`` on a data set.

    Args:
        method: A key of ``KNOBS``.
        values: Values of its knob in place of those there.
        source: The data set; digits by default. Recipes for other data are those of compact
            CIFAR-10.

    Raises:
        ValueError: If there is no such method.

    Example:
        >>> trades = contender("trades", values=(1.0,))
        >>> trades.recipe.name, trades.candidates()[0].recipe.method.objective
        ('trades_digits', TRADES(beta=1.0))
    """
    if method not in KNOBS:
        raise InvalidInput(
            f"a method must be one of {', '.join(KNOBS)}, or written RECIPE:FIELD=VALUE,VALUE, got "
            f"{method!r}{did_you_mean(method, KNOBS)}"
        )
    recipe = _recipe(method, source)
    knob, defaults = KNOBS[method]
    if values and not knob:
        raise InvalidInput(f"{method} has no knob, got values {list(values)}; leave them out.")
    if not values and knob == "method.epsilon":
        top = max(recipe.evaluation.epsilons)
        defaults = tuple(share * top for share in defaults)
    return Contender(name=method, recipe=recipe, knob=knob, values=tuple(values) or defaults)


def parse_contender(text: str, source: DataSource | None = None) -> Contender:
    """Read a contender as the command line writes it.

    Args:
        text: ``METHOD``, ``METHOD=VALUE,VALUE``, or ``RECIPE:FIELD=VALUE,VALUE``.
        source: The data set, as for ``contender``.

    Raises:
        ValueError: If the method, recipe or field is unknown, or a value is not a number.

    Example:
        >>> parse_contender("pgd_at=0.1,0.2").values
        (0.1, 0.2)
        >>> parse_contender("mart_digits:method.objective.beta=2").candidates()[0].key()
        'mart_digits__beta_2'
    """
    name, equals, written = text.partition("=")
    values = tuple(parse_epsilon(value) for value in written.split(",")) if equals else ()
    recipe, colon, field = name.partition(":")
    if not colon:
        return contender(name, values, source)
    if recipe not in RECIPES:
        raise InvalidInput(
            f"there is no recipe {recipe!r}{did_you_mean(recipe, RECIPES)} `equipoise list` shows "
            "them."
        )
    made = RECIPES[recipe]()
    made = made if source is None else replace(made, dataset=source)
    return Contender(name=recipe, recipe=made, knob=field, values=values)


def _recipe(method: str, source: DataSource | None) -> Recipe:
    if source is None:
        return RECIPES[f"{method}_digits"]()
    return replace(RECIPES[f"{method}_cifar10_compact"](), dataset=source)


def _with_field(content: Any, path: Sequence[str], value: Any, whole: str) -> Any:
    """A copy of JSON values with one nested field changed."""
    if not isinstance(content, Mapping) or path[0] not in content:
        known = ", ".join(content) if isinstance(content, Mapping) else "none"
        raise InvalidInput(f"the recipe has no field {whole} ({path[0]} is not one of {known}).")
    inner = _with_field(content[path[0]], path[1:], value, whole) if len(path) > 1 else value
    changed: dict[str, Any] = json.loads(json.dumps(dict(content)))
    return changed | {path[0]: inner}
