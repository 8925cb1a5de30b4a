"""AFA's second stage: a weight generator fuses two branches for each image, in one affine map."""

import copy
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from equipoise.models.afa.branches import BranchedNetwork, RoutedNorm
from equipoise.models.afa.fused_batch_norm import FusedBatchNorm2d
from equipoise.models.afa.weight_generator import WeightGenerator
from equipoise.models.batch_norms import BatchNorm, replace_modules
from equipoise.models.call_state import CallState
from equipoise.models.model_config import config_of
from equipoise.runtime.errors import InvalidInput
from equipoise.types import Images, Logits, PerImage

Placement = Literal["input", "stem", "per_norm"]
"""Where the weight generator reads, see ``AdaptiveNetwork``."""
WeightGranularity = Literal["image", "channel"]
"""One fusing weight for each image, or for each channel of each norm."""


class _FusingState(CallState):
    """The fusing weight of the current call; empty between calls."""

    def __init__(self, ceiling: float) -> None:  # called in every thread that uses the state
        self.ceiling = ceiling
        self.weight: Tensor | None = None  # W0 for the norms of this call
        self.given = False  # the caller fixed the weight, so no generator runs
        self.gates: list[Tensor] = []  # W0 before the sigmoid, of each generator that ran

    def estimate(self, generator: WeightGenerator, features: Tensor) -> Tensor:
        """Run a generator and keep W0 of each image."""
        gate = generator.logit(features)
        self.gates.append(gate)
        self.weight = self.ceiling * torch.sigmoid(gate)
        return self.weight

    def clear(self) -> None:
        self.weight, self.given, self.gates = None, False, []

    def __reduce__(self) -> tuple[Any, tuple[float]]:
        return (_FusingState, (self.ceiling,))


class _FusedSite(nn.Module):
    """Replacement of one batch norm; with ``per_norm`` it has a generator of its own."""

    def __init__(
        self,
        norm: FusedBatchNorm2d,
        state: _FusingState,
        generator: WeightGenerator | None,
        channels: slice,
    ) -> None:
        super().__init__()
        self.norm = norm
        self.state = state
        self.generator = generator
        self.channels = channels  # this norm's, if one generator weights the channels of all norms

    def forward(self, features: Tensor) -> Tensor:
        weight = self.state.weight
        if self.generator is not None and not self.state.given:
            weight = self.state.estimate(self.generator, features)
        assert weight is not None, "a fused norm was called before its network had a fusing weight"
        if weight.ndim == 2 and self.generator is None:
            weight = weight[:, self.channels]
        return self.norm(features, weight)


class AdaptiveNetwork(nn.Module):
    """AFA's deployed network: it estimates the strength of an attack and fuses two branches.

    Build one from a trained K-branch network with ``fuse_branches``. Everything but the weight
    generator is frozen and stays in eval mode, even under ``.train()``.

    Args:
        network: A network whose batch norms are fused pairs.
        state: Carries the fusing weight of the current call to these norms.
        placement: Where the generator reads. ``"input"``: the images minus 0.5. ``"stem"``: the
            first convolution's output, before any norm. ``"per_norm"``: a small generator in front
            of each pair of norms reads that pair's input.
        generator: The generator; ``None`` for ``per_norm``.
        hidden: Channels inside the generator.
        each: Whether a fusing weight is for an image or for each channel of each norm.

    Shape:
        Images ``(batch, channel, height, width)`` in [0, 1] to logits ``(batch, classes)``.

    Raises:
        ValueError: From ``forward``, if a given fusing weight is not one number for each image.

    Source:
        AFA Sec. 4.2, Fig. 4(b), Eq. (1)-(2).
    """

    def __init__(
        self,
        network: nn.Module,
        state: _FusingState,
        placement: Placement,
        generator: WeightGenerator | None,
        hidden: int,
        each: WeightGranularity = "image",
    ) -> None:
        super().__init__()
        self.each: WeightGranularity = each
        self.state = state
        self.ceiling = state.ceiling
        self.placement = placement
        self.generator = generator  # before the network, so that the network's head comes last
        self.network = network
        self.hidden = hidden
        trained = {id(parameter) for parameter in self.generator_parameters()}
        for parameter in self.parameters():
            parameter.requires_grad_(id(parameter) in trained)
        self.train(self.training)

    @property
    def config(self) -> dict[str, Any]:
        """The settings from which a model folder builds the network again."""
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
        """Return the weight generator, or those of all norms with ``per_norm``."""
        return [module for module in self.modules() if isinstance(module, WeightGenerator)]

    def generator_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that stage II trains."""
        return [p for generator in self.generators() for p in generator.parameters()]

    def forward(self, images: Images, *, weight: float | PerImage | None = None) -> Logits:
        """Return the logits.

        Args:
            images: Images in [0, 1].
            weight: A fixed W0 in place of the estimate: 1 is the clean branch, 0 the robust one.
        """
        return self.logits_and_weight(images, weight=weight)[0]

    def logits_and_weight(
        self, images: Images, *, weight: float | PerImage | None = None
    ) -> tuple[Logits, PerImage]:
        """Return the logits and the fusing weight W0 that produced them.

        An image with several weights gets their mean, taken before the sigmoid.
        """
        if weight is None:
            logits, gate = self.logits_and_gate(images)
            return logits, self.ceiling * torch.sigmoid(gate)
        given = torch.as_tensor(weight, dtype=torch.float32, device=images.device)
        if given.ndim and given.shape != (len(images),):
            raise InvalidInput(
                f"weight must be one number or one for each of the {len(images)} images, got "
                f"shape {tuple(given.shape)}."
            )
        given = given.expand(images.shape[0])
        self.state.weight, self.state.given = given, True
        try:
            return self.network(images), given
        finally:
            self.state.clear()

    def logits_and_gate(self, images: Images) -> tuple[Logits, PerImage]:
        """Return the logits and the gate: W0 before sigmoid and ceiling, for attacks and losses."""
        state, hook = self.state, None
        try:
            if self.placement == "input":
                assert self.generator is not None
                state.estimate(self.generator, images - 0.5)
            elif self.placement == "stem":
                hook = first_convolution(self.network).register_forward_hook(self._read_stem)
            logits = self.network(images)
            gates = [gate.view(images.shape[0], -1).mean(1) for gate in state.gates]
            return logits, torch.stack(gates).mean(0)
        finally:
            state.clear()
            if hook is not None:
                hook.remove()

    def _read_stem(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        assert self.generator is not None
        if self.state.weight is None:
            self.state.estimate(self.generator, output)


def fuse_branches(
    branched: BranchedNetwork,
    *,
    placement: Placement,
    first: int = 0,
    last: int | None = None,
    hidden: int = 16,
    ceiling: float = 1.0,
    each: WeightGranularity = "image",
) -> AdaptiveNetwork:
    """Keep two branches of a trained network and add a fresh weight generator that fuses them.

    Args:
        branched: A trained K-branch network; it is copied, not changed.
        placement: Where the generator reads, see ``AdaptiveNetwork``.
        first: Index of the clean branch.
        last: Index of the robust branch; the last one by default.
        hidden: Channels inside the generator.
        ceiling: Largest W0, in (0, 1]; it scales the generator's sigmoid. The paper's is 1; a lower
            one limits what an attack on the generator can gain.
        each: ``"image"`` gives each image one fusing weight, as in the paper; ``"channel"`` gives
            it one for each channel of each norm.

    Returns:
        The adaptive network. The generator draws its weights from torch's global seed.

    Raises:
        ValueError: If the placement is unknown, the ceiling out of range, or a norm is more than a
            plain ``nn.BatchNorm2d`` with running statistics.
        IndexError: If a branch does not exist.

    Source:
        AFA Sec. 4.1: "drop the intermediate BN branches".

    Example:
        >>> import torch
        >>> from equipoise.models import WideResNet, with_branches
        >>> branched = with_branches(WideResNet(depth=10, width=1, classes=10), branches=3)
        >>> model = fuse_branches(branched, placement="stem").eval()
        >>> logits, weight = model.logits_and_weight(torch.rand(4, 3, 32, 32))
        >>> logits.shape, weight.shape
        (torch.Size([4, 10]), torch.Size([4]))
    """
    last = branched.branches - 1 if last is None else last
    for branch in (first, last):
        if not 0 <= branch < branched.branches:
            raise IndexError(f"branch must be in [0, {branched.branches}), got {branch}.")
    adaptive = _with_generator(
        copy.deepcopy(branched.network),
        RoutedNorm,
        lambda routed: FusedBatchNorm2d.of(routed.norm, first, last),
        placement=placement,
        hidden=hidden,
        ceiling=ceiling,
        each=each,
    )
    like = next(branched.parameters())
    return adaptive.to(like.device, like.dtype)


def new_adaptive_network(network: nn.Module, **settings: Any) -> AdaptiveNetwork:
    """Build an adaptive network with fresh norms, to load saved weights into.

    Args:
        network: The plain network; it is copied, not changed.
        settings: The ``placement``, ``hidden``, ``ceiling`` and ``each`` of ``fuse_branches``.

    Returns:
        The adaptive network.

    Raises:
        ValueError: If a setting is unknown or out of range.
        TypeError: If a setting is missing.
    """
    return _with_generator(
        copy.deepcopy(network),
        BatchNorm,
        lambda norm: FusedBatchNorm2d(norm.num_features),
        **settings,
    )


def first_convolution(network: nn.Module) -> nn.Conv2d:
    """Return the first convolution in order of registration.

    Raises:
        ValueError: If there is none.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            return module
    raise InvalidInput(
        f"{type(network).__name__} has no nn.Conv2d, so a weight generator cannot be fitted to it."
    )


def _with_generator(
    network: nn.Module,
    kind: Any,
    fuse: Callable[[Any], FusedBatchNorm2d],
    *,
    placement: Placement,
    hidden: int,
    ceiling: float,
    each: WeightGranularity = "image",
) -> AdaptiveNetwork:
    """Replace every module of a kind by a fused pair of norms and add the weight generator."""
    for name, value, known in (
        ("placement", placement, Placement),
        ("each", each, WeightGranularity),
    ):
        if value not in get_args(known):
            raise InvalidInput(f"{name} must be one of {get_args(known)}, got {value!r}.")
    if not 0 < ceiling <= 1:
        raise InvalidInput(f"ceiling must be in (0, 1], got {ceiling}.")
    state, stem, total = _FusingState(ceiling), first_convolution(network), 0

    def fused_site(module: nn.Module) -> _FusedSite:
        nonlocal total
        norm, generator = fuse(module), None
        channels = norm.scale.shape[1]
        if placement == "per_norm":
            outputs = channels if each == "channel" else 1
            generator = WeightGenerator(channels, hidden, kernel=1, outputs=outputs)
        total += channels
        return _FusedSite(norm, state, generator, slice(total - channels, total))

    replace_modules(network, kind, fused_site)
    generator = None
    if placement != "per_norm":
        channels = stem.in_channels if placement == "input" else stem.out_channels
        generator = WeightGenerator(channels, hidden, outputs=total if each == "channel" else 1)
    return AdaptiveNetwork(network, state, placement, generator, hidden, each)
