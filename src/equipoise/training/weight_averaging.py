"""Averages of the weights over training, and running statistics measured for them."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from equipoise.runtime.errors import InvalidInput
from equipoise.training.config import TrainingConfig

_RUNNING_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class WeightAverage:
    """An exponential moving average (EMA) or mean over epochs (SWA) of a module's state.

    Floating-point entries of the state are averaged. Integers are copied from the module, and so
    are buffers that are not finite at the start, such as a mask of -inf.

    Args:
        module: Module whose state is averaged. It is never copied.
        config: Kind of average, its decay and its start.

    Attributes:
        count: Number of states in the average; 0 before averaging begins.
        nonfinite_buffers: Names of the buffers that are not finite at the start.

    Source:
        EMA: Gowal et al. 2020 (2010.03593), decay min(decay, (1 + t) / (10 + t)) where t is the
        number of states averaged so far. Deviation: running statistics are averaged like the
        weights; their code copies those of the current weights. The average starts as the weights
        after the first step of its share. SWA: Izmailov et al. 2018 (1803.05407), Alg. 1, at the
        end of every epoch from ``averaging_start`` on. ``torch.optim.swa_utils`` does the
        arithmetic. Its ``AveragedModel`` is not used: it deep-copies the module, which fails for
        modules with weight norm, averages integers, and turns masks of -inf into NaN.

    Example:
        >>> module = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.zeros_(module.weight)
        >>> average = WeightAverage(module, TrainingConfig(averaging="swa", averaging_start=0.0))
        >>> average.after_epoch(0.5)
        >>> _ = nn.init.ones_(module.weight)
        >>> average.after_epoch(1.0)
        >>> with average.applied():
        ...     module.weight.item()
        0.5
        >>> module.weight.item()
        1.0
    """

    def __init__(self, module: nn.Module, config: TrainingConfig) -> None:
        self.module, self.config = module, config
        self.count = 0
        self.tensors: dict[str, Tensor] = {}
        self.nonfinite_buffers = {
            name
            for name, value in module.named_buffers(remove_duplicate=False)
            if not bool(value.isfinite().all())
        }

    def after_step(self, progress: float) -> None:
        """Add the state after a step to an EMA.

        Args:
            progress: Share of the stage's steps done before this step.
        """
        if self.config.averaging == "ema" and progress >= self.config.averages_from:
            decay = min(self.config.averaging_decay, (1 + self.count) / (10 + self.count))
            self._add(get_ema_multi_avg_fn(decay))

    def after_epoch(self, progress: float) -> None:
        """Add the state after an epoch to an SWA.

        Args:
            progress: Share of the stage's steps done so far.
        """
        if self.config.averaging == "swa" and progress >= self.config.averages_from:
            self._add(get_swa_multi_avg_fn())

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Let the module hold the average inside the context; its own state is restored on exit.

        Before averaging begins, the module is left as it is.
        """
        if not self.count:
            yield
            return
        state = self.module.state_dict()
        before = {name: value.clone() for name, value in state.items()}
        _copy(self.tensors, state)
        try:
            yield
        finally:
            _copy(before, state)

    def measure_statistics(self, calls: Callable[[], None]) -> None:
        """Measure the running statistics of an SWA and keep them; call this inside ``applied``.

        Args:
            calls: Calls the module on batches of training images without training it.
        """
        if self.count and self.config.averaging == "swa":
            measure_statistics(self.module, calls)
            for name, value in self.module.state_dict().items():
                if name.rpartition(".")[2] in _RUNNING_STATISTICS:
                    self.tensors[name].copy_(value)

    def state(self) -> dict[str, Tensor]:
        """Return the tensors for a checkpoint; none if averaging is off."""
        if self.config.averaging == "none":
            return {}
        named = {f"average.{name}": value for name, value in self.tensors.items()}
        return named | {"averaged": torch.tensor(self.count)}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Load the tensors of ``state`` from all tensors of a checkpoint.

        Raises:
            ValueError: If only one of the checkpoint and this configuration has averaging.
        """
        if ("averaged" in tensors) != (self.config.averaging != "none"):
            made = "with" if "averaged" in tensors else "without"
            raise InvalidInput(
                f"was made {made} averaging, but averaging is {self.config.averaging!r} now"
            )
        self.count = int(tensors.get("averaged", torch.tensor(0)))
        self.tensors = {}
        if self.count:
            for name, value in self.module.state_dict().items():
                average = torch.empty_like(value)  # in the memory layout of the module's tensor
                self.tensors[name] = average.copy_(tensors[f"average.{name}"])

    @torch.no_grad()
    def _add(self, update: Callable[[list[Tensor], list[Tensor], int], None]) -> None:
        state = self.module.state_dict()
        if not self.count:
            self.tensors = {name: value.clone() for name, value in state.items()}
        averaged = {
            name: value
            for name, value in state.items()
            if value.is_floating_point() and name not in self.nonfinite_buffers
        }
        if self.count and averaged:
            update([self.tensors[name] for name in averaged], [*averaged.values()], self.count)
        _copy({name: state[name] for name in state.keys() - averaged.keys()}, self.tensors)
        self.count += 1


def measure_statistics(module: nn.Module, calls: Callable[[], None]) -> None:
    """Replace the running statistics of batch norms by their means over some calls.

    Frozen norms, which stay in eval mode under ``module.train()``, keep their statistics, and so do
    norms that no call reaches. Other buffers and all parameters are left as they are.

    Args:
        module: Left in train mode.
        calls: Calls the module on batches of training images. The module routes them, so that
            every branch of a network sees its own images.

    Source:
        Izmailov et al. 2018 (1803.05407), Alg. 1, last line. Deviation from
        ``swa_utils.update_bn``: the old statistics stay until the first batch replaces them,
        because an attack inside the call runs in eval mode and needs them.
    """
    module.train()
    norms = [
        norm
        for norm in module.modules()
        if isinstance(norm, _BatchNorm) and norm.training and norm.running_mean is not None
    ]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    measured = {id(buffer) for norm in norms for buffer in norm.buffers(recurse=False)}
    others = [(buffer, buffer.clone()) for buffer in module.buffers() if id(buffer) not in measured]
    for norm in norms:
        norm.momentum = None  # a cumulative mean, which replaces the old value at the first batch
        assert norm.num_batches_tracked is not None  # set in a norm with running statistics
        norm.num_batches_tracked.zero_()
    try:
        calls()
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        with torch.no_grad():
            for buffer, value in others:
                buffer.copy_(value)


@torch.no_grad()
def _copy(values: dict[str, Tensor], into: dict[str, Tensor]) -> None:
    for name, value in values.items():
        into[name].copy_(value)
