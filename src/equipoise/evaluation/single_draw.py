"""Accuracy of single draws of a randomised model, at the worst point that was found per image."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.attacks import PGD, losses
from equipoise.attacks.goals import Goal
from equipoise.attacks.threat import Threat
from equipoise.data import Split
from equipoise.evaluation.asked_model import AskedModel, folded_logits
from equipoise.runtime.seeds import derive_seed
from equipoise.types import Images, Labels, PerImage

SEARCH = PGD(steps=20, relative_step=0.25, keep="best")


def single_draw_accuracy(
    model: AskedModel,
    split: Split,
    threat: Callable[[float], Threat],
    epsilons: Sequence[float],
    adversarial: Sequence[tuple[int, float, Tensor]],
    *,
    seed: int,
    batch_size: int,
) -> Float[Tensor, "strengths n"]:
    """Measure how often one draw is right, image by image, under the strongest attack found.

    The points of an image at a strength are those that the evaluation found up to it, and the ends
    of two searches that average draws, on the margin and on the cross-entropy. One set of draws
    chooses the worst of them, another one scores it.

    Args:
        model: The randomised model.
        split: The images.
        threat: Builds the threat of a strength.
        epsilons: Strengths, ascending from 0.
        adversarial: Row, strength and image of each adversarial image found.
        seed: Random seed of the searches.
        batch_size: Number of images at once.

    Returns:
        Share of draws that are right; at no image does it rise with the strength.

    Source:
        Athalye et al. 2018, Sec. 4.2 (EOT).
    """
    found: dict[int, list[tuple[float, Tensor]]] = {}
    for row, epsilon, image in adversarial:
        found.setdefault(row, []).append((epsilon, image))
    batches = torch.arange(len(split), device=split.device).split(batch_size)
    return torch.cat(
        [
            _of_batch(model, split, rows, found, [threat(epsilon) for epsilon in epsilons], seed)
            for rows in batches
        ],
        dim=1,
    ).cpu()


def _of_batch(
    model: AskedModel,
    split: Split,
    rows: Tensor,
    found: dict[int, list[tuple[float, Tensor]]],
    threats: Sequence[Threat],
    seed: int,
) -> Float[Tensor, "strengths batch"]:
    clean, labels = split.batch(rows)
    clean = clean.contiguous(memory_format=torch.channels_last)
    right = 1 - model.share_wrong(clean, labels, clean=True, purpose="accuracy")
    worst, accuracies = clean, [right]
    known = torch.full_like(right, -1.0)  # share wrong at the worst point so far
    for level, threat in enumerate(threats[1:], start=1):
        first = int(rows[0])
        generator = torch.Generator(clean.device)
        generator.manual_seed(derive_seed(seed, "single draw", str(level), str(first)))
        candidates = [SEARCH(goal, clean, threat, generator) for goal in _goals(model, labels)]
        candidates += _found_points(rows, clean, found, (threats[level - 1], threat))
        for points in candidates:
            share = model.share_wrong(points, labels, purpose="choice")
            higher = share > known
            worst = torch.where(higher[:, None, None, None], points, worst)
            known = torch.where(higher, share, known)
        at_worst = 1 - model.share_wrong(worst, labels, purpose="accuracy")
        accuracies.append(torch.minimum(accuracies[-1], at_worst))
    return torch.stack(accuracies)


def _goals(model: AskedModel, labels: Labels) -> list[Goal]:
    def goal_of(loss: Callable[..., PerImage]) -> Goal:
        def goal(images: Images) -> PerImage:
            return loss(folded_logits(model, images, labels), labels)

        return goal

    kinds = (losses.margin, losses.cross_entropy) if model.gives_gradients else ()
    return [goal_of(loss) for loss in kinds]


def _found_points(
    rows: Tensor,
    clean: Images,
    found: dict[int, list[tuple[float, Tensor]]],
    between: tuple[Threat, Threat],
) -> list[Images]:
    """The points found above one strength and up to another; clean images where there are fewer."""
    low, high = (float(threat.epsilon) for threat in between)
    of_rows = [
        [image for epsilon, image in found.get(row, ()) if low < epsilon <= high]
        for row in rows.tolist()
    ]
    batches = []
    for number in range(max(map(len, of_rows), default=0)):
        points = clean.clone()
        for index, images in enumerate(of_rows):
            if number < len(images):
                points[index] = images[number][0].to(points)
        batches.append(points)
    return batches
