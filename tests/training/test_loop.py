import json
import math
import os
import signal
import time
from functools import partial

import pytest
import torch
from lightning_fabric import Fabric
from tiny import (
    ATTACK,
    LOOP,
    AfterSteps,
    fabric,
    fit_stage,
    learnable,
    linear,
    one_stage,
    replace_attacks,
    same,
    weights,
    wide_resnet,
)
from torch import nn

from equipoise import training
from equipoise.distributed.ranks import launched
from equipoise.methods.single_network import NetworkTask
from equipoise.objectives import PGDAT, Standard
from equipoise.runtime.errors import TrainingError
from equipoise.runtime.signals import Interrupted
from equipoise.training import BEST, LAST, TrainingConfig, checkpoint
from equipoise.training.metrics import METRICS, metrics_log
from equipoise.training.schedule import Schedule
from equipoise.training.stage import Stage

STEPS = 4  # per epoch: 64 images in batches of 16


class Killed(BaseException):
    """Simulates a kill: nothing in the package catches it."""


def stage(objective=None, epsilon=0.0, make=lambda: linear(2), keep="best", **schedule) -> Stage:
    schedule = Schedule(**({"epochs": 3, "learning_rate": 0.1} | schedule))
    network = one_stage(make, objective, epsilon, schedule=schedule)
    return Stage(**(vars(network) | {"keep": keep}))


def run(folder, of: Stage | None = None, **changes):
    of = of or stage()
    task = of.build({})
    return task, fit_stage(of, task, folder, **changes)


def metrics(folder):
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


class Scripted(NetworkTask):
    """Task that calls ``act`` in every step, with the step number from a buffer."""

    def __init__(self, act=lambda step, terms: terms, network=None):
        super().__init__(network or linear(2), Standard(), 0.0, ATTACK, "Linf")
        self.act = act
        self.register_buffer("step", torch.tensor(0))

    def forward(self, images, labels, generator, progress):
        terms = super().forward(images, labels, generator, progress)
        terms = self.act(int(self.step), terms) or terms
        self.step += 1
        return terms


class Forgetful(Scripted):
    """Classifies all validation images correctly after the first epoch, and none later."""

    def predictor(self, epsilon):
        right = int(self.step) <= STEPS

        def predict(images):
            bright = (images.mean(dim=(1, 2, 3)) > 0.4).float()
            scores = torch.stack([1 - bright, bright], dim=1)
            return scores if right else -scores

        return predict


def test_standard_training_learns_two_classes(tmp_path):
    task, summary = run(tmp_path)
    losses = [entry["train"]["loss"] for entry in metrics(tmp_path)]
    assert losses[-1] < 0.5 * losses[0]
    assert summary["best_score"] == 1.0
    images, labels = learnable().batch(slice(None))
    assert torch.equal(task.outcome()(images).argmax(1), labels)


def test_adversarial_training_learns_two_classes_too(tmp_path):
    _, summary = run(tmp_path, stage(objective=PGDAT(), epsilon=0.05))
    assert summary["best_score"] > 0.9
    assert list(metrics(tmp_path)[0]["validation"]) == ["0.05"]
    assert 0.9 < metrics(tmp_path)[-1]["clean"] <= 1.0


def test_the_metrics_have_one_line_per_epoch(tmp_path):
    run(tmp_path)
    entries = metrics(tmp_path)
    assert [entry["epoch"] for entry in entries] == [0, 1, 2]
    for entry in entries:
        assert set(entry) == {"epoch", "learning_rate", "train", "validation", "score", "seconds"}
        assert math.isfinite(entry["train"]["loss"])


def test_epochs_that_a_resume_repeats_appear_once_in_the_curves(tmp_path):
    def entry(epoch, loss):
        return {"epoch": epoch, "train": {"loss": loss}, "seconds": float(epoch)}

    with metrics_log(tmp_path, 0) as log:
        log(entry(0, 3.0))
        log(entry(1, 2.0))  # and is killed before the checkpoint of this epoch
    with metrics_log(tmp_path, 1) as log:
        log(entry(1, 1.0))
    assert [entry["train"]["loss"] for entry in metrics(tmp_path)] == [3.0, 1.0]


def test_the_same_seed_is_bit_identical_and_another_seed_is_not(tmp_path):
    first, again = (weights(run(tmp_path / n)[0]) for n in ("a", "b"))
    other = weights(run(tmp_path / "c", seed=1)[0])
    assert same(first, again)
    assert not same(first, other)


def test_the_frequency_of_validation_does_not_change_the_weights(tmp_path):
    of = stage(objective=PGDAT(), epsilon=0.05, keep="last")
    often = run(tmp_path / "often", of)[0]
    rarely = run(
        tmp_path / "rarely", of, loop=TrainingConfig(**(vars(LOOP) | {"validate_every": 9}))
    )[0]
    assert same(weights(often), weights(rarely))
    assert ["score" in entry for entry in metrics(tmp_path / "rarely")] == [False, False, True]


def test_the_learning_rate_follows_the_schedule(tmp_path):
    run(tmp_path, stage(learning_rate=0.1, decay_epochs=(1, 2)))
    rates = [entry["learning_rate"] for entry in metrics(tmp_path)]
    assert rates == pytest.approx([0.1, 0.01, 0.001])


def test_every_epoch_sees_every_image_once_in_a_new_order(tmp_path):
    seen = []

    class Watching(Scripted):
        def forward(self, images, labels, generator, progress):
            seen.append(images.flatten(1))
            return super().forward(images, labels, generator, progress)

    train = learnable()
    fit_stage(stage(epochs=2), Watching(), tmp_path, train=train)
    epochs = [torch.cat(seen[:STEPS]), torch.cat(seen[STEPS:])]
    everything = train.batch(slice(None))[0].flatten(1)
    for epoch in epochs:
        assert torch.equal(epoch.sort(dim=0).values, everything.sort(dim=0).values)
    assert not torch.equal(epochs[0], epochs[1])


def test_gradients_are_clipped_to_the_norm(tmp_path):
    def moved(name, **settings):
        of = stage(epochs=1, learning_rate=1.0, momentum=0.0, weight_decay=0.0, **settings)
        whole = TrainingConfig(**(vars(LOOP) | {"batch_size": 64}))  # one step
        before = weights(linear(2))
        after = weights(run(tmp_path / name, of, loop=whole)[0].outcome())
        return math.sqrt(sum(float((after[k] - before[k]).square().sum()) for k in before))

    free = moved("free")
    assert free > 0.1
    assert moved("clipped", clip_norm=0.01) == pytest.approx(0.01, rel=1e-3)
    assert moved("loose", clip_norm=100.0) == pytest.approx(free, rel=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_nonfinite_loss_stops_training_and_keeps_the_checkpoint(tmp_path, value):
    def poison(step, terms):
        return {"loss": terms["loss"] * value} if step == 5 else terms

    with pytest.raises(
        TrainingError, match=r"stage network became (nan|inf) in epoch 1, step 5.* Lower the learn"
    ):
        fit_stage(stage(), Scripted(poison), tmp_path)
    tensors, state = checkpoint.load_checkpoint(tmp_path)
    assert (state["epoch"], state["batch"]) == (1, 1)
    assert all(bool(tensors[k].isfinite().all()) for k in tensors if k.startswith("module."))
    assert not training.is_done(tmp_path)


@pytest.mark.parametrize(("keep", "steps"), [("best", STEPS), ("last", 3 * STEPS)])
def test_best_and_last_weights_are_kept_and_the_stage_chooses_between_them(tmp_path, keep, steps):
    task = Forgetful()
    summary = fit_stage(stage(keep=keep), task, tmp_path)
    assert (summary["best_epoch"], summary["best_score"], summary["last_score"]) == (0, 1.0, 0.0)
    assert int(task.step) == steps
    saved = {name: checkpoint.unpack(tmp_path / name)[0]["step"] for name in (BEST, LAST)}
    assert (int(saved[BEST]), int(saved[LAST])) == (STEPS, 3 * STEPS)
    again = Forgetful()
    training.load_weights(again, tmp_path, keep)
    assert same(weights(again), weights(task))


def test_damaged_weights_of_a_finished_stage_raise_with_the_remedy(tmp_path):
    task, _ = run(tmp_path)
    (tmp_path / BEST).write_bytes(b"nothing")
    with pytest.raises(checkpoint.CheckpointError, match=rf"{BEST} is damaged.*delete"):
        training.load_weights(task, tmp_path, "best")


def drawing() -> nn.Module:
    """Build a network with dropout, which uses torch's global generator, and batch norm."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.BatchNorm2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(64, 2)
    )  # fmt: skip


@pytest.mark.parametrize("step", range(3 * STEPS))
def test_a_run_killed_at_any_step_resumes_bit_identical(tmp_path, step):
    of = stage(objective=PGDAT(), epsilon=0.05, make=drawing, keep="last")
    whole = Scripted(network=drawing())
    fit_stage(of, whole, tmp_path / "whole")

    def kill(at, terms):
        if at == step:
            raise Killed

    with pytest.raises(Killed):
        fit_stage(of, Scripted(kill, drawing()), tmp_path / "killed")
    resumed = Scripted(network=drawing())
    fit_stage(of, resumed, tmp_path / "killed")
    assert same(weights(resumed), weights(whole))
    assert [e["epoch"] for e in metrics(tmp_path / "killed")] == [0, 1, 2]
    for before, after in zip(
        metrics(tmp_path / "whole"), metrics(tmp_path / "killed"), strict=True
    ):
        assert {**before, "seconds": 0} == {**after, "seconds": 0}


def test_metrics_after_the_checkpoint_are_rewritten_and_not_duplicated(tmp_path):
    def kill(at, terms):
        if at == 2 * STEPS + 1:
            raise Killed

    with pytest.raises(Killed):
        fit_stage(stage(), Scripted(kill), tmp_path)
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"epoch": 2, "score": 0.5}\n')  # the kill came before its checkpoint
        file.write('{"epoch": 3, "learning_ra')
    fit_stage(stage(), Scripted(), tmp_path)
    assert [entry["epoch"] for entry in metrics(tmp_path)] == [0, 1, 2]
    assert "train" in metrics(tmp_path)[2]


def test_resuming_from_the_previous_checkpoint_is_bit_identical(tmp_path):
    whole = Scripted()
    fit_stage(stage(keep="last"), whole, tmp_path / "whole")

    def kill(at, terms):
        if at == 6:
            raise Killed

    with pytest.raises(Killed):
        fit_stage(stage(), Scripted(kill), tmp_path / "killed")
    (tmp_path / "killed" / checkpoint.CURRENT).write_bytes(b"damaged")
    reporter, resumed = AfterSteps(0, None), Scripted()
    fit_stage(stage(keep="last"), resumed, tmp_path / "killed", reporter=reporter)
    assert ["is damaged" in line for line in reporter.lines] == [True]
    assert same(weights(resumed), weights(whole))


def test_fitting_a_finished_stage_again_trains_nothing(tmp_path):
    first = fit_stage(stage(), Scripted(), tmp_path)
    untrained = Scripted(lambda step, terms: pytest.fail("it trained again"))
    assert fit_stage(stage(), untrained, tmp_path) == first
    assert [entry["epoch"] for entry in metrics(tmp_path)] == [0, 1, 2]


@pytest.mark.parametrize("change", [{"seed": 1}, {"stage": "other"}])
def test_a_checkpoint_of_another_stage_or_seed_is_refused(tmp_path, change):
    run(tmp_path)
    of = stage()
    if "stage" in change:
        of = Stage(**(vars(of) | {"name": "other"}))
    with pytest.raises(TrainingError, match=r"belongs to another stage or seed.*--out"):
        fit_stage(of, of.build({}), tmp_path, seed=change.get("seed", 0))


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    run(tmp_path)
    with pytest.raises(TrainingError, match=r"does not fit this network.*--out"):
        run(tmp_path, stage(make=partial(linear, 3)))


def test_sigint_saves_a_checkpoint_and_the_run_resumes_bit_identical(tmp_path):
    of = stage(keep="last")
    whole, _ = run(tmp_path / "whole", of)
    before = signal.getsignal(signal.SIGINT)
    interrupt = partial(os.kill, os.getpid(), signal.SIGINT)
    loop = TrainingConfig(
        **(vars(LOOP) | {"checkpoint_seconds": 1e9})
    )  # only what the signal saves
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", of, reporter=AfterSteps(5, interrupt), loop=loop)
    assert signal.getsignal(signal.SIGINT) is before
    state = checkpoint.load_checkpoint(tmp_path / "cut")[1]
    assert (state["epoch"], state["batch"]) == (1, 1)
    resumed, _ = run(tmp_path / "cut", of)
    assert same(weights(resumed), weights(whole))


def test_a_second_sigint_ends_the_run_at_once(tmp_path):
    def twice():
        first = signal.getsignal(signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        while signal.getsignal(signal.SIGINT) is first:  # two at once would be one
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)  # cut short by the interrupt

    # A shell starts background jobs with SIGINT ignored, and then Python installs no handler.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, reporter=AfterSteps(1, twice))
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("steps", [2 * STEPS, 3 * STEPS])
def test_sigint_in_the_last_step_of_an_epoch_or_stage_is_not_lost(tmp_path, steps):
    interrupt = partial(os.kill, os.getpid(), signal.SIGINT)
    with pytest.raises(Interrupted):
        run(tmp_path, reporter=AfterSteps(steps, interrupt))


def test_mixed_precision_keeps_weights_and_scores_in_float32(tmp_path):
    mixed = launched("bf16-mixed", 16, accelerator="cpu")
    of = stage(make=lambda: wide_resnet(2), epochs=1)
    task, _ = run(tmp_path, of, fabric=mixed)
    assert {value.dtype for name, value in weights(task).items() if "num_b" not in name} == {
        torch.float32
    }


def test_mixed_precision_attacks_pixels_that_are_not_rounded(tmp_path, monkeypatch):
    mixed = launched("bf16-mixed", 16, accelerator="cpu")
    seen = []

    def spy(search, clean, **call):
        seen.append((clean, search()))
        return seen[-1][1]

    replace_attacks(monkeypatch, spy)
    attacked = stage(PGDAT(), 0.1, make=lambda: wide_resnet(2), epochs=1)
    run(tmp_path, attacked, fabric=mixed)
    assert seen
    for clean, adversarial in seen:
        assert clean.dtype == adversarial.dtype == torch.float32
        assert not torch.equal(clean, clean.bfloat16().float())


def test_a_fabric_that_rounds_images_is_refused(tmp_path):
    rounding = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    rounding.launch()
    with pytest.raises(TrainingError, match=r"rounds images to bfloat16.*ranks\.launched"):
        run(tmp_path, fabric=rounding)


def test_training_works_outside_the_main_thread(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        _, summary = pool.submit(run, tmp_path).result()
    assert summary["epochs"] == 3


def test_a_batch_size_above_the_number_of_images_gives_one_batch(tmp_path):
    loop = TrainingConfig(**(vars(LOOP) | {"batch_size": 1000}))
    counter = Scripted()
    fit_stage(stage(epochs=2, keep="last"), counter, tmp_path, loop=loop, fabric=fabric())
    assert int(counter.step) == 2


@pytest.mark.parametrize("field", ["batch_size", "validation_images", "validate_every"])
def test_counts_of_the_loop_below_one_are_refused(field):
    with pytest.raises(ValueError, match=rf"{field} must be 1 or more, got 0"):
        TrainingConfig(**{field: 0})
