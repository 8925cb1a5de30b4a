"""Measure the accuracy of a model on corrupted images, without any attack."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any, TypedDict, Unpack

import torch
from torch import nn

from equipoise.api.evaluation_inputs import check_count
from equipoise.api.evaluation_settings import trusted_code
from equipoise.attacks import PGD
from equipoise.attacks.threat import Linf
from equipoise.data import DataSet, Split
from equipoise.data.corrupted import CorruptedSet
from equipoise.evaluation import robust_accuracy
from equipoise.models.io.model_source import at_preference, find_model, loaded_module
from equipoise.recipes.datasets import part_of, source_of
from equipoise.report.corruption_table import main_corruptions
from equipoise.runtime.environment import environment
from equipoise.runtime.errors import InvalidInput
from equipoise.runtime.files import write_json
from equipoise.runtime.reporter import NullReporter, Reporter
from equipoise.runtime.trust import Trusted, trusting


class ModelLoading(TypedDict, total=False):
    """How a model is loaded and asked.

    Attributes:
        logits: Which part of the model's output holds the logits.
        preference: For OAT, the value of lambda.
        trust: Code that a model folder names and that may run.
    """

    logits: str | None
    preference: float | None
    trust: Sequence[Trusted]


def evaluate_corruptions(
    model: Path | str | nn.Module,
    folder: Path,
    *,
    dataset: DataSet | None = None,
    data: Path | None = None,
    images: int | None = None,
    batch_size: int = 256,
    reporter: Reporter | None = None,
    **loading: Unpack[ModelLoading],
) -> tuple[dict[str, Any], Path]:
    """Measure the accuracy on each corruption at each severity, and on clean images.

    Args:
        model: As for ``evaluate``.
        folder: A folder in the layout of ``CorruptedSet``.
        dataset: Data set whose test images are the clean ones; by default the one that the model
            was trained on. Without either, clean accuracy is left out.
        data: Folder of that data set, if it is elsewhere on this machine.
        images: Use only this many images of each severity, and clean ones; all by default.
        batch_size: Images at once.
        reporter: Receives progress.
        loading: See ``ModelLoading``.

    Returns:
        The result, with ``clean``, ``corruptions`` (accuracies by name, severity 1 first) and
        ``mean``; and the path of its JSON file, in ``corruptions/`` of the run folder.

    Raises:
        RunError: If the model cannot be loaded.
        DataError: If images cannot be read.
        ValueError: If the model does not fit the images.
    """
    logits, trust = loading.get("logits"), loading.get("trust", ())
    if isinstance(model, nn.Module):
        loaded = loaded_module(model, logits)
    else:
        loaded = find_model(str(model), logits, trust)
    network, name = at_preference(loaded.network, loaded.name, loading.get("preference"))
    corrupted, reporter = CorruptedSet(folder=Path(folder)), reporter or NullReporter()
    names = corrupted.corruptions()
    if dataset is None and (data is not None or "dataset" in loaded.card):
        with trusting(*trusted_code({"trust": trust}, data)):
            dataset = source_of(loaded.card, data).load()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = network.to(device)
    classes = _classes(network, corrupted, names[0], device)
    accuracy: dict[str, list[float]] = {}
    reporter.begin(f"evaluate {name}", len(names), 0)
    for number, corruption in enumerate(names):
        splits = corrupted.severities(corruption, classes=classes)
        check_count(images, len(splits[0]), "corrupted")
        splits = tuple(split.first(images or len(split)) for split in splits)
        accuracy[corruption] = [_accuracy(network, split, batch_size, device) for split in splits]
        reporter.step(number + 1, f"{corruption}: {mean(accuracy[corruption]):.1%}")
    clean = None
    if dataset is not None:
        test = part_of(dataset, loaded.card, "test")
        test = test.first(images or len(test))
        clean = _accuracy(network, test, batch_size, device)
    result = {
        "format": 1,
        "model": name,
        "weights_sha256": loaded.weights,
        "data": Path(folder).resolve().name,
        "images": len(splits[0]),
        "clean": clean,
        "corruptions": accuracy,
        "mean": mean(mean(accuracy[corruption]) for corruption in main_corruptions(names)),
        "environment": environment(),
    }
    path = loaded.home / "corruptions" / f"{name}__{result['data']}.json"
    write_json(path, result)
    return result, path


def _classes(network: nn.Module, corrupted: CorruptedSet, corruption: str, device: str) -> int:
    """Number of classes of the network, which must accept the images."""
    first = corrupted.severities(corruption, classes=2**31)[0]
    images = first.first(2).to(device).batch(slice(None))[0]
    try:
        with torch.no_grad():
            return int(network(images).shape[-1])
    except (RuntimeError, TypeError, ValueError, IndexError) as error:  # of a user's network
        raise InvalidInput(
            f"the model fails on images of shape {tuple(images.shape[1:])}: {error}. Choose the "
            "corrupted set of its own data."
        ) from error


def _accuracy(network: nn.Module, split: Split, batch_size: int, device: str) -> float:
    return robust_accuracy(
        network,
        split.to(device),
        threat=Linf(0.0),
        search=PGD(steps=1, relative_step=1.0),  # not used at epsilon 0
        generator=torch.Generator(device).manual_seed(0),
        batch_size=batch_size,
    )
