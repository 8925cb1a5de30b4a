"""AFA's second stage: a weight generator fuses two branches for each image, in one affine map."""

from collections.abc import Callable
from dataclasses import asdict, fields, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from equipoise.models.afa.branches import BranchedNetwork, RoutedNorm
from equipoise.models.afa.fused_batch_norm import FusedBatchNorm2d
from equipoise.models.afa.layer_placement import AtLayer, first_convolution, layer_path, traced
from equipoise.models.afa.weight_generator import WeightGenerator
from equipoise.models.batch_norms import BatchNorm, replace_modules
from equipoise.models.call_state import CallState
from equipoise.models.copied import copied
from equipoise.models.model_config import config_of
from equipoise.runtime.errors import InvalidInput
from equipoise.types import Images, Logits, PerImage

Placement = Literal["input", "stem", "layer", "per_norm"]
"""Where the weight generator reads, see ``AdaptiveNetwork``."""
WeightGranularity = Literal["image", "channel"]
"""One fusing weight for each image, or for each channel of each norm."""


class _FusingState(CallState):
    """The fusing weight of the current call; empty between calls."""

    def __init__(self, ceiling: float) -> None:  # called in every thread that uses the state
        self.ceiling = ceiling
        self.weight: Tensor | None = None  # W0 for the norms of this call
        self.given: Tensor | None = None  # W0 that the caller fixed, so no generator runs
        self.before: int | None = None  # row of the branch of norms that run before the layer
        self.gates: list[Tensor] = []  # W0 before the sigmoid, of each generator that ran

    def estimate(self, generator: WeightGenerator, features: Tensor) -> Tensor:
        """Run a generator and keep W0 of each image."""
        gate = generator.logit(features)
        self.gates.append(gate)
        self.weight = self.ceiling * torch.sigmoid(gate)
        return self.weight

    def clear(self) -> None:
        self.weight = self.given = self.before = None
        self.gates = []

    def __reduce__(self) -> tuple[Any, tuple[float]]:
        return (_FusingState, (self.ceiling,))


class FusedSite(nn.Module):
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
        """Normalise with the weight of the current call."""
        weight, before = self.state.weight, self.state.before
        if self.generator is not None and self.state.given is None:
            weight = self.state.estimate(self.generator, features)
        if weight is None:
            assert before is not None, (
                "a fused norm was called before its network had a fusing weight"
            )
            return self.norm.through(features, before)
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
            first convolution's output, before any norm. An ``AtLayer``: a named layer's output;
            norms that run before it use a fixed branch, whatever the weight. ``"per_norm"``: a
            small generator in front of each pair of norms reads that pair's input.
        generator: The generator; ``None`` for ``per_norm``.
        hidden: Channels inside the generator.
        each: Whether a fusing weight is for an image or for each channel of each norm.

    Shape:
        Images ``(batch, channel, height, width)`` in [0, 1] to logits ``(batch, classes)``.

    Raises:
        ValueError: From ``forward``, if a given fusing weight is not one number for each image, or
            the layer that is to be read did not run or does not return maps.

    Source:
        AFA Sec. 4.2, Fig. 4(b), Eq. (1)-(2).
    """

    def __init__(
        self,
        network: nn.Module,
        state: _FusingState,
        placement: Placement | AtLayer,
        generator: WeightGenerator | None,
        hidden: int,
        each: WeightGranularity = "image",
    ) -> None:
        super().__init__()
        self.each: WeightGranularity = each
        self.state = state
        self.ceiling = state.ceiling
        self.layer = placement if isinstance(placement, AtLayer) else None
        self.placement: Placement = "layer" if isinstance(placement, AtLayer) else placement
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
            **({} if self.layer is None else asdict(self.layer)),
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
                With a generator at a layer, norms before it keep their fixed branch.
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
        precision = torch.float64 if images.dtype == torch.float64 else torch.float32
        given = torch.as_tensor(weight, dtype=precision, device=images.device)
        if given.ndim and given.shape != (len(images),):
            raise InvalidInput(
                f"weight must be one number or one for each of the {len(images)} images, got "
                f"shape {tuple(given.shape)}."
            )
        given = given.expand(images.shape[0])
        return self._run(images, given)[0], given

    def logits_and_gate(self, images: Images) -> tuple[Logits, PerImage]:
        """Return the logits and the gate: W0 before sigmoid and ceiling, for attacks and losses."""
        logits, found = self._run(images)
        gates = [gate.view(images.shape[0], -1).mean(1) for gate in found]
        return logits, torch.stack(gates).mean(0)

    def _run(self, images: Images, given: Tensor | None = None) -> tuple[Logits, list[Tensor]]:
        """Run the network with a given W0, or the generators'; return the logits and the gates."""
        state, hook = self.state, None
        state.given = given
        try:
            if self.layer is not None:
                state.before = self.layer.row
                module = self.network.get_submodule(self.layer.layer)
                hook = module.register_forward_hook(self._read)
            elif given is not None:
                state.weight = given
            elif self.placement == "input":
                assert self.generator is not None
                state.estimate(self.generator, images - 0.5)
            elif self.placement == "stem":
                hook = first_convolution(self.network).register_forward_hook(self._read)
            logits = self.network(images)
            if self.layer is not None and state.weight is None:
                raise InvalidInput(
                    f"layer {self.layer.layer!r} did not run on these images, so the weight "
                    "generator had nothing to read."
                )
            return logits, state.gates
        finally:
            state.clear()
            if hook is not None:
                hook.remove()

    def _read(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        """Set W0 when the layer that the generator reads has run; a forward hook."""
        state = self.state
        if state.weight is not None:
            return  # the layer's first output counts, and another thread may have hooked it too
        if state.given is not None:
            state.weight = state.given
            return
        assert self.generator is not None
        if self.layer is not None:
            output = self.layer.check(output).clone()  # what follows may change it in place
        state.estimate(self.generator, output)


def fuse_branches(
    branched: BranchedNetwork,
    *,
    placement: Placement | AtLayer,
    first: int = 0,
    last: int | None = None,
    hidden: int = 16,
    ceiling: float = 1.0,
    each: WeightGranularity = "image",
) -> AdaptiveNetwork:
    """Keep two branches of a trained network and add a fresh weight generator that fuses them.

    Args:
        branched: A trained K-branch network; it is copied, not changed.
        placement: Where the generator reads: ``"input"``, ``"stem"``, ``"per_norm"``, or a named
            layer as ``AtLayer(layer="stages.0")``, see ``AdaptiveNetwork``.
        first: Index of the clean branch.
        last: Index of the robust branch; the last one by default.
        hidden: Channels inside the generator.
        ceiling: Largest W0, in (0, 1]; it scales the generator's sigmoid. The paper's is 1; a lower
            one limits what an attack on the generator can gain.
        each: ``"image"`` gives each image one fusing weight, as in the paper; ``"channel"`` gives
            it one for each channel of each norm, which a generator at a layer cannot.

    Returns:
        The adaptive network. The generator draws its weights from torch's global seed.

    Raises:
        ValueError: If the placement is unknown, the layer unknown or not readable (see ``traced``),
            the ceiling out of range, or a norm is more than a plain ``nn.BatchNorm2d`` with running
            statistics.
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
        >>> fuse_branches(branched, placement=AtLayer(layer="stages.0")).placement
        'layer'
    """
    last = branched.branches - 1 if last is None else last
    for branch in (first, last):
        if not 0 <= branch < branched.branches:
            raise IndexError(f"branch must be in [0, {branched.branches}), got {branch}.")
    if isinstance(placement, AtLayer):
        placement = traced(branched, placement)
    adaptive = _with_generator(
        copied(branched.network),
        RoutedNorm,
        lambda routed: FusedBatchNorm2d.of(routed.norm, first, last),
        placement=placement,
        hidden=hidden,
        ceiling=ceiling,
        each=each,
    )
    like = next(branched.parameters())
    return adaptive.to(like.device, like.dtype)


def check_fusable(branched: BranchedNetwork) -> None:
    """Reject a network whose norms ``fuse_branches`` would reject, before its branches are trained.

    Raises:
        ValueError: As ``fuse_branches``.
    """
    for module in branched.modules():
        if isinstance(module, RoutedNorm):
            FusedBatchNorm2d.of(module.norm, 0, branched.branches - 1)


def new_adaptive_network(network: nn.Module, **settings: Any) -> AdaptiveNetwork:
    """Build an adaptive network with fresh norms, to load saved weights into.

    Args:
        network: The plain network; it is copied, not changed.
        settings: The ``placement``, ``hidden``, ``ceiling`` and ``each`` of ``fuse_branches``; with
            the placement ``"layer"`` also the fields of ``AtLayer``, all of them.

    Returns:
        The adaptive network.

    Raises:
        ValueError: If a setting is unknown or out of range.
        TypeError: If a setting is missing.
    """
    if settings.get("placement") == "layer":
        names = {field.name for field in fields(AtLayer)}
        at = AtLayer(**{name: settings.pop(name) for name in names & settings.keys()})
        settings["placement"] = replace(at, layer=layer_path(network, at.layer))
    return _with_generator(
        copied(network),
        BatchNorm,
        lambda norm: FusedBatchNorm2d(norm.num_features),
        **settings,
    )


def _with_generator(
    network: nn.Module,
    kind: Any,
    fuse: Callable[[Any], FusedBatchNorm2d],
    *,
    placement: Placement | AtLayer,
    hidden: int,
    ceiling: float,
    each: WeightGranularity = "image",
) -> AdaptiveNetwork:
    """Replace every module of a kind by a fused pair of norms and add the weight generator."""
    _check(placement, each, ceiling)
    state, stem, total = _FusingState(ceiling), first_convolution(network), 0

    def fused_site(module: nn.Module) -> FusedSite:
        nonlocal total
        norm, generator = fuse(module), None
        channels = norm.scale.shape[1]
        if placement == "per_norm":
            outputs = channels if each == "channel" else 1
            generator = WeightGenerator(channels, hidden, kernel=1, outputs=outputs)
        total += channels
        return FusedSite(norm, state, generator, slice(total - channels, total))

    replace_modules(network, kind, fused_site)
    generator = None
    if placement != "per_norm":
        channels = stem.in_channels if placement == "input" else stem.out_channels
        if isinstance(placement, AtLayer):
            assert placement.channels is not None  # _check
            channels = placement.channels
        generator = WeightGenerator(channels, hidden, outputs=total if each == "channel" else 1)
    return AdaptiveNetwork(network, state, placement, generator, hidden, each)


def _check(placement: Placement | AtLayer, each: WeightGranularity, ceiling: float) -> None:
    if placement == "layer":
        raise InvalidInput("placement 'layer' needs the layer's name: AtLayer(layer=...).")
    if isinstance(placement, AtLayer) and placement.channels is None:
        raise InvalidInput(f"channels of layer {placement.layer!r} must be given, got None.")
    if isinstance(placement, AtLayer) and each != "image":
        raise InvalidInput(
            f"each must be 'image' with a generator at a layer ({placement.layer!r}), got "
            f"{each!r}: norms before it have no weight."
        )
    if not isinstance(placement, AtLayer) and placement not in get_args(Placement):
        raise InvalidInput(f"placement must be one of {get_args(Placement)}, got {placement!r}.")
    if each not in get_args(WeightGranularity):
        raise InvalidInput(f"each must be one of {get_args(WeightGranularity)}, got {each!r}.")
    if not 0 < ceiling <= 1:
        raise InvalidInput(f"ceiling must be in (0, 1], got {ceiling}.")
