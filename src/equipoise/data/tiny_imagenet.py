"""Tiny-ImageNet: 200 classes of 64x64 photographs."""

from dataclasses import dataclass
from pathlib import Path

import torch

from equipoise.data.archives import Files, open_files
from equipoise.data.cache import decode_once, load_if_small
from equipoise.data.dataset import DataError, DataSet, Split
from equipoise.data.image_folder import Labelled, read_labelled
from equipoise.data.parquet import Encoded, Table, read_table

_TABLE = Table(title="Tiny-ImageNet", config="default", test="valid")
_ARCHIVE = "tiny-imagenet-200"


@dataclass(frozen=True, kw_only=True)
class TinyImageNet:
    """Tiny-ImageNet: 100,000 training images, and the 10,000 of its part ``val`` as the test part.

    Its own test part has no labels. Classes are numbered in the order of their sorted WordNet ids,
    as the hub numbers them.

    Args:
        folder: What ``tiny-imagenet-200.zip`` unpacks to, the folder around it, the archive itself,
            or the hub's parquet files.
        hub: Repository on the hub that is used if there is no folder.

    Source:
        Stanford CS231n, http://cs231n.stanford.edu/tiny-imagenet-200.zip.
    """

    folder: Path | None = None
    hub: str = "zh-plus/tiny-imagenet"

    def load(self) -> DataSet:
        """Find all images, and decode those that the cache does not have.

        Returns:
            The data set ``tiny-imagenet``.

        Raises:
            DataError: If a file is missing or broken, or the hub is out of reach.
        """
        encoded = read_table(self.folder, self.hub, _TABLE)
        if encoded is not None:
            return _of_table(*encoded)
        assert self.folder is not None  # the hub has parquet alone
        inside = (self.folder / _ARCHIVE, self.folder / f"{_ARCHIVE}.zip")
        place = next((found for found in inside if found.exists()), self.folder)
        with open_files(place) as files:
            return _of_files(files)


def _of_files(files: Files) -> DataSet:
    root = files.find("wnids.txt").removesuffix("wnids.txt")
    ids = sorted(_lines(files, f"{root}wnids.txt"))
    number = {each: place for place, each in enumerate(ids)}
    train: Labelled = []
    for path in files.names:
        top, _, rest = path.removeprefix(f"{root}train/").partition("/")
        if path.startswith(f"{root}train/{top}/images/") and rest and top in number:
            train.append((path, number[top]))
    counts = {label for _, label in train}
    lacking = [each for each in ids if number[each] not in counts]
    if lacking:
        raise DataError(f"{files.origin}: train/{lacking[0]}/images holds no image.")
    test: Labelled = []
    there = set(files.names)
    for line in _lines(files, f"{root}val/val_annotations.txt"):
        name, each = line.partition("\t")[::2]
        each = each.split("\t")[0]
        path = f"{root}val/images/{name}"
        if path not in there or each not in number:
            raise DataError(
                f"{files.origin}: val_annotations.txt names {name} of class {each!r}, but there is "
                "no such image or class; copy or download it again."
            )
        test.append((path, number[each]))
    return read_labelled(
        files, train, test, name="tiny-imagenet", class_names=_words(files, root, ids)
    )


def _words(files: Files, root: str, ids: list[str]) -> tuple[str, ...]:
    """The English words of each class, or its id where there are none or others have them, too."""
    if f"{root}words.txt" not in files.names:
        return tuple(ids)
    words = dict(line.split("\t", 1) for line in _lines(files, f"{root}words.txt") if "\t" in line)
    named = [words.get(each, each) for each in ids]
    return tuple(
        name if named.count(name) == 1 else each for name, each in zip(named, ids, strict=True)
    )


def _lines(files: Files, name: str) -> list[str]:
    if name not in files.names:
        raise DataError(f"{files.origin} lacks the file {name}; copy or download it again.")
    return [line for line in files.read(name).decode("utf-8", "replace").splitlines() if line]


def _of_table(train: Encoded, test: Encoded) -> DataSet:
    names = train.names or tuple(map(str, range(max(train.labels) + 1)))
    parts = []
    for part in (train, test):
        images, broken = decode_once(
            [part.where(number) for number in range(len(part.images))],
            part.images.__getitem__,
            key=part.fingerprint(),
            size=None,
            grey=False,
            where=part.origin,
        )
        if broken:
            number, reason = next(iter(broken.items()))
            raise DataError(
                f"{part.where(number)} is broken: {reason} ({len(broken)} such images)."
            )
        labels = torch.tensor(part.labels)
        parts.append(Split(images=load_if_small(images), labels=labels, classes=len(names)))
    return DataSet(name="tiny-imagenet", train=parts[0], test=parts[1], class_names=names)
