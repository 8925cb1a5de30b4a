"""Attack a model and write its adversarial images as arrays and as PNG files."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from equipoise.api.adversarial_files import AdversarialFolder, StrengthImages
from equipoise.api.evaluate import run_evaluation
from equipoise.api.evaluation_inputs import (
    EvaluationImages,
    load_surrogates,
    resolve_inputs,
)
from equipoise.api.evaluation_settings import (
    EvaluationChoices,
    EvaluationSettings,
    trusted_code,
)
from equipoise.attacks.goals import misclassified
from equipoise.attacks.losses import margin
from equipoise.attacks.threat import THREATS
from equipoise.data import DataSet, Split
from equipoise.evaluation import Profile, images_hash
from equipoise.evaluation.eight_bit import EightBitImages, to_eight_bits
from equipoise.models.attack_mode.context import attack_mode
from equipoise.models.io.model_source import LoadedModel
from equipoise.recipes import Evaluation
from equipoise.runtime.environment import environment
from equipoise.runtime.errors import InvalidInput
from equipoise.runtime.reporter import NullReporter, Reporter
from equipoise.runtime.seeds import derive_seed
from equipoise.runtime.trust import trusting

BATCH = 256
"""Images that are scored at once."""

LAYOUT = "image: float32, (n, height, width, channel), in [0, 1]"


def attack(
    model: Path | str,
    out: Path,
    *,
    png: bool = False,
    dataset: DataSet | None = None,
    data: Path | None = None,
    evaluation: Evaluation | None = None,
    reporter: Reporter | None = None,
    **choices: Unpack[EvaluationChoices],
) -> dict[str, Any]:
    """Attack a model as ``evaluate`` does, and write its adversarial images.

    The attacks are those of the evaluation, from the same cache: after ``evaluate`` with the same
    arguments nothing is computed again. Each strength above 0 gets one ``.npz`` file with, for
    every image: ``image`` (float32, ``(n, height, width, channel)``, in [0, 1]), ``label``, ``row``
    (its index in the data), ``prediction`` of the model and ``broken``; and with ``epsilon`` and
    ``norm``. An image that no attack broke is the clean one. ``metadata.json`` says what was
    attacked and how. If the command is interrupted, repeat it.

    Args:
        model: The model, as for ``evaluate``.
        out: Folder to write; new, empty, or of an earlier call with the same arguments.
        png: Also write 8-bit PNG files, which are scored again: see ``to_eight_bits``.
        dataset: Data set; by default the one that the model was trained on.
        data: Folder of that data set, if it is elsewhere on this machine.
        evaluation: Strengths, attacks and images; by default those of the model's recipe.
        reporter: Receives progress and log messages.
        choices: See ``EvaluationChoices``.

    Returns:
        The content of ``metadata.json``. ``strengths`` holds one entry for each file: the number of
        images that are ``broken`` and, with ``png``, of those that fool as 8-bit images.

    Raises:
        RunError: If the folder holds anything else, or a file cannot be written.
        ValueError: If no strength is above 0, or the arguments are refused by ``evaluate``.

    Example:
        >>> import tempfile
        >>> from equipoise.data import Digits
        >>> from equipoise.models import WideResNet, save
        >>> folder = Path(tempfile.mkdtemp())
        >>> network = WideResNet(depth=10, width=1, classes=10, channels=1).eval()
        >>> _ = save(network, folder / "model", card={"name": "untrained"})
        >>> metadata = attack(
        ...     folder / "model",
        ...     folder / "images",
        ...     dataset=Digits().load(),
        ...     epsilons=(0.0, 0.1),
        ...     suites=("quick",),
        ...     steps=1,
        ...     images=8,
        ... )
        >>> metadata["strengths"][0]["file"], metadata["strengths"][0]["images"]
        ('epsilon_0.1.npz', 8)
    """
    with trusting(*trusted_code(choices, data)):
        loaded, images, settings = resolve_inputs(str(model), (dataset, data), evaluation, choices)
        _check(settings.evaluation, images.split, png)
        profiles: list[Profile] = []
        settings = replace(settings, on_profile=profiles.append)
        reporter = reporter or NullReporter()
        with AdversarialFolder.open(out, _request(loaded, images, settings, png)) as folder:
            run_evaluation(
                loaded,
                images,
                settings,
                surrogates=load_surrogates(settings.surrogates, choices.get("trust", ())),
                checks=False,
                workers=choices.get("workers", 1),
                reporter=reporter,
            )
            for found in _strengths(loaded.network, images, settings, profiles[-1], png):
                folder.write(found)
            return folder.finish(environment())


def _request(
    model: LoadedModel, images: EvaluationImages, settings: EvaluationSettings, png: bool
) -> dict[str, Any]:
    """What identifies the images: a folder belongs to one request."""
    return {
        "model": model.name,
        "weights_sha256": model.weights,
        "data": images.data,
        "part": settings.evaluation.part,
        "images": len(images.split),
        "images_sha256": images_hash(images.split),
        "norm": settings.evaluation.norm,
        "settings": settings.to_json(),
        "png": png,
        "layout": LAYOUT,
    }


def _check(evaluation: Evaluation, split: Split, png: bool) -> None:
    if not any(epsilon > 0 for epsilon in evaluation.epsilons):
        raise InvalidInput("attack needs a strength above 0; name it with --epsilons.")
    channels = split.images.shape[1]
    if png and channels not in (1, 3):
        raise InvalidInput(
            f"--png needs images with 1 or 3 channels, got {channels}; leave it out, and use the "
            "arrays."
        )


def _strengths(
    network: nn.Module,
    images: EvaluationImages,
    settings: EvaluationSettings,
    profile: Profile,
    png: bool,
) -> Iterator[StrengthImages]:
    """Yield the images of each strength above 0: of each the adversarial one that fools most."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    split = images.split.to(device)
    with attack_mode(network), torch.autocast(device, enabled=False):
        scores = _margins(network, split, profile)
        for epsilon in profile.epsilons[1:]:
            best = _best(split, profile, scores, epsilon)
            prediction = _predictions(network, best, device)
            found = StrengthImages(
                epsilon=epsilon,
                norm=settings.evaluation.norm,
                images=best,
                labels=split.labels.cpu(),
                rows=images.rows,
                prediction=prediction,
                broken=prediction != split.labels.cpu(),
            )
            yield _with_eight_bits(network, split, found, settings.seed) if png else found


@torch.no_grad()
def _margins(network: nn.Module, split: Split, profile: Profile) -> list[float]:
    """Return by how much each adversarial image of the profile fools the model."""
    scores: list[float] = []
    for first in range(0, len(profile.adversarial), BATCH):
        batch = profile.adversarial[first : first + BATCH]
        points = torch.cat([image for _, _, image in batch]).to(split.device)
        labels = split.labels[torch.tensor([row for row, _, _ in batch], device=split.device)]
        logits = network(points.contiguous(memory_format=torch.channels_last))
        value = margin(logits, labels)
        # An image that makes the model return NaN fools it, whatever the margin.
        scores += torch.where(misclassified(logits, labels) & value.isnan(), 0.0, value).tolist()
    return scores


def _best(split: Split, profile: Profile, scores: list[float], epsilon: float) -> Tensor:
    """Return the adversarial image of each image with the largest margin, or the clean one."""
    images, _ = split.batch(slice(None))
    images = images.cpu()
    best: dict[int, float] = {}
    for (row, strength, image), score in zip(profile.adversarial, scores, strict=True):
        if strength <= epsilon and score > best.get(row, float("-inf")):
            best[row] = score
            images[row] = image[0]
    return images


@torch.no_grad()
def _predictions(network: nn.Module, images: Tensor, device: str) -> Tensor:
    """Return the class of each image; -1 where the model returns NaN."""
    classes = []
    for batch in images.split(BATCH):
        logits = network(batch.to(device).contiguous(memory_format=torch.channels_last))
        classes.append(logits.argmax(dim=1).where(~logits.isnan().any(dim=1), -1).cpu())
    return torch.cat(classes)


def _with_eight_bits(
    network: nn.Module, split: Split, found: StrengthImages, seed: int
) -> StrengthImages:
    """Add the images in 8 bits; where rounding saves one, the grid is attacked."""
    threat = THREATS[found.norm](found.epsilon)
    clean = split.images[:].cpu()
    pixels, by_rounding = clean.clone(), torch.zeros(len(clean), dtype=torch.bool)
    for rows in found.broken.nonzero().squeeze(1).split(BATCH):
        if not len(rows):
            break
        generator = torch.Generator(split.device)
        key = ("eight bits", f"{found.epsilon}", str(int(rows[0])))
        result: EightBitImages = to_eight_bits(
            network,
            found.images[rows].to(split.device),
            clean[rows].to(split.device),
            split.labels[rows.to(split.device)],
            threat,
            generator.manual_seed(derive_seed(seed, *key)),
        )
        pixels[rows], by_rounding[rows] = result.images.cpu(), result.by_rounding.cpu()
    prediction = _predictions(network, pixels.float().div_(255.0), str(split.device))
    return replace(found, pixels=pixels, pixel_prediction=prediction, by_rounding=by_rounding)
