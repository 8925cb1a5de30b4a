"""PNG and JPEG files as the images a model takes."""

import warnings
from pathlib import Path

import torch

from equipoise.data import DataError
from equipoise.data.decode import prepare
from equipoise.runtime.errors import RunError
from equipoise.types import Images


def read_picture(path: Path, shape: tuple[int, ...]) -> tuple[Images, list[str]]:
    """One picture, fitted to a model as the images of its training were.

    Args:
        path: A PNG or JPEG file of 8 bits a channel.
        shape: Channels, height and width that the model takes.

    Returns:
        An image ``(1, channel, height, width)`` in [0, 1], and a sentence for each thing that had
        to be changed: direction, transparency, colours, size.

    Raises:
        RunError: If the file is missing, broken, too large, of another format or depth, or the
            model takes neither 1 nor 3 channels.
    """
    from PIL import Image

    channels, height, width = shape
    if channels not in (1, 3):
        raise RunError(f"pictures have 1 or 3 channels, the model takes {channels}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=("PNG", "JPEG")) as file:
                pixels, notices = prepare(file, size=(height, width), grey=channels == 1)
    except FileNotFoundError:
        raise RunError(f"{path} does not exist.") from None
    except DataError as error:
        raise RunError(f"{path}: {error}.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RunError(
            f"{path} is too large to be read safely: more than {Image.MAX_IMAGE_PIXELS} pixels; "
            "make it smaller first."
        ) from error
    except Exception as error:  # Pillow raises whatever its decoders do
        raise RunError(f"{path} cannot be read as PNG or JPEG ({error}).") from error
    return torch.from_numpy(pixels)[None].float().div_(255.0), notices
