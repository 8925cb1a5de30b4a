import os
import pickle
import random

import numpy
import pytest
from writers import noise, python2_pickle, python3_pickle

from equipoise.data import DataError
from equipoise.data.pickles import read_pickle

CONTENT = {"labels": [3, 0, 70000, -1], "data": noise(2, 2).reshape(2, -1), "names": ["a", "b"]}


@pytest.mark.parametrize(
    "dump", [python2_pickle, python3_pickle(2), python3_pickle(3), python3_pickle(4)]
)
def test_content_of_cifar_files_is_read(dump):
    batch = read_pickle(dump(CONTENT))
    assert list(batch) == ["labels", "data", "names"]
    assert batch["labels"] == [3, 0, 70000, -1]
    assert batch["data"].dtype == numpy.uint8
    assert numpy.array_equal(batch["data"], CONTENT["data"])
    assert [n if isinstance(n, str) else n.decode() for n in batch["names"]] == ["a", "b"]


def test_byte_keys_become_text_and_fortran_order_is_kept():
    columns = numpy.asfortranarray(CONTENT["data"])
    batch = read_pickle(python3_pickle(4)({b"data": columns}))
    assert numpy.array_equal(batch["data"], columns)


class Runs:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_pickle_that_runs_a_command_is_refused_and_runs_nothing(tmp_path, protocol):
    trap = Runs(f"touch {tmp_path / 'ran'}")
    for value in (trap, {"data": trap}, {(trap, 1): 2}, {"labels": [1, trap]}):
        content = pickle.dumps(value, protocol=protocol)
        with pytest.raises(DataError, match=r"names \w+\.system.*not run"):
            read_pickle(content)
        assert not (tmp_path / "ran").exists()
    pickle.loads(content)  # the trap is a real one
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "array",
    [
        numpy.zeros(3),
        numpy.zeros(3, dtype=numpy.int64),
        numpy.array([Runs("true")], dtype=object),
        numpy.zeros(3, dtype="u1,u1"),
    ],
)
def test_arrays_of_another_type_than_uint8_are_refused(array):
    with pytest.raises(DataError, match=r"it holds '\w+' where CIFAR files have 'u1'"):
        read_pickle(pickle.dumps({"data": array}, protocol=2))


def test_malicious_pickle_does_not_affect_later_reads():
    # BUILD with a slot state sets attributes of the callable that stands for numpy.dtype.
    state = b"N}X\x0c\x00\x00\x00__defaults__(X\x02\x00\x00\x00i8tq\x01s\x86b"
    content = b"\x80\x02cnumpy\ndtype\n" + state + b"0}."
    assert read_pickle(content) == {}
    with pytest.raises(DataError, match="damaged"):
        read_pickle(b"\x80\x02}X\x01\x00\x00\x00acnumpy\ndtype\n)Rs.")


def test_array_larger_than_its_content_is_refused_before_it_is_allocated():
    content = python2_pickle({"data": noise(2, 2).reshape(2, 12)})
    huge = content.replace(b"J\x02\x00\x00\x00J", b"J\xff\xff\xff\x7fJ")
    assert huge != content
    with pytest.raises(DataError, match="buffer size does not match array size"):
        read_pickle(huge)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        b"\x80\x02}.extra"[:-6],  # no STOP
        b"\x80\x02].",  # a list
        b"\x80\x02K\x01K\x02.",  # two values
        b"\x80\x02}h\x07.",  # a memo that is not there
        b"\x80\x02}u.",  # no mark
        b"\x80\x02u.",
        b"\x80\x02}(]K\x01u.",  # a list as a key
        b"\x80\x02}(K\x01u.",  # a key without a value
        b"\x80\x02}(K\x01K\x01u.",  # a number as a key
        b"\x80\x02}K\x01b.",  # BUILD of a dict
        b"\x80\x04}\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # BINBYTES8 of 2**63 bytes
        b"\x80\x05}\x96\x00\x00\x00\x00\x01\x00\x00\x00.",  # BYTEARRAY8 of 2**32 bytes
        b"\x80\x02cbuiltins\neval\n(X\x01\x00\x00\x001tR.",
        b"(cos\nsystem\nX\x04\x00\x00\x00trueo.",
        b"(X\x04\x00\x00\x00trueios\nsystem\n.",
        b"\x80\x02cnumpy\nndarray\n(J\xff\xff\xff\x7ftR.",  # allocates 2 GB if it is called
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00zip\x86R.",
    ],
)
def test_damaged_and_malicious_pickles_are_refused(content):
    with pytest.raises(DataError):
        read_pickle(content)


def test_huge_memo_index_takes_no_memory():
    assert read_pickle(b"\x80\x02}r\xff\xff\xff\x7f.") == {}


def test_truncated_or_damaged_pickle_is_refused_or_read_as_plain_data():
    content = python2_pickle(CONTENT)
    for length in range(len(content)):
        with pytest.raises(DataError):
            read_pickle(content[:length])
    dice = random.Random(0)
    for _ in range(1500):
        changed = bytearray(content)
        for _ in range(dice.randint(1, 4)):
            changed[dice.randrange(len(changed))] = dice.randrange(256)
        try:
            batch = read_pickle(bytes(changed))
        except DataError:
            continue
        assert all(isinstance(key, str) for key in batch)
