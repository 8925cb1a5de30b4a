"""Steps and validations that do not fit into memory."""

from dataclasses import replace

import pytest
import tiny
import torch
from tiny import ATTACK, LOOP, fabric, fit_stage, learnable, linear, one_stage, weights
from torch import nn

from equipoise.methods import AFS
from equipoise.methods.single_network import NetworkTask
from equipoise.objectives import PGDAT, Standard
from equipoise.runtime.errors import TrainingError
from equipoise.training import Trainer, TrainingConfig, checkpoint
from equipoise.training.micro_batches import is_out_of_memory
from equipoise.training.stage import Stage

MORE_THAN_THERE_IS = 2**47


class Hungry(nn.Module):
    """Runs out of memory for training batches of more than ``at_once`` images."""

    def __init__(self, at_once: int):
        super().__init__()
        self.network, self.at_once, self.calls = linear(2), at_once, []

    def forward(self, images):
        if self.training and images.shape[0] > self.at_once:
            torch.empty(MORE_THAN_THERE_IS)
        self.calls.append(images.shape[0])
        return self.network(images)


class Recorder:
    """Reporter that stores log messages."""

    def __init__(self):
        self.lines = []

    def begin(self, stage, steps, done): ...

    def step(self, done, text): ...

    def epoch(self, text, last=False, entry=None): ...

    def log(self, text):
        self.lines.append(text)


def stage(at_once: int, *attack) -> Stage:
    return one_stage(lambda: Hungry(at_once), *attack)


def run(folder, of: Stage, **changes):
    task, reporter = of.build({}), Recorder()
    fit_stage(of, task, folder, reporter=reporter, **changes)
    return task, reporter.lines


def test_a_batch_is_halved_until_it_fits_with_the_gradients_of_the_whole(tmp_path):
    whole, silent = run(tmp_path / "whole", stage(16))
    parts, lines = run(tmp_path / "parts", stage(4))
    assert silent == []
    assert [line.split(" batch of ")[1].split(" with accumulated")[0] for line in lines] == [
        "16 is trained in 2 parts",
        "16 is trained in 4 parts",
    ]
    assert set(parts.network.calls) >= {4}
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], value)


def test_splitting_is_logged_once_and_a_resumed_run_keeps_the_parts(tmp_path):
    of = stage(8)
    _, lines = run(tmp_path, of)
    assert len(lines) == 1
    assert checkpoint.load_checkpoint(tmp_path)[1]["parts"] == 2


def test_adversarial_training_in_parts_learns(tmp_path):
    task, _ = run(tmp_path, stage(8, PGDAT(), 0.05))
    images, labels = learnable().batch(slice(None))
    assert (task.network.eval()(images).argmax(1) == labels).float().mean() > 0.9


@pytest.mark.parametrize("averaging", ["swa", "ema"])
def test_weight_perturbation_and_averages_work_in_parts(tmp_path, averaging):
    loop = TrainingConfig(**(vars(LOOP) | {"awp_gamma": 0.005, "averaging": averaging}))
    task, lines = run(tmp_path, stage(8), loop=loop)
    assert len(lines) == 1
    assert all(value.isfinite().all() for value in weights(task).values())


def test_a_step_of_two_images_that_does_not_fit_raises_and_checkpoints_stay(tmp_path):
    with pytest.raises(
        TrainingError, match=r"memory does not suffice for a step of 2 images .*can't allocate"
    ):
        run(tmp_path, stage(1))


def test_other_runtime_errors_are_not_taken_for_out_of_memory(tmp_path):
    def fails(module, given):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    of, reporter = stage(16), Recorder()
    task = of.build({})
    task.network.register_forward_pre_hook(fails)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        fit_stage(of, task, tmp_path, reporter=reporter)
    assert reporter.lines == []


def test_every_attempt_starts_with_the_same_random_draws():
    drawn = []

    class Drawing(NetworkTask):
        """A task that draws a number and runs out of memory for more than two images."""

        def forward(self, images, labels, generator, progress):
            drawn.append(torch.rand(1, generator=generator).item())
            if len(images) > 2:
                torch.empty(MORE_THAN_THERE_IS)
            return {"loss": self.network[1].weight.sum() * 0 + len(drawn)}

    task = Drawing(linear(2), Standard(), 0.0, ATTACK, "Linf")
    trainer = Trainer(stage(16), task, LOOP, fabric(), seed=0)
    result = trainer.step(torch.zeros(8, 1, 2, 2), torch.zeros(8, dtype=torch.long), 0.0)
    assert trainer.parts == 4
    assert drawn[0] == drawn[1] == drawn[2] != drawn[3]
    assert result.loss == pytest.approx((3 + 4 + 5 + 6) / 4)


@pytest.mark.parametrize(
    ("method", "least"),
    [
        (replace(tiny.recipe("afa_digits").method, split_batch=True), 4),
        (replace(tiny.recipe("afs_digits").method, split_batch=True, alpha=0.3), 4),
        (tiny.recipe("oat_digits").method, 6),
        (tiny.recipe("afa_digits").method, None),
    ],
)
def test_methods_that_split_batches_declare_the_images_they_need(method, least):
    stages = method.stages(tiny.wide_resnet)
    task = stages[-1 if isinstance(method, AFS) else 0].build(
        {stage.name: tiny.wide_resnet() for stage in stages[:-1]}
    )
    assert getattr(task, "least_images", None) == least


def test_batches_are_not_split_below_what_the_method_needs(tmp_path):
    of, reporter = stage(2), Recorder()
    task = of.build({})
    task.least_images = 6
    with pytest.raises(TrainingError, match=r"step of 8 images .* this method needs at least 6"):
        fit_stage(of, task, tmp_path, reporter=reporter)
    assert len(reporter.lines) == 1


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_every_out_of_memory_error_is_recognised(error):
    assert is_out_of_memory(error)


class HungryInEvalMode(nn.Module):
    """Runs out of memory for batches of more than ``at_once`` images in eval mode."""

    def __init__(self, at_once: int):
        super().__init__()
        self.network, self.at_once, self.calls = linear(2), at_once, []

    def forward(self, images):
        if not self.training:
            self.calls.append(images.shape[0])
            if images.shape[0] > self.at_once:
                torch.empty(MORE_THAN_THERE_IS)
        return self.network(images)


def validated(folder, at_once: int):
    return run(folder, one_stage(lambda: HungryInEvalMode(at_once)))[0]


def test_a_validation_that_does_not_fit_uses_smaller_batches_from_then_on(tmp_path):
    whole, parts = validated(tmp_path / "whole", 256), validated(tmp_path / "parts", 3)
    count = max(whole.network.calls)
    assert max(parts.network.calls) == count > 3
    first = parts.network.calls.index(max(size for size in parts.network.calls if size <= 3))
    assert max(parts.network.calls[first:]) <= 3
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], value)


def test_a_validation_of_one_image_that_does_not_fit_raises(tmp_path):
    with pytest.raises(TrainingError, match="memory does not suffice to validate one image"):
        validated(tmp_path, 0)
