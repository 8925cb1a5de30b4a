"""Gradient accumulation for a batch that does not fit into memory."""

from collections.abc import Iterator

import torch

from equipoise.runtime.errors import TrainingError
from equipoise.types import Images, Labels

_LEAST_IMAGES = 2
"""Batch norms need two images for a variance."""
_MESSAGES = (
    "out of memory", "can't allocate memory", "not enough memory",
    "alloc_failed", "allocation_failed", "bad_alloc",
)  # fmt: skip


def micro_batches(images: Images, labels: Labels, parts: int) -> Iterator[tuple[Images, Labels]]:
    """Split a batch into parts of nearly equal size.

    Args:
        images: The batch.
        labels: Its classes.
        parts: Number of parts.
    """
    return zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True)


def double_parts(parts: int, images: int, least: int, error: str) -> int:
    """Return twice as many parts, after memory ran out.

    Args:
        parts: Number of parts that did not fit.
        images: Images in the batch.
        least: Fewest images that a part may have; never fewer than two.
        error: The allocator's message.

    Raises:
        TrainingError: If parts of ``least`` images are too large already.
    """
    if images < max(least, _LEAST_IMAGES) * 2 * parts:
        why = f", and this method needs at least {least}" if least > _LEAST_IMAGES else ""
        raise TrainingError(
            f"memory does not suffice for a step of {images // parts} images ({error}){why}. "
            "Earlier checkpoints are kept. Use a smaller network or image, bf16-mixed precision, "
            "or a device with more memory."
        )
    return 2 * parts


def release_cached_memory() -> None:
    """Return the accelerator's cached memory, for a further attempt with smaller batches.

    Call it outside of an except clause: the frames of the error hold tensors that must be freed.
    """
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if it has none."""
    return (str(error) or type(error).__name__).splitlines()[0]


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an allocator of any device ran out of memory."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _MESSAGES)
    )
