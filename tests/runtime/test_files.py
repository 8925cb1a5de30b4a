import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from equipoise.records.files import iterate_records, read_record
from equipoise.records.redaction import without_folders
from equipoise.records.statistics import wilson_interval
from equipoise.runtime.environment import environment
from equipoise.runtime.errors import RunError
from equipoise.runtime.files import LOCK, locked, read_json, write_bytes, write_json
from equipoise.runtime.seeds import derive_seed


def full(*arguments, **settings):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "file.json"
    path.write_text("old")
    return path


def test_a_write_replaces_the_whole_file_and_leaves_no_neighbour(old):
    write_bytes(old, b"new")
    assert old.read_bytes() == b"new"
    assert list(old.parent.iterdir()) == [old]


def test_a_write_makes_the_folders_that_are_missing(tmp_path):
    write_bytes(tmp_path / "a" / "b" / "file", b"new")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"new"


@pytest.mark.parametrize("call", ["fsync", "replace", "fdopen", "chmod"])
def test_a_full_disk_leaves_the_old_file_and_says_what_to_do(old, monkeypatch, call):
    monkeypatch.setattr(os, call, full)
    with pytest.raises(RunError, match=r"No space left.*unchanged.*Free some space.*--resume"):
        write_bytes(old, b"new")
    monkeypatch.undo()
    assert old.read_text() == "old"
    assert list(old.parent.iterdir()) == [old]


def test_an_interrupted_write_leaves_the_old_file(old, monkeypatch):
    def interrupted(handle):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(old, b"new")
    monkeypatch.undo()
    assert old.read_text() == "old"
    assert list(old.parent.iterdir()) == [old]


def test_a_path_through_a_file_is_refused(old):
    with pytest.raises(RunError, match=r"cannot write .* choose another folder"):
        write_bytes(old / "inside", b"new")


def test_written_files_are_as_readable_as_the_umask_says(tmp_path):
    before = os.umask(0o022)
    try:
        write_bytes(tmp_path / "file", b"new")
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


def test_json_comes_back_as_it_went(tmp_path):
    content = {"a": [1, 2.5, None, "ε"], "b": {"c": True}}
    write_json(tmp_path / "file.json", content)
    assert read_json(tmp_path / "file.json") == content


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_json_does_not_have_is_refused_and_nothing_is_written(tmp_path, number):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "file.json", {"a": number})
    assert list(tmp_path.iterdir()) == []


def test_reading_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"file.json does not exist"):
        read_json(tmp_path / "file.json")


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe\xfa"])
def test_reading_damaged_json_is_refused(tmp_path, content):
    (tmp_path / "file.json").write_bytes(content)
    with pytest.raises(RunError, match="is damaged: it is not JSON"):
        read_json(tmp_path / "file.json")


def test_reading_a_folder_as_json_is_refused(tmp_path):
    with pytest.raises(RunError, match="cannot be read"):
        read_json(tmp_path)


@pytest.mark.parametrize(
    ("content", "found"), [({"format": 99}, "99"), ({"a": 1}, "None"), ([1], "list")]
)
def test_a_record_of_another_format_is_refused(tmp_path, content, found):
    (tmp_path / "record.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match=rf"no record of format 1 \(found {found}\)"):
        read_record(tmp_path / "record.json")


def test_records_are_found_below_a_folder_in_order_of_their_paths(tmp_path):
    for place in ("b/records/x.json", "a/records/y.json", "a/model/config.json"):
        write_json(tmp_path / place, tiny.record(place))
    found = [record["model"] for _, record in iterate_records(tmp_path)]
    assert found == ["a/records/y.json", "b/records/x.json"]


def test_records_are_found_in_a_folder_named_records(tmp_path):
    write_json(tmp_path / "records" / "x.json", tiny.record())
    assert len(list(iterate_records(tmp_path / "records"))) == 1


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (5, 10, 0.2366, 0.7634),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, Table I
        (15, 148, 0.0624, 0.1605),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_wilson_interval_has_the_published_values(hits, count, low, high):
    assert wilson_interval(hits, count) == pytest.approx((low, high), abs=6e-5)


@pytest.mark.parametrize(("hits", "count"), [(0, 0), (-1, 5), (6, 5)])
def test_the_wilson_interval_of_no_proportion_is_refused(hits, count):
    with pytest.raises(ValueError, match=r"hits must be in \[0, count\]"):
        wilson_interval(hits, count)


def test_a_derived_seed_depends_on_the_seed_and_on_every_name():
    names = [(), ("a",), ("b",), ("a", "b"), ("b", "a"), ("ab",)]
    seeds = {derive_seed(seed, *name) for seed in (0, 1) for name in names}
    assert len(seeds) == 12
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_derived_seeds_never_change_between_versions():
    assert derive_seed(0, "network") == 715385884120655211  # else old runs would not resume


def test_the_environment_names_commit_versions_and_hardware():
    found = environment()
    assert {"commit", "python", "versions", "platform", "processor", "cores", "devices"} <= set(
        found
    )
    assert {"equipoise", "torch", "numpy"} <= set(found["versions"])
    assert json.loads(json.dumps(found)) == found


def test_a_file_beyond_the_limit_is_refused_unread(tmp_path):
    write_json(tmp_path / "file.json", "x" * 100)
    assert read_json(tmp_path / "file.json", limit=103) == "x" * 100
    with pytest.raises(RunError, match=r"file.json has 103 bytes; at most 102 are read"):
        read_json(tmp_path / "file.json", limit=102)


def test_json_nested_without_end_is_refused(tmp_path):
    (tmp_path / "file.json").write_text("[" * 100_000)
    with pytest.raises(RunError, match="is damaged: it is not JSON"):
        read_json(tmp_path / "file.json")


def test_absolute_paths_are_cut_to_their_last_part_wherever_they_stand():
    content = {"a": ["/home/me/data", {"b": "/x/y.npz"}], "c": "runs/z", "d": 3, "e": None}
    assert without_folders(content) == {
        "a": ["data", {"b": "y.npz"}], "c": "runs/z", "d": 3, "e": None,
    }  # fmt: skip


HOLDER = """
import sys, time
from pathlib import Path
from equipoise.runtime.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has locked a folder."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_folder_that_another_process_has_locked_is_refused_with_its_owner(tmp_path, holder):
    with (
        pytest.raises(RunError, match=rf"in use by process {holder.pid} on .*--out"),
        locked(tmp_path / "run"),
    ):
        pass
    assert (tmp_path / "run" / LOCK).exists()


def test_a_killed_process_leaves_no_lock(tmp_path, holder):
    holder.kill()
    with locked(tmp_path / "run", patience=30):
        assert str(os.getpid()) in (tmp_path / "run" / LOCK).read_text()


def test_a_lock_leaves_nothing_behind(tmp_path):
    with locked(tmp_path / "new"):
        assert (tmp_path / "new").is_dir()
    assert not (tmp_path / "new").exists()
    with locked(tmp_path / "kept"):
        (tmp_path / "kept" / "file").touch()
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["file"]


def test_the_folder_of_a_lock_that_cannot_be_created_is_refused_after_the_waiting_time(
    tmp_path, monkeypatch
):
    def mkdir(path, **settings):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with (
        pytest.raises(RunError, match=r"cannot write .* cannot be created\); choose .*--out"),
        locked(tmp_path / "run", patience=0.1),
    ):
        pass


def test_a_lock_survives_its_file_being_deleted_before_it_is_acquired(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    real, calls = fcntl.flock, []

    def flock(handle, kind):
        real(handle, kind)
        if not calls:  # as if the owner had ended between our opening and locking
            (tmp_path / LOCK).unlink()
        calls.append(kind)

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path, patience=1):
        assert len(calls) == 2
        assert (tmp_path / LOCK).exists()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_used_without_protection(tmp_path, monkeypatch, code):
    fcntl = pytest.importorskip("fcntl")

    def flock(handle, kind):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path / "run"):
        (tmp_path / "run" / "file").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["file"]


def test_a_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(RunError, match=r"cannot write .*another folder with --out"),
        locked(tmp_path / "file"),
    ):
        pass


CONTENDER = """
import sys, time
from pathlib import Path
from equipoise.runtime.files import locked
folder, counter = Path(sys.argv[1]), Path(sys.argv[2])
for _ in range(10):
    with locked(folder, patience=60):
        value = int(counter.read_text())
        time.sleep(0.001)
        counter.write_text(str(value + 1))
"""


def test_processes_that_take_turns_never_hold_the_lock_together(tmp_path):
    counter = tmp_path / "counter"
    counter.write_text("0")
    command = [sys.executable, "-c", CONTENDER, str(tmp_path / "run"), str(counter)]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert counter.read_text() == "30"
    assert [path.name for path in tmp_path.iterdir()] == ["counter"]


def test_reports_and_records_import_without_fcntl():
    blocked = "import sys; sys.modules['fcntl'] = None; "
    imports = "import equipoise.report, equipoise.records.files, equipoise.runtime.run_folder"
    done = subprocess.run([sys.executable, "-c", blocked + imports], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
