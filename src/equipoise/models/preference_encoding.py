"""Encodings of a preference between clean and robust accuracy, OAT's lambda."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipoise.runtime.errors import InvalidInput
from equipoise.types import PerImage

Encoding = Literal["none", "onehot", "dct", "random"]
PREFERENCES = (0.0, 0.1, 0.2, 0.3, 0.4, 1.0)
TOLERANCE = 1e-6  # preferences closer than this are equal: 0.1 in float32 is 1.5e-9 from 0.1


class PreferenceCode(nn.Module):
    """Encode a preference: lambda itself, or row j of a matrix for the j-th preference.

    Args:
        preferences: The preferences that have a row, ascending in [0, 1].
        encoding: ``"none"`` is lambda itself; only it encodes preferences outside ``preferences``.
            The others use the first rows of a ``size x size`` matrix: ``"onehot"`` unit vectors,
            ``"dct"`` a discrete cosine transform, ``"random"`` a random orthogonal matrix.
        size: Length of a code; ignored for ``"none"``, whose codes have one number.
        seed: Random seed for the orthogonal matrix.

    Shape:
        A number to ``(1, size)``, or ``(batch,)`` to ``(batch, size)``.

    Raises:
        ValueError: If a setting is out of range; from ``forward``, if a preference is outside
            [0, 1] or has no code.

    Source:
        Wang et al. 2020 (OAT), ``OAT.py`` of its code. Deviation: the random matrix is seeded, and
        the rows in use are a buffer that is saved with the model. OAT's code draws it without a
        seed, saves it beside the model and never loads it.

    Example:
        >>> code = PreferenceCode((0.0, 0.5, 1.0), encoding="onehot", size=4, seed=0)
        >>> code(0.5)
        tensor([[0., 1., 0., 0.]])
        >>> code(0.7)
        Traceback (most recent call last):
        ...
        equipoise...InvalidInput: preference 0.7 has no code: with encoding 'onehot' ...
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
        """Return the code of one preference, or of each image's."""
        if not isinstance(preference, Tensor):
            return self._encode_number(preference)
        outside = ~((preference >= 0) & (preference <= 1))  # written so that NaN is outside
        if bool(outside.any()):
            check_preference(float(preference[outside][0]))
        if self.encoding == "none":
            return preference[:, None].to(self.table)
        known = torch.tensor(self.preferences, dtype=torch.float64, device=preference.device)
        distance, row = (preference.double()[:, None] - known).abs().min(dim=1)
        if bool((distance >= TOLERANCE).any()):
            raise self._unknown(float(preference[distance >= TOLERANCE][0]))
        return self.table[row.to(self.table.device)]

    def _encode_number(self, preference: float) -> Tensor:
        check_preference(preference)
        if self.encoding == "none":
            return torch.full_like(self.table[:1], preference)
        for row, known in enumerate(self.preferences):
            if abs(preference - known) < TOLERANCE:
                return self.table[row : row + 1]
        raise self._unknown(preference)

    def _unknown(self, preference: float) -> InvalidInput:
        return InvalidInput(
            f"preference {preference:g} has no code: with encoding {self.encoding!r} the network "
            f"knows {', '.join(f'{known:g}' for known in self.preferences)}. Choose one of them, "
            "or train with encoding 'none', which takes any in [0, 1]."
        )


def check_preference(preference: float) -> None:
    """Reject a number that cannot be a preference.

    Raises:
        ValueError: If it is outside [0, 1].
    """
    if not 0 <= preference <= 1:
        raise InvalidInput(f"preference must be in [0, 1], got {preference:g}.")


def check_code(
    preferences: Sequence[float], encoding: str, size: int, default: float | None = None
) -> None:
    """Reject settings from which no ``PreferenceCode`` can be built.

    Args:
        preferences: The preferences to encode.
        encoding: Name of the encoding.
        size: Length of a code.
        default: A preference that must have a code, if given.

    Raises:
        ValueError: If the preferences do not ascend in [0, 1], the encoding is unknown, the codes
            are too short for the number of preferences, or the default has no code.
    """
    if not preferences or not all(b - a > 2 * TOLERANCE for a, b in pairwise(preferences)):
        raise InvalidInput(
            f"preferences must be one or more numbers in ascending order, such as {PREFERENCES}, "
            f"got {tuple(preferences)}."
        )
    for preference in (*preferences, *([] if default is None else [default])):
        check_preference(preference)
    if encoding not in get_args(Encoding):
        raise InvalidInput(f"encoding must be one of {get_args(Encoding)}, got {encoding!r}.")
    if encoding == "none":
        return
    if size < len(preferences):
        raise InvalidInput(
            f"size must be at least the number of preferences, {len(preferences)}, got {size}."
        )
    if default is not None and default not in preferences:
        raise InvalidInput(
            f"default must be one of the preferences {tuple(preferences)}, got {default}; "
            "encoding 'none' takes any in [0, 1]."
        )


def _table(preferences: Sequence[float], encoding: Encoding, size: int, seed: int) -> Tensor:
    count = len(preferences)
    if encoding == "none":
        return torch.tensor(preferences, dtype=torch.float32)[:, None]
    if encoding == "onehot":
        return torch.eye(size)[:count]
    if encoding == "dct":  # type II, unnormalised: SciPy's dct of the unit matrix, as in OAT.py
        angles = torch.arange(count)[:, None] * (2 * torch.arange(size) + 1) / (2 * size)
        return 2 * torch.cos(math.pi * angles)
    gauss = torch.randn(size, size, generator=torch.Generator().manual_seed(seed))
    return torch.linalg.qr(gauss).Q[:count]
