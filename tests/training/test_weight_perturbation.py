from dataclasses import replace

import pytest
import torch
from tiny import (
    ATTACK,
    LOOP,
    SCHEDULE,
    fit_stage,
    images_and_labels,
    one_stage,
    same,
    weights,
    wide_resnet,
)
from torch import nn

from equipoise.methods import AFA
from equipoise.methods.afa import BranchTask
from equipoise.methods.single_network import NetworkTask
from equipoise.models import with_branches
from equipoise.objectives import PGDAT
from equipoise.training import TrainingConfig, perturbed_weights


def task(network=None) -> NetworkTask:
    return NetworkTask(network or wide_resnet(), PGDAT(), 0.1, ATTACK, "Linf").train()


class Step:
    """The loss of one step of a task, with its own generator."""

    def __init__(self, of: nn.Module) -> None:
        self.of = of
        self.images, self.labels = images_and_labels(16)
        self.generator = torch.Generator().manual_seed(0)

    def loss(self) -> torch.Tensor:
        return self.of(self.images, self.labels, self.generator, 0.0)["loss"]

    def perturbed(self, gamma: float):
        return perturbed_weights(self.of, gamma, self.generator, self.loss)


def test_the_loss_is_higher_at_the_perturbed_weights():
    step = Step(task())
    start = step.generator.get_state()
    plain = step.loss().item()
    for gamma in (0.005, 0.02):
        step.generator.set_state(start)
        with step.perturbed(gamma):
            loss = step.loss().item()
        assert loss > plain
        plain = loss  # and higher still with a larger gamma


def test_every_layers_perturbation_has_gamma_times_the_norm_of_its_weights():
    step = Step(task())
    before = dict(step.of.named_parameters())
    before = {name: value.detach().clone() for name, value in before.items()}
    with step.perturbed(0.01):
        moved = {n: (p.detach() - before[n]).norm() for n, p in step.of.named_parameters()}
    for name, value in before.items():
        expected = 0.01 * value.norm() if value.ndim > 1 else torch.tensor(0.0)
        torch.testing.assert_close(moved[name], expected, rtol=1e-3, atol=0.0)


def test_the_perturbation_follows_the_gradient_of_the_loss():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    step = Step(task(network))
    drawn = step.generator.get_state()
    (gradient,) = torch.autograd.grad(step.loss(), network[1].weight)
    step.generator.set_state(drawn)
    before = network[1].weight.detach().clone()
    with step.perturbed(0.1):
        moved = network[1].weight.detach() - before
    torch.testing.assert_close(moved / moved.norm(), gradient / gradient.norm())


def test_weights_and_statistics_end_as_after_one_unperturbed_step():
    step, plain = Step(task()), Step(task())
    with step.perturbed(0.01):
        step.loss().backward()
    plain.loss()
    assert same(weights(step.of), weights(plain.of))
    assert torch.equal(step.generator.get_state(), plain.generator.get_state())
    assert any(bool(p.grad.any()) for p in step.of.parameters())


def test_weights_are_restored_after_an_error():
    step, plain = Step(task()), Step(task())
    with pytest.raises(KeyError), step.perturbed(0.5):
        raise KeyError
    plain.loss()
    assert same(weights(step.of), weights(plain.of))


def test_both_calls_draw_the_same_numbers_from_every_generator():
    drawn = []

    class Drawing(NetworkTask):
        def forward(self, images, labels, generator, progress):
            drawn.append(torch.stack([torch.rand(4), torch.rand(4, generator=generator)]))
            return super().forward(images, labels, generator, progress)

    step = Step(Drawing(wide_resnet(), PGDAT(), 0.1, ATTACK, "Linf"))
    with step.perturbed(0.01):
        step.loss()
    assert torch.equal(drawn[0], drawn[1])


def test_frozen_weights_are_not_moved():
    step = Step(task())
    step.of.network.requires_grad_(False)
    last = [m for m in step.of.modules() if isinstance(m, nn.Linear)][-1].requires_grad_(True)
    before = weights(step.of)
    with step.perturbed(0.1):
        moved = {n for n, p in step.of.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {n for n, p in step.of.named_parameters() if p is last.weight}


def test_weights_are_restored_when_memory_runs_out_midway():
    step, seen = Step(task()), []
    before = [parameter.detach().clone() for parameter in step.of.parameters()]

    def total(gradient):
        seen.append(gradient)
        if len(seen) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return gradient

    with pytest.raises(torch.OutOfMemoryError):
        perturbed_weights(step.of, 0.1, step.generator, step.loss, total).__enter__()
    assert all(map(torch.equal, step.of.parameters(), before))


def test_a_task_without_weight_matrices_is_left_alone():
    norm = nn.BatchNorm2d(1)
    with perturbed_weights(norm, 0.1, torch.Generator(), lambda: pytest.fail("it was called")):
        pass


def stage():
    return one_stage(wide_resnet, PGDAT(), 0.1)


def calls_of_a_run(folder, **switches) -> list[float]:
    seen = []

    class Counting(NetworkTask):
        def forward(self, images, labels, generator, progress):
            seen.append(progress)
            return super().forward(images, labels, generator, progress)

    counting = Counting(wide_resnet(2), PGDAT(), 0.1, ATTACK, "Linf")
    fit_stage(stage(), counting, folder, loop=replace(LOOP, **switches))
    return seen


def test_a_step_calls_the_task_twice_once_perturbation_has_started(tmp_path):
    eighths = [step / 8 for step in range(8)]
    assert calls_of_a_run(tmp_path / "off") == eighths
    twice = [step for step in eighths for _ in range(2)]
    assert calls_of_a_run(tmp_path / "on", awp_gamma=0.01) == twice
    assert calls_of_a_run(tmp_path / "late", awp_gamma=0.01, awp_start=0.5) == [
        *eighths[:4],
        *twice[8:],
    ]


def test_perturbed_training_learns_and_ends_with_different_weights(tmp_path):
    results = []
    for gamma in (0.0, 0.01):
        of = stage()
        trained = NetworkTask(wide_resnet(2), PGDAT(), 0.05, ATTACK, "Linf")
        summary = fit_stage(of, trained, tmp_path / f"{gamma}", loop=replace(LOOP, awp_gamma=gamma))
        assert summary["best_score"] > 0.9
        results.append(weights(trained))
    assert not same(*results)


@pytest.mark.parametrize("gamma", [-0.01, float("nan"), float("inf")])
def test_a_negative_or_nonfinite_gamma_is_refused(gamma):
    with pytest.raises(ValueError, match="awp_gamma must be 0 or more, got"):
        TrainingConfig(awp_gamma=gamma)


@pytest.mark.parametrize("separate", ["both", "statistics", "affine"])
def test_affine_parameters_of_branched_norms_are_not_perturbed(separate):
    method = AFA(
        objective=PGDAT(), strengths=(0.0, 0.1), attack=ATTACK, schedule=SCHEDULE,
        gate_schedule=SCHEDULE, separate=separate,
    )  # fmt: skip
    of = BranchTask(with_branches(wide_resnet(), 2, separate), method).train()
    before = {name: value.detach().clone() for name, value in of.named_parameters()}
    with Step(of).perturbed(0.1):
        moved = {
            name for name, value in of.named_parameters() if not torch.equal(value, before[name])
        }
    assert moved
    assert not [name for name in moved if "norm" in name]
