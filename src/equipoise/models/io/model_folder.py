"""A model as a folder: ``config.json``, ``model.safetensors`` and a model card.

Nothing in such a folder can execute code: the configuration holds one of ``KINDS`` and plain
values, the weights are tensors. The configuration of an imported network also names the function
that builds it, which is called only if the caller trusts it. A folder may come from a stranger, so
no network is built before its sizes have been checked against the weights in the folder. Only the
arguments of trusted functions are not checked.
"""

import contextlib
import hashlib
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
from equipoise.models.afs import FeatureStack
from equipoise.models.backbones.preact_resnet import PreActResNet
from equipoise.models.backbones.resnet import ResNet
from equipoise.models.backbones.resnet9 import ResNet9
from equipoise.models.backbones.wide_resnet import WideResNet
from equipoise.models.conditional_network import with_conditioning
from equipoise.models.io.external import import_network
from equipoise.models.io.hub import HUB, download
from equipoise.models.io.validate_card import check_card
from equipoise.models.model_config import config_of
from equipoise.records.redaction import functions_named
from equipoise.runtime.errors import InvalidInput, RunError
from equipoise.runtime.files import read_json, write_bytes
from equipoise.runtime.run_folder import RunFolder
from equipoise.runtime.trust import Trusted, trusting

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
MAX_CONFIG_BYTES = 1 << 20  # ours have a few kB
MAX_HEADER_BYTES = 1 << 24  # a stack of nine WRN-70-16 has a header of 1 MB
MAX_NUMBER = 1 << 16  # any whole number in a configuration: width, classes, ...


class ModelFolderError(RunError):
    """A model folder that cannot be loaded; the message names the file and the remedy."""


def save(model: nn.Module, folder: Path | str, card: dict[str, Any] | None = None) -> None:
    """Write a model folder; each file is replaced atomically.

    Args:
        model: A model that this package builds, an imported network, or a composition of them.
        folder: Path of the folder, created if missing.
        card: Facts for the model card (method, data set, threat, scores), stored in
            ``config.json`` under ``"card"``.

    Raises:
        ValueError: If the model has no configuration, or the card's name cannot be a file name.
        RunError: If the disk is full or the folder cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(WideResNet(depth=10, width=1, classes=10), folder, {"name": "tiny"})
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['README.md', 'config.json', 'model.safetensors']
    """
    folder, config = Path(folder), config_of(model)
    check_card(card or {})
    # Cloned, because safetensors refuses tensors that share memory, such as tied weights.
    tensors = {name: value.clone().contiguous().cpu() for name, value in model.state_dict().items()}
    document = {"format": 1, "model": config, "card": card or {}}
    text = json.dumps(document, indent=2, allow_nan=False)
    write_bytes(folder / WEIGHTS, safetensors.torch.save(tensors))
    write_bytes(folder / CARD, _card(document).encode())
    write_bytes(folder / CONFIG, (text + "\n").encode())


def load(folder: Path | str, *, trust: Sequence[Trusted] = ()) -> nn.Module:
    """Load a model folder.

    Args:
        folder: A folder written by ``save``, a run folder with one under ``model/``, or
            ``hf://owner/name`` on the Hugging Face Hub.
        trust: Code that may be run to build an imported network: names of modules, or the
            functions themselves. Without it, such a folder is rejected.

    Returns:
        The model in eval mode: images ``(batch, channel, height, width)`` in [0, 1] to logits
        ``(batch, classes)``.

    Raises:
        ModelFolderError: If a file is missing, damaged, too large, or holds settings unknown to
            this version.
        RunError: If the folder names code that is not trusted or does not return a network.
        HubError: If it cannot be downloaded.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(WideResNet(depth=10, width=1, classes=10), folder)
        ...     model = load(folder)
        >>> model.training
        False
    """
    folder = locate(folder)
    config, stored = read_config(folder)["model"], _shapes(folder / WEIGHTS)
    with _configuration_errors(folder / CONFIG):
        _check_sizes(config, len(stored))
        with trusting(*trust), torch.device("meta"):  # shapes only, allocates nothing
            state = build(config).state_dict()
    expected = {name: tuple(value.shape) for name, value in state.items()}
    if expected != stored:
        name = min(n for n in expected | stored if expected.get(n) != stored.get(n))
        raise ModelFolderError(
            f"{folder / WEIGHTS} does not fit {CONFIG}: {name} has shape "
            f"{stored.get(name, 'none')}, and the configuration requires "
            f"{expected.get(name, 'none')}; copy the folder again."
        )
    with _configuration_errors(folder / CONFIG), trusting(*trust):
        model = build(config)
    try:
        model.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS))
    except (safetensors.SafetensorError, OSError, RuntimeError) as error:
        raise _damaged(folder / WEIGHTS, error) from error
    return model.eval()


def locate(name: Path | str) -> Path:
    """Resolve a name to a model folder: the folder itself, that of a run, or a download.

    Raises:
        HubError: If it cannot be downloaded.
    """
    if str(name).startswith(HUB):
        return download(str(name))
    folder = Path(name)
    inner = folder / "model"
    return inner if not (folder / CONFIG).exists() and (inner / CONFIG).exists() else folder


def read_config(folder: Path) -> dict[str, Any]:
    """Read the configuration and card of a model folder, without loading weights.

    Raises:
        ModelFolderError: If it is missing, damaged, too large, of another format, or its card is
            not valid.
    """
    try:
        config = read_json(folder / CONFIG, MAX_CONFIG_BYTES)
    except RunError as error:
        raise ModelFolderError(
            f"{folder} is not a model folder: {error} Name a folder with {CONFIG} and "
            f"{WEIGHTS}, such as one that `equipoise train` or `equipoise demo` wrote."
        ) from error
    if not isinstance(config, dict) or config.get("format") != 1 or "model" not in config:
        raise ModelFolderError(f"{folder / CONFIG} is not a model configuration of format 1.")
    try:
        check_card(config.setdefault("card", {}))
    except ValueError as error:
        raise ModelFolderError(f"{folder / CONFIG} cannot be used: {error}") from error
    return config


def build(config: dict[str, Any]) -> nn.Module:
    """Build a model from its configuration, with fresh weights.

    Raises:
        RunError: If it names code that is not trusted.
        ValueError: If the kind is unknown.
        TypeError: If a setting is unknown or missing.
    """
    if not isinstance(config, dict):
        raise InvalidInput(f"a model configuration must be an object, got {type(config).__name__}")
    settings = {name: value for name, value in config.items() if name != "kind"}
    kind = config.get("kind")
    if kind not in KINDS:
        raise InvalidInput(f"kind must be one of {sorted(KINDS)}, got {kind!r}")
    return KINDS[kind](**settings)


def _branched(branches: int, network: dict[str, Any], separate: Any = "both") -> nn.Module:
    return with_branches(build(network), branches, separate)


def _adaptive(network: dict[str, Any], **settings: Any) -> nn.Module:
    return new_adaptive_network(build(network), **settings)


def _stack(classes: int, members: list[dict[str, Any]]) -> nn.Module:
    return FeatureStack([build(member) for member in members], classes)


def _imported(**settings: Any) -> nn.Module:
    with torch.device("cpu"):  # never "meta": the function may read values of its tensors
        network = import_network(**settings)
    return network.to(torch.get_default_device())


def _conditional(network: dict[str, Any], **settings: Any) -> nn.Module:
    return with_conditioning(build(network), **settings)


KINDS: dict[str, Callable[..., nn.Module]] = {
    "wide_resnet": WideResNet,
    "resnet": ResNet,
    "preact_resnet": PreActResNet,
    "resnet9": ResNet9,
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
    """Read the names and shapes of the weights from the file's header."""
    try:
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if header > MAX_HEADER_BYTES:
            raise ModelFolderError(
                f"{path} is damaged: its header must have at most {MAX_HEADER_BYTES} bytes, got "
                f"{header}; copy the folder again."
            )
        with safetensors.safe_open(path, framework="pt") as weights:
            names = weights.keys()
            return {name: tuple(weights.get_slice(name).get_shape()) for name in names}
    except FileNotFoundError:
        raise ModelFolderError(f"{path} is missing; copy the folder again.") from None
    except (safetensors.SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


@contextlib.contextmanager
def _configuration_errors(path: Path) -> Iterator[None]:
    """Turn any error while a model is built into one about its configuration file."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        if isinstance(error, RunError):
            raise
        raise ModelFolderError(f"{path} does not describe a model: {_short(error)}.") from error


def _damaged(path: Path, error: Exception) -> ModelFolderError:
    return ModelFolderError(f"{path} is damaged ({_short(error)}); copy the folder again.")


def _check_sizes(config: Any, tensors: int) -> None:
    """Reject a network that would take too long or too much memory to build."""
    config = _without_arguments(config)
    for number in _whole_numbers(config):
        if abs(number) > MAX_NUMBER:
            raise InvalidInput(f"its numbers must be at most {MAX_NUMBER}, got {str(number)[:20]}")
    if _layers(config) > tensors:
        raise InvalidInput(
            f"its layers must be at most the tensors of the weights, {tensors}, got "
            f"{_layers(config)}"
        )


def _without_arguments(config: Any) -> Any:
    """Copy a configuration without the arguments of trusted functions, which may be any number."""
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
    """A lower bound on a network's tensors: depth times branches, summed over its parts."""
    if isinstance(config, list):
        return sum(_layers(part) for part in config)
    if not isinstance(config, dict):
        return 0
    settings = [config.get(name, 1) for name in ("depth", "branches")]
    factors = [number for number in settings if isinstance(number, int)]
    return math.prod(factors) * max(1, sum(_layers(part) for part in config.values()))


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".")


def weights_sha256(folder: Path) -> str:
    """SHA-256 of a model folder's weights file, which its records store."""
    with (folder / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def home_of(folder: Path) -> Path:
    """The folder with a model's records: its run folder, or the model folder itself if it is alone.

    Example:
        >>> home_of(Path("runs/afa_digits/model")).as_posix()
        'runs/afa_digits'
        >>> home_of(Path("downloads/my_model")).as_posix()
        'downloads/my_model'
    """
    return folder.parent if folder == RunFolder(folder.parent).model else folder
