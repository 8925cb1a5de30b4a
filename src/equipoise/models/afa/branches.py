"""Many batch norms side by side, and any network turned into a many-branch one."""

import copy
import threading
from typing import Any, Literal, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipoise.distributed.sync_batch_norm import reduces
from equipoise.models.batch_norms import BatchNorm, check_norms, replace_modules
from equipoise.models.model_config import config_of
from equipoise.types import Images, Logits

Branch = int | tuple[int, ...]
Separate = Literal["both", "statistics", "affine"]


class MultiBatchNorm2d(nn.Module):
    """K parallel batch norms over the same channels; each row goes through exactly one.

    Args:
        like: The norm to repeat: its size, settings, parameters and statistics start each branch.
        branches: K, the number of parallel norms. Branch 0 is for clean images.
        separate: What a branch has for itself: ``"both"`` statistics and affine parameters, so
            that branches share nothing; ``"statistics"`` alone, with one affine map for all;
            ``"affine"`` alone, with the statistics of all rows of a call. With ``branches=1`` each
            is ``nn.BatchNorm2d``.

    Shape:
        Input and output ``(batch, channel, height, width)``.

    Raises:
        ValueError: If ``branches`` is not positive, or an affine map is to be shared or repeated
            that ``like`` does not have; from ``forward``, if the features are no maps or the batch
            does not split into equal groups.
        IndexError: From ``forward``, if a branch is not in ``[0, branches)``.

    Source:
        AFA Sec. 4.1, Fig. 4(a). The paper counts BN_0..BN_{K-1} in the text and paths 1..K in
        Algorithm 1; we count from 0. Its formula prints neither gamma nor beta; both are kept,
        one pair a branch.
    """

    def __init__(self, like: BatchNorm, branches: int, separate: Separate = "both") -> None:
        super().__init__()
        if branches < 1:
            raise ValueError(f"branches must be 1 or more, got {branches}.")
        if separate not in get_args(Separate):
            raise ValueError(f"separate must be one of {get_args(Separate)}, got {separate!r}.")
        if separate != "both" and not like.affine:
            raise ValueError(
                f"separate={separate!r} needs norms with an affine map; take separate='both'."
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
        """Normalise through one branch, or equal groups of rows each through its own."""
        if features.ndim != 4:  # nn.SyncBatchNorm takes other shapes
            raise ValueError(
                "a branched batch norm takes maps of shape (batch, channel, height, width), got "
                f"shape {tuple(features.shape)}."
            )
        if not features.shape[0] and not reduces(self):
            return features  # which would spoil statistics
        route = (branch,) if isinstance(branch, int) else branch
        batch = features.shape[0]  # len() would be a constant in an exported file
        if not route or batch % len(route):
            raise ValueError(
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
        """One branch as a plain norm of its own, a copy.

        Raises:
            IndexError: If there is no such branch.
        """
        self._check(branch)
        if self.separate == "both":
            return copy.deepcopy(self.norms[branch])
        place, row = (branch, 0) if self.separate == "statistics" else (0, branch)
        norm: Any = copy.deepcopy(self.norms[place])
        norm.affine = True
        norm.weight = nn.Parameter(self.weight[row].detach().clone())
        norm.bias = nn.Parameter(self.bias[row].detach().clone())
        return cast(nn.Module, norm)

    def norm_view(self, branch: int) -> nn.Module:
        """One branch as a plain norm, to be read: the module itself if it shares nothing.

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


class Route(threading.local):
    """Where the rows of the current call go; empty between calls, and one for each thread."""

    branch: Branch | None = None

    def __deepcopy__(self, memo: Any) -> "Route":
        return Route()

    def __reduce__(self) -> tuple[type["Route"], tuple[()]]:
        return (Route, ())


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


class BranchedNetwork(nn.Module):
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
        """How to build the same model again, without its weights."""
        return {
            "kind": "branched",
            "branches": self.branches,
            "separate": self.separate,
            "network": config_of(self.network),
        }

    def forward(self, images: Images, *, branch: Branch) -> Logits:
        """Logits through the given branch, or of equal groups each through its own."""
        self.route.branch = branch
        try:
            return self.network(images)
        finally:
            self.route.branch = None


def with_branches(model: nn.Module, branches: int, separate: Separate = "both") -> BranchedNetwork:
    """Turn any network with batch norms into a K-branch one.

    Args:
        model: Any network with ``nn.BatchNorm2d`` or ``nn.SyncBatchNorm`` modules; it is copied,
            not changed.
        branches: K, 1 or more. Every branch starts as a copy of the network's norm.
        separate: What each branch has for itself, see ``MultiBatchNorm2d``.

    Returns:
        The branched network.

    Raises:
        ValueError: If ``branches`` is not positive, the network has no such norm, so that AFA has
            nothing to branch, or it has other batch norms beside, which all branches would share.

    Source:
        AFA Sec. 4.1.
    """
    check_norms(model, "branch: AFA")
    network, route = copy.deepcopy(model), Route()
    replace_modules(
        network,
        BatchNorm,
        lambda norm: RoutedNorm(MultiBatchNorm2d(norm, branches, separate), route),
    )
    return BranchedNetwork(network, branches, route, separate)


def model_soup(branched: BranchedNetwork, weight: float) -> nn.Module:
    """The plain network whose norms lie between the outermost branches: no generator.

    Args:
        branched: A trained K-branch network; it is copied, not changed.
        weight: Share of the clean branch, [0, 1], in affine parameters and running statistics.

    Returns:
        The network, of the kind that was branched.

    Raises:
        ValueError: If the weight is out of range.

    Source:
        Croce et al. 2023, "Seasoning Model Soups for Robustness to Adversarial and Natural
        Distribution Shifts", for networks that differ in their norms alone.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"weight must be a share in [0, 1], got {weight}.")
    network = copy.deepcopy(branched.network)

    def blend(site: RoutedNorm) -> nn.Module:
        clean, robust = site.norm.norm_copy(0), site.norm.norm_copy(branched.branches - 1)
        other = clean.state_dict()
        for name, value in robust.state_dict().items():
            if value.is_floating_point():
                value.lerp_(other[name], weight)  # a view: the norm's own tensor
        return robust

    replace_modules(network, RoutedNorm, blend)
    return network
