"""Any folder of images: a folder a class."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from equipoise.data.archives import Files, open_files
from equipoise.data.cache import decode_once, load_if_small
from equipoise.data.dataset import DataError, DataSet, Split
from equipoise.data.decode import SUFFIXES

TRAIN_FOLDERS = ("train", "training")
"""Folders that are taken for the training part, in whatever case; the first one that is there."""
TEST_FOLDERS = ("test", "testing", "val", "valid", "validation")
"""Folders that are taken for the test part, likewise."""
SHOWN = 5
"""Broken images that a message names; it counts them all."""

Labelled = list[tuple[str, int]]
"""Paths and classes."""


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """Images in folders, one a class: ``train/CLASS/...`` and ``test/CLASS/...``, or ``CLASS/...``.

    The training part is the first of ``TRAIN_FOLDERS`` that is there, the test part the first of
    ``TEST_FOLDERS``, if their folders hold the images; one that holds images itself is a class.
    Where there is no test part, it is drawn from every class by ``split_seed``. Classes are
    numbered in the order of their sorted names. Images are decoded once, into the cache; see
    ``docs/how-to/data.md``.

    Args:
        folder: Which folder.
        name: Goes into records; the folder's name by default.
        size: Bring images to so many pixels a side: the shorter side is scaled to it and the square
            in the middle is kept. ``None`` takes them as they are; they must then have one size.
        grey: One channel instead of red, green and blue.
        test_share: About which share of each class is drawn for the test part where there is no
            folder of test images, in (0, 1); of each class one image at least, and not all. An
            image is drawn by its path in the folder, whatever else is there.
        split_seed: Of that drawing.
        on_broken: ``"refuse"`` a folder with broken images, or ``"skip"`` them; either way they are
            counted and named. A file that the system does not read is refused always.

    Raises:
        ValueError: If a number is out of range.
    """

    folder: Path | None = None
    name: str | None = None
    size: int | None = None
    grey: bool = False
    test_share: float = 0.2
    split_seed: int = 0
    on_broken: Literal["refuse", "skip"] = "refuse"

    def __post_init__(self) -> None:
        if self.size is not None and not 1 <= self.size <= 4096:
            raise ValueError(f"size must be in [1, 4096], got {self.size}.")
        if not 0 < self.test_share < 1:
            raise ValueError(f"test_share must be between 0 and 1, got {self.test_share}.")

    def load(self) -> DataSet:
        """Find all images, and decode those that the cache does not have.

        Returns:
            The data set, with notes on what was left out.

        Raises:
            DataError: If there is no folder, a class has no image, parts have other classes or the
                training part is missing, images differ in size, or one is broken and ``on_broken``
                is ``"refuse"``.
        """
        if self.folder is None or not self.folder.is_dir():
            raise DataError(
                f"an image folder needs a folder, got {self.folder}; give --data FOLDER, which "
                "holds train/CLASS/ and test/CLASS/, or CLASS/ alone."
            )
        with open_files(self.folder) as files:
            classes, train, test, notes = self._found(files)
            return read_labelled(
                files,
                train,
                test,
                name=self.name or self.folder.resolve().name,
                class_names=classes,
                size=self.size,
                grey=self.grey,
                on_broken=self.on_broken,
                notes=notes,
            )

    def _found(self, files: Files) -> tuple[tuple[str, ...], Labelled, Labelled, list[str]]:
        tops = {name.split("/")[0] for name in files.names if "/" in name}
        others = [name for name in files.names if not name.lower().endswith(SUFFIXES)]
        notes = [f"{len(others)} files that are no images were left out"] if others else []
        paths = [name.split("/") for name in files.names if name.lower().endswith(SUFFIXES)]
        deep = {path[0] for path in paths if len(path) > 2}
        parts = deep - {path[0] for path in paths if len(path) == 2}  # else it is a class
        training, testing = (_named(parts, names) for names in (TRAIN_FOLDERS, TEST_FOLDERS))
        if training is None:
            _refuse_parts(files.origin, testing, sorted({path[0] for path in paths if path[1:]}))
        by_class = _by_class(files, f"{training}/" if training else "")
        classes = tuple(by_class)
        unread = sorted(tops - {training, testing}) if training else []
        if unread:
            part = testing or f"drawn from {training}"
            notes.append(f"the folder {', '.join(unread)} was not read (test part: {part})")
        if testing is None:
            train, test = self._drawn(by_class)
            notes.append(f"about {self.test_share:g} of each class was drawn for the test part")
            return classes, train, test, notes
        tests = _by_class(files, f"{testing}/")
        unknown = sorted(set(tests) - set(classes))
        if unknown:
            raise DataError(
                f"{files.origin / testing} has the class {unknown[0]!r}, which {training} lacks "
                f"({len(unknown)} such); both need the same folders."
            )
        return classes, _flat(by_class, classes), _flat(tests, classes), notes

    def _drawn(self, by_class: dict[str, list[str]]) -> tuple[Labelled, Labelled]:
        """A share of every class for the test part, one image at least and not all.

        Each image's own place decides, so that one more moves no other.
        """
        train: Labelled = []
        test: Labelled = []
        for label, (name, paths) in enumerate(by_class.items()):
            if len(paths) < 2:
                raise DataError(
                    f"{self.folder}: the class {name!r} has one image, which cannot be in both "
                    "parts; add some, or make the folders train and test yourself."
                )
            places = {path: self._place(path) for path in paths}
            drawn = {path for path in paths if places[path] < self.test_share}
            drawn = drawn or {min(paths, key=places.__getitem__)}
            if len(drawn) == len(paths):
                drawn.remove(max(paths, key=places.__getitem__))
            for path in paths:
                (test if path in drawn else train).append((path, label))
        return train, test

    def _place(self, path: str) -> float:
        """A number in [0, 1) that looks drawn, from the seed and an image's path alone."""
        content = os.fsencode(f"{self.split_seed}:{path}")
        return int.from_bytes(hashlib.sha256(content).digest()[:6], "big") / 2**48


def read_labelled(
    files: Files,
    train: Labelled,
    test: Labelled,
    *,
    name: str,
    class_names: tuple[str, ...],
    size: int | None = None,
    grey: bool = False,
    on_broken: Literal["refuse", "skip"] = "refuse",
    notes: Sequence[str] = (),
) -> DataSet:
    """A data set from paths and classes, through the cache of decoded images.

    Args:
        files: Hold the images.
        train: Of the training part.
        test: Of the test part.
        name: Of the data set.
        class_names: One name a class.
        size: As of ``ImageFolder``.
        grey: As of ``ImageFolder``.
        on_broken: As of ``ImageFolder``.
        notes: What is known about the reading already.

    Returns:
        The data set.

    Raises:
        DataError: As ``ImageFolder.load``.
    """
    whole = [*train, *test]
    names = [path for path, _ in whole]
    images, broken = decode_once(
        names,
        lambda number: files.read(names[number]),
        key=files.fingerprint(names),
        size=size,
        grey=grey,
        where=files.origin,
    )
    if broken:
        some = "; ".join(f"{names[n]}: {reason}" for n, reason in list(broken.items())[:SHOWN])
        if on_broken == "refuse":
            raise DataError(
                f"{files.origin}: {len(broken)} of {len(names)} images are broken ({some}). Repair "
                "or delete them, or leave them out by --dataset.on-broken skip."
            )
        notes = [*notes, f"{len(broken)} broken images were left out ({some})"]
    good = torch.tensor([number not in broken for number in range(len(whole))])
    labels = torch.tensor([label for _, label in whole])
    first = torch.arange(len(whole)) < len(train)
    parts = [
        Split(
            images=load_if_small(images.take(chosen)),
            labels=labels[chosen],
            classes=len(class_names),
        )
        for chosen in (good & first, good & ~first)
    ]
    return DataSet(
        name=name, train=parts[0], test=parts[1], class_names=class_names, notes=tuple(notes)
    )


def _named(folders: set[str], names: Sequence[str]) -> str | None:
    """The folder of the first name that one has, in whatever case."""
    order = sorted(folders, reverse=True)  # small letters first
    return next((each for name in names for each in order if each.lower() == name), None)


def _refuse_parts(origin: Path, testing: str | None, tops: list[str]) -> None:
    """Parts that would be taken for classes, since there is no training part."""
    parts = TRAIN_FOLDERS + TEST_FOLDERS
    if testing is not None or (tops and all(top.lower() in parts for top in tops)):
        raise DataError(
            f"{origin} holds {', '.join(tops)}, but no training part: a folder train or training "
            "that holds a folder for each class, and no image itself. Make one, or give "
            f"{testing or tops[0]} another name if it is a class."
        )


def _by_class(files: Files, prefix: str) -> dict[str, list[str]]:
    """The images under each class folder, in sorted order."""
    place = files.origin / prefix
    found: dict[str, list[str]] = {
        folder.name: []
        for folder in sorted(place.iterdir())
        if folder.is_dir() and not folder.name.startswith(".")
    }
    for path in files.names:
        top, _, rest = path.removeprefix(prefix).partition("/")
        if path.startswith(prefix) and rest and path.lower().endswith(SUFFIXES):
            found[top].append(path)
    if len(found) < 2:
        raise DataError(
            f"{place} must hold a folder for each of two classes or more, got {list(found)}."
        )
    empty = [name for name, paths in found.items() if not paths]
    if empty:
        raise DataError(
            f"{place / empty[0]} holds no image ({len(empty)} such class folders); fill or delete "
            f"it. Images end in {', '.join(SUFFIXES)}."
        )
    return found


def _flat(by_class: dict[str, list[str]], classes: tuple[str, ...]) -> Labelled:
    return [(path, classes.index(name)) for name, paths in by_class.items() for path in paths]
