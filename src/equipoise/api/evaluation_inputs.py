"""Find what an evaluation needs: the model, the images, the strengths and attacks, surrogates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from equipoise.api.datasets import part_of, source_of
from equipoise.api.model_source import LoadedModel, at_preference, find_model, loaded_module
from equipoise.data import DataSet, Split
from equipoise.evaluation import (
    images_hash,
)
from equipoise.models.io.external import load_external
from equipoise.models.io.trust import Trusted
from equipoise.recipes import Evaluation, from_json
from equipoise.runtime.errors import InvalidInput, RunError


def check_types(model: Any, dataset: Any) -> None:
    """Refuse a model or a data set of another kind with the remedy."""
    if not isinstance(model, str | Path | nn.Module):
        raise InvalidInput(
            "model must be the name of a model or an nn.Module, got "
            f"{type(model).__name__}. Wrap a function in a module whose forward calls it."
        )
    if dataset is not None and not isinstance(dataset, DataSet | Split):
        raise InvalidInput(
            f"dataset must be a DataSet or a Split, got {type(dataset).__name__}. Make a Split of "
            "uint8 images (n, channel, height, width): "
            "Split(images=images, labels=labels, classes=10)."
        )
    if dataset is None and isinstance(model, nn.Module):
        raise InvalidInput(
            f"{type(model).__name__} does not name its data; pass dataset=, for example "
            "dataset=Digits().load()."
        )


def load_stand_in(spec: str | nn.Module | None, trust: Sequence[Trusted]) -> nn.Module | None:
    """Load the stand-in for the backward pass."""
    if spec is None or isinstance(spec, nn.Module):
        return spec
    network = load_external(spec, trust)
    if not getattr(network, "gives_gradients", True):
        raise InvalidInput(f"{spec} gives no gradients; name a module:function or a .pt2 file.")
    return network


def resolve_model(
    model: Path | str | nn.Module,
    logits: str | None,
    preference: float | None,
    trust: Sequence[Trusted],
) -> LoadedModel:
    """Load a model and fix its preference, if it is conditional.

    Args:
        model: The model, as for ``evaluate``.
        logits: Which part of its output holds the logits.
        preference: Lambda of a conditional network; its default if not given.
        trust: Code that a model folder names and that may run.
    """
    if isinstance(model, nn.Module):
        loaded = loaded_module(model, logits)
    else:
        loaded = find_model(str(model), logits, trust)
    network, name = at_preference(loaded.network, loaded.name, preference)
    return replace(loaded, network=network, name=name)


def resolve_evaluation(
    model: str, card: dict[str, Any], evaluation: Evaluation | None, changes: Mapping[str, Any]
) -> Evaluation:
    """The evaluation that was given, or the one in the model's card, with the changes applied.

    Args:
        model: What the refusal calls the model.
        card: The model's card; empty for an external model.
        evaluation: The evaluation, if one was given.
        changes: Fields to change.

    Raises:
        RunError: If neither evaluation, card nor changes name the strengths.
    """
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


def resolve_data(
    card: dict[str, Any],
    evaluation: Evaluation,
    dataset: DataSet | Split | None,
    data: Path | None,
) -> EvaluationImages:
    """Load the data set, if it is not given, and choose the images.

    Args:
        card: The model's card.
        evaluation: Which part of the data set, and how many images of it.
        dataset: The data set; by default the one that the model was trained on.
        data: Folder of that data set, if it is elsewhere on this machine.
    """
    if isinstance(dataset, Split):
        part = Split(
            images=dataset.images, labels=dataset.labels.clone(), classes=dataset.classes
        )  # a clone, because labels made in inference mode cannot be used by autograd
        name, digest = "in memory", images_hash(part)
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
