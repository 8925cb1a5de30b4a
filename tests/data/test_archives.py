import gzip
import hashlib
import io
import tarfile
import zipfile

import pytest

from equipoise.data import DataError, archives
from equipoise.data.archives import open_files


def write_tar(path, *members, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, content, kind in members:
            entry = tarfile.TarInfo(name)
            entry.type, entry.size = kind, len(content)
            entry.linkname = "/etc/passwd"
            archive.addfile(entry, io.BytesIO(content))
    return path


def write_zip(path, *members, packing=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, content, mode in members:
            entry = zipfile.ZipInfo(name)
            entry.external_attr = mode << 16
            archive.writestr(entry, content, packing)
    return path


@pytest.fixture(params=["folder", "zip", "tar", "tar.gz"])
def origin(request, tmp_path):
    if request.param == "folder":
        (tmp_path / "a" / "b").mkdir(parents=True)
        (tmp_path / "a" / "b" / "deep").write_bytes(b"two")
        (tmp_path / "a" / "one").write_bytes(b"one")
        (tmp_path / "a" / ".hidden").write_bytes(b"")
        return tmp_path / "a"
    if request.param == "zip":
        return write_zip(tmp_path / "x.zip", ("one", b"one", 0o644), ("b/deep", b"two", 0o644))
    mode = "w:gz" if request.param == "tar.gz" else "w"
    kind = tarfile.REGTYPE
    members = (("one", b"one", kind), ("b", b"", tarfile.DIRTYPE), ("b/deep", b"two", kind))
    return write_tar(tmp_path / f"x.{request.param}", *members, mode=mode)


def test_folders_and_archives_are_read_in_the_same_way(origin):
    with open_files(origin) as files:
        assert files.names == ("b/deep", "one")
        assert [files.read(name) for name in files.names] == [b"two", b"one"]
        assert files.find("deep") == "b/deep"
        with pytest.raises(DataError, match="lacks the file other"):
            files.find("other")


def test_each_folder_is_read_once_however_many_links_lead_to_it(tmp_path):
    for path in ("data/a/b/deep", "data/c/one", "beside/two"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    for link, target in (("a/up", ".."), ("a/c", "../c"), ("a/b/out", "../../../..")):
        (tmp_path / "data" / link).symlink_to(target)
    for link in ("beside", "d"):
        (tmp_path / "data" / link).symlink_to(tmp_path / "beside")
    with open_files(tmp_path / "data") as files:
        assert files.names == ("a/b/deep", "beside/two", "c/one")


def test_broken_link_is_refused_by_name(tmp_path):
    (tmp_path / "link.png").symlink_to("nowhere")
    with open_files(tmp_path) as files, pytest.raises(DataError, match=r"link.png cannot be read"):
        files.fingerprint(files.names)


def test_deep_false_leaves_out_subfolders(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "deep").touch()
    (tmp_path / "one").touch()
    with open_files(tmp_path, deep=False) as files:
        assert files.names == ("one",)


def test_fingerprint_depends_on_the_content_and_the_selected_files(tmp_path):
    (tmp_path / "one").write_bytes(b"1")
    (tmp_path / "two").write_bytes(b"2")

    def fingerprint(*names):
        with open_files(tmp_path) as files:
            return files.fingerprint(names)

    first = fingerprint("one", "two")
    assert fingerprint("one", "two") == first
    assert fingerprint("one") != first
    (tmp_path / "one").write_bytes(b"11")
    assert fingerprint("one", "two") != first


@pytest.mark.parametrize(
    "name", ["../out", "/etc/out", "a/../../out", "..", "a\\..\\out", "C:/out"]
)
@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_paths_that_lead_out_of_an_archive_are_refused(tmp_path, kind, name):
    path = tmp_path / f"x.{kind}"
    if kind == "zip":
        write_zip(path, ("good", b"", 0o644), (name, b"bad", 0o644))
    else:
        write_tar(path, ("good", b"", tarfile.REGTYPE), (name, b"bad", tarfile.REGTYPE))
    with pytest.raises(DataError, match="leads out of the archive"), open_files(path):
        pass
    assert [files.name for files in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind):
    path = write_tar(tmp_path / "x.tar.gz", ("link", b"", kind))
    with pytest.raises(DataError, match=r"link or device \(link\)"), open_files(path):
        pass


def test_links_in_a_zip_are_refused(tmp_path):
    path = write_zip(tmp_path / "x.zip", ("link", b"/etc/passwd", 0o120777))
    with pytest.raises(DataError, match=r"holds a link \(link\)"), open_files(path):
        pass


def test_file_size_is_checked_before_reading(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 99)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "big").write_bytes(bytes(100))
    packed = write_zip(tmp_path / "x.zip", ("big", bytes(100), 0o644))
    for origin in (tmp_path / "folder", packed):
        with (
            open_files(origin) as files,
            pytest.raises(DataError, match="big must have at most 99 bytes, got 100"),
        ):
            files.read("big")
    tar = write_tar(tmp_path / "x.tar.gz", ("big", bytes(100), tarfile.REGTYPE))
    with pytest.raises(DataError, match="big must have at most 99 bytes, got 100"), open_files(tar):
        pass


def test_small_tar_with_huge_content_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_ARCHIVE_BYTES", 10**6)
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(bytes(10**7)))
    path = write_tar(tmp_path / "y.tar.gz", ("big", bytes(10**7), tarfile.REGTYPE))
    assert path.stat().st_size < 20000
    with pytest.raises(DataError, match="must unpack to at most 1,000,000 bytes"), open_files(path):
        pass


@pytest.mark.parametrize("ending", ["zip", "tar.gz"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_truncated_archive_is_refused(tmp_path, ending, share):
    random = bytes(range(256)) * 50
    path = tmp_path / f"x.{ending}"
    if ending == "zip":
        write_zip(path, ("one", random, 0o644))
    else:
        write_tar(path, ("one", random, tarfile.REGTYPE))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DataError, match=r"cannot be read .*copy or download it"), open_files(path):
        pass


@pytest.mark.parametrize("packing", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_member_of_a_zip_is_refused_by_name(tmp_path, packing):
    member = ("one", bytes(range(256)) * 9, 0o644)
    path = write_zip(tmp_path / "x.zip", member, packing=packing)
    content = bytearray(path.read_bytes())
    content[50:61] = bytes(byte ^ 255 for byte in content[50:61])
    path.write_bytes(content)
    with open_files(path) as files, pytest.raises(DataError, match=r"x.zip: one cannot be read"):
        files.read("one")


def test_archive_with_a_published_checksum_must_match_it(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "tiny-imagenet-200.zip", ("one", b"1", 0o644))
    with pytest.raises(DataError, match=r"published one is 90528d7ca1a4.*Download it"):
        open_files(path).__enter__()
    monkeypatch.setitem(archives.PUBLISHED, path.name, hashlib.md5(path.read_bytes()).hexdigest())
    with open_files(path) as files:
        assert files.names == ("one",)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "file.txt").touch()
    with pytest.raises(DataError, match=r"must be a folder, .zip.* got .*file.txt"):
        open_files(tmp_path / "file.txt").__enter__()
    with pytest.raises(DataError, match=r"nowhere does not exist; check --data"):
        open_files(tmp_path / "nowhere").__enter__()
