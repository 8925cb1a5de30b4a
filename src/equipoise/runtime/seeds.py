"""Derive independent seeds from one."""

import hashlib


def derive_seed(seed: int, *names: str) -> int:
    """Derive a seed for one named purpose, so that two purposes never share random numbers.

    Args:
        seed: Seed of the run.
        names: Path of the purpose, such as ``"stage", "attack"``.

    Returns:
        An integer in [0, 2**63), the same in every version and on every machine.

    Example:
        >>> derive_seed(0, "network")
        715385884120655211
        >>> derive_seed(0, "network") == derive_seed(0, "attack")
        False
    """
    digest = hashlib.sha256("/".join([str(seed), *names]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
