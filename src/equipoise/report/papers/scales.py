"""How large a reproduction is: which recipes stand for which data set, and how they are judged."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from equipoise.report.papers.entry import Part, Row


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A size at which everything can be made again.

    Args:
        name: As ``--scale`` names it.
        places: By data set of the papers, what stands for ``{}`` in the recipes' names.
        same_as: Recipes that are a special case of another one, or called otherwise here; that one
            is trained in their place.
        extractors: Recipes of single networks. A stack of AFS takes those that are trained as its
            extractors are, as the paper's stacks take the networks of its Table I; where one is
            missing it trains its own.
        evaluation: Fields of every recipe's evaluation that are set otherwise.
        search_precision: Of the attacks' searches; scores are float32 always.
        epochs: At most so many epochs in each stage; ``None`` for the recipes' own.
        note: What a reader must know about every number.
    """

    name: str
    places: Mapping[str, str]
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
                places={"cifar10": "digits"},
                same_as={
                    "pgd_at_digits_budget_0": "standard_digits",
                    "pgd_at_digits_budget_8": "pgd_at_digits",
                    "afs_digits_alpha_0_2": "afs_digits",
                    "afs_digits_mask_111": "afs_digits",
                    "afa_digits_k3": "afa_digits",
                    "pgd_at_digits_afs": "pgd_at_digits",
                    "trades_digits_afs": "trades_digits",
                },
                evaluation={"suites": ("tables", "quick", "adaptive")},
                note="Tiny scale: handwritten digits of 8x8 pixels stand for CIFAR-10. The orders "
                "and shapes may be compared with the paper's, the numbers may not.",
            ),
            Scale(
                name="compact",
                places={"cifar10": "cifar10_compact"},
                same_as={
                    "pgd_at_cifar10_compact_budget_8": "pgd_at_cifar10_compact",
                    "afa_cifar10_compact_k3": "afa_cifar10_compact",
                    "pgd_at_cifar10_compact_afs": "pgd_at_cifar10_compact",
                    "trades_cifar10_compact_afs": "trades_cifar10_compact",
                },
                extractors=(
                    "pgd_at_cifar10_compact",
                    *(f"pgd_at_cifar10_compact_budget_{k}" for k in (0, 1, 2, 3, 4, 5, 6, 7, 9)),
                ),
                evaluation={"suites": ("tables", "quick", "adaptive")},
                search_precision="bf16-mixed",
                note="Compact scale: the paper's data, a network of a few hundredths of its size, "
                "and a twentieth of its epochs.",
            ),
            Scale(
                name="paper",
                places={
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
    """The recipes of a part's rows, in order; rows that are not measured are left out."""
    return list(filter(None, (recipe_of(row, part, scale) for row in part.rows)))


def recipe_of(row: Row, part: Part, scale: Scale) -> str | None:
    """The recipe that makes a row.

    Args:
        row: Of a table or figure.
        part: The part that it stands in.
        scale: The size.

    Returns:
        A recipe's name, or ``None`` where the row is not measured at this scale.
    """
    data = part.data if part.data in scale.places else part.stand_in
    if (
        row.recipe is None
        or data is None
        or data not in scale.places
        or scale.name not in row.scales
    ):
        return None
    name = row.recipe.format(scale.places[data])
    return scale.same_as.get(name, name)
