"""Fuzz targets: each feeds bytes to one reader, which must read or clearly refuse them.

An audit hook checks that no code is executed and nothing outside the target's folder is written.
"""

import contextlib
import copy
import gzip
import io
import json
import math
import os
import pickle
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import tiny
import torch
from rich.console import Console

from equipoise import report
from equipoise.data import Cifar10
from equipoise.data.archives import open_files
from equipoise.data.decode import FORMATS, decode
from equipoise.data.pickles import read_pickle
from equipoise.models import load, save
from equipoise.recipes import RECIPES, Recipe, from_json, to_json
from equipoise.records import schema
from equipoise.records.epsilon import format_epsilon, parse_epsilon
from equipoise.records.files import read_record
from equipoise.runtime.errors import UserError
from equipoise.training.batches import ExtraImages
from equipoise.training.checkpoint import load_checkpoint, save_checkpoint

EXECUTES = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.", "socket.connect")
EXECUTES += ("pickle.find_class", "ctypes.dlopen", "webbrowser.open")
WRITES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate")
ODD: list[Any] = [None, True, -1, 0, 1, 2**63, 10**30, -0.5, 1e308, float("nan"), float("inf")]
ODD += ["", [], {}, "../../x", "/etc/passwd", "os.system", [[]], {"kind": "x"}, "8/255", [0.1, 0.2]]
_watched: list[Path] = []


class Executed(BaseException):
    """Code was executed. A BaseException, so that no reader can turn it into a refusal."""


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watched:
        return
    if event.startswith(EXECUTES):
        raise Executed(f"{event} {arguments}")
    target = None
    if (
        event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    ) or event in WRITES:
        target = arguments[0]
    if isinstance(target, (str, bytes, os.PathLike)):
        path = Path(os.fsdecode(target)).absolute()
        if path != Path(os.devnull) and not path.is_relative_to(_watched[-1]):
            raise Executed(f"{event} outside {_watched[-1]}: {path}")


sys.addaudithook(_audit)


@contextlib.contextmanager
def watched() -> Iterator[Path]:
    """Context manager with a temporary folder, outside which nothing may be written."""
    with tempfile.TemporaryDirectory() as name:
        _watched.append(Path(name).absolute())
        try:
            yield Path(name)
        finally:
            _watched.pop()


class Choices:
    """Random choices that are read from bytes; zeros once these are used up."""

    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, 0

    def byte(self) -> int:
        self.position += 1
        return self.data[self.position - 1] if self.position <= len(self.data) else 0

    def of(self, options: Any) -> Any:
        return options[(self.byte() * 256 + self.byte()) % len(options)]

    def text(self) -> str:
        length = self.byte() % 16
        self.position += length
        return self.data[self.position - length : self.position].decode("utf-8", "replace")

    def value(self) -> Any:
        """A JSON value, often an awkward one."""
        return copy.deepcopy(self.of([*ODD, self.text()]))


def mutated(document: Any, choices: Choices) -> Any:
    """Copy the document with one to four values changed, deleted or added."""
    changed = copy.deepcopy(document)
    for _ in range(1 + choices.byte() % 4):
        node: Any = changed
        while isinstance(node, (dict, list)) and node:
            key = choices.of(sorted(node) if isinstance(node, dict) else range(len(node)))
            child = node[key]
            if not (isinstance(child, (dict, list)) and child) or choices.byte() % 3 == 0:
                action = choices.byte() % 5
                if action == 0:
                    del node[key]
                elif action == 1 and isinstance(node, dict):
                    node[choices.text()] = choices.value()
                else:
                    node[key] = choices.value()
                break
            node = child
    return changed


def damaged(content: bytes, choices: Choices) -> bytes:
    """Copy the bytes with some of them changed, cut off or repeated."""
    changed = bytearray(content)
    for _ in range(1 + choices.byte() % 6):
        if not changed:
            break
        start = (choices.byte() << 16 | choices.byte() << 8 | choices.byte()) % len(changed)
        action = choices.byte() % 4
        if action == 0:
            del changed[start:]
        elif action == 1:
            changed[start:start] = changed[start : start + choices.byte()]
        else:
            changed[start] = choices.byte()
    return bytes(changed)


def epsilon(data: bytes) -> None:
    """Half of the texts are arbitrary, half consist of the characters of numbers."""
    text = data.decode("utf-8", "replace")
    if data and data[0] % 2:
        text = "".join("0123456789/.eE+-_ infa٣"[byte % 23] for byte in data[1:12])
    value = parse_epsilon(text)
    assert 0 <= value < math.inf
    format_epsilon(value)


_RECIPES = [to_json(make()) for make in RECIPES.values()]


def recipe(data: bytes) -> None:
    choices = Choices(data)
    parsed = from_json(mutated(choices.of(_RECIPES), choices))
    assert isinstance(parsed, Recipe)
    repr(parsed)


def record(data: bytes) -> None:
    full = tiny.record() | {
        "part": "test",
        "training_seed": 3,
        "images_sha256": "0",
        "self_checks": [{"name": "mode", "verdict": "pass", "found": "", "meaning": ""}],
    }
    with watched() as folder:
        path = folder / "r.json"
        path.write_text(json.dumps(mutated(full, Choices(data))))
        parsed = read_record(path)
        schema.check(parsed)
        console = Console(file=io.StringIO())
        console.print(report.rich_table([parsed], "t"))
        console.print(report.rich_checks(parsed))
        report.markdown_table([parsed])
        console.print(report.rich_comparison([full, parsed | {"model": "two"}], "t"))
        console.print(report.rich_columns([parsed], "t", parsed["suites"][0]["name"]))


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _files_of(make: Callable[[Path], Any]) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as name:
        make(Path(name))
        return _files(Path(name))


def _write_files(files: dict[str, bytes], folder: Path) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


_MODEL = _files_of(lambda folder: save(tiny.wide_resnet(), folder, {"name": "x"}))


def model_folder(data: bytes) -> None:
    choices, files = Choices(data), dict(_MODEL)
    if choices.byte() % 2:
        config = mutated(json.loads(files["config.json"]), choices)
        files["config.json"] = json.dumps(config).encode()
    else:
        name = choices.of(["config.json", "model.safetensors"])
        files[name] = damaged(files[name], choices)
    with watched() as folder:
        _write_files(files, folder)
        load(folder)


_CHECKPOINT = _files_of(
    lambda folder: save_checkpoint(folder, {"a": torch.ones(3)}, {"stage": "x", "epoch": 1})
)


def checkpoint(data: bytes) -> None:
    with watched() as folder:
        _write_files({name: damaged(c, Choices(data)) for name, c in _CHECKPOINT.items()}, folder)
        load_checkpoint(folder, lambda message: None)


def _parquet(folder: Path) -> None:
    import datasets
    from PIL import Image

    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
    )
    rows = {
        "img": [Image.fromarray(numpy.full((4, 4, 3), 60 * i, numpy.uint8)) for i in range(4)],
        "label": [0, 1, 0, 1],
    }
    (folder / "data").mkdir()
    for part in ("train", "test"):
        split = datasets.Dataset.from_dict(rows, features=features)
        split.to_parquet(str(folder / "data" / f"{part}-0.parquet"))


_PARQUET = _files_of(_parquet)


def parquet(data: bytes) -> None:
    choices, files = Choices(data), dict(_PARQUET)
    name = choices.of(sorted(files))
    files[name] = damaged(files[name], choices)
    with watched() as folder:
        _write_files(files, folder)
        Cifar10(folder=folder).load()


def _npz(folder: Path) -> None:
    images = numpy.zeros((4, 8, 8, 1), numpy.uint8)
    numpy.savez(folder / "x.npz", image=images, label=numpy.arange(4))


_NPZ = _files_of(_npz)


def npz(data: bytes) -> None:
    with watched() as folder:
        _write_files({"x.npz": damaged(_NPZ["x.npz"], Choices(data))}, folder)
        ExtraImages.read(folder / "x.npz", tiny.split(8))


_BATCH = {
    "labels": [3, 1],
    "data": numpy.arange(2 * 3072, dtype=numpy.uint8).reshape(2, -1),
    "filenames": ["a.png", "b.png"],
}
_PIXELS = bytes(range(200))
_PICKLES = [pickle.dumps(_BATCH, protocol=protocol) for protocol in (2, 3, 4)]
_PICKLES.append(pickle.dumps({"label_names": ["a", "b"], "call": os.system}, protocol=2))


def cifar_pickle(data: bytes) -> None:
    """Damage the opcodes rather than the pixels, every other time."""
    choices = Choices(data)
    content = choices.of(_PICKLES)
    anywhere = choices.byte() % 2 or content.find(_PIXELS) < 0
    end = len(content) if anywhere else content.find(_PIXELS)
    with watched():
        value = read_pickle(damaged(content[:end], choices) + content[end:])
    assert isinstance(value, dict)


def _pictures() -> list[bytes]:
    from PIL import Image

    plain = Image.fromarray(numpy.arange(192, dtype=numpy.uint8).reshape(8, 8, 3))
    pictures = []
    for file_format in FORMATS:
        stream = io.BytesIO()
        plain.save(stream, format=file_format)
        pictures.append(stream.getvalue())
    return pictures


_PICTURES = _pictures()


def picture(data: bytes) -> None:
    choices = Choices(data)
    with watched():
        pixels, _ = decode(damaged(choices.of(_PICTURES), choices), size=choices.of([None, 4]))
    assert (pixels.dtype, pixels.ndim) == (numpy.uint8, 3)


def _archives(folder: Path) -> None:
    with zipfile.ZipFile(folder / "a.zip", "w") as packed, tarfile.open(folder / "a.tar", "w") as t:
        for name in ("a/one.txt", "b/two.txt"):
            packed.writestr(name, name * 20)
            header = tarfile.TarInfo(name)
            header.size = 20 * len(name)
            t.addfile(header, io.BytesIO(name.encode() * 20))
    (folder / "a.tar.gz").write_bytes(gzip.compress((folder / "a.tar").read_bytes(), mtime=0))


_ARCHIVES = _files_of(_archives)


def archive(data: bytes) -> None:
    choices = Choices(data)
    name = choices.of(sorted(_ARCHIVES))
    with watched() as folder:
        _write_files({name: damaged(_ARCHIVES[name], choices)}, folder)
        with open_files(folder / name) as files:
            for path in files.names:
                files.read(path)


_TARGETS = (epsilon, recipe, record, model_folder, checkpoint, parquet, npz)
_TARGETS += (cifar_pickle, picture, archive)
TARGETS: dict[str, Callable[[bytes], None]] = {target.__name__: target for target in _TARGETS}


def survives(target: Callable[[bytes], None], data: bytes) -> bool:
    """Return True if the input was read and False if it was refused; raise any other error."""
    try:
        target(data)
    except UserError:
        return False
    return True
