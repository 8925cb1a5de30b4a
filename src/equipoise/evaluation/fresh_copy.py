"""Fresh copies of a model: does it answer as it did before anything was asked?

A deployment may count queries, keep its answers, or detect queries that resemble each other. An
attack then meets another function than a visitor who asks once. So a copy is made of a model before
its first query, and the used model is compared with copies of it.
"""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from equipoise.attacks.threat import Threat
from equipoise.evaluation.random_draws import own_generators, seeded
from equipoise.models.attack_mode.context import attack_mode
from equipoise.runtime.errors import RunError
from equipoise.types import Images, Logits

SPREAD_TOLERANCE = 1e-3
"""Largest difference between two answers to the same question that counts as rounding, as a share
of a row's spread over the classes."""

SIZE_TOLERANCE = 1e-5
"""The same as a share of the row's largest logit."""

STATE_QUESTIONS = 32
"""Number of images on which a used model is compared with a fresh copy."""

STATEFUL_MARK = {
    "name": "stateful",
    "meaning": "the model's answers depend on earlier queries; it is scored as a fresh deployment "
    "that is asked once for each image",
}
"""Mark of a record whose model was reset before every query."""


class StatefulModelError(RunError):
    """A model answers differently after it has been asked; the message says how often."""


class FreshCopies:
    """Copies of a model in the state in which it was given.

    The first copy is made at once and never asked; each later one is a copy of it. Parameters are
    copied too, because a model may adapt them while it predicts.

    Args:
        model: The model, before its first query.

    Attributes:
        pristine: The first copy.
        shared: Names of attributes that cannot be copied, which all copies share.

    Example:
        >>> import torch
        >>> from equipoise.evaluation.fresh_copy import FreshCopies
        >>> class Counts(torch.nn.Flatten):
        ...     calls = 0
        ...     def forward(self, images):
        ...         self.calls += 1
        ...         return super().forward(images) + self.calls
        >>> model, image = Counts(), torch.zeros(1, 1, 1, 1)
        >>> copies = FreshCopies(model)
        >>> [model(image).item() for _ in range(3)]
        [1.0, 2.0, 3.0]
        >>> with copies.fresh() as fresh:
        ...     fresh(image).item()
        1.0
    """

    def __init__(self, model: nn.Module) -> None:
        shared: list[str] = []
        self.pristine: nn.Module = _copy(model, "", {}, shared)
        self.shared = tuple(shared)

    @contextlib.contextmanager
    def fresh(self) -> Iterator[nn.Module]:
        """Give a model that has not been asked anything, for the time of a ``with`` block."""
        yield _copy(self.pristine, "", {}, [])

    def ask(self, images: Images) -> Any:
        """Ask a fresh copy; see ``ask``."""
        with self.fresh() as model:
            return ask(model, images)


class FreshEachCall(nn.Module):
    """A stateful model that is reset before every forward pass.

    Args:
        copies: Copies of the model.
    """

    def __init__(self, copies: FreshCopies) -> None:
        super().__init__()
        self.pristine, self._copies = copies.pristine, copies
        self.gives_gradients = getattr(copies.pristine, "gives_gradients", True)
        self.eval()

    def forward(self, images: Images) -> Any:
        """Return what a fresh copy answers; generators of its own are seeded by torch's."""
        with self._copies.fresh() as model, contextlib.ExitStack() as stack:
            if own_generators(model):
                seed = int(torch.randint(2**31, ()))
                stack.enter_context(seeded(seed, images.device, model))
            return model(images)


def is_reset(model: nn.Module) -> bool:
    """Return whether a model is reset before every forward pass.

    Example:
        >>> from torch import nn
        >>> from equipoise.evaluation.fresh_copy import FreshCopies, FreshEachCall, is_reset
        >>> reset = FreshEachCall(FreshCopies(nn.Flatten()))
        >>> is_reset(nn.Flatten()), is_reset(nn.Sequential(reset))
        (False, True)
    """
    return any(isinstance(module, FreshEachCall) for module in model.modules())


def ask(model: nn.Module, images: Images) -> Any:
    """Return a model's output as an evaluation sees it, with the same random numbers every time.

    All generators are left as they were. The output has no gradient.
    """
    with as_evaluated(model, images.device), torch.no_grad():
        return model(images.contiguous(memory_format=torch.channels_last))


@contextlib.contextmanager
def as_evaluated(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Put a model into attack mode, in float32, with all generators starting from seed 0."""
    with (
        attack_mode(model),
        torch.autocast(device.type, enabled=False),
        seeded(0, device, model),
    ):
        yield


def differs(logits: Logits, others: Logits) -> Bool[Tensor, " batch"]:
    """Return which rows of two answers to the same question differ by more than rounding.

    Example:
        >>> import torch
        >>> from equipoise.evaluation.fresh_copy import differs
        >>> logits = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, torch.nan]])
        >>> differs(logits, torch.tensor([[0.0, 1.0001], [0.0, 1.1], [0.0, 1.0]]))
        tensor([False,  True,  True])
    """
    if logits.shape != others.shape:
        return torch.ones(len(logits), dtype=torch.bool, device=logits.device)
    logits, others = logits.float(), others.to(logits.device).float()
    finite = (logits.isfinite() == others.isfinite()).all(dim=1)
    logits, others = logits.nan_to_num(0.0, 0.0, 0.0), others.nan_to_num(0.0, 0.0, 0.0)
    spread = logits.amax(dim=1) - logits.amin(dim=1)
    largest = torch.maximum(logits.abs().amax(dim=1), others.abs().amax(dim=1))
    tolerance = SPREAD_TOLERANCE * spread + SIZE_TOLERANCE * largest
    return ~finite | ((logits - others).abs().amax(dim=1) > tolerance)


class StateCheck:
    """Compares a used model with fresh copies of it, before the attacks and after them.

    Args:
        model: The model under evaluation; it has been asked nothing, or something.
        copies: Copies of it in the state in which it was given.
        images: Clean images ``(n, channel, height, width)`` in [0, 1].
        threat: Threat of the strongest epsilon; the images are also moved at random inside it.

    Attributes:
        randomised: Whether two fresh copies answer differently. State cannot be told from chance
            then, and nothing is compared.
    """

    def __init__(
        self, model: nn.Module, copies: FreshCopies, images: Images, threat: Threat
    ) -> None:
        self.model, self.copies = model, copies
        generator = torch.Generator(images.device).manual_seed(0)
        clean = images[:STATE_QUESTIONS]
        moved = [threat.random_start(clean, generator) for _ in range(2)]
        self.questions: Sequence[Images] = (clean, *moved)
        self.expected = self._fresh_answers()
        self.randomised = self._count(self.expected, self._fresh_answers()) > 0

    def compare(self) -> None:
        """Compare the used model with fresh copies.

        Raises:
            StatefulModelError: If the used model and a fresh one answer differently.
        """
        if self.randomised:
            return
        clean, *moved = self.questions
        used = [ask(self.model, question) for question in (clean, *moved)]
        again = ask(self.model, clean)  # a model may change with its first call
        changed = max(
            self._count(self.expected, used),
            self._count(self.expected[:1], [again]),
            self._count(self.expected, self._fresh_answers()),
        )
        if changed:
            raise StatefulModelError(
                f"after it was asked, the model answers {changed} of "
                f"{sum(map(len, self.questions))} questions in another way than a fresh copy of it."
            )

    def _fresh_answers(self) -> list[Logits]:
        return [self.copies.ask(question) for question in self.questions]

    def _count(self, answers: Sequence[Logits], others: Sequence[Logits]) -> int:
        return sum(int(differs(a, b).sum()) for a, b in zip(answers, others, strict=True))


def _copy(value: Any, name: str, memo: dict[int, Any], shared: list[str]) -> Any:
    """Copy deeply what can be copied, and share the rest."""
    trial = dict(memo)
    try:
        copied = copy.deepcopy(value, trial)
    except Exception:
        if isinstance(value, Tensor):  # a result of autograd, as old-style weight_norm keeps one
            copied = memo[id(value)] = value.detach().clone()
        elif isinstance(value, nn.Module):
            copied = _copy_by_parts(value, name, memo, shared)
        elif type(value) is dict:
            copied = memo[id(value)] = {}
            copied |= {
                key: _copy(part, f"{name}.{key}".lstrip("."), memo, shared)
                for key, part in value.items()
            }
        else:
            shared.append(name)
            copied = memo[id(value)] = value
        return copied
    memo.update(trial)
    return copied


def _copy_by_parts(
    module: nn.Module, name: str, memo: dict[int, Any], shared: list[str]
) -> nn.Module:
    if id(module) in memo:
        known: nn.Module = memo[id(module)]
        return known
    copied: nn.Module = object.__new__(type(module))
    memo[id(module)] = copied
    for key, value in vars(module).items():
        place = name if key == "_modules" else f"{name}.{key}".lstrip(".")
        vars(copied)[key] = _copy(value, place, memo, shared)
    return copied
