import shutil
from types import SimpleNamespace

import huggingface_hub
import pytest
import tiny
import torch
from huggingface_hub import errors

import equipoise
from equipoise.models import save
from equipoise.models.io import hub
from equipoise.models.io.hub import HubError


@pytest.fixture
def model():
    return tiny.wide_resnet().eval()


@pytest.fixture
def folder(model, tmp_path):
    save(model, tmp_path / "model", {"name": "tiny"})
    return tmp_path / "model"


class Hub:
    """A fake Hub of one folder, and its local cache; it records every request.

    Like the real cache, it finds an offline copy only for the same revision and file patterns.
    """

    def __init__(self, folder, size=10):
        self.folder, self.size, self.requests = folder, size, []
        self.sha, self.copies = folder.name, []

    def model_info(self, repository, *, revision, files_metadata):
        self.requests.append(("info", repository, revision, files_metadata))
        names = ["config.json", "records/x.json", "code.py"]
        files = [SimpleNamespace(rfilename=name, size=self.size) for name in names]
        return SimpleNamespace(siblings=files, sha=self.sha)

    def snapshot_download(
        self, repository, *, revision=None, allow_patterns=None, local_files_only=False
    ):
        request = (repository, revision, tuple(allow_patterns or ()))
        self.requests.append(("files", *request))
        if local_files_only and request not in self.copies:
            raise errors.LocalEntryNotFoundError("none")
        self.copies.append(request)
        return str(self.folder)


@pytest.fixture
def online(folder, monkeypatch):
    fake = Hub(folder)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    return fake


def test_a_model_is_downloaded_at_the_commit_that_was_inspected(online, model):
    images = tiny.images_and_labels()[0]
    loaded = equipoise.load("hf://owner/name@v1")
    torch.testing.assert_close(loaded(images), model(images), rtol=0, atol=0)
    assert online.requests == [
        ("info", "owner/name", "v1", True),
        ("files", "owner/name", "v1", hub.FILES),
    ]


def test_a_model_that_changes_during_the_download_is_refused(online):
    online.sha = "another commit"
    with pytest.raises(HubError, match="hf://owner/name changed during the download"):
        equipoise.load("hf://owner/name")


def test_a_download_beyond_the_limit_is_refused_before_it_begins(online):
    online.size = 9 << 30  # for each of two files
    with pytest.raises(
        HubError, match=r"hf://owner/name must have at most \d+ bytes, got 19327352832"
    ):
        equipoise.load("hf://owner/name")
    assert len(online.requests) == 1


def raises(error):
    def call(*arguments, **settings):
        raise error

    return call


OFFLINE = errors.OfflineModeIsEnabled("offline mode is enabled")


@pytest.mark.parametrize("name", ["hf://owner/name", "hf://owner/name@v1"])
def test_offline_an_earlier_download_is_used(name, folder, online, monkeypatch):
    hub.download(name)
    monkeypatch.setattr(online, "model_info", raises(OFFLINE))
    assert hub.download(name) == folder
    with pytest.raises(HubError, match="no earlier download"):
        hub.download("hf://owner/name@v2")


def test_offline_without_an_earlier_download_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", raises(OFFLINE))
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", raises(errors.LocalEntryNotFoundError("none"))
    )
    with pytest.raises(
        HubError, match=r"hf://owner/name cannot be downloaded \(offline mode.*no earlier"
    ):
        equipoise.load("hf://owner/name")


@pytest.mark.parametrize("name", ["hf://a/../b", "hf://a/b/c", "hf://", "hf://a b/c"])
def test_an_invalid_repository_name_is_refused(name):
    with pytest.raises(HubError, match="is not a model on the Hub"):
        equipoise.load(name)


def test_files_are_uploaded_in_one_commit(monkeypatch):
    calls = []

    class Api:
        def create_repo(self, repository, *, private, exist_ok):
            calls.append((repository, private, exist_ok))

        def create_commit(self, repository, operations, *, commit_message):
            calls.append({op.path_in_repo: op.path_or_fileobj for op in operations})
            return SimpleNamespace(commit_url="https://hub/commit")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert hub.upload("owner/name", {"README.md": b"card"}, private=True) == "https://hub/commit"
    assert calls == [("owner/name", True, True), {"README.md": b"card"}]


def test_a_rejected_upload_explains_how_to_log_in(monkeypatch):
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", raises(OFFLINE))
    with pytest.raises(HubError, match=r"not accept owner/name \(offline mode.*`hf auth login`"):
        hub.upload("owner/name", {}, private=None)


def test_a_download_without_weights_is_refused(online, folder):
    shutil.move(folder / "model.safetensors", folder / "elsewhere")
    with pytest.raises(
        equipoise.models.io.model_folder.ModelFolderError, match="safetensors is missing"
    ):
        equipoise.load("hf://owner/name")
