"""The files of a folder or an archive, read one by one; archives are never unpacked onto disk."""

import gzip
import hashlib
import json
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from equipoise.data.dataset import DataError

LARGEST = 2**29
"""Largest single file that is read into memory, 512 MiB."""
LARGEST_ARCHIVE = 2**31
"""Largest content of a tar that is read, 2 GiB: it can only be read as a whole."""

PUBLISHED = {
    "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
    "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
    "cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85",
    "cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8",
    "tiny-imagenet-200.zip": "90528d7ca1a48142e341f4ef8d21d0de",
    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
}
"""MD5 sums of published files by name: of CIFAR from its page, of the others from torchvision."""

_BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    RuntimeError,
)


@dataclass(frozen=True)
class Files:
    """What lies in a folder or an archive.

    Args:
        origin: The folder or the archive.
        names: Paths inside it, with slashes, sorted.
        read: The content of one of them.
        stamp: Size and times of one of them, or whatever else changes when it does.
    """

    origin: Path
    names: tuple[str, ...]
    read: Callable[[str], bytes]
    stamp: Callable[[str], Sequence[int]]

    def named(self, name: str) -> str:
        """The one path that ends in this file name.

        Raises:
            DataError: If there is none.
        """
        for found in self.names:
            if PurePosixPath(found).name == name:
                return found
        raise DataError(f"{self.origin} lacks the file {name}; copy or download it again.")

    def fingerprint(self, names: Sequence[str]) -> str:
        """A hash of the origin and of the names and stamps of some files.

        Raises:
            DataError: If one is not there, such as a link that leads nowhere.
        """
        stamps = [(name, *self.stamp(name)) for name in names]
        content = json.dumps([str(self.origin.resolve()), stamps])
        return hashlib.sha256(content.encode()).hexdigest()


@contextmanager
def open_files(origin: Path, *, deep: bool = True) -> Iterator[Files]:
    """Open a folder, a ``.zip``, a ``.tar`` or a ``.tar.gz``.

    Args:
        origin: Which.
        deep: Look into the folders of a folder, too. Hidden files are left out, and so are links to
            folders that are read already, or that hold this one.

    Returns:
        Its files, readable until the context ends.

    Raises:
        DataError: If an archive is damaged, differs from its published checksum, holds links or
            paths that lead out of it, or is too large.
    """
    if origin.is_dir():
        yield _folder(origin, deep)
        return
    if not origin.is_file():
        raise DataError(f"there is no folder or archive {origin}; check --data.")
    _verify(origin)
    if origin.suffix == ".zip":
        with _refused(origin):
            archive = zipfile.ZipFile(origin)
        with archive:
            yield _zip(origin, archive)
    elif origin.name.endswith((".tar", ".tar.gz", ".tgz")):
        yield _tar(origin)
    else:
        raise DataError(f"{origin} is no folder, .zip, .tar or .tar.gz; check --data.")


def _folder(origin: Path, deep: bool) -> Files:
    names = []
    root = origin.resolve()
    seen = set(root.parents)

    def new(folder: Path) -> bool:
        """Whether it is read here: not by a link to what is read elsewhere, or lies around it."""
        place = folder.resolve()
        if place in seen or (folder.is_symlink() and place.is_relative_to(root)):
            return False
        seen.add(place)
        return True

    for place, folders, files in os.walk(origin, followlinks=True):
        shown = sorted(name for name in folders if deep and not name.startswith("."))
        folders[:] = [name for name in shown if new(Path(place, name))]
        inside = Path(place).relative_to(origin)
        names += [(inside / name).as_posix() for name in files if not name.startswith(".")]

    def read(name: str) -> bytes:
        with _refused(origin, name), (origin / name).open("rb") as file:
            _bounded(origin, name, os.fstat(file.fileno()).st_size)
            return file.read()

    def stamp(name: str) -> tuple[int, int, int]:
        with _refused(origin, name):  # a link that leads nowhere, or a file just deleted
            found = (origin / name).stat()
        return found.st_size, found.st_mtime_ns, found.st_ctime_ns

    return Files(origin, tuple(sorted(names)), read, stamp)


def _zip(origin: Path, archive: zipfile.ZipFile) -> Files:
    entries = {}
    for entry in archive.infolist():
        _refuse_tricks(origin, entry.filename)
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise DataError(f"{origin} holds a link ({entry.filename}); links are refused.")
        if not entry.is_dir():
            entries[entry.filename] = entry

    def read(name: str) -> bytes:
        _bounded(origin, name, entries[name].file_size)
        with _refused(origin, name):
            return archive.read(entries[name])

    def stamp(name: str) -> tuple[int, int]:
        return entries[name].file_size, entries[name].CRC

    return Files(origin, tuple(sorted(entries)), read, stamp)


def _tar(origin: Path) -> Files:
    content: dict[str, bytes] = {}
    with _refused(origin), origin.open("rb") as raw:
        plain: Any = raw if origin.suffix == ".tar" else gzip.GzipFile(fileobj=raw)
        bounded: Any = _AtMost(plain, origin)
        with tarfile.open(fileobj=bounded, mode="r|") as archive:
            for entry in archive:
                _refuse_tricks(origin, entry.name)
                if not (entry.isdir() or entry.isreg()):
                    raise DataError(f"{origin} holds a link or device ({entry.name}); refused.")
                _bounded(origin, entry.name, entry.size)
                file = archive.extractfile(entry)
                if file is not None:
                    content[entry.name] = file.read()

    def stamp(name: str) -> tuple[int, int]:
        return len(content[name]), zlib.crc32(content[name])

    return Files(origin, tuple(sorted(content)), content.__getitem__, stamp)


class _AtMost:
    """A stream that ends in a refusal, so that a small archive cannot fill the memory."""

    def __init__(self, stream: Any, origin: Path) -> None:
        self.stream, self.origin, self.left = stream, origin, LARGEST_ARCHIVE

    def read(self, size: int) -> bytes:
        content = self.stream.read(size)
        self.left -= len(content)
        if self.left < 0:
            raise DataError(f"{self.origin} unpacks to more than {LARGEST_ARCHIVE:,} bytes.")
        return content


@contextmanager
def _refused(origin: Path, name: str = "") -> Iterator[None]:
    """Damage as a refusal that names the file."""
    try:
        yield
    except _BROKEN as error:
        raise DataError(
            f"{origin}{f': {name}' if name else ''} cannot be read ({error}); copy or download it "
            "again."
        ) from error


def _refuse_tricks(origin: Path, name: str) -> None:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in parts[0]:
        raise DataError(
            f"{origin} holds the path {name!r}, which leads out of the archive; it was made to do "
            "harm or is damaged, and nothing of it was used."
        )


def _bounded(origin: Path, name: str, size: int) -> None:
    if size > LARGEST:
        raise DataError(f"{origin}: {name} has {size:,} bytes, more than the {LARGEST:,} allowed.")


def check_published(path: Path, digest: str, remedy: str) -> None:
    """Refuse a file whose MD5 sum is not the published one.

    Args:
        path: The file; its name is looked up in ``PUBLISHED``, and any other name passes.
        digest: MD5 sum of its content, in hexadecimal.
        remedy: What to do about an altered file, as a sentence.

    Raises:
        DataError: If the sums differ.
    """
    published = PUBLISHED.get(path.name, digest)
    if digest != published:
        raise DataError(
            f"{path} has the MD5 sum {digest}, but the published one is {published}: it is cut "
            f"short or altered. {remedy}"
        )


def _verify(origin: Path) -> None:
    if origin.name not in PUBLISHED:
        return
    with origin.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    check_published(origin, digest, "Download it again, or rename it if it is your own.")
