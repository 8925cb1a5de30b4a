"""Model folders on the Hugging Face Hub: ``hf://owner/name`` or ``hf://owner/name@revision``.

Only the files of a model folder and its records are transferred; none of them can execute code.
"""

import fnmatch
from pathlib import Path
from typing import Any

from equipoise.runtime.errors import RunError

HUB = "hf://"
FILES = ("config.json", "model.safetensors", "README.md", "records/*.json")
MAX_DOWNLOAD = 16 << 30  # bytes


class HubError(RunError):
    """A failed transfer from or to the Hub; the message says why."""


def download(name: str) -> Path:
    """Download a model folder, or use an earlier download if the Hub cannot be reached.

    Args:
        name: ``hf://owner/name`` or ``hf://owner/name@revision``.

    Returns:
        The folder in the local cache.

    Raises:
        HubError: If the name is invalid, the model does not exist, is too large or changes during
            the download, or the Hub cannot be reached and there is no earlier download.
    """
    from huggingface_hub import HfApi, errors, snapshot_download

    repository, _, revision = name.removeprefix(HUB).partition("@")
    # By the given revision, not its commit: offline, the cache finds a copy only under the revision
    # and file patterns with which it was downloaded.
    request: dict[str, Any] = {"revision": revision or None, "allow_patterns": list(FILES)}
    invalid = (errors.HFValidationError, errors.RepositoryNotFoundError)
    try:
        info = HfApi().model_info(repository, revision=request["revision"], files_metadata=True)
        sizes = [file.size or 0 for file in info.siblings or [] if _belongs(file.rfilename)]
        if sum(sizes) > MAX_DOWNLOAD:
            raise HubError(
                f"{name} must have at most {MAX_DOWNLOAD} bytes, got {sum(sizes)}; download it by "
                "other means and name the folder."
            )
        copy = Path(snapshot_download(repository, **request))
        if copy.name != info.sha:
            raise HubError(f"{name} changed during the download; try again.")
        return copy
    except (*invalid, errors.RevisionNotFoundError) as error:
        raise HubError(f"{name} is not a model on the Hub ({_first_line(error)}).") from error
    except (OSError, errors.HTTPError) as error:  # type: ignore[attr-defined]
        try:
            return Path(snapshot_download(repository, local_files_only=True, **request))
        except errors.LocalEntryNotFoundError:
            raise HubError(
                f"{name} cannot be downloaded ({_first_line(error)}) and there is no earlier "
                "download; try again with a connection, or name a model folder."
            ) from error


def upload(repository: str, contents: dict[str, bytes | Path], *, private: bool | None) -> str:
    """Upload the files of a model folder in one commit.

    Args:
        repository: ``owner/name``; created if it does not exist.
        contents: Content or local path of each file, by its name in the repository.
        private: Whether a new repository is private; by default as its owner has set.

    Returns:
        The URL of the commit.

    Raises:
        HubError: If the Hub rejects the upload.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, errors

    operations = [CommitOperationAdd(name, content) for name, content in contents.items()]
    try:
        HfApi().create_repo(repository, private=private, exist_ok=True)
        commit = HfApi().create_commit(
            repository, operations, commit_message="A model of Equipoise"
        )
    except (OSError, errors.HFValidationError, errors.HTTPError) as error:  # type: ignore[attr-defined]
        raise HubError(
            f"the Hub did not accept {repository} ({_first_line(error)}); log in with "
            "`hf auth login` and use a repository of yours, owner/name."
        ) from error
    return str(commit.commit_url)


def _belongs(name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in FILES)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
