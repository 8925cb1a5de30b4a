"""Compute data of the papers' figures from saved models, and cache it as JSON."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from torch import Tensor, nn

from equipoise.attacks import PGD
from equipoise.attacks.goals import cross_entropy
from equipoise.attacks.threat import Linf
from equipoise.data import Split
from equipoise.models import AdaptiveNetwork, count_multiply_adds, load
from equipoise.models.attack_mode.context import attack_mode
from equipoise.models.io.model_folder import WEIGHTS
from equipoise.models.last_linear import features_and_logits, find_last_linear
from equipoise.records.epsilon import format_epsilon
from equipoise.runtime.files import read_json, write_json
from equipoise.runtime.seeds import derive_seed
from equipoise.types import Images

STRENGTHS = 9
"""Number of strengths in a curve, including 0 and the strongest."""
IMAGES = 500
"""Maximum number of test images; the cost of t-SNE grows with its square."""
EXAMPLES = 5
"""Number of images whose gradients are shown, each of a different class."""
BINS = 61
"""Bins of a histogram of weights."""

Models = Sequence[nn.Module]


def figure_data(
    kind: str, folders: Sequence[Path], split: Split, *, strongest: float, seed: int
) -> Any:
    """Compute one kind of data from models, or read it from the cache.

    The cache is ``figures/<kind>.json`` in the first run folder. It is used if weights, images,
    strength and seed are unchanged.

    Args:
        kind: One of ``KINDS``.
        folders: Run folders of the models.
        split: Test images.
        strongest: Strongest attack strength, in pixel units.
        seed: Random seed for attacks and embeddings.

    Returns:
        Values that JSON can represent.

    Raises:
        ModelFolderError: If a model cannot be loaded.
        RunError: If the file cannot be read or written.
    """
    weights = [(folder / "model" / WEIGHTS).read_bytes() for folder in folders]
    settings = {
        "models": [hashlib.sha256(content).hexdigest() for content in weights],
        "images": len(split),
        "strongest": strongest,
        "seed": seed,
    }
    path = folders[0] / "figures" / f"{kind}.json"
    if path.exists():
        cached = read_json(path)
        if cached["asked"] == settings:
            return cached["found"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = [load(folder).to(device) for folder in folders]
    images, labels = split.to(device).take(slice(0, IMAGES)).batch(slice(None))
    data = KINDS[kind](models, images, labels, strongest, seed)
    write_json(path, {"asked": settings, "found": data})
    return data


def _channels(
    models: Models, images: Images, labels: Tensor, strongest: float, seed: int
) -> dict[str, Any]:
    """Mean and variance of each channel after the middle convolution (AFA Fig. 3)."""
    (model,) = models
    assert isinstance(model, AdaptiveNetwork)
    convolutions = [
        (name, module)
        for name, module in model.network.named_modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1)
    ]
    name, layer = convolutions[len(convolutions) // 2]

    def predict(batch: Images) -> Tensor:
        return model(batch, weight=0.0)

    outputs: list[Tensor] = []
    epsilons = [strongest * level / (STRENGTHS - 1) for level in range(STRENGTHS)]
    means, variances = [], []
    search = PGD(steps=20, relative_step=0.25)
    with attack_mode(model):
        for epsilon in epsilons:
            attacked = images
            if epsilon > 0:
                generator = torch.Generator(images.device)
                generator.manual_seed(derive_seed(seed, "channels", format_epsilon(epsilon)))
                goal = cross_entropy(predict, labels)
                attacked = search(goal, images, Linf(epsilon), generator)
            hook = layer.register_forward_hook(
                lambda module, inputs, output: outputs.append(output)
            )
            with torch.no_grad():
                predict(attacked)
            hook.remove()
            values = outputs.pop().transpose(0, 1).flatten(1)
            means.append(_rounded(values.mean(dim=1)))
            variances.append(_rounded(values.var(dim=1)))
    return {"layer": name, "epsilons": epsilons, "mean": means, "variance": variances}


def _transferred_weights(
    models: Models, images: Images, labels: Tensor, strongest: float, seed: int
) -> dict[str, Any]:
    """W1 on images attacked on a surrogate, the last model, at random strengths (AFA Fig. 6).

    Each image's strength is uniform in [0, strongest]; the attack is PGD on the cross-entropy.
    """
    *adaptive, surrogate = models
    generator = torch.Generator(images.device)
    generator.manual_seed(derive_seed(seed, "transferred_weights"))
    epsilon = strongest * torch.rand(len(images), generator=generator, device=images.device)
    search = PGD(steps=20, relative_step=0.25)
    with attack_mode(surrogate):
        goal = cross_entropy(surrogate, labels)
        attacked = search(goal, images, Linf(epsilon), generator)
    weights = []
    for model in adaptive:
        assert isinstance(model, AdaptiveNetwork)
        with attack_mode(model), torch.no_grad():
            weights.append(_rounded(1 - model.logits_and_weight(attacked)[1]))
    return {"epsilons": _rounded(epsilon), "w1": weights}


def _embeddings(
    models: Models, images: Images, labels: Tensor, strongest: float, seed: int
) -> dict[str, Any]:
    """t-SNE of each model's features, and of all features concatenated (AFS Fig. 3)."""
    with torch.no_grad():
        features = [features_and_logits(model, images)[0].cpu() for model in models]
    embedded = []
    for inputs in (*features, torch.cat(features, dim=1)):
        settings: Any = {"perplexity": min(30.0, (len(images) - 1) / 3), "init": "pca"}
        points = TSNE(random_state=seed, **settings).fit_transform(inputs.numpy())
        silhouette = float(silhouette_score(points, labels.cpu().numpy()))
        embedded.append({"points": [_rounded(point) for point in points], "silhouette": silhouette})
    return {"labels": labels.tolist(), "embeddings": embedded}


def _weights(
    models: Models, images: Images, labels: Tensor, strongest: float, seed: int
) -> dict[str, Any]:
    """Histograms of the last layers' weights, in units of their deviation (AFS Fig. 5)."""
    edges, histograms = torch.linspace(-4, 4, BINS + 1), []
    for model in models:
        weight = find_last_linear(model).weight.detach().cpu().flatten()
        scaled = weight / weight.std(correction=0)
        centred = scaled - scaled.mean()
        kurtosis = float((centred**4).mean() / (centred**2).mean() ** 2 - 3)
        density = torch.histogram(scaled, edges, density=True).hist
        histograms.append({"density": _rounded(density), "kurtosis": kurtosis})
    return {"edges": _rounded(edges), "models": histograms}


def _gradients(
    models: Models, images: Images, labels: Tensor, strongest: float, seed: int
) -> dict[str, Any]:
    """Absolute input gradients, scaled to a maximum of 1 for each image (AFS Fig. 6)."""
    firsts = [int((labels == label).nonzero()[0]) for label in labels.unique()[:EXAMPLES]]
    chosen, true_labels = images[firsts], labels[firsts]
    by_model = []
    for model in models:
        with attack_mode(model):
            inputs = chosen.clone().requires_grad_()
            loss = cross_entropy(model, true_labels)(inputs).sum()
            (gradient,) = torch.autograd.grad(loss, inputs)
        size = gradient.abs().amax(dim=1)
        size = size / size.amax(dim=(1, 2), keepdim=True).clamp_min(1e-30)
        by_model.append([[_rounded(row) for row in image] for image in size])
    pixels = (255 * chosen).round().to(torch.int64)
    return {"images": pixels.tolist(), "gradients": by_model}


def _operations(models: Models, images: Images, labels: Tensor, strongest: float, seed: int) -> int:
    """Multiply-adds for one image (Flops in AFS Table VI)."""
    (model,) = models
    return count_multiply_adds(model, images.shape[1:])


def _rounded(values: Any) -> list[float]:
    return [float(f"{float(value):.4g}") for value in values]


KINDS: dict[str, Callable[[Models, Images, Tensor, float, int], Any]] = {
    "channels": _channels,
    "transferred_weights": _transferred_weights,
    "embeddings": _embeddings,
    "weights": _weights,
    "gradients": _gradients,
    "operations": _operations,
}
"""Functions that compute each kind of data, by name."""
