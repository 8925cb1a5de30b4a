"""How the engine asks a model that is not a plain deterministic float32 network of K classes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from equipoise.attacks.goals import Fold, fold_reject, misclassified
from equipoise.evaluation.random_draws import draw_seeds, mean_logits, seeded
from equipoise.types import Images, Labels, Logits, Predict

VOTES = 50
"""Fresh draws that decide whether a randomised model misclassifies an image."""

Mask = Bool[Tensor, " batch"]


class AskedModel(nn.Module):
    """A model together with the way in which attacks and scores ask it.

    - **Randomised** (``draws`` above 0): attacks see the mean logits of fresh draws; a point counts
      as misclassified where at least half of ``VOTES`` further draws misclassify it.
    - **Reject option**: the last of K + 1 logits means "reject". A clean image is right only if its
      label has the largest logit; under attack, rejecting it is not an error.
    - **Stand-in gradient**: forward passes are the model's, backward passes the stand-in's (BPDA).
    - **Other dtypes**: images are cast to the dtype of the model's weights and half-precision
      logits to float32. Gradients come from a float32 copy where it agrees with the model;
      otherwise they are rescaled, so that they do not underflow.

    Args:
        network: Images in [0, 1] to logits, in eval mode.
        draws: Draws in the mean that attacks see; 0 for a deterministic model.
        reject: Whether the last logit means "reject".
        stand_in: Images to logits of the same shape, for the backward pass.
        gives_gradients: Whether the logits depend on the images as autograd sees it.
        float32: A float32 copy of the network whose gradient is used in place of its own.

    Source:
        Athalye et al. 2018 (EOT and BPDA); Tramer et al. 2020 (reject option).

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from equipoise.evaluation.asked_model import AskedModel
        >>> model = AskedModel(nn.Flatten(), reject=True).eval()  # 2 classes and "reject"
        >>> images = torch.tensor([[0.1, 0.2, 0.9], [0.1, 0.9, 0.2]]).reshape(2, 1, 1, 3)
        >>> labels = torch.tensor([0, 0])
        >>> model.misclassifies(images, labels), model.misclassifies(images, labels, clean=True)
        (tensor([False,  True]), tensor([True, True]))
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        draws: int = 0,
        reject: bool = False,
        stand_in: nn.Module | None = None,
        gives_gradients: bool = True,
        float32: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.network, self.stand_in, self.float32 = network, stand_in, float32
        self.draws, self.reject = draws, reject
        self.gives_gradients = gives_gradients or stand_in is not None
        self.train(network.training)

    def extra_repr(self) -> str:
        """Show how the model is asked: asked in another way, it is another function."""
        return f"draws={self.draws}, reject={self.reject}"

    def forward(self, images: Images) -> Logits:
        """Return the logits that attacks see; of a randomised model, the mean over draws."""
        if not self.draws:
            return self._draw(images)
        return mean_logits(
            [self._seeded(images, seed) for seed in draw_seeds(images, self.draws, "search")]
        )

    @property
    def fold(self) -> Fold | None:
        """The change of logits that makes rejecting an attacked image no error."""
        return fold_reject if self.reject else None

    @torch.no_grad()
    def misclassifies(
        self, images: Images, labels: Labels, *, clean: bool = False, purpose: str = "vote"
    ) -> Mask:
        """Return whether each image counts as misclassified.

        Args:
            images: The images.
            labels: Class indices.
            clean: Whether they are clean, so that rejecting them is an error.
            purpose: Name of the draws.
        """
        return self.share_wrong(images, labels, clean=clean, purpose=purpose) >= 0.5

    @torch.no_grad()
    def share_wrong(
        self, images: Images, labels: Labels, *, clean: bool = False, purpose: str = "vote"
    ) -> Float[Tensor, " batch"]:
        """Return the share of draws that misclassify each image, 0 or 1 without randomness.

        Args:
            images: The images.
            labels: Class indices.
            clean: Whether they are clean, so that rejecting them is an error.
            purpose: Name of the draws.
        """
        draws: list[Callable[[], Logits]] = [partial(self._draw, images)]
        if self.draws:
            seeds = draw_seeds(images, VOTES, purpose)
            draws = [partial(self._seeded, images, seed) for seed in seeds]
        wrong = torch.zeros(len(images), device=images.device)
        for draw in draws:
            logits = draw()
            if self.reject and not clean:
                logits = fold_reject(logits, labels)
            wrong += misclassified(logits, labels)
        return wrong / len(draws)

    def _seeded(self, images: Images, seed: int) -> Logits:
        with seeded(seed, images.device, self.network):
            return self._draw(images)

    def _draw(self, images: Images) -> Logits:
        """Ask the model once."""
        differentiate = torch.is_grad_enabled() and images.requires_grad and self.gives_gradients
        source = self.stand_in if self.stand_in is not None else self.float32
        if differentiate and source is not None:
            with torch.no_grad():
                logits = self._answer(images.detach())
            result: Logits = _GradientOf.apply(source(images), logits)
            return result
        if differentiate:
            return self._answer(images)
        with torch.no_grad():
            return self._answer(images.detach())

    def _answer(self, images: Images) -> Logits:
        logits: Logits = self.network(images.to(weights_dtype(self.network)))
        if isinstance(logits, Tensor) and logits.is_inference():
            logits = logits.clone()  # a tensor that autograd may use
        if isinstance(logits, Tensor) and logits.dtype in (torch.float16, torch.bfloat16):
            logits = _ToFloat32.apply(logits)
        return logits


def weights_dtype(network: nn.Module) -> torch.dtype:
    """Return the dtype of a model's first floating-point parameter or buffer, by default float32.

    Example:
        >>> import torch
        >>> from equipoise.evaluation.asked_model import weights_dtype
        >>> weights_dtype(torch.nn.Linear(2, 2).half())
        torch.float16
    """
    tensors = (*network.parameters(), *network.buffers())
    return next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)


def fold_of(model: object) -> Fold | None:
    """Return how the logits of a model are folded before they are scored under attack, if at all.

    Example:
        >>> fold_of(AskedModel(nn.Flatten(), reject=True)) is fold_reject, fold_of(nn.Flatten())
        (True, None)
    """
    return model.fold if isinstance(model, AskedModel) else None


def folded_logits(model: Predict, images: Images, labels: Labels) -> Logits:
    """Return a model's logits as they are scored under attack, see ``fold_of``.

    Returns:
        ``(batch, classes)``, without the column of a reject option.
    """
    logits, fold = model(images), fold_of(model)
    return logits if fold is None else fold(logits, labels)


def draws_of(model: object) -> int:
    """Return the number of draws of one forward pass of a randomised model; 0 for any other.

    Example:
        >>> draws_of(AskedModel(nn.Flatten(), draws=10)), draws_of(nn.Flatten())
        (10, 0)
    """
    return model.draws if isinstance(model, AskedModel) else 0


@torch.no_grad()
def misclassifies(
    model: Any, images: Images, labels: Labels, *, clean: bool = False, purpose: str = "vote"
) -> Mask:
    """Return whether a model misclassifies each image, by the rule of its kind.

    Args:
        model: Any function of images to logits.
        images: The images.
        labels: Class indices.
        clean: Whether the images are clean.
        purpose: Name of the draws of a randomised model.

    Example:
        >>> images = torch.tensor([[0.1, 0.9], [0.9, 0.1]]).reshape(2, 1, 1, 2)
        >>> misclassifies(nn.Flatten(), images, torch.tensor([0, 0]))
        tensor([ True, False])
    """
    if isinstance(model, AskedModel):
        return model.misclassifies(images, labels, clean=clean, purpose=purpose)
    return misclassified(model(images), labels)


class _GradientOf(torch.autograd.Function):
    """The values of one tensor with the gradient of another."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, values: Tensor) -> Tensor:
        ctx.dtype = source.dtype
        return values.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.to(ctx.dtype), None


class _ToFloat32(torch.autograd.Function):
    """Half-precision logits in float32. Each row of the gradient is scaled to a largest entry of 1.

    A positive factor per image changes no direction of ascent, and without it the small gradient
    of a confident softmax would be 0 in float16.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        ctx.dtype = logits.dtype
        return logits.float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        largest = gradient.abs().amax(dim=1, keepdim=True)
        return (gradient / torch.where(largest > 0, largest, 1.0)).to(ctx.dtype)
