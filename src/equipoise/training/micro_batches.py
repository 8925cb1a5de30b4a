"""A step that does not fit into memory: its batch in halves, their gradients added up."""

from collections.abc import Callable

import torch
from torch import Tensor

from equipoise.runtime.errors import TrainingError
from equipoise.types import Images, Labels

Terms = dict[str, Tensor]
Backward = Callable[[Images, Labels, float, bool], Terms]
_LEAST = 2
"""Images; batch norms have no variance of fewer."""
_SAID = (
    "out of memory", "can't allocate memory", "not enough memory",
    "alloc_failed", "allocation_failed", "bad_alloc",
)  # fmt: skip


def in_parts(
    images: Images,
    labels: Labels,
    parts: int,
    backward: Backward,
    generator: torch.Generator,
    say: Callable[[str], None],
    least: int = 0,
) -> tuple[Terms, int]:
    """The gradients of a batch, in as many parts as the memory asks for.

    A step that fails begins again with the draws that it began with. Statistics of norms have then
    seen a part of its images once more.

    Args:
        images: The batch.
        labels: Its classes.
        parts: How many to begin with.
        backward: Gets a part, its share of the batch, and whether it is the first; it adds the
            part's gradients, times its share, to those that are there, after removing them if it
            is the first, and returns the part's terms.
        generator: Of the step's draws.
        say: Hears of every halving.
        least: Images that a part must have, two at least.

    Returns:
        The terms, as means over the batch, and how many parts there were.

    Raises:
        TrainingError: If memory does not suffice for so few images.
    """
    while True:
        drawn = generator.get_state()
        found = _attempt(images, labels, parts, backward)
        if not isinstance(found, str):
            return found, parts
        # Out of the except clause: the error's frames hold the tensors that must go.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        generator.set_state(drawn)
        parts *= 2
        if len(images) < max(least, _LEAST) * parts:
            why = (
                f", and {least} are the fewest that this method deals out" if least > _LEAST else ""
            )
            raise TrainingError(
                f"memory does not suffice for a step of {2 * len(images) // parts} images "
                f"({found}){why}. Earlier checkpoints are kept. Use a smaller network or image, "
                "bf16-mixed precision, or a device with more memory."
            )
        say(
            f"out of memory: from now on each batch of {len(images)} is trained in {parts} parts "
            f"whose gradients are added up. Batch norms see {len(images) // parts} images at a "
            "time, and steps take longer."
        )


def _attempt(images: Images, labels: Labels, parts: int, backward: Backward) -> Terms | str:
    total: Terms = {}
    pairs = zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True)
    try:
        for number, (some, their) in enumerate(pairs):
            share = len(some) / len(images)
            for name, term in backward(some, their, share, number == 0).items():
                value = term.detach() * share
                total[name] = total[name] + value if name in total else value
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return (str(error) or type(error).__name__).splitlines()[0]
    return total


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator, of whichever device, had no more memory to give."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and any(said in str(error).lower() for said in _SAID)
    )
