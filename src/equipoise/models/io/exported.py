"""Run exported networks: ONNX files and files of ``torch.export``."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass

from equipoise.models.io.validate_card import check_card
from equipoise.records.schema import check_score_card
from equipoise.runtime.errors import RunError
from equipoise.types import Images

CARD_KEY = "equipoise"  # the metadata key under which `equipoise export` writes the card to ONNX
CARD_FILE = "equipoise.json"  # the same in a torch.export file


class OnnxNetwork(nn.Module):
    """An ONNX file, run by ONNX Runtime on CPU. It gives no gradients.

    Args:
        path: The file; it has one float32 input ``(batch, channel, height, width)``.

    Attributes:
        card: The score card that ``equipoise export`` wrote, or ``None``.
        digest: The file's hash.

    Raises:
        RunError: If ONNX Runtime is missing or cannot read the file.
    """

    gives_gradients = False

    def __init__(self, path: Path) -> None:
        super().__init__()
        try:
            import onnxruntime
        except ImportError as error:
            raise RunError(f"{path} needs ONNX Runtime: pip install 'equipoise[onnx]'.") from error
        try:
            self.session: Any = onnxruntime.InferenceSession(
                str(path), providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise RunError(f"{path} cannot be read by ONNX Runtime ({error}).") from error
        self.card = _card(self.session.get_modelmeta().custom_metadata_map.get(CARD_KEY), path)
        self.digest = _digest(path)
        self.eval()

    def extra_repr(self) -> str:
        """Show the file's hash."""
        return self.digest

    def forward(self, images: Images) -> Any:
        """Return the file's first output."""
        return self.outputs(images)[0]

    def outputs(self, images: Images) -> tuple[Tensor, ...]:
        """Return all outputs."""
        inputs = {self.session.get_inputs()[0].name: images.detach().cpu().float().numpy()}
        arrays = self.session.run(None, inputs)
        return tuple(torch.from_numpy(array).to(images.device) for array in arrays)


class ExportedNetwork(nn.Module):
    """A file of ``torch.export``.

    It gives gradients. Its mode is fixed; it runs on the device of the images.

    Args:
        path: The file.

    Attributes:
        card: The score card that ``equipoise export`` wrote, or ``None``.
        digest: The file's hash.

    Raises:
        RunError: If the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        extra = {CARD_FILE: ""}
        try:
            self._exported = torch.export.load(path, extra_files=extra)
            self._open()
        except Exception as error:
            raise RunError(f"{path} cannot be read as a torch.export file ({error}).") from error
        self.card = _card(extra[CARD_FILE], path)
        values = [*self._exported.state_dict.values(), *self._exported.constants.values()]
        devices = [value.device for value in values if isinstance(value, Tensor)]
        self._device = devices[0] if devices else torch.device("cpu")
        self.digest = _digest(path)
        self.eval()

    def extra_repr(self) -> str:
        """Show the file's hash."""
        return self.digest

    def forward(self, images: Images) -> Any:
        """Return the program's output; of a file that ``equipoise export`` wrote, the logits."""
        output = self._run(images)
        return output if self.card is None else output[0]

    def outputs(self, images: Images) -> tuple[Tensor, ...]:
        """Return all outputs of a file that ``equipoise export`` wrote."""
        outputs: tuple[Tensor, ...] = self._run(images)
        return outputs

    def _run(self, images: Images) -> Any:
        """Run the program on the images' device, after moving it there if necessary."""
        if images.device != self._device:
            # Not .to(): an exported program also names devices in its code.
            move_to_device_pass(self._exported, images.device)
            self._open()
            self._device = images.device
        return self._program[0](images)

    def _open(self) -> None:
        program = self._exported.module()
        for parameter in program.parameters():
            parameter.requires_grad_(False)
        self._program = (program,)  # in a tuple, not a submodule: its mode cannot be switched


def _card(text: str | None, path: Path) -> dict[str, Any] | None:
    """Read the score card of a file that ``equipoise export`` wrote."""
    if not text:
        return None
    try:
        card: dict[str, Any] = json.loads(text)
        check_score_card(card)
        check_card(card)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} has a damaged score card ({error}); export it again.") from error
    return card


def _digest(path: Path) -> str:
    """Hash a file and the weights that an ONNX file may keep in a second one."""
    digest = hashlib.sha256(path.read_bytes())
    weights = path.with_name(f"{path.name}.data")
    if weights.is_file():
        digest.update(weights.read_bytes())
    return digest.hexdigest()
