"""AFS's network: several frozen feature extractors and one linear merger on all their features."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipoise.models.copied import copied
from equipoise.models.last_linear import (
    as_linear,
    find_last_linear,
    linear_layer_names,
    network_name,
    read_last_linear,
)
from equipoise.models.model_config import config_of
from equipoise.runtime.errors import InvalidInput
from equipoise.types import Images, Logits


class FeatureExtractor(nn.Module):
    """A frozen classifier that returns its penultimate features: the last linear layer's input.

    The features are read with a hook, so the network needs no special interface. It is always in
    eval mode.

    Args:
        network: Any classifier that ends in a linear layer, or in a 1x1 convolution with a global
            average before or after it; it is frozen in place.

    Shape:
        Images ``(batch, channel, height, width)`` to features ``(batch, size)``.

    Raises:
        ValueError: If there is no linear layer; from ``forward``, if the last one does not make
            the logits or did not run exactly once on a batch of vectors.

    Source:
        AFS Sec. II-A; Sec. III, "the hidden activations after the last average pooling layer".

    Example:
        >>> import torch
        >>> from equipoise.models import WideResNet
        >>> extractor = FeatureExtractor(WideResNet(depth=10, width=1, classes=10))
        >>> extractor(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 64])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.size = self.head().in_features
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        self.eval()

    @property
    def config(self) -> dict[str, Any]:
        """The settings from which a model folder builds the network again."""
        return config_of(self.network)

    def head(self) -> nn.Linear:
        """Return the network's own last linear layer."""
        return as_linear(find_last_linear(self.network))

    def logits(self, images: Images) -> Logits:
        """Return the network's own logits."""
        return self.head()(self(images))

    def train(self, mode: bool = True) -> "FeatureExtractor":
        """Stay in eval mode, because an extractor is frozen."""
        return super().train(False)

    def forward(self, images: Images) -> Float[Tensor, "batch size"]:
        """Return the penultimate features."""
        features, output, logits = read_last_linear(self.network, images)
        # Pooling commutes with a 1x1 convolution, so equal values are asked for there.
        exact = not isinstance(find_last_linear(self.network), nn.Conv2d)
        if output is not logits and (exact or not _equal(output, logits)):
            raise InvalidInput(
                f"{network_name(self.network)} does not end in its last linear layer, so its "
                "penultimate features are unknown. Name the layer that makes its logits, one of "
                f"{linear_layer_names(self.network)}, with --network.last-linear or in an "
                "attribute `last_linear` of the network; or wrap it so that it ends in nn.Linear."
            )
        return features


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors agree up to rounding; while a network is exported, they are taken to."""
    if torch.compiler.is_compiling():
        return True
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-2, atol=1e-3)


class FeatureStack(nn.Module):
    """N frozen feature extractors and a linear merger on their concatenated features.

    Args:
        networks: Trained classifiers; they are copied, and each keeps its own normalisation and
            feature size.
        classes: Number of classes.

    Shape:
        Images ``(batch, channel, height, width)`` in [0, 1] to logits ``(batch, classes)``.

    Raises:
        ValueError: If there is no network.

    Source:
        AFS Sec. II-A, Eq. (1)-(2).

    Example:
        >>> import torch
        >>> from equipoise.models import WideResNet
        >>> networks = [WideResNet(depth=10, width=1, classes=10) for _ in range(2)]
        >>> stack = FeatureStack(networks, classes=10)
        >>> images = torch.rand(4, 3, 32, 32)
        >>> stack.features(images).shape, stack(images).shape
        (torch.Size([4, 128]), torch.Size([4, 10]))
    """

    def __init__(self, networks: Sequence[nn.Module], classes: int) -> None:
        super().__init__()
        if not networks:
            raise InvalidInput("a stack needs at least one network, got none.")
        self.members = nn.ModuleList(FeatureExtractor(copied(network)) for network in networks)
        self.merger = nn.Linear(sum(self.sizes()), classes)
        self.last_linear = "merger"  # takes precedence over a name that a member has

    @property
    def config(self) -> dict[str, Any]:
        """The settings from which a model folder builds the stack again."""
        return {
            "kind": "stack",
            "classes": self.merger.out_features,
            "members": [config_of(member) for member in self.members],
        }

    def average(self) -> None:
        """Set the merger so that the logits are the mean of the members' own logits.

        Raises:
            ValueError: If a member has another number of classes.

        Source:
            The usual ensemble, the baseline for AFS's merger (Sec. II-C).
        """
        heads = [member.head() for member in self.members if isinstance(member, FeatureExtractor)]
        for number, head in enumerate(heads):
            if head.out_features != self.merger.out_features:
                raise InvalidInput(
                    f"member {number} has {head.out_features} classes, not "
                    f"{self.merger.out_features}: the mean of their logits is undefined."
                )
        with torch.no_grad():
            weights: list[Tensor] = [head.weight for head in heads]
            self.merger.weight.copy_(torch.cat(weights, dim=1) / len(heads))
            self.merger.bias.zero_()
            for head in heads:
                if head.bias is not None:
                    self.merger.bias.add_(head.bias, alpha=1 / len(heads))

    def sizes(self) -> list[int]:
        """Return the feature size of each member."""
        return [member.size for member in self.members if isinstance(member, FeatureExtractor)]

    def features(self, images: Images) -> Float[Tensor, "batch size"]:
        """Compute G(x; Theta), the concatenated features of all members (Eq. 2)."""
        return torch.cat([member(images) for member in self.members], dim=1)

    def forward(self, images: Images) -> Logits:
        """Compute the logits, z = w^T G(x; Theta) + b (Eq. 1)."""
        return self.merger(self.features(images))

    def logits_by_member(self, images: Images) -> Float[Tensor, "members batch classes"]:
        """Return each member's share of the logits; with the bias they sum to the logits."""
        weights = self.merger.weight.split(self.sizes(), dim=1)
        features = [member(images) for member in self.members]
        pairs = zip(features, weights, strict=True)
        return torch.stack([feature @ weight.T for feature, weight in pairs])

    def importance(self) -> Float[Tensor, " members"]:
        """Return each member's share of the sum of absolute merger weights; the shares sum to 1.

        Source:
            AFS Sec. III-B, Fig. 4(b).
        """
        with torch.no_grad():
            parts = self.merger.weight.abs().split(self.sizes(), dim=1)
            sums = torch.stack([part.sum() for part in parts])
            return sums / sums.sum()
