"""Any folder of images, with one subfolder per class."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from equipoise.data.archives import Files, open_files
from equipoise.data.cache import decode_once, load_if_small
from equipoise.data.dataset import DataError, DataSet, Split
from equipoise.data.decode import SUFFIXES
from equipoise.runtime.errors import InvalidInput

TRAIN_FOLDERS = ("train", "training")
"""Names of the folder of training images, in any case; the first one that exists is used."""
TEST_FOLDERS = ("test", "testing", "val", "valid", "validation")
"""Names of the folder of test images, likewise."""
MAX_NAMED = 5
"""Number of broken images that a message names; it counts them all."""

LabelledPaths = list[tuple[str, int]]
"""Paths of images with their class indices."""


@dataclass(frozen=True, kw_only=True)
class ImagePaths:
    """Paths of the images of a data set.

    Args:
        class_names: Name of each class.
        train: Training images.
        test: Test images.
        notes: Remarks about the search, such as files that were left out.
    """

    class_names: tuple[str, ...]
    train: LabelledPaths
    test: LabelledPaths
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """Images in class folders: ``train/CLASS/...`` and ``test/CLASS/...``, or only ``CLASS/...``.

    The training images are in the first of ``TRAIN_FOLDERS`` that exists, the test images in the
    first of ``TEST_FOLDERS``. A folder that directly contains images is a class, whatever its name.
    Without a folder of test images, some images of each class are selected for testing. Classes are
    numbered in the order of their sorted names. Images are decoded once, into the cache; see
    ``docs/how-to/data.md``.

    Args:
        folder: The folder.
        name: Name in records; the folder's name by default.
        size: Scale the shorter side of each image to this many pixels and crop the square in the
            middle. ``None`` keeps the images as they are; they must then have the same size.
        grey: Convert to one channel instead of three.
        test_share: Approximate fraction of each class that is selected for testing if there is no
            folder of test images, in (0, 1). Each class keeps at least one image in both splits.
            The selection of an image depends only on its path in the folder and the seed.
        split_seed: Random seed of that selection.
        on_broken: ``"refuse"`` a folder with broken images, or ``"skip"`` them; either way they are
            counted and named. A file that cannot be read is always refused.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> from equipoise.data import ImageFolder
        >>> source = ImageFolder(folder=Path("pets"), size=32, on_broken="skip")
        >>> print(source.load().summary())  # doctest: +SKIP
        pets: 157 training and 43 test images, 32x32, 3 channels; 2 classes of ...
    """

    folder: Path | None = None
    name: str | None = None
    size: int | None = None
    grey: bool = False
    test_share: float = 0.2
    split_seed: int = 0
    on_broken: Literal["refuse", "skip"] = "refuse"

    def __post_init__(self) -> None:
        check_size_and_share(self.size, self.test_share)

    def load(self) -> DataSet:
        """Find all images, and decode those that are not in the cache.

        Returns:
            The data set, with notes about files that were left out.

        Raises:
            DataError: If the folder is missing, a class has no image, the test split has a class
                that the training split lacks, the training split is missing, images differ in size,
                or an image is broken and ``on_broken`` is ``"refuse"``.
        """
        if self.folder is not None and (self.folder / "dataset_dict.json").exists():
            raise DataError(
                f"{self.folder} was written by save_to_disk of the library datasets; read it with "
                "--dataset huggingface."
            )
        if self.folder is None or not self.folder.is_dir():
            raise DataError(
                f"folder must be an existing folder, got {self.folder}; give --data FOLDER, which "
                "holds train/CLASS/ and test/CLASS/, or only CLASS/."
            )
        with open_files(self.folder) as files:
            return load_labelled(
                files,
                self._find_images(files),
                name=self.name or self.folder.resolve().name,
                size=self.size,
                grey=self.grey,
                on_broken=self.on_broken,
            )

    def _find_images(self, files: Files) -> ImagePaths:
        top_folders = {name.split("/")[0] for name in files.names if "/" in name}
        others = [name for name in files.names if not name.lower().endswith(SUFFIXES)]
        notes = [f"{len(others)} files that are not images were left out"] if others else []
        paths = [name.split("/") for name in files.names if name.lower().endswith(SUFFIXES)]
        deep = {path[0] for path in paths if len(path) > 2}
        splits = deep - {path[0] for path in paths if len(path) == 2}  # the others are classes
        training, testing = (first_of(splits, names) for names in (TRAIN_FOLDERS, TEST_FOLDERS))
        if training is None:
            _check_class_names(
                files.origin, testing, sorted({path[0] for path in paths if path[1:]})
            )
        by_class = _by_class(files, f"{training}/" if training else "")
        classes = tuple(by_class)
        unread = sorted(top_folders - {training, testing}) if training else []
        if unread:
            origin = testing or f"selected from {training}"
            notes.append(f"the folder {', '.join(unread)} was not read (test images: {origin})")
        if testing is None:
            train, test = self._select_test_images(by_class)
            notes.append(f"about {self.test_share:g} of each class was selected for testing")
            return ImagePaths(class_names=classes, train=train, test=test, notes=tuple(notes))
        tests = _by_class(files, f"{testing}/")
        unknown = sorted(set(tests) - set(classes))
        if unknown:
            raise DataError(
                f"{files.origin / testing} has the class {unknown[0]!r}, which {training} lacks "
                f"({len(unknown)} such classes); both need the same class folders."
            )
        return ImagePaths(
            class_names=classes,
            train=_flat(by_class, classes),
            test=_flat(tests, classes),
            notes=tuple(notes),
        )

    def _select_test_images(
        self, by_class: dict[str, list[str]]
    ) -> tuple[LabelledPaths, LabelledPaths]:
        """Select a fraction of each class for testing: at least one image, and not all.

        Each image is selected by its own path, so that adding an image moves no other.
        """
        train: LabelledPaths = []
        test: LabelledPaths = []
        for label, (name, paths) in enumerate(by_class.items()):
            if len(paths) < 2:
                raise DataError(
                    f"{self.folder}: the class {name!r} must have two images or more, one for each "
                    f"split, got {len(paths)}; add some, or create the folders train and test."
                )
            values = {path: self._uniform(path) for path in paths}
            selected = {path for path in paths if values[path] < self.test_share}
            selected = selected or {min(paths, key=values.__getitem__)}
            if len(selected) == len(paths):
                selected.remove(max(paths, key=values.__getitem__))
            for path in paths:
                (test if path in selected else train).append((path, label))
        return train, test

    def _uniform(self, path: str) -> float:
        """Pseudo-random number in [0, 1) that depends only on the seed and the path."""
        content = os.fsencode(f"{self.split_seed}:{path}")
        return int.from_bytes(hashlib.sha256(content).digest()[:6], "big") / 2**48


def load_labelled(
    files: Files,
    paths: ImagePaths,
    *,
    name: str,
    size: int | None = None,
    grey: bool = False,
    on_broken: Literal["refuse", "skip"] = "refuse",
) -> DataSet:
    """Load a data set from paths and class indices, through the cache of decoded images.

    Args:
        files: Files that contain the images.
        paths: Which of them are the images, and their classes.
        name: Name of the data set.
        size: Side of the images in pixels, see ``ImageFolder``.
        grey: Convert to one channel, see ``ImageFolder``.
        on_broken: How to handle broken images, see ``ImageFolder``.

    Raises:
        DataError: If images differ in size, or one is broken and ``on_broken`` is ``"refuse"``.
    """
    everything, notes = [*paths.train, *paths.test], paths.notes
    names = [path for path, _ in everything]
    images, broken = decode_once(
        names,
        lambda index: files.read(names[index]),
        key=files.fingerprint(names),
        size=size,
        grey=grey,
        where=files.origin,
    )
    notes += check_broken(broken, names, str(files.origin), on_broken)
    good = torch.tensor([index not in broken for index in range(len(everything))])
    labels = torch.tensor([label for _, label in everything])
    in_train = torch.arange(len(everything)) < len(paths.train)
    classes = len(paths.class_names)
    train, test = (
        Split(images=load_if_small(images.take(rows)), labels=labels[rows], classes=classes)
        for rows in (good & in_train, good & ~in_train)
    )
    return DataSet(name=name, train=train, test=test, class_names=paths.class_names, notes=notes)


def check_size_and_share(size: int | None, test_share: float) -> None:
    """Check the size of images and the share of test images.

    Raises:
        ValueError: If one is out of range.
    """
    if size is not None and not 1 <= size <= 4096:
        raise InvalidInput(f"size must be in [1, 4096], got {size}.")
    if not 0 < test_share < 1:
        raise InvalidInput(f"test_share must be between 0 and 1, got {test_share}.")


def check_broken(
    broken: Mapping[int, str],
    names: Sequence[str],
    origin: str,
    on_broken: Literal["refuse", "skip"],
) -> tuple[str, ...]:
    """Return a note about broken images, if there are any and they are skipped.

    Args:
        broken: The reason for each broken image, by index.
        names: Name of each image.
        origin: Name of the data set.
        on_broken: How to handle broken images.

    Raises:
        DataError: If there are any and they are not skipped.
    """
    if not broken:
        return ()
    reasons = [f"{names[index]}: {reason}" for index, reason in broken.items()]
    named = "; ".join(reasons[:MAX_NAMED])
    if on_broken == "refuse":
        raise DataError(
            f"{origin}: {len(broken)} of {len(names)} images are broken ({named}). "
            "Repair or delete them, or skip them with --dataset.on-broken skip."
        )
    return (f"{len(broken)} broken images were left out ({named})",)


def first_of(folders: set[str], names: Sequence[str]) -> str | None:
    """Find the folder with the earliest of these names, in any case."""
    ordered = sorted(folders, reverse=True)  # lower case first
    return next((folder for name in names for folder in ordered if folder.lower() == name), None)


def _check_class_names(origin: Path, testing: str | None, classes: list[str]) -> None:
    """Reject splits that would be taken for classes because the training split is missing."""
    reserved = TRAIN_FOLDERS + TEST_FOLDERS
    if testing is not None or (classes and all(name.lower() in reserved for name in classes)):
        raise DataError(
            f"{origin} holds {', '.join(classes)}, but no training images. They belong in a folder "
            "named train or training, with one folder per class and no images beside these. Create "
            f"it, or rename {testing or classes[0]} if it is a class."
        )


def _by_class(files: Files, prefix: str) -> dict[str, list[str]]:
    """List the images of each class folder, in sorted order."""
    root = files.origin / prefix
    by_class: dict[str, list[str]] = {
        folder.name: []
        for folder in sorted(root.iterdir())
        if folder.is_dir() and not folder.name.startswith(".")
    }
    for path in files.names:
        top, _, rest = path.removeprefix(prefix).partition("/")
        if path.startswith(prefix) and rest and path.lower().endswith(SUFFIXES):
            by_class[top].append(path)
    if len(by_class) < 2:
        raise DataError(
            f"{root} must have folders for at least two classes, got {list(by_class)}; "
            "make a folder for each class, or leave --dataset out: other layouts are recognised."
        )
    empty = [name for name, paths in by_class.items() if not paths]
    if empty:
        raise DataError(
            f"{root / empty[0]} must hold images, got none ({len(empty)} such class folders); fill "
            f"or delete it. Image files end in {', '.join(SUFFIXES)}."
        )
    return by_class


def _flat(by_class: dict[str, list[str]], classes: tuple[str, ...]) -> LabelledPaths:
    return [(path, classes.index(name)) for name, paths in by_class.items() for path in paths]
