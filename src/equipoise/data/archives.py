"""Read the files of a folder or an archive one by one; archives are never unpacked onto disk."""

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

MAX_FILE_BYTES = 2**29
"""Size limit of a single file, which is read into memory: 512 MiB."""
MAX_ARCHIVE_BYTES = 2**31
"""Size limit of the content of a tar, which can only be read as a whole: 2 GiB."""

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

_READ_ERRORS = (
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
    """Files of a folder or an archive.

    Args:
        origin: The folder or the archive.
        names: Sorted paths inside it, with slashes.
        read: Returns the content of a file.
        stamp: Returns numbers that change when a file changes, such as its size and times.
    """

    origin: Path
    names: tuple[str, ...]
    read: Callable[[str], bytes]
    stamp: Callable[[str], Sequence[int]]

    def find(self, name: str) -> str:
        """Find the first path with this file name.

        Raises:
            DataError: If there is none.
        """
        for path in self.names:
            if PurePosixPath(path).name == name:
                return path
        raise DataError(f"{self.origin} lacks the file {name}; copy or download it again.")

    def fingerprint(self, names: Sequence[str]) -> str:
        """Hash the origin, and the names and stamps of some files.

        Raises:
            DataError: If a file is missing, such as the target of a broken link.
        """
        stamps = [(name, *self.stamp(name)) for name in names]
        content = json.dumps([str(self.origin.resolve()), stamps])
        return hashlib.sha256(content.encode()).hexdigest()


@contextmanager
def open_files(origin: Path, *, deep: bool = True) -> Iterator[Files]:
    """Open a folder, a ``.zip``, a ``.tar`` or a ``.tar.gz``.

    Args:
        origin: The folder or archive.
        deep: Include the subfolders of a folder. Hidden files are left out, and so are links to
            folders that are read already or that contain this one.

    Returns:
        A context manager that gives the files, readable until the context ends.

    Raises:
        DataError: If an archive is damaged, differs from its published checksum, holds links or
            paths that lead out of it, or is too large.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "a.txt").write_text("hello")
        >>> with open_files(folder) as files:
        ...     print(files.names, files.read("a.txt"))
        ('a.txt',) b'hello'
    """
    if origin.is_dir():
        yield _folder(origin, deep)
        return
    if not origin.is_file():
        raise DataError(f"{origin} does not exist; check --data.")
    _verify(origin)
    if origin.suffix == ".zip":
        with _errors_of(origin):
            archive = zipfile.ZipFile(origin)
        with archive:
            yield _zip(origin, archive)
    elif origin.name.endswith((".tar", ".tar.gz", ".tgz")):
        yield _tar(origin)
    else:
        raise DataError(
            f"the data must be a folder, .zip, .tar or .tar.gz, got {origin}; check --data."
        )


def _folder(origin: Path, deep: bool) -> Files:
    names = []
    root = origin.resolve()
    seen = set(root.parents)

    def is_new(folder: Path) -> bool:
        """Whether to read a folder: not a link to one that is read elsewhere or contains it."""
        target = folder.resolve()
        if target in seen or (folder.is_symlink() and target.is_relative_to(root)):
            return False
        seen.add(target)
        return True

    for parent, folders, files in os.walk(origin, followlinks=True):
        visible = sorted(name for name in folders if deep and not name.startswith("."))
        folders[:] = [name for name in visible if is_new(Path(parent, name))]
        relative = Path(parent).relative_to(origin)
        names += [(relative / name).as_posix() for name in files if not name.startswith(".")]

    def read(name: str) -> bytes:
        with _errors_of(origin, name), (origin / name).open("rb") as file:
            _check_size(origin, name, os.fstat(file.fileno()).st_size)
            return file.read()

    def stamp(name: str) -> tuple[int, int, int]:
        with _errors_of(origin, name):  # a broken link, or a file that was just deleted
            status = (origin / name).stat()
        return status.st_size, status.st_mtime_ns, status.st_ctime_ns

    return Files(origin, tuple(sorted(names)), read, stamp)


def _zip(origin: Path, archive: zipfile.ZipFile) -> Files:
    entries = {}
    for entry in archive.infolist():
        _check_member(origin, entry.filename)
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise DataError(
                f"{origin} holds a link ({entry.filename}), which is rejected; unpack it and give "
                "the folder."
            )
        if not entry.is_dir():
            entries[entry.filename] = entry

    def read(name: str) -> bytes:
        _check_size(origin, name, entries[name].file_size)
        with _errors_of(origin, name):
            return archive.read(entries[name])

    def stamp(name: str) -> tuple[int, int]:
        return entries[name].file_size, entries[name].CRC

    return Files(origin, tuple(sorted(entries)), read, stamp)


def _tar(origin: Path) -> Files:
    content: dict[str, bytes] = {}
    with _errors_of(origin), origin.open("rb") as raw:
        plain: Any = raw if origin.suffix == ".tar" else gzip.GzipFile(fileobj=raw)
        bounded: Any = _BoundedStream(plain, origin)
        with tarfile.open(fileobj=bounded, mode="r|") as archive:
            for entry in archive:
                _check_member(origin, entry.name)
                if not (entry.isdir() or entry.isreg()):
                    raise DataError(
                        f"{origin} holds a link or device ({entry.name}), which is rejected; "
                        "unpack it and give the folder."
                    )
                _check_size(origin, entry.name, entry.size)
                file = archive.extractfile(entry)
                if file is not None:
                    content[entry.name] = file.read()

    def stamp(name: str) -> tuple[int, int]:
        return len(content[name]), zlib.crc32(content[name])

    return Files(origin, tuple(sorted(content)), content.__getitem__, stamp)


class _BoundedStream:
    """Stream that raises beyond the size limit, so that a small archive cannot fill the memory."""

    def __init__(self, stream: Any, origin: Path) -> None:
        self.stream, self.origin, self.left = stream, origin, MAX_ARCHIVE_BYTES

    def read(self, size: int) -> bytes:
        content = self.stream.read(size)
        self.left -= len(content)
        if self.left < 0:
            raise DataError(
                f"{self.origin} must unpack to at most {MAX_ARCHIVE_BYTES:,} bytes, got more; "
                "unpack it and give the folder."
            )
        return content


@contextmanager
def _errors_of(origin: Path, name: str = "") -> Iterator[None]:
    """Turn errors of a damaged file into a DataError that names it."""
    try:
        yield
    except _READ_ERRORS as error:
        raise DataError(
            f"{origin}{f': {name}' if name else ''} cannot be read ({error}); copy or download it "
            "again."
        ) from error


def _check_member(origin: Path, name: str) -> None:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in parts[0]:
        raise DataError(
            f"{origin} holds the path {name!r}, which leads out of the archive: it is malicious or "
            "damaged. Nothing in it was used; download it again."
        )


def _check_size(origin: Path, name: str, size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise DataError(
            f"{origin}: {name} must have at most {MAX_FILE_BYTES:,} bytes, got {size:,}; check "
            "that it is the right file."
        )


def check_published(path: Path, digest: str, remedy: str) -> None:
    """Reject a file whose MD5 sum is not the published one.

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
