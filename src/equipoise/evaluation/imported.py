"""Attacks of another package, named by an importable function."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from equipoise.attacks.threat import Threat
from equipoise.evaluation.attack import Attack, AttackResult, Autocast, Kind
from equipoise.evaluation.source_hash import source_hash
from equipoise.evaluation.suite import Suite
from equipoise.runtime.errors import InvalidInput
from equipoise.runtime.trust import call_trusted_function
from equipoise.types import Images, Labels, Predict


@dataclass(frozen=True, kw_only=True)
class ImportedAttack(Attack):
    """An attack whose record and cached results also name its code.

    Args:
        attack: The attack.
        function: The ``module:function`` that returned it.
        source_sha256: Hash of its source files, see ``source_hash``.
    """

    attack: Attack
    function: str
    source_sha256: str

    @property
    def name(self) -> str:
        """Name, unique within its suite."""
        return self.attack.name

    @property
    def kind(self) -> Kind:
        """What the attacker knows."""
        return self.attack.kind

    @property
    def source(self) -> Any:
        """What a transfer attack attacks in place of the model."""
        return getattr(self.attack, "source", None)

    def run(
        self,
        model: Predict,
        images: Images,
        labels: Labels,
        threat: Threat,
        generator: torch.Generator,
        autocast: Autocast = contextlib.nullcontext,
    ) -> AttackResult:
        """Attack a batch, as ``Attack`` says."""
        return self.attack.run(model, images, labels, threat, generator, autocast)

    def describe(self) -> dict[str, Any]:
        """Return the settings for the record and the cache key, and where the code is from."""
        origin = {"imported": self.function, "source_sha256": self.source_sha256}
        return {**self.attack.describe(), **origin}


def imported_suite(function: str, offered: Mapping[str, Any]) -> Suite:
    """Call a trusted function that returns attacks.

    Args:
        function: ``module:function``; it returns an ``Attack``, such as a ``SearchAttack``, a list
            of them, or a ``Suite``.
        offered: Arguments for parameters of these names, such as ``model`` and ``classes``.

    Returns:
        A suite that is named like the function. Its attacks name their code.

    Raises:
        RunError: If the function cannot be imported or is not trusted.
        ValueError: If it returns no attacks, or two of one name, or its source cannot be read.
    """
    suite = as_suite(function, call_trusted_function(function, {}, offered))
    digest = source_hash(nn.Identity(), sorted(_modules(function, suite.attacks)))
    if digest is None:
        raise InvalidInput(
            f"the source of {function} cannot be read, so that its results could not be told from "
            "those of changed code; put the function into a file of its own."
        )
    imported = tuple(
        ImportedAttack(attack=attack, function=function, source_sha256=digest)
        for attack in suite.attacks
    )
    return replace(suite, attacks=imported)


def as_suite(name: str, made: Any) -> Suite:
    """Turn an attack, a list of attacks or a suite into a suite of this name.

    Args:
        name: The ``module:function`` that returned it.
        made: The attack, the list or the suite.

    Raises:
        ValueError: If it is anything else, holds no attacks, or two of one name.
    """
    attacks = made.attacks if isinstance(made, Suite) else made
    attacks = tuple(attacks) if isinstance(attacks, list | tuple) else (attacks,)
    wrong = [type(attack).__name__ for attack in attacks if not isinstance(attack, Attack)]
    if wrong or not attacks:
        raise InvalidInput(
            f"{name} must return an attack, a list of attacks or a Suite, got "
            f"{', '.join(wrong) or 'none'}. SearchAttack(name=..., search=..., loss=...) makes an "
            "attack of a search; a class of your own needs name, kind, run and describe."
        )
    names = [attack.name for attack in attacks]
    if len({*names}) < len(names):
        raise InvalidInput(f"{name} must give each attack its own name, got {names}.")
    independent = isinstance(made, Suite) and made.independent
    return Suite(name=name, attacks=attacks, independent=independent)


def _modules(function: str, attacks: tuple[Attack, ...]) -> set[str]:
    """Names of the modules whose code decides what the attacks do."""
    parts = [
        part for attack in attacks for part in (attack, *getattr(attack, "__dict__", {}).values())
    ]
    code = [part if callable(part) and hasattr(part, "__name__") else type(part) for part in parts]
    return {function.partition(":")[0], *(str(getattr(c, "__module__", "")) for c in code)}
