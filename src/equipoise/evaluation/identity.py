"""Find the cache of exactly this function on exactly these images."""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import safetensors
import safetensors.torch

from equipoise.attacks.threat import Threat
from equipoise.data import Split
from equipoise.evaluation.answers import Answers, agree, answers_at, answers_near
from equipoise.evaluation.cache import EvaluationCache, fingerprint
from equipoise.evaluation.fresh_copy import FreshCopies, StatefulModelError
from equipoise.runtime.files import write_bytes

ANSWERS = "answers.safetensors"
"""File in a cache folder with the model's answers at clean images."""

STATEFUL = "stateful"
"""File in a cache folder whose results are worthless, because the model remembers queries."""


def open_cache(
    parent: Path,
    name: str,
    copies: FreshCopies,
    split: Split,
    *,
    threats: Sequence[Threat] = (),
    modules: Sequence[str] = (),
    log: Callable[[str], None] = lambda text: None,
) -> EvaluationCache:
    """Open the results that are known of this function on these images.

    A folder belongs to the function if all of this agrees: architecture, weights and source files
    (the folder's name), the model's answers to a few questions (see ``answers``), and whatever its
    results say (``EvaluationCache.is_of``). Otherwise the next folder is tried, and in the end an
    empty one is begun, so that nothing of another function is used again.

    Args:
        parent: Folder of all caches of a model.
        name: Name of the model.
        copies: Copies of the model, in eval mode.
        split: The images under evaluation.
        threats: The threats at all strengths that will be attacked.
        modules: Names of the modules that built the model, see ``source_hash``.
        log: Receives a sentence if results of another function were found.

    Returns:
        The cache. It has an identity if the model could be asked.

    Raises:
        StatefulModelError: If the model is known to answer differently once it has been asked.
        RunError: If the answers cannot be written.

    Source:
        docs/decisions/029-what-a-cached-result-belongs-to.md

    Example:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> from equipoise.data import Split
        >>> from equipoise.evaluation.fresh_copy import FreshCopies
        >>> images = torch.zeros(2, 1, 2, 2, dtype=torch.uint8)
        >>> split = Split(images=images, labels=torch.tensor([0, 1]), classes=4)
        >>> copies = FreshCopies(torch.nn.Flatten().eval())
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     folder = open_cache(Path(parent), "cnn", copies, split).folder
        ...     print(folder.name[:4], [path.name for path in folder.iterdir()])
        cnn_ ['answers.safetensors']
    """
    digest = fingerprint(copies.pristine, split, modules)[:12]
    first, rejected = parent / f"{name}_{digest}", []
    answers = answers_near(copies, split)
    if not answers:
        return EvaluationCache(len(split), first)
    for number in itertools.count(1):
        suffix = "" if number == 1 else f"-{number}"
        folder = first.with_name(f"{first.name}{suffix}")
        cache = _cache_of(folder, copies, split)
        if cache is None:
            rejected.append(folder.name)
            continue
        if rejected and not (folder / ANSWERS).exists():
            log(
                f"{name} answers differently from the model whose results are in "
                f"{', '.join(rejected)}, so it is evaluated from nothing."
            )
        contents = [_stored(folder / ANSWERS, lambda: answers)]
        contents += [
            _stored(folder / _file_name(threat), partial(answers_at, copies, split, threat))
            for threat in threats
        ]
        parts = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in contents))
        cache.identity = f"{digest}{suffix}-{parts.hexdigest()[:12]}"
        return cache
    raise AssertionError("itertools.count is infinite")


def mark_stateful(cache: EvaluationCache) -> None:
    """Note in a cache folder that its results are of a model that had been asked before."""
    if cache.folder is not None and cache.identity is not None:
        write_bytes(cache.folder / STATEFUL, b"")


def _cache_of(folder: Path, copies: FreshCopies, split: Split) -> EvaluationCache | None:
    """Read a folder's results; ``None`` if they are another function's, or an unknown one's."""
    stored = {path: _read(path) for path in _answer_files(folder)}
    if stored.get(folder / ANSWERS) is None:
        holds_units = folder.exists() and any(entry.is_dir() for entry in folder.iterdir())
        return None if holds_units else EvaluationCache(len(split), folder)
    known = [answers for answers in stored.values() if answers is not None]
    if not all(agree(copies, answers, split.device) for answers in known):
        return None
    if (folder / STATEFUL).exists():
        raise StatefulModelError("an earlier evaluation found that the model remembers queries.")
    cache = EvaluationCache(len(split), folder)
    return cache if cache.is_of(copies, split) else None


def _answer_files(folder: Path) -> Iterator[Path]:
    yield folder / ANSWERS
    yield from sorted(folder.glob("answers_*.safetensors"))


def _file_name(threat: Threat) -> str:
    return f"answers_{type(threat).__name__}_{threat.epsilon!r}.safetensors"


def _read(path: Path) -> Answers | None:
    try:
        return dict(safetensors.torch.load_file(path))
    except (safetensors.SafetensorError, OSError):
        return None


def _stored(path: Path, make: Callable[[], Answers]) -> bytes:
    """Return a file of answers, which is written if it does not exist or is damaged."""
    if _read(path) is None:
        answers = {name: value.clone().contiguous() for name, value in make().items()}
        write_bytes(path, safetensors.torch.save(answers))
    return path.read_bytes()
