"""What every model guarantees. A new model is one line in ``MODELS``."""

from functools import partial

import pytest
import torch

from equipoise.contracts import MODEL_CHECKS, ModelCase
from equipoise.contracts.base import title
from equipoise.models import (
    AtLayer,
    FeatureStack,
    FusedBatchNorm2d,
    PreActResNet,
    ResNet,
    WideResNet,
    fuse_branches,
    with_branches,
    with_conditioning,
)


def wide_resnet(activation="relu"):
    return WideResNet(depth=10, width=1, classes=3, activation=activation)


def resnet(depth=18, **settings):
    return ResNet(depth=depth, width=4, classes=3, **settings)


def preact_resnet(**settings):
    return PreActResNet(width=4, classes=3, **settings)


def branched(branches=3):
    return with_branches(wide_resnet(), branches)


def adaptive(placement):
    return fuse_branches(branched(), placement=placement, hidden=4)


MODELS = {
    "wide_resnet": wide_resnet,
    "wide_resnet_silu": partial(wide_resnet, "silu"),
    "wide_resnet_one_side": lambda: WideResNet(depth=10, width=1, classes=3, padding="one_side"),
    "resnet": resnet,
    "resnet_bottleneck": partial(resnet, 50, activation="silu"),
    "resnet_imagenet": partial(resnet, stem="imagenet"),
    "preact_resnet": preact_resnet,
    "preact_resnet_raw": partial(preact_resnet, shortcut="raw", final_norm=False),
    "branched": branched,
    "branched_resnet": lambda: with_branches(resnet(), 2),
    "adaptive_resnet": lambda: fuse_branches(
        with_branches(resnet(), 2), placement="stem", hidden=4
    ),
    "adaptive_preact_resnet": lambda: fuse_branches(
        with_branches(preact_resnet(), 2), placement="input"
    ),
    "conditional_preact_resnet": lambda: with_conditioning(preact_resnet(), size=8),
    "branched_once": partial(branched, 1),
    "adaptive_input": partial(adaptive, "input"),
    "adaptive_stem": partial(adaptive, "stem"),
    "adaptive_per_norm": partial(adaptive, "per_norm"),
    "adaptive_layer": partial(adaptive, AtLayer(layer="stages.0")),
    "adaptive_layer_clean": partial(adaptive, AtLayer(layer="stages.1.0", before="clean")),
    "adaptive_preact_resnet_layer": lambda: fuse_branches(
        with_branches(preact_resnet(), 2), placement=AtLayer(layer="stages.1"), hidden=4
    ),
    "conditional": lambda: with_conditioning(wide_resnet(), size=8),
    "stack": lambda: FeatureStack([wide_resnet(), wide_resnet("silu")], classes=3),
    "stack_of_resnets": lambda: FeatureStack([resnet(50), preact_resnet()], classes=3),
    "stack_of_adaptive": lambda: FeatureStack([adaptive("stem"), wide_resnet()], classes=3),
}


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def model(request, generator):
    """A model whose norms differ in statistics and affine parameters, as after training."""
    torch.manual_seed(0)
    model = request.param()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
        elif isinstance(module, FusedBatchNorm2d):
            module.scale.uniform_(0.5, 1.5, generator=generator)
            module.shift.normal_(0, 0.2, generator=generator)
    return model.eval()


@pytest.mark.parametrize("check", MODEL_CHECKS, ids=title)
def test_every_check_of_a_model_holds(check, model, images, labels):
    check(ModelCase(model, images, labels, classes=3))


def test_unsuitable_images_are_refused(model, images, labels):
    with pytest.raises(ValueError, match="images must have 3 channels and at least 8x8 pixels"):
        ModelCase(model, images, labels, classes=3).predictor()(images[:, :, :5, :5])
