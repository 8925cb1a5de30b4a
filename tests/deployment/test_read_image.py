import struct
import zlib

import numpy
import pytest
import torch
from PIL import Image

from equipoise.data.decode import decode
from equipoise.deployment.read_image import load_image
from equipoise.runtime.errors import RunError


@pytest.fixture
def grey():
    return numpy.arange(64, dtype=numpy.uint8).reshape(8, 8) * 4


def put(path, pixels, **settings):
    Image.fromarray(pixels).save(path, **settings)
    return path


def test_a_png_of_the_right_size_is_read_exactly(grey, tmp_path):
    image, notices = load_image(put(tmp_path / "a.png", grey), (1, 8, 8))
    assert torch.equal(image, torch.from_numpy(grey)[None, None] / 255)
    assert notices == []


def test_colours_keep_their_channels(tmp_path):
    pixels = numpy.zeros((4, 6, 3), dtype=numpy.uint8)
    pixels[..., 1], pixels[0, 5, 2] = 255, 51
    image, notices = load_image(put(tmp_path / "a.png", pixels), (3, 4, 6))
    assert image.shape == (1, 3, 4, 6)
    assert image[0, :, 0, 5].tolist() == pytest.approx([0.0, 1.0, 0.2])
    assert image[0, 1].min() == 1
    assert notices == []


def test_another_size_is_fitted_and_reported(tmp_path):
    pixels = numpy.full((48, 64, 3), 100, dtype=numpy.uint8)
    image, notices = load_image(put(tmp_path / "a.jpg", pixels), (1, 8, 8))
    assert image.shape == (1, 1, 8, 8)
    torch.testing.assert_close(image, torch.full_like(image, 100 / 255), rtol=0, atol=1.5 / 255)
    assert notices == ["made grey", "resized from 64x48 to 8x8, with its edges cut off"]
    _, notices = load_image(put(tmp_path / "b.png", pixels[:, :48]), (3, 8, 8))
    assert notices == ["resized from 48x48 to 8x8"]


def test_a_grey_image_becomes_three_equal_channels(grey, tmp_path):
    image, notices = load_image(put(tmp_path / "a.png", grey), (3, 8, 8))
    assert torch.equal(image[0, 0], image[0, 2])
    assert notices == []


def test_a_transparent_image_gets_a_white_background(tmp_path):
    pixels = numpy.zeros((8, 8, 4), dtype=numpy.uint8)
    pixels[:4, :, 3] = 255  # black above, nothing below
    image, notices = load_image(put(tmp_path / "a.png", pixels), (3, 8, 8))
    assert image[0, :, :4].max() == 0
    assert image[0, :, 4:].min() == 1
    assert notices == ["put on white, since it is transparent"]


def test_a_photo_is_rotated_by_its_exif_orientation(grey, tmp_path):
    turn = Image.Exif()
    turn[0x0112] = 3  # by 180 degrees
    image, notices = load_image(put(tmp_path / "a.png", grey, exif=turn), (1, 8, 8))
    assert torch.equal(image[0, 0], torch.from_numpy(grey[::-1, ::-1].copy()) / 255)
    assert notices == ["turned upright"]


def test_a_photo_with_damaged_exif_is_not_rotated(grey, tmp_path):
    path = put(tmp_path / "a.png", grey, exif=b"Exif\0\0MM\0*\0\0")
    image, notices = load_image(path, (1, 8, 8))
    assert torch.equal(image[0, 0], torch.from_numpy(grey) / 255)
    assert notices == []


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_is_prepared_as_training_images_are(mode, channels, tmp_path):
    turn = Image.Exif()
    turn[0x0112] = 6  # a quarter to the right
    pixels = numpy.random.default_rng(0).integers(0, 256, (12, 20, 4), dtype=numpy.uint8)
    path = tmp_path / f"a.{'jpg' if mode == 'CMYK' else 'png'}"
    Image.fromarray(pixels).convert(mode).save(path, exif=turn)
    image, _ = load_image(path, (channels, 8, 8))
    trained, _ = decode(path.read_bytes(), size=8, grey=channels == 1)
    assert torch.equal(image[0], torch.from_numpy(trained) / 255)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RunError, match=r"no.png does not exist"):
        load_image(tmp_path / "no.png", (1, 8, 8))


@pytest.mark.parametrize("keep", [0, 20, -12])
def test_a_damaged_file_is_named(keep, tmp_path):
    noise = numpy.random.default_rng(0).integers(0, 256, (32, 32), dtype=numpy.uint8)
    path = put(tmp_path / "a.png", noise)
    path.write_bytes(path.read_bytes()[: keep if keep >= 0 else len(path.read_bytes()) // 2])
    with pytest.raises(RunError, match=r"a.png cannot be read as an image"):
        load_image(path, (1, 8, 8))


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(RunError, match="cannot be read as an image"):
        load_image(tmp_path, (1, 8, 8))


def test_other_formats_are_refused(grey, tmp_path):
    path = put(tmp_path / "a.png", grey, format="EPS")
    with pytest.raises(RunError, match=r"a.png cannot be read as an image"):
        load_image(path, (1, 8, 8))


def png_that_claims(path, width, height):
    """A few bytes that would unpack to width x height pixels."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    content = zlib.compress(b"\0" * 1000)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", content)
        + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize("side", [10_000, 60_000])  # Pillow warns of the first, refuses the second
def test_a_decompression_bomb_is_refused(side, tmp_path):
    path = png_that_claims(tmp_path / "bomb.png", side, side)
    with pytest.raises(
        RunError, match=r"bomb.png is too large to be read safely: it has more than \d+"
    ):
        load_image(path, (1, 8, 8))


def test_sixteen_bits_per_channel_are_refused(tmp_path):
    path = put(tmp_path / "a.png", numpy.zeros((8, 8), dtype=numpy.uint16))
    with pytest.raises(RunError, match="has more than 8 bits per channel; save it with 8"):
        load_image(path, (1, 8, 8))


def test_a_model_with_four_channels_takes_no_image_files(grey, tmp_path):
    with pytest.raises(RunError, match="1 or 3 channels, but the model takes 4"):
        load_image(put(tmp_path / "a.png", grey), (4, 8, 8))
