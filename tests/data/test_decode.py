"""Pixels against the arrays they were written from."""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unlabeled.data.decode import decode, examine
from unlabeled.data.kinds import kind_of
from unlabeled.data.pixels import (
    PIXEL_LIMIT,
    Undecodable,
    ValueRange,
    channel_axis,
    scale_to_uint8,
    to_channels,
    value_range,
)
from unlabeled.errors import DataError

RNG = np.random.default_rng(0)


def noise(*shape: int, dtype: str = "uint8") -> np.ndarray:
    if dtype.startswith("float"):
        return RNG.random(shape).astype(dtype)
    return RNG.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def encoded(image: Image.Image, format_name: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format_name, **options)
    return stream.getvalue()


def tiff(array: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **options)
    return stream.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png16(array: np.ndarray, transparent: tuple[int, ...] = ()) -> bytes:
    """A 16-bit PNG whose rows use the five filters in turn, written from the standard."""
    height, width, channels = array.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    step, previous, rows = 2 * channels, bytes(width * 2 * channels), []
    for y, row in enumerate(array.astype(">u2").reshape(height, -1)):
        now = row.tobytes()
        left, corner = bytes(step) + now[:-step], bytes(step) + previous[:-step]
        predicted = [
            (0, a, b, (a + b) // 2, min((a, b, c), key=lambda v, p=a + b - c: abs(v - p)))[y % 5]
            for a, b, c in zip(left, previous, corner, strict=True)
        ]
        rows.append(bytes([y % 5]) + bytes((x - p) & 255 for x, p in zip(now, predicted, strict=True)))
        previous = now
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
    key = chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)) if transparent else b""
    data = chunk(b"IDAT", zlib.compress(b"".join(rows)))
    return b"\x89PNG\r\n\x1a\n" + header + key + data + chunk(b"IEND", b"")


@pytest.mark.parametrize("format_name", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossless_formats_give_the_array_back(format_name: str, channels: int) -> None:
    if format_name == "WEBP" and channels == 1:
        pytest.skip("WebP has no grey images")
    pixels = noise(9, 7, channels)
    content = encoded(
        Image.fromarray(pixels.squeeze()), format_name, **({"lossless": True} if format_name == "WEBP" else {})
    )
    assert np.array_equal(decode(content), pixels)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bit_png_keeps_every_bit(channels: int) -> None:
    pixels = noise(11, 13, channels, dtype="uint16")
    if channels in {2, 4}:
        pixels[..., -1] = 65535
    decoded = examine(png16(pixels))
    assert decoded.pixels.dtype == np.uint16
    assert np.array_equal(decoded.pixels, pixels[..., : channels - 1] if channels in {2, 4} else pixels)
    assert decoded.notes == ()


def test_sixteen_bit_transparency_is_white() -> None:
    pixels = noise(6, 5, 4, dtype="uint16")
    alpha = pixels[..., 3:] / 65535
    expected = np.rint(pixels[..., :3] * alpha + 65535 * (1 - alpha))
    assert np.abs(decode(png16(pixels)) - expected).max() <= 1
    for channels in (1, 3):
        keyed = noise(6, 5, channels, dtype="uint16")
        keyed[2, 3] = 4321
        white = decode(png16(keyed, (4321,) * channels))
        assert (white[2, 3] == 65535).all()
        assert np.array_equal(white[:2], keyed[:2])


@pytest.mark.parametrize(
    ("array", "options", "expected"),
    [
        (noise(6, 9, 7), {}, "CYX"),
        (noise(9, 7, 6, dtype="uint16"), {"photometric": "minisblack", "planarconfig": "contig"}, "YXC"),
        (noise(6, 9, 7, dtype="uint16"), {"photometric": "minisblack", "planarconfig": "separate"}, "CYX"),
        (noise(9, 7, 4), {"photometric": "rgb", "extrasamples": ["unspecified"]}, "YXC"),
        (noise(5, 9, 7, dtype="uint16"), {"imagej": True, "metadata": {"axes": "CYX"}}, "CYX"),
        (noise(9, 7, 3, dtype="uint16"), {"photometric": "rgb", "compression": "zlib", "predictor": True}, "YXC"),
        (noise(9, 7, 3, dtype="float32"), {"photometric": "rgb"}, "YXC"),
        (noise(9, 7, dtype="float32"), {}, "YX"),
        (noise(9, 7, dtype="uint16"), {"byteorder": ">"}, "YX"),
    ],
)
def test_tiff_keeps_bits_and_channels(array: np.ndarray, options: dict[str, object], expected: str) -> None:
    decoded = examine(tiff(array, **options))
    want = {"CYX": lambda: np.moveaxis(array, 0, -1), "YXC": lambda: array, "YX": lambda: array[:, :, None]}[expected]()
    assert decoded.pixels.dtype == array.dtype.newbyteorder("=")
    assert np.array_equal(decoded.pixels, want)


def test_tiff_special_cases() -> None:
    stack = noise(5, 2, 9, 7, dtype="uint16")
    decoded = examine(tiff(stack, imagej=True, metadata={"axes": "TCYX"}))
    assert np.array_equal(decoded.pixels, np.moveaxis(stack[0], 0, -1))
    assert decoded.notes == (
        "the file holds 5 frames, and only the first is used (--frames all, middle, max, mean or channels uses others)",
    )
    pages = noise(3, 9, 7, dtype="uint16")
    assert np.array_equal(decode(tiff(pages, metadata=None, photometric="minisblack")), pages[0][:, :, None])
    inverted = noise(9, 7, dtype="uint16")
    assert np.array_equal(decode(tiff(inverted, photometric="miniswhite")), 65535 - inverted[:, :, None])
    signed = RNG.integers(-99, 99, (9, 7), dtype=np.int16)
    assert np.array_equal(decode(tiff(signed)), signed[:, :, None].astype(np.float32))


def test_orientation_is_applied_as_pillow_does() -> None:
    from PIL import ImageOps

    pixels = noise(6, 9, 3)
    for orientation in range(9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = encoded(Image.fromarray(pixels), "PNG", exif=exif)
        expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
        assert np.array_equal(decode(content), np.asarray(expected)), orientation


def test_transparency_is_put_on_white() -> None:
    pixels = noise(8, 8, 4)
    white = Image.new("RGBA", (8, 8), "white")
    expected = Image.alpha_composite(white, Image.fromarray(pixels)).convert("RGB")
    assert np.abs(decode(encoded(Image.fromarray(pixels), "PNG")).astype(int) - np.asarray(expected)).max() <= 1


def test_values_that_are_not_finite() -> None:
    array = np.array([[1.5, np.nan], [np.inf, -np.inf]], np.float64)
    decoded = examine(array)
    assert decoded.pixels.dtype == np.float32
    assert decoded.pixels.squeeze().tolist() == [[1.5, 1.5], [1.5, 1.5]]
    assert decoded.notes == ("values that are NaN or infinite are replaced by the smallest finite value",)
    with pytest.raises(Undecodable, match="all of its values are NaN"):
        decode(np.full((2, 2), np.nan))
    assert np.isfinite(decode(np.array([[1e300, 0.0]]))).all()


def test_arrays() -> None:
    assert decode(noise(4, 5)).shape == (4, 5, 1)
    assert decode(noise(4, 5, 7, dtype="uint16")).dtype == np.uint16
    assert decode(np.array([[True, False]])).squeeze().tolist() == [255, 0]
    assert decode(np.array([[3, -4]], np.int64)).dtype == np.float32
    for wrong in (np.zeros((2, 2, 2, 2)), np.zeros((0, 3)), np.zeros((2, 2), complex), np.array([["a"]])):
        with pytest.raises(Undecodable):
            decode(wrong)
    stream = io.BytesIO()
    np.save(stream, noise(6, 20, 30, dtype="uint16"))
    assert decode(stream.getvalue()).shape == (20, 30, 6)


def test_pickles_are_refused() -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(Undecodable):
        decode(stream.getvalue())


def test_huge_declared_sizes_are_refused_before_decoding() -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 16, 2, 0, 0, 0))
    with pytest.raises(Undecodable, match=f"3,600,000,000 pixels, more than the {PIXEL_LIMIT:,} allowed"):
        decode(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": (10**6, 10**6)})
    with pytest.raises(Undecodable):
        decode(stream.getvalue())


def test_postscript_never_starts_a_program() -> None:
    with pytest.raises(Undecodable, match="a PostScript document, not an image"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")


def test_warnings_do_not_leak_and_threads_leave_the_filters_alone() -> None:
    large = encoded(Image.new("1", (11000, 9000)), "PNG")  # Pillow warns about a possible bomb from 89 megapixels on
    before = list(warnings.filters)
    shapes: list[tuple[int, ...]] = []
    threads = [threading.Thread(target=lambda: shapes.append(decode(large).shape)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shapes == [(9000, 11000, 1)] * 3
    assert list(warnings.filters) == before


SEEDS = [
    encoded(Image.fromarray(noise(9, 7, 3)), "PNG"),
    encoded(Image.fromarray(noise(9, 7, 3)), "JPEG"),
    encoded(Image.fromarray(noise(9, 7)), "GIF"),
    encoded(Image.fromarray(noise(9, 7, 4)), "WEBP"),
    tiff(noise(9, 7, 3, dtype="uint16"), photometric="rgb"),
    tiff(noise(6, 9, 7)),
    png16(noise(5, 4, 3, dtype="uint16")),
]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    seed=st.sampled_from(SEEDS),
    damage=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6),
    cut=st.floats(0, 1),
)
def test_damage_ends_in_pixels_or_in_a_reason(seed: bytes, damage: list[tuple[float, int]], cut: float) -> None:
    content = bytearray(seed[: max(1, int(len(seed) * (0.2 + cut)))])
    for where, value in damage:
        content[int(where * (len(content) - 1))] = value
    try:
        pixels = decode(bytes(content))
    except Undecodable as error:
        assert error.reason and "\n" not in error.reason
    else:
        assert pixels.ndim == 3 and pixels.dtype in (np.uint8, np.uint16, np.float32)


def test_kinds_are_told_by_content() -> None:
    assert kind_of(b"\xff\xd8\xff\xe0") == "JPEG"
    assert kind_of(b"hello, world") == "text"
    assert kind_of(b"\0\0\0\x18ftypheic").startswith("a HEIC photograph")
    assert kind_of(b"<!DOCTYPE html><p>") == "a web page"
    assert kind_of(b"\x01\x02\x03") == ""


def test_channel_axis() -> None:
    assert channel_axis((3, 32, 40)) == 0
    assert channel_axis((32, 40, 3)) == 2
    assert channel_axis((1, 3000, 3)) == 2
    assert channel_axis((12, 64, 64)) == 0
    assert channel_axis((64, 64, 200)) == 2
    assert channel_axis((13, 64, 80)) == 0


def test_to_channels() -> None:
    grey, colour = noise(3, 4, 1), noise(3, 4, 3)
    assert np.array_equal(to_channels(grey, 3), np.concatenate([grey] * 3, 2))
    assert (
        np.abs(to_channels(colour, 1).squeeze().astype(int) - np.asarray(Image.fromarray(colour).convert("L"))).max()
        <= 1
    )
    assert to_channels(colour, 3) is colour
    with pytest.raises(Undecodable, match="6 channels where the others have 3"):
        to_channels(noise(3, 4, 6), 3)


def test_value_range_and_scaling() -> None:
    assert value_range([noise(3, 4, 3)]) == ValueRange((0.0,) * 3, (255.0,) * 3, 0.0)
    image = np.linspace(100, 4000, 64 * 64).reshape(64, 64, 1).astype(np.uint16)
    hot = image.copy()
    hot[0, 0] = 65535
    found = value_range([hot])
    assert found.low[0] == pytest.approx(np.percentile(hot, 0.1), abs=1)
    assert found.high[0] == pytest.approx(np.percentile(hot, 99.9), abs=1)
    assert found.share_clipped == pytest.approx(0.0024, abs=0.001)
    scaled = scale_to_uint8(hot, found)
    assert scaled.dtype == np.uint8 and scaled.min() == 0 and scaled.max() == 255
    assert (np.diff(scaled.squeeze().ravel()[1:].astype(int)) >= 0).all()
    assert (scale_to_uint8(np.full((2, 2, 1), 7.0, np.float32), ValueRange((7.0,), (7.0,), 0.0)) == 0).all()
    with pytest.raises(DataError, match="1 and of 3 channels"):
        value_range([image, noise(3, 4, 3)])
    with pytest.raises(DataError):
        value_range([])
