"""One image file, or one array, to pixels H×W×C: uint8, uint16 or float32, with the channels it really has.

Shapes: pixels are H×W×C, channel last. What is changed on the way stands in `Decoded.notes`: transparency is put on
white, palettes, CMYK, Lab and YCbCr become RGB, the EXIF orientation is applied, of several frames the first is taken,
and values that are not finite become the smallest finite one. Colour profiles are not applied. Bit depth is kept:
Pillow reads 16-bit colour as 8 bits, so 16-bit colour PNGs are unpacked twice here, and TIFFs with more than 8 bits or
unusual channels go through tifffile.

A file that cannot be decoded raises `Undecodable` with a clause such as "the file is cut short"; nothing else leaves.
"""

from __future__ import annotations

import io
import lzma
import re
import struct
import threading
import warnings
import zlib
from dataclasses import dataclass, replace
from typing import Any, Final, cast

import numpy as np
from PIL import Image, UnidentifiedImageError

from unlabeled.data.libtiff import complaints
from unlabeled.data.pixels import (
    PIXEL_LIMIT,
    Undecodable,
    channels_last,
    check_size,
    on_white,
    too_large,
    turn,
)
from unlabeled.data.shrink import load

# An allow-list: formats are told apart by content, and one of those Pillow knows starts another program (EPS).
_FORMATS: Final = (
    "JPEG",
    "PNG",
    "WEBP",
    "TIFF",
    "BMP",
    "DIB",
    "GIF",
    "PPM",
    "JPEG2000",
    "AVIF",
    "PSD",
    "QOI",
    "SGI",
    "PCX",
)

# Whatever a decoder may raise over damaged content. MemoryError is among them: damaged headers ask for absurd sizes.
DECODER_ERRORS: Final = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    ArithmeticError,
    TypeError,
    AttributeError,
    AssertionError,
    RuntimeError,
    MemoryError,
    BufferError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    Image.DecompressionBombError,
)

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_NUMPY: Final = b"\x93NUMPY"
_TIFF: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


@dataclass(frozen=True)
class Decoded:
    """Pixels and what had to be done to get them."""

    pixels: np.ndarray
    """H×W×C, uint8, uint16 or float32."""
    format: str
    """Format by content, such as JPEG or TIFF; `array` for arrays."""
    notes: tuple[str, ...] = ()
    """What was changed, one clause each."""
    size: tuple[int, int] = (0, 0)
    """Height and width of the picture in the file, turned as it is shown: of `pixels`, unless these are reduced."""


class _PillowWarningsIgnored:
    """Keeps Pillow's warnings from users while any thread decodes.

    `warnings.catch_warnings` alone is not safe with threads (one may restore what another had set), so the first to
    enter sets the filter, the last to leave restores it, and the filter concerns nothing but Pillow.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._saved = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._saved.__exit__(None, None, None)


_pillow_warnings_ignored = _PillowWarningsIgnored()


def decode(content: bytes | np.ndarray, name: str = "") -> np.ndarray:
    """Pixels H×W×C of an encoded file or of an array H×W[×C]; see `examine`, whose pixels these are."""
    return examine(content, name).pixels


def examine(content: bytes | np.ndarray, name: str = "", *, short_side: int = 0) -> Decoded:
    """Decode and say what was done.

    content: the bytes of a file, whose format is told by content, not by name; or an array H×W or H×W×C (channel last).
    name: used for the one format that cannot be told by content (TGA).
    short_side: where it is given, a large JPEG may be decoded no finer than `shrink.reduce` to it needs, and comes out
    reduced; every other image comes out as it is.
    Raises Undecodable.
    """
    if isinstance(content, np.ndarray):
        return _finished(content, "array", [])
    if not content:
        raise Undecodable("the file is empty")
    try:
        if content.startswith(_NUMPY):
            return _finished(_numpy_file(content), "NPY", [])
        return _encoded(content, name, short_side)
    except DECODER_ERRORS as error:
        raise Undecodable(_reason(error, content)) from error


def _numpy_file(content: bytes) -> np.ndarray:
    stream = io.BytesIO(content)
    array = np.lib.format.read_array(stream, allow_pickle=False)
    return channels_last(array) if array.ndim == 3 else array


def _encoded(content: bytes, name: str, short_side: int) -> Decoded:
    is_tiff = content[:4] in _TIFF
    formats = (*_FORMATS, "TGA") if name.lower().endswith((".tga", ".vda", ".icb", ".vst")) else _FORMATS
    with _pillow_warnings_ignored:
        try:
            image = Image.open(io.BytesIO(content), formats=formats)
        except UnidentifiedImageError:
            if not is_tiff:
                raise
            return _with_tifffile(content)
        with image:
            check_size(image.height, image.width)
            if is_tiff and _beyond_pillow(image):
                return _with_tifffile(content)
            if content.startswith(_PNG) and content[24] == 16 and content[25] != 0:
                return _with_sixteen_bits(content, image)
            return _with_pillow(image, short_side)


def _with_pillow(image: Image.Image, short_side: int) -> Decoded:
    name = image.format or "image"
    frames = int(getattr(image, "n_frames", 1)) if name in {"GIF", "PNG", "WEBP", "TIFF", "AVIF"} else 1
    notes = [f"the first of {frames} frames is used"] if frames > 1 else []
    height, width = image.height, image.width
    with complaints() as found:
        loaded = load(image, short_side)
    if found:
        notes.append("a part is damaged, and what could be decoded is used")
    orientation = _orientation(image)
    pixels = _plain(loaded, notes)
    if image.mode == "I" and name == "PPM":
        pixels = pixels.astype(np.uint16)
    size = (width, height) if orientation in {5, 6, 7, 8} else (height, width)
    return replace(_finished(turn(pixels, orientation, notes), name, notes), size=size)


def _plain(image: Image.Image, notes: list[str]) -> np.ndarray:
    """Pixels of a loaded Pillow image in grey, RGB, 16 bits or float, without transparency."""
    mode = image.mode
    if mode.startswith("I;16"):
        grey16 = np.asarray(image).astype(np.uint16)[:, :, None]
        key = image.info.get("transparency")
        return _key_on_white(grey16, (key,), notes) if isinstance(key, int) else grey16
    if mode in {"I", "F"}:
        return np.asarray(image)
    transparent = "transparency" in image.info or mode in {"RGBA", "LA", "PA", "La", "RGBa"}
    grey = mode in {"1", "L", "LA", "La"}
    if transparent:
        # Through RGBA, where Pillow understands every kind of colour key, also for grey and one-bit images.
        pixels = on_white(np.asarray(image.convert("RGBA")), notes)
        return pixels[:, :, :1] if grey else pixels
    if grey:
        return np.asarray(image.convert("L"))
    return np.asarray(image if mode == "RGB" else image.convert("RGB"))


def _with_sixteen_bits(content: bytes, image: Image.Image) -> Decoded:
    """A colour or transparent PNG of 16 bits. Pillow unpacks the high or the low bytes: both together are all."""
    orientation, notes = _orientation(image), list[str]()
    key = image.info.get("transparency")
    if content[25] == 4:  # grey and alpha
        # No unpacker gives its low bytes, but two values of two bytes are four of one byte, to the filters of PNG too.
        joined = _unpacked(content, "RGBA", "RGBA")
        pixels = _joined(joined[:, :, ::2], joined[:, :, 1::2])
    else:
        mode = image.mode
        pixels = _joined(_unpacked(content, mode, f"{mode};16B"), _unpacked(content, mode, f"{mode};16L"))
    if pixels.shape[2] in {2, 4}:
        pixels = on_white(pixels, notes)
    elif isinstance(key, tuple):
        pixels = _key_on_white(pixels, cast("tuple[int, ...]", key), notes)
    return _finished(turn(pixels, orientation, notes), "PNG", notes)


def _joined(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    return high.astype(np.uint16) << 8 | low


def _unpacked(content: bytes, mode: str, raw_mode: str) -> np.ndarray:
    """Bytes of a PNG's pixels as Pillow's unpacker `raw_mode` picks them."""
    image: Any = Image.open(io.BytesIO(content), formats=("PNG",))
    with image:
        image._mode = mode
        image.tile = [image.tile[0]._replace(args=raw_mode)]
        image.load()
        return np.asarray(image)


def _key_on_white(pixels: np.ndarray, key: tuple[int, ...], notes: list[str]) -> np.ndarray:
    """Pixels of the one colour that a 16-bit image declares transparent become white."""
    hidden = (pixels == np.asarray(key, pixels.dtype)).all(axis=2, keepdims=True)
    if not hidden.any():
        return pixels
    notes.append("transparent parts are put on white")
    return np.where(hidden, np.iinfo(pixels.dtype).max, pixels).astype(pixels.dtype)


def _beyond_pillow(image: Image.Image) -> bool:
    from unlabeled.data.tiff import beyond_pillow

    return beyond_pillow(image)


def _with_tifffile(content: bytes) -> Decoded:
    from unlabeled.data.tiff import read_tiff

    notes = list[str]()
    return _finished(read_tiff(content, notes), "TIFF", notes)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(0x0112, 1))
    except DECODER_ERRORS:
        return 1  # damaged EXIF data does not make the picture unusable


def _finished(pixels: np.ndarray, format_name: str, notes: list[str]) -> Decoded:
    """Three axes, contiguous, one of the three types, every value finite."""
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3:
        raise Undecodable(
            f"an image has the axes height, width and perhaps channels, this array has the shape {pixels.shape}"
        )
    check_size(*pixels.shape)
    kind = pixels.dtype.kind
    if kind == "b":
        pixels = pixels.astype(np.uint8) * 255
    elif pixels.dtype.name not in {"uint8", "uint16"}:
        if kind not in "iuf":
            raise Undecodable(f"its values are of the type {pixels.dtype}, not numbers that make a picture")
        pixels = _finite(pixels, notes)
    native = np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder("="), copy=False))
    return Decoded(native, format_name, tuple(notes), (pixels.shape[0], pixels.shape[1]))


def _finite(pixels: np.ndarray, notes: list[str]) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        pixels = pixels.astype(np.float32)
    finite = np.isfinite(pixels)
    lost = pixels.size - int(np.count_nonzero(finite))
    if not lost:
        return pixels
    if lost == pixels.size:
        raise Undecodable("all of its values are NaN or infinite")
    notes.append(f"{lost:,} values that are NaN or infinite are replaced by the smallest finite value")
    return np.where(finite, pixels, pixels[finite].min())


def _reason(error: BaseException, content: bytes) -> str:
    if isinstance(error, Image.DecompressionBombError):
        number = re.search(r"\((\d+) pixels\)", str(error))
        return too_large(int(number[1])) if number else f"it declares more than the {PIXEL_LIMIT:,} pixels allowed"
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    kind = kind_of(content)
    if isinstance(error, UnidentifiedImageError):
        if kind in IMAGE_KINDS:
            return f"it is a damaged {kind} image"
        return f"it is {kind}, not an image" if kind else "it is not an image of a format that can be read"
    message = " ".join(str(error).split())
    if re.search(r"truncated|cut|short|end of file|not enough|incomplete|broken data stream", message, re.IGNORECASE):
        return "the file is cut short"
    detail = f": {message[:120]}" if message and message != "cannot load this image" else ""
    return f"it is a damaged {f'{kind} image' if kind in IMAGE_KINDS else 'image'}{detail}"


IMAGE_KINDS: Final = frozenset(
    {"JPEG", "PNG", "GIF", "BMP", "TIFF", "WebP", "PSD", "PNM", "AVIF", "JPEG 2000", "NumPy"}
)

_MAGIC: Final = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG", "PNG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    *((magic, "TIFF") for magic in _TIFF),
    (b"8BPS", "PSD"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (_NUMPY, "NumPy"),
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript document"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x00\x05\x16\x07", "a macOS companion file"),
)


def kind_of(head: bytes) -> str:
    """What the first bytes (32 suffice) say a file is: one of IMAGE_KINDS, "text", "a video", …; "" if unknown."""
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if re.match(rb"P[1-7fF]\s", head):
        return "PNM"
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        if brand in {b"avif", b"avis"}:
            return "AVIF"
        return (
            "a HEIC photograph (convert it to JPEG or PNG)"
            if brand in {b"heic", b"heix", b"mif1", b"hevc"}
            else "a video"
        )
    start = head[:512].lstrip().lower()
    if start.startswith((b"<svg", b"<!doctype html", b"<html")):
        return "an SVG drawing" if start.startswith(b"<svg") else "a web page"
    return "text" if head and not re.search(rb"[\x00-\x08\x0e-\x1f\x7f-\xff]", head[:512]) else ""
