"""Load a model from a run folder, a model folder, the Hugging Face Hub or an external file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from equipoise.models.afa.adaptive_network import AdaptiveNetwork
from equipoise.models.afs import FeatureStack
from equipoise.models.conditional_network import ConditionalNetwork, FixedPreference
from equipoise.models.io.external import is_external, load_external, split_weights
from equipoise.models.io.hub import HUB
from equipoise.models.io.logits_of import LogitsOf
from equipoise.models.io.model_folder import home_of, load, locate, read_config, weights_sha256
from equipoise.records.redaction import functions_named
from equipoise.runtime.errors import InvalidInput
from equipoise.runtime.trust import Trusted


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A network, and what its model folder says about it.

    Args:
        network: The network, in eval mode.
        card: The card in its folder; empty for an external network.
        name: Name in records and tables.
        home: The folder that gets its records: a run folder, or a folder laid out like one.
        folder: Its model folder, if it has one.
        weights: SHA-256 of the weights file when the network was loaded.
        modules: Names of the modules whose functions built it, if they are not Equipoise's own.
    """

    network: nn.Module
    card: dict[str, Any]
    name: str
    home: Path
    folder: Path | None = None
    weights: str | None = None
    modules: tuple[str, ...] = ()


def find_model(model: str, logits: str | None = None, trust: Sequence[Trusted] = ()) -> LoadedModel:
    """Load a model from wherever it is.

    Args:
        model: A run folder, a model folder, ``hf://owner/name``, or an external network, see
            ``load_external``.
        logits: Which part of the model's output holds the logits.
        trust: Code that a model folder names and that may run.

    Returns:
        The network and what is known about it.

    Raises:
        RunError: If it cannot be loaded.
    """
    if is_external(model):
        function, weights_file = split_weights(model)
        name = Path(model).name if Path(model).is_file() else function.replace(":", ".")
        name += "" if weights_file is None else f"-{weights_file.stem}"
        network: nn.Module = LogitsOf(load_external(model, trust), logits).eval()
        modules: tuple[str, ...] = () if Path(model).is_file() else (model.partition(":")[0],)
        return LoadedModel(
            network=network, card={}, name=name, home=Path("runs") / name, modules=modules
        )
    folder = locate(model)
    document = read_config(folder)
    card = document["card"]
    modules = tuple(name.partition(":")[0] for name in functions_named(document["model"]))
    network = load(folder, trust=trust)
    weights = weights_sha256(folder)  # now, because the folder may be rewritten later
    if logits is not None:
        network = LogitsOf(network, logits).eval()
    name = card.get("name", folder.name)
    # Records do not belong in the cache of the hub.
    home = Path("runs") / name if model.startswith(HUB) else home_of(folder)
    return LoadedModel(
        network=network,
        card=card,
        name=name,
        home=home,
        folder=folder,
        weights=weights,
        modules=modules,
    )


def loaded_module(
    network: nn.Module,
    logits: str | None = None,
    name: str | None = None,
    folder: Path | None = None,
) -> LoadedModel:
    """Describe a network in memory.

    Args:
        network: The network, in eval mode.
        logits: Which part of its output holds the logits.
        name: Name in records and tables; by default that of its class.
        folder: Where its records go; by default ``runs/`` and its name.

    Raises:
        ValueError: If it is in train mode.

    Example:
        >>> from equipoise.models.io.model_source import loaded_module
        >>> loaded_module(nn.Flatten().eval()).home.as_posix()
        'runs/Flatten'
    """
    name = name or type(network).__name__
    if network.training:
        raise InvalidInput(
            f"{type(network).__name__} is in train mode, where its output depends on the batch; "
            "call .eval() first."
        )
    ours = isinstance(
        network, AdaptiveNetwork | FeatureStack | ConditionalNetwork | FixedPreference
    )
    if logits is not None or not ours:
        network = LogitsOf(network, logits).eval()
    return LoadedModel(network=network, card={}, name=name, home=folder or Path("runs") / name)


def at_preference(network: nn.Module, name: str, preference: float | None) -> tuple[nn.Module, str]:
    """Fix the preference of a conditional network, and add it to its name.

    Args:
        network: Any network; one that is not conditional is returned as it is.
        name: Its name.
        preference: The lambda to fix; the network's default if not given.

    Raises:
        ValueError: If a preference is given and the network takes none.
    """
    if isinstance(network, ConditionalNetwork):
        preference = network.default if preference is None else preference
        return network.at(preference), f"{name}@{preference:g}"
    if preference is not None:
        raise InvalidInput(
            f"{name} takes no preference, got {preference:g}; only conditional networks (OAT) do. "
            "Leave it out."
        )
    return network, name
