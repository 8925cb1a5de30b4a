"""What each part of AFA and AFS is worth: the digits recipes with one thing changed."""

from dataclasses import replace
from typing import Any

from equipoise.recipes import digits
from equipoise.recipes.recipe import Recipe

TOP = digits.STRENGTHS[-1]


def afs_digits_average() -> Recipe:
    """AFS's three extractors, the mean of their logits in place of a merger."""
    return _afs("afs_digits_average", merger="average")


def afs_digits_alpha_0() -> Recipe:
    """AFS, alpha 0: the merger sees attacked images alone."""
    return _afs("afs_digits_alpha_0", alpha=0.0)


def afs_digits_alpha_0_5() -> Recipe:
    """AFS, alpha 0.5, the paper's default."""
    return _afs("afs_digits_alpha_0_5", alpha=0.5)


def afs_digits_alpha_0_8() -> Recipe:
    """AFS, alpha 0.8."""
    return _afs("afs_digits_alpha_0_8", alpha=0.8)


def afs_digits_alpha_1() -> Recipe:
    """AFS, alpha 1: the merger sees clean images alone."""
    return _afs("afs_digits_alpha_1", alpha=1.0)


def afs_digits_mask_101() -> Recipe:
    """AFS of the first and the last extractor."""
    return _afs("afs_digits_mask_101", mask="101")


def afs_digits_mask_011() -> Recipe:
    """AFS of the extractors of the two highest budgets."""
    return _afs("afs_digits_mask_011", mask="011")


def afs_digits_mask_001() -> Recipe:
    """A merger over the extractor of the highest budget alone."""
    return _afs("afs_digits_mask_001", mask="001")


def afa_digits_k2() -> Recipe:
    """AFA, K = 2: no branch between clean and strongest."""
    return _afa("afa_digits_k2", strengths=(0.0, TOP))


def afa_digits_k5() -> Recipe:
    """AFA, K = 5."""
    return _afa("afa_digits_k5", strengths=tuple(TOP * k / 4 for k in range(5)))


def afa_digits_k9() -> Recipe:
    """AFA, K = 9."""
    return _afa("afa_digits_k9", strengths=tuple(TOP * k / 8 for k in range(9)))


def afa_digits_stem() -> Recipe:
    """AFA whose generator reads the first convolution's output."""
    return _gate("afa_digits_stem", placement="stem")


def afa_digits_per_norm() -> Recipe:
    """AFA with a small generator in front of each pair of norms."""
    return _gate("afa_digits_per_norm", placement="per_norm")


def afa_digits_channels() -> Recipe:
    """AFA with a fusing weight for each channel of each norm."""
    return _gate("afa_digits_channels", each="channel")


def afa_digits_statistics() -> Recipe:
    """AFA whose branches have statistics of their own and share the affine maps."""
    return _afa("afa_digits_statistics", separate="statistics")


def afa_digits_affine() -> Recipe:
    """AFA whose branches have affine maps of their own and share the statistics."""
    return _afa("afa_digits_affine", separate="affine")


def afa_digits_soup() -> Recipe:
    """The weight soup of AFA's outermost branches: 5 % clean, no generator."""
    return _afa("afa_digits_soup", soup=0.05)


def _afs(name: str, **changes: Any) -> Recipe:
    return _changed(digits.afs_digits(), name, **changes)


def _afa(name: str, **changes: Any) -> Recipe:
    return _changed(digits.afa_digits(), name, **changes)


def _gate(name: str, **changes: Any) -> Recipe:
    return _afa(name, gate=replace(digits.GUIDED_GATE, **changes))


def _changed(base: Recipe, name: str, **changes: Any) -> Recipe:
    return replace(base, name=name, method=replace(base.method, **changes))
