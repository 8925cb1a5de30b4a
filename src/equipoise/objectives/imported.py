"""Your own objective, named by an importable function, so that a recipe can store it."""

import functools
import json
from dataclasses import dataclass, field

from equipoise.attacks.goals import Goal
from equipoise.attacks.pgd import StartNoise
from equipoise.objectives.base import Batch, Objective, objective_at
from equipoise.runtime.errors import InvalidInput
from equipoise.runtime.json_argument import JsonObject
from equipoise.runtime.trust import call_trusted_function
from equipoise.types import Images, Labels, PerImage, Predict


@dataclass(frozen=True, kw_only=True)
class ImportedObjective:
    """An objective of another package.

    Args:
        function: ``module:function``; it returns an ``Objective``. The class itself will do.
        arguments: Its arguments.

    Raises:
        ValueError: If the function is not written ``module:function``.
        RunError: When the objective is used, if the function cannot be imported, is not trusted,
            or returns no objective.

    Example:
        >>> from equipoise.runtime.trust import trusting
        >>> mine = ImportedObjective(function="equipoise.objectives:TRADES", arguments={"beta": 3})
        >>> with trusting("equipoise"):
        ...     mine.attacks, mine.start_noise
        (True, 0.001)
    """

    function: str
    arguments: JsonObject = field(default_factory=dict)

    def __post_init__(self) -> None:
        if ":" not in self.function:
            raise InvalidInput(
                "an objective of your own is written module:function, a function that makes it, "
                f"got {self.function!r}."
            )

    @property
    def _objective(self) -> Objective:
        return _made(self.function, json.dumps(self.arguments, sort_keys=True))

    @property
    def attacks(self) -> bool:
        """Whether it needs adversarial images."""
        return self._objective.attacks

    @property
    def start_noise(self) -> StartNoise:
        """Standard deviation of the noise at which its attack starts, if it sets one."""
        return self._objective.start_noise

    @property
    def per_image_loss(self) -> bool:
        """Whether each image's goal and loss are independent of the other images."""
        return self._objective.per_image_loss

    def at(self, progress: float) -> Objective:
        """Return the objective of a step; the imported one may depend on the progress."""
        return objective_at(self._objective, progress)

    def goal(self, predict: Predict, clean: Images, labels: Labels) -> Goal:
        """Return what the attack maximises."""
        return self._objective.goal(predict, clean, labels)

    def losses(self, batch: Batch) -> dict[str, PerImage]:
        """Compute per-image terms."""
        return self._objective.losses(batch)


@functools.cache
def _made(function: str, arguments: str) -> Objective:
    """The objective that a function makes from JSON arguments; a process makes it once."""
    objective = call_trusted_function(function, json.loads(arguments))
    if isinstance(objective, Objective):
        return objective
    lacking = [name for name in _PARTS if not hasattr(objective, name)]
    reason = f"lacks {', '.join(lacking)}" if lacking else "has other parts"
    raise InvalidInput(
        f"{function} must return an objective, got {type(objective).__name__}, which {reason}."
    )


_PARTS = ("attacks", "start_noise", "per_image_loss", "goal", "losses")
