"""Gradient accumulation for a batch that does not fit into memory."""

from collections.abc import Callable

import torch
from torch import Tensor

from equipoise.runtime.errors import TrainingError
from equipoise.types import Images, Labels

LossTerms = dict[str, Tensor]
Backward = Callable[[Images, Labels, float, bool], LossTerms]
_LEAST_IMAGES = 2
"""Batch norms need two images for a variance."""
_MESSAGES = (
    "out of memory", "can't allocate memory", "not enough memory",
    "alloc_failed", "allocation_failed", "bad_alloc",
)  # fmt: skip


def accumulate_gradients(
    images: Images,
    labels: Labels,
    parts: int,
    backward: Backward,
    generator: torch.Generator,
    log: Callable[[str], None],
    least: int = 0,
) -> tuple[LossTerms, int]:
    """Compute the gradients of a batch, in twice as many parts whenever memory runs out.

    A failed attempt is repeated with the same random draws. Running statistics of norms have then
    seen some of its images twice.

    Args:
        images: The batch.
        labels: Its classes.
        parts: Number of parts of the first attempt.
        backward: Called with the images and labels of a part, its share of the batch, and whether
            it is the first part. It clears the gradients if so, adds those of the part times its
            share, and returns the loss terms of the part.
        generator: Generator of the step's random draws.
        log: Receives a message whenever the number of parts doubles.
        least: Fewest images that a part may have; never fewer than two.

    Returns:
        The loss terms, averaged over the batch, and the number of parts.

    Raises:
        TrainingError: If memory does not suffice for parts of ``least`` images.
    """
    while True:
        state = generator.get_state()
        outcome = _attempt(images, labels, parts, backward)
        if not isinstance(outcome, str):
            return outcome, parts
        # Outside of the except clause: the frames of the error hold tensors that must be freed.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        generator.set_state(state)
        parts *= 2
        if len(images) < max(least, _LEAST_IMAGES) * parts:
            why = f", and this method needs at least {least}" if least > _LEAST_IMAGES else ""
            raise TrainingError(
                f"memory does not suffice for a step of {2 * len(images) // parts} images "
                f"({outcome}){why}. Earlier checkpoints are kept. Use a smaller network or image, "
                "bf16-mixed precision, or a device with more memory."
            )
        log(
            f"out of memory: from now on, each batch of {len(images)} is trained in {parts} parts "
            f"with accumulated gradients. Batch norms see {len(images) // parts} images at a time, "
            "and steps take longer."
        )


def _attempt(images: Images, labels: Labels, parts: int, backward: Backward) -> LossTerms | str:
    """Return the averaged loss terms, or the allocator's message if memory ran out."""
    total: LossTerms = {}
    pairs = zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True)
    try:
        for number, (part_images, part_labels) in enumerate(pairs):
            share = len(part_images) / len(images)
            for name, term in backward(part_images, part_labels, share, number == 0).items():
                value = term.detach() * share
                total[name] = total[name] + value if name in total else value
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return first_line(error)
    return total


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if it has none."""
    return (str(error) or type(error).__name__).splitlines()[0]


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an allocator of any device ran out of memory."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _MESSAGES)
    )
