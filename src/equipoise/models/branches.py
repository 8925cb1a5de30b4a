"""Many batch norms side by side, and any network turned into a many-branch one."""

import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipoise.losses import Logits
from equipoise.threat import Images

Branch = int | tuple[int, ...]


class MultiBatchNorm2d(nn.Module):
    """K parallel batch norms over the same channels; each row goes through exactly one.

    Branches share nothing: statistics *and* affine parameters are separate. With ``branches=1``
    this is ``nn.BatchNorm2d``.

    Args:
        like: The norm to repeat: its size, settings, parameters and statistics start each branch.
        branches: K, the number of parallel norms. Branch 0 is for clean images.

    Shape:
        Input and output ``(batch, channel, height, width)``.

    Raises:
        ValueError: If ``branches`` is not positive, or from ``forward``, if the batch does not
            split into equal groups.
        IndexError: From ``forward``, if a branch is not in ``[0, branches)``.

    Source:
        AFA Sec. 4.1, Fig. 4(a). The paper counts BN_0..BN_{K-1} in the text and paths 1..K in
        Algorithm 1; we count from 0. Its formula prints neither gamma nor beta; both are kept,
        one pair a branch.
    """

    def __init__(self, like: nn.BatchNorm2d, branches: int) -> None:
        super().__init__()
        if branches < 1:
            raise ValueError(f"branches must be 1 or more, got {branches}.")
        self.norms = nn.ModuleList(copy.deepcopy(like) for _ in range(branches))

    def forward(
        self, features: Float[Tensor, "batch channel height width"], branch: Branch
    ) -> Float[Tensor, "batch channel height width"]:
        """Normalise through one branch, or equal groups of rows each through its own."""
        if isinstance(branch, int):
            return self._norm(branch)(features)
        if not branch or len(features) % len(branch):
            raise ValueError(
                f"a batch of {len(features)} does not split into {len(branch)} equal groups, "
                f"one for each branch in {branch}."
            )
        groups = features.chunk(len(branch))
        return torch.cat([self._norm(k)(group) for k, group in zip(branch, groups, strict=True)])

    def _norm(self, branch: int) -> nn.Module:
        if not 0 <= branch < len(self.norms):
            raise IndexError(f"branch must be in [0, {len(self.norms)}), got {branch}.")
        return self.norms[branch]


class Route:
    """Where the rows of the current call go; empty between calls."""

    def __init__(self) -> None:
        self.branch: Branch | None = None


class RoutedNorm(nn.Module):
    """Stands where a network's batch norm stood, and asks its route for the branch."""

    def __init__(self, norm: MultiBatchNorm2d, route: Route) -> None:
        super().__init__()
        self.norm = norm
        self.route = route

    def forward(self, features: Tensor) -> Tensor:
        """Normalise through the branch of the current call."""
        assert self.route.branch is not None, "a branched norm was called outside its network"
        return self.norm(features, self.route.branch)


class Branched(nn.Module):
    """A network whose every batch norm has K branches; made by ``with_branches``.

    The caller says the branch at every call and there is no default: ``model(images, branch=k)``,
    or ``branch=(0, 1, 2)``: the batch is that many equal groups, each through its branch, in one
    forward. No routing state outlives a call.

    Shape:
        Images ``(batch, channel, height, width)`` to what the network returns.

    Raises:
        IndexError: From ``forward``, if there is no such branch.
        ValueError: From ``forward``, if the batch does not split into equal groups.

    Source:
        AFA Sec. 4.1. Groups are counted within one call, so a data-parallel wrapper must wrap the
        whole step that makes the call, never split a grouped batch (OAT's trap).
    """

    def __init__(self, network: nn.Module, branches: int, route: Route) -> None:
        super().__init__()
        self.network = network
        self.branches = branches
        self.route = route

    @property
    def config(self) -> dict[str, Any]:
        """How to build the same model again, without its weights."""
        return {
            "kind": "branched",
            "branches": self.branches,
            "network": config_of(self.network),
        }

    def forward(self, images: Images, *, branch: Branch) -> Logits:
        """Logits through the given branch, or of equal groups each through its own."""
        self.route.branch = branch
        try:
            return self.network(images)
        finally:
            self.route.branch = None


def with_branches(model: nn.Module, branches: int) -> Branched:
    """Turn any network with batch norms into a K-branch one.

    Args:
        model: Any network with ``nn.BatchNorm2d`` modules; it is copied, not changed.
        branches: K, 1 or more. Every branch starts as a copy of the network's norm.

    Returns:
        The branched network.

    Raises:
        ValueError: If ``branches`` is not positive or the network has no ``nn.BatchNorm2d``: then
            AFA has nothing to branch.

    Source:
        AFA Sec. 4.1.
    """
    network, route = copy.deepcopy(model), Route()
    replaced = replace_modules(
        network,
        nn.BatchNorm2d,
        lambda norm: RoutedNorm(MultiBatchNorm2d(norm, branches), route),
    )
    if not replaced:
        raise ValueError(
            f"{type(model).__name__} has no nn.BatchNorm2d, so there is nothing to branch: AFA "
            "needs batch norms. AFS stacks any network."
        )
    return Branched(network, branches, route)


def replace_modules(network: nn.Module, kind: type, make: Any) -> int:
    """Replace every submodule of a type, in place.

    Args:
        network: Searched with all its descendants.
        kind: The type to replace.
        make: Called with each such module, once even where it is shared; returns what stands there.

    Returns:
        How many places were replaced.
    """
    made: dict[nn.Module, nn.Module] = {}
    places = [
        (parent, name, child)
        for parent in network.modules()
        for name, child in parent._modules.items()  # not named_children: it skips a second name
        if isinstance(child, kind)
    ]
    for parent, name, child in places:
        assert child is not None  # isinstance above
        if child not in made:
            made[child] = make(child)
        setattr(parent, name, made[child])
    return len(places)


def config_of(network: nn.Module) -> dict[str, Any]:
    """The configuration from which a model folder builds a network again.

    Raises:
        ValueError: If the network does not know its own configuration.
    """
    config = getattr(network, "config", None)
    if not isinstance(config, dict) or "kind" not in config:
        raise ValueError(
            f"{type(network).__name__} cannot be saved as a model folder: it has no `config` that "
            "says how to build it again. Save its state_dict() instead."
        )
    return config
