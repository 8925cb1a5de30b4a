"""Networks as a user might write them; tests name them ``user_nets:function``."""

from subprocess import run as shell  # noqa: F401  (an import, not code of this module)

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional


def resnet(classes: int, channels: int, width: int = 8) -> nn.Module:
    config = transformers.ResNetConfig(
        num_channels=channels,
        embedding_size=width,
        hidden_sizes=[width, 2 * width],
        depths=[1, 1],
        layer_type="basic",
        num_labels=classes,
    )
    return transformers.ResNetForImageClassification(config)


def regnet(classes: int, channels: int) -> nn.Module:
    config = transformers.RegNetConfig(
        num_channels=channels,
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        groups_width=8,
        num_labels=classes,
    )
    return transformers.RegNetForImageClassification(config)


def mobilenet(classes: int, channels: int) -> nn.Module:
    config = transformers.MobileNetV2Config(
        num_channels=channels,
        image_size=32,
        depth_multiplier=0.25,
        initializer_range=0.2,  # with the default 0.02 no gradient reaches the image
        num_labels=classes,
    )
    return transformers.MobileNetV2ForImageClassification(config)


def convnext(classes: int, channels: int) -> nn.Module:
    config = transformers.ConvNextConfig(
        num_channels=channels,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        num_stages=2,
        patch_size=2,
        num_labels=classes,
    )
    return transformers.ConvNextForImageClassification(config)


def vit(classes: int, channels: int) -> nn.Module:
    config = transformers.ViTConfig(
        image_size=32,
        patch_size=8,
        num_channels=channels,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=classes,
    )
    return transformers.ViTForImageClassification(config)


class Small(nn.Module):
    """One convolution, one norm, one linear layer, with any norm and kind of output."""

    def __init__(
        self, classes: int, channels: int, norm: nn.Module, output: str = "tensor"
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 6, 3, padding=1)
        self.norm = norm
        self.linear = nn.Linear(6, classes)
        self.output = output

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor] | dict[str, Tensor]:
        features = self.norm(self.conv(images - 0.5)).relu().mean(dim=(2, 3))
        logits = self.linear(features)
        if self.output == "tuple":
            return features, logits
        return {"scores": logits} if self.output == "dict" else logits


class FunctionalNorm(nn.Module):
    """Batch norm without an ``nn.BatchNorm2d`` and without running statistics."""

    def forward(self, features: Tensor) -> Tensor:
        return functional.batch_norm(features, None, None, training=True)


class RunningNorm(nn.Module):
    """A hand-written batch norm with running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(6))
        self.register_buffer("running_var", torch.ones(6))

    def forward(self, features: Tensor) -> Tensor:
        mean, variance = self.running_mean, self.running_var
        if self.training:
            mean, variance = features.mean(dim=(0, 2, 3)), features.var(dim=(0, 2, 3))
            self.running_mean.lerp_(mean.detach(), 0.1)
            self.running_var.lerp_(variance.detach(), 0.1)
        return (features - mean[:, None, None]) * variance[:, None, None].rsqrt()


def small(classes: int, channels: int, answer: str = "tensor") -> nn.Module:
    return Small(classes, channels, nn.BatchNorm2d(6), answer)


def synchronised(classes: int, channels: int) -> nn.Module:
    return Small(classes, channels, nn.SyncBatchNorm(6))


def functional_norm(classes: int, channels: int) -> nn.Module:
    return Small(classes, channels, FunctionalNorm())


def running_norm(classes: int, channels: int) -> nn.Module:
    return Small(classes, channels, RunningNorm())


def partly_functional(classes: int, channels: int) -> nn.Module:
    return Small(classes, channels, nn.Sequential(nn.BatchNorm2d(6), FunctionalNorm()))


def norm_free(classes: int, channels: int) -> nn.Module:
    return Small(classes, channels, nn.Identity())


class FlatNorm(nn.Module):
    """A batch norm of maps and one of vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.maps, self.vectors = nn.BatchNorm2d(6), nn.BatchNorm1d(6)

    def forward(self, features: Tensor) -> Tensor:
        features = self.maps(features)
        return features * self.vectors(features.mean(dim=(2, 3)))[:, :, None, None]


def flat_norm(classes: int, channels: int) -> nn.Module:
    return Small(classes, channels, FlatNorm())


def counting(classes: int, channels: int, depth: int = 2, seed: int = 0) -> nn.Module:
    """Reads values of a tensor while it is built, as networks with stochastic depth do."""
    network = small(classes, channels)
    network.rates = [rate.item() for rate in torch.linspace(0.0, 0.1, depth)]
    return network


class Wrapped(nn.Module):
    """Keeps everything in an attribute ``network``, as ``LogitsOf`` does."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.network = small(classes, channels)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


class HeadFirst(nn.Module):
    """Ends in the linear layer that was registered first."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.head = nn.Linear(5, classes)
        self.body = nn.Linear(64 * channels, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images.flatten(1)).relu())


def head_first(classes: int = 10, channels: int = 1, named: bool = False) -> nn.Module:
    network = HeadFirst(classes, channels)
    if named:
        network.last_linear = "head"
    return network


def tied(classes: int, channels: int) -> nn.Module:
    """Two names for one tensor, which safetensors stores only as copies."""
    network = small(classes, channels)
    network.twin = network.linear
    return network


def ten() -> nn.Module:
    """A classifier of digits without arguments."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 7), nn.Tanh(), nn.Linear(7, 10))


def five() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5))


def nothing() -> int:
    return 3
