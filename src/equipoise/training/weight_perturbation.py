"""Adversarial weight perturbation: the step's gradient is taken where the loss is higher."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from equipoise.models.afa.branches import MultiBatchNorm2d
from equipoise.training import checkpoint


@contextlib.contextmanager
def perturbed(
    module: nn.Module,
    gamma: float,
    generator: torch.Generator,
    loss: Callable[[], Tensor],
    total: Callable[[Tensor], Tensor] = lambda gradient: gradient,
) -> Iterator[None]:
    """Move each layer's weights up the loss by ``gamma`` times their norm, and back afterwards.

    The loss is called once before anything is moved, for its gradient. Every generator is then set
    back, so that the caller's own call inside draws what the first one drew: augmentation of an
    objective, dropout, the random start of the attack. Afterwards weights *and buffers* are, bit
    for bit, what the first call left: statistics move once a step, and are those of the weights
    that are kept, not of perturbed ones.

    Args:
        module: What is trained. Only parameters with two axes or more that require a gradient are
            moved; biases and norms' scales are not, in whatever shape a branched norm keeps them.
        gamma: Length of a layer's perturbation as a share of the norm of its weights.
        generator: Of the step.
        loss: The step's own loss; a mean over images.
        total: Adds up the gradients of processes that share the batch.

    Returns:
        A context manager; forward and backward of the step belong inside, the optimiser's step
        outside.

    Source:
        Wu et al. 2020 (2004.05884), Alg. 1 with one step for the weights. Deviations: the attack
        is run again, on the perturbed weights and from the same random start: one more alternation
        of the two maximisations, over images and over weights, that the authors alternate; they
        keep the images found on the unperturbed weights. The perturbation climbs the step's whole
        loss. Weight decay acts on the unperturbed weights; the authors' code decays the perturbed
        ones. Running statistics are those of the unperturbed weights.
    """
    norms = [each for each in module.modules() if isinstance(each, MultiBatchNorm2d)]
    spared = {id(p) for norm in norms for p in norm.parameters()}
    weights = [
        p for p in module.parameters() if p.requires_grad and p.ndim > 1 and id(p) not in spared
    ]
    if not weights:
        yield
        return
    drawn, global_drawn = generator.get_state(), checkpoint.random_state()
    gradients = torch.autograd.grad(loss(), weights, allow_unused=True)
    generator.set_state(drawn)
    checkpoint.set_random_state(global_drawn)
    with torch.no_grad():
        kept = [(tensor, tensor.clone()) for tensor in (*weights, *module.buffers())]
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
            for tensor, value in kept:
                tensor.copy_(value)
