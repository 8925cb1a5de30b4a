"""Which backbone is trained: small frozen descriptions that a recipe stores."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from equipoise.data import DataSet
from equipoise.methods import MakeNetwork
from equipoise.models import WideResNet


@dataclass(frozen=True, kw_only=True)
class WideResNetShape:
    """Which wide ResNet is trained; channels and classes come from the data.

    Args:
        depth: 6 n + 4.
        width: Width factor.
        activation: ``"relu"`` or ``"silu"``.
    """

    depth: int
    width: int
    activation: Literal["relu", "silu"] = "relu"

    def maker(self, dataset: DataSet) -> MakeNetwork:
        """A function that makes a fresh network for a data set."""

        def make() -> nn.Module:
            return WideResNet(
                depth=self.depth,
                width=self.width,
                activation=self.activation,
                classes=dataset.classes,
                channels=dataset.channels,
            )

        return make


AnyNetwork = WideResNetShape
