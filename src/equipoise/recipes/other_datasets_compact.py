"""Compact twins on the other data sets of the papers: CIFAR-10's compact recipes with other images.

Their settings are CIFAR-10's, untried on these images: they are for trying a data set out.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from equipoise.data import SVHN, Cifar100, DataSource, TinyImageNet
from equipoise.recipes import cifar10, cifar10_methods
from equipoise.recipes.recipe import Recipe, row

Make = Callable[[], Recipe]
AFA_ROWS = (
    cifar10.standard_cifar10_compact,
    cifar10.pgd_at_cifar10_compact,
    cifar10.afa_cifar10_compact,
    cifar10_methods.trades_cifar10_compact,
    cifar10_methods.afa_trades_cifar10_compact,
    cifar10_methods.mart_cifar10_compact,
    cifar10_methods.afa_mart_cifar10_compact,
)
IAT_ROWS = (cifar10_methods.iat_cifar10_compact, cifar10_methods.afa_iat_cifar10_compact)
AFS_ROWS = (
    cifar10.pgd_at_cifar10_compact,
    cifar10.afs_cifar10_compact,
    cifar10_methods.lbgat_cifar10_compact,
    cifar10_methods.avm_cifar10_compact,
)


def twins(
    data: str, dataset: DataSource, makes: Sequence[Make], *, flip: bool = True
) -> tuple[Make, ...]:
    """CIFAR-10's compact recipes with another data set.

    Args:
        data: The data set in recipes' names.
        dataset: The same as a source.
        makes: The recipes.
        flip: Whether a mirrored image is still one of its class.

    Returns:
        The catalogue's entries.
    """
    found = []
    for make in makes:
        base = make()
        loop = replace(base.loop, augmentation=replace(base.loop.augmentation, flip=flip))
        name = base.name.replace("cifar10", data)
        twin = replace(base, name=name, dataset=dataset, loop=loop)
        found.append(row(twin, (make.__doc__ or "").splitlines()[0]))
    return tuple(found)


CIFAR100_COMPACT = twins("cifar100", Cifar100(), AFS_ROWS)
SVHN_COMPACT = twins("svhn", SVHN(), AFA_ROWS + IAT_ROWS, flip=False)
TINY_IMAGENET_COMPACT = twins("tiny_imagenet", TinyImageNet(), AFA_ROWS)
