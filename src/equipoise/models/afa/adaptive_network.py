"""AFA's second stage: two branches fused per image by a weight generator, in one affine map."""

import copy
import threading
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from equipoise.models.afa.branches import BranchedNetwork, RoutedNorm
from equipoise.models.afa.fused_batch_norm import FusedBatchNorm2d
from equipoise.models.afa.weight_generator import WeightGenerator
from equipoise.models.batch_norms import BatchNorm, replace_modules
from equipoise.models.model_config import config_of
from equipoise.types import Images, Logits, PerImage

Placement = Literal["input", "stem", "per_norm"]
Weights = Literal["image", "channel"]


class _Weights(threading.local):
    """The fusing weight of the current call; empty between calls, and one for each thread.

    A ``threading.local`` calls ``__init__`` anew, with the same ceiling, in every thread.
    """

    def __init__(self, ceiling: float) -> None:
        self.ceiling = ceiling
        self.weight: Tensor | None = None  # W0 that every norm of this call uses
        self.given = False  # the caller fixed it: no generator runs
        self.seen: list[Tensor] = []  # W0 before the sigmoid, of each generator that ran

    def read(self, generator: WeightGenerator, features: Tensor) -> Tensor:
        """Run a generator: W0 of each image."""
        logit = generator.logit(features)
        self.seen.append(logit)
        self.weight = self.ceiling * torch.sigmoid(logit)
        return self.weight

    def clear(self) -> None:
        self.weight, self.given, self.seen = None, False, []

    def __deepcopy__(self, memo: Any) -> "_Weights":
        return _Weights(self.ceiling)

    def __reduce__(self) -> tuple[type["_Weights"], tuple[float]]:
        return (_Weights, (self.ceiling,))


class _FusedSite(nn.Module):
    """Stands where a batch norm stood; with ``per_norm`` it has a generator of its own."""

    def __init__(
        self,
        norm: FusedBatchNorm2d,
        weights: _Weights,
        generator: WeightGenerator | None,
        channels: slice,
    ) -> None:
        super().__init__()
        self.norm = norm
        self.weights = weights
        self.generator = generator
        self.channels = channels  # its own, where one generator weighs the channels of all norms

    def forward(self, features: Tensor) -> Tensor:
        weight = self.weights.weight
        if self.generator is not None and not self.weights.given:
            weight = self.weights.read(self.generator, features)
        assert weight is not None, "a fused norm was called before its network had a fusing weight"
        if weight.ndim == 2 and self.generator is None:
            weight = weight[:, self.channels]
        return self.norm(features, weight)


class AdaptiveNetwork(nn.Module):
    """AFA as it is deployed: images in, logits out; the strength of an attack is estimated inside.

    Build one from a trained K-branch network with ``fuse_branches``. Everything but the weight
    generator is frozen and stays in eval mode, also under ``.train()``.

    Args:
        network: A network whose batch norms are fused pairs.
        weights: What those pairs share during a call.
        placement: Where the generator reads: ``"input"`` the images less 0.5, ``"stem"`` the first
            convolution's output before any norm, ``"per_norm"`` one small generator in front of
            each pair, reading that pair's own input.
        generator: The generator, except for ``per_norm``.
        hidden: Channels inside the generator.
        each: One fusing weight an image, or one for each channel of each norm.

    Shape:
        Images ``(batch, channel, height, width)`` in [0, 1] to logits ``(batch, classes)``.

    Raises:
        ValueError: From ``forward``, if a given fusing weight is not one number an image.

    Source:
        AFA Sec. 4.2, Fig. 4(b), Eq. (1)-(2).
    """

    def __init__(
        self,
        network: nn.Module,
        weights: _Weights,
        placement: Placement,
        generator: WeightGenerator | None,
        hidden: int,
        each: Weights = "image",
    ) -> None:
        super().__init__()
        self.each: Weights = each
        self.weights = weights
        self.ceiling = weights.ceiling
        self.placement = placement
        self.generator = generator  # before the network, whose last linear layer is the last of all
        self.network = network
        self.hidden = hidden
        trained = {id(parameter) for parameter in self.generator_parameters()}
        for parameter in self.parameters():
            parameter.requires_grad_(id(parameter) in trained)
        self.train(self.training)

    @property
    def config(self) -> dict[str, Any]:
        """How to build the same model again, without its weights."""
        return {
            "kind": "adaptive",
            "placement": self.placement,
            "hidden": self.hidden,
            "ceiling": self.ceiling,
            "each": self.each,
            "network": config_of(self.network),
        }

    def train(self, mode: bool = True) -> "AdaptiveNetwork":
        """Switch the generator's mode; the frozen network stays in eval mode."""
        super().train(mode)
        self.network.eval()
        for generator in self.generators():
            generator.train(mode)
        return self

    def generators(self) -> list[WeightGenerator]:
        """The weight generator, or one for each pair of norms with ``per_norm``."""
        return [module for module in self.modules() if isinstance(module, WeightGenerator)]

    def generator_parameters(self) -> list[nn.Parameter]:
        """All that stage II trains."""
        return [p for generator in self.generators() for p in generator.parameters()]

    def forward(self, images: Images, *, weight: float | PerImage | None = None) -> Logits:
        """Logits.

        Args:
            images: Images in [0, 1].
            weight: Fix W0 instead of estimating it: 1 is the clean branch, 0 the robust one.
        """
        return self.logits_and_weight(images, weight=weight)[0]

    def logits_and_weight(
        self, images: Images, *, weight: float | PerImage | None = None
    ) -> tuple[Logits, PerImage]:
        """Logits and the fusing weight W0 that made them (of several an image, the mean before the
        sigmoid)."""
        if weight is None:
            logits, gate = self.logits_and_gate(images)
            return logits, self.ceiling * torch.sigmoid(gate)
        given = torch.as_tensor(weight, dtype=torch.float32, device=images.device)
        if given.ndim and given.shape != (len(images),):
            raise ValueError(
                f"weight must be one number or one for each of the {len(images)} images, got "
                f"shape {tuple(given.shape)}."
            )
        given = given.expand(images.shape[0])
        self.weights.weight, self.weights.given = given, True
        try:
            return self.network(images), given
        finally:
            self.weights.clear()

    def logits_and_gate(self, images: Images) -> tuple[Logits, PerImage]:
        """Logits and the gate: W0 before the sigmoid and the ceiling, for attacks and losses."""
        state, hook = self.weights, None
        try:
            if self.placement == "input":
                assert self.generator is not None
                state.read(self.generator, images - 0.5)
            elif self.placement == "stem":
                hook = first_convolution(self.network).register_forward_hook(self._read_stem)
            logits = self.network(images)
            seen = [logit.view(images.shape[0], -1).mean(1) for logit in state.seen]
            return logits, torch.stack(seen).mean(0)
        finally:
            state.clear()
            if hook is not None:
                hook.remove()

    def _read_stem(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        assert self.generator is not None
        if self.weights.weight is None:
            self.weights.read(self.generator, output)


def fuse_branches(
    branched: BranchedNetwork,
    *,
    placement: Placement,
    first: int = 0,
    last: int | None = None,
    hidden: int = 16,
    ceiling: float = 1.0,
    each: Weights = "image",
) -> AdaptiveNetwork:
    """Keep two branches of a trained network and put a fresh weight generator in charge of them.

    Args:
        branched: A trained K-branch network; it is copied, not changed.
        placement: Where the generator reads.
        first: The clean branch.
        last: The robust branch; the last one by default.
        hidden: Channels inside the generator.
        ceiling: Largest W0, in (0, 1]: the generator's sigmoid is scaled by it. The paper's is 1;
            a lower one bounds what an attack on the generator can gain.
        each: ``"image"`` gives an image one fusing weight, as in the paper; ``"channel"`` one for
            each channel of each norm.

    Returns:
        The adaptive network; a fresh generator draws its weights from torch's global seed.

    Raises:
        ValueError: If the placement is unknown, the ceiling out of range, or a norm is more than a
            plain ``nn.BatchNorm2d`` with running statistics.
        IndexError: If a branch does not exist.

    Source:
        AFA Sec. 4.1: "drop the intermediate BN branches".
    """
    last = branched.branches - 1 if last is None else last
    for branch in (first, last):
        if not 0 <= branch < branched.branches:
            raise IndexError(f"branch must be in [0, {branched.branches}), got {branch}.")
    network = copy.deepcopy(branched.network)
    adaptive = _with_sites(
        network,
        RoutedNorm,
        lambda site: FusedBatchNorm2d.of(site.norm, first, last),
        placement,
        hidden,
        ceiling,
        each,
    )
    like = next(branched.parameters())
    return adaptive.to(like.device, like.dtype)


def new_adaptive_network(
    network: nn.Module,
    *,
    placement: Placement,
    hidden: int,
    ceiling: float,
    each: Weights = "image",
) -> AdaptiveNetwork:
    """The adaptive form of a plain network with fresh pairs of norms, for loading weights into.

    Returns:
        The adaptive network.

    Raises:
        ValueError: If the placement is unknown.
    """
    return _with_sites(
        copy.deepcopy(network),
        BatchNorm,
        lambda norm: FusedBatchNorm2d(norm.num_features),
        placement,
        hidden,
        ceiling,
        each,
    )


def first_convolution(network: nn.Module) -> nn.Conv2d:
    """The first convolution in order of registration.

    Raises:
        ValueError: If there is none.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            return module
    raise ValueError(
        f"{type(network).__name__} has no nn.Conv2d, so a weight generator cannot be fitted to it."
    )


def _with_sites(
    network: nn.Module,
    kind: Any,
    make: Any,
    placement: Placement,
    hidden: int,
    ceiling: float,
    each: Weights,
) -> AdaptiveNetwork:
    for name, value, known in (("placement", placement, Placement), ("each", each, Weights)):
        if value not in get_args(known):
            raise ValueError(f"{name} must be one of {get_args(known)}, got {value!r}.")
    if not 0 < ceiling <= 1:
        raise ValueError(f"ceiling must be in (0, 1], got {ceiling}.")
    weights, stem, total = _Weights(ceiling), first_convolution(network), 0

    def site(old: nn.Module) -> _FusedSite:
        nonlocal total
        norm = make(old)
        channels, own = norm.scale.shape[1], None
        if placement == "per_norm":
            outputs = channels if each == "channel" else 1
            own = WeightGenerator(channels, hidden, kernel=1, outputs=outputs)
        total += channels
        return _FusedSite(norm, weights, own, slice(total - channels, total))

    replace_modules(network, kind, site)
    generator = None
    if placement != "per_norm":
        channels = stem.in_channels if placement == "input" else stem.out_channels
        generator = WeightGenerator(channels, hidden, outputs=total if each == "channel" else 1)
    return AdaptiveNetwork(network, weights, placement, generator, hidden, each)
