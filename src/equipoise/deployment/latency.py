"""Time that a model takes for an image and for a batch, beside its plain network."""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from equipoise.models import AdaptiveNetwork, count_parameters
from equipoise.models.afa.adaptive_network import FusedSite
from equipoise.models.batch_norms import replace_modules
from equipoise.models.copied import copied
from equipoise.runtime.environment import environment

BATCHES = (1, 64)
"""Batch sizes that are timed."""


def measure_latency(
    network: nn.Module,
    image_shape: Sequence[int],
    batches: Sequence[int] = BATCHES,
    seconds: float = 0.5,
) -> dict[str, Any]:
    """Time a network's answers in float32 on the device where it is.

    An AFA network is timed in turns with its plain network, which has one batch norm in place of
    each fused one and no weight generator: the difference is the cost of AFA.

    Args:
        network: The network, in eval mode.
        image_shape: Channels, height and width.
        batches: Numbers of images to answer at a time.
        seconds: Time to spend on each.

    Returns:
        Median milliseconds of a call by batch size, the same of the plain network for AFA,
        parameters, processor or GPU, and threads.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
        >>> measured = measure_latency(network, (1, 8, 8), batches=(1, 2), seconds=0.01)
        >>> list(measured["milliseconds"]), measured["plain"], measured["parameters"]
        (['1', '2'], None, 650)
    """
    plain = _plain(network) if isinstance(network, AdaptiveNetwork) else None
    rivals = [network] if plain is None else [network, plain]
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    timed = {
        str(count): _in_turns(rivals, torch.rand(count, *image_shape, device=device), seconds)
        for count in batches
    }
    about = environment()
    return {
        "milliseconds": {count: times[0] for count, times in timed.items()},
        "plain": None if plain is None else {count: times[1] for count, times in timed.items()},
        "parameters": count_parameters(network),
        "hardware": about["processor"] if device.type == "cpu" else about["devices"][0],
        "threads": torch.get_num_threads(),
    }


def latency_sentence(latency: dict[str, Any]) -> str:
    """Say in words what ``measure_latency`` returned.

    Example:
        >>> measured = {"milliseconds": {"1": 0.5, "64": 8.0}, "plain": {"1": 0.25, "64": 6.4},
        ...             "parameters": 78_042, "hardware": "CPU", "threads": 2}
        >>> latency_sentence(measured)
        'Inference takes 0.5 ms for 1 image and 8 ms for 64 (float32, CPU, 2 threads), 2.00 and \
1.25 times as long as the network without AFA. 78,042 parameters.'
    """
    times, plain = latency["milliseconds"], latency["plain"]
    listed = [f"{value:.3g} ms for {count}" for count, value in times.items()]
    listed[0] += " image" if next(iter(times)) == "1" else " images"
    text = f"Inference takes {' and '.join(listed)} (float32, {latency['hardware']}, "
    text += f"{latency['threads']} threads)"
    if plain is not None:
        ratios = " and ".join(f"{times[count] / plain[count]:.2f}" for count in times)
        text += f", {ratios} times as long as the network without AFA"
    return f"{text}. {latency['parameters']:,} parameters."


def _plain(adaptive: AdaptiveNetwork) -> nn.Module:
    """The network with a plain norm in place of each fused one; its answers mean nothing."""
    network = copied(adaptive.network)

    def plain_norm(site: FusedSite) -> nn.BatchNorm2d:
        return nn.BatchNorm2d(site.norm.scale.shape[1]).to(site.norm.scale)

    replace_modules(network, FusedSite, plain_norm)
    return network.eval()


def _in_turns(networks: Sequence[nn.Module], images: torch.Tensor, seconds: float) -> list[float]:
    """Median milliseconds of each network, called in turns so that all meet the same machine."""
    times: list[list[float]] = [[] for _ in networks]
    with torch.inference_mode():
        for network in networks:
            network(images)  # the first call is slower
        end = time.perf_counter() + seconds * len(networks)
        while time.perf_counter() < end or len(times[0]) < 5:
            for network, taken in zip(networks, times, strict=True):
                begin = time.perf_counter()
                network(images)
                if images.is_cuda:
                    torch.cuda.synchronize()
                taken.append(1000 * (time.perf_counter() - begin))
    return [statistics.median(taken) for taken in times]
