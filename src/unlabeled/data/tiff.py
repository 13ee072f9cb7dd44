"""TIFF files that Pillow cannot read, or reads with a loss: more than 8 bits, more channels, channels as pages.

Read with tifffile (extra `nchannel`). Channels are: samples of a pixel, axes the file itself calls C, and the
leading axis of an array written by tifffile (its axis Q). Every other axis (time, depth, unrelated pages) is an axis
of frames, of which `ReadOptions.frames` says what is taken. A small copy in front of the picture is passed over.
"""

from __future__ import annotations

import ctypes
import io
import logging
import struct
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
from PIL import Image
from PIL import _imaging as pillow  # pyright: ignore[reportAttributeAccessIssue]

from unlabeled.data.pixels import Undecodable, check_size, composite, turn, without_fill
from unlabeled.data.reading import ReadOptions

_BITS, _PHOTOMETRIC, _DESCRIPTION, _ORIENTATION, _SAMPLES, _EXTRA, _FORMAT = 258, 262, 270, 274, 277, 338, 339
_SUBFILE, _NODATA = 254, 42113
_MIN_IS_WHITE, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 2, 3, 5, 6
_COLOR_CODECS: Final = frozenset({6, 7, 33003, 33005, 34712, 50001, 50002})
"""Compressions whose decoder gives RGB from YCbCr: JPEG, JPEG 2000, WebP, JPEG XL."""
_REDUCED_OR_MASK: Final = 5
"""Bits of the subfile type that mark a reduced copy or a mask."""
_HEADER_ERRORS: Final = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, struct.error),
    *(RuntimeError, ArithmeticError, MemoryError),
)
"""What damaged headers make of a reader."""
MOST_PAGES: Final = 1000
"""Pages of a file that are counted; a chain of more is called more than this."""
_ALPHA: Final = frozenset({1, 2})
_CHANNEL_AXES: Final = frozenset("CSQ")


def beyond_pillow(image: Image.Image) -> bool:
    """Whether an opened TIFF must go to tifffile to keep its bits and its channels."""
    tags: dict[int, Any] = dict(getattr(image, "tag_v2", {}))
    if _NODATA in tags or _numbers(tags.get(_SUBFILE, 0))[0] & _REDUCED_OR_MASK:
        return True
    if image.mode in {"F", "I", "I;16", "I;16B", "I;16L", "I;16N"}:
        return _pages_are_channels(tags) or tags.get(_PHOTOMETRIC) == _MIN_IS_WHITE
    bits = _numbers(tags.get(_BITS, 1))
    kinds = _numbers(tags.get(_FORMAT, 1))
    extra = _numbers(tags.get(_EXTRA, ()))
    samples = _numbers(tags.get(_SAMPLES, 1))
    return (
        max(bits) > 8
        or any(kind not in {1, 4} for kind in kinds)
        or any(meaning not in _ALPHA for meaning in extra)
        or max(samples) > 4
        or _pages_are_channels(tags)
    )


def bits(image: Image.Image) -> int:
    """Bits of the deepest channel of an opened TIFF."""
    return max(_numbers(dict(getattr(image, "tag_v2", {})).get(_BITS, 1)))


def declared_pixels(content: bytes) -> int:
    """Height × width of the first page by its header, 0 for what is no TIFF: what is held against the budget of pixels."""
    try:
        with Image.open(io.BytesIO(content), formats=("TIFF",)) as image:
            return image.height * image.width
    except _HEADER_ERRORS:
        return _pixels_by_tifffile(content)


def _pixels_by_tifffile(content: bytes) -> int:
    # Pillow opens no TIFF of five channels, for example.
    try:
        import tifffile
    except ImportError:
        return 0
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    try:
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            page = file.pages[0].aspage()
            return int(page.imagelength) * int(page.imagewidth)
    except (tifffile.TiffFileError, *_HEADER_ERRORS):
        return 0


def _numbers(value: Any) -> tuple[int, ...]:
    return tuple(int(v) for v in value) if isinstance(value, tuple) else (int(value),)


def _pages_are_channels(tags: dict[int, Any]) -> bool:
    """Whether the description says that pages belong together: tifffile's shape, ImageJ's channels, OME."""
    text = str(tags.get(_DESCRIPTION, ""))[:65536]
    return text.startswith('{"shape"') or "<OME" in text or (text.startswith("ImageJ=") and "channels=" in text)


def count_pages(content: bytes) -> int:
    """Pages in the chain of a TIFF's directories, at most `MOST_PAGES` + 1; 1 where the chain is damaged.

    Pillow and tifffile follow the chain anew for every page, which takes minutes for tens of thousands.
    """
    order = "<" if content[:2] == b"II" else ">"
    is_big = content[2:4] in (b"+\0", b"\0+")
    number, entry, pointer = ("Q", 20, "Q") if is_big else ("H", 12, "I")
    head = 8 if is_big else 4
    pages, seen = 0, set[int]()
    try:
        (place,) = struct.unpack_from(order + pointer, content, head)
        while place and place not in seen and pages <= MOST_PAGES:
            seen.add(place)
            pages += 1
            (entries,) = struct.unpack_from(order + number, content, place)
            place += struct.calcsize(order + number) + entries * entry
            (place,) = struct.unpack_from(order + pointer, content, place)
    except struct.error:
        pass
    return max(1, pages)


def frames_note(frames: int, options: ReadOptions) -> str:
    """What is done with the frames of one file."""
    count = f"more than {MOST_PAGES:,}" if frames > MOST_PAGES else f"{frames:,}"
    done = {
        "first": "only the first is used (--frames all, middle, max, mean or channels uses others)",
        "middle": "the middle one is used",
        "max": "their maximum is used",
        "mean": "their mean is used",
        "channels": "each is a channel",
        "all": "each is an image",
    }[options.frames]
    return f"the file holds {count} frames, and {done}"


def read_tiff(content: bytes, notes: list[str], options: ReadOptions, frame: int | None = None) -> np.ndarray:
    """Pixels H×W×C of a TIFF, in the type of the file; of one `frame` where it is given.

    Raises Undecodable (also where tifffile is not installed), or whatever tifffile raises over damaged content.
    """
    try:
        import tifffile
    except ImportError:
        raise Undecodable("a TIFF of this kind needs tifffile: pip install 'unlabeled[nchannel]'") from None
    # tifffile reports oddities to its logger; what matters of them reaches the user as an Undecodable.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    try:
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            series = _picture(file, count_pages(content), notes)
            page = series.keyframe
            pixels = _frames(series, notes, options, frame)
            nodata = _fill_value(page)
            if nodata is not None:
                pixels = without_fill(pixels, nodata, notes)
            pixels = _visible(pixels, page, notes, options)
            orientation = page.tags.valueof(_ORIENTATION, default=1)
            return turn(pixels, int(orientation), notes)
    except tifffile.TiffFileError as error:
        raise Undecodable(f"it is a damaged TIFF: {error}") from error
    except ImportError as error:
        raise Undecodable(f"its compression needs imagecodecs: pip install 'unlabeled[nchannel]' ({error})") from error


def _picture(file: Any, pages: int, notes: list[str]) -> Any:
    """The first series that is neither a reduced copy nor a mask."""
    if pages > MOST_PAGES and not (file.is_ome or file.is_imagej or file.is_shaped):
        # Grouping so many pages into series would read each of them.
        notes.append(frames_note(pages, ReadOptions()))
        return _SinglePage(file.pages[0])
    if not file.series:
        raise Undecodable("it is a damaged TIFF without an image")
    pictures = [s for s in file.series if not int(s.keyframe.subfiletype) & _REDUCED_OR_MASK]
    if pictures and pictures[0] is not file.series[0]:
        notes.append("a small copy or mask in front of the picture is passed over")
    return (pictures or file.series)[0]


class _SinglePage:
    """The first page of a long chain, with the members of a series that are used here."""

    def __init__(self, page: Any) -> None:
        self.keyframe, self.axes, self.shape, self.pages = page, page.axes, page.shape, [page]

    def asarray(self) -> np.ndarray:
        return np.asarray(self.keyframe.asarray())


def _fill_value(page: Any) -> float | None:
    text = page.tags.valueof(_NODATA, default=None)
    try:
        return None if text is None else float(str(text).strip().strip("\0"))
    except ValueError:
        return None


def _frames(series: Any, notes: list[str], options: ReadOptions, frame: int | None) -> np.ndarray:
    """The chosen frame of a series, or what is made of all of them, H×W×C."""
    axes, shape = str(series.axes), tuple(int(n) for n in series.shape)
    if "Y" not in axes or "X" not in axes:
        raise Undecodable(f"its axes are {axes}, so it has no height and width")
    sizes = dict(zip(axes, shape, strict=True))
    others = [a for a in axes if a not in {"X", "Y"} and a not in _CHANNEL_AXES]
    if not others and options.frames not in ("first", "channels") and sizes.get("Q", 1) > 1:
        others = ["Q"]  # an array of tifffile's own: a stack, where the user says so
    channels = int(np.prod([n for a, n in sizes.items() if a in _CHANNEL_AXES and a not in others]))
    check_size(sizes["Y"], sizes["X"], channels)
    count = int(np.prod([sizes[a] for a in others]))
    if count > 1 and frame is None:
        notes.append(frames_note(count, options))
    is_single = frame is not None or options.frames in ("first", "all") or count == 1
    if is_single and not any(a in _CHANNEL_AXES - {"S"} for a in axes):
        # Frames and no channels among the pages: reading one page is enough, and as safe as its declared size.
        pixels = np.asarray(series.pages[frame or 0].asarray())
        axes = "".join(a for a in axes if a not in others)
        stack, frame = pixels.reshape([sizes[a] for a in axes])[None], None
    else:
        check_size(sizes["Y"], sizes["X"], channels * count)
        front = [axes.index(a) for a in others]
        rest = [k for k in range(len(axes)) if k not in front]
        axes = "".join(axes[k] for k in rest)
        stack = np.asarray(series.asarray()).transpose(front + rest)
        stack = stack.reshape(count, *stack.shape[len(front) :])
    order = [axes.index("Y"), axes.index("X"), *(k for k, a in enumerate(axes) if a in _CHANNEL_AXES)]
    images = stack.transpose(0, *(k + 1 for k in order)).reshape(len(stack), sizes["Y"], sizes["X"], channels)
    return combine_frames(images, options) if frame is None else images[frame]


def count_frames(content: bytes) -> int:
    """Frames of the picture in a TIFF that `read_tiff` gives one by one. Raises as it does."""
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    if count_pages(content) > MOST_PAGES:
        return MOST_PAGES
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        series = _picture(file, 1, [])
        axes, sizes = str(series.axes), dict(zip(str(series.axes), series.shape, strict=True))
        others = [a for a in axes if a not in {"X", "Y"} and a not in _CHANNEL_AXES]
        others = others or ["Q"] * ("Q" in sizes)
        return int(np.prod([sizes[a] for a in others]))


def combine_frames(images: np.ndarray, options: ReadOptions) -> np.ndarray:
    """H×W×C (or H×W×(F·C) for `channels`) of the frames [F, H, W, C]."""
    if options.frames == "middle":
        return images[len(images) // 2]
    if options.frames == "max":
        return images.max(0)
    if options.frames == "mean":
        mean = images.mean(0, dtype=np.float64)
        return np.rint(mean).astype(images.dtype) if images.dtype.kind in "iu" else mean.astype(images.dtype)
    if options.frames == "channels":
        return np.moveaxis(images, 0, 2).reshape(*images.shape[1:3], -1)
    return images[0]


def _visible(pixels: np.ndarray, page: Any, notes: list[str], options: ReadOptions) -> np.ndarray:
    """What the photometric tag means, for the kinds that are more than plain numbers."""
    photometric, compression = int(page.photometric), int(page.compression)
    extra = tuple(int(e) for e in page.extrasamples)
    integer = pixels.dtype.name in {"uint8", "uint16"}
    if photometric == _MIN_IS_WHITE and integer:
        return np.iinfo(pixels.dtype).max - pixels
    if photometric == _CMYK and integer and pixels.shape[2] >= 4:
        top = np.iinfo(pixels.dtype).max
        ink = pixels[:, :, :4].astype(np.float32) / top
        return np.rint(top * (1 - ink[:, :, :3]) * (1 - ink[:, :, 3:])).astype(pixels.dtype)
    is_rgb = photometric == _YCBCR and compression in _COLOR_CODECS
    if photometric == _PALETTE or (photometric > _CMYK and photometric < 32000 and not is_rgb):
        raise Undecodable(f"it is a TIFF of an uncommon colour space (photometric {photometric}): convert it to RGB")
    if integer and len(extra) == 1 and extra[0] in _ALPHA and pixels.shape[2] in {2, 4}:
        return composite(pixels, notes, options)
    return pixels


_Handler: Any = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
_here = threading.local()
"""`sources`: the parts of libtiff that complained in this thread, since `complaints` was entered."""
_installing = threading.Lock()
_installed = False


def _note(source: bytes | None, _format: bytes | None, _arguments: int | None) -> None:
    # The message itself is text with a C list of arguments; that there was one is enough.
    getattr(_here, "sources", []).append((source or b"libtiff").decode(errors="replace"))


_handler = _Handler(_note)
"""Held as long as the process lives: libtiff keeps its address."""


def _install() -> None:
    global _installed
    with _installing:
        if _installed:
            return
        _installed = True
        try:
            # Looked up through Pillow's own module, so that it is the copy of libtiff that Pillow calls.
            install: Any = ctypes.CDLL(str(pillow.__file__)).TIFFSetErrorHandler
        except (OSError, AttributeError):
            return  # a Pillow that hides its libtiff: the lines stay where they are
        install.argtypes, install.restype = [_Handler], ctypes.c_void_p
        install(_handler)


@contextmanager
def complaints() -> Generator[list[str]]:
    """The parts of libtiff that complain while this thread is inside, such as `Fax4Decode`; empty for a sound file."""
    _install()
    before, _here.sources = getattr(_here, "sources", []), list[str]()
    try:
        yield _here.sources
    finally:
        _here.sources = before
