"""Write small data sets in every layout, so that tests can compare every pixel."""

import io
import pickle
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy
from PIL import Image

TEN = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
HUNDRED = [f"thing_{number}" for number in range(100)]


def noise(count: int, side: int = 32, channels: int = 3, seed: int = 0) -> numpy.ndarray:
    """Random uint8 images of shape (count, channels, side, side)."""
    shape = (count, channels, side, side)
    return numpy.random.default_rng(seed).integers(0, 256, shape, dtype=numpy.uint8)


def encoded(pixels: numpy.ndarray, coding: str = "PNG") -> bytes:
    """Encode one image of shape (channels, height, width)."""
    stream = io.BytesIO()
    plain = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    Image.fromarray(numpy.ascontiguousarray(plain)).save(stream, format=coding)
    return stream.getvalue()


def announced_png(width: int, height: int) -> bytes:
    """A PNG of a few bytes with any size in its header."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def write_parquet(
    path: Path,
    images: list[Any],
    labels: list[Any],
    names: list[str],
    image: str = "img",
    label: str = "label",
) -> Path:
    """Write a parquet file in the layout of the hub."""
    from datasets import ClassLabel, Features
    from datasets import Image as ImageFeature
    from pyarrow import Table, parquet

    features = Features({image: ImageFeature(), label: ClassLabel(names=names)})
    rows = {image: [{"bytes": content, "path": None} for content in images], label: labels}
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(Table.from_pydict(rows, schema=features.arrow_schema), path)
    return path


def python2_pickle(value: Any) -> bytes:
    """A protocol 2 pickle like the CIFAR files, which Python 2 wrote: its strings are bytes."""
    return b"\x80\x02" + _python2(value) + b"."


def _python2(value: Any) -> bytes:
    if isinstance(value, dict):
        items = b"".join(_python2(key) + _python2(item) for key, item in value.items())
        return b"}q\x01(" + items + b"u"
    if isinstance(value, list):
        return b"]q\x02(" + b"".join(map(_python2, value)) + b"e"
    if isinstance(value, str):
        return _python2(value.encode())
    if isinstance(value, bytes):
        short = len(value) < 256
        length = struct.pack("<B" if short else "<I", len(value))
        return (b"U" if short else b"T") + length + value
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    rows, columns = value.shape
    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87R"
    dtype = b"cnumpy\ndtype\nq\x05U\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN" + 2 * _python2(-1)
    shape = _python2(rows) + _python2(columns) + b"\x86"
    return array + b"(K\x01" + shape + dtype + b"K\x00tb\x89" + _python2(value.tobytes()) + b"tb"


def python3_pickle(protocol: int) -> Any:
    """A function that writes pickles of a protocol."""
    return lambda value: pickle.dumps(value, protocol=protocol)


def write_cifar10(folder: Path, images: Any, labels: Any, dump: Any = python2_pickle) -> Path:
    """Write five batches and a test batch; the last sixth of the images is the test split."""
    folder.mkdir(parents=True, exist_ok=True)
    batches = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    for batch, rows in zip(batches, numpy.split(numpy.arange(len(images)), 6), strict=True):
        content = {
            "batch_label": batch,
            "labels": [int(label) for label in labels[rows]],
            "data": images[rows].reshape(len(rows), -1),
            "filenames": [f"{row}.png" for row in rows],
        }
        (folder / batch).write_bytes(dump(content))
    meta = {"num_cases_per_batch": 10000, "label_names": TEN, "num_vis": 3072}
    (folder / "batches.meta").write_bytes(dump(meta))
    return folder


def write_cifar100(folder: Path, images: Any, labels: Any, dump: Any = python2_pickle) -> Path:
    """Write a train and a test file; the first half is the training split."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, rows in zip(
        ("train", "test"), numpy.split(numpy.arange(len(images)), 2), strict=True
    ):
        fine = [int(label) for label in labels[rows]]
        content = {
            "fine_labels": fine,
            "coarse_labels": [label // 5 for label in fine],
            "data": images[rows].reshape(len(rows), -1),
        }
        (folder / part).write_bytes(dump(content))
    names = {"fine_label_names": HUNDRED, "coarse_label_names": [f"group_{n}" for n in range(20)]}
    (folder / "meta").write_bytes(dump(names))
    return folder


def write_images(root: Path, images: dict[str, numpy.ndarray]) -> Path:
    """Write PNG files; the keys are their paths without the suffix."""
    for name, pixels in images.items():
        path = root / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(pixels))
    return root
