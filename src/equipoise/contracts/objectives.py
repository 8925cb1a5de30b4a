"""The contract of an objective, checked on a small network without batch norms."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from equipoise.contracts.base import (
    BrokenContract,
    Check,
    equal,
    require,
    require_global_seed_unused,
    seeded,
)
from equipoise.objectives import Objective, TwoNetworkObjective
from equipoise.objectives.base import Batch
from equipoise.types import Images, Labels, PerImage, Predict

SIZES = ((4, 10), (1, 10), (5, 2), (3, 7))
"""Images of a batch, and classes."""
SATURATED = (1e4, 1e15)
"""Factors of the logits; the square of the larger one is still finite in float32."""

AnyKind = Objective | TwoNetworkObjective


class Scaled(nn.Module):
    """A network whose logits are multiplied by a number.

    Args:
        network: The network.
        size: The number.
    """

    def __init__(self, network: nn.Module, size: float = 1.0) -> None:
        super().__init__()
        self.network, self.size = network, size

    def forward(self, images: Tensor, branch: int = 0) -> Tensor:
        """Return the multiplied logits; the branch is ignored."""
        logits: Tensor = self.size * self.network(images)
        return logits


@dataclass(frozen=True)
class Setting:
    """An objective with everything that it needs.

    Args:
        objective: The objective; one with a companion network has it.
        network: The network that it trains.
        clean: Clean images.
        adversarial: The same with a little noise.
        labels: Their classes.
    """

    objective: Objective
    network: nn.Module
    clean: Images
    adversarial: Images
    labels: Labels

    @classmethod
    def of(cls, objective: AnyKind, batch: int = 4, classes: int = 10) -> "Setting":
        """Draw a setting."""
        generator = seeded()
        clean = torch.rand(batch, 3, 8, 8, generator=generator)
        noise = 0.05 * torch.randn(clean.shape, generator=generator)
        labels = torch.randint(classes, (batch,), generator=generator)
        if isinstance(objective, TwoNetworkObjective):
            objective = objective.with_companion(_network(classes, seed=1))
        adversarial = (clean + noise).clamp(0, 1)
        return cls(objective, _network(classes, seed=0), clean, adversarial, labels)

    def terms(
        self,
        clean: Images | None = None,
        adversarial: Images | None = None,
        through: tuple[Predict, Predict] | None = None,
    ) -> dict[str, PerImage]:
        """Compute the losses, by default of the setting's images through its network."""
        clean = self.clean if clean is None else clean
        predict = through or (self.network, self.network)
        terms = self.objective.losses(
            Batch(
                clean=clean,
                adversarial=self.adversarial if adversarial is None else adversarial,
                labels=self.labels[: len(clean)],
                predict_clean=predict[0],
                predict_adversarial=predict[1],
                generator=seeded(7),
            )
        )
        require("loss" in terms, f"losses must have the key 'loss', got {', '.join(terms)}")
        return terms

    def backward(self) -> None:
        """Send the gradient of the mean loss back."""
        loss = self.terms()["loss"].mean()
        require(loss.requires_grad, "the loss has no gradient: it is detached from the network")
        loss.backward()


def _network(classes: int, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, classes))


def _close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1.3e-6, atol=1e-5)


def it_has_the_parts_of_an_objective(objective: AnyKind) -> None:
    """By itself, or once it has a companion network; never both."""
    require(isinstance(Setting.of(objective).objective, Objective), "it lacks parts of Objective")
    both = isinstance(objective, Objective) and isinstance(objective, TwoNetworkObjective)
    require(not both, "it is an objective by itself and asks for a companion, too")


def losses_are_one_finite_number_for_each_image(objective: AnyKind) -> None:
    """For every batch size and number of classes."""
    for batch, classes in SIZES:
        for name, value in Setting.of(objective, batch, classes).terms().items():
            where = f"{name} of {batch} images and {classes} classes"
            shape = tuple(value.shape)
            require(shape == (batch,), f"{where} has shape {shape}, not ({batch},)")
            require(value.isfinite().all(), f"{where} is {value.detach().tolist()}")


def the_gradient_reaches_every_parameter(objective: AnyKind) -> None:
    """For every batch size and number of classes."""
    for batch, classes in SIZES:
        setting = Setting.of(objective, batch, classes)
        setting.backward()
        for name, parameter in setting.network.named_parameters():
            size = 0.0 if parameter.grad is None else float(parameter.grad.abs().max())
            require(size > 0, f"the largest gradient of {name} is {size}")


def a_step_downhill_lowers_the_loss(objective: AnyKind) -> None:
    """One step of gradient descent with rate 0.01."""
    setting = Setting.of(objective)
    before = float(setting.terms()["loss"].detach().mean())
    setting.backward()
    with torch.no_grad():
        for parameter in setting.network.parameters():
            if parameter.grad is not None:
                parameter.sub_(0.01 * parameter.grad)
        after = float(setting.terms()["loss"].mean())
    require(after < before, f"the loss went from {before:.6g} to {after:.6g}")


def saturated_logits_give_finite_losses_and_gradients(
    objective: AnyKind, sizes: tuple[float, ...] = SATURATED
) -> None:
    """However large the logits are."""
    for size in sizes:
        setting = Setting.of(objective)
        leaves = setting.clean.requires_grad_(True), setting.adversarial.requires_grad_(True)
        predict = Scaled(setting.network, size)
        loss = setting.terms(through=(predict, predict))["loss"]
        require(loss.isfinite().all(), f"with logits times {size:g} the loss is not finite")
        (loss / size).sum().backward()
        for tensor in (*setting.network.parameters(), *leaves):
            finite = tensor.grad is None or bool(tensor.grad.isfinite().all())
            require(finite, f"with logits times {size:g} a gradient is not finite")


def its_goal_is_one_number_for_each_image_from_that_image_only(objective: AnyKind) -> None:
    """For every batch size and number of classes."""
    for batch, classes in SIZES:
        setting = Setting.of(objective, batch, classes)
        images = setting.adversarial.requires_grad_(True)
        value = setting.objective.goal(setting.network, setting.clean, setting.labels)(images)
        shape = tuple(value.shape)
        require(shape == (batch,), f"the goal has shape {shape}, not ({batch},)")
        require(value.isfinite().all(), f"the goal is {value.detach().tolist()}")
        require(value.requires_grad, "the goal has no gradient for the images")
        (gradient,) = torch.autograd.grad(value[-1], images)
        require(gradient[-1].abs().max() > 0, "the goal's gradient is 0")
        require((gradient[:-1] == 0).all(), "the goal of an image depends on other images")


def its_goal_predicts_nothing_before_the_search_runs(objective: AnyKind) -> None:
    """The network is put into the attack's mode only then."""
    setting = Setting.of(objective)

    def refuse(*_: Any) -> None:
        raise BrokenContract("goal() itself called the network")

    setting.network.register_forward_hook(refuse)
    setting.objective.goal(setting.network, setting.clean, setting.labels)


def the_same_generator_gives_the_same_losses(objective: AnyKind) -> None:
    """Bit for bit."""
    setting = Setting.of(objective)
    require(equal(setting.terms(), setting.terms()), "two runs with the same seed differ")


def does_not_use_the_global_generator(objective: AnyKind) -> None:
    """Randomness is an argument."""
    require_global_seed_unused(Setting.of(objective).terms)


def adversarial_images_matter_exactly_if_it_attacks(objective: AnyKind) -> None:
    """``attacks`` says whether the loss depends on adversarial images."""
    setting = Setting.of(objective)
    attacked = setting.terms()["loss"]
    same = setting.terms(adversarial=setting.clean)["loss"]
    attacks = setting.objective.attacks
    without = "does not depend" if equal(attacked, same) else "depends"
    require(
        equal(attacked, same) == (not attacks),
        f"attacks is {attacks}, but the loss {without} on adversarial images",
    )


def clean_and_adversarial_images_go_through_their_own_function(objective: AnyKind) -> None:
    """AFA routes them through different branches."""
    setting = Setting.of(objective)
    seen: dict[str, list[Tensor]] = {"clean": [], "adversarial": []}

    def recorder(name: str) -> nn.Module:
        wrapped = Scaled(setting.network)
        wrapped.register_forward_pre_hook(lambda _, inputs: seen[name].append(inputs[0]))
        return wrapped

    through = recorder("clean"), recorder("adversarial")
    setting.terms(through=through)
    attacks = setting.objective.attacks
    require(
        attacks == bool(seen["adversarial"]),
        f"attacks is {attacks}; predict_adversarial got {len(seen['adversarial'])} batches",
    )
    before = list(seen["clean"])
    seen["clean"].clear()
    setting.terms(adversarial=torch.zeros_like(setting.clean), through=through)
    require(
        equal(before, seen["clean"]), "images that depend on adversarial ones go to predict_clean"
    )
    through_wrong = any(torch.equal(images, setting.clean) for images in seen["adversarial"])
    require(not through_wrong, "clean images go to predict_adversarial")


def a_partial_of_a_network_gives_the_same_losses(objective: AnyKind) -> None:
    """AFA passes partials that fix a branch."""
    setting = Setting.of(objective)
    wrapped: Callable[..., Tensor] = partial(Scaled(setting.network), branch=0)
    terms, plain = setting.terms(through=(wrapped, wrapped)), setting.terms()
    same = all(_close(terms[name], plain[name]) for name in plain)
    require(same, "the losses differ")


def a_per_image_loss_does_not_depend_on_other_images(objective: AnyKind) -> None:
    """If ``per_image_loss`` says so."""
    setting = Setting.of(objective, batch=6)
    if not setting.objective.per_image_loss:
        return
    whole = setting.terms()["loss"]
    half = setting.terms(setting.clean[:3], setting.adversarial[:3])["loss"]
    require(_close(whole[:3], half), "per_image_loss is True, but other images change the loss")


def its_start_noise_is_none_or_small(objective: AnyKind) -> None:
    """Less than a grey level, or ``"signs"``."""
    noise = Setting.of(objective).objective.start_noise
    small = isinstance(noise, float) and 0 < noise < 1 / 255
    require(noise in (None, "signs") or small, f"start_noise is {noise}")


def it_trains_under_bf16_autocast(objective: AnyKind) -> None:
    """Losses are float32, and gradients finite."""
    setting = Setting.of(objective)
    with torch.autocast("cpu", torch.bfloat16):
        loss = setting.terms()["loss"]
    require(loss.dtype == torch.float32, f"the loss is {loss.dtype}; compute it in float32")
    require(loss.requires_grad, "the loss has no gradient: it is detached from the network")
    loss.mean().backward()
    for name, parameter in setting.network.named_parameters():
        finite = parameter.grad is not None and bool(parameter.grad.isfinite().all())
        require(finite, f"the gradient of {name} is missing or not finite")


OBJECTIVE_CHECKS: tuple[Check[AnyKind], ...] = (
    it_has_the_parts_of_an_objective,
    losses_are_one_finite_number_for_each_image,
    the_gradient_reaches_every_parameter,
    a_step_downhill_lowers_the_loss,
    saturated_logits_give_finite_losses_and_gradients,
    its_goal_is_one_number_for_each_image_from_that_image_only,
    its_goal_predicts_nothing_before_the_search_runs,
    the_same_generator_gives_the_same_losses,
    does_not_use_the_global_generator,
    adversarial_images_matter_exactly_if_it_attacks,
    clean_and_adversarial_images_go_through_their_own_function,
    a_partial_of_a_network_gives_the_same_losses,
    a_per_image_loss_does_not_depend_on_other_images,
    its_start_noise_is_none_or_small,
    it_trains_under_bf16_autocast,
)
