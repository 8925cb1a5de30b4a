import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from equipoise.runtime.errors import RunError
from equipoise.runtime.files import LOCK, locked, read_json, write_bytes, write_json


def full(*arguments, **settings):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "file.json"
    path.write_text("old")
    return path


def test_write_replaces_the_whole_file_and_leaves_no_temporary_file(old):
    write_bytes(old, b"new")
    assert old.read_bytes() == b"new"
    assert list(old.parent.iterdir()) == [old]


def test_write_creates_missing_folders(tmp_path):
    write_bytes(tmp_path / "a" / "b" / "file", b"new")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"new"


@pytest.mark.parametrize("call", ["fsync", "replace", "fdopen", "chmod"])
def test_full_disk_leaves_the_old_file_and_names_the_remedy(old, monkeypatch, call):
    monkeypatch.setattr(os, call, full)
    with pytest.raises(RunError, match=r"No space left.*unchanged.*Free some space.*--resume"):
        write_bytes(old, b"new")
    monkeypatch.undo()
    assert old.read_text() == "old"
    assert list(old.parent.iterdir()) == [old]


def test_interrupted_write_leaves_the_old_file(old, monkeypatch):
    def interrupted(handle):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(old, b"new")
    monkeypatch.undo()
    assert old.read_text() == "old"
    assert list(old.parent.iterdir()) == [old]


def test_path_below_a_file_is_refused(old):
    with pytest.raises(RunError, match=r"cannot write .* choose another folder"):
        write_bytes(old / "inside", b"new")


def test_written_files_have_the_permissions_of_the_umask(tmp_path):
    before = os.umask(0o022)
    try:
        write_bytes(tmp_path / "file", b"new")
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


def test_json_round_trips(tmp_path):
    content = {"a": [1, 2.5, None, "ε"], "b": {"c": True}}
    write_json(tmp_path / "file.json", content)
    assert read_json(tmp_path / "file.json") == content


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_nan_and_infinity_are_refused_and_nothing_is_written(tmp_path, number):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "file.json", {"a": number})
    assert list(tmp_path.iterdir()) == []


def test_reading_a_missing_file_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"file.json does not exist"):
        read_json(tmp_path / "file.json")


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe\xfa"])
def test_reading_damaged_json_is_refused(tmp_path, content):
    (tmp_path / "file.json").write_bytes(content)
    with pytest.raises(RunError, match="is damaged: it is not valid JSON"):
        read_json(tmp_path / "file.json")


def test_reading_a_folder_as_json_is_refused(tmp_path):
    with pytest.raises(RunError, match="cannot be read"):
        read_json(tmp_path)


def test_file_over_the_size_limit_is_refused_unread(tmp_path):
    write_json(tmp_path / "file.json", "x" * 100)
    assert read_json(tmp_path / "file.json", limit=103) == "x" * 100
    with pytest.raises(RunError, match=r"file.json must have at most 102 bytes, got 103"):
        read_json(tmp_path / "file.json", limit=102)


def test_deeply_nested_json_is_refused(tmp_path):
    (tmp_path / "file.json").write_text("[" * 100_000)
    with pytest.raises(RunError, match="is damaged: it is not valid JSON"):
        read_json(tmp_path / "file.json")


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


def test_locked_folder_is_refused_with_the_name_of_its_owner(tmp_path, holder):
    with (
        pytest.raises(RunError, match=rf"in use by process {holder.pid} on .*--out"),
        locked(tmp_path / "run"),
    ):
        pass
    assert (tmp_path / "run" / LOCK).exists()


def test_killed_process_leaves_no_lock(tmp_path, holder):
    holder.kill()
    with locked(tmp_path / "run", patience=30):
        assert str(os.getpid()) in (tmp_path / "run" / LOCK).read_text()


def test_lock_leaves_nothing_behind(tmp_path):
    with locked(tmp_path / "new"):
        assert (tmp_path / "new").is_dir()
    assert not (tmp_path / "new").exists()
    with locked(tmp_path / "kept"):
        (tmp_path / "kept" / "file").touch()
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["file"]


def test_folder_that_cannot_be_created_is_refused_after_the_waiting_time(tmp_path, monkeypatch):
    def mkdir(path, **settings):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with (
        pytest.raises(RunError, match=r"cannot write .* cannot be created\); choose .*--out"),
        locked(tmp_path / "run", patience=0.1),
    ):
        pass


def test_lock_is_retried_if_its_file_was_deleted_meanwhile(tmp_path, monkeypatch):
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
def test_file_system_without_locks_is_used_without_protection(tmp_path, monkeypatch, code):
    fcntl = pytest.importorskip("fcntl")

    def flock(handle, kind):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path / "run"):
        (tmp_path / "run" / "file").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["file"]


def test_lock_below_a_file_is_refused(tmp_path):
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


def test_only_one_process_holds_the_lock_at_a_time(tmp_path):
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
