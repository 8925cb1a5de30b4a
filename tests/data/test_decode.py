import io
import zlib

import numpy
import pytest
from PIL import Image
from writers import announced_png, encoded, noise

from equipoise.data import DataError
from equipoise.data.decode import decode


@pytest.mark.parametrize("coding", ["PNG", "BMP", "TIFF"])
def test_every_format_is_decoded_exactly(coding):
    (pixels,) = noise(1, 5)
    decoded, name = decode(encoded(pixels, coding))
    assert numpy.array_equal(decoded, pixels)
    assert (decoded.dtype, name) == (numpy.uint8, coding)


def test_grey_and_colour_are_converted_into_each_other():
    (grey,) = noise(1, 5, channels=1)
    assert numpy.array_equal(decode(encoded(grey), grey=True)[0], grey)
    assert numpy.array_equal(decode(encoded(grey))[0], numpy.repeat(grey, 3, axis=0))


def test_size_keeps_the_square_in_the_middle():
    pixels = numpy.arange(3 * 4 * 8, dtype=numpy.uint8).reshape(3, 4, 8)
    assert numpy.array_equal(decode(encoded(pixels), size=4)[0], pixels[:, :, 2:6])


def test_size_scales_the_shorter_side():
    blocks = numpy.kron(noise(1, 3)[0], numpy.ones((1, 40, 40), dtype=numpy.uint8))
    decoded = decode(encoded(blocks), size=3)[0].astype(int)
    assert decoded.shape == (3, 3, 3)
    middle = abs(decoded - blocks[:, 20::40, 20::40].astype(int))
    assert middle.mean() < 30  # bilinear weights reach into the neighbours
    same = decode(encoded(blocks), size=120)[0]
    assert numpy.array_equal(same, blocks)


@pytest.mark.parametrize("side", [8200, 10_000, 100_000, 2**31 - 1])
def test_image_with_a_huge_size_in_its_header_is_refused_undecoded(side):
    with pytest.raises(DataError, match=r"pixels|decompression bomb|cannot be read"):
        decode(announced_png(side, side))


def test_size_limit_is_below_the_one_of_pillow(recwarn):
    with pytest.raises(DataError, match=r"it must have at most 67,108,864 pixels, got 8200x8200"):
        decode(announced_png(8200, 8200))
    assert not recwarn.list


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_more_than_8_bits_are_refused(mode):
    stream = io.BytesIO()
    Image.new(mode, (4, 4)).save(stream, format="TIFF")
    with pytest.raises(DataError, match="more than 8 bits"):
        decode(stream.getvalue())


@pytest.mark.parametrize("colours", [2, 6])  # PNG's numbers: without and with transparency
def test_more_than_8_bits_of_colour_are_refused(colours):
    wide = bytearray(announced_png(2, 2))
    wide[24:26] = 16, colours
    wide[29:33] = zlib.crc32(wide[12:29]).to_bytes(4, "big")
    with pytest.raises(DataError, match="more than 8 bits"):
        decode(bytes(wide))


def test_image_is_rotated_by_exif_and_put_on_white():
    stream = io.BytesIO()
    turn = Image.Exif()
    turn[0x0112] = 6  # a quarter to the right
    pixels = numpy.zeros((4, 8, 4), dtype=numpy.uint8)
    pixels[:, :2] = 255, 0, 0, 255
    Image.fromarray(pixels).save(stream, format="PNG", exif=turn)
    decoded = decode(stream.getvalue())[0]
    assert decoded.shape == (3, 8, 4)
    assert decoded[:, 0, 0].tolist() == [255, 0, 0]
    assert (decoded[:, 2:] == 255).all()


@pytest.mark.parametrize("content", [b"", b"not an image", encoded(noise(1)[0])[:200]])
def test_broken_images_are_refused(content):
    with pytest.raises(DataError, match="cannot be read as an image"):
        decode(content)


def test_formats_that_run_other_programs_are_refused():
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, format="EPS")
    with pytest.raises(DataError, match="it is none of BMP"):
        decode(stream.getvalue())
