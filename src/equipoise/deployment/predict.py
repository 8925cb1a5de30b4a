"""What a model sees on pictures, how sure it is and, for AFA, how strongly they look attacked."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text
from torch import Tensor

from equipoise.deployment.export import Deployed, image_shape
from equipoise.deployment.read_image import read_picture
from equipoise.models.conditional_network import FixedPreference
from equipoise.models.io.external import is_external, load_external
from equipoise.records.epsilon import format_epsilon
from equipoise.report.score_card import score_card
from equipoise.runtime.errors import RunError
from equipoise.types import Images
from equipoise.workflows import model_card
from equipoise.workflows.model_source import at_preference, find_model

BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Strength:
    """How strongly a picture looks attacked, by its W1 and the model's record.

    Args:
        epsilon: The lowest strength whose attacked images have this W1 on average.
        or_more: W1 is at or above the highest average, so the strength may be larger.
        at_clean: Average W1 of clean images.
        at_strongest: Average W1 of images attacked at ``strongest``.
        strongest: The strength of the highest average.
        norm: Geometry of the attacks.
    """

    epsilon: float
    or_more: bool
    at_clean: float
    at_strongest: float
    strongest: float
    norm: str


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One picture's outcome.

    Args:
        image: Its file.
        class_name: The likeliest class.
        label: That class, counted from 0.
        probability: Its softmax probability. It is no promise: no model here is calibrated.
        notices: What was done to make the picture fit.
        w1: For AFA, the robust branch's share.
        strength: Estimated from it, if the model has a record.
    """

    image: str
    class_name: str
    label: int
    probability: float
    notices: tuple[str, ...]
    w1: float | None
    strength: Strength | None


def predict(
    model: str,
    images: Sequence[Path],
    *,
    preference: float | None = None,
    size: tuple[int, int] | None = None,
) -> list[Prediction]:
    """Classify pictures.

    Args:
        model: A run folder, a model folder, ``hf://owner/name``, or a file that
            ``equipoise export`` wrote.
        images: PNG or JPEG files.
        preference: For a conditional network (OAT), the lambda to fix; its default if not given.
        size: Height and width that pictures are fitted to, for a folder that does not say.

    Returns:
        One prediction a picture, in order.

    Raises:
        RunError: If the model or a picture cannot be read, or the model answers no number.
        ValueError: If there is no picture, or a preference that the model does not take.
    """
    if not images:
        raise ValueError("predict needs at least one picture, got none.")
    network, card, shape = _load(model, preference, size)
    read = [read_picture(Path(path), shape) for path in images]
    pictures = torch.cat([picture for picture, _ in read])
    with torch.no_grad():
        parts = [_answers(network, batch) for batch in pictures.split(BATCH)]
    logits, *weights = (torch.cat(part) for part in zip(*parts, strict=True))
    if not bool(logits.isfinite().all()):
        raise RunError(f"{model} answers NaN or infinity; its file is damaged or badly trained.")
    probabilities, labels = logits.softmax(dim=1).max(dim=1)
    names = card["classes"] or [str(label) for label in range(logits.shape[1])]
    if len(names) != logits.shape[1]:
        raise RunError(f"{model} names {len(names)} classes and answers {logits.shape[1]}.")
    shares = weights[0].tolist() if weights else [None] * len(labels)
    return [
        Prediction(
            image=str(path),
            class_name=names[label],
            label=label,
            probability=probability,
            notices=tuple(notices),
            w1=w1,
            strength=None if w1 is None else estimated_strength(w1, card["scores"]),
        )
        for path, label, probability, (_, notices), w1 in zip(
            images, labels.tolist(), probabilities.tolist(), read, shares, strict=True
        )
    ]


def estimated_strength(w1: float, scores: dict[str, Any] | None) -> Strength | None:
    """The strength at which attacked images have this W1 on average.

    The record has the mean W1 of test images attacked through the generator at each strength. Their
    running maximum is interpolated linearly, and the ends are kept: below the clean mean the
    estimate is 0, at the highest mean or above it the strength of that mean *or more*.

    Args:
        w1: The robust branch's share for one picture.
        scores: Of the model's score card.

    Returns:
        The estimate; ``None`` without a record, or where W1 does not rise with the strength by more
        than clean images differ among themselves: then it tells nothing.

    Source:
        AFA Fig. 6 shows the means; reading a strength from them is ours. It is a mean over images
        turned round: for one picture it is a rough guess.
    """
    curve = (scores or {}).get("w1")
    if scores is None or not curve:
        return None
    epsilons = scores["epsilons"]
    means = list(accumulate((point["mean"] for point in curve), max))
    top = means.index(means[-1])
    if means[top] - means[0] <= curve[0]["std"]:
        return None
    epsilon = epsilons[top]
    for k in range(top):
        low, high = means[k], means[k + 1]
        if w1 < high:
            share = max(0.0, (w1 - low) / (high - low)) if high > low else 0.0
            epsilon = epsilons[k] + share * (epsilons[k + 1] - epsilons[k])
            break
    return Strength(
        epsilon=epsilon,
        or_more=w1 >= means[top],
        at_clean=means[0],
        at_strongest=means[top],
        strongest=epsilons[top],
        norm=scores["norm"],
    )


def rich_predictions(predictions: Sequence[Prediction]) -> Group:
    """A table for the terminal, and under it what was done to make pictures fit."""
    gated = predictions[0].w1 is not None
    table = Table(
        box=box.SIMPLE_HEAD, caption=_caption(predictions[0].strength), caption_justify="left"
    )
    for name in ("picture", "class", "probability", *(("W1", "looks attacked at") * gated)):
        table.add_column(
            name, justify="left" if name in ("picture", "class") else "right", overflow="fold"
        )
    for found in predictions:
        cells = [found.image, found.class_name, f"{found.probability:.3f}"]
        if found.w1 is not None:
            cells += [f"{found.w1:.3f}", _looks(found.strength)]
        table.add_row(*(Text(cell) for cell in cells))
    notices = [Text(f"{found.image}: {text}.") for found in predictions for text in found.notices]
    return Group(table, *notices)


def as_json(predictions: Sequence[Prediction]) -> str:
    """The same for machines: a list of objects with the fields of ``Prediction``."""
    return json.dumps([asdict(found) for found in predictions], indent=2)


def _looks(strength: Strength | None) -> str:
    if strength is None:
        return "?"
    levels = format_epsilon(strength.strongest).endswith("/255")
    guess = f"{strength.epsilon * 255:.1f}/255" if levels else f"{strength.epsilon:.3f}"
    return guess + (" or more" if strength.or_more else "")


def _caption(strength: Strength | None) -> str | None:
    if strength is None:
        return None
    return (
        f"W1 is the robust branch's share: {strength.at_clean:.3f} for clean images, "
        f"{strength.at_strongest:.3f} for images attacked at {format_epsilon(strength.strongest)} "
        f"({strength.norm}), on average. A strength read from one picture's W1 is a rough guess."
    )


def _load(
    model: str, preference: float | None, size: tuple[int, int] | None
) -> tuple[Any, dict[str, Any], tuple[int, ...]]:
    """A network, its score card, and the images it takes."""
    if is_external(model):
        network = load_external(model)
        card = getattr(network, "card", None)
        if card is None or "image_shape" not in card:
            raise RunError(
                f"{model} does not say what its classes are; name a model folder, or a file that "
                "`equipoise export` wrote."
            )
        if preference is not None or size is not None:
            raise ValueError(f"{model} is exported: its preference and size are fixed.")
        return network, card, tuple(card["image_shape"])
    subject = find_model(model)
    assert subject.folder is not None
    chosen, _ = at_preference(subject.network, subject.name, preference)
    fixed = chosen.preference if isinstance(chosen, FixedPreference) else None
    card = score_card(subject.card, model_card.record_at(subject.folder, fixed))
    return Deployed(chosen).eval(), card, image_shape(subject, size)


def _answers(network: Any, images: Images) -> tuple[Tensor, ...]:
    found: tuple[Tensor, ...] = (
        network(images) if isinstance(network, Deployed) else network.outputs(images)
    )
    return found
