"""Launch the processes that train together (ranks), and their collective operations."""

import atexit
import contextlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn

from equipoise.distributed.shared_generator import SharedGenerator
from equipoise.distributed.sync_batch_norm import synchronised
from equipoise.runtime.errors import RunError, TrainingError
from equipoise.runtime.seeds import derive_seed

Strategy = Literal["auto", "ddp"]
Precision = Literal["32-true", "bf16-mixed"]
_Result = TypeVar("_Result")


class FloatInputPrecision(MixedPrecision):
    """bfloat16 mixed precision that passes images to the module in float32.

    Fabric's own plugin rounds the floating-point inputs of a module. Between 0.5 and 1, bfloat16
    has steps of 1/256, as large as training strengths. Autocast casts inside the network.

    Args:
        accelerator: Accelerator, by Fabric's name.
    """

    def __init__(self, accelerator: str) -> None:
        device = None
        if accelerator != "cpu" and torch.accelerator.is_available():
            device = torch.accelerator.current_accelerator()
        super().__init__("bf16-mixed", device.type if device else "cpu")

    def convert_input(self, data: Any) -> Any:
        """Return the input unchanged."""
        return data


def check_input_precision(fabric: Fabric) -> None:
    """Check that a Fabric does not round images.

    Raises:
        TrainingError: If its mixed precision is not a ``FloatInputPrecision``.
    """
    precision = fabric.strategy.precision
    if isinstance(precision, MixedPrecision) and not isinstance(precision, FloatInputPrecision):
        raise TrainingError(
            "this Fabric rounds images to bfloat16 before they are attacked. Make it with "
            "equipoise.distributed.ranks.launched, or pass plugins=[FloatInputPrecision(...)]."
        )


def launched(
    precision: Precision,
    batch_size: int,
    *,
    devices: int = 1,
    nodes: int = 1,
    strategy: Strategy = "auto",
    accelerator: str = "auto",
) -> Fabric:
    """Start, or join, the processes that train together.

    Under torchrun or srun the processes already exist, one per device. Otherwise this process
    starts the others on its machine, which run the same command.

    Args:
        precision: Precision of the networks, as ``TrainingConfig.precision``.
        batch_size: Images per step, over all processes together.
        devices: Devices per machine, with one process each.
        nodes: Number of machines.
        strategy: ``"auto"`` means ``"ddp"`` for several processes.
        accelerator: Accelerator, by Fabric's name.

    Returns:
        A launched Fabric.

    Raises:
        TrainingError: If the batch cannot be shared evenly.

    Example:
        >>> launched("32-true", 128, accelerator="cpu").world_size
        1
    """
    world = devices * nodes
    if devices < 1 or nodes < 1:
        raise TrainingError(f"devices and nodes must be 1 or more, got {devices} and {nodes}.")
    check_shares(batch_size, world)
    fabric_strategy: DDPStrategy | str = "auto"
    if world > 1 or strategy == "ddp":
        # Which parameters a step uses may depend on its images (OAT). If a step uses all of them,
        # torch warns once that the search was unnecessary.
        fabric_strategy = DDPStrategy(find_unused_parameters=True)
    mixed = precision == "bf16-mixed"
    fabric = Fabric(
        accelerator=accelerator,
        devices=devices,
        num_nodes=nodes,
        strategy=fabric_strategy,
        precision=None if mixed else precision,
        plugins=[FloatInputPrecision(accelerator)] if mixed else None,
    )
    fabric.launch()
    if torch.distributed.is_initialized():
        atexit.register(_destroy_process_group)
    return fabric


def _destroy_process_group() -> None:
    """Destroy torch's process group before the interpreter exits; Fabric only does so for NCCL.

    Threads of gloo that outlive the interpreter may abort it ("terminate called").
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


class Ranks:
    """Collective operations of the processes of a run. With one process, all are trivial.

    Args:
        fabric: A launched Fabric.

    Attributes:
        rank: Index of this process; only rank 0 writes files.
        world: Number of processes.

    Example:
        >>> ranks = Ranks(launched("32-true", 128, accelerator="cpu"))
        >>> ranks.rank, ranks.world
        (0, 1)
        >>> ranks.any(False, True)
        [False, True]
    """

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.rank, self.world = fabric.global_rank, fabric.world_size

    def generator(self, seed: int) -> torch.Generator:
        """Return a seeded generator on the device, in the same state on every rank."""
        device = self.fabric.device
        if self.world == 1:
            return torch.Generator(device).manual_seed(seed)
        generator = SharedGenerator.of(device, self.rank, self.world)
        generator.manual_seed(seed)
        return generator

    def seed_step(self, seed: int, step: int) -> None:
        """Seed the global generators of this rank for one step, if there are several ranks.

        Layers that draw from them, such as dropout, then differ between ranks, and a checkpoint
        needs no rank's state.
        """
        if self.world > 1:
            seed_everything(derive_seed(seed, "rank", str(self.rank), str(step)))

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over all ranks."""
        if self.world == 1:
            return values
        total = self.fabric.all_reduce(values.clone(), reduce_op="sum")
        assert isinstance(total, Tensor)
        return total

    def any(self, *flags: bool) -> list[bool]:
        """Return, for each flag, whether it is set on any rank."""
        if self.world == 1:
            return list(flags)
        counts = self.sum(torch.tensor(flags, dtype=torch.long, device=self.fabric.device))
        return [count > 0 for count in counts.tolist()]

    def on_rank_zero(self, work: Callable[[], _Result]) -> _Result | None:
        """Call a function on rank 0 while the other ranks wait.

        Returns:
            The result on rank 0, ``None`` on the others.

        Raises:
            RunError: On all ranks, if the function raised it or a ValueError on rank 0.
        """
        if self.world == 1:
            return work()
        result, error = None, None
        if self.rank == 0:
            try:
                result = work()
            except (RunError, ValueError) as problem:
                error = problem
        message = self.fabric.broadcast(None if error is None else str(error))
        if message is not None:
            raise error or RunError(message)
        return result

    def broadcast(self, value: _Result) -> _Result:
        """Return rank 0's value."""
        return value if self.world == 1 else self.fabric.broadcast(value)

    def check_same(self, step: int, folder: Path) -> None:
        """Check that all ranks have read the same checkpoint.

        Raises:
            TrainingError: If a rank is at another step than rank 0.
        """
        if self.any(step != self.broadcast(step))[0]:
            raise TrainingError(
                f"the processes do not see the same checkpoint in {folder}. All machines must "
                "share the run folder: choose one on a shared file system with --out."
            )

    def share_buffers(self, module: nn.Module) -> None:
        """Copy the buffers of rank 0, such as running statistics, to every rank."""
        if self.world > 1:
            for buffer in module.buffers():
                torch.distributed.broadcast(buffer, 0)

    def synchronised(
        self, module: nn.Module, sync_batch_norm: bool
    ) -> contextlib.AbstractContextManager[None]:
        """Let batch norms use the statistics of all ranks' images inside, if asked to."""
        if self.world > 1 and sync_batch_norm:
            return synchronised(module)
        return contextlib.nullcontext()


def check_shares(images: int, world: int) -> None:
    """Check that a batch can be shared evenly.

    Raises:
        TrainingError: If the number of images is not a multiple of the number of processes.

    Example:
        >>> check_shares(128, 2)
    """
    if images % world:
        raise TrainingError(
            f"loop.batch_size is the batch of all processes together: {images} images cannot be "
            f"shared evenly by {world}. Choose a multiple of {world}."
        )


def seed_everything(seed: int) -> None:
    """Seed torch's, NumPy's and Python's global generators."""
    torch.manual_seed(seed)
    numpy.random.seed(seed % 2**32)
    random.seed(seed)
