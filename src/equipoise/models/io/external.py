"""Networks that this package did not build: importable ones, exported ones, odd outputs."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass

from equipoise.models.io.hub import HUB
from equipoise.models.io.trust import Trusted, check_file, import_trusted_function, trusting
from equipoise.models.io.validate_card import check_card
from equipoise.models.last_linear import check_last_linear
from equipoise.records.schema import check_score_card
from equipoise.runtime.errors import RunError
from equipoise.types import Images, Logits

BINARY = "binary"
CARD_KEY = "equipoise"  # of an ONNX file: the key under which `equipoise export` writes the card
CARD_FILE = "equipoise.json"  # the same in a torch.export file


def is_external(name: str) -> bool:
    """Whether a name means a network from elsewhere rather than a model folder."""
    if Path(name).is_dir() or name.startswith(HUB):
        return False
    return Path(name).suffix in (".onnx", ".pt2") or ":" in name


def load_external(name: str, trust: Sequence[Trusted] = ()) -> nn.Module:
    """A network from elsewhere.

    Args:
        name: ``module:function`` for an importable function without arguments that returns an
            ``nn.Module`` (its code runs: name only what you trust), an ONNX file, or a file of
            ``torch.export``, which has to be trusted by its path. Images in [0, 1] go in, so
            normalisation must be inside.
        trust: What may be read besides what the caller trusts already.

    Returns:
        The network in eval mode. One from an ONNX file gives no gradients.

    Raises:
        RunError: If it cannot be found, imported or read, or is not trusted; the message says how.
    """
    path = Path(name)
    if path.suffix in (".onnx", ".pt2"):
        if not path.is_file():
            raise RunError(f"{path} does not exist.")
        if path.suffix == ".onnx":
            return OnnxNetwork(path)
        with trusting(*trust):
            check_file(path)
        return ExportedNetwork(path)
    with trusting(name):  # whoever writes it down here allows it
        return _made(name, {}).eval()


def import_network(
    function: str,
    arguments: Mapping[str, Any],
    *,
    logits: str | None = None,
    last_linear: str | None = None,
) -> "LogitsOf":
    """A network made by a trusted function, which a model folder can name and build again.

    Args:
        function: ``module:function``; it returns an ``nn.Module``.
        arguments: What it is called with, by name; JSON values.
        logits: Which part of the network's answer holds the logits, as in ``LogitsOf``.
        last_linear: Dotted name of the network's last linear layer, where it is not the one that
            was registered last.

    Returns:
        The network, untouched, inside a ``LogitsOf`` that knows its configuration.

    Raises:
        RunError: If the function is not trusted, does not exist or gives no network.
        ValueError: If ``last_linear`` names no linear layer.
    """
    config = {
        "kind": "imported",
        "function": function,
        "arguments": dict(arguments),
        "logits": logits,
        "last_linear": last_linear,
    }
    return LogitsOf(_made(function, arguments), logits, last_linear=last_linear, config=config)


def load_initial_weights(network: "LogitsOf", path: Path) -> None:
    """Load weights to start training from.

    Args:
        network: Gets them.
        path: A safetensors file of the network's own ``state_dict()``, or of a model folder.

    Raises:
        RunError: If the file is missing, damaged, of another kind, or does not fit the network.
    """
    if path.suffix != ".safetensors":
        raise RunError(
            f"weights must be a .safetensors file, got {path}: others can hold code. Write one by "
            "safetensors.torch.save_file(network.state_dict(), path)."
        )
    try:
        tensors = safetensors.torch.load_file(path)
        whole = tensors.keys() == network.state_dict().keys()  # those of a model folder
        (network if whole else network.network).load_state_dict(tensors)
    except FileNotFoundError:
        raise RunError(f"{path} does not exist.") from None
    except (safetensors.SafetensorError, OSError) as error:
        raise RunError(f"{path} is damaged ({error}).") from error
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise RunError(
            f"{path} does not fit {type(network.network).__name__}: {reason}. It must hold every "
            "weight of the network under its own name."
        ) from error


def _made(function: str, arguments: Mapping[str, Any]) -> nn.Module:
    make = import_trusted_function(function)
    try:
        made = make(**arguments)
    except (TypeError, ValueError) as error:
        given = ", ".join(f"{name}={value!r}" for name, value in arguments.items()) or "none"
        raise RunError(
            f"{function} gives no network ({error}); it was called with these arguments: {given}."
        ) from error
    if not isinstance(made, nn.Module):
        raise RunError(f"{function} must return an nn.Module, got {type(made).__name__}.")
    return made


class OnnxNetwork(nn.Module):
    """An ONNX file, run by ONNX Runtime. It gives no gradients.

    Args:
        path: The file; one input ``(batch, channel, height, width)``, float32.

    Attributes to read: ``card``, the score card that ``equipoise export`` wrote, if it did.

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
        """The file's hash."""
        return self.digest

    def forward(self, images: Images) -> Any:
        """What the file's first output is."""
        return self.answers(images)[0]

    def answers(self, images: Images) -> tuple[Tensor, ...]:
        """All outputs."""
        inputs = {self.session.get_inputs()[0].name: images.detach().cpu().float().numpy()}
        found = self.session.run(None, inputs)
        return tuple(torch.from_numpy(output).to(images.device) for output in found)


class ExportedNetwork(nn.Module):
    """A file of ``torch.export``. It gives gradients; its mode is fixed, and its device is that of
    the images it is given.

    Args:
        path: The file.

    Attributes to read: ``card``, the score card that ``equipoise export`` wrote, if it did.

    Raises:
        RunError: If it cannot be read.
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
        tensors = [*self._exported.state_dict.values(), *self._exported.constants.values()]
        devices = [each.device for each in tensors if isinstance(each, Tensor)]
        self._device = devices[0] if devices else torch.device("cpu")
        self.digest = _digest(path)
        self.eval()

    def extra_repr(self) -> str:
        """The file's hash."""
        return self.digest

    def forward(self, images: Images) -> Any:
        """What the program answers; of a file that ``equipoise export`` wrote, the logits."""
        answer = self._answer(images)
        return answer if self.card is None else answer[0]

    def answers(self, images: Images) -> tuple[Tensor, ...]:
        """All outputs of a file that ``equipoise export`` wrote."""
        found: tuple[Tensor, ...] = self._answer(images)
        return found

    def _answer(self, images: Images) -> Any:
        """The program's answer, where the images are: devices are written into its code, too."""
        if images.device != self._device:
            move_to_device_pass(self._exported, images.device)
            self._open()
            self._device = images.device
        return self._program[0](images)

    def _open(self) -> None:
        program = self._exported.module()
        for parameter in program.parameters():
            parameter.requires_grad_(False)
        self._program = (program,)  # not a submodule: its mode cannot be switched


class LogitsOf(nn.Module):
    """A network whose answer is not simply a tensor of logits.

    Args:
        network: Any network.
        select: Which part of its answer holds the logits: a key of a dict (or an attribute), the
            place in a tuple, or ``"binary"`` for one logit an image, which becomes two; ``None``
            takes the answer as it is.
        last_linear: Dotted name of the network's last linear layer, where it is not the one that
            was registered last.
        config: How a model folder builds it again; without one it cannot be saved as such.

    Raises:
        ValueError: If ``last_linear`` names no linear layer; from ``forward``, if the answer has no
            such part or is no tensor ``(batch, classes)``; the message says what it is.
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
        self.last_linear = None  # the attribute that equipoise.models.last_linear looks for
        if last_linear is not None:
            self.last_linear = f"network.{last_linear}"
            check_last_linear(self)
        self.gives_gradients = getattr(network, "gives_gradients", True)

    def extra_repr(self) -> str:
        """Which part is taken, and of what: networks that differ in it are different models."""
        if self.config is None:
            return f"select={self.select!r}"
        return f"select={self.select!r}, {self.config['function']}(**{self.config['arguments']})"

    def forward(self, images: Images) -> Logits:
        """The logits."""
        answer = self.network(images)
        if self.select is not None and not isinstance(answer, Tensor):
            answer = self._part(answer)
        if not isinstance(answer, Tensor):
            raise ValueError(
                f"the model must return logits, got {_described(answer)}; say which part of it "
                "holds them with --logits."
            )
        if answer.ndim == 1 or (answer.ndim == 2 and answer.shape[1] == 1):
            if self.select != BINARY:
                raise ValueError(
                    f"the model must return logits of shape (batch, classes), got one number an "
                    f"image (shape {tuple(answer.shape)}); if it is the logit of class 1, say "
                    "--logits binary."
                )
            single = answer.flatten()
            return torch.stack([torch.zeros_like(single), single], dim=1)
        if answer.ndim != 2:
            raise ValueError(
                f"the model must return logits of shape (batch, classes), got shape "
                f"{tuple(answer.shape)}."
            )
        return answer

    def _part(self, answer: Any) -> Any:
        select = self.select or ""
        if isinstance(answer, dict) and select in answer:
            return answer[select]
        if isinstance(answer, (tuple, list)) and select.isdigit() and int(select) < len(answer):
            return answer[int(select)]
        if not isinstance(answer, (tuple, list)) and isinstance(
            getattr(answer, select, None), Tensor
        ):
            return getattr(answer, select)
        raise ValueError(f"the model's answer has no part {select!r}: it is {_described(answer)}.")


def _described(answer: Any) -> str:
    if isinstance(answer, dict):
        return f"a dict with the keys {sorted(map(str, answer))}"
    if isinstance(answer, (tuple, list)):
        return f"a {type(answer).__name__} of {len(answer)} parts"
    return f"a {type(answer).__name__}"


def _card(text: str | None, path: Path) -> dict[str, Any] | None:
    """The score card of a file that ``equipoise export`` wrote."""
    if not text:
        return None
    try:
        card = json.loads(text)
        check_score_card(card)
        check_card(card)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} has a damaged score card ({error}); export it again.") from error
    found: dict[str, Any] = card
    return found


def _digest(path: Path) -> str:
    """Of a file and of the weights that an ONNX file may keep beside itself."""
    found = hashlib.sha256(path.read_bytes())
    beside = path.with_name(f"{path.name}.data")
    if beside.is_file():
        found.update(beside.read_bytes())
    return found.hexdigest()
