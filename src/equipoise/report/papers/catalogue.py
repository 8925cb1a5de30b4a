"""Every table and figure that can be made again, by name."""

import difflib
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from equipoise.report.papers.afa import AFA_ENTRIES
from equipoise.report.papers.afs import AFS_ENTRIES
from equipoise.report.papers.entry import Entry

ENTRIES: Mapping[str, Entry] = MappingProxyType(
    {entry.name: entry for entry in (*AFA_ENTRIES, *AFS_ENTRIES)}
)
"""In the papers' order."""


def find_entries(names: Sequence[str]) -> list[Entry]:
    """Entries by name.

    Args:
        names: Of entries; ``"all"`` for every one.

    Returns:
        Each once, in the order given.

    Raises:
        ValueError: If there is none, or none of that name.
    """
    if not names:
        raise ValueError(
            "reproduce needs a table or figure; `equipoise reproduce list` names them."
        )
    found: dict[str, Entry] = {}
    for name in names:
        if name != "all" and name not in ENTRIES:
            near = difflib.get_close_matches(name, ENTRIES, n=3, cutoff=0.5)
            hint = f"Did you mean {' or '.join(near)}?" if near else "`reproduce list` names them."
            raise ValueError(f"there is no table or figure {name!r}. {hint}")
        found |= ENTRIES if name == "all" else {name: ENTRIES[name]}
    return list(found.values())
