"""Array types that every package shares: images in [0, 1], logits, labels and per-image values."""

from collections.abc import Callable

from jaxtyping import Float, Int
from torch import Tensor

Images = Float[Tensor, "batch channel height width"]
"""A batch of images. Pixels are in [0, 1]; a model normalises them itself."""

Logits = Float[Tensor, "batch classes"]
"""Unnormalised class scores."""

Labels = Int[Tensor, " batch"]
"""Class indices, counted from 0."""

PerImage = Float[Tensor, " batch"]
"""One number for each image: a loss that is not reduced."""

Predict = Callable[[Images], Logits]
"""A model as attacks and objectives see it: any function from images to logits."""
