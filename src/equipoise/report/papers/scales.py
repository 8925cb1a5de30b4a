"""Scales of a reproduction: recipes for each data set, and how their models are evaluated."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from equipoise.report.papers.entry import Part, Row


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A size at which tables and figures can be reproduced.

    Args:
        name: Value of ``--scale``.
        datasets: For each data set of the papers, our data set and scale, which replace ``{}`` in
            recipe names.
        same_as: Recipes that are a special case of another recipe or have another name here; the
            other recipe is trained instead.
        extractors: Recipes of single networks. A stack of AFS uses those that are trained exactly
            as its extractors are, as the paper's stacks use the networks of its Table I. If one is
            missing, the stack trains its own.
        evaluation: Fields that replace those of every recipe's evaluation.
        search_precision: Precision of the attacks' searches; scores are always float32.
        epochs: Maximum number of epochs per stage; ``None`` for the recipes' own.
        note: Sentence about the scale for every caption.
    """

    name: str
    datasets: Mapping[str, str]
    same_as: Mapping[str, str] = field(default_factory=dict)
    extractors: tuple[str, ...] = ()
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    search_precision: Literal["32-true", "bf16-mixed"] = "32-true"
    epochs: int | None = None
    note: str


SCALES: Mapping[str, Scale] = MappingProxyType(
    {
        scale.name: scale
        for scale in (
            Scale(
                name="tiny",
                datasets={"cifar10": "digits"},
                same_as={
                    "pgd_at_digits_budget_0": "standard_digits",
                    "pgd_at_digits_budget_8": "pgd_at_digits",
                    "afs_digits_alpha_0_2": "afs_digits",
                    "afs_digits_mask_111": "afs_digits",
                    "afa_digits_k3": "afa_digits",
                    "surrogate_resnet34_digits": "surrogate_digits",
                    "pgd_at_digits_afs": "pgd_at_digits",
                    "trades_digits_afs": "trades_digits",
                },
                evaluation={"suites": ("tables", "quick", "adaptive")},
                note="Tiny scale: handwritten digits of 8x8 pixels replace CIFAR-10. Rankings and "
                "shapes of curves can be compared with the paper's, absolute numbers cannot.",
            ),
            Scale(
                name="compact",
                datasets={"cifar10": "cifar10_compact"},
                same_as={
                    "pgd_at_cifar10_compact_budget_8": "pgd_at_cifar10_compact",
                    "afa_cifar10_compact_k3": "afa_cifar10_compact",
                    "surrogate_resnet34_cifar10_compact": "surrogate_cifar10_compact",
                    "pgd_at_cifar10_compact_afs": "pgd_at_cifar10_compact",
                    "trades_cifar10_compact_afs": "trades_cifar10_compact",
                },
                extractors=(
                    "pgd_at_cifar10_compact",
                    *(f"pgd_at_cifar10_compact_budget_{k}" for k in (0, 1, 2, 3, 4, 5, 6, 7, 9)),
                ),
                evaluation={"suites": ("tables", "quick", "adaptive")},
                search_precision="bf16-mixed",
                note="Compact scale: the paper's data, with a network of a few hundredths of the "
                "size and a twentieth of the epochs.",
            ),
            Scale(
                name="paper",
                datasets={
                    "cifar10": "cifar10_paper",
                    "svhn": "svhn_paper",
                    "tiny-imagenet": "tiny_imagenet_paper",
                    "cifar100": "cifar100_paper",
                },
                same_as={
                    **{
                        f"pgd_at_cifar10_paper_budget_{k}": f"extractor_{k}_cifar10_paper"
                        for k in range(10)
                    },
                    "fat_trades_cifar10_paper_afs": "fat_trades_cifar10_paper",
                    # Tables I, IV and VI print the same numbers for it: one network.
                    "pgd_at_cifar10_paper_afs": "extractor_8_cifar10_paper",
                    "lbgat_cifar10_paper": "lbgat_trades_cifar10_paper",
                    "lbgat_cifar100_paper": "lbgat_trades_cifar100_paper",
                    "afs_cifar10_paper_alpha_0_5": "afs_cifar10_paper",
                    "afa_cifar10_paper_k5": "afa_cifar10_paper",
                },
                extractors=tuple(f"extractor_{k}_cifar10_paper" for k in range(10)),
                note="Paper scale: the paper's data, networks and schedules.",
            ),
        )
    }
)


def recipes_of(part: Part, scale: Scale) -> list[str]:
    """Recipes of a part's rows, in order; rows that are not measured are left out."""
    return list(filter(None, (recipe_of(row, part, scale) for row in part.rows)))


def recipe_of(row: Row, part: Part, scale: Scale) -> str | None:
    """Name of the recipe that a row shows.

    Args:
        row: Row of a table or figure.
        part: Part that contains the row.
        scale: Scale of the reproduction.

    Returns:
        The recipe, or ``None`` if the row is not measured at this scale.
    """
    data = part.data if part.data in scale.datasets else part.stand_in
    if (
        row.recipe is None
        or data is None
        or data not in scale.datasets
        or scale.name not in row.scales
    ):
        return None
    name = row.recipe.format(scale.datasets[data])
    return scale.same_as.get(name, name)
