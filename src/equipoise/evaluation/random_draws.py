"""Draws of a randomised model: seeded one by one, averaged for attacks, counted for scores."""

import contextlib
import hashlib
import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.evaluation.statistics import wilson_interval
from equipoise.runtime.seeds import derive_seed
from equipoise.types import Images, Logits


@contextlib.contextmanager
def global_seed(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators of torch, NumPy and Python, and restore them afterwards.

    Args:
        seed: The seed; NumPy gets its last 32 bits.
        device: Device of the images, whose generator is seeded too.

    Example:
        >>> import torch
        >>> from equipoise.evaluation.random_draws import global_seed
        >>> with global_seed(0, torch.device("cpu")):
        ...     first = torch.rand(())
        >>> with global_seed(0, torch.device("cpu")):
        ...     bool(first == torch.rand(()))
        True
    """
    numpy_state, python_state = np.random.get_state(), random.getstate()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


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
