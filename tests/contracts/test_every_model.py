"""What every model guarantees. A new model is one line in ``MODELS``."""

import copy
from functools import partial

import pytest
import torch

from equipoise.attacks import PGD
from equipoise.attacks.goals import cross_entropy
from equipoise.attacks.threat import Linf
from equipoise.models import (
    AtLayer,
    FeatureStack,
    FusedBatchNorm2d,
    PreActResNet,
    ResNet,
    WideResNet,
    fuse_branches,
    load,
    save,
    with_branches,
    with_conditioning,
)
from equipoise.models.attack_mode.context import attack_mode


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


def predictor(model):
    """The model as a function of images; a branched one uses its last branch."""
    branches = getattr(model, "branches", None)
    return model if branches is None else partial(model, branch=branches - 1)


def test_gives_finite_logits_of_every_class(model, images):
    logits = predictor(model)(images)
    assert logits.shape == (6, 3)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


def test_in_eval_mode_an_image_does_not_depend_on_its_batch(model, images):
    predict = predictor(model)
    torch.testing.assert_close(predict(images)[4:5], predict(images[4:5]), rtol=1e-4, atol=1e-5)


def test_in_eval_mode_a_call_does_not_change_the_model(model, images):
    before = copy.deepcopy(model.state_dict())
    first = predictor(model)(images)
    assert torch.equal(predictor(model)(images), first)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_the_gradient_reaches_every_image(model, images):
    images.requires_grad_(True)
    (gradient,) = torch.autograd.grad(predictor(model)(images).square().sum(), images)
    assert gradient.isfinite().all()
    assert (gradient.flatten(1).abs().amax(dim=1) > 0).all()


def test_trainable_parameters_get_a_gradient(model, images, labels):
    cross_entropy(predictor(model.train()), labels)(images).sum().backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert trained
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in trained)
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_an_attack_does_not_change_the_model(mode, model, images, labels, generator):
    model.train()
    before = copy.deepcopy(model)
    with attack_mode(model, mode):
        attack = PGD(steps=2, relative_step=0.5)
        attacked = attack(cross_entropy(predictor(model), labels), images, Linf(0.05), generator)
    assert (attacked != images).flatten(1).any(dim=1).all()
    torch.testing.assert_close(model.state_dict(), before.state_dict(), rtol=0, atol=0)
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert [p.requires_grad for p in model.parameters()] == [
        p.requires_grad for p in before.parameters()
    ]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_saving_and_loading_give_identical_logits(model, images, tmp_path):
    save(model, tmp_path)
    loaded = load(tmp_path)
    assert loaded.config == model.config
    assert torch.equal(predictor(loaded)(images), predictor(model)(images))


def test_a_loaded_model_trains_the_same_parameters(model, tmp_path):
    save(model, tmp_path)
    assert {name for name, p in load(tmp_path).named_parameters() if p.requires_grad} == {
        name for name, p in model.named_parameters() if p.requires_grad
    }


def test_a_copy_gives_the_same_logits_and_shares_no_tensors(model, images):
    twin = copy.deepcopy(model)
    expected = predictor(model)(images)
    assert torch.equal(predictor(twin)(images), expected)
    with torch.no_grad():
        for tensor in twin.state_dict().values():
            tensor.zero_()
    assert torch.equal(predictor(model)(images), expected)


def test_unsuitable_images_are_refused(model, images):
    with pytest.raises(ValueError, match="images must have 3 channels and at least 8x8 pixels"):
        predictor(model)(images[:, :, :5, :5])
