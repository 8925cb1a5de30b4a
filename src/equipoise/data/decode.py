"""Decode images, within limits that are checked before anything is decoded."""

import io
import re
from typing import Any

import numpy

from equipoise.data.dataset import DataError

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Accepted file formats. Pillow knows more, among them EPS, which it passes to another program."""
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""File name suffixes of images."""
MAX_PIXELS = 2**26
"""Size limit of an image, 67 megapixels."""
_SIXTEEN_BITS = re.compile(";16[BLN]")
"""Mark of 16 bits per channel in Pillow's name of a raw pixel mode."""


def decode(content: bytes, *, size: int | None = None, grey: bool = False) -> tuple[Any, str]:
    """Decode one image.

    Args:
        content: An encoded image.
        size: Side in pixels of the square that it is scaled and cropped to, see ``prepare``;
            ``None`` keeps its size.
        grey: Convert to one channel instead of three.

    Returns:
        A uint8 array ``(channel, height, width)``, and the name of the format.

    Raises:
        DataError: If it is not an image of ``FORMATS``, is damaged, has more than ``MAX_PIXELS``
            pixels, or more than 8 bits per channel. The message continues a sentence.

    Example:
        >>> from PIL import Image
        >>> stream = io.BytesIO()
        >>> Image.new("RGB", (6, 4), "white").save(stream, format="PNG")
        >>> pixels, file_format = decode(stream.getvalue())
        >>> pixels.shape, file_format
        ((3, 4, 6), 'PNG')
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:  # reads only the header
            if image.width * image.height > MAX_PIXELS:
                raise DataError(
                    f"it must have at most {MAX_PIXELS:,} pixels, got {image.width}x{image.height}"
                )
            pixels, _ = prepare(image, size=None if size is None else (size, size), grey=grey)
            return pixels, str(image.format)
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError(
            f"it cannot be read as an image: it is none of {', '.join(FORMATS)}"
        ) from None
    except Exception as error:  # Pillow's decoders raise almost anything
        raise DataError(f"it cannot be read as an image ({error})") from error


def prepare(image: Any, *, size: tuple[int, int] | None, grey: bool) -> tuple[Any, list[str]]:
    """Convert an opened image to the pixels that a model gets, in training and in ``predict``.

    The image is rotated as its EXIF orientation says, put on a white background if it is
    transparent, converted to grey or RGB, scaled until it covers the size, and cropped around its
    centre.

    Args:
        image: Image opened by Pillow; its pixels need not be read yet.
        size: Height and width; ``None`` keeps those of the image.
        grey: Convert to one channel instead of three.

    Returns:
        A uint8 array ``(channel, height, width)``, and a phrase for each change.

    Raises:
        DataError: If it has more than 8 bits per channel.
        Exception: Whatever Pillow raises for a damaged image.
    """
    from PIL import Image, ImageOps

    # Pillow silently reduces 16-bit colours to 8; only the tiles before loading show them.
    if image.mode.startswith(("I", "F")) or any(
        _SIXTEEN_BITS.search(str(tile)) for tile in getattr(image, "tile", ())
    ):
        raise DataError("it has more than 8 bits per channel; save it with 8")
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
    except Exception:  # whatever Pillow raises for damaged EXIF data
        return image, []
    return image, []
