"""Adversarial weight perturbation: take the gradient of a step where its loss is higher."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from equipoise.models.afa.branches import MultiBatchNorm2d
from equipoise.training import checkpoint


@contextlib.contextmanager
def perturbed_weights(
    module: nn.Module,
    gamma: float,
    generator: torch.Generator,
    loss: Callable[[], Tensor],
    total: Callable[[Tensor], Tensor] = lambda gradient: gradient,
) -> Iterator[None]:
    """Move the weights of each layer up the loss by ``gamma`` times their norm, then restore them.

    ``loss`` is called once, at the unperturbed weights, for its gradient. All generators are then
    reset, so that the forward pass inside draws the same numbers: the objective's augmentation,
    dropout, the random start of the attack. On exit, weights *and buffers* are bit-identical to
    what that first call left: running statistics move once per step and belong to the unperturbed
    weights.

    Args:
        module: The trained module. Only parameters with at least two axes that require a gradient
            are perturbed; biases and the affine parameters of norms are not, whatever their shape.
        gamma: Length of a layer's perturbation relative to the norm of its weights.
        generator: Generator of the step.
        loss: Computes the loss of the step, a mean over images.
        total: Sums gradients over the processes that share the batch.

    Returns:
        A context manager. Forward and backward pass belong inside, the optimiser step outside.

    Source:
        Wu et al. 2020 (2004.05884), Alg. 1 with one step for the weights. Deviations: the attack
        runs again on the perturbed weights, from the same random start, which is one more
        alternation of the two maximisations; the authors keep the images found at the unperturbed
        weights. The perturbation climbs the whole loss of the step. Weight decay acts on the
        unperturbed weights; the authors' code decays the perturbed ones. Running statistics are
        those of the unperturbed weights.

    Example:
        >>> network = nn.Linear(3, 2)
        >>> images = torch.ones(4, 3)
        >>> def loss():
        ...     return network(images).square().mean()
        >>> plain = loss().item()
        >>> with perturbed_weights(network, 0.1, torch.Generator(), loss):
        ...     loss().item() > plain
        True
        >>> loss().item() == plain
        True
    """
    norms = [norm for norm in module.modules() if isinstance(norm, MultiBatchNorm2d)]
    excluded = {id(parameter) for norm in norms for parameter in norm.parameters()}
    weights = [
        p for p in module.parameters() if p.requires_grad and p.ndim > 1 and id(p) not in excluded
    ]
    if not weights:
        yield
        return
    state, global_state = generator.get_state(), checkpoint.random_state()
    gradients = torch.autograd.grad(loss(), weights, allow_unused=True)
    generator.set_state(state)
    checkpoint.set_random_state(global_state)
    with torch.no_grad():
        before = [(tensor, tensor.clone()) for tensor in (*weights, *module.buffers())]
    try:
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                if gradient is not None:
                    gradient = total(gradient)
                    length = gradient.norm().clamp_min(torch.finfo(gradient.dtype).tiny)
                    weight.add_(gradient * (gamma * weight.norm() / length))
        yield
    finally:
        with torch.no_grad():
            for tensor, value in before:
                tensor.copy_(value)
