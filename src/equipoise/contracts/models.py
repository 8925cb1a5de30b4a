"""The contract of a model: images in [0, 1] to logits, in eval mode without memory."""

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from equipoise.attacks import PGD
from equipoise.attacks.goals import cross_entropy
from equipoise.attacks.threat import Linf
from equipoise.contracts.base import (
    Check,
    equal,
    require,
    require_unchanged,
    seeded,
    state_of,
)
from equipoise.models import load, save
from equipoise.models.attack_mode.context import attack_mode
from equipoise.models.model_config import config_of
from equipoise.runtime.trust import Trusted
from equipoise.types import Images, Labels, Predict


@dataclass(frozen=True)
class ModelCase:
    """A model, and images that fit it.

    Args:
        model: The model, in eval mode. The checks leave it as it was, except for one that trains.
        images: At least five images in [0, 1].
        labels: Their classes.
        classes: Number of classes.
        trust: Code that may run to build it again.
    """

    model: nn.Module
    images: Images
    labels: Labels
    classes: int
    trust: Sequence[Trusted] = ()

    def predictor(self, model: nn.Module | None = None) -> Predict:
        """The model, or another one, as a function of images; the last branch of a branched one."""
        model = model or self.model
        branches = getattr(model, "branches", None)
        return model if branches is None else partial(model, branch=branches - 1)


def gives_finite_logits_of_every_class(case: ModelCase) -> None:
    """As float32."""
    logits, expected = case.predictor()(case.images), (len(case.images), case.classes)
    require(isinstance(logits, Tensor), f"it returns {type(logits).__name__}; see LogitsOf")
    shape = tuple(logits.shape)
    require(shape == expected, f"the logits have shape {shape}, not {expected}")
    require(logits.dtype == torch.float32, f"the logits are {logits.dtype}")
    require(logits.isfinite().all(), "the logits are not finite")


def in_eval_mode_an_image_does_not_depend_on_its_batch(case: ModelCase) -> None:
    """Up to rounding."""
    predict = case.predictor()
    whole, alone = predict(case.images)[4:5], predict(case.images[4:5])
    require(
        torch.allclose(whole, alone, rtol=1e-4, atol=1e-5),
        f"alone, an image's logits differ by {float((whole - alone).detach().abs().max()):.3g}",
    )


def in_eval_mode_a_call_does_not_change_the_model(case: ModelCase) -> None:
    """Two calls give the same logits, and move no buffer."""
    before, predict = state_of(case.model), case.predictor()
    require(equal(predict(case.images), predict(case.images)), "a second call gives other logits")
    require_unchanged(case.model, before)


def the_gradient_reaches_every_image(case: ModelCase) -> None:
    """Attacks need it."""
    images = case.images.clone().requires_grad_(True)
    loss = case.predictor()(images).square().sum()
    require(loss.requires_grad, "the logits have no gradient for the images")
    (gradient,) = torch.autograd.grad(loss, images)
    require(gradient.isfinite().all(), "the gradient of an image is not finite")
    require((gradient.flatten(1).abs().amax(dim=1) > 0).all(), "the gradient of an image is 0")


def trainable_parameters_get_a_gradient(case: ModelCase) -> None:
    """In train mode, and the frozen ones none."""
    model = copy.deepcopy(case.model).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    require(bool(trained), "it has no parameter that requires a gradient")
    cross_entropy(case.predictor(model), case.labels)(case.images).sum().backward()
    moved = any(p.grad is not None and bool(p.grad.abs().max() > 0) for p in trained)
    require(moved, "no parameter gets a gradient")
    frozen = [p for p in model.parameters() if not p.requires_grad]
    require(all(p.grad is None for p in frozen), "a frozen parameter gets a gradient")


def an_attack_does_not_change_the_model(case: ModelCase) -> None:
    """In attack mode, with and without batch statistics; it moves every image."""
    for mode in ("eval", "train"):
        model = copy.deepcopy(case.model).train()
        before = state_of(model)
        with attack_mode(model, mode):
            goal = cross_entropy(case.predictor(model), case.labels)
            attack = PGD(steps=2, relative_step=0.5)
            attacked = attack(goal, case.images, Linf(0.05), seeded())
        moved = (attacked != case.images).flatten(1).any(dim=1)
        require(moved.all(), f"in {mode} mode the attack moves {int(moved.sum())} images only")
        require_unchanged(model, before)


def saving_and_loading_give_identical_logits(case: ModelCase) -> None:
    """Bit for bit; the loaded model trains the same parameters."""
    with tempfile.TemporaryDirectory() as folder:
        save(case.model, folder)
        loaded = load(folder, trust=case.trust)
    require(config_of(loaded) == config_of(case.model), "the loaded model has another config")
    logits = case.predictor(loaded)(case.images)
    require(equal(logits, case.predictor()(case.images)), "the loaded model has other logits")
    trained = [
        {name for name, p in model.named_parameters() if p.requires_grad}
        for model in (loaded, case.model)
    ]
    require(trained[0] == trained[1], "the loaded model trains other parameters")


def a_copy_gives_the_same_logits_and_shares_no_tensors(case: ModelCase) -> None:
    """Evaluations compare a model with copies of it."""
    twin, expected = copy.deepcopy(case.model), case.predictor()(case.images)
    require(equal(case.predictor(twin)(case.images), expected), "the copy has other logits")
    with torch.no_grad():
        for tensor in twin.state_dict().values():
            tensor.zero_()
    require(equal(case.predictor()(case.images), expected), "the copy shares tensors")


MODEL_CHECKS: tuple[Check[ModelCase], ...] = (
    gives_finite_logits_of_every_class,
    in_eval_mode_an_image_does_not_depend_on_its_batch,
    in_eval_mode_a_call_does_not_change_the_model,
    the_gradient_reaches_every_image,
    trainable_parameters_get_a_gradient,
    an_attack_does_not_change_the_model,
    saving_and_loading_give_identical_logits,
    a_copy_gives_the_same_logits_and_shares_no_tensors,
)
