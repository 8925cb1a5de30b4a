"""Small models of every kind that can be saved, with norms far from the identity."""

import tiny
import torch
from torch import nn

from equipoise.models import (
    AtLayer,
    FeatureStack,
    ResNet,
    WideResNet,
    fuse_branches,
    with_branches,
    with_conditioning,
)

DATA = {"name": "tiny", "data": "digits", "dataset": {"kind": "Digits"}, "image_shape": [1, 8, 8]}
CARD = DATA | {"classes": [f"digit {i}" for i in range(10)], "seed": 0}


def disturbed(model: nn.Module) -> nn.Module:
    """Set statistics and affine parameters to values as after training."""
    return tiny.drawn_norms(model, torch.Generator().manual_seed(0), statistics=True).eval()


def adaptive(placement: str | AtLayer = "input", **settings) -> nn.Module:
    """AFA; with one generator and weight, W0 is spread over [0, 1]."""
    branched = disturbed(with_branches(tiny.wide_resnet(), 2))
    torch.manual_seed(1)
    model = fuse_branches(branched, placement=placement, hidden=4, **settings)
    images = tiny.digits().test.batch(slice(None))[0]
    with torch.no_grad():
        for _ in range(20):
            model.train()(images)  # statistics of the generator's norms
        gate = model.eval().logits_and_gate(images)[1]
        for generator in model.generators():
            last = generator.linears[-1]
            last.weight.div_(gate.std())
            last.bias.sub_(gate.mean()).div_(gate.std())
    return model


def stack() -> nn.Module:
    """AFS of two different members."""
    torch.manual_seed(2)
    other = WideResNet(depth=10, width=2, classes=10, channels=1, activation="silu")
    return FeatureStack([disturbed(tiny.wide_resnet()), disturbed(other)], 10).eval()


def conditional() -> nn.Module:
    """OAT with two preferences."""
    torch.manual_seed(3)
    return disturbed(
        with_conditioning(tiny.wide_resnet(), preferences=(0.0, 1.0), encoding="onehot", size=2)
    )


MODELS = {
    "wide resnet": lambda: disturbed(tiny.wide_resnet()),
    "afa": adaptive,
    "afa, stem": lambda: adaptive("stem"),
    "afa, per norm": lambda: adaptive("per_norm", ceiling=0.5),
    "afa, layer": lambda: adaptive(AtLayer(layer="stages.0")),
    "afa, layer, clean before": lambda: adaptive(AtLayer(layer="stages.1", before="clean")),
    "afa, per channel": lambda: adaptive(each="channel"),
    "afs": stack,
    "oat": conditional,
    "resnet": lambda: disturbed(ResNet(depth=18, classes=10, channels=1, width=8)),
}
