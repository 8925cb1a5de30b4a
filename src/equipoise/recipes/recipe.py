"""A recipe: everything a run depends on, as one frozen dataclass that goes to JSON and back."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cattrs
from cattrs.gen import make_dict_structure_fn
from cattrs.strategies import configure_tagged_union

from equipoise.data import Augmentation, DataSource
from equipoise.evaluation import SuiteName
from equipoise.methods import AFA, OAT, AnyMethod, Gate
from equipoise.methods.stage import Norm, check_strengths
from equipoise.objectives import AnyObjective
from equipoise.objectives.fat import FATBase
from equipoise.recipes.networks import AnyNetwork
from equipoise.records.epsilon import Epsilons
from equipoise.training import Loop


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How the trained model is judged.

    Args:
        epsilons: Strengths; 0 is always among them.
        suites: Attacks, in order; the headline is the worst case over all of them.
        steps: Steps of each search, of epsilon / 4 each.
        restarts: Random restarts of each search of the suite ``quick``.
        images: Only so many images, chosen as by ``Split.first``; ``None`` for all.
        part: ``"test"``, or ``"validation"`` for the images that were held out of the model's
            training: settings are chosen on those.
        norm: Geometry of the threat.

    Raises:
        ValueError: If a count is below 1, no strength, no suite or a suite twice is named, or the
            norm has no such strength.
    """

    epsilons: Epsilons
    suites: tuple[SuiteName, ...] = ("quick", "adaptive")
    steps: int = 20
    restarts: int = 1
    images: int | None = None
    part: Literal["test", "validation"] = "test"
    norm: Norm = "Linf"

    def __post_init__(self) -> None:
        check_strengths(self.norm, *self.epsilons)
        if self.images is not None and self.images < 1:
            raise ValueError(f"images must be 1 or more, got {self.images}.")
        for what, named in (("epsilons", self.epsilons), ("suites", self.suites)):
            if not named:
                raise ValueError(f"{what} must name at least one, got none.")
        twice = {name for name in self.suites if self.suites.count(name) > 1}
        if twice:
            raise ValueError(f"suites must differ, but {', '.join(twice)} is named twice.")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One row of a table: data, network, method, loop, evaluation and seed.

    Args:
        name: Also the name of its run folder and records.
        dataset: Where the images come from.
        network: The backbone.
        method: What is trained, and how.
        loop: How the loop runs.
        evaluation: How the result is judged.
        seed: Of everything random.
    """

    name: str
    dataset: DataSource
    network: AnyNetwork
    method: AnyMethod
    loop: Loop
    evaluation: Evaluation
    seed: int = 0


def row(recipe: Recipe, says: str) -> Callable[[], Recipe]:
    """An entry of the catalogue for a recipe that was made from a table.

    Args:
        recipe: The recipe.
        says: One line that ends in a full stop: what it trains.

    Returns:
        A function that returns the recipe, named like it, with the line as its docstring.
    """

    def make() -> Recipe:
        return recipe

    make.__name__ = make.__qualname__ = recipe.name
    make.__doc__ = says
    return make


def to_json(recipe: Any) -> Any:
    """A recipe, or any part of one, as JSON values; a member of a union names its kind."""
    unions = {
        part: union
        for union in (DataSource, AnyNetwork, AnyMethod, AnyObjective)
        for part in union.__args__
    }
    return _converter().unstructure(recipe, unions.get(type(recipe), type(recipe)))


def from_json(content: Any, kind: Any = Recipe) -> Any:
    """A recipe, or a part of one, from JSON values.

    Args:
        content: What ``to_json`` gave.
        kind: The part's type.

    Raises:
        ValueError: If a field is missing, unknown or of the wrong type; the message names it.
    """
    try:
        return _converter().structure(content, kind)
    except Exception as error:  # cattrs raises exception groups
        reasons = "; ".join(cattrs.transform_error(error, format_exception=_reason))
        raise ValueError(f"not a recipe of this version: {reasons}.") from error


def _reason(error: BaseException, kind: Any) -> str:
    if type(error) is ValueError:
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
"""Fields of earlier versions and the default that they had, with which old recipes still load."""


def _without_removed(kind: type, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
    structure: Callable[[Any, Any], Any] = make_dict_structure_fn(
        kind, converter, _cattrs_forbid_extra_keys=True
    )
    removed = REMOVED[kind]

    def checked(content: Any, target: Any) -> Any:
        if not isinstance(content, dict):
            return structure(content, target)
        for name in removed.keys() & content.keys():
            if content[name] != removed[name]:
                raise ValueError(
                    f"{kind.__name__} had a field {name} in an earlier version; only its default, "
                    f"{removed[name]}, can still be read, got {content[name]}"
                )
        fields = {name: value for name, value in content.items() if name not in removed}
        return structure(fields, target)

    return checked


@functools.cache
def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    converter.register_structure_hook_factory(REMOVED.__contains__)(_without_removed)
    converter.register_unstructure_hook(Path, str)
    converter.register_structure_hook(Path, lambda value, _: Path(value))
    # Inner unions first.
    for union in (FATBase, AnyObjective, DataSource, AnyNetwork, AnyMethod):
        configure_tagged_union(union, converter, tag_name="kind")
    tagged = converter.get_structure_hook(AnyNetwork)

    def network(value: Any, kind: Any) -> Any:
        # Recipes written before there was a second kind of network name none.
        untagged = isinstance(value, dict) and "kind" not in value
        return tagged(value | {"kind": "WideResNetShape"} if untagged else value, kind)

    converter.register_structure_hook(AnyNetwork, network)
    return converter
