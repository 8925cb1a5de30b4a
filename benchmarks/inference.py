"""What a robust network costs where it is used: AFA's fused form and AFS beside the plain network.

Run it from the repository: ``python benchmarks/inference.py``.
"""

from collections.abc import Callable
from typing import Any

import torch
from steps import batch, network
from timing import comparison, settings, take_turns
from timing import write_record as write
from torch import Tensor, nn

from equipoise.models import FeatureStack, fuse_branches, with_branches


def answering(model: nn.Module, images: Tensor, precision: str) -> Callable[[], Tensor]:
    """Logits of a batch, as one asks for them outside of training."""
    model.eval().to(memory_format=torch.channels_last)
    images = images.contiguous(memory_format=torch.channels_last)

    def answer() -> Tensor:
        with (
            torch.inference_mode(),
            torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
        ):
            return model(images)

    return answer


def one(depth: int, width: int, count: int, precision: str, rounds: int) -> dict[str, Any]:
    images, _ = batch(count)
    plain, name = network(depth, width), f"WRN-{depth}-{width}"
    models = {
        "plain": plain,
        "AFA": fuse_branches(with_branches(plain, 2), placement="input"),
        "AFS of 3": FeatureStack([plain] * 3, 10),
    }
    turns = take_turns(
        {kind: answering(model, images, precision) for kind, model in models.items()}, rounds
    )
    what = f"Inference, {name}, batch {count}, {precision}"
    return {
        "network": name,
        "batch": count,
        "precision": precision,
        "parameters": {
            kind: sum(parameter.numel() for parameter in model.parameters())
            for kind, model in models.items()
        },
        "comparisons": [
            comparison(turns, what, "AFA", "plain", sense="cost", goal=1.1),
            comparison(turns, what, "AFS of 3", "plain", sense="cost"),
        ],
    }


def main() -> None:
    """Run, print, write the record."""
    given = settings(__doc__, rounds=21, large_rounds=5)
    write(
        __file__,
        given,
        {
            "networks": [
                one(10, 2, 128, "float32", given.rounds),
                one(10, 2, 128, "bf16", given.rounds),
                one(28, 10, 8, "float32", given.large_rounds),
                one(28, 10, 8, "bf16", given.large_rounds),
            ]
        },
    )


if __name__ == "__main__":
    main()
