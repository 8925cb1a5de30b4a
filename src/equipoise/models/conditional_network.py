"""OAT's network: any network, conditioned on a preference between clean and robust accuracy.

The preference, lambda, does two things after every batch norm of the main path: a FiLM layer turns
it into a scale and a shift for each channel, and it selects one of two batch norms.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn

from equipoise.distributed.sync_batch_norm import reduces
from equipoise.models.afa.branches import MultiBatchNorm2d
from equipoise.models.backbones.preact_resnet import PreActResNet
from equipoise.models.backbones.wide_resnet import WideResNet
from equipoise.models.batch_norms import BatchNorm, check_norms, replace_modules
from equipoise.models.call_state import CallState
from equipoise.models.copied import copied
from equipoise.models.film import FiLM, Start
from equipoise.models.model_config import config_of
from equipoise.models.preference_encoding import (
    PREFERENCES,
    TOLERANCE,
    Encoding,
    PreferenceCode,
    check_code,
)
from equipoise.runtime.errors import InvalidInput
from equipoise.types import Images, Logits, PerImage


@dataclass(frozen=True)
class _Call:
    """What the conditional norms need to know about the current call.

    Args:
        code: Encoded preferences, ``(batch, size)``, or ``(1, size)`` if all images share one.
        branch: The norm for all rows, if they are not split.
        split: How many rows at the front go through BN_c and how many of the rest through BN_a.
    """

    code: Tensor
    branch: int = 0
    split: tuple[int, int] | None = None


class _Route(CallState):
    """The current call; ``None`` between calls."""

    call: _Call | None = None


class _ConditionalNorm(nn.Module):
    """Replacement of one batch norm: one or two norms, then FiLM unless it is left out here."""

    def __init__(self, norm: MultiBatchNorm2d, film: FiLM | None, route: _Route) -> None:
        super().__init__()
        self.norm = norm
        self.film = film
        self.route = route

    def forward(self, features: Tensor) -> Tensor:
        call = self.route.call
        assert call is not None, "a conditional norm was called outside its network"
        if len(call.code) not in (1, features.shape[0]):
            raise InvalidInput(
                f"a norm got {len(features)} rows in a call of {len(call.code)} images; for a "
                "network that mixes rows, use one preference for the whole batch."
            )
        if call.split is None:
            features = self.norm(features, call.branch)
        else:
            clean, attacked = features.split(call.split)
            features = torch.cat([self.norm(clean, 0), self.norm(attacked, 1)])
        return features if self.film is None else self.film(features, call.code)


class ConditionalNetwork(nn.Module):
    """A network that takes a preference, OAT's lambda, with the images.

    Build one with ``with_conditioning``. The preference is one number for all images or one for
    each: 0 asks for clean accuracy, 1 for robust accuracy. Images with preference 0 go through
    BN_c, all others through BN_a. This depends on the preferences alone and not on an image's
    position, so a batch may be permuted, split and sent to several devices. No routing state
    outlives a call.

    Args:
        network: The network, with its norms already replaced.
        route: Carries the current call to these norms.
        code: Encodes preferences for FiLM.
        settings: The resolved arguments of ``with_conditioning``.

    Attributes:
        preferences: The preferences that it was trained for, in ascending order.
        default: The preference of a call that gives none. Set it before saving to choose what a
            loaded model answers with.

    Shape:
        Images ``(batch, channel, height, width)`` in [0, 1] to what the network returns.

    Raises:
        ValueError: From ``forward``, if a preference is outside [0, 1] or has no code, or if there
            is not one number or one for each image.

    Source:
        Wang et al. 2020 (OAT). Deviation: its code is told how many images at the front of the
        batch go through BN_c; here lambda decides for each image.
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
        """The settings from which a model folder builds the network again."""
        changes = {"default": self.default, "network": config_of(self.network)}
        return {"kind": "conditional"} | self.settings | changes

    def at(self, preference: float) -> "FixedPreference":
        """Return this model at one preference, as a plain classifier.

        It shares weights and mode with this model.

        Raises:
            ValueError: If the preference is outside [0, 1] or has no code.
        """
        return FixedPreference(self, preference)

    def forward(self, images: Images, *, preference: float | PerImage | None = None) -> Logits:
        """Return the logits.

        Args:
            images: Images in [0, 1].
            preference: Lambda in [0, 1], one number or one for each image; ``default`` if omitted.
        """
        if preference is None:
            preference = self.default
        if not isinstance(preference, Tensor):
            branch = int(self.dual and preference > TOLERANCE)
            return self._run(images, _Call(self.code(preference), branch))
        if preference.shape != images.shape[:1]:
            raise InvalidInput(
                f"preference must be one number or one for each of the {len(images)} images, "
                f"got a tensor of shape {tuple(preference.shape)}."
            )
        preference = preference.to(images.device)
        code, attacked = self.code(preference), preference > TOLERANCE
        clean = len(images) - int(attacked.sum())
        # Norms that share statistics among processes must run on each of them, even without rows.
        synchronised = self.training and reduces(self)
        if not self.dual or (clean in (0, len(images)) and not synchronised):
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
    """A conditional network at one preference: a plain classifier from images to logits.

    Args:
        model: The network. It is shared, not copied: training it or changing its mode changes
            this classifier too.
        preference: Lambda in [0, 1]; the model must have a code for it.

    Shape:
        Images ``(batch, channel, height, width)`` in [0, 1] to logits ``(batch, classes)``.

    Raises:
        ValueError: If the preference is outside [0, 1] or has no code.

    Source:
        Wang et al. 2020 (OAT): at test time lambda 0 sends all images through BN_c and any other
        lambda through BN_a; attackers know lambda.
    """

    def __init__(self, model: ConditionalNetwork, preference: float) -> None:
        super().__init__()
        model.code(preference)  # refuses a preference that it cannot encode
        self.model = model
        self.preference = preference
        self.training = model.training

    def extra_repr(self) -> str:
        """Show the preference, which is part of the model's identity."""
        return f"preference={self.preference:g}"

    def forward(self, images: Images) -> Logits:
        """Return the logits at the fixed preference."""
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
) -> ConditionalNetwork:
    """Convert a network with batch norms into one that takes a preference.

    Args:
        model: Any network with ``nn.BatchNorm2d`` modules; it is copied, not changed.
        preferences: Lambdas that it will be trained for, ascending in [0, 1].
        encoding: Encoding of a preference for FiLM, see ``PreferenceCode``.
        size: Length of an encoded preference.
        dual: Whether each norm becomes two, BN_c and BN_a, with statistics and affine parameters
            of their own; both start as copies of the network's norm.
        default: Preference of a call that gives none; the largest by default.
        without_film: Dotted names of norms without FiLM (they still become dual); by default
            those that ``norms_without_film`` returns.
        start: Initialisation of every FiLM, see there.

    Returns:
        The conditional network. FiLM draws its weights from torch's global seed.

    Raises:
        ValueError: If the network has no ``nn.BatchNorm2d`` or has batch norms of other kinds too,
            if no norm is left for FiLM, if a name in ``without_film`` is not that of a norm, or if
            a setting is out of range.

    Source:
        Wang et al. 2020 (OAT) and its code. FiLM is shared by BN_c and BN_a, as there. Deviations:
        any backbone; ``start`` and ``default`` are ours; for the random encoding see
        ``PreferenceCode``.

    Example:
        >>> import torch
        >>> from equipoise.models import WideResNet
        >>> model = with_conditioning(WideResNet(depth=10, width=1, classes=10), size=8).eval()
        >>> images = torch.rand(2, 3, 32, 32)
        >>> model(images, preference=torch.tensor([0.0, 1.0])).shape  # one clean, one robust
        torch.Size([2, 10])
        >>> robust = model.at(1.0)
        >>> robust(images).shape
        torch.Size([2, 10])
    """
    default = preferences[-1] if default is None and preferences else default
    check_code(preferences, encoding, size, default)
    if start not in get_args(Start):
        raise InvalidInput(f"start must be one of {get_args(Start)}, got {start!r}.")
    check_norms(model, "condition: OAT")
    network, route = copied(model), _Route()
    if without_film is None:
        without_film = norms_without_film(network)
    unconditioned = _norms_named(network, without_film)
    code = PreferenceCode(preferences, encoding, size, seed=0)

    def conditional_norm(norm: BatchNorm) -> _ConditionalNorm:
        film = None
        if norm not in unconditioned:
            film = FiLM(code.table.shape[1], norm.num_features, start)
        return _ConditionalNorm(MultiBatchNorm2d(norm, 2 if dual else 1), film, route)

    replace_modules(network, BatchNorm, conditional_norm)
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
    """Find the norms that no FiLM layer follows in OAT.

    Returns:
        Dotted names of norms on a shortcut, recognised by ``shortcut`` or ``downsample`` in their
        name (or ``bn_sc``, as in OAT's ResNet), and of the final norm of a ``WideResNet`` or
        ``PreActResNet``.

    Source:
        OAT's code: ``models/cifar10/resnet_OAT.py`` and ``models/svhn/wide_resnet_OAT.py``. The
        rule by names is a guess, because the original writes out each network by hand.
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


def _norms_named(network: nn.Module, names: Sequence[str]) -> set[BatchNorm]:
    """Look up norms by name; at least one norm of the network must be left over."""
    norms = _norms(network)
    unknown = sorted(set(names) - norms.keys())
    if unknown:
        raise InvalidInput(
            f"without_film must name norms of the network, {', '.join(norms) or 'none'}; "
            f"got {', '.join(unknown)}."
        )
    named = {norms[name] for name in names}
    if norms and named >= set(norms.values()):
        raise InvalidInput("without_film names every norm, so lambda would reach none; name fewer.")
    return named


def _norms(network: nn.Module) -> dict[str, BatchNorm]:
    modules = network.named_modules(remove_duplicate=False)
    return {name: module for name, module in modules if isinstance(module, BatchNorm)}
