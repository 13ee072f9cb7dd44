"""TIFF files that Pillow cannot read, or reads with a loss: more than 8 bits, more channels, channels as pages.

Read with tifffile (extra `nchannel`). Channels are: samples of a pixel, axes the file itself calls C, and the
leading axis of an array written by tifffile (its axis Q). Of every other axis (time, depth, unrelated pages) the first
position is taken.
"""

from __future__ import annotations

import io
import logging
from typing import Any, Final

import numpy as np
from PIL import Image

from unlabeled.data.pixels import Undecodable, check_size, on_white, turn

_BITS, _PHOTOMETRIC, _DESCRIPTION, _ORIENTATION, _SAMPLES, _EXTRA, _FORMAT = 258, 262, 270, 274, 277, 338, 339
_MIN_IS_WHITE, _RGB, _PALETTE, _CMYK = 0, 2, 3, 5
_ALPHA: Final = frozenset({1, 2})
_CHANNEL_AXES: Final = frozenset("CSQ")


def beyond_pillow(image: Image.Image) -> bool:
    """Whether an opened TIFF must go to tifffile to keep its bits and its channels."""
    tags: dict[int, Any] = dict(getattr(image, "tag_v2", {}))
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


def _numbers(value: Any) -> tuple[int, ...]:
    return tuple(int(v) for v in value) if isinstance(value, tuple) else (int(value),)


def _pages_are_channels(tags: dict[int, Any]) -> bool:
    """Whether the description says that pages belong together: tifffile's shape, ImageJ's channels, OME."""
    text = str(tags.get(_DESCRIPTION, ""))[:65536]
    return text.startswith('{"shape"') or "<OME" in text or (text.startswith("ImageJ=") and "channels=" in text)


def read_tiff(content: bytes, notes: list[str]) -> np.ndarray:
    """Pixels H×W×C of the first image of a TIFF, in the type of the file.

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
            if not file.series:
                raise Undecodable("it is a damaged TIFF without an image")
            series = file.series[0]
            page = series.keyframe
            pixels = _first_image(series, notes)
            pixels = _visible(pixels, int(page.photometric), tuple(int(e) for e in page.extrasamples), notes)
            orientation = page.tags.valueof(_ORIENTATION, default=1)
            return turn(pixels, int(orientation), notes)
    except tifffile.TiffFileError as error:
        raise Undecodable(f"it is a damaged TIFF: {error}") from error
    except ImportError as error:
        raise Undecodable(f"its compression needs imagecodecs: pip install 'unlabeled[nchannel]' ({error})") from error


def _first_image(series: Any, notes: list[str]) -> np.ndarray:
    axes, shape = str(series.axes), tuple(int(n) for n in series.shape)
    if "Y" not in axes or "X" not in axes:
        raise Undecodable(f"its axes are {axes}, so it has no height and width")
    sizes = dict(zip(axes, shape, strict=True))
    channels = int(np.prod([n for a, n in sizes.items() if a in _CHANNEL_AXES]))
    check_size(sizes["Y"], sizes["X"], channels)
    others = [a for a in axes if a not in {"X", "Y"} and a not in _CHANNEL_AXES]
    pages = int(np.prod([sizes[a] for a in others]))
    if pages > 1:
        notes.append(f"the first of {pages} frames is used")
    if not any(a in _CHANNEL_AXES - {"S"} for a in axes):
        # Frames and no channels among the pages: reading one page is enough, and as safe as its declared size.
        pixels = np.asarray(series.pages[0].asarray())
        axes = "".join(a for a in axes if a not in others)
        pixels = pixels.reshape([sizes[a] for a in axes])
    else:
        check_size(sizes["Y"], sizes["X"], channels * pages)
        pixels = np.asarray(series.asarray())[tuple(0 if a in others else slice(None) for a in axes)]
        axes = "".join(a for a in axes if a not in others)
    order = [axes.index("Y"), axes.index("X"), *(k for k, a in enumerate(axes) if a in _CHANNEL_AXES)]
    return pixels.transpose(order).reshape(sizes["Y"], sizes["X"], channels)


def _visible(pixels: np.ndarray, photometric: int, extra: tuple[int, ...], notes: list[str]) -> np.ndarray:
    """What the photometric tag means, for the kinds that are more than plain numbers."""
    integer = pixels.dtype.name in {"uint8", "uint16"}
    if photometric == _MIN_IS_WHITE and integer:
        return np.iinfo(pixels.dtype).max - pixels
    if photometric == _CMYK and integer and pixels.shape[2] >= 4:
        top = np.iinfo(pixels.dtype).max
        ink = pixels[:, :, :4].astype(np.float32) / top
        return np.rint(top * (1 - ink[:, :, :3]) * (1 - ink[:, :, 3:])).astype(pixels.dtype)
    if photometric == _PALETTE or (photometric > _CMYK and photometric < 32000):
        raise Undecodable(f"it is a TIFF of an uncommon colour space (photometric {photometric}): convert it to RGB")
    if integer and len(extra) == 1 and extra[0] in _ALPHA and pixels.shape[2] in {2, 4}:
        return on_white(pixels, notes)
    return pixels
