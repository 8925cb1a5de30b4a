import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from tiny import ATTACK, LOOP, fit_stage, learnable, linear, one_stage, same, weights, wide_resnet
from torch import nn

from equipoise.methods import AFA, AFS
from equipoise.methods.single_network import NetworkTask
from equipoise.objectives import PGDAT, Standard
from equipoise.runtime.errors import TrainingError
from equipoise.training import BEST, LAST, TrainingConfig, WeightAverage, checkpoint
from equipoise.training.metrics import METRICS
from equipoise.training.schedule import Schedule
from equipoise.training.stage import Stage
from equipoise.training.weight_averaging import measure_statistics

STEPS = 4  # per epoch: 64 images in batches of 16
EPOCHS = 4
SCHEDULE = Schedule(epochs=EPOCHS, learning_rate=0.1)


def loop(averaging: str, **changes) -> TrainingConfig:
    return replace(LOOP, averaging=averaging, **changes)


def small() -> nn.Module:
    """Build a small network with a batch norm."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 2)
    )


def stage(make=small, epsilon=0.05, **changes) -> Stage:
    objective = PGDAT() if epsilon else Standard()
    return replace(one_stage(make, objective, epsilon, schedule=SCHEDULE), **changes)


class Recorded(NetworkTask):
    """Records its weights at the start of every training step."""

    def __init__(self, make=small):
        super().__init__(make(), PGDAT(), 0.05, ATTACK, "Linf")
        self.seen: list[dict] = []

    def forward(self, *arguments):
        self.seen.append(weights(self))
        return super().forward(*arguments)


def trained(folder, **changes):
    """The weights after every step, of a run without averages."""
    task = Recorded()
    fit_stage(stage(keep="last"), task, folder, loop=replace(LOOP, **changes))
    return [*task.seen[1:], weights(task)]


def saved(folder, name=LAST):
    return checkpoint.unpack(folder / name)[0]


def close(actual, expected) -> None:
    for name in actual:
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("start", "first"), [(0.0, 0), (0.5, 8), (0.9, 15)])
def test_the_moving_average_equals_a_computation_by_hand(tmp_path, start, first):
    after = trained(tmp_path / "plain")
    average = after[first]
    for count, now in enumerate(after[first + 1 :], start=1):
        decay = min(0.4, (1 + count) / (10 + count))
        for name, value in now.items():
            if value.is_floating_point():
                average[name] = decay * average[name] + (1 - decay) * value
            else:
                average[name] = value
    averaged = loop("ema", averaging_decay=0.4, averaging_start=start)
    fit_stage(stage(keep="last"), stage().build({}), tmp_path / "ema", loop=averaged)
    close(saved(tmp_path / "ema"), average)
    assert "network.1.running_var" in average  # statistics are averaged like weights


def test_the_mean_over_epochs_is_the_mean_of_the_weights(tmp_path):
    after = trained(tmp_path / "plain")
    ends = [after[STEPS * epoch - 1] for epoch in (2, 3, 4)]
    fit_stage(
        stage(keep="last"),
        stage().build({}),
        tmp_path / "swa",
        loop=loop("swa", averaging_start=0.5),
    )
    mean = {name: sum(end[name] for end in ends) / 3 for name in ends[0] if "running" not in name}
    mean.pop("network.1.num_batches_tracked")
    close(mean, saved(tmp_path / "swa"))


def test_the_mean_over_epochs_has_running_statistics_of_its_own_features(tmp_path):
    """At strength 0, one batch of all images gives the statistics by hand."""
    task = stage(epsilon=0.0).build({})
    whole = loop("swa", averaging_start=0.5, batch_size=64)
    fit_stage(stage(epsilon=0.0, keep="last"), task, tmp_path, loop=whole)
    features = task.network[0](learnable().batch(slice(None))[0])
    norm = task.network[1]
    torch.testing.assert_close(norm.running_mean, features.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(norm.running_var, features.var(dim=(0, 2, 3)))
    assert norm.momentum == 0.1


def test_measured_statistics_differ_from_those_of_the_current_weights(tmp_path):
    """Running statistics belong to the current weights, not to the average."""
    raw = trained(tmp_path / "plain")[-1]
    fit_stage(stage(), stage().build({}), tmp_path / "swa", loop=loop("swa", averaging_start=0.5))
    measured = saved(tmp_path / "swa")
    assert not torch.allclose(measured["network.1.running_mean"], raw["network.1.running_mean"])


@pytest.mark.parametrize("averaging", ["ema", "swa"])
def test_averaging_does_not_change_the_trained_weights(tmp_path, averaging):
    def dropping():
        return nn.Sequential(*small()[:4], nn.Dropout(0.3), small()[4])

    of = stage(make=dropping)
    for name in ("none", averaging):
        settings = loop(name, averaging_start=0.3, validate_every=2 if name == "none" else 1)
        fit_stage(of, of.build({}), tmp_path / name, loop=settings)
    plain, averaged = (
        {k: v for k, v in checkpoint.load_checkpoint(tmp_path / n)[0].items() if "average" not in k}
        for n in ("none", averaging)
    )
    for state in (plain, averaged):
        state.pop("random.python")  # the tests' type checks draw from it
    assert same(plain, averaged)


def test_before_averaging_begins_the_weights_themselves_are_kept(tmp_path):
    of = stage(keep="last")
    of = replace(of, schedule=replace(SCHEDULE, epochs=1))
    plain, swa = of.build({}), of.build({})
    fit_stage(of, plain, tmp_path / "plain", loop=replace(LOOP))
    fit_stage(of, swa, tmp_path / "ema", loop=loop("ema", averaging_start=0.99))
    assert same(weights(plain), weights(swa))


@pytest.mark.parametrize("averaging", ["ema", "swa"])
def test_the_task_ends_with_the_average_that_was_validated(tmp_path, averaging):
    class Scored(NetworkTask):
        """Records the validated weights."""

        def predictor(self, epsilon):
            self.validated = weights(self)
            return super().predictor(epsilon)

    task = Scored(small(), PGDAT(), 0.05, ATTACK, "Linf")
    fit_stage(stage(keep="last"), task, tmp_path, loop=loop(averaging, averaging_start=0.2))
    assert same(task.validated, weights(task))
    assert same(saved(tmp_path, LAST), weights(task))
    state = checkpoint.load_checkpoint(tmp_path)[0]
    assert not torch.equal(state["module.network.0.weight"], task.network[0].weight)
    assert (tmp_path / BEST).exists()
    lines = (tmp_path / METRICS).read_text().splitlines()
    counts = [json.loads(line)["averaged"] for line in lines]
    assert counts == ([0, 4, 8, 12] if averaging == "ema" else [1, 2, 3, 4])


def afa() -> AFA:
    return AFA(
        objective=PGDAT(),
        strengths=(0.0, 0.05, 0.2),
        attack=ATTACK,
        schedule=replace(SCHEDULE, epochs=2),
        gate_schedule=replace(SCHEDULE, epochs=2),
    )


@pytest.mark.parametrize("averaging", ["ema", "swa"])
def test_the_branches_of_afa_are_averaged_each_with_its_own_statistics(tmp_path, averaging):
    branches, gate = afa().stages(partial(wide_resnet, 2))
    task = branches.build({})
    settings = loop(averaging, averaging_start=0.4, batch_size=32)
    summary = fit_stage(branches, task, tmp_path / "branches", loop=settings)
    assert summary["epochs"] == 2
    norms = next(m for m in task.modules() if type(m).__name__ == "MultiBatchNorm2d").norms
    means = torch.stack([norm.running_mean for norm in norms])
    assert len({tuple(mean.tolist()) for mean in means}) == 3
    if averaging == "swa":  # one batch through each branch a step, two steps an epoch
        assert [int(norm.num_batches_tracked) for norm in norms] == [2, 2, 2]
    frozen = gate.build({"branches": task.outcome()})
    fused = weights(frozen.network.network)
    fit_stage(gate, frozen, tmp_path / "gate", loop=settings)
    assert same(fused, weights(frozen.network.network))


@pytest.mark.parametrize("averaging", ["ema", "swa"])
def test_the_merger_of_afs_is_averaged_and_its_extractors_are_unchanged(tmp_path, averaging):
    method = AFS(
        objective=PGDAT(),
        budgets=(0.0, 0.05),
        attack=ATTACK,
        schedule=SCHEDULE,
        merger_schedule=replace(SCHEDULE, epochs=2),
        merger_epsilon=0.05,
    )
    *extractors, merger = method.stages(small)
    task = merger.build({extractor.name: small() for extractor in extractors})
    before = weights(task.stack.members)
    fit_stage(
        replace(merger, keep="last"), task, tmp_path, loop=loop(averaging, averaging_start=0.0)
    )
    assert same(before, weights(task.stack.members))
    raw = checkpoint.load_checkpoint(tmp_path)[0]["module.stack.merger.weight"]
    assert not torch.equal(raw, task.stack.merger.weight)


def test_applying_the_average_restores_the_weights_bit_for_bit():
    network = small()
    average = WeightAverage(network, loop("ema", averaging_decay=0.5, averaging_start=0.0))
    with average.applied():  # nothing averaged yet
        assert same(weights(network), weights(small()))
    average.after_step(0.0)
    with torch.no_grad():
        network[0].weight.add_(1)
    raw = weights(network)
    with average.applied():
        assert same(weights(network), weights(small()))
    assert same(weights(network), raw)
    with pytest.raises(KeyError), average.applied():
        raise KeyError
    assert same(weights(network), raw)


def test_measuring_leaves_frozen_norms_and_other_buffers_alone():
    network = nn.Sequential(small(), nn.BatchNorm1d(2))
    network.register_buffer("steps", torch.tensor(3.0))
    network[1].train = lambda mode=True: network[1]  # frozen: stays in eval mode
    network[1].eval()
    network[1].training = False
    frozen, parameters = weights(network[1]), [p.clone() for p in network.parameters()]

    def calls():
        network(torch.rand(8, 1, 8, 8))
        network.steps += 1

    measure_statistics(network, calls)
    assert same(frozen, weights(network[1]))
    assert int(network.steps) == 3
    assert all(torch.equal(p, q) for p, q in zip(parameters, network.parameters(), strict=True))
    assert int(network[0][1].num_batches_tracked) == 1


def test_a_network_without_norms_is_not_called_for_statistics():
    measure_statistics(linear(2), lambda: pytest.fail("it was called"))


@pytest.mark.parametrize(("before", "after"), [("none", "ema"), ("swa", "none")])
def test_a_checkpoint_with_different_averaging_is_refused(tmp_path, before, after):
    fit_stage(stage(), stage().build({}), tmp_path, loop=loop(before))
    averaged = "without" if before == "none" else "with"
    with pytest.raises(TrainingError, match=f"was made {averaged} averaging.*--out"):
        fit_stage(stage(), stage().build({}), tmp_path, loop=loop(after))


@pytest.mark.usefixtures("no_shape_checks")
def test_an_unknown_average_is_refused():
    with pytest.raises(ValueError, match="averaging must be none, ema or swa, got 'mean'"):
        TrainingConfig(averaging="mean")


@pytest.mark.parametrize("name", ["averaging_decay", "averaging_start", "awp_start"])
@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_shares_out_of_range_are_refused(name, share):
    with pytest.raises(ValueError, match=rf"{name} must be in \[0, 1\), got"):
        TrainingConfig(**{name: share})


def masked() -> nn.Module:
    """Build a network with a mask of -inf, as used in attention."""
    network = small()
    network.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))
    return network


@pytest.mark.parametrize("averaging", ["none", "ema", "swa"])
def test_a_buffer_that_is_infinite_at_the_start_is_unchanged(tmp_path, averaging):
    of = stage(masked, epsilon=0.0, keep="last")
    task = of.build({})
    fit_stage(of, task, tmp_path, loop=loop(averaging))
    assert torch.equal(task.network.mask, masked().mask)
    tensors, _ = checkpoint.load_checkpoint(tmp_path)
    assert torch.equal(tensors["module.network.mask"], masked().mask)
