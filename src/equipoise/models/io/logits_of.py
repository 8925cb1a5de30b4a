"""Take the logits out of whatever a network returns."""

from typing import Any

import torch
from torch import Tensor, nn

from equipoise.models.last_linear import check_last_linear
from equipoise.runtime.errors import InvalidInput
from equipoise.types import Images, Logits

BINARY = "binary"


class LogitsOf(nn.Module):
    """Wrap a network that returns more than a tensor of logits.

    Args:
        network: Any network.
        select: Where the logits are in its output: a key of a dict, an attribute, an index of a
            tuple, or ``"binary"`` for one logit per image, which becomes two; ``None`` takes the
            output as it is.
        last_linear: Dotted name of the network's last linear layer, if that is not the one that
            was registered last.
        config: The configuration from which a model folder builds the network again; without one
            it cannot be saved as a model folder.

    Raises:
        ValueError: If ``last_linear`` does not name a linear layer; from ``forward``, if the output
            has no such part or is not a tensor ``(batch, classes)``; the message says what it is.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> class Detector(nn.Module):
        ...     def forward(self, images):
        ...         return {"scores": images.flatten(1), "boxes": None}
        >>> LogitsOf(Detector(), "scores")(torch.zeros(2, 1, 1, 3)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        network: nn.Module,
        select: str | None = None,
        *,
        last_linear: str | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.select = select
        self.config = config
        self.last_linear = None  # the attribute that find_last_linear looks for
        if last_linear is not None:
            self.last_linear = f"network.{last_linear}"
            check_last_linear(self)
        self.gives_gradients = getattr(network, "gives_gradients", True)

    def extra_repr(self) -> str:
        """Show the selected part and the function: if they differ, so do the models."""
        if self.config is None:
            return f"select={self.select!r}"
        return f"select={self.select!r}, {self.config['function']}(**{self.config['arguments']})"

    def forward(self, images: Images) -> Logits:
        """Return the logits."""
        output = self.network(images)
        if self.select is not None and not isinstance(output, Tensor):
            output = self._part(output)
        if not isinstance(output, Tensor):
            raise InvalidInput(
                f"the model must return logits, got {_described(output)}; say which part of it "
                "holds them with --logits, in Python logits=."
            )
        if output.ndim == 1 or (output.ndim == 2 and output.shape[1] == 1):
            if self.select != BINARY:
                raise InvalidInput(
                    f"the model must return logits of shape (batch, classes), got one number per "
                    f"image (shape {tuple(output.shape)}); if it is the logit of class 1, pass "
                    "--logits binary."
                )
            single = output.flatten()
            return torch.stack([torch.zeros_like(single), single], dim=1)
        if output.ndim != 2:
            raise InvalidInput(
                f"the model must return logits of shape (batch, classes), got shape "
                f"{tuple(output.shape)}."
            )
        return output

    def _part(self, output: Any) -> Any:
        select = self.select or ""
        if isinstance(output, dict) and select in output:
            return output[select]
        if isinstance(output, (tuple, list)) and select.isdigit() and int(select) < len(output):
            return output[int(select)]
        if not isinstance(output, (tuple, list)) and isinstance(
            getattr(output, select, None), Tensor
        ):
            return getattr(output, select)
        raise InvalidInput(
            f"the model's output has no part {select!r}: it is {_described(output)}."
        )


def _described(output: Any) -> str:
    if isinstance(output, dict):
        return f"a dict with the keys {sorted(map(str, output))}"
    if isinstance(output, (tuple, list)):
        return f"a {type(output).__name__} of {len(output)} parts"
    return f"a {type(output).__name__}"
