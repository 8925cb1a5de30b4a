"""OAT's network: any network, made conditional on a preference between clean and robust accuracy.

After every batch norm of the main path a small perceptron turns the preference lambda into a scale
and a shift for each channel (FiLM), and lambda also chooses between two batch norms.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from equipoise.distributed.sync_batch_norm import reduces
from equipoise.models.afa.branches import MultiBatchNorm2d
from equipoise.models.backbones.preact_resnet import PreActResNet
from equipoise.models.backbones.wide_resnet import WideResNet
from equipoise.models.batch_norms import BatchNorm, check_norms, replace_modules
from equipoise.models.call_state import CallState
from equipoise.models.model_config import config_of
from equipoise.models.preference_encoding import (
    CLOSE,
    PREFERENCES,
    Encoding,
    PreferenceCode,
    check_code,
)
from equipoise.types import Images, Logits, PerImage

Start = Literal["fresh", "identity"]


class FiLM(nn.Module):
    """A scale and a shift for each channel, computed from the code of a preference.

    Args:
        size: Length of a code.
        channels: Channels of the features, C.
        start: ``"fresh"`` leaves torch's own initialisation, whose scale is near 0 and not near 1,
            as the original does; ``"identity"`` makes it change nothing until it is trained.

    Shape:
        Features ``(batch, channel, height, width)`` and codes ``(batch, size)``, or ``(1, size)``
        for the whole batch, to the features' shape.

    Source:
        Wang et al. 2020 (OAT), ``models/FiLM.py`` of its code: Linear(size -> 2C), LeakyReLU,
        Linear(2C -> 2C); a leaky ReLU on scale and shift too. ``"identity"`` is our addition.
    """

    def __init__(self, size: int, channels: int, start: Start = "fresh") -> None:
        super().__init__()
        last = nn.Linear(2 * channels, 2 * channels)
        self.linears = nn.Sequential(nn.Linear(size, 2 * channels), nn.LeakyReLU(), last)
        if start == "identity":
            with torch.no_grad():
                last.weight.zero_()
                last.bias.copy_(torch.arange(2 * channels) < channels)  # scale 1, shift 0

    def forward(
        self,
        features: Float[Tensor, "batch channel height width"],
        code: Float[Tensor, "rows size"],
    ) -> Float[Tensor, "batch channel height width"]:
        """``scale * features + shift``."""
        made = functional.leaky_relu(self.linears(code)).to(features.dtype)
        scale, shift = made[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(shift, features, scale)


@dataclass(frozen=True)
class _Call:
    """What the places in a network need to know about the current call."""

    code: Tensor  # (batch, size), or (1, size) where all images have one preference
    branch: int = 0  # of all rows, where they are not split
    split: tuple[int, int] | None = None  # so many rows through BN_c, the rest through BN_a


class _Route(CallState):
    """The current call; ``None`` between calls."""

    call: _Call | None = None


class _Place(nn.Module):
    """Stands where a batch norm stood: one or two norms, then FiLM, if there is one here."""

    def __init__(self, norm: MultiBatchNorm2d, film: FiLM | None, route: _Route) -> None:
        super().__init__()
        self.norm = norm
        self.film = film
        self.route = route

    def forward(self, features: Tensor) -> Tensor:
        call = self.route.call
        assert call is not None, "a conditional norm was called outside its network"
        if len(call.code) not in (1, features.shape[0]):
            raise ValueError(
                f"a norm got {len(features)} rows in a call of {len(call.code)} images; give a "
                "network that mixes rows one preference for the whole batch."
            )
        if call.split is None:
            features = self.norm(features, call.branch)
        else:
            clean, other = features.split(call.split)
            features = torch.cat([self.norm(clean, 0), self.norm(other, 1)])
        return features if self.film is None else self.film(features, call.code)


class ConditionalNetwork(nn.Module):
    """A network that takes a preference, OAT's lambda, with the images.

    Build one with ``with_conditioning``.

    The preference is one number or one for each image: 0 asks for clean accuracy, 1 for robust
    accuracy. ``at`` fixes it. Images with preference 0 go through BN_c, all others through BN_a:
    the caller's numbers say it, never an image's place in the batch, so a batch may be permuted,
    split and sent to several devices. No routing state outlives a call.

    Attributes to read: ``preferences`` it was trained for, ascending; ``default``, used where a
    call gives none (set it before saving to change what a loaded model answers with).

    Args:
        network: Its norms are already replaced.
        route: What they share during a call.
        code: Turns preferences into what FiLM reads.
        settings: What ``with_conditioning`` was given, resolved.

    Shape:
        Images ``(batch, channel, height, width)`` in [0, 1] to what the network returns.

    Raises:
        ValueError: From ``forward``, if a preference is not in [0, 1], is not one number or one an
            image, or has no code.

    Source:
        Wang et al. 2020 (OAT). Deviation: its code takes how many images at the front of the batch
        go through BN_c; here lambda says it, for each image.
    """

    def __init__(
        self, network: nn.Module, route: _Route, code: PreferenceCode, settings: dict[str, Any]
    ) -> None:
        super().__init__()
        self.network = network
        self.route = route
        self.code = code
        self.settings = settings
        self.preferences = code.preferences
        self.encoding = code.encoding
        self.dual: bool = settings["dual"]
        self.default: float = settings["default"]

    @property
    def config(self) -> dict[str, Any]:
        """How to build the same model again, without its weights."""
        changes = {"default": self.default, "network": config_of(self.network)}
        return {"kind": "conditional"} | self.settings | changes

    def at(self, preference: float) -> "FixedPreference":
        """This model at one preference, as a plain classifier that shares its weights and mode.

        Raises:
            ValueError: As ``forward``.
        """
        return FixedPreference(self, preference)

    def forward(self, images: Images, *, preference: float | PerImage | None = None) -> Logits:
        """Logits.

        Args:
            images: Images in [0, 1].
            preference: Lambda in [0, 1], one for all or one an image; ``default`` if left out.
        """
        if preference is None:
            preference = self.default
        if not isinstance(preference, Tensor):
            branch = int(self.dual and preference > CLOSE)
            return self._run(images, _Call(self.code(preference), branch))
        if preference.shape != images.shape[:1]:
            raise ValueError(
                f"preference must be one number or one for each of the {len(images)} images, "
                f"got a tensor of shape {tuple(preference.shape)}."
            )
        preference = preference.to(images.device)
        code, attacked = self.code(preference), preference > CLOSE
        clean = len(images) - int(attacked.sum())
        # Norms that all processes share are called on each, also where no row goes through one.
        together = self.training and reduces(self)
        if not self.dual or (clean in (0, len(images)) and not together):
            return self._run(images, _Call(code, int(self.dual and clean == 0)))
        # Sorted once here, so that every norm cuts its rows in two instead of gathering them.
        order = attacked.int().argsort(stable=True)
        split = (clean, len(images) - clean)
        return self._run(images[order], _Call(code[order], split=split))[order.argsort()]

    def _run(self, images: Images, call: _Call) -> Logits:
        self.route.call = call
        try:
            return self.network(images)
        finally:
            self.route.call = None


class FixedPreference(nn.Module):
    """A conditional network at one preference: images to logits, and nothing else to choose.

    Args:
        model: Shared, not copied: training it or changing its mode changes this too.
        preference: Lambda in [0, 1], which the model must know.

    Shape:
        Images ``(batch, channel, height, width)`` in [0, 1] to logits ``(batch, classes)``.

    Raises:
        ValueError: If the preference is not in [0, 1] or has no code.

    Source:
        Wang et al. 2020 (OAT): at test time lambda 0 sends all images through BN_c, any other
        through BN_a; whoever attacks knows lambda.
    """

    def __init__(self, model: ConditionalNetwork, preference: float) -> None:
        super().__init__()
        model.code(preference)  # refuses what it does not know
        self.model = model
        self.preference = preference
        self.training = model.training

    def extra_repr(self) -> str:
        """The preference: two views that differ in it are two models."""
        return f"preference={self.preference:g}"

    def forward(self, images: Images) -> Logits:
        """Logits at the fixed preference."""
        return self.model(images, preference=self.preference)


def with_conditioning(
    model: nn.Module,
    *,
    preferences: Sequence[float] = PREFERENCES,
    encoding: Encoding = "random",
    size: int = 128,
    dual: bool = True,
    default: float | None = None,
    without_film: Sequence[str] | None = None,
    start: Start = "fresh",
    seed: int = 0,
) -> ConditionalNetwork:
    """Turn any network with batch norms into one that takes a preference.

    Args:
        model: Any network with ``nn.BatchNorm2d`` modules; it is copied, not changed.
        preferences: The lambdas it will be trained for, ascending in [0, 1].
        encoding: How FiLM is told a preference: see ``PreferenceCode``.
        size: Length of an encoded preference.
        dual: Two norms at each place, BN_c and BN_a, each a copy of the network's norm with
            statistics and affine parameters of its own; otherwise one.
        default: Preference of a call that gives none; the largest by default.
        without_film: Dotted names of norms that get no FiLM (they do become dual); by default
            those that ``norms_without_film`` names.
        start: Initialisation of every FiLM: see there.
        seed: Of the random orthogonal matrix.

    Returns:
        The conditional network; FiLM draws its weights from torch's global seed.

    Raises:
        ValueError: If the network has no ``nn.BatchNorm2d`` or has others beside, no norm is left
            for FiLM, a name in ``without_film`` is none of a norm, or a setting is out of range.

    Source:
        Wang et al. 2020 (OAT) and its code. FiLM is shared by BN_c and BN_a, as there. Deviations:
        any backbone, ``start`` and ``default`` are ours; for the random encoding see
        ``PreferenceCode``.
    """
    default = preferences[-1] if default is None and preferences else default
    check_code(preferences, encoding, size, default)
    if start not in get_args(Start):
        raise ValueError(f"start must be one of {get_args(Start)}, got {start!r}.")
    check_norms(model, "condition: OAT")
    network, route = copy.deepcopy(model), _Route()
    if without_film is None:
        without_film = norms_without_film(network)
    norms = _norms(network)
    unknown = sorted(set(without_film) - norms.keys())
    if unknown:
        raise ValueError(
            f"without_film must name norms of the network, {', '.join(norms) or 'none'}; "
            f"got {', '.join(unknown)}."
        )
    plain = {norms[name] for name in without_film}
    if norms and plain >= set(norms.values()):
        raise ValueError("without_film names every norm, so lambda would reach none; name fewer.")
    code = PreferenceCode(preferences, encoding, size, seed)

    def place(norm: BatchNorm) -> _Place:
        film = None if norm in plain else FiLM(code.table.shape[1], norm.num_features, start)
        return _Place(MultiBatchNorm2d(norm, 2 if dual else 1), film, route)

    replace_modules(network, BatchNorm, place)
    settings = {
        "preferences": list(code.preferences),
        "encoding": encoding,
        "size": size,
        "dual": dual,
        "default": default,
        "without_film": list(without_film),
    }
    like = next(network.parameters())
    return ConditionalNetwork(network, route, code, settings).to(like.device, like.dtype)


def norms_without_film(network: nn.Module) -> tuple[str, ...]:
    """The norms after which OAT puts no FiLM, as far as they can be told.

    Returns:
        Dotted names: norms on a shortcut, known by ``shortcut`` or ``downsample`` in their name (or
        ``bn_sc``, as in OAT's ResNet), and the final norm of a ``WideResNet`` or ``PreActResNet``.

    Source:
        OAT's code: ``models/cifar10/resnet_OAT.py`` and ``models/svhn/wide_resnet_OAT.py``. Guess:
        the rule by names, since the original writes each network anew.
    """
    final = {
        f"{name}.norm".lstrip(".")
        for name, module in network.named_modules()
        if isinstance(module, WideResNet | PreActResNet)
    }
    words = ("shortcut", "downsample", "bn_sc")
    return tuple(
        name
        for name in _norms(network)
        if name in final or any(word in name.lower() for word in words)
    )


def _norms(network: nn.Module) -> dict[str, BatchNorm]:
    modules = network.named_modules(remove_duplicate=False)
    return {name: module for name, module in modules if isinstance(module, BatchNorm)}
