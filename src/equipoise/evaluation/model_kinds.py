"""Find out what kind of model is evaluated: randomised, without gradients, in another precision."""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from equipoise.attacks.threat import Threat
from equipoise.evaluation.asked_model import AskedModel, weights_dtype
from equipoise.models.attack_mode.context import attack_mode
from equipoise.runtime.errors import InvalidInput, RunError, UserError
from equipoise.types import Images, Logits

PROBE_IMAGES = 64
DRAWS = 10
"""Draws in the mean that attacks on a randomised model see, if the caller names no number."""

REPEAT_TOLERANCE = 1e-5
"""Largest difference between two answers that float32 sums in another order explain, as a share of
the logits' spread over the classes."""

COPY_TOLERANCE = 0.1
"""Largest mean difference between a model of lower precision and its float32 copy, in units of the
logits' spread over the classes; a copy that differs by more computes something else."""

HALF = (torch.float16, torch.bfloat16)


def is_randomised(network: nn.Module, images: Images, threats: list[Threat]) -> bool:
    """Return whether two queries with the same batch get different answers.

    The batches are the clean images, noise at each strength, and one gradient step at the largest.
    The global generators are left as they are, so a model that draws from them moves them on.

    Args:
        network: Images to logits, in eval mode.
        images: Clean images.
        threats: Threats at the strengths of the evaluation.

    Example:
        >>> import torch
        >>> from equipoise.evaluation.model_kinds import is_randomised
        >>> class Noisy(torch.nn.Module):
        ...     def forward(self, images):
        ...         return images.flatten(1) + torch.rand(2)
        >>> images = torch.rand(4, 1, 1, 2)
        >>> is_randomised(Noisy(), images, []), is_randomised(torch.nn.Flatten(), images, [])
        (True, False)
    """
    generator = torch.Generator(images.device).manual_seed(0)
    batches = [images, *(threat.random_start(images, generator) for threat in threats)]
    if threats:
        gradient = _gradient(network, images)
        if gradient is not None:
            step = threats[-1].ascent(gradient.nan_to_num()) * threats[-1].epsilon
            batches.append(threats[-1].project(images + step, images))
    with torch.no_grad():
        return any(_differ(network(batch), network(batch)) for batch in batches)


def ask_rightly(
    network: nn.Module,
    images: Images,
    threats: list[Threat],
    *,
    draws: int | None = None,
    reject: bool = False,
    stand_in: nn.Module | None = None,
) -> nn.Module:
    """Return a model as the engine must ask it: itself if it is plain, else an ``AskedModel``.

    Args:
        network: Images to logits, in eval mode. A copy of it is probed, so that a model that
            remembers its queries does not know these.
        images: A few clean images, on its device.
        threats: Threats at the strengths above 0, ascending.
        draws: Number of draws that attacks average; asking for it says that the model is
            randomised. By default the model is asked, and ``DRAWS`` are used if it is.
        reject: Whether the last of its logits means "reject".
        stand_in: Differentiable stand-in for the backward pass.

    Raises:
        ValueError: If ``draws`` is below 1, or the stand-in does not return logits of the same
            shape as the model's.

    Example:
        >>> import torch
        >>> from equipoise.evaluation.model_kinds import ask_rightly
        >>> network, images = torch.nn.Flatten().eval(), torch.rand(4, 1, 1, 2)
        >>> ask_rightly(network, images, []) is network
        True
        >>> ask_rightly(network.double(), images, [], reject=True).reject
        True
    """
    if draws is not None and draws < 1:
        raise InvalidInput(f"draws must be 1 or more, got {draws}.")
    images = images[:PROBE_IMAGES]
    try:
        probed = copy.deepcopy(network)
    except Exception:
        probed = network
    _check_runs(AskedModel(probed, reject=reject), images)
    with attack_mode(probed), torch.autocast(images.device.type, enabled=False):
        if stand_in is not None:
            stand_in = stand_in.eval().requires_grad_(False)
            _check_stand_in(stand_in, AskedModel(probed, reject=reject), images)
        plain = AskedModel(probed)
        gives_gradients = getattr(network, "gives_gradients", True)
        gives_gradients = gives_gradients and _gradient(plain, images[:2]) is not None
        if draws is None:
            draws = DRAWS if is_randomised(plain, images, threats) else 0
        lower = weights_dtype(network) in HALF
        float32 = _float32_copy(network, plain, images) if lower and gives_gradients else None
    other = weights_dtype(network) != torch.float32 or stand_in is not None or reject or draws > 0
    if gives_gradients and not other:
        return network
    return AskedModel(
        network,
        draws=draws,
        reject=reject,
        stand_in=stand_in,
        gives_gradients=gives_gradients,
        float32=float32,
    )


def _check_runs(network: nn.Module, images: Images) -> None:
    """Reject a network that fails on the images, before anything depends on it."""
    shape = tuple(images.shape[1:])
    try:
        with torch.no_grad():
            network(images[:2])
    except UserError:
        raise
    except Exception as error:  # a user's network may raise any
        raise RunError(
            f"the model fails on images of shape {shape}: {type(error).__name__}: {error}. Name "
            "data of the size and channels that it was made for."
        ) from error


def _gradient(network: nn.Module, images: Images) -> Tensor | None:
    """The gradient of the sum of squared logits, or None if autograd has none."""
    points = images.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        logits = network(points)
        if not isinstance(logits, Tensor) or not logits.requires_grad:
            return None
        try:
            (gradient,) = torch.autograd.grad(logits.square().sum(), points, allow_unused=True)
        except (NotImplementedError, RuntimeError):
            return None  # some operation has no backward pass
        return gradient


def _differ(first: Logits, second: Logits) -> bool:
    if not isinstance(first, Tensor) or first.shape != second.shape:
        return False  # refused later, with a better message
    spread = first.float().std(dim=1).mean().nan_to_num(1.0).clamp_min(1e-30)
    difference = (first - second).float().nan_to_num(0.0).abs().max()
    return bool(difference > REPEAT_TOLERANCE * spread)


def _check_stand_in(stand_in: nn.Module, model: nn.Module, images: Images) -> None:
    with torch.no_grad():
        expected, got = model(images[:2]).shape, stand_in(images[:2])
    if not isinstance(got, Tensor) or got.shape != expected:
        shape = tuple(got.shape) if isinstance(got, Tensor) else type(got).__name__
        raise InvalidInput(
            f"the stand-in for the gradient must return logits of shape {tuple(expected)} as the "
            f"model does, got {shape}. A stand-in for the front end alone has to be followed by "
            "the rest of the network, for example nn.Sequential(front_end, network)."
        )
    if _gradient(stand_in, images[:2]) is None:
        raise InvalidInput(
            "the stand-in for the gradient must be differentiable, but its logits do not depend "
            "on the images; leave out no_grad, detach and rounding in it."
        )


def _float32_copy(network: nn.Module, model: nn.Module, images: Images) -> nn.Module | None:
    """A float32 copy of a model of lower precision, or None if it does not run or disagrees."""
    try:
        copied = copy.deepcopy(network).float().requires_grad_(False)
        with torch.no_grad():
            expected, got = model(images), copied(images)
        spread = expected.std(dim=1).mean().clamp_min(1e-30)
        agrees = bool((got - expected).abs().mean() <= COPY_TOLERANCE * spread)
        return copied if agrees and _gradient(copied, images[:2]) is not None else None
    except Exception:  # such as a cast to a fixed dtype inside
        return None


def marks_of(model: nn.Module, images: Images, labels: Tensor) -> list[dict[str, object]]:
    """Describe what is special about a model's evaluation, for the record's ``marks``.

    Args:
        model: The model, as ``ask_rightly`` returned it.
        images: Clean images, of which shares are taken.
        labels: Their labels.

    Returns:
        One entry with ``name`` and ``meaning`` for each mark; none for a plain model. The numbers
        of a randomised model are added by the record.

    Example:
        >>> import torch
        >>> from equipoise.evaluation.model_kinds import marks_of
        >>> images, labels = torch.rand(4, 1, 1, 2), torch.zeros(4, dtype=torch.long)
        >>> marks_of(torch.nn.Flatten(), images, labels)
        []
        >>> asked = AskedModel(torch.nn.Flatten(), draws=5)
        >>> [mark["name"] for mark in marks_of(asked, images, labels)]
        ['randomised']
    """
    if not isinstance(model, AskedModel):
        return []
    with attack_mode(model), torch.autocast(images.device.type, enabled=False), torch.no_grad():
        return list(_marks(model, images, labels))


def _marks(model: AskedModel, images: Images, labels: Tensor) -> Iterator[dict[str, object]]:
    if not model.gives_gradients:
        yield {
            "name": "black box only",
            "meaning": "the model gives no gradients, so only attacks that ask for its answers "
            "were run; an attacker with gradients would find more.",
        }
    if model.draws:
        yield {
            "name": "randomised",
            "meaning": f"attacks followed the mean of {model.draws} draws (EOT). An image "
            "counts as misclassified where at least half of its fresh draws are wrong; the score "
            "is the lower one of this and of the mean accuracy of single draws.",
            "draws": model.draws,
        }
    logits = torch.cat([model(batch) for batch in images.split(256)])
    if model.stand_in is not None:
        other = torch.cat([model.stand_in(batch) for batch in images.split(256)])
        agreement = float((other.argmax(dim=1) == logits.argmax(dim=1)).double().mean())
        yield {
            "name": "stand-in gradient",
            "meaning": "gradients came from a stand-in named by the user (BPDA); the score is only "
            "as good as the stand-in resembles the model.",
            "agreement": agreement,
        }
    if model.reject:
        rejected = float((logits.argmax(dim=1) == logits.shape[1] - 1).double().mean())
        yield {
            "name": "reject option",
            "meaning": "under attack, rejecting an image is not an error; a clean image that is "
            "rejected is one.",
            "clean_rejected": rejected,
        }
    dtype = weights_dtype(model.network)
    if dtype in HALF:
        source = "of a float32 copy" if model.float32 is not None else "of the model itself"
        yield {
            "name": "lower precision",
            "meaning": f"the model computes in {str(dtype).removeprefix('torch.')} and was scored "
            f"so; attacks followed the gradient {source}.",
        }
