"""Attacks that break the images that a script names, and models for them."""

import dataclasses

import torch
from tiny import drawn_norms, split, wide_resnet
from torch import nn

from equipoise.attacks.threat import Linf
from equipoise.data import Split
from equipoise.evaluation import AttackResult, Profile, SearchOptions, Suite, measure_profile
from equipoise.models import fuse_branches, with_branches

EPSILONS = (0.0, 0.02, 0.05, 0.1, 0.2)


STRENGTHS = (0.0, 0.02, 0.1)


def adaptive() -> nn.Module:
    """Build an adaptive network whose two branches differ."""
    generator = torch.Generator().manual_seed(1)
    network = drawn_norms(with_branches(wide_resnet(), 2), generator)
    torch.manual_seed(2)
    return fuse_branches(network, placement="input").eval()


def labelled_by(model: nn.Module, count: int = 24) -> Split:
    """Return images that the model classifies correctly, except the last two."""
    images = split(count).images
    with torch.no_grad():
        labels = model(images.float() / 255).argmax(dim=1)
    labels[-2:] = (labels[-2:] + 1) % 10
    return Split(images=images, labels=labels, classes=10)


def run(model, data, suites, **changes) -> Profile:
    fields = {field.name for field in dataclasses.fields(SearchOptions)}
    options = SearchOptions(**{name: changes.pop(name) for name in fields & changes.keys()})
    settings = {"threat": Linf, "epsilons": EPSILONS, "seed": 0}
    return measure_profile(model, data, suites=suites, options=options, **(settings | changes))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scripted:
    """Breaks, at each strength, the images with given first pixels, by lighting the last one."""

    name: str
    breaks: dict
    calls: list
    kind: str = "white box"

    def run(self, model, images, labels, threat, generator, autocast=None):
        rows = (images[:, 0, 0, 0] * 255).round().long()
        self.calls.append((round(threat.epsilon, 3), rows.tolist()))
        to_break = self.breaks.get(round(threat.epsilon, 3), ())
        broken = torch.tensor([int(row) in to_break for row in rows], dtype=torch.bool)
        adversarial = images.clone()
        adversarial[broken, 0, 7, 7] += threat.epsilon
        return AttackResult(
            broken=broken, images=adversarial, forward_passes=2 * len(rows), backward_passes=1
        )

    def describe(self):
        return {"name": self.name, "kind": self.kind}


def scripted(
    name: str, breaks: dict, calls: list | None = None, independent: bool = False
) -> Suite:
    calls = calls if calls is not None else []
    attacks = (Scripted(name=name, breaks=breaks, calls=calls),)
    return Suite(name=name, attacks=attacks, independent=independent)


class AlwaysZero(nn.Module):
    """Class 0, unless the last pixel is lit."""

    def forward(self, images):
        lit = (images[:, 0, 7, 7] > 0.01).long()
        return nn.functional.one_hot(lit, 2) + 0 * images[:, 0, 0, :2]


def numbered(wrong: int = 0) -> Split:
    """Return six images whose first pixel is their number; the last ``wrong`` have label 1."""
    images = torch.zeros(6, 1, 8, 8, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(6)
    labels = (torch.arange(6) >= 6 - wrong).long()
    return Split(images=images, labels=labels, classes=2)


def always_zero() -> nn.Module:
    return AlwaysZero().eval()
