"""Derive independent seeds from one."""

import hashlib


def derive_seed(seed: int, *names: str) -> int:
    """A seed for one named use, so that no two uses of a run's seed share random numbers.

    Returns:
        A non-negative integer below 2**63.
    """
    digest = hashlib.sha256("/".join([str(seed), *names]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
