"""Draws of a randomised model: seeded one by one, averaged for attacks, counted for scores."""

import contextlib
import hashlib
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipoise.evaluation.statistics import wilson_interval
from equipoise.runtime.seeds import derive_seed
from equipoise.types import Images, Logits

OwnGenerator = torch.Generator | np.random.Generator | np.random.RandomState | random.Random


@contextlib.contextmanager
def seeded(seed: int, device: torch.device | None = None, model: object = None) -> Iterator[None]:
    """Seed all sources of randomness, and restore them afterwards.

    They are the global generators of torch, NumPy and Python, and those that the modules of the
    model keep as attributes.

    Args:
        seed: The seed; NumPy gets its last 32 bits.
        device: Device whose generator is restored too; all devices by default.
        model: The model that will be asked, if it is an ``nn.Module``.

    Example:
        >>> import torch
        >>> from equipoise.evaluation.random_draws import seeded
        >>> model, cpu = torch.nn.Identity(), torch.device("cpu")
        >>> model.noise = torch.Generator()
        >>> with seeded(0, cpu, model):
        ...     first = torch.rand(()) + torch.rand((), generator=model.noise)
        >>> with seeded(0, cpu, model):
        ...     bool(first == torch.rand(()) + torch.rand((), generator=model.noise))
        True
    """
    own = own_generators(model) if isinstance(model, nn.Module) else []
    states = [_state(generator) for generator in own]
    numpy_state, python_state = np.random.get_state(), random.getstate()
    devices = None if device is None else [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        for generator in own:
            _seed(generator, seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
            for generator, state in zip(own, states, strict=True):
                _restore(generator, state)


def own_generators(model: nn.Module) -> list[OwnGenerator]:
    """Return the generators that the modules of a model keep as attributes.

    Example:
        >>> import torch
        >>> from equipoise.evaluation.random_draws import own_generators
        >>> model = torch.nn.Sequential(torch.nn.Flatten())
        >>> model[0].noise = torch.Generator()
        >>> len(own_generators(model))
        1
    """
    values = (value for module in model.modules() for value in vars(module).values())
    found = {id(value): value for value in values if isinstance(value, OwnGenerator)}
    return list(found.values())


def _seed(generator: OwnGenerator, seed: int) -> None:
    if isinstance(generator, torch.Generator):
        generator.manual_seed(seed)
    elif isinstance(generator, np.random.Generator):
        bits: Any = generator.bit_generator
        bits.state = type(bits)(seed).state
    elif isinstance(generator, np.random.RandomState):
        generator.seed(seed % 2**32)
    else:
        generator.seed(seed)


def _state(generator: OwnGenerator) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    if isinstance(generator, random.Random):
        return generator.getstate()
    return generator.get_state()


def _restore(generator: OwnGenerator, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)


def draw_seeds(images: Images, count: int, purpose: str) -> Iterator[int]:
    """Yield seeds that depend on the images, so that every point of a search meets fresh draws.

    Draws that were the same at every point would be part of the function that is attacked: a
    search would fit them and fail on others. These are fresh and yet reproducible.

    Args:
        images: The batch that is asked about.
        count: Number of seeds.
        purpose: Other purposes get other seeds for the same images.
    """
    content = images.detach().float().cpu().contiguous().numpy().tobytes()
    key = hashlib.sha256(content).hexdigest()
    for number in range(count):
        yield derive_seed(number, "draws", purpose, key)


def mean_logits(draws: Sequence[Logits]) -> Logits:
    """Average draws of logits, each rescaled to the median spread of its image's draws.

    The plain mean would follow the few draws with the largest logits; a draw counts once here, as
    it does where draws are counted.

    Args:
        draws: One ``(batch, classes)`` per draw.

    Returns:
        ``(batch, classes)``.

    Source:
        Athalye et al. 2018, Sec. 4.2 (EOT), with the mean of the logits; the rescaling is ours.

    Example:
        >>> import torch
        >>> from equipoise.evaluation.random_draws import mean_logits
        >>> mean_logits([torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 0.0]])])
        tensor([[1., 0.]])
    """
    stacked = torch.stack(list(draws))
    spread = stacked.detach().std(dim=2, keepdim=True)
    middle = spread.median(dim=0, keepdim=True).values
    scale = torch.where((spread > 0) & (middle > 0), middle / spread.clamp_min(1e-30), 1.0)
    mean: Tensor = (stacked * scale).mean(dim=0)
    return mean


def interval_of_mean(shares: Float[Tensor, " n"]) -> tuple[float, float]:
    """Return a 95 % interval of the mean of shares in [0, 1], one per image.

    It is the Wilson interval of as many images that are either right or wrong, which is never
    narrower than the one of shares with the same mean.

    Example:
        >>> import torch
        >>> from equipoise.evaluation.random_draws import interval_of_mean
        >>> low, high = interval_of_mean(torch.full((100,), 0.5))
        >>> round(low, 3), round(high, 3)
        (0.404, 0.596)
    """
    return wilson_interval(min(float(shares.double().sum()), len(shares)), len(shares))
