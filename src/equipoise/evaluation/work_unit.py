"""Work units: one attack at one strength on one batch, and the key of its cached results."""

import contextlib
import functools
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn

from equipoise.attacks.threat import Threat
from equipoise.data import Split
from equipoise.evaluation.attack import WITNESSES, Attack, AttackResult, Autocast
from equipoise.evaluation.external_images import ExternalImages
from equipoise.evaluation.fresh_copy import FreshCopies, StatefulModelError, ask, differs
from equipoise.evaluation.suite import Suite
from equipoise.evaluation.verification import EvaluationError
from equipoise.models.attack_mode.context import attack_mode
from equipoise.records.epsilon import format_epsilon
from equipoise.runtime.environment import version
from equipoise.runtime.seeds import derive_seed
from equipoise.types import Logits

Precision = Literal["32-true", "bf16-mixed"]
PACKAGE = Path(__file__).parents[1]
CODE = (
    *("attacks/*", "distributed/shared_generator"),
    *(f"evaluation/{name}" for name in ("attack", "autoattack_part", "near_misses")),
    *("evaluation/suite", "evaluation/suites", "evaluation/work_unit"),
    *("evaluation/asked_model", "evaluation/random_draws", "evaluation/external_*"),
)
"""Globs of the package's modules whose code, together with the model, decides what attacks find."""


@dataclass(frozen=True, kw_only=True)
class AttackKey:
    """What identifies the results of an attack at one strength, apart from the attacks' code.

    Attacks with the same settings share a key, in whichever suite they run.

    Args:
        attack: Settings of the attack, as ``Attack.describe`` returns them.
        norm: Class name of the threat.
        epsilon: Strength.
        seed: Random seed of the evaluation.
        precision: Precision of the searches.

    Example:
        >>> from dataclasses import replace
        >>> from equipoise.evaluation.work_unit import AttackKey
        >>> key = AttackKey(attack={"name": "pgd-20"}, norm="Linf", epsilon=0.03, seed=0)
        >>> key.name()[:7]
        'pgd-20_'
        >>> replace(key, epsilon=0.05).name() == key.name()
        False
    """

    attack: dict[str, Any]
    norm: str
    epsilon: float
    seed: int
    precision: Precision = "32-true"

    def name(self) -> str:
        """Return the key as a folder name; it changes with the version of Equipoise."""
        identity = [
            self.attack,
            self.norm,
            self.epsilon,
            self.seed,
            self.precision,
            version("equipoise"),
        ]
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
        return f"{self.attack['name']}_{digest}".replace("/", "_")


@dataclass(frozen=True, kw_only=True, eq=False)
class WorkUnit:
    """One attack at one strength on one batch.

    Args:
        suite: Index of the suite.
        attack: Index of the attack in its suite.
        epsilon: Strength.
        rows: Indices of the images.
    """

    suite: int
    attack: int
    epsilon: float
    rows: Int[Tensor, " rows"]


@dataclass(frozen=True, kw_only=True)
class EvaluationContext:
    """Everything that a work unit needs; equal contexts give equal results in every process.

    Args:
        model: Images in [0, 1] to logits, in eval mode.
        split: The images under evaluation.
        threat: Builds the threat of a strength, such as ``Linf``.
        suites: The suites, in order.
        seed: Random seed of all attacks.
        precision: Precision of the searches; what they find is confirmed in float32.
        copies: Copies of the model that have not been asked anything; they are asked again where a
            search ended without success. ``None`` if the model is known to have no state.
    """

    model: nn.Module
    split: Split
    threat: Callable[[float], Threat]
    suites: Sequence[Suite]
    seed: int
    precision: Precision = "32-true"
    copies: FreshCopies | None = None

    def key(self, suite: int, attack: int, epsilon: float) -> str:
        """Return the cache key of an attack at a strength; it changes with the attacks' code."""
        name = self._key_name(self.suites[suite].attacks[attack], epsilon)
        return f"{name}_{code_hash()}"

    def run(self, unit: WorkUnit) -> tuple[AttackResult, float]:
        """Run a unit.

        Args:
            unit: What to run.

        Returns:
            The result, and the seconds it took.

        Raises:
            EvaluationError: If the attack failed; the message names the attack and the images.
            StatefulModelError: If a fresh copy of the model answers differently where the search
                ended.
        """
        suite, epsilon, device = self.suites[unit.suite], unit.epsilon, self.split.device
        attack = suite.attacks[unit.attack]
        if isinstance(attack, ExternalImages):
            attack = attack.at_rows(unit.rows)
        images, labels = self.split.batch(unit.rows.to(device))
        images = images.contiguous(memory_format=torch.channels_last)
        first, last = int(unit.rows[0]), int(unit.rows[-1])
        # The seed leaves out the code hash, so a code change does not change random numbers.
        seed = derive_seed(self.seed, self._key_name(attack, epsilon), str(first))
        generator = torch.Generator(device).manual_seed(seed)
        started = time.monotonic()
        try:
            with attack_mode(self.model), torch.autocast(device.type, enabled=False):
                result = attack.run(
                    self.model, images, labels, self.threat(epsilon), generator, self._autocast()
                )
        except Exception as error:
            raise EvaluationError(
                f"{suite.name}/{attack.name} failed at {format_epsilon(epsilon)} on images "
                f"{first} to {last}: {error}. Finished units are kept; run the same command again "
                "to continue, or leave this suite out."
            ) from error
        return self._with_witnesses(result), time.monotonic() - started

    def _with_witnesses(self, result: AttackResult) -> AttackResult:
        """Add the logits where the search ended, and ask a fresh copy there as well."""
        points = result.images[~result.broken].detach()
        if not len(points):
            return result
        logits: Logits = ask(self.model, points[:WITNESSES])
        if self.copies is not None:
            used, fresh = ask(self.model, points), self.copies.ask(points)
            changed = int(differs(fresh, used).sum())
            if changed:
                raise StatefulModelError(
                    f"under attack the model answers {changed} of {len(points)} questions in "
                    "another way than a fresh copy of it."
                )
        return replace(result, logits=logits.float())

    def _key_name(self, attack: Attack, epsilon: float) -> str:
        return AttackKey(
            attack=attack.describe(),
            norm=type(self.threat(epsilon)).__name__,
            epsilon=epsilon,
            seed=self.seed,
            precision=self.precision,
        ).name()

    def _autocast(self) -> Autocast:
        if self.precision == "32-true":
            return contextlib.nullcontext
        return partial(torch.autocast, self.split.device.type, torch.bfloat16)


@functools.cache
def code_hash() -> str:
    """Return a hash of the source files of ``CODE``, read once per process.

    Returns:
        8 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for pattern in CODE:
        paths = sorted(PACKAGE.glob(f"{pattern}.py"))
        assert paths, f"no module matches {pattern}"
        for path in paths:
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:8]
