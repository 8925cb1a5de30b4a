"""PNG and JPEG files as the images a model takes."""

import warnings
from pathlib import Path
from typing import Any

import numpy
import torch

from equipoise.runs import RunError
from equipoise.threat import Images

MODES = {1: "L", 3: "RGB"}  # of a model's channels


def read_picture(path: Path, shape: tuple[int, ...]) -> tuple[Images, list[str]]:
    """One picture, fitted to a model.

    Args:
        path: A PNG or JPEG file of 8 bits a channel.
        shape: Channels, height and width that the model takes.

    Returns:
        An image ``(1, channel, height, width)`` in [0, 1], and a sentence for each thing that had
        to be changed: transparency, colours, size.

    Raises:
        RunError: If the file is missing, broken, too large, of another format or depth, or the
            model takes neither 1 nor 3 channels.
    """
    from PIL import Image, ImageOps

    channels, height, width = shape
    if channels not in MODES:
        raise RunError(f"pictures have 1 or 3 channels, the model takes {channels}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=("PNG", "JPEG")) as file:
                picture: Any = ImageOps.exif_transpose(file)
                picture.load()
    except FileNotFoundError:
        raise RunError(f"{path} does not exist.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RunError(
            f"{path} is too large to be read safely: more than {Image.MAX_IMAGE_PIXELS} pixels; "
            "make it smaller first."
        ) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise RunError(f"{path} cannot be read as PNG or JPEG ({error}).") from error
    if picture.mode[0] in "IF":
        raise RunError(f"{path} has more than 8 bits a channel; save it with 8.")
    notices = []
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture).convert("RGB")
        notices.append("put on white, since it is transparent")
    if channels == 1 and picture.mode not in ("L", "1"):
        notices.append("made grey")
    picture = picture.convert(MODES[channels])
    if picture.size != (width, height):
        notices.append(f"resized from {picture.width}x{picture.height} to {width}x{height}")
        if picture.width * height != picture.height * width:
            notices[-1] += ", which changes its proportions"
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    pixels = numpy.array(picture, dtype=numpy.uint8).reshape(height, width, channels)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float().div_(255.0), notices
