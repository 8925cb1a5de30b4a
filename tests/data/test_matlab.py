"""MATLAB files as SciPy writes them, read without SciPy."""

import contextlib
import struct

import numpy
import pytest
from scipy.io import loadmat, savemat

from equipoise.data import DataError, matlab
from equipoise.data.matlab import read_variables

CONTENT = {
    "X": numpy.arange(2 * 3 * 4 * 5, dtype=numpy.uint8).reshape(2, 3, 4, 5),
    "y": numpy.array([[1.0], [10.0]]),
    "a_longer_name": numpy.array([[-1, 2**40]], dtype=numpy.int64),
    "n": numpy.uint8(3),
    "text": "hello",
}


@pytest.fixture(params=[True, False], ids=["packed", "plain"])
def path(tmp_path, request):
    savemat(tmp_path / "x.mat", CONTENT, do_compression=request.param)
    return tmp_path / "x.mat"


def test_arrays_are_what_scipy_reads(path):
    found, wanted = read_variables(path), loadmat(path)
    assert list(found) == list(CONTENT)
    for name in ("X", "y", "a_longer_name", "n"):
        assert found[name].shape == wanted[name].shape
        assert numpy.array_equal(found[name].read(), wanted[name])
    assert [found[name].kind for name in CONTENT] == ["uint8", "double", "int64", "uint8", "char"]


def test_the_other_byte_order_is_read(tmp_path):
    numbers = struct.pack(">II6B2x", 2, 6, *range(6))
    inner = struct.pack(">IIII", 6, 8, 9, 0) + struct.pack(">IIii", 5, 8, 2, 3)
    inner += struct.pack(">HHc3x", 1, 1, b"v") + numbers
    header = b"made by hand".ljust(124) + struct.pack(">H", 0x0100) + b"MI"
    (tmp_path / "x.mat").write_bytes(header + struct.pack(">II", 14, len(inner)) + inner)
    assert read_variables(tmp_path / "x.mat")["v"].read().tolist() == [[0, 2, 4], [1, 3, 5]]


def test_a_complex_array_is_not_taken_for_a_plain_one(tmp_path):
    savemat(tmp_path / "x.mat", {"z": numpy.array([1 + 2j])})
    assert read_variables(tmp_path / "x.mat")["z"].kind == "complex"


@pytest.mark.parametrize("at", [126, 128, 130, 136, 152, 160, 184])
def test_a_changed_byte_is_read_or_refused(path, at):
    content = bytearray(path.read_bytes())
    for value in range(256):
        content[at] = value
        path.write_bytes(content)
        with contextlib.suppress(DataError):
            for variable in read_variables(path).values():
                assert variable.read().dtype != object


def test_sizes_are_bounded_before_anything_is_unpacked(path, monkeypatch):
    monkeypatch.setattr(matlab, "LARGEST", 100)
    with pytest.raises(DataError, match=r"more than the 100 bytes allowed"):
        read_variables(path)
    monkeypatch.setattr(matlab, "LARGEST", path.stat().st_size)
    content = path.read_bytes()
    savemat(path, {"X": numpy.zeros((200, 200), numpy.uint8)}, do_compression=True)
    assert path.stat().st_size < len(content)
    with pytest.raises(DataError, match=r"a variable has 40,0\d\d bytes, over the"):
        read_variables(path)


def test_another_file_is_refused(tmp_path):
    (tmp_path / "x.mat").write_bytes(b"\x89HDF" + bytes(200))
    with pytest.raises(DataError, match="header is not that of such a file"):
        read_variables(tmp_path / "x.mat")
