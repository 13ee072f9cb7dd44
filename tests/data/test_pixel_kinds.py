"""Values that are no brightness, depth and sign that a reader would drop, and sound pictures that readers refuse."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, PngImagePlugin

from unlabeled.data.decode import examine, pillow_warnings_ignored
from unlabeled.data.doctor import check
from unlabeled.data.frames import FrameSource
from unlabeled.data.pixels import PixelBudget, Undecodable, lone_extreme
from unlabeled.data.reading import ReadOptions
from unlabeled.data.sources import open_source
from unlabeled.data.store import open_store
from unlabeled.data.tiff import MOST_PAGES, count_pages, declared_pixels

RNG = np.random.default_rng(5)


def picture(side: int = 24, channels: int = 3, seed: int = 0) -> np.ndarray:
    # Of a seed of its own: what a test sees must not depend on the tests before it.
    return np.random.default_rng((side, seed)).integers(20, 230, (side, side, channels), dtype=np.uint8)


def encoded(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(stream, kind, **options)
    return stream.getvalue()


def tiff(pixels: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, **options)
    return stream.getvalue()


def nodata(value: str) -> list[tuple[int, str, int, str, bool]]:
    return [(42113, "s", 0, value, True)]


@pytest.mark.parametrize(
    ("dtype", "fill", "text"),
    [
        ("float32", -9999.0, "-9999"),
        ("float32", float(np.finfo(np.float32).min), "-3.40282e+38"),
        ("float64", 1e20, "1e+20"),
        ("int16", -32768, "-32768"),
        ("uint16", 65535, "65535"),
        ("uint8", 0, "0"),
    ],
)
def test_a_declared_fill_value_is_no_brightness(dtype: str, fill: float, text: str):
    pixels = RNG.integers(100, 200, (20, 20)).astype(dtype)
    pixels[:, :7] = fill
    found = examine(tiff(pixels, extratags=nodata(text)))
    assert found.pixels.min() == pixels[:, 7:].min() and found.pixels.max() == pixels[:, 7:].max()
    assert np.array_equal(found.pixels[:, 7:, 0], pixels[:, 7:])
    assert "fill values (GDAL_NODATA) are shown as the smallest valid value" in found.notes


def test_a_tile_of_nothing_but_fill_values_is_skipped_with_that_reason():
    with pytest.raises(Undecodable, match="fill value -1 that its GDAL_NODATA tag declares"):
        examine(tiff(np.full((9, 9), -1.0, np.float32), extratags=nodata("-1")))


def test_an_untagged_extreme_far_from_all_others_gets_a_sentence():
    pixels = RNG.uniform(200, 900, (30, 30)).astype(np.float32)
    assert lone_extreme(pixels[:, :, None]) is None
    pixels[:3] = -9999
    assert lone_extreme(pixels[:, :, None]) == -9999
    assert any("-9999 lies far from all others" in note for note in examine(tiff(pixels)).notes)
    mask = np.zeros((8, 8, 1), np.float32)
    mask[:4] = 1
    assert lone_extreme(mask) is None  # a mask has no range that one value could leave


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "TGA"])
def test_alpha_that_is_zero_everywhere_is_no_transparency(kind: str):
    rgba = np.dstack([picture(), np.zeros((24, 24), np.uint8)])
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    found = examine(encoded(rgba, kind, **options), "picture.tga" if kind == "TGA" else "")
    assert np.array_equal(found.pixels, rgba[:, :, :3])
    assert any("alpha is 0 everywhere" in note for note in found.notes)


def test_alpha_that_varies_like_a_picture_is_called_and_can_be_kept():
    rgbn = np.dstack([picture(), picture(channels=1)[:, :, 0]])
    for content in (encoded(rgbn, "PNG"), tiff(rgbn, photometric="rgb", extrasamples=["unassalpha"], metadata=None)):
        assert any("--alpha band" in note for note in examine(content).notes)
        kept = examine(content, options=ReadOptions(alpha="band"))
        assert np.array_equal(kept.pixels, rgbn) and kept.notes == ()
    sticker = rgbn.copy()
    sticker[:, :, 3] = np.where(np.arange(24) < 12, 0, 255)
    assert examine(encoded(sticker, "PNG")).notes == ("transparent parts are put on white",)


DEEP = RNG.integers(0, 2040, (12, 10, 3), dtype=np.uint16)


@pytest.mark.parametrize(
    "content",
    [
        b"P6\n10 12\n65535\n" + DEEP.astype(">u2").tobytes(),
        b"P6 # comment\n# another\n10\n12\n4095\n" + DEEP.astype(">u2").tobytes(),
        b"P3\n10 12\n65535\n" + " ".join(map(str, DEEP.reshape(-1))).encode(),
        b"\x01\xda\0\x02\0\x03\0\x0a\0\x0c\0\x03"
        + bytes(500)
        + np.ascontiguousarray(DEEP.transpose(2, 0, 1)[:, ::-1]).astype(">u2").tobytes(),
    ],
    ids=["ppm", "ppm 12 bit", "ppm text", "sgi"],
)
def test_sixteen_bits_stay_sixteen(content: bytes):
    assert np.array_equal(examine(content).pixels, DEEP)


def test_sixteen_bit_jpeg_2000_stays_sixteen():
    imagecodecs = pytest.importorskip("imagecodecs")
    content = imagecodecs.jpeg2k_encode(DEEP, level=0, reversible=True)
    assert np.array_equal(examine(content).pixels, DEEP)


def test_color_pfm_keeps_sign_and_rows():
    pixels = RNG.normal(size=(5, 4, 3)).astype(np.float32)
    content = b"PF\n4 5\n-1.0\n" + pixels[::-1].astype("<f4").tobytes()
    assert np.array_equal(examine(content).pixels, pixels)


def test_long_text_in_a_png_decides_nothing():
    info = PngImagePlugin.PngInfo()
    info.add_itxt("workflow", "node " * 300_000, zip=True)
    pixels = picture()
    assert np.array_equal(examine(encoded(pixels, "PNG", pnginfo=info)).pixels, pixels)
    broken = bytearray(encoded(pixels, "PNG"))
    bad = struct.pack(">I", 3) + b"iCCP" + b"x\0\7" + struct.pack(">I", zlib.crc32(b"iCCPx\0\7"))
    assert np.array_equal(examine(bytes(broken[:33]) + bad + bytes(broken[33:])).pixels, pixels)


@pytest.mark.parametrize("progressive", [False, True])
def test_only_the_end_marker_is_missing(progressive: bool):
    smooth = np.asarray(Image.fromarray(picture(8)).resize((96, 96)))
    content = encoded(smooth, "JPEG", quality=92, progressive=progressive)
    found = examine(content[:-2])
    assert np.array_equal(found.pixels, examine(content).pixels)
    assert found.notes == ("the end marker of the file is missing",)
    with pytest.raises(Undecodable, match="cut short"):
        examine(content[: len(content) // 2])


def test_a_later_frame_that_is_cut_leaves_the_first():
    frames = [Image.fromarray(picture(40, seed=k)) for k in range(4)]
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    content = stream.getvalue()
    assert examine(content[: int(len(content) * 0.7)]).pixels.shape == (40, 40, 3)


@pytest.mark.parametrize("options", [{"ome": True}, {}])
def test_jpeg_inside_a_tiff_is_rgb(options: dict[str, bool]):
    smooth = np.asarray(Image.fromarray(picture(4)).resize((48, 48)))
    found = examine(tiff(smooth, photometric="rgb", compression="jpeg", tile=(16, 16), **options))
    assert np.abs(found.pixels.astype(int) - smooth).mean() < 12


def test_a_small_copy_in_front_is_not_the_picture():
    stream = io.BytesIO()
    large = picture(40)
    with tifffile.TiffWriter(stream) as file:
        file.write(picture(10), photometric="rgb", subfiletype=1, metadata=None)
        file.write(large, photometric="rgb", metadata=None)
    found = examine(stream.getvalue())
    assert np.array_equal(found.pixels, large)
    assert found.notes == ("a small copy or mask in front of the picture is passed over",)


STACK = RNG.integers(0, 255, (6, 9, 8), dtype=np.uint8)


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ("first", STACK[0][:, :, None]),
        ("middle", STACK[3][:, :, None]),
        ("max", STACK.max(0)[:, :, None]),
        ("mean", np.rint(STACK.mean(0)).astype(np.uint8)[:, :, None]),
        ("channels", np.moveaxis(STACK, 0, 2)),
    ],
)
def test_a_stack_is_what_the_option_says(frames: str, expected: np.ndarray):
    content = tiff(STACK, imagej=True, metadata={"axes": "ZYX"})
    found = examine(content, options=ReadOptions(frames=frames))  # pyright: ignore[reportArgumentType]
    assert np.array_equal(found.pixels, expected)
    assert found.notes[0].startswith("the file holds 6 frames")


def test_every_frame_can_be_an_image(tmp_path: Path):
    tifffile.imwrite(tmp_path / "a.tif", STACK, imagej=True, metadata={"axes": "ZYX"})
    Image.fromarray(picture(9)).save(tmp_path / "b.png")
    source = open_source(tmp_path, ReadOptions(frames="all"))
    assert isinstance(source, FrameSource)
    assert source.names == [*(f"a.tif#{k}" for k in range(1, 7)), "b.png"]
    frames = [source.read(k) for k in range(6)]
    assert all(np.array_equal(frame[:, :, 0], STACK[k]) for k, frame in enumerate(frames))  # pyright: ignore
    store = open_store(source, short_side=9, cache=None)
    assert len(store) == 7 and store.reading == {"frames": "all", "alpha": "white"}


def test_a_long_chain_of_pages_is_counted_once():
    head, pages = struct.pack("<2sHI", b"II", 42, 8), []
    for number in range(5000):
        following = 8 + (number + 1) * 18 if number < 4999 else 0
        pages.append(struct.pack("<HHHII", 1, 256, 4, 1, 4) + struct.pack("<I", following))
    assert count_pages(head + b"".join(pages)) == MOST_PAGES + 1
    assert count_pages(tiff(STACK, imagej=True)) >= 1
    assert count_pages(b"II*\0\xff\xff\xff\xff") == 1


def test_the_cache_remembers_what_was_done(tmp_path: Path):
    for k in range(3):
        rgba = np.dstack([picture(), np.zeros((24, 24), np.uint8)])
        Image.fromarray(rgba).save(tmp_path / f"{k}.png")
    for _ in range(2):  # decoded, then found in the cache
        store = open_store(open_source(tmp_path), short_side=16, cache=tmp_path / ".cache")
        (note,) = store.notes.to_json()
        assert note["count"] == 3 and note["examples"] == ["0.png", "1.png", "2.png"]
    assert check(open_source(tmp_path)).notes.to_json() == store.notes.to_json()


def test_scaling_of_deep_images_is_told_by_the_store(tmp_path: Path):
    for k in range(4):
        tifffile.imwrite(tmp_path / f"{k}.tif", RNG.integers(100, 4000, (16, 16), dtype=np.uint16))
    store = open_store(open_source(tmp_path), short_side=16, cache=None)
    (note,) = store.notes.to_json()
    assert note["count"] == 4 and "16-bit values are scaled to 8 bits from" in note["note"]


def test_a_budget_lets_one_giant_through_alone():
    budget = PixelBudget(10)
    with budget.take(100):
        assert budget._taken == 100
    with budget.take(4), budget.take(6):
        assert budget._taken == 10
    assert budget._taken == 0


def test_the_size_of_a_tiff_is_known_before_it_is_decoded():
    five = RNG.integers(0, 4000, (30, 20, 5), dtype=np.uint16)
    assert declared_pixels(tiff(five, photometric="minisblack", planarconfig="contig")) == 600
    assert declared_pixels(tiff(picture())) == 24 * 24
    with pillow_warnings_ignored:
        for damaged in (b"", b"II*\0", b"II*\0\x08\0\0\0\xff\xff", tiff(five)[:60]):
            assert declared_pixels(damaged) == 0
