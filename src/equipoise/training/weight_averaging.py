"""Averages of the weights over training, and norm statistics that fit them."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from equipoise.training.config import TrainingConfig

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class Average:
    """An average of everything in a module's state; ``in_place`` puts it where the weights are.

    Until the first weights have been added there is no average, and ``in_place`` leaves the module
    as it is. Whole numbers are copied, not averaged, and so is a buffer that is not finite from the
    start. Buffers outside the state are left alone.

    Args:
        module: Whose weights are averaged; it is never copied, so it may be anything.
        loop: Which average, and from when.

    Attributes:
        endless: Names of the buffers that are not finite from the start, as a mask of -inf is.

    Source:
        EMA: Gowal et al. 2020 (2010.03593), decay min(decay, (1 + t) / (10 + t)) where t
        counts the weights added before. Deviation: running statistics are averaged as the weights
        are; their code copies those of the weights. The average begins as the weights after the
        first step of its share. SWA: Izmailov et al. 2018 (1803.05407), Alg. 1, at every end of an
        epoch from ``averaging_start`` on. ``torch.optim.swa_utils`` does the arithmetic; its
        ``AveragedModel`` copies the module, which a module with hooks need not survive.
    """

    def __init__(self, module: nn.Module, loop: TrainingConfig) -> None:
        self.module, self.loop = module, loop
        self.count = 0
        self.tensors: dict[str, Tensor] = {}
        buffers = module.named_buffers(remove_duplicate=False)
        self.endless = {name for name, value in buffers if not bool(value.isfinite().all())}

    def after_step(self, progress: float) -> None:
        """Take the weights after a step into an ``"ema"``.

        Args:
            progress: Share of the stage's steps done before it.
        """
        if self.loop.averaging == "ema" and progress >= self.loop.averages_from:
            decay = min(self.loop.averaging_decay, (1 + self.count) / (10 + self.count))
            self._add(get_ema_multi_avg_fn(decay))

    def after_epoch(self, progress: float) -> None:
        """Take the weights after an epoch into a ``"swa"``.

        Args:
            progress: Share of the stage's steps done by now.
        """
        if self.loop.averaging == "swa" and progress >= self.loop.averages_from:
            self._add(get_swa_multi_avg_fn())

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The module holds the average inside, and its own weights again, bit for bit, after."""
        if not self.count:
            yield
            return
        state = self.module.state_dict()
        own = {name: value.clone() for name, value in state.items()}
        _copy(self.tensors, state)
        try:
            yield
        finally:
            _copy(own, state)

    def measure_statistics(self, calls: Callable[[], None]) -> None:
        """Measure a ``"swa"``'s norm statistics anew and keep them; to be called in place.

        Args:
            calls: Calls the module on training images, batch by batch, and trains nothing.
        """
        if self.count and self.loop.averaging == "swa":
            measure_statistics(self.module, calls)
            for name, value in self.module.state_dict().items():
                if name.rpartition(".")[2] in _STATISTICS:
                    self.tensors[name].copy_(value)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint needs of it; nothing where nothing is averaged."""
        if self.loop.averaging == "none":
            return {}
        named = {f"average.{name}": value for name, value in self.tensors.items()}
        return named | {"averaged": torch.tensor(self.count)}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Go on with what ``state`` gave, among a checkpoint's other tensors.

        Raises:
            ValueError: If the checkpoint was made with averaging and this loop has none, or the
                other way round.
        """
        if ("averaged" in tensors) != (self.loop.averaging != "none"):
            made = "with" if "averaged" in tensors else "without"
            raise ValueError(f"was made {made} averaging, and averaging={self.loop.averaging!r}")
        self.count = int(tensors.get("averaged", torch.tensor(0)))
        self.tensors = {}
        if self.count:
            for name, value in self.module.state_dict().items():
                placed = torch.empty_like(value)  # in the layout of what it is an average of
                self.tensors[name] = placed.copy_(tensors[f"average.{name}"])

    @torch.no_grad()
    def _add(self, update: Callable[[list[Tensor], list[Tensor], int], None]) -> None:
        state = self.module.state_dict()
        if not self.count:
            self.tensors = {name: value.clone() for name, value in state.items()}
        kinds = {value.dtype for value in state.values()}
        for kind in sorted(kinds, key=str) if self.count else ():
            names = [name for name, value in state.items() if value.dtype == kind]
            if kind.is_floating_point:
                names = [name for name in names if name not in self.endless]
                update([self.tensors[n] for n in names], [state[n] for n in names], self.count)
            else:
                _copy({name: state[name] for name in names}, self.tensors)
        _copy({name: state[name] for name in self.endless & state.keys()}, self.tensors)
        self.count += 1


def measure_statistics(module: nn.Module, calls: Callable[[], None]) -> None:
    """Replace running statistics of batch norms by their means over some calls.

    Norms that stay in eval mode under ``module.train()`` are frozen and keep theirs, and so does a
    norm that no call goes through. Other buffers, and what trains, are left as they were.

    Args:
        module: Left in train mode.
        calls: Calls the module on training images, batch by batch. The module itself sends them
            on their way, so that every branch of a network meets the images it is for.

    Source:
        Izmailov et al. 2018 (1803.05407), Alg. 1, last line. Deviation from
        ``swa_utils.update_bn``: the old statistics stand until the first batch replaces them, since
        an attack inside the call that runs in eval mode needs some.
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
        norm.momentum = None  # a cumulative mean, which begins with the first batch alone
        assert norm.num_batches_tracked is not None  # a norm with running statistics counts
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
