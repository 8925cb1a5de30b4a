"""Encoded images to pixels, with bounds that are checked before anything is decoded."""

import io
from typing import Any

import numpy

from equipoise.data.split import DataError

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that are read. Pillow knows more, EPS among them, which it hands to another program."""
ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Endings of files that are taken for images."""
PIXELS = 2**26
"""Largest image that is decoded, 67 megapixels."""


def decode(content: bytes, *, size: int | None = None, grey: bool = False) -> tuple[Any, str]:
    """Decode one image.

    Args:
        content: An encoded image.
        size: Scale the shorter side to so many pixels and cut the square out of the middle;
            ``None`` leaves the image as it is.
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
            if image.mode.startswith(("I", "F")):
                raise DataError(f"its pixels have more than 8 bits (mode {image.mode})")
            coding = str(image.format)
            plain = image.convert("L" if grey else "RGB")
        pixels = numpy.asarray(plain if size is None else _fitted(plain, size))
    except DataError:
        raise
    except Exception as error:  # Pillow raises whatever its decoders do; bombs have a class too
        raise DataError(f"it cannot be read as an image ({error})") from error
    return numpy.ascontiguousarray(pixels[None] if grey else pixels.transpose(2, 0, 1)), coding


def _fitted(image: Any, size: int) -> Any:
    from PIL import Image, ImageOps

    if image.size == (size, size):
        return image
    return ImageOps.fit(image, (size, size), method=Image.Resampling.BILINEAR)
