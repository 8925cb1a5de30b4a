"""Array types that every package shares. All tensors are images in [0, 1], logits or labels."""

from collections.abc import Callable

from jaxtyping import Float, Int
from torch import Tensor

Images = Float[Tensor, "batch channel height width"]


Logits = Float[Tensor, "batch classes"]


Labels = Int[Tensor, " batch"]


PerImage = Float[Tensor, " batch"]


Predict = Callable[[Images], Logits]
