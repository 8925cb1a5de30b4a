"""A model as a folder: ``config.json``, ``model.safetensors`` and a model card.

Nothing in such a folder can execute code: the configuration names one of ``KINDS`` and plain
values, the weights are tensors.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import nn

from equipoise import runs
from equipoise.models.branches import config_of, with_branches
from equipoise.models.film import conditioned
from equipoise.models.fusion import unfused
from equipoise.models.stack import FeatureStack
from equipoise.models.wide_resnet import WideResNet

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"


class ModelFolderError(runs.RunError):
    """A model folder that cannot be loaded; the message names the file and the remedy."""


def save(model: nn.Module, folder: Path | str, card: dict[str, Any] | None = None) -> None:
    """Write a model folder; each file replaces its predecessor in one step.

    Args:
        model: A model that this package builds; any composition of them.
        folder: Created if missing.
        card: Facts for the model card (method, data set, threat, scores), kept in
            ``config.json`` under ``"card"``.

    Raises:
        ValueError: If the model does not know how it was built.
        RunError: If the disk is full or the folder cannot be written.
    """
    folder, config = Path(folder), config_of(model)
    tensors = {name: value.contiguous().cpu() for name, value in model.state_dict().items()}
    document = {"format": 1, "model": config, "card": card or {}}
    text = json.dumps(document, indent=2, allow_nan=False)
    runs.write_bytes(folder / WEIGHTS, safetensors.torch.save(tensors))
    runs.write_bytes(folder / CARD, _card(document).encode())
    runs.write_bytes(folder / CONFIG, (text + "\n").encode())


def load(folder: Path | str) -> nn.Module:
    """Load a model folder.

    Args:
        folder: Written by ``save``, or a run folder that has one under ``model/``.

    Returns:
        The model in eval mode: images ``(batch, channel, height, width)`` in [0, 1] to logits
        ``(batch, classes)``.

    Raises:
        ModelFolderError: If a file is missing, damaged, or names what this version does not know.
    """
    folder = Path(folder)
    if not (folder / CONFIG).exists() and (folder / "model" / CONFIG).exists():
        folder = folder / "model"
    config = read_config(folder)
    try:
        model = build(config["model"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFolderError(f"{folder / CONFIG} does not describe a model: {error}.") from error
    try:
        model.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS))
    except FileNotFoundError:
        raise ModelFolderError(f"{folder / WEIGHTS} is missing; copy the folder again.") from None
    except (safetensors.SafetensorError, OSError) as error:
        raise ModelFolderError(
            f"{folder / WEIGHTS} is damaged ({error}); copy the folder again."
        ) from error
    except RuntimeError as error:
        raise ModelFolderError(
            f"{folder / WEIGHTS} does not fit {CONFIG}: {_short(error)}; copy the folder again."
        ) from error
    return model.eval()


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration and card of a model folder, without loading weights.

    Raises:
        ModelFolderError: If it is missing, damaged or of another format.
    """
    try:
        config = runs.read_json(folder / CONFIG)
    except runs.RunError as error:
        raise ModelFolderError(
            f"{folder} is no model folder: {error} A model folder holds {CONFIG} and {WEIGHTS}."
        ) from error
    if not isinstance(config, dict) or config.get("format") != 1 or "model" not in config:
        raise ModelFolderError(f"{folder / CONFIG} is no model configuration of format 1.")
    return config


def build(config: dict[str, Any]) -> nn.Module:
    """Build a model from its configuration, with fresh weights.

    Raises:
        ValueError: If the kind is unknown.
        TypeError: If a setting is unknown or missing.
    """
    if not isinstance(config, dict):
        raise ValueError(f"a model configuration must be an object, got {type(config).__name__}")
    settings = {name: value for name, value in config.items() if name != "kind"}
    kind = config.get("kind")
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {sorted(KINDS)}, got {kind!r}")
    return KINDS[kind](**settings)


def _branched(branches: int, network: dict[str, Any], separate: Any = "both") -> nn.Module:
    return with_branches(build(network), branches, separate)


def _adaptive(network: dict[str, Any], **settings: Any) -> nn.Module:
    return unfused(build(network), **settings)


def _stack(classes: int, members: list[dict[str, Any]]) -> nn.Module:
    return FeatureStack([build(member) for member in members], classes)


def _conditional(network: dict[str, Any], **settings: Any) -> nn.Module:
    return conditioned(build(network), **settings)


KINDS: dict[str, Callable[..., nn.Module]] = {
    "wide_resnet": WideResNet,
    "branched": _branched,
    "adaptive": _adaptive,
    "stack": _stack,
    "conditional": _conditional,
}


def _card(document: dict[str, Any]) -> str:
    card = document["card"]
    lines = ["# " + str(card.get("name", "An Equipoise model")), ""]
    lines += [
        "Images in [0, 1], shape `(batch, channel, height, width)`, to logits. Normalisation is",
        "inside. Load it with `equipoise.load(folder)`.",
        "",
    ]
    lines += [f"- **{key}**: {value}" for key, value in card.items() if key != "name"]
    lines += ["", "```json", json.dumps(document["model"], indent=2), "```", ""]
    return "\n".join(lines)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".")
