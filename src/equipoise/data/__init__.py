"""Data sets of uint8 images, served as floats in [0, 1], and augmentation on the device.

A source (``Digits()``, ``Cifar10(folder=...)``) is a small frozen description that a recipe stores;
``source.load()`` reads the images. Nothing here normalises them: that is a layer of the model, so
that an epsilon is always in pixel units.
"""

from collections.abc import Callable

from equipoise.data.augmentation import Augmentation
from equipoise.data.cifar import Cifar10, Cifar100
from equipoise.data.dataset import DataError, DataSet, Split
from equipoise.data.digits import Digits
from equipoise.data.formats import DataSource, recognise
from equipoise.data.hugging_face import HuggingFace
from equipoise.data.image_folder import ImageFolder
from equipoise.data.imported import ImportedData
from equipoise.data.in_memory import as_split
from equipoise.data.memory_mapped import MappedImages
from equipoise.data.npz import NpzFile
from equipoise.data.svhn import SVHN
from equipoise.data.tiny_imagenet import TinyImageNet

SOURCES: dict[str, Callable[[], DataSource]] = {
    "digits": Digits,
    "cifar10": Cifar10,
    "cifar100": Cifar100,
    "svhn": SVHN,
    "tinyimagenet": TinyImageNet,
    "imagefolder": ImageFolder,
    "huggingface": HuggingFace,
    "npz": NpzFile,
}
"""Every source by its name on the command line; your own has ``module:function`` there."""

__all__ = [
    "SOURCES",
    "SVHN",
    "Augmentation",
    "Cifar10",
    "Cifar100",
    "DataError",
    "DataSet",
    "DataSource",
    "Digits",
    "HuggingFace",
    "ImageFolder",
    "ImportedData",
    "MappedImages",
    "NpzFile",
    "Split",
    "TinyImageNet",
    "as_split",
    "recognise",
]
