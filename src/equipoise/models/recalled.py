"""A network's answer to a batch that it has seen, recalled instead of computed again."""

from functools import partial

from torch import Tensor

from equipoise.types import Images, Logits, Predict


class Recalled:
    """Predict as a function does, but answer one batch from memory.

    AFA predicts the clean images of a step once. An objective that predicts them again gets the
    same logits, on the same graph: nothing is computed twice, and the norms' running statistics
    move once.

    Args:
        predict: The function; a network, or a ``functools.partial`` of one.
        images: The batch to remember, recognised as the same tensor, not by its values.
        logits: Its logits; ``None`` to compute them at the first call.

    Shape:
        Images ``(batch, channel, height, width)`` to logits ``(batch, classes)``.

    Source:
        AFA Algorithm 1: one loss of the clean images a step.

    Example:
        >>> import torch
        >>> calls = []
        >>> def predict(images):
        ...     calls.append(len(images))
        ...     return images.flatten(1)
        >>> images = torch.rand(2, 1, 1, 3)
        >>> recalled = Recalled(predict, images)
        >>> recalled(images) is recalled(images), calls
        (True, [2])
        >>> _ = recalled(images[:1])  # another tensor: computed
        >>> calls
        [2, 1]
    """

    def __init__(self, predict: Predict, images: Images, logits: Logits | None = None) -> None:
        self.predict = predict
        self.images = images
        self.logits: Tensor | None = logits

    def __call__(self, images: Images) -> Logits:
        """Return the logits of the images."""
        if images is not self.images:
            return self.predict(images)
        if self.logits is None:
            self.logits = self.predict(images)
        return self.logits


def function_behind(predict: object) -> object:
    """Return what a ``Recalled``, a ``functools.partial`` or both around each other call.

    Args:
        predict: Any function.

    Returns:
        The innermost function; ``predict`` itself if it is neither.

    Example:
        >>> from functools import partial
        >>> function_behind(partial(partial(print, end=""), sep="")) is print
        True
    """
    while isinstance(predict, partial | Recalled):
        predict = predict.func if isinstance(predict, partial) else predict.predict
    return predict
