"""Preferences between clean and robust accuracy, OAT's lambda, as numbers that a network reads."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipoise.types import PerImage

Encoding = Literal["none", "onehot", "dct", "random"]
PREFERENCES = (0.0, 0.1, 0.2, 0.3, 0.4, 1.0)
CLOSE = 1e-6  # two preferences nearer than this are one: 0.1 in float32 is 1.5e-9 away from 0.1


class PreferenceCode(nn.Module):
    """The code of a preference: lambda itself, or row j of a matrix for the j-th preference.

    Args:
        preferences: Those that have a row, ascending in [0, 1].
        encoding: ``"none"`` is lambda itself, the only one for which a preference outside
            ``preferences`` has a meaning. The others are the first rows of a ``size x size``
            matrix: unit vectors, a discrete cosine transform, or a random orthogonal matrix.
        size: Length of a code; without a meaning for ``"none"``, whose codes have one number.
        seed: Of the random orthogonal matrix.

    Shape:
        A number to ``(1, size)``, or ``(batch,)`` to ``(batch, size)``.

    Raises:
        ValueError: If a setting is out of range; from ``forward``, if a preference is not in [0, 1]
            or has no code.

    Source:
        Wang et al. 2020 (OAT), ``OAT.py`` of its code. Deviations: the random matrix is seeded, and
        the rows in use are a buffer that is saved with the model; the code draws it unseeded, saves
        it beside the model and never loads it.
    """

    def __init__(
        self, preferences: Sequence[float], encoding: Encoding, size: int, seed: int
    ) -> None:
        super().__init__()
        check_code(preferences, encoding, size)
        self.preferences = tuple(float(preference) for preference in preferences)
        self.encoding: Encoding = encoding
        self.table: Tensor
        self.register_buffer("table", _table(self.preferences, encoding, size, seed).contiguous())

    def forward(self, preference: float | PerImage) -> Float[Tensor, "rows size"]:
        """The code of one preference, or of each image's."""
        if not isinstance(preference, Tensor):
            return self._one(preference)
        outside = ~((preference >= 0) & (preference <= 1))  # so that NaN is outside
        if bool(outside.any()):
            check_preference(float(preference[outside][0]))
        if self.encoding == "none":
            return preference[:, None].to(self.table)
        known = torch.tensor(self.preferences, dtype=torch.float64, device=preference.device)
        far, number = (preference.double()[:, None] - known).abs().min(dim=1)
        if bool((far >= CLOSE).any()):
            raise self._unseen(float(preference[far >= CLOSE][0]))
        return self.table[number.to(self.table.device)]

    def _one(self, preference: float) -> Tensor:
        check_preference(preference)
        if self.encoding == "none":
            return torch.full_like(self.table[:1], preference)
        for number, known in enumerate(self.preferences):
            if abs(preference - known) < CLOSE:
                return self.table[number : number + 1]
        raise self._unseen(preference)

    def _unseen(self, preference: float) -> ValueError:
        return ValueError(
            f"preference {preference:g} has no code: with encoding {self.encoding!r} the network "
            f"knows {', '.join(f'{known:g}' for known in self.preferences)}. Choose one of them, "
            "or train with encoding 'none', which takes any in [0, 1]."
        )


def check_preference(preference: float) -> None:
    """Refuse what is no preference.

    Raises:
        ValueError: If it is not in [0, 1].
    """
    if not 0 <= preference <= 1:
        raise ValueError(f"preference must be in [0, 1], got {preference:g}.")


def check_code(
    preferences: Sequence[float], encoding: str, size: int, default: float | None = None
) -> None:
    """Refuse settings that give no code.

    Args:
        preferences: Those to encode.
        encoding: How.
        size: Length of a code.
        default: A preference that must have one, if there is any.

    Raises:
        ValueError: If preferences do not ascend in [0, 1], the encoding is unknown or too short
            for so many of them, or does not know the default.
    """
    if not preferences or not all(b - a > 2 * CLOSE for a, b in pairwise(preferences)):
        raise ValueError(
            f"preferences must be one or more and ascend, such as {PREFERENCES}, "
            f"got {tuple(preferences)}."
        )
    for preference in (*preferences, *([] if default is None else [default])):
        check_preference(preference)
    if encoding not in get_args(Encoding):
        raise ValueError(f"encoding must be one of {get_args(Encoding)}, got {encoding!r}.")
    if encoding == "none":
        return
    if size < len(preferences):
        raise ValueError(
            f"size must be at least the number of preferences, {len(preferences)}, got {size}."
        )
    if default is not None and default not in preferences:
        raise ValueError(
            f"default must be one of the preferences {tuple(preferences)}, got {default}; "
            "encoding 'none' takes any in [0, 1]."
        )


def _table(preferences: Sequence[float], encoding: Encoding, size: int, seed: int) -> Tensor:
    count = len(preferences)
    if encoding == "none":
        return torch.tensor(preferences, dtype=torch.float32)[:, None]
    if encoding == "onehot":
        return torch.eye(size)[:count]
    if encoding == "dct":  # type II, not normalised: SciPy's dct of the unit matrix, as in OAT.py
        angles = torch.arange(count)[:, None] * (2 * torch.arange(size) + 1) / (2 * size)
        return 2 * torch.cos(math.pi * angles)
    gauss = torch.randn(size, size, generator=torch.Generator().manual_seed(seed))
    return torch.linalg.qr(gauss).Q[:count]
