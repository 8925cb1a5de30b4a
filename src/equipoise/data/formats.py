"""Recognise the format of a folder or file of data."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from equipoise.data.cifar import Cifar10, Cifar100
from equipoise.data.dataset import DataError
from equipoise.data.decode import SUFFIXES
from equipoise.data.digits import Digits
from equipoise.data.hugging_face import LABELS_FILE, HuggingFace, is_saved_to_disk
from equipoise.data.image_folder import ImageFolder
from equipoise.data.imported import ImportedData
from equipoise.data.npz import NpzFile
from equipoise.data.svhn import SVHN
from equipoise.data.tiny_imagenet import TinyImageNet
from equipoise.runtime.trust import names_function

DataSource = (
    Digits
    | Cifar10
    | Cifar100
    | SVHN
    | TinyImageNet
    | ImageFolder
    | HuggingFace
    | NpzFile
    | ImportedData
)

_PUBLISHED: dict[type[Cifar10 | Cifar100 | SVHN | TinyImageNet], tuple[str, ...]] = {
    Cifar10: (
        *("cifar-10-batches-py", "cifar-10-batches-bin", "data_batch_1", "data_batch_1.bin"),
        *("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz"),
    ),
    Cifar100: (
        *("cifar-100-python", "cifar-100-binary", "fine_label_names.txt", "meta"),
        *("cifar-100-python.tar.gz", "cifar-100-binary.tar.gz"),
    ),
    SVHN: ("train_32x32.mat", "test_32x32.mat"),
    TinyImageNet: ("tiny-imagenet-200", "tiny-imagenet-200.zip", "wnids.txt"),
}
"""Published data sets, and files and folders that only they have."""
_TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet", "*.tar", "*.arrow")
"""Files at the top or in a folder there from which the library ``datasets`` takes labels."""
_PARQUET = ("*.parquet", "*/*.parquet")


def recognise(path: Path, like: DataSource | None = None) -> DataSource:
    """Find out how to read a folder or file.

    Args:
        path: The folder or file, or ``module:function``, which reads data of your own.
        like: A source whose settings are kept if its format fits. A published data set is also
            kept for parquet files, whose contents are not looked at, and for an unknown format.

    Returns:
        A source that reads the path. It does not check that all files are there.

    Raises:
        DataError: If the path does not exist, or nothing in it is recognised.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / LABELS_FILE).write_text("file_name,label")
        >>> type(recognise(folder)).__name__
        'HuggingFace'
    """
    if names_function(path) and not path.exists():
        return ImportedData(function=str(path))
    check_exists(path)
    kind = _kind(path)
    published = isinstance(like, tuple(_PUBLISHED))
    if published and (kind is None or (kind is HuggingFace and _only_parquet(path))):
        kind = type(like)
    if kind is None:
        raise DataError(
            f"{path} must be data in a known format: folders of images named after their classes, "
            f"images with {LABELS_FILE} or metadata.jsonl, a folder written by save_to_disk, "
            "WebDataset tars, parquet files, an .npz file, or CIFAR, SVHN or Tiny-ImageNet as "
            "published. docs/how-to/data.md has the layouts."
        )
    source = like if isinstance(like, kind) else kind()
    if source is not like and isinstance(source, ImageFolder | HuggingFace):
        kept: Any = {name: getattr(like, name) for name in ("size", "grey") if hasattr(like, name)}
        source = replace(source, **kept)
    return located(source, path)


def located(source: DataSource, path: Path) -> DataSource:
    """Read the same format from another folder or file.

    Raises:
        DataError: If the path does not exist, or the source is not read from one.

    Example:
        >>> located(Cifar10(limit=100), Path("/")).folder
        PosixPath('/')
    """
    field = next((name for name in ("folder", "path") if hasattr(source, name)), None)
    if field is None:
        name = type(source).__name__
        raise DataError(f"{name} is not read from a folder; leave --data out.")
    check_exists(path)
    changed: Any = {field: path.resolve()}
    return replace(source, **changed)


def check_exists(path: Path) -> None:
    """Check that a path exists.

    Raises:
        DataError: If it does not; the message names the part that exists.
    """
    if not path.exists():
        parent = next((part for part in path.absolute().parents if part.is_dir()), Path())
        raise DataError(f"{path} does not exist ({parent} does); check --data.")


def _kind(path: Path) -> Any:
    """The class of the source, or ``None``."""
    for source, names in _PUBLISHED.items():
        if path.name in names or any((path / name).exists() for name in names):
            return source
    if path.is_file():
        return {".npz": NpzFile, ".tar": HuggingFace}.get(path.suffix)
    if not path.is_dir():
        return None
    tables = (LABELS_FILE, *_TABLES, *(f"*/{pattern}" for pattern in _TABLES), *_PARQUET)
    if is_saved_to_disk(path) or _has(path, tables):
        return HuggingFace
    return ImageFolder if _has_class_folders(path) else None


def _has(folder: Path, patterns: tuple[str, ...]) -> bool:
    return any(next(folder.glob(pattern), None) is not None for pattern in patterns)


def _only_parquet(path: Path) -> bool:
    return path.is_dir() and _has(path, _PARQUET) and not is_saved_to_disk(path)


def _has_class_folders(folder: Path) -> bool:
    return any(
        path.suffix.lower() in SUFFIXES
        for inner in folder.iterdir()
        if inner.is_dir() and not inner.name.startswith(".")
        for path in inner.rglob("*")
    )
