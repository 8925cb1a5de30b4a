"""A model as a folder: ``config.json``, ``model.safetensors`` and a model card.

Nothing in such a folder can execute code: the configuration names one of ``KINDS`` and plain
values, the weights are tensors. The configuration of somebody's own network also names the function
that makes it, which is called only where the caller says that it may be. A folder may come from a
stranger: no network is built before its sizes are seen to be those of the weights that lie there.
Code that the caller trusts is built with whatever arguments the folder gives it.
"""

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from equipoise.models.afa.adaptive_network import new_adaptive_network
from equipoise.models.afa.branches import with_branches
from equipoise.models.backbones.preact_resnet import PreActResNet
from equipoise.models.backbones.resnet import ResNet
from equipoise.models.backbones.wide_resnet import WideResNet
from equipoise.models.conditional_network import with_conditioning
from equipoise.models.feature_stack import FeatureStack
from equipoise.models.io.external import import_network
from equipoise.models.io.hub import HUB, fetch
from equipoise.models.io.trust import Trusted, trusting
from equipoise.models.io.validate_card import check_card
from equipoise.models.model_config import config_of
from equipoise.records.redaction import functions_named
from equipoise.runtime.errors import RunError
from equipoise.runtime.files import read_json, write_bytes

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
CONFIG_BYTES = 1 << 20  # ours have a few kB
HEADER_BYTES = 1 << 24  # that of a stack of nine WRN-70-16 has 1 MB
LARGEST = 1 << 16  # of any whole number in a configuration: width, classes, ...


class ModelFolderError(RunError):
    """A model folder that cannot be loaded; the message names the file and the remedy."""


def save(model: nn.Module, folder: Path | str, card: dict[str, Any] | None = None) -> None:
    """Write a model folder; each file replaces its predecessor in one step.

    Args:
        model: A model that this package builds, or a network imported by its function; any
            composition of them.
        folder: Created if missing.
        card: Facts for the model card (method, data set, threat, scores), kept in
            ``config.json`` under ``"card"``.

    Raises:
        ValueError: If the model does not know how it was built, or the card's name is unfit for a
            file.
        RunError: If the disk is full or the folder cannot be written.
    """
    folder, config = Path(folder), config_of(model)
    check_card(card or {})
    # Cloned, because safetensors takes no weights that share memory, as tied ones do.
    tensors = {name: value.clone().contiguous().cpu() for name, value in model.state_dict().items()}
    document = {"format": 1, "model": config, "card": card or {}}
    text = json.dumps(document, indent=2, allow_nan=False)
    write_bytes(folder / WEIGHTS, safetensors.torch.save(tensors))
    write_bytes(folder / CARD, _card(document).encode())
    write_bytes(folder / CONFIG, (text + "\n").encode())


def load(folder: Path | str, *, trust: Sequence[Trusted] = ()) -> nn.Module:
    """Load a model folder.

    Args:
        folder: Written by ``save``, a run folder that has one under ``model/``, or
            ``hf://owner/name`` for one on the Hugging Face Hub.
        trust: Code that may be run to build a network that Equipoise did not write: names of
            modules, or the functions themselves. Without it, such a folder is refused.

    Returns:
        The model in eval mode: images ``(batch, channel, height, width)`` in [0, 1] to logits
        ``(batch, classes)``.

    Raises:
        ModelFolderError: If a file is missing, damaged, too large, or names what this version does
            not know.
        RunError: If the folder names code that is not trusted, or that gives no network.
        HubError: If it cannot be had from the hub.
    """
    folder = locate(folder)
    config, stored = read_config(folder)["model"], _shapes(folder / WEIGHTS)
    with _described(folder / CONFIG):
        _check_sizes(config, len(stored))
        with trusting(*trust), torch.device("meta"):  # shapes alone: nothing is allocated
            state = build(config).state_dict()
    wanted = {name: tuple(value.shape) for name, value in state.items()}
    if wanted != stored:
        name = min(n for n in wanted | stored if wanted.get(n) != stored.get(n))
        raise ModelFolderError(
            f"{folder / WEIGHTS} does not fit {CONFIG}: {name} has shape "
            f"{stored.get(name, 'none')}, and the configuration asks for "
            f"{wanted.get(name, 'none')}; copy the folder again."
        )
    with _described(folder / CONFIG), trusting(*trust):
        model = build(config)
    try:
        model.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS))
    except (safetensors.SafetensorError, OSError, RuntimeError) as error:
        raise _damaged(folder / WEIGHTS, error) from error
    return model.eval()


def locate(name: Path | str) -> Path:
    """The model folder that a name means: itself, that of a run folder, or a copy from the hub.

    Raises:
        HubError: If it cannot be had from the hub.
    """
    if str(name).startswith(HUB):
        return fetch(str(name))
    folder = Path(name)
    inner = folder / "model"
    return inner if not (folder / CONFIG).exists() and (inner / CONFIG).exists() else folder


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration and card of a model folder, without loading weights.

    Raises:
        ModelFolderError: If it is missing, damaged, too large, of another format, or its card's
            name could lead out of a folder.
    """
    try:
        config = read_json(folder / CONFIG, CONFIG_BYTES)
    except RunError as error:
        raise ModelFolderError(
            f"{folder} is no model folder: {error} A model folder holds {CONFIG} and {WEIGHTS}."
        ) from error
    if not isinstance(config, dict) or config.get("format") != 1 or "model" not in config:
        raise ModelFolderError(f"{folder / CONFIG} is no model configuration of format 1.")
    try:
        check_card(config.setdefault("card", {}))
    except ValueError as error:
        raise ModelFolderError(f"{folder / CONFIG} cannot be used: {error}") from error
    return config


def build(config: dict[str, Any]) -> nn.Module:
    """Build a model from its configuration, with fresh weights.

    Raises:
        RunError: If it names code that is not trusted here.
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
    return new_adaptive_network(build(network), **settings)


def _stack(classes: int, members: list[dict[str, Any]]) -> nn.Module:
    return FeatureStack([build(member) for member in members], classes)


def _imported(**settings: Any) -> nn.Module:
    with torch.device("cpu"):  # where shapes alone are asked, too: it may read what it computes
        network = import_network(**settings)
    return network.to(torch.get_default_device())


def _conditional(network: dict[str, Any], **settings: Any) -> nn.Module:
    return with_conditioning(build(network), **settings)


KINDS: dict[str, Callable[..., nn.Module]] = {
    "wide_resnet": WideResNet,
    "resnet": ResNet,
    "preact_resnet": PreActResNet,
    "branched": _branched,
    "adaptive": _adaptive,
    "stack": _stack,
    "conditional": _conditional,
    "imported": _imported,
}


def _card(document: dict[str, Any]) -> str:
    card = document["card"]
    modules = sorted({name.partition(":")[0] for name in functions_named(document["model"])})
    trust = f", trust={tuple(modules)}" if modules else ""
    lines = ["# " + str(card.get("name", "An Equipoise model")), ""]
    lines += [
        "Images in [0, 1], shape `(batch, channel, height, width)`, to logits. Normalisation is",
        f"inside. Load it with `equipoise.load(folder{trust})`.",
        "",
    ]
    lines += [f"- **{key}**: {value}" for key, value in card.items() if key != "name"]
    lines += ["", "```json", json.dumps(document["model"], indent=2), "```", ""]
    return "\n".join(lines)


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """What the weights are, from the file's header alone."""
    try:
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if header > HEADER_BYTES:
            raise ModelFolderError(
                f"{path} is damaged: its header claims {header} bytes, at most {HEADER_BYTES} are "
                "read; copy the folder again."
            )
        with safetensors.safe_open(path, framework="pt") as weights:
            return {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise ModelFolderError(f"{path} is missing; copy the folder again.") from None
    except (safetensors.SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


@contextlib.contextmanager
def _described(path: Path) -> Iterator[None]:
    """What a configuration cannot build is the configuration's fault."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        if isinstance(error, RunError):
            raise
        raise ModelFolderError(f"{path} does not describe a model: {_short(error)}.") from error


def _damaged(path: Path, error: Exception) -> ModelFolderError:
    return ModelFolderError(f"{path} is damaged ({_short(error)}); copy the folder again.")


def _check_sizes(config: Any, tensors: int) -> None:
    """Refuse a network so deep that building it would take for ever, or a number beyond reason."""
    config = _without_arguments(config)
    for number in _whole_numbers(config):
        if abs(number) > LARGEST:
            raise ValueError(f"its numbers must be at most {LARGEST}, got {str(number)[:20]}")
    if _layers(config) > tensors:
        raise ValueError(f"it asks for {_layers(config)} layers; the weights have {tensors}")


def _without_arguments(config: Any) -> Any:
    """The same, without what trusted code is called with, where a number may mean anything."""
    if isinstance(config, list):
        return [_without_arguments(part) for part in config]
    if not isinstance(config, dict):
        return config
    left_out = ("arguments",) if config.get("kind") == "imported" else ()
    return {name: _without_arguments(config[name]) for name in config if name not in left_out}


def _whole_numbers(config: Any) -> list[int]:
    if isinstance(config, (dict, list)):
        inner = config.values() if isinstance(config, dict) else config
        return [number for value in inner for number in _whole_numbers(value)]
    return [config] if isinstance(config, int) else []


def _layers(config: Any) -> int:
    """At least so many tensors has a network: depth, times branches, summed over its parts."""
    if isinstance(config, list):
        return sum(_layers(part) for part in config)
    if not isinstance(config, dict):
        return 0
    own = [config.get(name, 1) for name in ("depth", "branches")]
    factors = [number for number in own if isinstance(number, int)]
    return math.prod(factors) * max(1, sum(_layers(part) for part in config.values()))


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".")
