"""What every objective guarantees. To test a new one, add a line to ``OBJECTIVES``."""

import json
from functools import partial

import pytest
import torch
from by_hand import batch as batch_of
from torch import nn

from equipoise.objectives import (
    AVM,
    FAT,
    GAT,
    IAT,
    LBGAT,
    MART,
    PGDAT,
    TLA,
    TRADES,
    AnyObjective,
    Objective,
    Standard,
    TwoNetworkObjective,
)
from equipoise.recipes import from_json, to_json

OBJECTIVES = [
    Standard(),
    Standard(label_smoothing=0.1),
    PGDAT(),
    PGDAT(label_smoothing=0.1),
    TRADES(),
    TRADES(beta=1.0),
    MART(),
    IAT(),
    FAT(),
    FAT(over=TRADES(beta=2.0), tau=1),
    FAT(over=MART(), tau=3),
    GAT(),
    GAT(weight=1.0),
    TLA(),
    LBGAT(),
    LBGAT(beta=6.0),
    AVM(),
]

every_objective = pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
batches_and_classes = pytest.mark.parametrize(
    ("batch", "classes"), [(4, 10), (1, 10), (5, 2), (3, 7)]
)


class Scaled(nn.Module):
    """A network whose logits are multiplied by a number."""

    def __init__(self, network: nn.Module, size: float = 1.0) -> None:
        super().__init__()
        self.network, self.size = network, size

    def forward(self, images: torch.Tensor, branch: int = 0) -> torch.Tensor:
        return self.size * self.network(images)


def make_network(classes: int = 10, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, classes))


def complete(objective, teacher: nn.Module):
    """The objective, with a teacher as its companion if it needs one."""
    if isinstance(objective, TwoNetworkObjective):
        return objective.with_companion(teacher)
    return objective


@pytest.fixture
def setup(generator):
    def make(objective, batch=4, classes=10):
        network = make_network(classes)
        clean = torch.rand(batch, 3, 8, 8, generator=generator)
        noise = 0.05 * torch.randn(clean.shape, generator=generator)
        labels = torch.randint(classes, (batch,), generator=generator)
        ready = complete(objective, make_network(classes, seed=1))
        return ready, network, clean, (clean + noise).clamp(0, 1), labels

    return make


def losses_of(objective, predict_clean, predict_adversarial, clean, adversarial, labels):
    return objective.losses(
        batch_of(clean, adversarial, labels, predict_clean, predict_adversarial, seed=7)
    )


@every_objective
def test_it_is_an_objective_by_itself_or_with_its_companion(objective):
    assert isinstance(complete(objective, make_network()), Objective)
    assert isinstance(objective, Objective) != isinstance(objective, TwoNetworkObjective)


@every_objective
@batches_and_classes
def test_losses_are_one_finite_number_for_each_image(objective, batch, classes, setup):
    objective, network, *data = setup(objective, batch, classes)
    terms = losses_of(objective, network, network, *data)
    assert "loss" in terms
    for value in terms.values():
        assert value.shape == (batch,)
        assert value.isfinite().all()


@every_objective
@batches_and_classes
def test_gradient_reaches_every_parameter(objective, batch, classes, setup):
    objective, network, *data = setup(objective, batch, classes)
    terms = losses_of(objective, network, network, *data)
    terms["loss"].mean().backward()
    for parameter in network.parameters():
        assert parameter.grad.abs().max() > 0


@every_objective
def test_a_step_downhill_lowers_the_loss(objective, setup):
    objective, network, *data = setup(objective)

    def loss():
        return losses_of(objective, network, network, *data)["loss"].mean()

    before = loss()
    before.backward()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter -= 0.01 * parameter.grad
    assert loss() < before


@every_objective
@pytest.mark.parametrize("size", [1e4, 1e30])
def test_saturated_logits_give_finite_losses_and_gradients(objective, size, setup):
    squared = isinstance(objective, LBGAT)  # the distance of logits is their square
    size = min(size, 1e15) if squared else size
    objective, network, clean, adversarial, labels = setup(objective)
    clean, adversarial = clean.requires_grad_(True), adversarial.requires_grad_(True)
    predict = Scaled(network, size)
    loss = losses_of(objective, predict, predict, clean, adversarial, labels)["loss"]
    (loss / size).sum().backward()
    assert loss.isfinite().all()
    for tensor in (*network.parameters(), clean, adversarial):
        assert tensor.grad is None or tensor.grad.isfinite().all()


@every_objective
@batches_and_classes
def test_its_goal_is_one_number_for_each_image_and_depends_on_that_image_only(
    objective, batch, classes, setup
):
    objective, network, clean, adversarial, labels = setup(objective, batch, classes)
    adversarial.requires_grad_(True)
    value = objective.goal(network, clean, labels)(adversarial)
    (gradient,) = torch.autograd.grad(value[-1], adversarial)
    assert value.shape == (batch,)
    assert value.isfinite().all()
    assert gradient[-1].abs().max() > 0
    assert (gradient[:-1] == 0).all()


@every_objective
def test_its_goal_predicts_nothing_before_the_search_runs(objective, setup):
    objective, network, clean, _, labels = setup(objective)
    network.register_forward_hook(lambda *_: pytest.fail("called before the attack's mode is set"))
    objective.goal(network, clean, labels)


@every_objective
def test_same_generator_gives_the_same_losses(objective, setup):
    objective, network, *data = setup(objective)
    first, second = (losses_of(objective, network, network, *data) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@every_objective
def test_the_global_generator_is_not_used(objective, setup):
    objective, network, *data = setup(objective)
    before = torch.random.get_rng_state()
    losses_of(objective, network, network, *data)
    assert torch.equal(before, torch.random.get_rng_state())


@every_objective
def test_adversarial_images_matter_exactly_if_the_objective_attacks(objective, setup):
    objective, network, clean, adversarial, labels = setup(objective)
    attacked = losses_of(objective, network, network, clean, adversarial, labels)["loss"]
    same = losses_of(objective, network, network, clean, clean, labels)["loss"]
    assert torch.equal(attacked, same) == (not objective.attacks)


@every_objective
def test_clean_and_adversarial_images_go_through_their_own_function(objective, setup):
    objective, network, clean, adversarial, labels = setup(objective)
    seen: dict[str, list[torch.Tensor]] = {"clean": [], "adversarial": []}

    def recorder(name: str) -> nn.Module:
        wrapped = Scaled(network)
        wrapped.register_forward_pre_hook(lambda _, inputs: seen[name].append(inputs[0]))
        return wrapped

    through = recorder("clean"), recorder("adversarial")
    losses_of(objective, *through, clean, adversarial, labels)
    assert objective.attacks == bool(seen["adversarial"])
    # What goes through the clean function does not change with the adversarial images.
    before = list(seen["clean"])
    seen["clean"].clear()
    losses_of(objective, *through, clean, torch.zeros_like(clean), labels)
    for images, again in zip(before, seen["clean"], strict=True):
        assert torch.equal(images, again)
    # Every batch that goes through the adversarial function does.
    assert not any(torch.equal(images, clean) for images in seen["adversarial"])


@every_objective
def test_a_partial_of_a_network_gives_the_same_losses(objective, setup):
    """AFA passes partials that fix a branch."""
    objective, network, *data = setup(objective)
    wrapped = partial(Scaled(network), branch=0)
    terms = losses_of(objective, wrapped, wrapped, *data)
    torch.testing.assert_close(terms, losses_of(objective, network, network, *data))


@every_objective
def test_a_per_image_loss_does_not_depend_on_other_images(objective, setup):
    objective, network, clean, adversarial, labels = setup(objective, batch=6)
    if not objective.per_image_loss:
        pytest.skip("its loss depends on other images")
    whole = losses_of(objective, network, network, clean, adversarial, labels)["loss"]
    half = losses_of(objective, network, network, clean[:3], adversarial[:3], labels[:3])["loss"]
    torch.testing.assert_close(whole[:3], half)


@every_objective
def test_its_start_noise_is_none_or_small(objective, setup):
    noise = setup(objective)[0].start_noise
    assert noise in (None, "signs") or 0 < noise < 1 / 255


@every_objective
def test_two_with_the_same_settings_are_equal_and_frozen(objective):
    assert objective == type(objective)(**vars(objective))
    with pytest.raises(AttributeError, match="cannot assign"):
        objective.label_smoothing = 0.5


@every_objective
def test_it_goes_through_json_and_back(objective):
    text = json.dumps(to_json(objective), allow_nan=False)
    assert from_json(json.loads(text), AnyObjective) == objective


@every_objective
def test_it_trains_under_bf16_autocast(objective, setup):
    objective, network, *data = setup(objective)
    with torch.autocast("cpu", torch.bfloat16):
        terms = losses_of(objective, network, network, *data)
    assert terms["loss"].dtype == torch.float32
    terms["loss"].mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
