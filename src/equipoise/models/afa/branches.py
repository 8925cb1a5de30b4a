"""Parallel batch norms, and the conversion of any network into one with K branches."""

import copy
from typing import Any, Literal, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipoise.distributed.sync_batch_norm import reduces
from equipoise.models.batch_norms import BatchNorm, check_norms, replace_modules
from equipoise.models.call_state import CallState
from equipoise.models.copied import copied
from equipoise.models.model_config import config_of
from equipoise.runtime.errors import InvalidInput
from equipoise.types import Images, Logits

Branch = int | tuple[int, ...]
"""The branch of a whole batch, or of each of its equal groups."""
Separate = Literal["both", "statistics", "affine"]


class MultiBatchNorm2d(nn.Module):
    """K parallel batch norms over the same channels; each row goes through exactly one.

    With ``branches=1`` this is ``nn.BatchNorm2d``.

    Args:
        like: The norm to repeat. Every branch starts with its settings, parameters and statistics.
        branches: K, the number of parallel norms. Branch 0 is for clean images.
        separate: What each branch has of its own. ``"both"``: statistics and affine parameters, so
            branches share nothing. ``"statistics"``: all share one affine map. ``"affine"``: all
            share the statistics, which are those of all rows of a call.

    Shape:
        Input and output ``(batch, channel, height, width)``.

    Raises:
        ValueError: If ``branches`` is not positive, or ``separate`` needs an affine map and
            ``like`` has none; from ``forward``, if the features are not maps or the batch does not
            split into equal groups.
        IndexError: From ``forward``, if a branch is not in ``[0, branches)``.

    Source:
        AFA Sec. 4.1, Fig. 4(a). The paper counts BN_0..BN_{K-1} in the text and paths 1..K in
        Algorithm 1; we count from 0. Its formula prints neither gamma nor beta; we keep both, one
        pair for each branch.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> norm = MultiBatchNorm2d(nn.BatchNorm2d(3), branches=2)
        >>> features = torch.rand(4, 3, 8, 8) + 1
        >>> _ = norm(features, branch=1)
        >>> [bool(n.running_mean.any()) for n in norm.norms]
        [False, True]
    """

    def __init__(self, like: BatchNorm, branches: int, separate: Separate = "both") -> None:
        super().__init__()
        if branches < 1:
            raise InvalidInput(f"branches must be 1 or more, got {branches}.")
        if separate not in get_args(Separate):
            raise InvalidInput(f"separate must be one of {get_args(Separate)}, got {separate!r}.")
        if separate != "both" and not like.affine:
            raise InvalidInput(
                f"separate={separate!r} needs norms with an affine map; use separate='both'."
            )
        self.branches, self.separate = branches, separate
        if separate == "both":
            self.norms = nn.ModuleList(copy.deepcopy(like) for _ in range(branches))
            return
        copies, maps = (branches, 1) if separate == "statistics" else (1, branches)
        self.norms = nn.ModuleList(_without_affine(like) for _ in range(copies))
        self.weight = nn.Parameter(like.weight.detach().repeat(maps, 1))
        self.bias = nn.Parameter(like.bias.detach().repeat(maps, 1))

    def forward(
        self, features: Float[Tensor, "batch channel height width"], branch: Branch
    ) -> Float[Tensor, "batch channel height width"]:
        """Normalise through one branch, or each of several equal groups through its own."""
        if features.ndim != 4:  # nn.SyncBatchNorm takes other shapes
            raise InvalidInput(
                "a branched batch norm takes maps of shape (batch, channel, height, width), got "
                f"shape {tuple(features.shape)}."
            )
        if not features.shape[0] and not reduces(self):
            return features  # an empty batch would turn statistics into NaN
        route = (branch,) if isinstance(branch, int) else branch
        batch = features.shape[0]  # len() would be a constant in an exported file
        if not route or batch % len(route):
            raise InvalidInput(
                f"a batch of {batch} does not split into {len(route)} equal groups, "
                f"one for each branch in {branch}."
            )
        for k in route:
            self._check(k)
        if self.separate == "affine":
            rows = batch // len(route)
            index = torch.tensor(route, device=features.device).repeat_interleave(rows)
            features = self.norms[0](features)
            return torch.addcmul(_wide(self.bias[index]), features, _wide(self.weight[index]))
        chunks = features.chunk(len(route)) if len(route) > 1 else (features,)
        groups = [self.norms[k](chunk) for k, chunk in zip(route, chunks, strict=True)]
        normed = groups[0] if len(groups) == 1 else torch.cat(groups)
        if self.separate == "both":
            return normed
        return torch.addcmul(_wide(self.bias), normed, _wide(self.weight))

    def norm_copy(self, branch: int) -> nn.Module:
        """Copy one branch as a plain norm.

        Raises:
            IndexError: If there is no such branch.
        """
        self._check(branch)
        if self.separate == "both":
            return copy.deepcopy(self.norms[branch])
        index, row = (branch, 0) if self.separate == "statistics" else (0, branch)
        norm: Any = copy.deepcopy(self.norms[index])
        norm.affine = True
        norm.weight = nn.Parameter(self.weight[row].detach().clone())
        norm.bias = nn.Parameter(self.bias[row].detach().clone())
        return cast(nn.Module, norm)

    def norm_view(self, branch: int) -> nn.Module:
        """Return one branch as a plain norm for reading: the module itself if it shares nothing.

        Raises:
            IndexError: If there is no such branch.
        """
        self._check(branch)
        return self.norms[branch] if self.separate == "both" else self.norm_copy(branch)

    def _check(self, branch: int) -> None:
        if not 0 <= branch < self.branches:
            raise IndexError(f"branch must be in [0, {self.branches}), got {branch}.")


def _without_affine(like: BatchNorm) -> BatchNorm:
    norm = copy.deepcopy(like)
    norm.affine, norm.weight, norm.bias = False, None, None  # type: ignore[assignment]
    return norm


def _wide(rows: Tensor) -> Tensor:
    return rows[:, :, None, None]


class Route(CallState):
    """The branch of the current call; ``None`` between calls."""

    branch: Branch | None = None


class RoutedNorm(nn.Module):
    """Replacement of one batch norm in a ``BranchedNetwork``; it reads the branch from a route."""

    def __init__(self, norm: MultiBatchNorm2d, route: Route) -> None:
        super().__init__()
        self.norm = norm
        self.route = route

    def forward(self, features: Tensor) -> Tensor:
        """Normalise through the branch of the current call."""
        assert self.route.branch is not None, "a branched norm was called outside its network"
        return self.norm(features, self.route.branch)


class BranchedNetwork(nn.Module):
    """A network in which every batch norm has K branches.

    Build one with ``with_branches``. Every call names the branch; there is no default. With
    ``branch=k`` the whole batch goes through branch k; with ``branch=(0, 1, 2)`` the batch consists
    of that many equal groups and each goes through its branch, all in one forward pass. No routing
    state outlives a call.

    Args:
        network: The network, with its norms replaced by ``RoutedNorm``.
        branches: K.
        route: Carries the branch of the current call to the norms.
        separate: What each branch has of its own, see ``MultiBatchNorm2d``.

    Shape:
        Images ``(batch, channel, height, width)`` to what the network returns.

    Raises:
        IndexError: From ``forward``, if a branch does not exist.
        ValueError: From ``forward``, if the batch does not split into equal groups.

    Source:
        AFA Sec. 4.1. Groups are counted within one call, so a data-parallel wrapper must wrap the
        whole training step; splitting a grouped batch would assign wrong branches, as happens in
        OAT's code.
    """

    def __init__(
        self, network: nn.Module, branches: int, route: Route, separate: Separate = "both"
    ) -> None:
        super().__init__()
        self.network = network
        self.branches = branches
        self.route = route
        self.separate = separate

    @property
    def config(self) -> dict[str, Any]:
        """The settings from which a model folder builds the network again."""
        return {
            "kind": "branched",
            "branches": self.branches,
            "separate": self.separate,
            "network": config_of(self.network),
        }

    def forward(self, images: Images, *, branch: Branch) -> Logits:
        """Return the logits of one branch, or of equal groups through one branch each."""
        self.route.branch = branch
        try:
            return self.network(images)
        finally:
            self.route.branch = None


def with_branches(model: nn.Module, branches: int, separate: Separate = "both") -> BranchedNetwork:
    """Convert a network with batch norms into one with K branches.

    Args:
        model: Any network with ``nn.BatchNorm2d`` or ``nn.SyncBatchNorm`` modules; it is copied,
            not changed.
        branches: K, 1 or more. Every branch starts as a copy of the network's norm.
        separate: What each branch has of its own, see ``MultiBatchNorm2d``.

    Returns:
        The branched network.

    Raises:
        ValueError: If ``branches`` is not positive, the network has no such norm, or it also has
            batch norms of other kinds, which all branches would share.

    Source:
        AFA Sec. 4.1.

    Example:
        >>> import torch
        >>> from equipoise.models import WideResNet
        >>> model = with_branches(WideResNet(depth=10, width=1, classes=10), branches=3)
        >>> images = torch.rand(6, 3, 32, 32)
        >>> model(images, branch=0).shape  # all six through the clean branch
        torch.Size([6, 10])
        >>> model(images, branch=(0, 1, 2)).shape  # two through each branch
        torch.Size([6, 10])
    """
    check_norms(model, "branch: AFA")
    network, route = copied(model), Route()
    replace_modules(
        network,
        BatchNorm,
        lambda norm: RoutedNorm(MultiBatchNorm2d(norm, branches, separate), route),
    )
    return BranchedNetwork(network, branches, route, separate)


def model_soup(branched: BranchedNetwork, weight: float) -> nn.Module:
    """Interpolate the norms of the first and the last branch into one plain network.

    Args:
        branched: A trained K-branch network; it is copied, not changed.
        weight: Share of the clean branch in affine parameters and running statistics, in [0, 1].

    Returns:
        A network of the class that was branched, without a weight generator.

    Raises:
        ValueError: If the weight is out of range.

    Source:
        Croce et al. 2023, "Seasoning Model Soups for Robustness to Adversarial and Natural
        Distribution Shifts", for networks that differ only in their norms.

    Example:
        >>> from equipoise.models import WideResNet
        >>> branched = with_branches(WideResNet(depth=10, width=1, classes=10), branches=2)
        >>> type(model_soup(branched, weight=0.5)).__name__
        'WideResNet'
    """
    if not 0 <= weight <= 1:
        raise InvalidInput(f"weight must be a share in [0, 1], got {weight}.")
    network = copied(branched.network)

    def interpolate(routed: RoutedNorm) -> nn.Module:
        norm = routed.norm.norm_copy(branched.branches - 1)
        clean = routed.norm.norm_copy(0).state_dict()
        for name, value in norm.state_dict().items():
            if value.is_floating_point():
                value.lerp_(clean[name], weight)  # in place: it is the norm's own tensor
        return norm

    replace_modules(network, RoutedNorm, interpolate)
    return network
