"""Answers of a model to a few questions: what it does, as far as a cache needs to know.

Weights do not determine what a network computes: its code, or a setting that is not a weight, may
have changed, and a defence may act on attacked images alone. So the questions are clean images,
images off the 8-bit grid, and images moved by every strength that was asked for.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from equipoise.attacks import PGD
from equipoise.attacks.goals import margin
from equipoise.attacks.threat import Linf, Threat
from equipoise.data import Split
from equipoise.evaluation.fresh_copy import FreshCopies, as_evaluated
from equipoise.types import Images, Labels

Answers = dict[str, Tensor]
"""The points of the questions, the logits there, and input gradients of two functions of them."""

QUESTIONS = 16
"""Number of images, the first ones, that the questions are made from."""

ANSWER_TOLERANCE = 1e-3
"""Relative L2 distance up to which two answers count as equal: other threads, another device."""

OFF_GRID = 1e-3
"""By how much every pixel is moved off the grid of 8-bit levels."""

GRADIENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "gradient": torch.square,
    "gradient_of_sum": lambda logits: (
        logits * torch.linspace(1, 2, logits.shape[1], device=logits.device).cos()
    ),
}
"""Functions of the logits, whose sums are differentiated. Neither saturates, as softmax does."""


def answers_near(copies: FreshCopies, split: Split) -> Answers:
    """Ask a model at clean images, and next to them off the 8-bit grid.

    Args:
        copies: Copies of the model.
        split: The images.

    Returns:
        The answers; empty for a model in train mode or without finite logits, which an evaluation
        refuses with a better message.
    """
    if copies.pristine.training:
        return {}
    clean, _ = split.batch(slice(0, QUESTIONS))
    off_grid = Linf(OFF_GRID).project(clean + _random_signs(clean), clean)
    answers = _ask(copies, torch.cat([clean, off_grid]))
    finite = "logits" in answers and bool(answers["logits"][: len(clean)].isfinite().all())
    return answers if finite else {}


def answers_at(copies: FreshCopies, split: Split, threat: Threat) -> Answers:
    """Ask a model at images that are moved by one strength.

    A quarter of them each is at a random corner of the threat, at a random point, one gradient step
    away, and where five steps on the margin lead.

    Args:
        copies: Copies of the model.
        split: The images.
        threat: Threat of the strength.

    Returns:
        The answers.
    """
    clean, labels = split.batch(slice(0, QUESTIONS))
    generator = torch.Generator(clean.device).manual_seed(0)
    corner = 2 * float(torch.as_tensor(threat.epsilon).max()) * _random_signs(clean)
    kinds: list[Callable[[slice], Images]] = [
        lambda rows: threat.project(clean[rows] + corner[rows], clean[rows]),
        lambda rows: threat.random_start(clean[rows], generator),
    ]
    if getattr(copies.pristine, "gives_gradients", True):
        kinds.insert(0, lambda rows: _ascend(copies, clean[rows], labels[rows], threat, steps=5))
        kinds.append(lambda rows: _ascend(copies, clean[rows], labels[rows], threat, steps=1))
    points = clean.clone()
    for number, kind in enumerate(kinds[: len(clean)]):
        rows = slice(number, None, len(kinds))
        points[rows] = kind(rows)
    return _ask(copies, points)


def agree(copies: FreshCopies, stored: Answers, device: torch.device) -> bool:
    """Return whether a model answers the stored questions in the stored way, up to rounding.

    Args:
        copies: Fresh copies of the model.
        stored: Questions and answers, as ``answers_near`` and ``answers_at`` return them.
        device: Device of the model.
    """
    if "points" not in stored:
        return False
    answers = _ask(copies, stored["points"].to(device))
    return stored.keys() == answers.keys() and all(
        torch.equal(stored[name].isfinite(), value.isfinite())
        and bool(_finite(stored[name] - value).norm() <= ANSWER_TOLERANCE * _finite(value).norm())
        for name, value in answers.items()
    )


def _ask(copies: FreshCopies, points: Images) -> Answers:
    """Return the points, the logits, and the gradients of their squares and of a weighted sum."""
    questions = points.contiguous(memory_format=torch.channels_last).requires_grad_(True)
    with copies.fresh() as model, as_evaluated(model, points.device), torch.enable_grad():
        logits = model(questions)
        if not isinstance(logits, Tensor):
            return {}
        answers = {"points": points, "logits": logits}
        if getattr(model, "gives_gradients", True) and logits.requires_grad:
            for name, function in GRADIENTS.items():
                (gradient,) = torch.autograd.grad(
                    function(logits).sum(), questions, retain_graph=True, allow_unused=True
                )
                answers[name] = torch.zeros_like(questions) if gradient is None else gradient
    return {  # copies, because a model may return a view of the points
        name: value.detach().cpu().float().clone(memory_format=torch.contiguous_format)
        for name, value in answers.items()
    }


def _ascend(
    copies: FreshCopies, clean: Images, labels: Labels, threat: Threat, steps: int
) -> Images:
    search = PGD(steps=steps, relative_step=1 / min(steps, 4), random_start=False)
    with copies.fresh() as model, as_evaluated(model, clean.device):
        try:
            return search(margin(model, labels), clean, threat, torch.Generator(clean.device))
        except RuntimeError:  # no gradient
            return clean


def _random_signs(images: Images) -> Images:
    generator = torch.Generator(images.device).manual_seed(1)
    return torch.randn(images.shape, generator=generator, device=images.device).sign()


def _finite(values: Tensor) -> Tensor:
    return values.nan_to_num(0.0, 0.0, 0.0)
