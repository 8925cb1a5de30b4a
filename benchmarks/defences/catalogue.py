"""Every defence and every sound model of the zoo, with its source."""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from defences import base
from equipoise.api.train import train
from equipoise.recipes import RECIPES, Recipe

CONSTRUCTED = "constructed here"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A model of the zoo.

    Args:
        name: ``module:function``, as the command line takes it, or the name of a recipe.
        kind: What is wrong with it, or which kind of sound model it is.
        paper: First author and year.
        sound: Whether an evaluation should flag nothing.
        randomised: Whether two answers to one image differ by chance.
        always_flag: Whether it should be flagged whatever its score.
    """

    name: str
    kind: str
    paper: str
    sound: bool = False
    randomised: bool = False
    always_flag: bool = False

    @property
    def is_recipe(self) -> bool:
        return ":" not in self.name


def recipe_folder(name: str) -> Path:
    """Train a recipe on digits with a fifth of its epochs, unless it is trained already."""
    folder = base.work_folder() / "recipes" / name
    if not (folder / "model").is_dir():
        train(_short(RECIPES[name]()), folder, resume=folder.exists())
    return folder


def _short(recipe: Recipe) -> Recipe:
    method = recipe.method
    changes = {"schedule": replace(method.schedule, epochs=6)}  # type: ignore[union-attr]
    if hasattr(method, "merger_schedule"):
        changes["merger_schedule"] = replace(method.merger_schedule, epochs=4)
    return replace(recipe, method=replace(method, **changes))  # type: ignore[arg-type]


def make(entry: Entry) -> nn.Module:
    """Deploy a fresh copy."""
    from importlib import import_module

    from equipoise.models import load

    if entry.is_recipe:
        return load(recipe_folder(entry.name) / "model").eval()
    module, _, function = entry.name.partition(":")
    network: nn.Module = getattr(import_module(module), function)()
    return network.eval()


def _broken(name: str, kind: str, paper: str = CONSTRUCTED, **more: bool) -> Entry:
    return Entry(name=f"defences.{name}", kind=kind, paper=paper, **more)


def _sound(function: str, kind: str, paper: str = CONSTRUCTED) -> Entry:
    return Entry(name=f"defences.sound:{function}", kind=kind, paper=paper, sound=True)


BROKEN = (
    _broken("inputs:jpeg", "quantised input", "Guo et al. 2018"),
    _broken("inputs:jpeg_robust", "quantised input", "Das et al. 2017, around PGD-AT"),
    _broken("inputs:bit_depth", "quantised input", "Xu et al. 2018"),
    _broken("inputs:thermometer", "quantised input", "Buckman et al. 2018"),
    _broken(
        "inputs:likely_levels", "quantised input", "Song et al. 2018, PixelDefend, by quantiles"
    ),
    _broken("inputs:median_filter", "smoothed input", "Xu et al. 2018"),
    _broken("inputs:total_variation", "smoothed input", "Guo et al. 2018", randomised=True),
    _broken("inputs:resize_and_pad", "random input", "Xie et al. 2018", randomised=True),
    _broken("inputs:crop_ensemble", "random input", "Guo et al. 2018", randomised=True),
    _broken("inputs:gaussian_noise", "random input", "Liu et al. 2018", randomised=True),
    _broken(
        "inputs:gaussian_noise_robust", "random input", "Liu et al. 2018, PGD-AT", randomised=True
    ),
    _broken("inputs:mixup_inference", "random input", "Pang et al. 2020", randomised=True),
    _broken("inputs:input_hash", "noise seeded by the input", CONSTRUCTED),
    _broken("inputs:ripple", "shattered gradient", "Athalye et al. 2018, Sec. 3"),
    _broken("inputs:reformer", "purification", "Meng and Chen 2017, MagNet"),
    _broken(
        "inputs:purification", "purification", "Nie et al. 2022, in three steps", randomised=True
    ),
    _broken("inputs:off_grid_gate", "answers attacks flatly", CONSTRUCTED),
    _broken("inputs:off_grid_gate_robust", "answers attacks flatly", CONSTRUCTED),
    _broken("inside:k_winners", "discontinuous activation", "Xiao et al. 2020"),
    _broken("inside:sign_activation", "discontinuous activation", "Galloway et al. 2018"),
    _broken("inside:dropout", "random network", "Feinman et al. 2017", randomised=True),
    _broken("inside:activation_pruning", "random network", "Dhillon et al. 2018", randomised=True),
    _broken("inside:weight_noise", "random network", "He et al. 2019", randomised=True),
    _broken("inside:batch_statistics", "batch-dependent", "Ioffe and Szegedy 2015, train mode"),
    _broken("inside:neighbours", "votes", "Papernot and McDaniel 2018"),
    _broken("inside:hard_vote", "votes", "Strauss et al. 2017"),
    _broken("inside:anti_adversary", "optimised input", "Alfarra et al. 2022"),
    _broken("inside:anti_adversary_robust", "optimised input", "Alfarra et al. 2022, PGD-AT"),
    _broken("inside:output_codes", "saturated output", "Verma and Swami 2019"),
    _broken("outputs:softmax", "saturated output", "Carlini and Wagner 2017"),
    _broken("outputs:saturated", "saturated output", "Carlini and Wagner 2017"),
    _broken("outputs:distilled", "saturated output", "Papernot et al. 2016"),
    _broken("outputs:nested_sigmoids", "saturated output", CONSTRUCTED),
    _broken("outputs:rounded", "quantised output", CONSTRUCTED),
    _broken("outputs:squashed_margin", "misleading margin", CONSTRUCTED),
    _broken("outputs:reversed_slope", "misleading margin", "Chen et al. 2022, AAA"),
    _broken("outputs:collapsed", "collapsed", always_flag=True),
    _broken("outputs:flat_detector", "answers attacks flatly", "Meng and Chen 2017, detector"),
    _broken("outputs:reject_option", "extra class", "Grosse et al. 2017"),
    _broken("outputs:label_noise", "random output", CONSTRUCTED, randomised=True),
    _broken("outputs:squeezed", "flat loss", "Kannan et al. 2018; Mosbach et al. 2018"),
    _broken("gradients:decoy", "wrong gradient"),
    _broken("gradients:decoy_robust", "wrong gradient"),
    _broken("gradients:reversed_gradient", "wrong gradient"),
    _broken("gradients:noisy_gradient", "wrong gradient"),
    _broken("gradients:while_watched", "wrong gradient"),
    _broken("gradients:single_precision", "wrong gradient"),
    _broken("gradients:hard_label", "straight-through gradient", "Bengio et al. 2013"),
    _broken("gradients:detached", "no gradient", "Athalye et al. 2018, Sec. 3"),
    _broken("gradients:without_graph", "no gradient", "Athalye et al. 2018, Sec. 3"),
    _broken("gradients:nan_gradient", "no gradient", "Carlini et al. 2019"),
    _broken("stateful:repeats", "stateful", "Li et al. 2022, Blacklight"),
    _broken("stateful:repeats_robust", "stateful", "Li et al. 2022, Blacklight, PGD-AT"),
    _broken("stateful:first_calls_differ", "stateful"),
    _broken("stateful:counter", "stateful"),
)

SOUND = (
    _sound("standard_training", "standard training"),
    _sound("convolutional", "standard training"),
    _sound("linear", "standard training"),
    _sound("pgd_trained", "adversarial training", "Madry et al. 2018"),
    _sound("pgd_trained_cnn", "adversarial training", "Madry et al. 2018"),
    _sound("trades", "adversarial training", "Zhang et al. 2019"),
    _sound("fifty_times", "scale of logits"),
    _sound("thousand_times", "scale of logits"),
    _sound("thousand_times_robust", "scale of logits"),
    _sound("cold", "scale of logits"),
    _sound("shifted", "scale of logits"),
    _sound("log_probabilities", "scale of logits"),
    _sound("ensemble", "mean of logits"),
    _sound("robust_ensemble", "mean of logits"),
    _sound("silu", "activation"),
    _sound("gelu", "activation"),
    _sound("leaky", "activation"),
    _sound("tanh", "activation"),
    _sound("group_norm", "architecture", "Wu and He 2018"),
    _sound("running_batch_norm", "architecture", "Ioffe and Szegedy 2015"),
    _sound("attention", "architecture", "Dosovitskiy et al. 2021"),
    _sound("dropout_in_training", "architecture", "Srivastava et al. 2014"),
    _sound("double", "precision"),
    _sound("half", "precision"),
    _sound("brain_float", "precision"),
    _sound("straight_through_levels", "honest input"),
    _sound("straight_through_levels_robust", "honest input"),
    _sound("normalised", "honest input"),
    _sound("smooth_filter", "honest input"),
)

RECIPE_MODELS = (
    Entry(name="afa_digits", kind="this project's methods", paper="AFA", sound=True),
    Entry(name="afs_digits", kind="this project's methods", paper="AFS", sound=True),
)
"""On digits only."""


def entries() -> tuple[Entry, ...]:
    """All models for the data set in use, broken ones first."""
    return BROKEN + SOUND + (() if base.cifar10() else RECIPE_MODELS)
