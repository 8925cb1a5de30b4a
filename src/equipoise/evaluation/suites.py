"""Which attacks are tried, and in which order."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from equipoise.attacks import APGD, PGD, Search, Square, fgsm, losses
from equipoise.evaluation.attack import Attack, Loss, SearchAttack
from equipoise.evaluation.autoattack import PARTS, AutoAttackPart
from equipoise.evaluation.cache import weights_hash
from equipoise.models import AdaptiveNetwork, FeatureStack
from equipoise.models.conditional_network import FixedPreference
from equipoise.types import Images

SuiteName = Literal["quick", "tables", "paper", "standard", "autoattack", "adaptive", "transfer"]
GATE_RATIOS = (10.0, 5.0, 2.0, 1.0, 1 / 2, 1 / 5, 1 / 10)
"""Cross-entropy to binary cross-entropy, AFA Sec. 5.2 "Adaptive attack"."""

LogitsAndGate = Callable[[Images], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Attacks that are reported together.

    Args:
        name: The column's name.
        attacks: Run in this order.
        independent: Run each attack on all images, whatever others have broken, so that each has a
            number of its own; otherwise each sees only what all before it left.
    """

    name: str
    attacks: tuple[Attack, ...]
    independent: bool = False


def suites_for(
    model: nn.Module,
    names: Sequence[SuiteName],
    *,
    classes: int,
    steps: int = 20,
    restarts: int = 1,
    seed: int = 0,
    surrogates: Mapping[str, nn.Module] | None = None,
) -> list[Suite]:
    """Build the named suites for a model.

    Args:
        model: The model under evaluation.
        names: Suites in order.

            - ``"quick"``: PGD on the margin, APGD on cross-entropy with twice its steps, and APGD
              on the margin to each of the 4 likeliest wrong classes.
            - ``"tables"``: FGSM, PGD-10, PGD-20 and C&W, the columns of the papers' tables.
            - ``"paper"``: the same and Square.
            - ``"standard"``: PGD on the margin with restarts, APGD on cross-entropy, DLR and the
              margin to up to 9 wrong classes, Square; AutoAttack's steps without FAB and with a
              fifth of its queries.
            - ``"autoattack"``: the reference's four attacks at their original settings.
            - ``"adaptive"``: for a model with a weight generator, attacks that the generator is
              part of; for a stack, attacks through and on its members and on their generators; for
              OAT's, attacks from every other preference; left out for others.
            - ``"transfer"``: PGD on each surrogate.
        classes: Number of classes; with fewer than 4 the margin takes DLR's place.
        steps: Steps of each search of ``quick``, ``adaptive`` and ``transfer``, of epsilon / 4.
        restarts: Random restarts of each search of ``quick``.
        seed: Of ``autoattack``, which draws from generators of its own.
        surrogates: By name, the models that ``transfer`` attacks in the model's place.

    Returns:
        The suites that apply.

    Raises:
        ValueError: If ``transfer`` is named without surrogates, or a surrogate is.

    Source:
        AFA Sec. 5.2 and Table 3; AFS Table IV; Croce and Hein 2020. Deviations in ``adaptive``:
        every image keeps its worst case over the ratios, not the set its best single ratio, and
        the generator is pushed both ways.
    """
    suites = []
    for name in names:
        if name == "quick":
            suites.append(Suite(name=name, attacks=_quick(classes, steps, restarts)))
        elif name in ("tables", "paper"):
            attacks = _tables() if name == "tables" else (*_tables(), _square(queries=5000))
            suites.append(Suite(name=name, attacks=attacks, independent=True))
        elif name == "standard":
            suites.append(Suite(name=name, attacks=_standard(classes)))
        elif name == "autoattack":
            parts = tuple(AutoAttackPart(part=part, seed=seed, classes=classes) for part in PARTS)
            suites.append(Suite(name=name, attacks=parts))
        elif name == "transfer":
            if not surrogates:
                raise ValueError(
                    "the suite transfer needs at least one surrogate; name saved models with "
                    "--surrogates FOLDER..."
                )
            suites.append(Suite(name=name, attacks=_transfer(surrogates, steps)))
        elif isinstance(model, AdaptiveNetwork):
            suites.append(Suite(name=name, attacks=_adaptive_gate(model, steps)))
        elif isinstance(model, FixedPreference):
            suites.append(Suite(name=name, attacks=_adaptive_preference(model, steps)))
        elif isinstance(model, FeatureStack) and (attacks := _adaptive_stack(model, steps)):
            suites.append(Suite(name=name, attacks=attacks))
    return suites if getattr(model, "gives_gradients", True) else _blind(suites)


def _blind(suites: list[Suite]) -> list[Suite]:
    """What is left for a model without gradients."""
    left = []
    for suite in suites:
        attacks = tuple(a for a in suite.attacks if a.kind in ("black box", "transfer"))
        if attacks:
            left.append(replace(suite, attacks=attacks))
    if not left:
        raise ValueError(
            "the model gives no gradients, and the suites "
            f"{', '.join(suite.name for suite in suites)} need them; use transfer with a surrogate "
            "that has gradients, or standard or paper, of which Square is left."
        )
    return left


def _search(steps: int, restarts: int = 1) -> PGD:
    return PGD(steps=steps, relative_step=0.25, restarts=restarts, keep="best")


def _quick(classes: int, steps: int, restarts: int) -> tuple[Attack, ...]:
    targets = min(4, classes - 1)
    return (
        SearchAttack(name="pgd-margin", search=_search(steps, restarts), loss="margin"),
        SearchAttack(
            name="apgd-cross-entropy",
            search=APGD(steps=2 * steps, restarts=restarts),
            loss="cross_entropy",
        ),
        SearchAttack(
            name=f"apgd-targeted-margin-{targets}",
            search=APGD(steps=steps, restarts=restarts),
            loss="targeted_margin",
            targets=targets,
        ),
    )


def _tables() -> tuple[Attack, ...]:
    """C&W's numbers are given nowhere in the papers: the usual 30 steps and kappa 50. PGD's step is
    epsilon / 4, at 8/255 AFS's 2/255; AFS keeps that at other strengths, AFA does not say."""
    return (
        SearchAttack(name="fgsm", search=fgsm(), loss="cross_entropy"),
        SearchAttack(name="pgd-10", search=_search(10), loss="cross_entropy"),
        SearchAttack(name="pgd-20", search=_search(20), loss="cross_entropy"),
        SearchAttack(name="cw-30-kappa-50", search=_search(30), loss="cw", kappa=50.0),
    )


def _square(queries: int) -> Attack:
    return SearchAttack(
        name=f"square-{queries}", search=Square(queries=queries), loss="margin", kind="black box"
    )


def _standard(classes: int) -> tuple[Attack, ...]:
    """Steps and queries count, the kind of targeted loss hardly (benchmarks/standard_parts.py)."""
    scale_free: Loss = "dlr" if classes >= 4 else "margin"
    targets = min(9, classes - 1)
    return (
        SearchAttack(name="pgd-margin", search=_search(20, restarts=2), loss="margin"),
        SearchAttack(name="apgd-cross-entropy", search=APGD(steps=100), loss="cross_entropy"),
        SearchAttack(name=f"apgd-{scale_free}", search=APGD(steps=100), loss=scale_free),
        SearchAttack(
            name=f"apgd-targeted-margin-{targets}",
            search=APGD(steps=100),
            loss="targeted_margin",
            targets=targets,
        ),
        _square(queries=1000),
    )


def _adaptive_gate(model: AdaptiveNetwork, steps: int) -> tuple[Attack, ...]:
    search = _search(steps)
    attacks = [
        SearchAttack(
            name=f"fixed-weight-{fixed:g}",
            search=search,
            loss="margin",
            kind="gate",
            source=partial(model, weight=fixed),
        )
        for fixed in (model.ceiling, 0.0, model.ceiling / 2)
    ]
    return (*attacks, *_pushes(model.logits_and_gate, search))


def _pushes(answer: LogitsAndGate, search: Search, of: str = "") -> Iterator[Attack]:
    for target, side in ((0.0, "clean"), (1.0, "robust")):
        for ratio in GATE_RATIOS:
            yield SearchAttack(
                name=f"{of}gate-to-{side}-{ratio:g}",
                search=search,
                loss="cross_entropy",
                kind="gate",
                joint=_Pushed(answer, target, 1 / ratio),
            )


@dataclass(frozen=True)
class _Pushed:
    """Cross-entropy and, at a share, the gate's binary cross-entropy."""

    answer: LogitsAndGate
    target: float
    share: float

    def __call__(self, images: Images) -> tuple[Tensor, Tensor, Tensor]:
        logits, gate = self.answer(images)
        return logits, logits, self.share * losses.gate_cross_entropy(gate, self.target)


@dataclass(frozen=True)
class _MemberGate:
    """A stack's logits, and the gate of one of its members that has a weight generator."""

    model: FeatureStack
    member: AdaptiveNetwork

    def __call__(self, images: Images) -> tuple[Tensor, Tensor]:
        return self.model(images), self.member.logits_and_gate(images)[1]


def _adaptive_stack(model: FeatureStack, steps: int) -> tuple[Attack, ...]:
    """The gate of each member that has one; then each member as a source, and the whole with some
    members' say changed: what a gradient of the plain sum hides behind the loudest member shows
    there. A single member is all that there is, and hides behind nobody."""
    search, count = _search(steps), len(model.members)
    sources: list[Any] = [member.network for member in model.members]
    attacks: list[Attack] = []
    for number, source in enumerate(sources):
        if isinstance(source, AdaptiveNetwork):
            attacks += _pushes(_MemberGate(model, source), search, of=f"member-{number}-")
    if count == 1:
        return tuple(attacks)
    attacks += (
        SearchAttack(
            name=f"member-{number}", search=search, loss="margin", kind="transfer", source=source
        )
        for number, source in enumerate(sources)
    )
    for number in range(count):
        for share, word in ((0.0, "without"), (3.0, "more-of")):
            shares = tuple(share if member == number else 1.0 for member in range(count))
            attacks.append(
                SearchAttack(
                    name=f"{word}-{number}",
                    search=search,
                    loss="margin",
                    joint=_Reweighted(model, shares),
                )
            )
    return tuple(attacks)


@dataclass(frozen=True)
class _Reweighted:
    """The stack's logits to judge, and those with some members' say changed to climb."""

    model: FeatureStack
    shares: tuple[float, ...]

    def __call__(self, images: Images) -> tuple[Tensor, Tensor, float]:
        parts, bias = self.model.logits_by_member(images), self.model.merger.bias
        shares = torch.tensor(self.shares, device=parts.device)[:, None, None]
        return parts.sum(dim=0) + bias, (parts * shares).sum(dim=0) + bias, 0.0


def _adaptive_preference(view: FixedPreference, steps: int) -> tuple[Attack, ...]:
    """Every other preference as a source: norms and gradients differ between them."""
    search = _search(steps)
    return tuple(
        SearchAttack(
            name=f"preference-{other:g}",
            search=search,
            loss="margin",
            kind="transfer",
            source=view.model.at(other),
        )
        for other in view.model.preferences
        if other != view.preference
    )


def _transfer(surrogates: Mapping[str, nn.Module], steps: int) -> tuple[Attack, ...]:
    attacks = []
    for name, surrogate in surrogates.items():
        for loss in ("cross_entropy", "margin"):
            attacks.append(
                SearchAttack(
                    name=f"from-{name}-{loss.replace('_', '-')}",
                    search=_search(steps),
                    loss=loss,
                    kind="transfer",
                    source=surrogate.eval(),
                    surrogate=weights_hash(surrogate),
                )
            )
    return tuple(attacks)
