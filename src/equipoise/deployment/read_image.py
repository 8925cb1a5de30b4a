"""Read image files as images that a model takes."""

import warnings
from collections.abc import Iterable
from pathlib import Path

import torch

from equipoise.data import DataError
from equipoise.data.decode import FORMATS, SUFFIXES, prepare
from equipoise.runtime.errors import RunError
from equipoise.types import Images


def find_images(paths: Iterable[Path]) -> list[Path]:
    """Image files among paths and in folders, at any depth; hidden ones are left out.

    Args:
        paths: Files, which are kept whatever they are, and folders.

    Returns:
        Files in order; those of a folder are sorted.

    Raises:
        RunError: If a folder has no image.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "b.webp").touch(), (folder / "a.png").touch(), (folder / "notes.txt").touch()
        (None, None, None)
        >>> [file.name for file in find_images([folder])]
        ['a.png', 'b.webp']
    """
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        inside = sorted(
            file
            for file in path.rglob("*")
            if file.suffix.lower() in SUFFIXES
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
        )
        if not inside:
            raise RunError(f"{path} has no image; the endings are {', '.join(SUFFIXES)}.")
        files += inside
    return files


def load_image(path: Path, shape: tuple[int, ...]) -> tuple[Images, list[str]]:
    """Load one image file, fitted to a model in the same way as its training images.

    Args:
        path: A file of one of ``FORMATS``, such as PNG, JPEG or WebP, with 8 bits per channel.
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
    from PIL import Image, UnidentifiedImageError

    channels, height, width = shape
    if channels not in (1, 3):
        raise RunError(
            f"image files have 1 or 3 channels, but the model takes {channels}; pass tensors to "
            "the model instead."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as file:
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
    except UnidentifiedImageError:
        raise RunError(
            f"{path} cannot be read as an image: it is none of {', '.join(FORMATS)}."
        ) from None
    except Exception as error:  # Pillow's decoders raise many types of errors
        raise RunError(f"{path} cannot be read as an image ({error}).") from error
    return torch.from_numpy(pixels)[None].float().div_(255.0), changes
