"""Every one of the 74 odd files has the outcome a person would want, written down here."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from unlabeled.data.decode import decode, examine
from unlabeled.data.doctor import check, to_json
from unlabeled.data.pixels import Undecodable
from unlabeled.data.sources import open_source

CUT = "the file is cut short"
WHITE = "transparent parts are put on white"
TURNED = "the pixels are turned as the orientation tag asks"
BOMB = "more than the 178,956,970 allowed"
PART = "a part is damaged, and what could be decoded is used"
U8, U16, F32 = "uint8", "uint16", "float32"

BAND = (
    "alpha varies like a picture and was put on white: if it is a fourth band (infrared, depth), keep it with "
    "--alpha band"
)
NO_ALPHA = "alpha is 0 everywhere, which is no transparency, and was left out"
ANCILLARY = "a part of the file that is no pixels is damaged or too large and was passed over"


def frames(count: int) -> str:
    return f"the file holds {count} frames, and only the first is used (--frames all, middle, max, mean or channels uses others)"


# Decoded: height, width, channels, type, and the notes a person should get.
DECODED: dict[str, tuple[int, int, int, str, tuple[str, ...]]] = {
    "UPPERCASE.JPG": (72, 96, 3, U8, ()),
    "constant_grey.jpg": (256, 256, 3, U8, ()),
    "duplicate_of_reference.jpg": (198, 300, 3, U8, ()),
    "float32_with_nan.tiff": (
        64,
        64,
        1,
        F32,
        ("values that are NaN or infinite are replaced by the smallest finite value",),
    ),
    "folder.jpg/inside.jpg": (72, 96, 3, U8, ()),
    "jpeg_named.png": (72, 96, 3, U8, ()),
    "large_6000x6000.png": (6000, 6000, 1, U8, ()),
    "name with spaces.jpg": (72, 96, 3, U8, ()),
    "no_extension": (72, 96, 3, U8, ()),
    "näme-東京.jpg": (72, 96, 3, U8, ()),
    "ok_reference.jpg": (198, 300, 3, U8, ()),
    "one_pixel.png": (1, 1, 3, U8, ()),
    "pillow_16bit.cropped.tif": (64, 64, 1, U16, ()),
    "pillow_1_trns.png": (64, 64, 1, U8, (WHITE,)),
    "pillow_badrle.bmp": (64, 127, 3, U8, ()),
    "pillow_crash-0da013a13571cc8eb457a39fee8db18f8a3c7127.tif": (84, 218, 1, U8, (PART,)),
    "pillow_different_transparency.gif": (100, 100, 3, U8, (WHITE, frames(2))),
    "pillow_dispose_bgnd.gif": (100, 100, 3, U8, (frames(5),)),
    "pillow_exif-dpi-zerodivision.jpg": (200, 200, 3, U8, ()),
    "pillow_frozenpond.mpo": (480, 640, 3, U8, ()),
    "pillow_hopper.Lab.tif": (128, 128, 3, U8, ()),
    "pillow_hopper.avif": (128, 128, 3, U8, ()),
    "pillow_hopper.bmp": (128, 128, 3, U8, ()),
    "pillow_hopper.pfm": (128, 128, 1, F32, ()),
    "pillow_hopper.ppm": (128, 128, 3, U8, ()),
    "pillow_hopper_bad_exif.jpg": (500, 500, 1, U8, ()),
    "pillow_hopper_float_dpi_None.tif": (128, 128, 3, U8, ()),
    "pillow_hopper_gray.jpg": (128, 128, 1, U8, ()),
    "pillow_hopper_orientation_3.jpg": (128, 128, 3, U8, (TURNED,)),
    "pillow_hopper_orientation_5.webp": (128, 128, 3, U8, (TURNED,)),
    "pillow_hopper_orientation_6.jpg": (128, 128, 3, U8, (TURNED,)),
    "pillow_hopper_orientation_8.jpg": (128, 128, 3, U8, (TURNED,)),
    "pillow_icc-after-SOF.jpg": (10, 10, 1, U8, ()),
    "pillow_junk_jpeg_header.jpg": (768, 1024, 3, U8, ()),
    "pillow_l_trns.png": (64, 64, 1, U8, (WHITE,)),
    "pillow_la.tga": (64, 64, 1, U8, (WHITE,)),
    "pillow_mode_palette_alpha.png": (64, 128, 3, U8, (frames(3),)),
    "pillow_multipage.tiff": (10, 10, 3, U8, (frames(3),)),
    "pillow_no_palette.gif": (1, 1, 1, U8, (frames(2),)),
    "pillow_p_trns_single.png": (64, 64, 3, U8, (WHITE,)),
    "pillow_pil_sample_cmyk.jpg": (100, 100, 3, U8, ()),
    "pillow_rgb_trns.png": (64, 64, 3, U8, (WHITE,)),
    "pillow_rgba.psd": (100, 100, 3, U8, (WHITE,)),
    "pillow_tiff_16bit_RGB.tiff": (40, 100, 3, U16, ()),
    "pillow_tiff_strip_cmyk_jpeg.tif": (100, 100, 3, U8, ()),
    "pillow_unknown_compression_method.png": (57, 57, 3, U8, (ANCILLARY,)),
    "pillow_transparent.webp": (150, 200, 3, U8, (WHITE,)),
    "png_named.jpg": (72, 96, 3, U8, ()),
    "pngsuite_basi6a16.png": (32, 32, 3, U16, (BAND,)),
    "pngsuite_basn0g16.png": (32, 32, 1, U16, ()),
    "pngsuite_basn3p01.png": (32, 32, 3, U8, ()),
    "pngsuite_s01n3p01.png": (1, 1, 3, U8, ()),
    "pngsuite_tbbn3p08.png": (32, 32, 3, U8, (WHITE,)),
    "pngsuite_xcsn0g01.png": (32, 32, 1, U8, ()),
    "random_bytes_flipped.jpg": (198, 300, 3, U8, ()),
    "rgba_fully_transparent.png": (64, 64, 3, U8, (NO_ALPHA,)),
    "tall_1x3000.png": (3000, 1, 3, U8, ()),
}

# Skipped: a part of the reason.
SKIPPED = {
    "._ok_reference.jpg": "it is a macOS companion file",
    "bomb_40000x40000.png": f"it declares 1,600,000,000 pixels, {BOMB}",
    "cut_10pct.jpg": CUT,
    "cut_90pct.jpg": CUT,
    "imageio_realshort_video.mp4": "it is a video, not an image",
    "pillow_broken.png": "it is a damaged PNG image",
    "pillow_decompression_bomb.gif": BOMB,
    "pillow_negative_size.ppm": "it is text, not an image",
    "pillow_shortfile.bmp": CUT,
    "pillow_truncated_image.png": CUT,
    "pillow_truncated_jpeg.jpg": CUT,
    "pillow_zero_width.gif": "it is a damaged GIF image",
    "pngsuite_xdtn0g01.png": "it is a damaged PNG image",
    "pngsuite_xs1n0g01.png": "it is not an image of a format that can be read",
    "progressive_cut_50pct.jpg": CUT,
    "text_named.jpg": "it is text, not an image",
    "zero_bytes.jpg": "the file is empty",
}

# Never looked at in a folder or archive: hidden files, and endings that are not of images.
PASSED_OVER = {"._ok_reference.jpg", "imageio_realshort_video.mp4"}


@pytest.fixture(scope="session")
def odd(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    with zipfile.ZipFile(shared_data / "odd-images" / "odd-images.zip") as archive:
        archive.extractall(folder)
    return folder / "odd-images"


def test_the_lists_cover_every_file(odd: Path) -> None:
    manifest = json.loads((odd / "manifest.json").read_text("utf-8"))["files"]
    assert len(manifest) == 74
    assert {*DECODED, *SKIPPED} == set(manifest)


@pytest.mark.parametrize("name", DECODED)
def test_decodes(odd: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    decoded = examine((odd / name).read_bytes(), name)
    height, width, channels, kind, notes = DECODED[name]
    assert decoded.pixels.shape == (height, width, channels)
    assert decoded.pixels.dtype == kind
    assert decoded.notes == notes
    assert np.isfinite(decoded.pixels).all()
    if "crash" not in name:  # libtiff itself writes a line about that one
        assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", SKIPPED)
def test_is_skipped_with_a_reason(odd: Path, name: str) -> None:
    with pytest.raises(Undecodable) as error:
        decode((odd / name).read_bytes(), name)
    assert SKIPPED[name] in error.value.reason
    assert str(error.value) == error.value.reason


def difference(odd: Path, name: str, other: str) -> float:
    a, b = (decode((odd / n).read_bytes(), n).astype(float) for n in (name, other))
    return float(np.abs(a - b).mean())


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("pillow_hopper.ppm", 2),
        ("pillow_hopper_float_dpi_None.tif", 2),
        ("pillow_hopper.avif", 6),
        ("pillow_hopper.Lab.tif", 8),
        ("pillow_hopper_orientation_3.jpg", 9),
        ("pillow_hopper_orientation_5.webp", 9),
        ("pillow_hopper_orientation_6.jpg", 9),
        ("pillow_hopper_orientation_8.jpg", 9),
    ],
)
def test_one_portrait_in_many_formats_is_the_same_picture(odd: Path, name: str, limit: float) -> None:
    assert difference(odd, name, "pillow_hopper.bmp") <= limit


def test_two_ways_to_store_ink_agree(odd: Path) -> None:
    assert difference(odd, "pillow_pil_sample_cmyk.jpg", "pillow_tiff_strip_cmyk_jpeg.tif") < 2


def test_wrong_endings_and_names_change_nothing(odd: Path) -> None:
    for name in ("jpeg_named.png", "name with spaces.jpg", "no_extension", "folder.jpg/inside.jpg", "näme-東京.jpg"):
        assert difference(odd, name, "UPPERCASE.JPG") == 0
    assert difference(odd, "png_named.jpg", "UPPERCASE.JPG") < 10


def test_alpha_that_is_zero_everywhere_hides_nothing(odd: Path) -> None:
    assert (decode((odd / "rgba_fully_transparent.png").read_bytes()) == (255, 0, 0)).all()


@pytest.mark.parametrize("as_archive", [False, True])
def test_the_doctor_survives_the_whole_set(odd: Path, shared_data: Path, as_archive: bool) -> None:
    source = open_source(shared_data / "odd-images" / "odd-images.zip" if as_archive else odd)
    prefix = "odd-images/" if as_archive else ""
    steps: list[tuple[int, str]] = []
    doctor = check(source, progress=lambda done, note: steps.append((done, note)))
    assert [done for done, note in steps if not note] == list(range(1, 73))
    assert doctor.readable == len(DECODED)
    assert {name.removeprefix(prefix) for name, _ in doctor.broken} == SKIPPED.keys() - PASSED_OVER
    assert doctor.ignored == {"mp4": 1, "json": 1}
    assert {prefix + "ok_reference.jpg", prefix + "duplicate_of_reference.jpg"} in [set(g) for g in doctor.duplicates]
    assert {prefix + "constant_grey.jpg", prefix + "rgba_fully_transparent.png"} < set(doctor.blank)
    assert json.loads(json.dumps(to_json(doctor)))["readable"] == len(DECODED)
