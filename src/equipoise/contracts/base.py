"""What a contract is: checks of one thing, each of which passes or says what is wrong."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")
Check = Callable[[T], None]
"""A check; its name says what holds. It raises ``BrokenContract`` if that does not hold."""


class BrokenContract(AssertionError):
    """Something that does not hold, although it must; the message says what was seen."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Result of one check.

    Args:
        check: What must hold.
        reason: What was seen instead; ``None`` if it holds.
    """

    check: str
    reason: str | None


def require(holds: bool | Tensor, reason: str) -> None:
    """Raise ``BrokenContract`` unless something holds.

    Args:
        holds: Whether it does, as a single truth value.
        reason: What was seen instead.
    """
    if not bool(holds):
        raise BrokenContract(reason)


def run_checks(checks: Iterable[Check[T]], subject: T) -> Iterator[Outcome]:
    """Run checks one after another; a failed one does not stop the others.

    Args:
        checks: The checks.
        subject: What they check.

    Example:
        >>> def is_positive(number):
        ...     require(number > 0, f"it is {number}")
        >>> [outcome] = run_checks([is_positive], -1)
        >>> outcome.check, outcome.reason
        ('is positive', 'it is -1')
    """
    for check in checks:
        reason = None
        try:
            check(subject)
        except BrokenContract as broken:
            reason = str(broken)
        except Exception as error:  # the code of others may raise anything
            first = (str(error).strip() or "no message").splitlines()[0]
            reason = f"{type(error).__name__}: {first}"
        yield Outcome(check=title(check), reason=reason)


def title(check: Check[Any]) -> str:
    """The name of a check in words."""
    return getattr(check, "__name__", type(check).__name__).replace("_", " ")


def seeded(seed: int = 0) -> torch.Generator:
    """A generator with a seed."""
    return torch.Generator().manual_seed(seed)


def state_of(network: nn.Module) -> dict[str, Any]:
    """Copy what nobody but a trainer may change in a network.

    Returns:
        The weights and buffers, the gradients, which parameters are trained, and the modes of all
        submodules.
    """
    parameters = list(network.parameters())
    return {
        "weights and buffers": {name: t.clone() for name, t in network.state_dict().items()},
        "gradients": [None if p.grad is None else p.grad.clone() for p in parameters],
        "requires_grad": [p.requires_grad for p in parameters],
        "train or eval mode": [module.training for module in network.modules()],
    }


def require_unchanged(network: nn.Module, before: dict[str, Any]) -> None:
    """Require that a network is as ``state_of`` saw it.

    Args:
        network: The network.
        before: Its earlier state.
    """
    changed = [name for name, value in state_of(network).items() if not equal(value, before[name])]
    require(not changed, f"the model's {' and '.join(changed)} changed")


def equal(one: Any, other: Any) -> bool:
    """Whether two values are equal bit for bit; also of tensors in lists and dictionaries."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return type(one) is type(other) and bool(one == other)


def require_global_seed_unused(call: Callable[[], Any]) -> None:
    """Require that a call draws nothing from torch's global generator.

    Args:
        call: What is called.
    """
    before = torch.get_rng_state()
    call()
    require(
        torch.equal(torch.get_rng_state(), before),
        "torch's global generator was used or seeded; draw from the generator that is passed",
    )
