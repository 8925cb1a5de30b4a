"""Model folders on the Hugging Face Hub: ``hf://owner/name``, and ``@revision`` behind it.

Only the files of a model folder and its records are sent or fetched; none of them can execute code.
"""

import fnmatch
from pathlib import Path
from typing import Any

from equipoise.runtime.errors import RunError

HUB = "hf://"
FILES = ("config.json", "model.safetensors", "README.md", "records/*.json")
LARGEST_DOWNLOAD = 16 << 30  # bytes


class HubError(RunError):
    """A model that the hub does not give or take; the message says why."""


def fetch(name: str) -> Path:
    """Download a model folder, or take the copy of an earlier download where the hub is away.

    Args:
        name: ``hf://owner/name`` or ``hf://owner/name@revision``.

    Returns:
        The folder in the hub's cache.

    Raises:
        HubError: If the name is none, there is no such model, it is too large, it changes while it
            is fetched, or the hub cannot be reached and there is no copy.
    """
    from huggingface_hub import HfApi, errors, snapshot_download

    repository, _, revision = name.removeprefix(HUB).partition("@")
    # By the name that was asked for, not by its commit: without a connection a copy is found under
    # the name under which it was fetched, and counts as whole if the same files are asked for.
    wanted: dict[str, Any] = {"revision": revision or None, "allow_patterns": list(FILES)}
    refused = (errors.HFValidationError, errors.RepositoryNotFoundError)
    try:
        info = HfApi().model_info(repository, revision=wanted["revision"], files_metadata=True)
        sizes = [file.size or 0 for file in info.siblings or [] if _belongs(file.rfilename)]
        if sum(sizes) > LARGEST_DOWNLOAD:
            raise HubError(
                f"{name} has {sum(sizes)} bytes; at most {LARGEST_DOWNLOAD} are fetched."
            )
        copy = Path(snapshot_download(repository, **wanted))
        if copy.name != info.sha:
            raise HubError(f"{name} was changed while it was fetched; try again.")
        return copy
    except (*refused, errors.RevisionNotFoundError) as error:
        raise HubError(f"{name} is no model on the hub ({_first_line(error)}).") from error
    except (OSError, errors.HTTPError) as error:  # type: ignore[attr-defined]
        try:
            return Path(snapshot_download(repository, local_files_only=True, **wanted))
        except errors.LocalEntryNotFoundError:
            raise HubError(
                f"{name} cannot be fetched ({_first_line(error)}) and no copy is here; try again "
                "with a connection, or name a model folder."
            ) from error


def send(repository: str, contents: dict[str, bytes | Path], *, private: bool | None) -> str:
    """Upload the files of a model folder in one commit.

    Args:
        repository: ``owner/name``; created if there is none.
        contents: What each file holds, or where it lies.
        private: Whether a new repository is private; by default what its owner has chosen.

    Returns:
        The address of the commit.

    Raises:
        HubError: If the hub does not take it.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, errors

    added = [CommitOperationAdd(name, content) for name, content in contents.items()]
    try:
        HfApi().create_repo(repository, private=private, exist_ok=True)
        done = HfApi().create_commit(repository, added, commit_message="A model of Equipoise")
    except (OSError, errors.HFValidationError, errors.HTTPError) as error:  # type: ignore[attr-defined]
        raise HubError(
            f"the hub did not take {repository} ({_first_line(error)}); log in with `hf auth login`"
            " and use a name of yours, owner/name."
        ) from error
    return str(done.commit_url)


def _belongs(name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in FILES)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
