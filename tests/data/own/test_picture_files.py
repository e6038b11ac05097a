"""Every mode and depth that Pillow opens shows what it showed, and what cannot be read says why."""

import contextlib
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from fewshot_lib.data.own.picture_files import is_picture, picture_endings, read_picture

GREY = np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8)


def read(file, color=False, size=8):
    return read_picture(file, size, size, color)


@pytest.fixture
def save(tmp_path):
    def _save(image, name, **options):
        image.save(tmp_path / name, **options)
        return tmp_path / name

    return _save


def png(array: np.ndarray, color_type: int) -> bytes:
    """A PNG file of 16 bits a channel, which Pillow cannot write: array (height, width, channels)."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    height, width = array.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in array)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def tiff(array: np.ndarray, sample_format: int = 1, order: str = "<", compressed: bool = False) -> bytes:
    """A TIFF file: array (height, width) or (height, width, 3 or 4)."""
    height, width, channels = (*array.shape, 1)[:3]
    content = array.astype(array.dtype.newbyteorder(order)).tobytes()
    content = zlib.compress(content) if compressed else content
    content += b"\0" * (len(content) % 2)
    tags = {256: [width], 257: [height], 258: [8 * array.itemsize] * channels, 259: [8 if compressed else 1]}
    tags |= {262: [2 if channels > 1 else 1], 273: [8], 277: [channels], 278: [height], 279: [len(content)]}
    tags |= {338: [2]} if channels == 4 else {}  # the fourth channel is cover
    tags |= {339: [sample_format] * channels}
    entries, behind = b"", b""
    start = 8 + len(content) + 2 + 12 * len(tags) + 4
    for tag, numbers in tags.items():
        packed = struct.pack(order + "H" * len(numbers), *numbers)
        if len(packed) > 4:
            packed, behind = struct.pack(order + "I", start + len(behind)), behind + packed
        entries += struct.pack(order + "HHI", tag, 3, len(numbers)) + packed.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(content))
    return head + content + struct.pack(order + "H", len(tags)) + entries + b"\0\0\0\0" + behind


def values(picture):
    """A deep picture's own numbers."""
    return picture.low + picture.pixels.astype(np.float64) * (picture.high - picture.low)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_eight_bits_a_pixel_stay_as_they_are_in_every_mode(mode, save):
    name = "a.tif" if mode in ("CMYK", "YCbCr") else "a.png"
    file = save(Image.fromarray(GREY).convert(mode), name)
    picture = read(file)
    assert picture.depth == "8-bit" and picture.pixels.dtype == np.uint8 and picture.pixels.shape == (1, 8, 8)
    assert np.abs(picture.pixels[0].astype(int) - GREY).max() <= 1
    assert read(file, color=True).pixels.shape == (3, 8, 8)


def test_one_bit_and_lab_are_read(save):
    one = read(save(Image.fromarray(GREY > 100), "a.png")).pixels[0]
    assert np.array_equal(one, 255 * (GREY > 100))
    lab = Image.merge("LAB", [Image.fromarray(GREY), *[Image.new("L", (8, 8), 128)] * 2])
    grey = read(save(lab, "a.tif")).pixels[0].astype(int)
    assert (np.diff(grey.ravel()) >= 0).all() and grey.max() > 240 and grey.min() < 5


def test_palette_colors_and_transparency_count(save):
    image = Image.fromarray((GREY > 100).astype(np.uint8)).convert("P")
    image.putpalette([200, 0, 0, 0, 0, 0])
    shown = read(save(image, "a.png", transparency=1), color=True)
    assert shown.pixels[:, 0, 0].tolist() == [200, 0, 0] and shown.pixels[:, -1, -1].tolist() == [255] * 3
    assert shown.cover[0, 0] == 1 and shown.cover[-1, -1] == 0


# raw values in 0..4095 -> a file; what those values become in it; the depth that is found
DEEP = {
    "PNG": (lambda a: png(a[..., None], 0), lambda a: a, "16-bit"),
    "PGM": (lambda a: b"P5 8 8 65535 " + a.astype(">u2").tobytes(), lambda a: a, "16-bit"),
    "TIFF": (lambda a: tiff(a.astype("u2")), lambda a: a, "16-bit"),
    "TIFF, compressed": (lambda a: tiff(a.astype("u2"), compressed=True), lambda a: a, "16-bit"),
    "TIFF, big-endian": (lambda a: tiff(a.astype("u2"), order=">"), lambda a: a, "16-bit"),
    "signed": (lambda a: tiff((a - 2000).astype("i2"), 2), lambda a: a - 2000, "16-bit"),
    "signed, big-endian": (lambda a: tiff((a - 2000).astype("i2"), 2, ">"), lambda a: a - 2000, "16-bit"),
    "32 bits": (lambda a: tiff((a * 100 - 9).astype("i4"), 2), lambda a: a * 100 - 9, "32-bit"),
    "32 bits, unsigned": (lambda a: tiff((a + 2**31).astype("u4")), lambda a: a + 2**31, "32-bit"),
    "float": (lambda a: tiff((a / 4095).astype("f4"), 3), lambda a: a / 4095, "floating-point"),
    "float, big-endian": (
        lambda a: tiff((a - 99.5).astype("f4"), 3, ">"),
        lambda a: a - 99.5,
        "floating-point",
    ),
    "float, huge": (lambda a: tiff((a * 6e34).astype("f4"), 3), lambda a: a * 6e34, "floating-point"),
}


@pytest.mark.parametrize("kind", DEEP)
def test_deeper_pixels_keep_their_whole_range(kind, tmp_path):
    write, meant, depth = DEEP[kind]
    raw = np.random.default_rng(0).integers(0, 4096, (8, 8))
    (tmp_path / "a").write_bytes(write(raw))
    picture = read(tmp_path / "a")
    assert picture.depth == depth
    np.testing.assert_allclose((picture.low, picture.high), (meant(raw).min(), meant(raw).max()), rtol=1e-6)
    np.testing.assert_allclose(picture.pixels[0], (raw - raw.min()) / np.ptp(raw), atol=1e-5)
    assert np.array_equal(read(tmp_path / "a", color=True).pixels, np.repeat(picture.pixels, 3, axis=0))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "TIFF, big-endian", "TIFF, compressed"])
@pytest.mark.parametrize("channels", [3, 4])
def test_colors_of_16_bits_are_read_with_both_bytes(kind, channels, tmp_path):
    raw = np.random.default_rng(0).integers(0, 4096, (8, 8, channels)).astype(np.uint16)
    raw[..., 3:] = 65535
    order = ">" if "big" in kind else "<"
    content = png(raw, {3: 2, 4: 6}[channels])
    if kind != "PNG":
        content = tiff(raw, order=order, compressed="compressed" in kind)
    (tmp_path / "a").write_bytes(content)
    picture = read(tmp_path / "a", color=True)
    assert picture.depth == "16-bit" and picture.cover is None
    np.testing.assert_allclose(values(picture), raw[..., :3].transpose(2, 0, 1), atol=0.01)
    np.testing.assert_allclose(
        values(read(tmp_path / "a"))[0], raw[..., :3] @ [0.299, 0.587, 0.114], atol=0.2
    )


def test_deep_pixels_that_are_transparent_have_no_say_in_the_range(tmp_path):
    raw = np.full((8, 8, 4), 65535, np.uint16)
    raw[:4] = (1000, 1000, 1000, 65535)
    raw[4:] = (60000, 60000, 60000, 0)
    raw[0, 0, :3] = 2000
    (tmp_path / "a").write_bytes(png(raw, 6))
    picture = read(tmp_path / "a")
    assert (picture.low, picture.high) == (1000, 2000)
    assert picture.pixels[0, 0, 0] == 1 and (picture.pixels[0, 1:] == 0).all()
    assert (picture.cover[:4] == 1).all() and (picture.cover[4:] == 0).all()
    raw[..., 3] = 0
    (tmp_path / "a").write_bytes(png(raw, 6))
    assert read(tmp_path / "a").depth == "8-bit" and (read(tmp_path / "a").pixels == 255).all()


def test_grey_of_16_bits_with_transparency_is_read_by_its_upper_byte(tmp_path):
    raw = np.random.default_rng(0).integers(0, 65536, (8, 8, 2)).astype(np.uint16)
    raw[..., 1] = 65535
    (tmp_path / "a").write_bytes(png(raw, 4))
    np.testing.assert_allclose(values(read(tmp_path / "a"))[0], raw[..., 0], atol=260)


@pytest.mark.parametrize("kind", ["L", "I;16", "F"])
def test_a_photograph_taken_upright_stands_upright(kind, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees clockwise to show"
    lying = np.repeat([[0], [255]], 4, axis=0).repeat(8, axis=1)  # black above white
    image = Image.fromarray(lying.astype({"L": np.uint8, "I;16": np.uint16, "F": np.float32}[kind]))
    image.save(tmp_path / "a", "TIFF" if kind == "F" else "PNG", exif=exif)
    shown = read(tmp_path / "a").pixels[0]
    assert (shown[:, -1] == 0).all() and (shown[:, 0] == shown.max()).all() and shown.max() > 0


def test_of_several_pictures_in_a_file_the_first_is_read_and_that_is_said(save):
    pages = [Image.fromarray(np.full((8, 8), grey, np.uint8)) for grey in (10, 200)]
    for name in ("a.gif", "a.tif", "a.png", "a.webp"):
        options = {"lossless": True} if name == "a.webp" else {}
        picture = read(save(pages[0], name, save_all=True, append_images=pages[1:], **options))
        assert (picture.pixels == 10).all() and "several pictures" in picture.remarks[0]
    assert read(save(pages[0], "b.gif")).remarks == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"<html>", "it is none, or of a format that is not known"),
        (png(np.random.default_rng(0).integers(0, 65536, (9, 9, 1)), 0)[:150], "truncated|broken|incomplete"),
        (tiff(np.array([[0, np.nan]], "f4"), 3), "NaN or infinite"),
        (tiff(np.array([[0, np.inf]], "f4"), 3), "NaN or infinite"),
    ],
)
def test_what_cannot_be_read_says_why(content, reason, tmp_path):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        read(tmp_path / "a.png")


def test_a_huge_picture_is_refused_with_its_size(save, monkeypatch):
    file = save(Image.new("1", (300, 100)), "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    with pytest.raises(ValueError, match="30000 pixels.*make it smaller"):
        read(file)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)
    assert "30000 pixels" in read(file).remarks[0]


def test_whatever_the_bytes_are_there_is_a_picture_or_a_reason(tmp_path):
    sound = [png(np.ones((9, 9, 3)), 2), tiff(np.ones((4, 4), "u2")), b"P5 8 8 65535 " + bytes(128)]
    random = np.random.default_rng(0)
    for i in range(150):
        content = bytearray(sound[i % 3])
        for place in random.integers(0, len(content), 4):
            content[place] = random.integers(256)
        (tmp_path / "a").write_bytes(content)
        with contextlib.suppress(ValueError):
            assert read(tmp_path / "a").pixels.shape == (1, 8, 8)


def test_pictures_are_known_by_ending_or_content(tmp_path):
    assert {".png", ".jpg", ".jpeg", ".jfif", ".tif", ".pgm", ".webp", ".jp2"} <= picture_endings()
    assert not {".pdf", ".eps", ".h5", ".mpg", ".txt", ".csv", ".svg"} & picture_endings()
    for name, content in {
        "a.PNG": b"",
        "b.txt": b"words",
        "c.npy": b"\x93NUMPY",
        "d": png(np.ones((2, 2, 1)), 0),
    }.items():
        (tmp_path / name).write_bytes(content)
    assert [is_picture(tmp_path / name) for name in ("a.PNG", "b.txt", "c.npy", "d", "no.png")] == [
        True,
        False,
        False,
        True,
        False,
    ]
