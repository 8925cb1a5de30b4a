"""Methods by name for any data: those of the compact recipes, at the strength that is asked for."""

from dataclasses import fields, replace
from typing import Any

from equipoise.attacks.threat import Norm
from equipoise.methods import AnyMethod, TrainingAttack
from equipoise.recipes.cifar10_compact import CIFAR10_COMPACT, TOP
from equipoise.runtime.errors import InvalidInput, did_you_mean
from equipoise.training.schedule import Schedule

SUFFIX = "_cifar10_compact"
METHODS = {make.__name__.removesuffix(SUFFIX): make for make in CIFAR10_COMPACT}
ATTACK = TrainingAttack(steps=3, relative_step=0.5, warm_up=0.3)
"""Three steps, because one step can overfit catastrophically; the strength rises at first."""

_STRENGTHS = ("epsilon", "merger_epsilon", "strengths", "budgets", "random_budgets")


def default_method(
    name: str, *, epsilon: float, schedule: Schedule, norm: Norm = "Linf"
) -> AnyMethod:
    """Return a method with default settings.

    Args:
        name: A key of ``METHODS``, such as ``"pgd_at"``, ``"trades"``, ``"afa"`` or ``"afs"``.
        epsilon: Highest strength in pixel units; weaker ones keep their ratio to it.
        schedule: Schedule of each network. A weight generator gets a fifth of its epochs, the
            merger of AFS two fifths.
        norm: Norm of the threat.

    Raises:
        ValueError: If the method is unknown, or the norm cannot have such a strength.

    Example:
        >>> schedule = Schedule(epochs=10, learning_rate=0.05)
        >>> default_method("afa", epsilon=4 / 255, schedule=schedule).strengths
        (0.0, 0.00784313725490196, 0.01568627450980392)
    """
    if name not in METHODS:
        raise InvalidInput(
            f"method must be one of {', '.join(METHODS)}, or an object such as AFA(...), got "
            f"{name!r}{did_you_mean(name, METHODS)}"
        )
    method: Any = METHODS[name]().method
    own = replace(method.attack, warm_up=ATTACK.warm_up)  # a single step that is the method's
    attack = own if name in ("gat", "nfgsm") else ATTACK
    changes: dict[str, Any] = {"schedule": schedule, "norm": norm, "attack": attack}
    scale = epsilon / TOP
    for field in fields(method):
        value = getattr(method, field.name)
        if field.name in _STRENGTHS:
            many = isinstance(value, tuple)
            changes[field.name] = tuple(scale * v for v in value) if many else scale * value
        elif field.name == "gate_schedule":
            changes[field.name] = replace(value, epochs=max(1, schedule.epochs // 5))
        elif field.name == "merger_schedule":
            changes[field.name] = replace(value, epochs=max(1, 2 * schedule.epochs // 5))
    changed: AnyMethod = replace(method, **changes)
    return changed
