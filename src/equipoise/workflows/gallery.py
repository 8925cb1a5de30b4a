"""Pictures for a report: some images, what an attack makes of them, what the model says to both."""

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
from equipoise.report.compare import broken_at
from equipoise.report.run_files import GALLERY_FORMAT, gallery_path
from equipoise.report.score_card import preference_in
from equipoise.runtime.errors import RunError
from equipoise.runtime.files import write_json
from equipoise.runtime.seeds import derive_seed
from equipoise.workflows.datasets import part_of, source_of
from equipoise.workflows.model_source import at_preference, find_model

SEARCH = PGD(steps=20, relative_step=0.25, keep="best")


@dataclass(frozen=True, kw_only=True)
class Found:
    """What one search found for a few images.

    Args:
        clean: The images.
        adversarial: What the search made of them.
        before: Probabilities of the classes for the clean ones.
        after: Probabilities for the adversarial ones.
    """

    clean: Float[Tensor, "batch channel height width"]
    adversarial: Float[Tensor, "batch channel height width"]
    before: Float[Tensor, "batch classes"]
    after: Float[Tensor, "batch classes"]


def write_galleries(
    found: Sequence[tuple[Path, dict[str, Any]]], count: int, data: Path | None = None
) -> list[Path]:
    """Write a gallery for each record whose model lies beside it.

    All show the same images: evenly spaced from those that most models lose at once to those that
    most never lose.

    Args:
        found: Records of the same images at the same strengths, with their paths.
        count: How many images.
        data: Folder of the data set, if it lies elsewhere here.

    Returns:
        The files written.

    Raises:
        RunError: If no model lies beside any record, or data or model are not those recorded.
        ValueError: If the count is not between 1 and the number of images.
    """
    images = found[0][1]["images"]
    if not 1 <= count <= images:
        raise ValueError(f"a gallery must show 1 to {images} images, got {count}.")
    here = [(path, record) for path, record in found if (locate(_home(path)) / CONFIG).is_file()]
    if not here:
        raise RunError(
            f"no model lies beside {found[0][0]}, so there is nothing to make pictures with; name "
            "records inside their run or model folders, or leave --gallery out."
        )
    rows = spread_out([record for _, record in found], count)
    return [_write(path, record, rows, data) for path, record in here]


def spread_out(records: Sequence[dict[str, Any]], count: int) -> list[int]:
    """Images evenly spaced from the first that are broken to those that never are.

    Args:
        records: Evaluations of the same images.
        count: How many to choose.

    Returns:
        Their places, the most easily broken first.
    """
    never = len(records[0]["epsilons"])
    levels = [[never if at < 0 else at for at in broken_at(record)] for record in records]
    order = sorted(range(records[0]["images"]), key=lambda row: sum(each[row] for each in levels))
    last = max(1, count - 1)
    return [order[number * (len(order) - 1) // last] for number in range(count)]


def _home(path: Path) -> Path:
    return path.resolve().parent.parent


def _write(path: Path, record: dict[str, Any], rows: list[int], data: Path | None) -> Path:
    subject = find_model(str(_home(path)))
    card = subject.card
    preference = preference_in(record["model"], subject.name)
    network, name = at_preference(
        subject.network, subject.name, float(preference) if preference else None
    )
    dataset = source_of(card, data).load()
    split = part_of(dataset, card, record.get("part", "test")).first(record["images"])
    if images_hash(split) != record["images_sha256"]:
        raise RunError(
            f"the data read for {path} are not the images of the record; name their folder with "
            "--data, or evaluate the model again."
        )
    epsilon = record["epsilons"][-1]
    images, labels = split.batch(torch.tensor(rows))
    generator = torch.Generator().manual_seed(derive_seed(record["seed"], "gallery"))
    with attack_mode(network):
        made = search(network, images, labels, record["norm"], epsilon, generator)
    lost = broken_at(record)
    right = made.before.argmax(dim=1) == labels
    if name != record["model"] or right.tolist() != [lost[row] != 0 for row in rows]:
        raise RunError(
            f"the model beside {path} is not the one that was evaluated: it answers otherwise; "
            "evaluate it again."
        )
    gallery = {
        "format": GALLERY_FORMAT,
        "images_sha256": record["images_sha256"],
        "epsilon_written": record["epsilons_written"][-1],
        "classes": list(dataset.class_names),
        "pictures": [
            picture(made, number, row, int(labels[number])) for number, row in enumerate(rows)
        ],
    }
    to = gallery_path(path)
    write_json(to, gallery)
    return to


def search(
    model: nn.Module,
    images: Float[Tensor, "batch channel height width"],
    labels: Tensor,
    norm: str,
    epsilon: float,
    generator: torch.Generator,
) -> Found:
    """Attack a few images with one search on the margin.

    Args:
        model: Images to logits, in eval mode.
        images: Clean images in [0, 1].
        labels: Their classes.
        norm: Geometry of the threat.
        epsilon: Its radius in pixel units.
        generator: Of the random start.

    Returns:
        Images and probabilities.
    """
    images = images.contiguous(memory_format=torch.channels_last)
    found = SEARCH(margin(model, labels), images, THREATS[norm](epsilon), generator)
    with torch.no_grad():
        before, after = model(images).softmax(dim=1), model(found).softmax(dim=1)
    return Found(clean=images, adversarial=found, before=before, after=after)


def picture(found: Found, number: int, row: int, label: int) -> dict[str, Any]:
    """One image of a gallery as JSON.

    Args:
        found: What the search found.
        number: Which of its images.
        row: The image's place in the data.
        label: Its class.

    Returns:
        Three PNGs in base64 and two answers. The perturbation is shown around mid-grey, ``times``
        as strong as it is.
    """
    clean, adversarial = found.clean[number], found.adversarial[number]
    difference = adversarial - clean
    times = 0.5 / max(float(difference.abs().max()), 1e-6)
    answers = {
        name: {"class": int(chances.argmax()), "confidence": round(float(chances.max()), 4)}
        for name, chances in (("before", found.before[number]), ("after", found.after[number]))
    }
    return {
        "row": row,
        "label": label,
        "clean": _png(clean),
        "adversarial": _png(adversarial),
        "perturbation": _png(0.5 + times * difference),
        "times": round(times, 1),
        **answers,
    }


def _png(image: Tensor) -> str:
    pixels = (image.detach().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(2).contiguous().numpy()).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
