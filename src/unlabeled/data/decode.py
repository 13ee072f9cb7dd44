"""One image file, or one array, to pixels H×W×C: uint8, uint16 or float32, with the channels it really has.

Shapes: pixels are H×W×C, channel last. What is changed on the way stands in `Decoded.notes`: transparency is put on
white, palettes, CMYK, Lab and YCbCr become RGB, the EXIF orientation is applied, of several frames the first is taken,
and values that are not finite become the smallest finite one. `ReadOptions` has other ways with alpha and frames. Color
profiles are not applied. Bit depth is kept: what Pillow would reduce to 8 bits goes through `png16`, `tiff` and `deep`.

A file that cannot be decoded raises `Undecodable` with a clause such as "the file is cut short"; nothing else leaves.
"""

from __future__ import annotations

import io
import lzma
import struct
import threading
import time
import warnings
import zlib
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from PIL import Image, UnidentifiedImageError

from unlabeled.data import deep
from unlabeled.data.kinds import NUMPY, TIFF, reason
from unlabeled.data.pixels import IN_FLIGHT, Undecodable, channels_last, check_size, composite, lone_extreme, turn
from unlabeled.data.png16 import is_deep_png, key_on_white, read_png16
from unlabeled.data.reading import ReadOptions
from unlabeled.data.resize import load
from unlabeled.data.salvage import PNG_SIGNATURE, frame_count, salvage
from unlabeled.data.tiff import complaints

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

SLOW_SECONDS: Final = 30.0
"""A file whose decoding takes longer is named."""

_ANIMATED: Final = frozenset({"GIF", "PNG", "WEBP", "AVIF"})
_DEFAULTS: Final = ReadOptions()


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


pillow_warnings_ignored = _PillowWarningsIgnored()


def decode(content: bytes | np.ndarray, name: str = "", options: ReadOptions = _DEFAULTS) -> np.ndarray:
    """Pixels H×W×C of an encoded file or of an array H×W[×C]; see `examine`, whose pixels these are."""
    return examine(content, name, options=options).pixels


def examine(
    content: bytes | np.ndarray,
    name: str = "",
    *,
    short_side: int = 0,
    options: ReadOptions = _DEFAULTS,
    frame: int | None = None,
) -> Decoded:
    """Decode and say what was done.

    content: the bytes of a file, whose format is told by content, not by name; or an array H×W or H×W×C (channel last).
    name: used for the one format that cannot be told by content (TGA).
    short_side: where it is given, a large JPEG may be decoded no finer than `shrink.reduce` to it needs, and comes out
    reduced; every other image comes out as it is.
    options: what is made of frames and alpha. frame: one frame of the file, whatever the options say.
    Raises Undecodable.
    """
    if isinstance(content, np.ndarray):
        return _finished(content, "array", [])
    if not content:
        raise Undecodable("the file is empty")
    began = time.monotonic()
    try:
        with pillow_warnings_ignored:
            decoded = _read(content, _Task(name, short_side, options, frame))
    except DECODER_ERRORS as error:
        raise Undecodable(reason(error, content)) from error
    if time.monotonic() - began > SLOW_SECONDS:
        slow = f"decoding took longer than {SLOW_SECONDS:.0f} seconds"
        return replace(decoded, notes=(*decoded.notes, slow))
    return decoded


@dataclass(frozen=True)
class _Task:
    """How one file is to be decoded; see `examine`."""

    name: str
    short_side: int
    options: ReadOptions
    frame: int | None


def _read(content: bytes, task: _Task) -> Decoded:
    if content.startswith(NUMPY):
        return _finished(_numpy_file(content), "NPY", [])
    if content[:4] in TIFF:
        return _tiff(content, task)
    try:
        return _encoded(content, task)
    except Undecodable:
        raise
    except DECODER_ERRORS:
        repaired = salvage(content)
        if repaired is None:
            raise
        decoded = _encoded(repaired[0], task)
        return replace(decoded, notes=(*decoded.notes, repaired[1]))


def from_pillow(image: Image.Image) -> np.ndarray:
    """Pixels H×W×C of an open Pillow image, as those of a file of its mode. Raises Undecodable."""
    try:
        return _finished(_plain(image, [], _DEFAULTS), image.mode, []).pixels
    except DECODER_ERRORS as error:
        raise Undecodable(reason(error, b"")) from error


def _numpy_file(content: bytes) -> np.ndarray:
    stream = io.BytesIO(content)
    array = np.lib.format.read_array(stream, allow_pickle=False)
    return channels_last(array) if array.ndim == 3 else array


def _tiff(content: bytes, task: _Task) -> Decoded:
    """By Pillow where it keeps bits and channels, else by tifffile; where one fails, the other gets its turn."""
    try:
        with Image.open(io.BytesIO(content), formats=("TIFF",)) as image:
            check_size(image.height, image.width)
            if not _beyond_pillow(image, task):
                return _with_pillow(content, image, task)
    except UnidentifiedImageError:
        return _with_tifffile(content, task)
    except Undecodable:
        raise
    except DECODER_ERRORS as error:
        try:
            return _with_tifffile(content, task)
        except (Undecodable, *DECODER_ERRORS):
            raise error from None
    try:
        return _with_tifffile(content, task)
    except (Undecodable, *DECODER_ERRORS) as error:
        return _pillow_after_tifffile(content, task, error)


def _pillow_after_tifffile(content: bytes, task: _Task, error: BaseException) -> Decoded:
    """What Pillow makes of a TIFF that tifffile refuses, if nothing but depth is lost; else `error`."""
    try:
        with Image.open(io.BytesIO(content), formats=("TIFF",)) as image:
            is_plain = image.mode in {"L", "RGB", "CMYK", "YCbCr"}
            if not is_plain or task.frame is not None or task.options.frames != "first":
                raise error
            decoded = _with_pillow(content, image, task)
            return replace(decoded, notes=(*decoded.notes, deep.REDUCED)) if _is_deep(image) else decoded
    except DECODER_ERRORS:
        raise error from None


def _is_deep(image: Image.Image) -> bool:
    from unlabeled.data.tiff import bits

    return bits(image) > 8


def _encoded(content: bytes, task: _Task) -> Decoded:
    notes = list[str]()
    pixels = deep.read_deep(content, notes)
    if pixels is not None:
        return _finished(pixels, "", notes)
    is_targa = task.name.lower().endswith((".tga", ".vda", ".icb", ".vst"))
    formats = (*_FORMATS, "TGA") if is_targa else _FORMATS
    with Image.open(io.BytesIO(content), formats=formats) as image:
        check_size(image.height, image.width)
        if content.startswith(PNG_SIGNATURE) and is_deep_png(content):
            orientation = _orientation(image)
            with IN_FLIGHT.take(image.height * image.width):
                pixels = turn(read_png16(content, image, notes, task.options), orientation, notes)
                return _finished(pixels, "PNG", notes)
        decoded = _with_pillow(content, image, task)
        return replace(decoded, notes=(*notes, *decoded.notes))


def _with_pillow(content: bytes, image: Image.Image, task: _Task) -> Decoded:
    name, notes = image.format or "image", list[str]()
    frames = _count_frames(content, image, notes)
    height, width = image.height, image.width
    with IN_FLIGHT.take(height * width):
        if frames > 1 and (task.frame is not None or task.options.frames not in ("first", "all")):
            pixels = _combined(image, frames, notes, task)
        else:
            with complaints() as found:
                loaded = load(image, task.short_side)
            if found:
                notes.append("a part is damaged, and what could be decoded is used")
            pixels = _plain(loaded, notes, task.options)
            if image.mode == "I" and name == "PPM":
                pixels = pixels.astype(np.uint16)
        if frames > 1 and task.frame is None:
            from unlabeled.data.tiff import frames_note

            notes.append(frames_note(frames, task.options))
        orientation = _orientation(image)
        size = (width, height) if orientation in {5, 6, 7, 8} else (height, width)
        return replace(_finished(turn(pixels, orientation, notes), name, notes), size=size)


def _count_frames(content: bytes, image: Image.Image, notes: list[str]) -> int:
    if image.format == "TIFF":
        from unlabeled.data.tiff import count_pages

        return count_pages(content)
    if image.format not in _ANIMATED:
        return 1
    frames, is_cut = frame_count(lambda: int(getattr(image, "n_frames", 1)))
    if is_cut:
        notes.append("a later frame is cut off")
        image.seek(0)
    return frames


def _combined(image: Image.Image, frames: int, notes: list[str], task: _Task) -> np.ndarray:
    """One frame of an animation, or what the options make of all of them."""
    from unlabeled.data.tiff import combine_frames

    wanted = [task.frame] if task.frame is not None else range(frames)
    if task.options.frames == "middle" and task.frame is None:
        wanted = [frames // 2]
    images: list[np.ndarray] = []
    for number in wanted:
        image.seek(number)
        pixels = _plain(image, notes, task.options)
        images.append(pixels if pixels.ndim == 3 else pixels[:, :, None])
    channels = max(pixels.shape[2] for pixels in images)
    images = [np.repeat(pixels, 3, 2) if pixels.shape[2] == 1 < channels else pixels for pixels in images]
    return images[0] if len(images) == 1 else combine_frames(np.stack(images), task.options)


def _plain(image: Image.Image, notes: list[str], options: ReadOptions) -> np.ndarray:
    """Pixels of a Pillow image in grey, RGB, 16 bits or float, without transparency or with alpha as a channel."""
    mode = image.mode
    if mode.startswith("I;16"):
        grey16 = np.asarray(image).astype(np.uint16)[:, :, None]
        key = image.info.get("transparency")
        return key_on_white(grey16, (key,), notes) if isinstance(key, int) else grey16
    if mode in {"I", "F"}:
        return np.asarray(image)
    grey = mode in {"1", "L", "LA", "La"}
    if mode in {"RGBA", "LA", "La", "RGBa"} or "transparency" in image.info or mode == "PA":
        # Through RGBA, where Pillow understands every kind of colour key, also for grey and one-bit images.
        pixels = np.asarray(image.convert("RGBA"))
        is_key = "transparency" in image.info or mode == "PA"
        pixels = composite(pixels, notes, _DEFAULTS if is_key else options)
        if not grey:
            return pixels
        return pixels[:, :, :1] if pixels.shape[2] == 3 else pixels[:, :, [0, 3]]
    if grey:
        return np.asarray(image.convert("L"))
    return np.asarray(image if mode == "RGB" else image.convert("RGB"))


def _beyond_pillow(image: Image.Image, task: _Task) -> bool:
    from unlabeled.data.tiff import beyond_pillow

    return task.frame is not None or task.options.frames != "first" or beyond_pillow(image)


def _with_tifffile(content: bytes, task: _Task) -> Decoded:
    from unlabeled.data.tiff import declared_pixels, read_tiff

    notes = list[str]()
    with IN_FLIGHT.take(declared_pixels(content)):
        return _finished(read_tiff(content, notes, task.options, task.frame), "TIFF", notes)


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
    if pixels.dtype != np.uint8 and (extreme := lone_extreme(pixels)) is not None:
        notes.append(
            f"the value {extreme:g} lies far from all others: if it marks missing pixels, declare it (GDAL_NODATA) or mask it, or "
            "the picture loses its contrast"
        )
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
    notes.append("values that are NaN or infinite are replaced by the smallest finite value")
    return np.where(finite, pixels, pixels[finite].min())
