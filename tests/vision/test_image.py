"""Every kind of picture file opens as the picture it shows, upright, over white, in 8 bits; without torch."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from tests.vision.pictures import LOSSLESS, drawn, encoded, photographs, png
from vision.image import FILE_FORMATS, SERVING_FORMATS, Picture, Source, open_image, resize


def grey_of(image: Picture) -> Picture:
    return np.asarray(Image.fromarray(image).convert("L"))


def distance(one: Picture, other: Picture) -> int:
    assert one.shape == other.shape
    return int(np.abs(one.astype(int) - other.astype(int)).max())


@pytest.mark.parametrize(("file_format", "options"), LOSSLESS)
def test_lossless_files_give_every_pixel(file_format: str, options: dict[str, object]) -> None:
    picture = drawn()
    opened = open_image(encoded(picture, file_format, **options))
    assert opened.dtype == np.uint8
    assert opened.flags.c_contiguous
    assert np.array_equal(opened, picture)


@pytest.mark.parametrize(
    ("file_format", "options", "tolerance"), [("JPEG", {"quality": 100, "subsampling": 0}, 6), ("WEBP", {}, 50)]
)
def test_lossy_files_stay_near(file_format: str, options: dict[str, object], tolerance: int) -> None:
    assert distance(open_image(encoded(drawn(), file_format, **options)), drawn()) <= tolerance


def test_bytes_path_text_path_and_pil_image_give_the_same_picture(tmp_path: Path) -> None:
    data = encoded(drawn(), "PNG")
    path = tmp_path / "picture.jpg"  # the name lies: only bytes count
    path.write_bytes(data)
    sources: list[Source] = [data, path, str(path), Image.open(io.BytesIO(data)), Image.fromarray(drawn())]
    for source in sources:
        assert np.array_equal(open_image(source), drawn())


def test_first_frame_of_an_animated_gif_is_opened() -> None:
    frames = [Image.new("RGB", (8, 6), color) for color in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (open_image(data) == (255, 0, 0)).all()


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"]
)
def test_every_mode_of_pillow_becomes_rgb(mode: str) -> None:
    step = {"La": "LA", "PA": "P", "RGBa": "RGBA"}.get(mode, mode)
    image = Image.fromarray(drawn()).convert(step).convert(mode)
    plain = {"La": Image.fromarray(drawn()).convert("L")}.get(mode, image).convert("RGB")
    assert np.array_equal(open_image(image), np.asarray(plain))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_pictures_stand_upright_whatever_exif_says(orientation: int, file_format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(drawn(), file_format, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert expected.shape[:2] == ((40, 30) if orientation >= 5 else (30, 40))
    assert np.array_equal(open_image(data), expected)
    assert np.array_equal(open_image(Image.open(io.BytesIO(data))), expected)


def test_damaged_exif_does_not_cost_the_picture() -> None:
    data = encoded(drawn(), "PNG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff not a directory")
    assert np.array_equal(open_image(data), drawn())


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF"])
def test_transparency_lies_over_white(file_format: str) -> None:
    layers = np.dstack([drawn(), np.full((30, 40), 255, np.uint8)])
    layers[:, :10, 3] = 0
    layers[:, 10:20, 3] = 102  # two fifths
    opened = open_image(
        encoded(Image.fromarray(layers), file_format, **({"lossless": True} if file_format == "WEBP" else {}))
    )
    assert (opened[:, :10] == 255).all()
    assert np.array_equal(opened[:, 20:], drawn()[:, 20:])
    assert distance(opened[:, 10:20], np.rint(drawn()[:, 10:20] * 0.4 + 255 * 0.6).astype(np.uint8)) <= 1


def test_grey_with_transparency_lies_over_white() -> None:
    layers = Image.merge("LA", (Image.new("L", (4, 4), 0), Image.new("L", (4, 4), 51)))
    assert (open_image(encoded(layers, "PNG")) == 204).all()


def test_a_transparent_palette_colour_is_white() -> None:
    image = Image.new("P", (4, 2))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    for data in (encoded(image, "GIF", transparency=0), encoded(image, "PNG", transparency=b"\x00\xff")):
        opened = open_image(data)
        assert opened[0, 1].tolist() == [40, 50, 60]
        assert (opened[1] == 255).all()


def test_a_transparent_colour_key_is_white() -> None:
    rows = b"\x00" + bytes([7, 9]) + b"\x00" + bytes([9, 7])
    assert open_image(png(2, 2, rows=rows, chunks=b"\x00\x07"))[..., 0].tolist() == [[255, 9], [9, 255]]
    rows = b"".join(b"\x00" + struct.pack(">HH", *row) for row in ((300, 5000), (5000, 300)))
    opened = open_image(png(2, 2, bits=16, rows=rows, chunks=struct.pack(">H", 300)))
    assert opened[..., 0].tolist() == [[255, 19], [19, 255]]


def test_cmyk_jpeg_has_its_colours() -> None:
    picture = drawn()
    opened = open_image(encoded(Image.fromarray(picture).convert("CMYK"), "JPEG", quality=100))
    assert distance(opened, picture) <= 6


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B"])
def test_16_bit_grey_keeps_its_upper_byte(mode: str) -> None:
    grey = grey_of(drawn())
    numbers = (grey.astype(np.uint16) << 8) + 77
    image = Image.frombytes(mode, (40, 30), numbers.astype(">u2" if mode == "I;16B" else "<u2").tobytes())
    files = [] if mode == "I;16L" else [encoded(image, "PNG"), encoded(image, "TIFF")]
    sources: list[Source] = [image, *files]
    for source in sources:
        assert np.array_equal(open_image(source), np.repeat(grey[..., None], 3, axis=2))


def test_16_bit_colour_keeps_its_upper_byte() -> None:
    picture = drawn()
    rows = b"".join(b"\x00" + ((row.astype(">u2") << 8) + 33).astype(">u2").tobytes() for row in picture)
    assert np.array_equal(open_image(png(40, 30, bits=16, color=2, rows=rows)), picture)


def tiff(numbers: np.ndarray, *, bits: int, kind: int = 1, zero_is_white: bool = False) -> bytes:
    """An uncompressed grey TIFF written by hand, little-endian: kinds of numbers that Pillow reads but never writes."""
    height, width = numbers.shape
    body = numbers.tobytes()
    entries = [(256, width), (257, height), (258, bits), (259, 1), (262, int(not zero_is_white))]
    entries += [(273, 8), (277, 1), (278, height), (279, len(body)), (339, kind)]
    directory = struct.pack("<H", len(entries)) + b"".join(
        struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries
    )
    return b"II*\x00" + struct.pack("<I", 8 + len(body)) + body + directory + b"\x00" * 4


def test_numbers_of_32_bits_are_scaled_to_what_they_hold() -> None:
    grey = grey_of(drawn())
    expected = np.repeat(grey[..., None], 3, axis=2)
    cases = [
        tiff(grey.astype("<u4") << 24, bits=32),
        tiff(grey.astype("<i4") * 257, bits=32, kind=2),
        tiff(grey.astype("<f4") / 255, bits=32, kind=3),
        tiff(grey.astype("<f4"), bits=32, kind=3),
        tiff(grey.astype("<f4") * 257, bits=32, kind=3),
        tiff(65535 - grey.astype("<u2") * 257, bits=16, zero_is_white=True),
    ]
    assert grey.max() > 127  # else two of the ranges could not be told apart
    for data in cases:
        assert distance(open_image(data), expected) <= (1 if data is cases[0] else 0)


def test_floats_that_are_no_numbers_are_black() -> None:
    levels = np.array([[0.5, np.nan], [np.inf, -3.0]], dtype=np.float32)
    assert open_image(Image.fromarray(levels))[..., 0].tolist() == [[128, 0], [0, 0]]


def test_real_photographs_open_as_pillow_shows_them() -> None:
    for path in photographs():
        assert np.array_equal(open_image(path), np.asarray(Image.open(path).convert("RGB")))


def test_opening_and_resizing_need_no_torch(tmp_path: Path) -> None:
    path = tmp_path / "picture.webp"
    path.write_bytes(encoded(drawn(), "WEBP"))
    program = (
        "import sys; from vision.image import open_image, resize; "
        f"print(resize(open_image({str(path)!r}), 16, 'crop').shape); "
        "sys.exit(any(name.split('.')[0] in ('torch', 'torchvision', 'open_clip') for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "(16, 16, 3)"), done.stderr


def test_no_other_reader_of_pillow_is_loaded() -> None:
    program = (
        "import sys; from vision.image import open_image\n"
        "try: open_image(b'%!PS-Adobe-3.0 EPSF-3.0')\n"
        "except ValueError: print('EpsImagePlugin' in str(sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False", done.stderr


def test_file_formats_are_the_six_promised() -> None:
    assert set(FILE_FORMATS) == {"JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"}
    assert set(SERVING_FORMATS) == {"JPEG", "PNG", "WEBP", "GIF"}


def test_a_drawing_survives_the_whole_way() -> None:
    canvas = Image.new("RGBA", (64, 48), (0, 0, 0, 0))
    ImageDraw.Draw(canvas).rectangle((16, 12, 47, 35), fill=(200, 0, 0, 255))
    square = resize(open_image(encoded(canvas, "WEBP", lossless=True)), 32, "squash")
    assert square[0, 0].tolist() == [255, 255, 255]
    assert square[16, 16].tolist() == [200, 0, 0]
