"""Recipe: everything that a run depends on, as one frozen dataclass that JSON can store."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import cattrs
from cattrs.gen import make_dict_structure_fn
from cattrs.strategies import configure_tagged_union

from equipoise.attacks.threat import Norm, check_strengths
from equipoise.data import Augmentation, DataSource
from equipoise.evaluation.suite import check_suite_names
from equipoise.methods import AFA, OAT, AnyMethod, Gate
from equipoise.objectives import AnyObjective
from equipoise.objectives.fat import FATBase
from equipoise.recipes.networks import AnyNetwork
from equipoise.records.epsilon import Epsilons
from equipoise.runtime.errors import InvalidInput
from equipoise.training import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Settings of the evaluation of a trained model.

    Args:
        epsilons: Attack strengths in pixel units; 0 is always evaluated.
        suites: Suites of attacks, in order: names of ours, or ``module:function``. The headline is
            the worst case over all of them.
        steps: Steps of each search, of epsilon / 4 each.
        restarts: Random restarts of each search in the suite ``quick``.
        images: Number of images, chosen as by ``Split.first``; ``None`` for all.
        part: ``"test"``, or ``"validation"`` for the images held out of the model's training, on
            which settings are chosen.
        norm: Norm of the threat.

    Raises:
        ValueError: If ``images`` is below 1, there is no strength or no suite, a suite is unknown
            or named twice, or the norm cannot have such a strength.

    Example:
        >>> Evaluation(epsilons=(0.0, 8 / 255), suites=("quick", "autoattack")).steps
        20
        >>> Evaluation(epsilons=())
        Traceback (most recent call last):
        ...
        equipoise...InvalidInput: epsilons must name at least one, got none.
    """

    epsilons: Epsilons
    suites: tuple[str, ...] = ("quick", "adaptive")
    steps: int = 20
    restarts: int = 1
    images: int | None = None
    part: Literal["test", "validation"] = "test"
    norm: Norm = "Linf"

    def __post_init__(self) -> None:
        check_strengths(self.norm, *self.epsilons)
        if self.images is not None and not (isinstance(self.images, int) and self.images >= 1):
            raise InvalidInput(f"images must be a whole number of 1 or more, got {self.images}.")
        for field, values in (("epsilons", self.epsilons), ("suites", self.suites)):
            if not values:
                raise InvalidInput(f"{field} must name at least one, got none.")
        check_suite_names(self.suites)
        repeated = {name for name in self.suites if self.suites.count(name) > 1}
        if repeated:
            raise InvalidInput(f"suites must differ, but {', '.join(repeated)} is named twice.")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One row of a table: data, network, method, loop, evaluation and seed.

    Args:
        name: Name of the recipe, its run folder and its records.
        dataset: Source of the images.
        network: The backbone.
        method: Training method and its settings.
        loop: Settings of the training loop.
        evaluation: Settings of the evaluation.
        seed: Random seed for weights, data order, augmentation and attacks.

    Example:
        >>> from equipoise.recipes import RECIPES
        >>> recipe = RECIPES["trades_digits"]()
        >>> recipe.name, type(recipe.method).__name__, recipe.seed
        ('trades_digits', 'SingleNetwork', 0)
    """

    name: str
    dataset: DataSource
    network: AnyNetwork
    method: AnyMethod
    loop: TrainingConfig
    evaluation: Evaluation
    seed: int = 0


MakeRecipe = Callable[[], Recipe]
"""An entry of the catalogue; its name is the recipe's, its docstring says what is trained."""


def row(recipe: Recipe, summary: str) -> MakeRecipe:
    """Make an entry of the catalogue for a recipe that was built from a table.

    Args:
        recipe: The recipe.
        summary: One line that says what it trains and ends in a full stop.

    Returns:
        A function that returns the recipe; its name is the recipe's, its docstring the summary.
    """

    def make() -> Recipe:
        return recipe

    make.__name__ = make.__qualname__ = recipe.name
    make.__doc__ = summary
    return make


def variant(name: str, summary: str, base: MakeRecipe, **changes: Any) -> MakeRecipe:
    """Make an entry of the catalogue for another entry with some fields of its method changed.

    Args:
        name: Name of the recipe.
        summary: One line that says what it trains and ends in a full stop.
        base: The recipe to start from.
        changes: Fields of the method and their values.

    Example:
        >>> from equipoise.objectives import TRADES
        >>> from equipoise.recipes.digits import pgd_at_digits
        >>> make = variant("my_trades", "TRADES, beta 6.", pgd_at_digits, objective=TRADES())
        >>> make.__name__, make().method.objective
        ('my_trades', TRADES(beta=6.0))
    """
    recipe = base()
    method: Any = replace(recipe.method, **changes)
    return row(replace(recipe, name=name, method=method), summary)


def objective_rows(
    base: MakeRecipe, rows: Mapping[str, tuple[str, AnyObjective]]
) -> tuple[MakeRecipe, ...]:
    """Make entries of the catalogue for another entry with other objectives.

    Args:
        base: The recipe to start from.
        rows: Summary and objective by the name of the recipe.
    """
    return tuple(
        variant(name, summary, base, objective=objective)
        for name, (summary, objective) in rows.items()
    )


def to_json(recipe: Any) -> Any:
    """Convert a recipe, or any part of one, to JSON values.

    Members of a union (data set, network, method, objective) carry their type as ``"kind"``.

    Example:
        >>> from equipoise.objectives import TRADES
        >>> to_json(TRADES(beta=3.0))
        {'beta': 3.0, 'kind': 'TRADES'}
    """
    unions = {
        part: union
        for union in (DataSource, AnyNetwork, AnyMethod, AnyObjective)
        for part in union.__args__
    }
    return _converter().unstructure(recipe, unions.get(type(recipe), type(recipe)))


def from_json(content: Any, kind: Any = Recipe) -> Any:
    """Convert JSON values to a recipe, or to a part of one.

    Args:
        content: Values as ``to_json`` returns them. Fields that later versions added may be
            missing; fields that they removed may be present at their default.
        kind: Type of the part.

    Raises:
        ValueError: If a field is missing, unknown or of the wrong type; the message names it.

    Example:
        >>> from equipoise.objectives import AnyObjective
        >>> from_json({"kind": "TRADES", "beta": 3.0}, AnyObjective)
        TRADES(beta=3.0)
    """
    try:
        return _converter().structure(content, kind)
    except Exception as error:  # cattrs raises exception groups
        reasons = "; ".join(cattrs.transform_error(error, format_exception=_reason))
        raise InvalidInput(f"not a recipe of this version: {reasons}.") from error


def _reason(error: BaseException, kind: Any) -> str:
    if type(error) in (ValueError, InvalidInput):
        return str(error).rstrip(".")
    if isinstance(error, KeyError):
        return f"no field or kind {error}"
    return cattrs.v.format_exception(error, kind)


REMOVED: dict[type, dict[str, Any]] = {
    AFA: {"nested": False},
    Gate: {"evasion": 0.0, "strengths": None},
    OAT: {"encoding_seed": 0, "default": None},
    Augmentation: {"operations": 0, "magnitude": 0.5},
}
"""Fields that were removed, and their old defaults: a recipe with these values still loads."""


def _ignoring_removed(kind: type, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
    """Make a structure hook that accepts removed fields at their old defaults."""
    structure: Callable[[Any, Any], Any] = make_dict_structure_fn(
        kind, converter, _cattrs_forbid_extra_keys=True
    )
    removed = REMOVED[kind]

    def checked(content: Any, target: Any) -> Any:
        if not isinstance(content, dict):
            return structure(content, target)
        for name in removed.keys() & content.keys():
            if content[name] != removed[name]:
                raise InvalidInput(
                    f"{kind.__name__} had a field {name} in an earlier version; only its default, "
                    f"{removed[name]}, can still be read, got {content[name]}; use that version"
                )
        fields = {name: value for name, value in content.items() if name not in removed}
        return structure(fields, target)

    return checked


@functools.cache
def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    converter.register_structure_hook_factory(REMOVED.__contains__)(_ignoring_removed)
    converter.register_unstructure_hook(Path, str)
    converter.register_structure_hook(Path, lambda value, _: Path(value))
    # Inner unions first.
    for union in (FATBase, AnyObjective, DataSource, AnyNetwork, AnyMethod):
        configure_tagged_union(union, converter, tag_name="kind")
    structure_tagged = converter.get_structure_hook(AnyNetwork)

    def structure_network(value: Any, kind: Any) -> Any:
        # Recipes from before there was a second kind of network have no kind.
        untagged = isinstance(value, dict) and "kind" not in value
        return structure_tagged(value | {"kind": "WideResNetShape"} if untagged else value, kind)

    converter.register_structure_hook(AnyNetwork, structure_network)
    return converter
