"""Data sets as uint8 images, handed out as floats in [0, 1]; augmentation on the device.

A source (``Digits()``, ``Cifar10(folder=...)``) is a small frozen description that a recipe stores;
``source.load()`` reads it. Nothing here normalises: that is a layer of the model, so that an
epsilon is always in pixel units.
"""

from equipoise.data.augmentation import Augmentation as Augmentation
from equipoise.data.cifar import Cifar10 as Cifar10
from equipoise.data.cifar import Cifar100 as Cifar100
from equipoise.data.digits import Digits as Digits
from equipoise.data.image_folder import ImageFolder as ImageFolder
from equipoise.data.mapped import MappedImages as MappedImages
from equipoise.data.npz import NpzFile as NpzFile
from equipoise.data.split import DataError as DataError
from equipoise.data.split import DataSet as DataSet
from equipoise.data.split import Split as Split
from equipoise.data.svhn import SVHN as SVHN
from equipoise.data.tiny_imagenet import TinyImageNet as TinyImageNet

DataSource = Digits | Cifar10 | Cifar100 | SVHN | TinyImageNet | ImageFolder | NpzFile

SOURCES: dict[str, type[DataSource]] = {
    "digits": Digits,
    "cifar10": Cifar10,
    "cifar100": Cifar100,
    "svhn": SVHN,
    "tinyimagenet": TinyImageNet,
    "imagefolder": ImageFolder,
    "npz": NpzFile,
}
"""Every source by its name on the command line."""
