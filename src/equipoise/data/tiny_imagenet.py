"""Tiny-ImageNet: 200 classes of 64x64 photographs."""

from dataclasses import dataclass
from pathlib import Path

import torch

from equipoise.data.archives import Files, open_files
from equipoise.data.cache import decode_once, load_if_small
from equipoise.data.dataset import DataError, DataSet, Split
from equipoise.data.encoded import Encoded
from equipoise.data.image_folder import ImagePaths, LabelledPaths, load_labelled
from equipoise.data.parquet import Table, read_table

_TABLE = Table(title="Tiny-ImageNet", config="default", test="valid")
_ARCHIVE = "tiny-imagenet-200"


@dataclass(frozen=True, kw_only=True)
class TinyImageNet:
    """Tiny-ImageNet: 100,000 training images, and the 10,000 validation images for testing.

    Its own test split has no labels. Classes are numbered in the order of their sorted WordNet ids,
    as on the hub.

    Args:
        folder: The unpacked ``tiny-imagenet-200.zip``, the folder that contains it, the archive
            itself, or a folder of the hub's parquet files.
        hub: Repository on the hub that is used if there is no folder.

    Source:
        Stanford CS231n, http://cs231n.stanford.edu/tiny-imagenet-200.zip.

    Example:
        >>> from equipoise.data import TinyImageNet
        >>> archive = Path("tiny-imagenet-200.zip")
        >>> data = TinyImageNet(folder=archive).load()  # doctest: +SKIP
    """

    folder: Path | None = None
    hub: str = "zh-plus/tiny-imagenet"

    def load(self) -> DataSet:
        """Find all images, and decode those that are not in the cache.

        Returns:
            The data set ``tiny-imagenet``.

        Raises:
            DataError: If a file is missing or broken, or the hub cannot be reached.
        """
        encoded = read_table(self.folder, self.hub, _TABLE)
        if encoded is not None:
            return _of_table(*encoded)
        assert self.folder is not None  # the hub always has parquet files
        inside = (self.folder / _ARCHIVE, self.folder / f"{_ARCHIVE}.zip")
        origin = next((path for path in inside if path.exists()), self.folder)
        with open_files(origin) as files:
            return _of_files(files)


def _of_files(files: Files) -> DataSet:
    root = files.find("wnids.txt").removesuffix("wnids.txt")
    ids = sorted(_lines(files, f"{root}wnids.txt"))
    index = {wordnet_id: position for position, wordnet_id in enumerate(ids)}
    train: LabelledPaths = []
    for path in files.names:
        top, _, rest = path.removeprefix(f"{root}train/").partition("/")
        if path.startswith(f"{root}train/{top}/images/") and rest and top in index:
            train.append((path, index[top]))
    labels = {label for _, label in train}
    empty = [wordnet_id for wordnet_id in ids if index[wordnet_id] not in labels]
    if empty:
        raise DataError(
            f"{files.origin}: train/{empty[0]}/images must hold images, got none; copy or download "
            "the data set again."
        )
    test: LabelledPaths = []
    existing = set(files.names)
    for line in _lines(files, f"{root}val/val_annotations.txt"):
        name, wordnet_id = [*line.split("\t"), ""][:2]
        path = f"{root}val/images/{name}"
        if path not in existing or wordnet_id not in index:
            raise DataError(
                f"{files.origin}: val_annotations.txt names {name} of class {wordnet_id!r}, but "
                "there is no such image or class; copy or download it again."
            )
        test.append((path, index[wordnet_id]))
    paths = ImagePaths(class_names=_class_names(files, root, ids), train=train, test=test)
    return load_labelled(files, paths, name="tiny-imagenet")


def _class_names(files: Files, root: str, ids: list[str]) -> tuple[str, ...]:
    """Name each class by its English words, or by its id if it has none or they are not unique."""
    if f"{root}words.txt" not in files.names:
        return tuple(ids)
    words = dict(line.split("\t", 1) for line in _lines(files, f"{root}words.txt") if "\t" in line)
    names = [words.get(wordnet_id, wordnet_id) for wordnet_id in ids]
    return tuple(
        name if names.count(name) == 1 else wordnet_id
        for name, wordnet_id in zip(names, ids, strict=True)
    )


def _lines(files: Files, name: str) -> list[str]:
    if name not in files.names:
        raise DataError(f"{files.origin} lacks the file {name}; copy or download it again.")
    return [line for line in files.read(name).decode("utf-8", "replace").splitlines() if line]


def _of_table(train: Encoded, test: Encoded) -> DataSet:
    names = train.names or tuple(map(str, range(max(train.labels) + 1)))
    splits = []
    for encoded in (train, test):
        images, broken = decode_once(
            [encoded.images.where(index) for index in range(len(encoded.images))],
            encoded.images.__getitem__,
            key=encoded.images.fingerprint(),
            size=None,
            grey=False,
            where=encoded.images.origin,
        )
        if broken:
            index, reason = next(iter(broken.items()))
            raise DataError(
                f"{encoded.images.where(index)} is broken: {reason} ({len(broken)} such images). "
                "Copy or download the data set again."
            )
        labels = torch.tensor(encoded.labels)
        splits.append(Split(images=load_if_small(images), labels=labels, classes=len(names)))
    return DataSet(name="tiny-imagenet", train=splits[0], test=splits[1], class_names=names)
