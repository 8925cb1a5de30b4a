"""Classify image files; for AFA, also estimate how strongly they were attacked."""

import json
from collections.abc import Callable, Sequence
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

from equipoise.deployment import publish
from equipoise.deployment.export import DeployedModel, image_shape
from equipoise.deployment.read_image import find_images, load_image
from equipoise.models.conditional_network import FixedPreference
from equipoise.models.io.external import is_external, load_external
from equipoise.models.io.model_source import at_preference, find_model
from equipoise.records.epsilon import format_epsilon
from equipoise.report.score_card import score_card
from equipoise.runtime.errors import InvalidInput, RunError
from equipoise.types import Images

BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Strength:
    """Estimated attack strength of an image, from its W1 and the model's record.

    Args:
        epsilon: Lowest strength at which attacked images have this W1 on average, in pixel units.
        or_more: Whether W1 reaches the highest average, so that the strength may be larger.
        at_clean: Average W1 of clean images.
        at_strongest: Average W1 of images attacked at ``strongest``.
        strongest: Strength with the highest average W1.
        norm: Norm of the attacks.
    """

    epsilon: float
    or_more: bool
    at_clean: float
    at_strongest: float
    strongest: float
    norm: str


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Prediction for one image.

    Args:
        image: Path of the image file.
        class_name: Most likely class.
        label: Index of that class, from 0.
        probability: Its softmax probability. It is not calibrated.
        notices: Changes that were needed to fit the image to the model.
        w1: For AFA, the weight of the robust branch.
        strength: Attack strength estimated from ``w1``, if the model has a record.
    """

    image: str
    class_name: str
    label: int
    probability: float
    notices: tuple[str, ...]
    w1: float | None
    strength: Strength | None


def predict_images(
    model: str,
    images: Sequence[Path],
    *,
    preference: float | None = None,
    size: tuple[int, int] | None = None,
    skip: Callable[[Path, str], None] | None = None,
) -> list[Prediction]:
    """Classify image files.

    Args:
        model: A run folder, a model folder, ``hf://owner/name``, or a file that
            ``equipoise export`` wrote.
        images: Image files, and folders of them.
        preference: For a conditional network (OAT), the lambda to fix; its default if ``None``.
        size: Height and width to which images are fitted, for a folder that does not specify them.
        skip: Receives each file that cannot be read and the reason; by default the first one
            raises.

    Returns:
        One prediction for each image that was read, in order.

    Raises:
        RunError: If the model or an image cannot be read, or an output is not finite.
        ValueError: If there is no image, or the model does not take a preference.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from equipoise.models import WideResNet, save
        >>> folder = Path(tempfile.mkdtemp())
        >>> network = WideResNet(depth=10, width=1, classes=2, channels=1).eval()
        >>> card = {"classes": ["cat", "dog"], "image_shape": [1, 8, 8]}
        >>> _ = save(network, folder / "model", card)
        >>> Image.new("L", (8, 8)).save(folder / "black.png")
        >>> (prediction,) = predict_images(str(folder / "model"), [folder / "black.png"])
        >>> prediction.class_name in card["classes"]
        True
    """
    if not images:
        raise InvalidInput(
            "predict needs at least one image, got none; name image files or a folder."
        )
    network, card, shape = _load(model, preference, size)
    predictions: list[Prediction] = []
    batch: list[tuple[Path, Images, list[str]]] = []
    for path in find_images(map(Path, images)):
        try:
            batch.append((path, *load_image(path, shape)))
        except RunError as error:
            if skip is None:
                raise
            skip(path, str(error))
        if len(batch) == BATCH:
            predictions += _predict_batch(model, network, card, batch)
            batch = []
    if batch:
        predictions += _predict_batch(model, network, card, batch)
    return predictions


def _predict_batch(
    model: str, network: Any, card: dict[str, Any], batch: list[tuple[Path, Images, list[str]]]
) -> list[Prediction]:
    """Classify a batch.

    Args:
        model: Name of the model in messages.
        network: The network.
        card: Its score card.
        batch: Path, image and notices of each.
    """
    with torch.no_grad():
        logits, *weights = _outputs(network, torch.cat([image for _, image, _ in batch]))
    if not bool(logits.isfinite().all()):
        raise RunError(f"{model} outputs NaN or infinity; its file is damaged, or training failed.")
    probabilities, labels = logits.softmax(dim=1).max(dim=1)
    names = card["classes"] or [str(label) for label in range(logits.shape[1])]
    if len(names) != logits.shape[1]:
        raise RunError(
            f"{model} must have one class name for each of its {logits.shape[1]} outputs, got "
            f"{len(names)}; correct the classes in its config.json."
        )
    w1 = weights[0].tolist() if weights else [None] * len(labels)
    return [
        Prediction(
            image=str(path),
            class_name=names[label],
            label=label,
            probability=probability,
            notices=tuple(notices),
            w1=weight,
            strength=None if weight is None else estimated_strength(weight, card["scores"]),
        )
        for (path, _, notices), label, probability, weight in zip(
            batch, labels.tolist(), probabilities.tolist(), w1, strict=True
        )
    ]


def estimated_strength(w1: float, scores: dict[str, Any] | None) -> Strength | None:
    """Estimate the strength at which attacked images have this W1 on average.

    The record holds the mean W1 of test images that were attacked through the generator at each
    strength. The running maximum of these means is interpolated linearly. Below the clean mean the
    estimate is 0; at or above the highest mean it is the strength of that mean *or more*.

    Args:
        w1: Weight of the robust branch for one image, in [0, 1].
        scores: ``"scores"`` of the model's score card.

    Returns:
        The estimate; ``None`` without a record, or if W1 rises with the strength by no more than
        one standard deviation over clean images, and so contains no information.

    Source:
        AFA Fig. 6 shows the means; estimating a strength from them is ours. They are means over
        images, so the estimate for a single image is rough.

    Example:
        >>> curve = [{"mean": 0.5, "std": 0.01}, {"mean": 0.7, "std": 0.01}]
        >>> strength = estimated_strength(
        ...     0.6, {"epsilons": [0.0, 0.1], "w1": curve, "norm": "Linf"}
        ... )
        >>> round(strength.epsilon, 3), strength.or_more
        (0.05, False)
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
    """Table of predictions for the terminal, with notices about changed images below it."""
    has_w1 = predictions[0].w1 is not None
    table = Table(
        box=box.SIMPLE_HEAD, caption=_caption(predictions[0].strength), caption_justify="left"
    )
    for name in ("image", "class", "probability", *(("W1", "estimated attack") * has_w1)):
        words = name in ("image", "class")
        table.add_column(name, justify="left" if words else "right", overflow="fold")
    for prediction in predictions:
        cells = [prediction.image, prediction.class_name, f"{prediction.probability:.3f}"]
        if prediction.w1 is not None:
            cells += [f"{prediction.w1:.3f}", _strength_text(prediction.strength)]
        table.add_row(*(Text(cell) for cell in cells))
    notices = [
        Text(f"{prediction.image}: {notice}.")
        for prediction in predictions
        for notice in prediction.notices
    ]
    return Group(table, *notices)


def predictions_as_json(predictions: Sequence[Prediction]) -> str:
    """Predictions as a JSON list of objects with the fields of ``Prediction``."""
    return json.dumps([asdict(prediction) for prediction in predictions], indent=2)


def _strength_text(strength: Strength | None) -> str:
    if strength is None:
        return "?"
    in_255ths = format_epsilon(strength.strongest).endswith("/255")
    text = f"{strength.epsilon * 255:.1f}/255" if in_255ths else f"{strength.epsilon:.3f}"
    return text + (" or more" if strength.or_more else "")


def _caption(strength: Strength | None) -> str | None:
    if strength is None:
        return None
    return (
        f"W1 is the weight of the robust branch: on average {strength.at_clean:.3f} for clean "
        f"images and {strength.at_strongest:.3f} for images attacked at "
        f"{format_epsilon(strength.strongest)} ({strength.norm}). An attack strength estimated "
        "from the W1 of a single image is rough."
    )


def _load(
    model: str, preference: float | None, size: tuple[int, int] | None
) -> tuple[Any, dict[str, Any], tuple[int, ...]]:
    """Load a network, its score card, and the shape of its images."""
    if is_external(model):
        network = load_external(model)
        card = getattr(network, "card", None)
        if card is None or "image_shape" not in card:
            raise RunError(
                f"{model} does not contain the names of its classes; name a model folder, or a "
                "file that `equipoise export` wrote."
            )
        if preference is not None or size is not None:
            raise InvalidInput(
                f"{model} is an exported file with a fixed preference and size; leave out "
                "--preference and --size."
            )
        return network, card, tuple(card["image_shape"])
    loaded = find_model(model)
    assert loaded.folder is not None
    network, _ = at_preference(loaded.network, loaded.name, preference)
    fixed = network.preference if isinstance(network, FixedPreference) else None
    card = score_card(loaded.card, publish.record_at(loaded.folder, fixed))
    return DeployedModel(network).eval(), card, image_shape(loaded, size)


def _outputs(network: Any, images: Images) -> tuple[Tensor, ...]:
    outputs: tuple[Tensor, ...] = (
        network(images) if isinstance(network, DeployedModel) else network.outputs(images)
    )
    return outputs
