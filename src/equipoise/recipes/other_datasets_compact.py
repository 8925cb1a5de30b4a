"""Compact recipes on CIFAR-100, SVHN and Tiny-ImageNet: CIFAR-10's compact recipes on other images.

Their settings are CIFAR-10's and were not tuned on these images. Use them to try a data set out.
"""

from collections.abc import Sequence
from dataclasses import replace

from equipoise.data import SVHN, Cifar100, DataSource, TinyImageNet
from equipoise.recipes import cifar10_compact as cifar10
from equipoise.recipes.recipe import MakeRecipe, row

AFA_ROWS = ("standard", "pgd_at", "afa", "trades", "afa_trades", "mart", "afa_mart")
IAT_ROWS = ("iat", "afa_iat")
AFS_ROWS = ("pgd_at", "afs", "lbgat", "avm")


def on_dataset(
    data: str, dataset: DataSource, methods: Sequence[str], *, flip: bool = True
) -> tuple[MakeRecipe, ...]:
    """Make CIFAR-10's compact recipes with another data set.

    Args:
        data: The data set in recipes' names, in place of ``cifar10``.
        dataset: The data set.
        methods: What precedes the data set in the recipes' names.
        flip: Whether images may be mirrored without changing their class.

    Returns:
        Entries of the catalogue.
    """
    compact = {make.__name__: make for make in cifar10.CIFAR10_COMPACT}
    rows = []
    for method in methods:
        make = compact[f"{method}_cifar10_compact"]
        base = make()
        loop = replace(base.loop, augmentation=replace(base.loop.augmentation, flip=flip))
        name = base.name.replace("cifar10", data)
        recipe = replace(base, name=name, dataset=dataset, loop=loop)
        rows.append(row(recipe, (make.__doc__ or "").splitlines()[0]))
    return tuple(rows)


CIFAR100_COMPACT = on_dataset("cifar100", Cifar100(), AFS_ROWS)
"""``pgd_at_cifar100_compact``, ``afs_cifar100_compact`` and so on."""

SVHN_COMPACT = on_dataset("svhn", SVHN(), AFA_ROWS + IAT_ROWS, flip=False)
"""``standard_svhn_compact``, ``trades_svhn_compact``, ``afa_svhn_compact`` and so on."""

TINY_IMAGENET_COMPACT = on_dataset("tiny_imagenet", TinyImageNet(), AFA_ROWS)
"""``standard_tiny_imagenet_compact``, ``trades_tiny_imagenet_compact`` and so on."""
