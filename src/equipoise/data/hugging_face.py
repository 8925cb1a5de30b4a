"""Data sets that the library ``datasets`` reads: saved to disk, WebDataset, metadata, the hub."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from equipoise.data.cache import cache_folder, decode_once, load_if_small
from equipoise.data.columns import LABELS, find_columns, number_labels, read_labels
from equipoise.data.dataset import DataError, DataSet, Split
from equipoise.data.encoded import EncodedImages
from equipoise.data.image_folder import (
    TEST_FOLDERS,
    TRAIN_FOLDERS,
    check_broken,
    check_size_and_share,
    first_of,
)

FILE_NAMES = ("file_name", "filename", "file", "path", "image", "id")
"""Names of the column of file names in ``labels.csv``; the first one that exists is used."""
LABELS_FILE = "labels.csv"


@dataclass(frozen=True, kw_only=True)
class HuggingFace:
    """A data set in any form that the library ``datasets`` reads, or on its hub.

    Args:
        folder: A folder that ``save_to_disk`` wrote; images with ``metadata.csv`` or
            ``metadata.jsonl``; images with ``labels.csv``, which has the columns ``file_name``,
            ``label`` and perhaps ``split``; WebDataset tars, or a single one; parquet or arrow
            files. Splits are recognised by their names.
        hub: Repository on the hub, if there is no folder.
        config: Configuration on the hub.
        name: Name in records; the name of the folder or repository by default.
        image: Column of images, if there are several.
        label: Column of labels, if there are several: classes, whole numbers or names.
        test: Split that is used for testing; by default the first of the usual names.
        size: Side of the images in pixels, see ``ImageFolder``.
        grey: Convert to one channel instead of three.
        test_share: Fraction of each class that is drawn for testing if there is only one split, in
            (0, 1).
        split_seed: Random seed of that selection.
        on_broken: ``"refuse"`` or ``"skip"`` broken images; either way they are counted.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> source = HuggingFace(folder=Path("pets"), size=32)
        >>> print(source.load().summary())  # doctest: +SKIP
        pets: 160 training and 40 test images, 32x32, 3 channels; 2 classes of 80 training images.
    """

    folder: Path | None = None
    hub: str | None = None
    config: str | None = None
    name: str | None = None
    image: str | None = None
    label: str | None = None
    test: str | None = None
    size: int | None = None
    grey: bool = False
    test_share: float = 0.2
    split_seed: int = 0
    on_broken: Literal["refuse", "skip"] = "refuse"

    def __post_init__(self) -> None:
        check_size_and_share(self.size, self.test_share)

    @property
    def origin(self) -> str:
        """The folder or the repository, for messages."""
        return str(self.hub if self.folder is None else self.folder)

    def load(self) -> DataSet:
        """Read the splits, and decode the images that are not in the cache.

        Returns:
            The data set; without a training split, a test set.

        Raises:
            DataError: If there is no such data set, its splits or columns are not recognised, or
                images or labels cannot be used.
        """
        splits = self._splits()
        training, testing, notes = self._choose(splits)
        parts = [part for part in (training, testing) if part is not None]
        columns = [
            find_columns(
                splits[part].features,
                f"{self.origin}: {part}",
                image=self.image,
                label=self.label,
                remedy="name them with --dataset.image and --dataset.label",
            )
            for part in parts
        ]
        read = [
            read_labels(splits[part], label, f"{self.origin}: {part}")
            for part, (_, label) in zip(parts, columns, strict=True)
        ]
        labels, names, more = number_labels(read, self.origin, test_only=training is None)
        loaded = []
        for part, (image, _), indices in zip(parts, columns, labels, strict=False):
            encoded = EncodedImages(splits[part], image, self.origin, part)
            split, broken = self._decode(encoded, indices, len(names))
            loaded.append(split)
            more += broken
        name = self.name or (
            self.folder.resolve().name.removesuffix(".tar") if self.folder else self.origin
        )
        dataset = DataSet(
            name=name.replace("/", "-"),
            train=loaded[0] if training else loaded[0].none(),
            test=loaded[-1],
            class_names=names,
            notes=(*notes, *more),
        )
        return dataset if testing else self._with_test_split(dataset)

    def _splits(self) -> dict[str, Any]:
        """The splits by name."""
        import datasets

        if self.folder is None and self.hub is None:
            raise DataError("the data set must have a folder, got none; give --data FOLDER.")
        if self.folder is not None and not self.folder.exists():
            raise DataError(f"{self.folder} does not exist; check --data.")
        try:
            if self.folder is None:
                read = datasets.load_dataset(self.hub, self.config)
            elif (self.folder / LABELS_FILE).is_file():
                return read_labels_file(self.folder)
            elif is_saved_to_disk(self.folder):
                read = datasets.load_from_disk(str(self.folder))
            else:
                read = _load_files(self.folder)
        except DataError:
            raise
        except Exception as error:  # the library and its parsers raise almost anything
            remedy = "check the files; docs/how-to/data.md has the layouts"
            if self.folder is None:
                remedy = "to work offline, save a copy with save_to_disk and give --data FOLDER"
            raise DataError(
                f"{self.origin} cannot be read by the library datasets ({error}); {remedy}."
            ) from error
        return dict(read) if isinstance(read, dict) else {"train": read}

    def _choose(self, splits: Mapping[str, Any]) -> tuple[str | None, str | None, tuple[str, ...]]:
        """Names of the training and the test split, and a note about others."""
        training = first_of(set(splits), TRAIN_FOLDERS)
        testing = self.test or first_of(set(splits), TEST_FOLDERS)
        if testing is not None and testing not in splits:
            raise DataError(f"{self.origin} has no split {testing}; it has {', '.join(splits)}.")
        if training is None and testing is None and len(splits) == 1:
            training = next(iter(splits))
        if training is None and testing is None:
            raise DataError(
                f"{self.origin} must have a split named train or test, got {', '.join(splits)}; "
                "rename one."
            )
        others = [name for name in splits if name not in (training, testing)]
        notes = (f"the split {', '.join(others)} was not read",) if others else ()
        return training, testing, notes

    def _decode(
        self, images: EncodedImages, labels: Int[Tensor, " n"], classes: int
    ) -> tuple[Split, tuple[str, ...]]:
        names = [images.where(number) for number in range(len(images))]
        pixels, broken = decode_once(
            names,
            images.__getitem__,
            key=images.fingerprint(),
            size=self.size,
            grey=self.grey,
            where=self.origin,
        )
        notes = check_broken(broken, names, self.origin, self.on_broken)
        good = torch.tensor([number not in broken for number in range(len(images))])
        split = Split(images=load_if_small(pixels.take(good)), labels=labels[good], classes=classes)
        return split, notes

    def _with_test_split(self, dataset: DataSet) -> DataSet:
        """Draw a fraction of each class for testing."""
        selected = draw_share(dataset.train.labels, self.test_share, self.split_seed)
        return replace(
            dataset,
            train=dataset.train.take((~selected).nonzero()[:, 0]),
            test=dataset.train.take(selected.nonzero()[:, 0]),
            notes=(
                *dataset.notes,
                f"about {self.test_share:g} of each class was selected for testing",
            ),
        )


def is_saved_to_disk(folder: Path) -> bool:
    """Whether ``save_to_disk`` of the library ``datasets`` wrote this folder."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def _load_files(folder: Path) -> Any:
    """Let the library recognise the files; what it converts goes into our cache."""
    import datasets

    cache = str(cache_folder() / "datasets")
    if folder.is_file():
        return datasets.load_dataset("webdataset", data_files=str(folder), cache_dir=cache)
    return datasets.load_dataset(str(folder), cache_dir=cache)


def read_labels_file(folder: Path) -> dict[str, Any]:
    """Read ``labels.csv``, which names images in its folder and their labels.

    Returns:
        ``datasets.Dataset`` of the columns ``image`` and ``label``, by the value of the column
        ``split``, or ``train`` if there is none.

    Raises:
        DataError: If a column is missing, or a row has no image.
    """
    import datasets

    path = folder / LABELS_FILE
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    columns = list(rows[0]) if rows else []
    file_name = next((name for name in FILE_NAMES if name in columns), None)
    label = next((name for name in LABELS if name in columns), None)
    if file_name is None or label is None:
        raise DataError(
            f"{path} must have a header with the columns file_name and label, got "
            f"{columns or 'no rows'}."
        )
    splits: dict[str, dict[str, list[Any]]] = {}
    for number, row in enumerate(rows, start=2):
        image = folder / row[file_name]
        if not image.is_file():
            raise DataError(
                f"{path}, line {number}: there is no image {image}; paths are relative to "
                f"{LABELS_FILE}."
            )
        part = splits.setdefault(row.get("split") or "train", {"image": [], "label": []})
        part["image"].append(str(image.resolve()))
        part["label"].append(row[label])
    whole = all(text.lstrip("-").isdecimal() for part in splits.values() for text in part["label"])
    for part in splits.values():
        part["label"] = [int(text) for text in part["label"]] if whole else part["label"]
    return {
        name: datasets.Dataset.from_dict(part).cast_column("image", datasets.Image())
        for name, part in splits.items()
    }


def draw_share(labels: Int[Tensor, " n"], share: float, seed: int) -> Bool[Tensor, " n"]:
    """Draw a share of each class: at least one image, and not all.

    Args:
        labels: Class indices.
        share: Fraction of each class, in (0, 1).
        seed: Random seed of the selection.

    Returns:
        Whether each image was drawn.

    Raises:
        DataError: If a class has fewer than two images.

    Example:
        >>> draw_share(torch.tensor([0, 0, 0, 0, 1, 1]), 0.25, seed=0).sum()
        tensor(2)
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        rows = (labels == label).nonzero()[:, 0]
        if len(rows) < 2:
            raise DataError(
                f"each class must have two images or more, one for each split, got {len(rows)} of "
                f"class {int(label)}; add some, or name a test split."
            )
        count = min(max(1, round(share * len(rows))), len(rows) - 1)
        drawn[rows[torch.randperm(len(rows), generator=generator)[:count]]] = True
    return drawn
