"""Estimate the cost of a plan on this device from a few real optimiser steps of each stage."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psutil
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from equipoise.data import DataSet, Split
from equipoise.distributed.ranks import launched
from equipoise.evaluation.random_draws import seeded
from equipoise.execution.local import check_forward
from equipoise.models import FeatureExtractor, count_multiply_adds, count_parameters
from equipoise.recipes import Recipe
from equipoise.runtime.environment import environment
from equipoise.runtime.reporter import NullReporter, Reporter
from equipoise.runtime.seeds import derive_seed
from equipoise.training import Trainer, TrainingConfig
from equipoise.training.batches import TrainingBatches
from equipoise.training.stage import MakeNetwork, Stage
from equipoise.training.validation import VALIDATION_BATCH, Validation

PROBE = 2
"""Images in the first batch; its time and memory determine how large the next one may be."""
MEMORY_SHARE = 0.5
"""Share of the free memory that a measurement may use."""


class Passes:
    """Counts forward and backward passes through networks, in images.

    Hooks count at the last linear layer, because a gradient that reaches its input continues
    through the network; a network without linear layers is counted as a whole. A copy of a network
    keeps its hooks, so branched, stacked and fused networks are counted too.

    Example:
        >>> passes = Passes()
        >>> network = passes.counted(lambda: nn.Linear(4, 2))()
        >>> network(torch.ones(3, 4)).sum().backward()
        >>> passes.take()
        (3, 0)
        >>> network(torch.ones(3, 4, requires_grad=True)).sum().backward()
        >>> passes.take()
        (3, 3)
    """

    def __init__(self) -> None:
        self.forward = 0
        self.backward = 0

    def counted(self, make_network: MakeNetwork) -> MakeNetwork:
        """Wrap a maker so that the passes of its networks are counted."""

        def make() -> nn.Module:
            network = make_network()
            self.count(network)
            return network

        return make

    def count(self, network: nn.Module) -> None:
        """Start counting a network's passes, unless they are counted already."""

        # Functions, not methods: copying a network would copy the object of a method too.
        def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self.forward += len(inputs[0])
            if inputs[0].requires_grad:
                inputs[0].register_hook(count_backward)

        def count_backward(gradient: Tensor) -> None:
            self.backward += len(gradient)

        linears = [module for module in network.modules() if isinstance(module, nn.Linear)]
        if not linears:
            network.register_forward_hook(lambda module, inputs, output: count(module, (output,)))
        elif not linears[-1]._forward_pre_hooks:
            linears[-1].register_forward_pre_hook(count)

    def take(self) -> tuple[int, int]:
        """Return the forward and backward counts since the last call."""
        counts = self.forward, self.backward
        self.forward = self.backward = 0
        return counts


class Peak:
    """Context manager that measures peak memory: of the process on CPU, of torch elsewhere.

    Args:
        device: Device on which the work runs.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_cpu = device.type == "cpu"
        self.bytes = 0
        self._done = threading.Event()
        self._process = psutil.Process()
        self._watch = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Peak":
        if self.on_cpu:
            self._watch.start()
        else:
            torch.accelerator.reset_peak_memory_stats()
        return self

    def __exit__(self, *problem: object) -> None:
        if self.on_cpu:
            self._done.set()
            self._watch.join()
        else:
            self.bytes = torch.accelerator.max_memory_reserved()

    def _look(self) -> None:
        while True:
            self.bytes = max(self.bytes, self._process.memory_info().rss)
            if self._done.wait(0.002):
                return


def free_memory(device: torch.device) -> int:
    """Free memory of a device in bytes."""
    if device.type == "cpu":
        return int(psutil.virtual_memory().available)
    return int(torch.accelerator.get_memory_info()[0])


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long a measurement may take.

    Args:
        seconds: Approximate time for the steps of one stage; at least two steps are taken.
        clock: Returns the time in seconds.
    """

    seconds: float = 10.0
    clock: Callable[[], float] = time.perf_counter


def stage_costs(
    stages: Callable[[MakeNetwork], Sequence[Stage]],
    make_network: MakeNetwork,
    *,
    dataset: DataSet,
    loop: TrainingConfig,
    seed: int,
    fabric: Fabric,
    timing: Timing = Timing(),
    reporter: Reporter | None = None,
) -> list[dict[str, Any]]:
    """Measure a few optimiser steps of every stage of a plan, on untrained networks.

    A stage with the same counts as an earlier stage, such as a second extractor of AFS, is not
    measured again.

    Args:
        stages: Returns the plan for a network maker.
        make_network: Makes the backbone.
        dataset: Data set; its training part is trained on and nothing is saved.
        loop: How stages are run. If its batch size takes too much time or memory, a smaller batch
            is measured and scaled.
        seed: Random seed for weights and batches.
        fabric: Launched Fabric, for device and precision.
        timing: How long the steps of one stage may take, and by which clock.
        reporter: Receives progress messages.

    Returns:
        The cost of each stage, as plain values.

    Raises:
        DataError: If the loop's extra images cannot be used.
        TrainingError: If the network does not fit the images, or the loss is not finite.
    """
    reporter, passes = reporter or NullReporter(), Passes()
    held_out = derive_seed(seed, "validation")
    train, validation = dataset.train.hold_out(loop.held_out(len(dataset.train)), held_out)
    shape = tuple(dataset.train.images.shape[1:])
    outcomes: dict[str, nn.Module] = {}
    costs: dict[Any, dict[str, Any]] = {}  # by what is counted
    results: list[dict[str, Any]] = []
    plan = stages(passes.counted(make_network))
    check_forward(plan, train)
    for stage in plan:
        reporter.begin(stage.name, 0, 0)
        with seeded(derive_seed(seed, stage.name, "weights")):
            task: Any = stage.build({name: outcomes[name] for name in stage.needs})
        if not stage.trains:  # costs nothing, and its task has no step
            outcomes[stage.name] = task.outcome().eval()
            continue
        for member in filter(lambda module: isinstance(module, FeatureExtractor), task.modules()):
            passes.count(member.network)  # loaded, not made by the maker
        trainer = Trainer(stage, task, loop, fabric, seed)
        measurement = _Measurement(trainer, train, validation, passes, timing.clock)
        probe = measurement.steps(min(PROBE, measurement.wanted), 0.0, least=1)
        trained = sum(p.numel() for p in task.parameters() if p.requires_grad)
        attacked = tuple(epsilon > 0 for epsilon in stage.validation)
        kind = (trained, count_parameters(task), stage.schedule, attacked, probe["passes"])
        cost = {"stage": stage.name, "like": costs[kind]["stage"] if kind in costs else None}
        if kind in costs:
            cost = costs[kind] | cost
        else:
            cost |= {"parameters": count_parameters(task), "trained": trained}
            cost["multiply_adds"] = count_multiply_adds(
                task, shape, task.predictor(stage.validation[-1])
            )
            reporter.step(300, f"a step of {probe['batch']} images: {probe['seconds']:.1f} s")
            cost |= _cost(measurement, probe, timing.seconds, reporter)
            costs[kind] = cost
        outcomes[stage.name] = task.outcome().eval()
        results.append(cost)
    return results


class _Measurement:
    """Runs steps and validations of one stage on any number of images."""

    def __init__(
        self,
        trainer: Trainer,
        train: Split,
        validation: Split,
        passes: Passes,
        clock: Callable[[], float],
    ) -> None:
        self.trainer, self.passes, self.clock = trainer, passes, clock
        self.device = trainer.fabric.device
        self.train, self.held_out = train.to(self.device), validation.to(self.device)
        self.wanted = min(trainer.config.batch_size, len(train))
        self.free = free_memory(self.device)
        with Peak(self.device) as before:
            pass
        self.before = before.bytes

    def steps(self, size: int, seconds: float, *, least: int) -> dict[str, Any]:
        """Time, passes and peak memory of steps of ``size`` images, after one warm-up step."""
        batches = TrainingBatches(self.train, replace(self.trainer.config, batch_size=size))
        times: list[float] = []
        with Peak(self.device) as peak:
            self._step(batches, 0.0)
            self.passes.take()
            # Spread evenly over the stage, because what a step does may depend on its progress.
            while len(times) < least or (sum(times) < seconds and len(times) < 50):
                times.append(self._step(batches, len(times) * 0.618 % 1))
        forward, backward = self.passes.take()
        images = size * len(times)
        return {
            "batch": size,
            "steps": len(times),
            "seconds": sum(times) / len(times),
            "memory": peak.bytes,
            "passes": (forward / images, backward / images),
        }

    def affordable(self, probe: dict[str, Any], seconds: float) -> int:
        """The largest batch, up to the recipe's, for which three steps fit time and memory."""
        size, needed = probe["batch"], max(probe["memory"] - self.before, 1)
        in_time = size * seconds / 3 / probe["seconds"]
        in_memory = size * self.free * MEMORY_SHARE / needed
        return min(self.wanted, int(max(size, min(max(in_time, 2 * size), in_memory))))

    def validation(self, seconds: float) -> tuple[float, list[tuple[int, int]]]:
        """Seconds for one validation, measured on as many images as there is time for.

        Returns:
            The seconds, and the peak memory for each batch size that was tried.
        """
        trainer, whole = self.trainer, self.held_out
        count = min(PROBE, len(whole))
        memory: list[tuple[int, int]] = []
        while True:
            few = whole.take(slice(0, count))
            validate = Validation(trainer.stage, few, trainer.config, trainer.ranks, trainer.seed)
            with Peak(self.device) as peak:
                began = self._now()
                scores = validate(trainer.task)
                if 0.0 not in scores:
                    validate.clean(trainer.task)
                if trainer.config.alarms:
                    validate.diagnose(trainer.task, scores)
                took = self._now() - began
            memory.append((min(count, VALIDATION_BATCH), peak.bytes))
            needed = max(peak.bytes - self.before, 1) / min(count, VALIDATION_BATCH)
            more = int(count * seconds / 2 / max(took, 1e-6))
            at_once = int(self.free * MEMORY_SHARE / needed)
            more = more if at_once >= VALIDATION_BATCH else min(more, at_once)
            if count == len(whole) or more < 2 * count:
                return took * len(whole) / count, memory
            count = min(len(whole), more)

    def _step(self, batches: TrainingBatches, share: float) -> float:
        epochs, generator = self.trainer.stage.schedule.epochs, self.trainer.generator
        order = batches.order(generator)
        began = self._now()
        images, labels = batches.batch(order, 0, generator)
        self.trainer.step(images, labels, int(share * epochs) / epochs)
        return self._now() - began

    def _now(self) -> float:
        if self.device.type != "cpu":
            torch.accelerator.synchronize()
        return self.clock()


def _cost(
    measurement: _Measurement, probe: dict[str, Any], seconds: float, reporter: Reporter
) -> dict[str, Any]:
    """A stage's cost, from its probe and from the larger batch that the probe allows.

    If a step of the probe takes twice the time that there is, the probe alone is extrapolated.
    """
    trainer, wanted = measurement.trainer, measurement.wanted
    size = measurement.affordable(probe, seconds)
    enough = size == probe["batch"] or probe["seconds"] > 2 * seconds
    step = probe if enough else measurement.steps(size, seconds, least=2)
    reporter.step(700, "validation")
    once, validation_memory = measurement.validation(seconds)
    reporter.step(1000, "done")
    epochs, count = trainer.stage.schedule.epochs, len(measurement.train) // wanted
    step_seconds = step["seconds"] * wanted / step["batch"]
    validations = math.ceil(epochs / trainer.config.validate_every)
    points = [(each["batch"], each["memory"]) for each in (probe, step)]
    memory = _at(wanted, [(0, measurement.before), points[0]] if step is probe else points)
    at_once = min(VALIDATION_BATCH, len(measurement.held_out))
    forward, backward = (round(each * wanted * count) for each in step["passes"])
    return {
        "epochs": epochs,
        "steps_an_epoch": count,
        "batch": wanted,
        "passes_an_image": list(step["passes"]),
        "forward_passes_an_epoch": forward,
        "backward_passes_an_epoch": backward,
        "seconds_a_step": step_seconds,
        "seconds_a_validation": once,
        "seconds": epochs * count * step_seconds + validations * once,
        "memory": max(memory, _at(at_once, validation_memory)),
        "measured": {"batch": step["batch"], "steps": step["steps"], "seconds": step["seconds"]},
    }


def _at(size: int, points: list[tuple[int, int]]) -> int:
    """Memory at a batch size, on the line through the first and the last measured point."""
    (small, least), (large, most) = points[0], points[-1]
    slope = max(most - least, 0) / (large - small) if large > small else 0.0
    return round(most + slope * (size - large))


def dry_run(
    recipe: Recipe, *, seconds: float = 10.0, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Estimate what training a recipe would cost on this device; nothing is written.

    Args:
        recipe: The recipe.
        seconds: Approximate time for the steps of one stage.
        reporter: Receives progress messages.

    Returns:
        The cost of each stage (see ``stage_costs``), their total seconds, their largest memory,
        and the environment.

    Raises:
        DataError: If the data cannot be read.
        TrainingError: If the loss is not finite.
    """
    dataset, fabric = recipe.dataset.load(), launched(recipe.loop.precision, recipe.loop.batch_size)
    stages = stage_costs(
        recipe.method.stages,
        recipe.network.maker(dataset),
        dataset=dataset,
        loop=recipe.loop,
        seed=recipe.seed,
        fabric=fabric,
        timing=Timing(seconds=seconds),
        reporter=reporter,
    )
    return {
        "recipe": recipe.name,
        "device": str(fabric.device),
        "stages": stages,
        "seconds": sum(stage["seconds"] for stage in stages),
        "memory": max(stage["memory"] for stage in stages),
        "environment": environment(),
    }
