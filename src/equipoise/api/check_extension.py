"""Check an extension of another package against the contract of its kind."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from equipoise.contracts import (
    ATTACK_CHECKS,
    MODEL_CHECKS,
    OBJECTIVE_CHECKS,
    READER_CHECKS,
    RECIPE_CHECKS,
    SEARCH_CHECKS,
    AttackCase,
    ModelCase,
    Outcome,
    RecipeCase,
    TwoLoads,
    run_checks,
    small_network,
)
from equipoise.data import DataSet
from equipoise.evaluation import SearchAttack
from equipoise.evaluation.attack import Attack
from equipoise.evaluation.imported import as_suite
from equipoise.evaluation.suite import Suite
from equipoise.models.io.external import import_network
from equipoise.objectives import Objective, TwoNetworkObjective
from equipoise.recipes import Recipe
from equipoise.runtime.errors import InvalidInput, UserError
from equipoise.runtime.trust import Trusted, call_trusted_function, matching_arguments, trusting

CLASSES, CHANNELS = 4, 3
"""What parameters of these names get, where a network or an attack is made."""

IMAGE_SHAPES = ((3, 32, 32), (1, 28, 28), (1, 8, 8), (3, 64, 64), (3, 224, 224), (1, 32, 32))
"""Shapes of images, the first of which that a network takes is used."""


def check_extension(
    function: str, arguments: Mapping[str, Any] | None = None, *, trust: Sequence[Trusted] = ()
) -> tuple[str, list[Outcome]]:
    """Call a function of another package, and run the checks of what it returns.

    The tests of this project run the same checks on its own objectives, attacks, models, readers
    and recipes.

    Args:
        function: ``module:function``; its module is trusted, because the caller names it. It
            returns an objective, an attack, a list of attacks or a ``Suite``, a ``DataSet``, a
            ``Recipe`` or an ``nn.Module``.
        arguments: Its arguments.
        trust: Other code that may run.

    Returns:
        What it is, in one word, and the outcome of each check.

    Raises:
        ValueError: If it returns anything else or does not take the arguments.
        RunError: If it cannot be imported, or names code that is not trusted.

    Example:
        >>> kind, outcomes = check_extension("equipoise.objectives:TRADES", {"beta": 3.0})
        >>> kind, [outcome.check for outcome in outcomes if outcome.reason]
        ('objective', [])
    """
    arguments = arguments or {}
    with trusting(*trust, function.partition(":")[0]):
        network = small_network()
        offered = {"model": network, "classes": CLASSES, "channels": CHANNELS}
        try:
            made = call_trusted_function(function, arguments, offered)
        except UserError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            return "extension", [Outcome(check="it can be called", reason=reason)]
        if isinstance(made, Recipe):
            case = RecipeCase(
                lambda: call_trusted_function(function, arguments), made.dataset.load()
            )
            return "recipe", list(run_checks(RECIPE_CHECKS, case))
        if isinstance(made, DataSet):
            loads = TwoLoads(made, call_trusted_function(function, arguments))
            return "reader", list(run_checks(READER_CHECKS, loads))
        if isinstance(made, nn.Module):
            return "model", list(run_checks(MODEL_CHECKS, _model(function, arguments)))
        if isinstance(made, Objective | TwoNetworkObjective):
            return "objective", list(run_checks(OBJECTIVE_CHECKS, made))
        _check_complete(function, made)
        suite = as_suite(function, made)
        kind = "suite" if isinstance(made, Suite | list | tuple) else "attack"
        return kind, [*_of_attacks(suite, network)]


def _of_attacks(suite: Suite, network: nn.Module) -> Iterator[Outcome]:
    for attack in suite.attacks:
        outcomes = list(run_checks(ATTACK_CHECKS, AttackCase(attack, network)))
        for outcome in outcomes:
            yield replace(outcome, check=f"{attack.name}: {outcome.check}")
        if isinstance(attack, SearchAttack):
            for outcome in run_checks(SEARCH_CHECKS, attack.search):
                yield replace(outcome, check=f"search of {attack.name}: {outcome.check}")


def _model(function: str, arguments: Mapping[str, Any]) -> ModelCase:
    """The network as a recipe would make it, with images of a shape that it takes."""
    known = matching_arguments(function, {"classes": CLASSES, "channels": CHANNELS})
    model = import_network(function, known | {**arguments}).eval()
    reasons = []
    for shape in IMAGE_SHAPES:
        images = torch.rand(6, *shape, generator=torch.Generator().manual_seed(0))
        try:
            with torch.no_grad():
                classes = model(images).shape[1]
        except Exception as error:  # of any kind: the code is another's
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            reasons.append(f"{'x'.join(map(str, shape))}: {first}")
            continue
        labels = torch.arange(6) % classes
        trust = (function.partition(":")[0],)
        return ModelCase(model, images, labels, classes=classes, trust=trust)
    raise InvalidInput(
        f"{function} returned a network that takes images of none of the shapes that were tried: "
        f"{'; '.join(reasons)}."
    )


def _check_complete(function: str, made: Any) -> None:
    """Say which parts an objective or an attack lacks."""
    for kind, telling, parts in (
        ("an objective", "losses", ("attacks", "start_noise", "per_image_loss", "goal")),
        ("an attack", "run", ("name", "kind", "describe")),
    ):
        lacking = [part for part in parts if not hasattr(made, part)]
        if hasattr(made, telling) and lacking:
            raise InvalidInput(
                f"{function} returned {type(made).__name__}, which has {telling} as {kind} has, "
                f"but lacks {', '.join(lacking)}."
            )
    if not isinstance(made, Attack | Suite | list | tuple):
        raise InvalidInput(
            f"{function} must return an objective, an attack, a list of attacks or a Suite, a "
            f"DataSet, a Recipe or an nn.Module, got {type(made).__name__}."
        )
