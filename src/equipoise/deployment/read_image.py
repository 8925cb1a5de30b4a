"""Read PNG and JPEG files as images that a model takes."""

import warnings
from pathlib import Path

import torch

from equipoise.data import DataError
from equipoise.data.decode import prepare
from equipoise.runtime.errors import RunError
from equipoise.types import Images


def load_image(path: Path, shape: tuple[int, ...]) -> tuple[Images, list[str]]:
    """Load one image file, fitted to a model in the same way as its training images.

    Args:
        path: A PNG or JPEG file with 8 bits per channel.
        shape: Channels, height and width that the model takes.

    Returns:
        An image ``(1, channel, height, width)`` in [0, 1], and a phrase for each change that was
        made: orientation, transparency, colours, size.

    Raises:
        RunError: If the file is missing, damaged, too large, of another format or bit depth, or the
            model takes neither 1 nor 3 channels.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> file = Path(tempfile.mkdtemp()) / "white.png"
        >>> Image.new("L", (8, 8), 255).save(file)
        >>> image, changes = load_image(file, (3, 8, 8))
        >>> image.shape, float(image.min()), changes
        (torch.Size([1, 3, 8, 8]), 1.0, [])
    """
    from PIL import Image

    channels, height, width = shape
    if channels not in (1, 3):
        raise RunError(
            f"image files have 1 or 3 channels, but the model takes {channels}; pass tensors to "
            "the model instead."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=("PNG", "JPEG")) as file:
                pixels, changes = prepare(file, size=(height, width), grey=channels == 1)
    except FileNotFoundError:
        raise RunError(f"{path} does not exist.") from None
    except DataError as error:
        raise RunError(f"{path}: {error}.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RunError(
            f"{path} is too large to be read safely: it has more than {Image.MAX_IMAGE_PIXELS} "
            "pixels; make it smaller first."
        ) from error
    except Exception as error:  # Pillow's decoders raise many types of errors
        raise RunError(f"{path} cannot be read as PNG or JPEG ({error}).") from error
    return torch.from_numpy(pixels)[None].float().div_(255.0), changes
