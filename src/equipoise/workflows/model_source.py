"""Load a model from a run folder, a model folder, the Hub or a foreign file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from equipoise.models import ConditionalNetwork, load
from equipoise.models.io.external import is_external, load_external
from equipoise.models.io.hub import HUB
from equipoise.models.io.logits_of import LogitsOf
from equipoise.models.io.model_folder import locate, read_config
from equipoise.models.io.trust import Trusted
from equipoise.workflows import model_card


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model and what is known of it.

    Args:
        network: In eval mode.
        card: What its folder says; empty for a foreign network.
        name: In records and tables.
        home: The folder that gets its records.
        folder: Its model folder, if it has one.
        weights: Hash of that folder's weights, from when the network was loaded.
    """

    network: nn.Module
    card: dict[str, Any]
    name: str
    home: Path
    folder: Path | None = None
    weights: str | None = None


def find_model(model: str, logits: str | None = None, trust: Sequence[Trusted] = ()) -> LoadedModel:
    """Load a model, wherever it comes from.

    Args:
        model: A run folder, a model folder, ``hf://owner/name``, or a foreign network.
        logits: Which part of its answer holds the logits.
        trust: Code that may be run because a model folder names it.

    Returns:
        The model and what is known of it.

    Raises:
        RunError: If it cannot be loaded.
    """
    if is_external(model):
        name = Path(model).name if Path(model).is_file() else model.replace(":", ".")
        network: nn.Module = LogitsOf(load_external(model, trust), logits).eval()
        return LoadedModel(network=network, card={}, name=name, home=Path("runs") / name)
    folder = locate(model)
    card = read_config(folder)["card"]
    network = load(folder, trust=trust)
    weights = model_card.weights_sha256(folder)  # now: the folder may be written anew meanwhile
    if logits is not None:
        network = LogitsOf(network, logits).eval()
    name = card.get("name", folder.name)
    # What is fetched from the hub lies in its cache, which is no place for records.
    home = Path("runs") / name if model.startswith(HUB) else model_card.home_of(folder)
    return LoadedModel(
        network=network, card=card, name=name, home=home, folder=folder, weights=weights
    )


def at_preference(network: nn.Module, name: str, preference: float | None) -> tuple[nn.Module, str]:
    """A conditional network at one preference, which its name then says.

    Args:
        network: Any network; one that is not conditional is left as it is.
        name: Its name.
        preference: The lambda to fix; the network's default if not given.

    Raises:
        ValueError: If there is a preference, and the network takes none.
    """
    if isinstance(network, ConditionalNetwork):
        preference = network.default if preference is None else preference
        return network.at(preference), f"{name}@{preference:g}"
    if preference is not None:
        raise ValueError(f"{name} takes no preference; only conditional networks (OAT) do.")
    return network, name
