"""Every table and figure that can be reproduced, by name."""

import difflib
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from equipoise.report.papers.afa import AFA_ENTRIES
from equipoise.report.papers.afs import AFS_ENTRIES
from equipoise.report.papers.entry import Entry
from equipoise.runtime.errors import InvalidInput

ENTRIES: Mapping[str, Entry] = MappingProxyType(
    {entry.name: entry for entry in (*AFA_ENTRIES, *AFS_ENTRIES)}
)
"""Tables and figures by name, in the papers' order."""


def find_entries(names: Sequence[str]) -> list[Entry]:
    """Find entries by name.

    Args:
        names: Names of entries; ``"all"`` for every one.

    Returns:
        Each entry once, in the order given.

    Raises:
        ValueError: If no name is given, or one is unknown.

    Example:
        >>> [entry.paper for entry in find_entries(["afa-table-1", "afs-fig-4b"])]
        ['AFA Table 1', 'AFS Fig. 4(b)']
    """
    if not names:
        raise InvalidInput(
            "reproduce needs at least one table or figure, got none; `equipoise reproduce --list` "
            "lists them."
        )
    entries: dict[str, Entry] = {}
    for name in names:
        if name != "all" and name not in ENTRIES:
            near = difflib.get_close_matches(name, ENTRIES, n=3, cutoff=0.5)
            hint = (
                f"Did you mean {' or '.join(near)}?"
                if near
                else "`equipoise reproduce --list` lists them."
            )
            raise InvalidInput(f"there is no table or figure {name!r}. {hint}")
        entries |= ENTRIES if name == "all" else {name: ENTRIES[name]}
    return list(entries.values())
