"""Example images for a report: clean and adversarial images with the model's predictions."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from equipoise.attacks import PGD
from equipoise.attacks.goals import margin
from equipoise.attacks.threat import THREATS
from equipoise.evaluation import images_hash
from equipoise.models.attack_mode.context import attack_mode
from equipoise.models.io.model_folder import CONFIG, locate
from equipoise.models.io.model_source import at_preference, find_model
from equipoise.recipes.datasets import part_of, source_of
from equipoise.report.compare import broken_at
from equipoise.report.run_files import GALLERY_FORMAT, gallery_path
from equipoise.report.score_card import preference_in
from equipoise.runtime.errors import InvalidInput, RunError
from equipoise.runtime.files import write_json
from equipoise.runtime.seeds import derive_seed

SEARCH = PGD(steps=20, relative_step=0.25, keep="best")


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Images before and after an attack.

    Args:
        clean: Clean images.
        adversarial: The same images after the attack.
        before: Class probabilities of the clean images.
        after: Class probabilities of the adversarial images.
    """

    clean: Float[Tensor, "batch channel height width"]
    adversarial: Float[Tensor, "batch channel height width"]
    before: Float[Tensor, "batch classes"]
    after: Float[Tensor, "batch classes"]


def write_galleries(
    records: Sequence[tuple[Path, dict[str, Any]]], count: int, data: Path | None = None
) -> list[Path]:
    """Write a gallery for each record whose model is next to it.

    All galleries show the same images, evenly spaced from those that break first for most models
    to those that never break.

    Args:
        records: Records of the same images at the same strengths, with their paths.
        count: Number of images to show.
        data: Folder of the data set, if it is elsewhere on this machine.

    Returns:
        The files written.

    Raises:
        RunError: If no record has a model next to it, or data or model are not those of the record.
        ValueError: If the count is not between 1 and the number of images.
    """
    first, images = records[0][0], records[0][1]["images"]
    if not 1 <= count <= images:
        raise InvalidInput(f"a gallery must show 1 to {images} images, got {count}.")
    with_model = [pair for pair in records if (locate(_home(pair[0])) / CONFIG).is_file()]
    if not with_model:
        raise RunError(
            f"there is no model next to {first} to make images with; name records inside their run "
            "or model folders, or leave --gallery out."
        )
    rows = spread_out([record for _, record in records], count)
    return [_write(path, record, rows, data) for path, record in with_model]


def spread_out(records: Sequence[dict[str, Any]], count: int) -> list[int]:
    """Choose images evenly spaced from the most easily broken ones to those that never break.

    Args:
        records: Records of the same images.
        count: Number of images to choose.

    Returns:
        Indices of the images, the most easily broken first.

    Example:
        >>> record = {"epsilons": [0.0, 0.1], "images": 4, "broken_at": [-1, 1, 0, -1]}
        >>> spread_out([record], 3)
        [2, 1, 3]
    """
    never = len(records[0]["epsilons"])
    levels = [[never if level < 0 else level for level in broken_at(r)] for r in records]
    order = sorted(range(records[0]["images"]), key=lambda row: sum(model[row] for model in levels))
    last = max(1, count - 1)
    return [order[number * (len(order) - 1) // last] for number in range(count)]


def _home(path: Path) -> Path:
    return path.resolve().parent.parent


def _write(path: Path, record: dict[str, Any], rows: list[int], data: Path | None) -> Path:
    loaded = find_model(str(_home(path)))
    preference = preference_in(record["model"], loaded.name)
    network, name = at_preference(
        loaded.network, loaded.name, float(preference) if preference else None
    )
    dataset = source_of(loaded.card, data).load()
    split = part_of(dataset, loaded.card, record.get("part", "test")).first(record["images"])
    if images_hash(split) != record["images_sha256"]:
        raise RunError(
            f"the data read for {path} are not the images of the record; name their folder with "
            "--data, or evaluate the model again."
        )
    images, labels = split.batch(torch.tensor(rows))
    generator = torch.Generator().manual_seed(derive_seed(record["seed"], "gallery"))
    epsilon = record["epsilons"][-1]
    with attack_mode(network):
        examples = search(network, images, labels, record["norm"], epsilon, generator)
    levels = broken_at(record)
    correct = examples.before.argmax(dim=1) == labels
    if name != record["model"] or correct.tolist() != [levels[row] != 0 for row in rows]:
        raise RunError(
            f"the model next to {path} is not the one that was evaluated, because its predictions "
            "differ; evaluate it again."
        )
    gallery = {
        "format": GALLERY_FORMAT,
        "images_sha256": record["images_sha256"],
        "epsilon_written": record["epsilons_written"][-1],
        "classes": list(dataset.class_names),
        "pictures": [
            picture(examples, number, row, int(labels[number])) for number, row in enumerate(rows)
        ],
    }
    write_json(gallery_path(path), gallery)
    return gallery_path(path)


def search(
    model: nn.Module,
    images: Float[Tensor, "batch channel height width"],
    labels: Tensor,
    norm: str,
    epsilon: float,
    generator: torch.Generator,
) -> Examples:
    """Attack a few images with one PGD search on the margin.

    Args:
        model: Maps images to logits; in eval mode.
        images: Clean images in [0, 1].
        labels: Class indices.
        norm: Norm of the threat.
        epsilon: Its radius in pixel units.
        generator: Random generator for the random start.

    Returns:
        Images and class probabilities.
    """
    images = images.contiguous(memory_format=torch.channels_last)
    adversarial = SEARCH(margin(model, labels), images, THREATS[norm](epsilon), generator)
    with torch.no_grad():
        before, after = model(images).softmax(dim=1), model(adversarial).softmax(dim=1)
    return Examples(clean=images, adversarial=adversarial, before=before, after=after)


def picture(examples: Examples, number: int, row: int, label: int) -> dict[str, Any]:
    """One image of a gallery as JSON values.

    Args:
        examples: Images before and after the attack.
        number: Index of the image among them.
        row: Index of the image in the data set.
        label: Its class.

    Returns:
        Three base64 PNGs and two predictions. The perturbation is shown on mid-grey and amplified
        by the factor ``times``.
    """
    clean, adversarial = examples.clean[number], examples.adversarial[number]
    difference = adversarial - clean
    times = 0.5 / max(float(difference.abs().max()), 1e-6)
    probabilities = {"before": examples.before[number], "after": examples.after[number]}
    predictions = {
        name: {"class": int(values.argmax()), "confidence": round(float(values.max()), 4)}
        for name, values in probabilities.items()
    }
    return {
        "row": row,
        "label": label,
        "clean": _png(clean),
        "adversarial": _png(adversarial),
        "perturbation": _png(0.5 + times * difference),
        "times": round(times, 1),
        **predictions,
    }


def _png(image: Tensor) -> str:
    pixels = (image.detach().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(2).contiguous().numpy()).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
