"""Encoded images to pixels, with bounds that are checked before anything is decoded."""

import io
import re
from typing import Any

import numpy

from equipoise.data.dataset import DataError

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that are read. Pillow knows more, EPS among them, which it hands to another program."""
ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Endings of files that are taken for images."""
PIXELS = 2**26
"""Largest image that is decoded, 67 megapixels."""
_DEEP = re.compile(";16[BLN]")
"""In Pillow's name of how stored pixels are coded: 16 bits a channel, in some order of bytes."""


def decode(content: bytes, *, size: int | None = None, grey: bool = False) -> tuple[Any, str]:
    """Decode one image.

    Args:
        content: An encoded image.
        size: Side of the square that it is brought to, as by ``prepared``; ``None`` keeps its size.
        grey: One channel instead of red, green and blue.

    Returns:
        A uint8 array ``(channel, height, width)``, and the format's name.

    Raises:
        DataError: If it is no image of ``FORMATS``, is damaged, has more than ``PIXELS`` pixels, or
            more than 8 bits a channel. The message says why and begins in the middle of a sentence.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:  # reads the header alone
            if image.width * image.height > PIXELS:
                raise DataError(f"it has {image.width} x {image.height} pixels, over {PIXELS:,}")
            pixels, _ = prepared(image, size=None if size is None else (size, size), grey=grey)
            return pixels, str(image.format)
    except DataError:
        raise
    except Exception as error:  # Pillow raises whatever its decoders do; bombs have a class too
        raise DataError(f"it cannot be read as an image ({error})") from error


def prepared(image: Any, *, size: tuple[int, int] | None, grey: bool) -> tuple[Any, list[str]]:
    """The pixels of an opened image as a model gets them, in training and from ``predict`` alike.

    It is turned as its camera says (EXIF; not where that is damaged), put on white where it is
    transparent, made grey or coloured, and scaled until it covers the size, whose middle is kept.

    Args:
        image: As Pillow opened it; its pixels are not read yet.
        size: Height and width; ``None`` keeps its own.
        grey: One channel instead of red, green and blue.

    Returns:
        A uint8 array ``(channel, height, width)``, and a sentence for each thing that was changed.

    Raises:
        DataError: If it has more than 8 bits a channel.
        Exception: Whatever Pillow raises where the image is damaged.
    """
    from PIL import Image, ImageOps

    # Pillow cuts coloured pixels of 16 bits down to 8; only what it is about to read shows them.
    if image.mode.startswith(("I", "F")) or any(_DEEP.search(str(tile)) for tile in image.tile):
        raise DataError("it has more than 8 bits a channel; save it with 8")
    image.load()
    image, notices = _upright(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        notices.append("put on white, since it is transparent")
    if grey and image.mode not in ("L", "1"):
        notices.append("made grey")
    image = image.convert("L" if grey else "RGB")
    height, width = size or image.size[::-1]
    if image.size != (width, height):
        notices.append(f"resized from {image.width}x{image.height} to {width}x{height}")
        if image.width * height != image.height * width:
            notices[-1] += ", with its edges cut off"
        image = ImageOps.fit(image, (width, height), method=Image.Resampling.BILINEAR)
    pixels = numpy.array(image)
    return numpy.ascontiguousarray(pixels[None] if grey else pixels.transpose(2, 0, 1)), notices


def _upright(image: Any) -> tuple[Any, list[str]]:
    from PIL import ExifTags, ImageOps

    try:
        if image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9):
            return ImageOps.exif_transpose(image), ["turned upright"]
    except Exception:  # whatever Pillow raises on a damaged mark
        return image, []
    return image, []
