"""Find what an evaluation needs: the model, the images, the strengths and attacks, surrogates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from equipoise.api.evaluation_settings import (
    EvaluationChoices,
    EvaluationSettings,
    split_choices,
)
from equipoise.data import DataSet, Split, as_split, recognise
from equipoise.evaluation import images_hash
from equipoise.models.io.external import load_external
from equipoise.models.io.model_source import LoadedModel, at_preference, find_model, loaded_module
from equipoise.recipes import Evaluation, from_json
from equipoise.recipes.datasets import part_of, source_of
from equipoise.runtime.errors import InvalidInput, RunError
from equipoise.runtime.trust import Trusted


def data_of(
    model: Any, data: Any, dataset: DataSet | Split | None = None
) -> tuple[DataSet | Split | None, Path | None]:
    """Find the images to evaluate on in what a caller passes as data.

    Args:
        model: The model.
        data: Labelled images in any form that ``as_split`` takes, a ``DataSet``, or the folder or
            file of a data set, whose format is recognised.
        dataset: A data set or a split, in place of ``data``.

    Returns:
        The data set or the split, if given, and the folder, if given.

    Raises:
        ValueError: If the model is of another kind, or the data are missing or of no known form.
    """
    if not isinstance(model, str | Path | nn.Module):
        raise InvalidInput(
            "model must be the name of a model or an nn.Module, got "
            f"{type(model).__name__}. Wrap a function in a module whose forward calls it."
        )
    data = data if dataset is None else dataset
    if data is None and isinstance(model, nn.Module):
        raise InvalidInput(
            f"{type(model).__name__} does not name its data; pass them as the second argument: "
            "evaluate(network, (images, labels), epsilons=...)."
        )
    if data is None:
        return None, None
    if isinstance(data, str | Path) and not isinstance(model, nn.Module):
        return None, Path(data)
    if isinstance(data, str | Path):
        return recognise(Path(data)).load(), None
    return data if isinstance(data, DataSet) else as_split(data), None


def load_stand_in(spec: str | nn.Module | None, trust: Sequence[Trusted]) -> nn.Module | None:
    """Load the stand-in for the backward pass."""
    if spec is None or isinstance(spec, nn.Module):
        return spec
    network = load_external(spec, trust)
    if not getattr(network, "gives_gradients", True):
        raise InvalidInput(f"{spec} gives no gradients; name a module:function or a .pt2 file.")
    return network


@dataclass(frozen=True, kw_only=True)
class EvaluationImages:
    """The images that a model is evaluated on.

    Args:
        data: Name of the data set.
        digest: Hash of the whole data set.
        split: The images chosen from it.
        rows: Row of each of them in its part of the data set.
        part_size: Number of images of that part.
    """

    data: str
    digest: str
    split: Split
    rows: Int[Tensor, " n"]
    part_size: int

    def other_data(self, card: dict[str, Any]) -> tuple[str, str] | None:
        """Name and digest of the data set, unless a card says that the model was trained on it."""
        same = card.get("data") == self.data
        same = same and card.get("data_digest", self.digest) == self.digest
        return None if same else (self.data, self.digest)


def resolve_inputs(
    model: Path | str | nn.Module,
    source: tuple[DataSet | Split | None, Path | None],
    evaluation: Evaluation | None,
    choices: EvaluationChoices,
) -> tuple[LoadedModel, EvaluationImages, EvaluationSettings]:
    """Find the model, the images and the settings of an evaluation.

    Args:
        model: The model, as for ``evaluate``.
        source: Data set and its folder, as for ``evaluate``.
        evaluation: Strengths, attacks and images; by default those of the model's recipe.
        choices: See ``EvaluationChoices``.

    Raises:
        ValueError: If more images are asked for than there are.
        RunError: If neither evaluation, recipe nor choices name the strengths.
    """
    changes, choices_of_settings = split_choices(choices)
    logits = choices.get("logits")
    if isinstance(model, nn.Module):
        loaded = loaded_module(model, logits, choices.get("name"), choices.get("folder"))
    elif named := [key for key in ("name", "folder") if key in choices]:
        raise InvalidInput(
            f"{' and '.join(named)} can be given for an nn.Module only; {model} has its own. Leave "
            "it out."
        )
    else:
        loaded = find_model(str(model), logits, choices.get("trust", ()))
    network, name = at_preference(loaded.network, loaded.name, choices.get("preference"))
    loaded = replace(loaded, network=network, name=name)
    evaluation = _evaluation_of(name, loaded.card, evaluation, changes)
    images = _images_of(loaded.card, evaluation, *source)
    check_count(changes.get("images"), images.part_size, evaluation.part)
    settings = EvaluationSettings(
        evaluation=evaluation, other_data=images.other_data(loaded.card), **choices_of_settings
    )
    return loaded, images, settings


def check_count(asked: int | None, available: int, part: str) -> None:
    """Check a number of images that the user asked for.

    Raises:
        ValueError: If there are fewer.

    Example:
        >>> check_count(5000, 450, "test")
        Traceback (most recent call last):
        equipoise...InvalidInput: images must be at most 450, all of the test part, got 5000; ...
    """
    if asked is not None and asked > available:
        raise InvalidInput(
            f"images must be at most {available}, all of the {part} part, got {asked}; leave "
            "--images out to take all."
        )


def _evaluation_of(
    model: str, card: dict[str, Any], evaluation: Evaluation | None, changes: Mapping[str, Any]
) -> Evaluation:
    """The evaluation that was given, or the one in the model's card, with the changes applied."""
    if evaluation is None and "evaluation" in card:
        evaluation = from_json(card["evaluation"], Evaluation)
    if evaluation is not None:
        return replace(evaluation, **changes)
    if "epsilons" not in changes:
        raise RunError(
            f"{model} has no recipe that says how to evaluate it; name the strengths with "
            "--epsilons."
        )
    return Evaluation(**changes)


def _images_of(
    card: dict[str, Any],
    evaluation: Evaluation,
    dataset: DataSet | Split | None,
    data: Path | None,
) -> EvaluationImages:
    """Load the data set, if it is not given, and choose the images."""
    if isinstance(dataset, Split):
        part = Split(
            images=dataset.images, labels=dataset.labels.clone(), classes=dataset.classes
        )  # a clone, because labels made in inference mode cannot be used by autograd
        name, digest = "data in memory", images_hash(part)
    else:
        dataset = dataset or source_of(card, data).load()
        part = part_of(dataset, card, evaluation.part)
        name, digest = dataset.name, dataset.digest()
    chosen = slice(None) if evaluation.images is None else part.first_rows(evaluation.images)
    return EvaluationImages(
        data=name,
        digest=digest,
        split=part if evaluation.images is None else part.take(chosen),
        rows=torch.arange(len(part))[chosen],
        part_size=len(part),
    )


def load_surrogates(
    surrogates: Sequence[Path | str], trust: Sequence[Trusted]
) -> dict[str, nn.Module]:
    """Load surrogates under names that differ from each other. Arguments as for ``evaluate``."""
    networks: dict[str, nn.Module] = {}
    for surrogate in surrogates:
        loaded = find_model(str(surrogate), None, trust)
        name = loaded.name if loaded.name not in networks else f"{loaded.name}-{len(networks)}"
        networks[name] = loaded.network
    return networks
