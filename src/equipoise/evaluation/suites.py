"""Attack suites: which attacks an evaluation runs, and in which order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from equipoise.attacks import APGD, PGD, Noise, Square, fgsm
from equipoise.attacks.autoattack import PARTS
from equipoise.evaluation.attack import Attack, Loss, SearchAttack
from equipoise.evaluation.autoattack_part import AutoAttackPart
from equipoise.evaluation.cache import weights_hash
from equipoise.evaluation.gate_attacks import gate_attacks
from equipoise.evaluation.imported import imported_suite
from equipoise.evaluation.near_misses import NearMisses
from equipoise.evaluation.suite import Suite, check_suite_names
from equipoise.models import AdaptiveNetwork, FeatureStack
from equipoise.models.conditional_network import FixedPreference
from equipoise.runtime.errors import InvalidInput
from equipoise.runtime.trust import names_function
from equipoise.types import Images

NEAREST = 0.3
"""Share of its clean margin below which an image gets the longer attack of ``quick``."""

QUERY_BUDGETS = (100, 500, 1000, 2500, 5000)
"""Queries of Square in suite ``queries``; AFA's supplement, which would name them, is not known."""

QUERIES_WITHOUT_GRADIENTS = 1000
"""Least number of queries for an image of a model without gradients."""


def suites_for(
    model: nn.Module,
    names: Sequence[str],
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
        names: Names of suites, in order.

            - ``"quick"``: PGD on the margin, APGD on the cross-entropy with twice as many steps,
              APGD on the margin to each of the 4 wrong classes with the largest logits; on images
              that come near the boundary, the same to 9 classes with five times as many steps and
              twice as many restarts; and Square with 300 queries.
            - ``"tables"``: FGSM, PGD-10, PGD-20 and C&W, the columns of the papers' tables.
            - ``"paper"``: the same and Square.
            - ``"standard"``: PGD on the margin with restarts, APGD on cross-entropy, DLR and the
              margin to up to 9 wrong classes, Square; AutoAttack's steps without FAB and with a
              fifth of its queries.
            - ``"autoattack"``: the four attacks of AutoAttack at their original settings.
            - ``"adaptive"``: for a model with a weight generator, attacks on the generator; for a
              feature stack, attacks on its members and on their generators; for OAT, attacks from
              every other preference. Left out for other models.
            - ``"ratios"``: for a model with a weight generator, PGD on both losses at each of the
              paper's seven ratios, each on all images: the worst of them is the paper's number.
              Left out for other models.
            - ``"queries"``: Square at ``QUERY_BUDGETS``, each on all images.
            - ``"transfer"``: PGD on each surrogate.
            - ``"module:function"``: attacks of another package, see ``imported_suite``.
        classes: Number of classes. With fewer than 4, the margin replaces DLR.
        steps: Number of steps of each search in ``quick``, ``adaptive``, ``ratios`` and
            ``transfer``, of epsilon / 4.
        restarts: Number of random restarts of each search in ``quick``.
        seed: Random seed of ``autoattack``, which uses its own generators.
        surrogates: By name, the models that ``transfer`` attacks instead of the model.

    Returns:
        The suites that apply to the model. For a model without gradients, noise and Square replace
        the attacks that need them.

    Raises:
        ValueError: If ``transfer`` is named without surrogates, there are too few classes for
            ``autoattack``, or there is no suite of a name.
        RunError: If a suite of another package is not trusted.

    Source:
        AFA Sec. 5.2 and Table 3; AFS Table IV; Croce and Hein 2020. Deviations: in
        ``adaptive`` every image keeps its worst case over the ratios, where the paper keeps the
        single worst ratio of the whole set, as ``ratios`` does; and the generator is pushed both
        ways. Inference: ``queries``.

    Example:
        >>> import torch
        >>> from equipoise.evaluation import suites_for
        >>> quick, paper = suites_for(torch.nn.Flatten(), ["quick", "paper"], classes=10)
        >>> [attack.name for attack in quick.attacks[2:]]
        ['apgd-targeted-margin-4', 'near-misses-9', 'square-300']
        >>> [attack.name for attack in paper.attacks]
        ['fgsm', 'pgd-10', 'pgd-20', 'cw-30-kappa-50', 'square-5000']
    """
    if isinstance(names, str):
        raise InvalidInput(
            f"names must be a sequence of suites, got the text {names!r}; write [{names!r}]."
        )
    check_suite_names(names)
    suites: list[Suite] = []
    imported: list[Suite] = []
    for name in names:
        if names_function(name):
            imported.append(imported_suite(name, {"model": model, "classes": classes}))
            suites.append(imported[-1])
        elif name == "quick":
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
                raise InvalidInput(
                    "the suite transfer needs at least one surrogate; name saved models with "
                    "--surrogates FOLDER..."
                )
            suites.append(Suite(name=name, attacks=_transfer(surrogates, steps)))
        elif name == "queries":
            attacks = tuple(_square(queries=queries) for queries in QUERY_BUDGETS)
            suites.append(Suite(name=name, attacks=attacks, independent=True))
        elif name == "ratios":
            if isinstance(model, AdaptiveNetwork):
                attacks = tuple(gate_attacks(model.logits_and_gate, _search(steps)))
                suites.append(Suite(name=name, attacks=attacks, independent=True))
        elif isinstance(model, AdaptiveNetwork):
            suites.append(Suite(name=name, attacks=_adaptive_gate(model, steps)))
        elif isinstance(model, FixedPreference):
            suites.append(Suite(name=name, attacks=_adaptive_preference(model, steps)))
        elif isinstance(model, FeatureStack) and (attacks := _adaptive_stack(model, steps)):
            suites.append(Suite(name=name, attacks=attacks))
    if getattr(model, "gives_gradients", True):
        return suites
    return [suite if suite in imported else _without_gradients(suite) for suite in suites]


def _queries(attack: Attack) -> int:
    search = attack.search if isinstance(attack, SearchAttack) else None
    return search.queries if isinstance(search, Square) else 0


def _without_gradients(suite: Suite) -> Suite:
    """Replace the attacks that need a gradient of the model by noise and Square."""
    attacks = tuple(a for a in suite.attacks if a.kind in ("black box", "transfer"))
    if not any(attack.kind == "transfer" for attack in attacks):
        enough = tuple(a for a in attacks if _queries(a) >= QUERIES_WITHOUT_GRADIENTS)
        attacks = (_noise(), *(enough or (_square(queries=QUERIES_WITHOUT_GRADIENTS),)))
    return replace(suite, attacks=attacks)


def _noise() -> Attack:
    return SearchAttack(name="noise-100", search=Noise(draws=100), loss="margin", kind="black box")


def _search(steps: int, restarts: int = 1) -> PGD:
    return PGD(steps=steps, relative_step=0.25, restarts=restarts, keep="best")


def _quick(classes: int, steps: int, restarts: int) -> tuple[Attack, ...]:
    targets, most = min(4, classes - 1), min(9, classes - 1)
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
        NearMisses(
            name=f"near-misses-{most}",
            probe=APGD(steps=2 * steps, restarts=restarts),
            attack=SearchAttack(
                name="longer",
                search=APGD(steps=5 * steps, restarts=2 * restarts),
                loss="targeted_margin",
                targets=most,
            ),
            nearest=NEAREST,
        ),
        _square(queries=300),
    )


def _tables() -> tuple[Attack, ...]:
    """Attacks of the papers' tables.

    The papers do not give the settings of C&W; 30 steps and kappa 50 are usual. PGD's step is
    epsilon / 4, which is AFS's 2/255 at 8/255; AFS uses 2/255 at other strengths too, and AFA does
    not say.
    """
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
    """Attacks with AutoAttack's steps.

    The numbers of steps and queries matter, the kind of targeted loss hardly does
    (benchmarks/standard_parts.py).
    """
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
    return (*attacks, *gate_attacks(model.logits_and_gate, search))


@dataclass(frozen=True)
class _MemberGate:
    """The stack's logits, and the gate of one member that has a weight generator."""

    model: FeatureStack
    member: AdaptiveNetwork

    def __call__(self, images: Images) -> tuple[Tensor, Tensor]:
        return self.model(images), self.member.logits_and_gate(images)[1]


def _adaptive_stack(model: FeatureStack, steps: int) -> tuple[Attack, ...]:
    """Attacks on the members of a stack.

    First the gate of each member that has one, then each member as the source of a transfer attack,
    then the stack with one member's logits left out or amplified: the gradient of the plain sum may
    be dominated by one member, and these gradients are not. A stack of one member needs only the
    gate attacks.
    """
    search, count = _search(steps), len(model.members)
    members: list[Any] = [member.network for member in model.members]
    attacks: list[Attack] = []
    for number, member in enumerate(members):
        if isinstance(member, AdaptiveNetwork):
            forward = _MemberGate(model, member)
            attacks += gate_attacks(forward, search, prefix=f"member-{number}-")
    if count == 1:
        return tuple(attacks)
    attacks += (
        SearchAttack(
            name=f"member-{number}", search=search, loss="margin", kind="transfer", source=member
        )
        for number, member in enumerate(members)
    )
    for number in range(count):
        for weight, word in ((0.0, "without"), (3.0, "more-of")):
            weights = tuple(weight if other == number else 1.0 for other in range(count))
            attacks.append(
                SearchAttack(
                    name=f"{word}-{number}",
                    search=search,
                    loss="margin",
                    joint=_Reweighted(model, weights),
                )
            )
    return tuple(attacks)


@dataclass(frozen=True)
class _Reweighted:
    """A joint forward pass: the stack's logits, and the loss of a reweighted sum of its members."""

    model: FeatureStack
    weights: tuple[float, ...]

    def __call__(self, images: Images) -> tuple[Tensor, Tensor, float]:
        by_member, bias = self.model.logits_by_member(images), self.model.merger.bias
        weights = torch.tensor(self.weights, device=by_member.device)[:, None, None]
        return by_member.sum(dim=0) + bias, (by_member * weights).sum(dim=0) + bias, 0.0


def _adaptive_preference(view: FixedPreference, steps: int) -> tuple[Attack, ...]:
    """Transfer attacks from every other preference, whose norms and gradients differ."""
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
