"""One unit of an evaluation: one attack at one strength on one batch."""

import contextlib
import functools
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn

from equipoise.attacks.threat import Threat
from equipoise.data import Split
from equipoise.evaluation.attack import AttackResult, Autocast
from equipoise.evaluation.cache import unit_key
from equipoise.evaluation.suites import Suite
from equipoise.evaluation.verification import EvaluationError
from equipoise.models.attack_mode.context import attack_mode
from equipoise.records.epsilon import format_epsilon
from equipoise.runtime.seeds import derive_seed

Precision = Literal["32-true", "bf16-mixed"]
PACKAGE = Path(__file__).parents[1]
CODE = (
    *("attacks/*", "distributed/shared_generator"),
    *(f"evaluation/{name}" for name in ("attack", "autoattack", "suites", "work_unit")),
)
"""What decides, beside the model, what an attack finds: modules of the package."""


@dataclass(frozen=True, kw_only=True)
class EvaluationContext:
    """Everything a unit needs; the same unit comes out the same on every bench alike.

    Args:
        model: Images in [0, 1] to logits, in eval mode.
        split: The images under evaluation.
        threat: Makes the threat of a strength.
        suites: The suites, in order.
        seed: Of the evaluation.
        precision: Of the searches; what they find is always judged in float32.
    """

    model: nn.Module
    split: Split
    threat: Callable[[float], Threat]
    suites: Sequence[Suite]
    seed: int
    precision: Precision = "32-true"

    def key(self, suite: int, attack: int, epsilon: float) -> str:
        """The unit's name, without its rows; it changes with the code of the attacks."""
        return f"{self._name(suite, attack, epsilon)}_{code_hash()}"

    def _name(self, suite: int, attack: int, epsilon: float) -> str:
        settings = self.suites[suite].attacks[attack].describe()
        norm = type(self.threat(epsilon)).__name__
        return unit_key(settings, norm, epsilon, self.seed, self.precision)

    def run(
        self, suite: int, attack: int, epsilon: float, rows: Int[Tensor, " rows"]
    ) -> tuple[AttackResult, float]:
        """Run a unit.

        Args:
            suite: Place of the suite.
            attack: Place of the attack in it.
            epsilon: Strength.
            rows: Which images.

        Returns:
            What was found, and the seconds it took.

        Raises:
            EvaluationError: If the attack failed; the message names it and the images.
        """
        chosen = self.suites[suite].attacks[attack]
        device = self.split.device
        images, labels = self.split.batch(rows.to(device))
        images = images.contiguous(memory_format=torch.channels_last)
        generator = torch.Generator(self.split.device)
        name = self._name(suite, attack, epsilon)  # random numbers outlive a change of the code
        generator.manual_seed(derive_seed(self.seed, name, str(int(rows[0]))))
        began = time.monotonic()
        try:
            with attack_mode(self.model), torch.autocast(device.type, enabled=False):
                found = chosen.run(
                    self.model, images, labels, self.threat(epsilon), generator, self._autocast()
                )
        except Exception as error:
            raise EvaluationError(
                f"{self.suites[suite].name}/{chosen.name} failed at {format_epsilon(epsilon)} on "
                f"images {int(rows[0])} to {int(rows[-1])}: {error}. What was finished before is "
                "kept; run the same command again to go on, or leave this suite out."
            ) from error
        return found, time.monotonic() - began

    def _autocast(self) -> Autocast:
        if self.precision == "32-true":
            return contextlib.nullcontext
        return partial(torch.autocast, self.split.device.type, torch.bfloat16)


@functools.cache
def code_hash() -> str:
    """A hash of the sources of ``CODE``, as they are when a process first asks.

    Returns:
        8 hexadecimal digits.
    """
    found = hashlib.sha256()
    for name in CODE:
        paths = sorted(PACKAGE.glob(f"{name}.py"))
        assert paths, f"no module matches {name}"
        for path in paths:
            found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()[:8]
