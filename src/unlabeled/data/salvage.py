"""Files whose picture is whole although a reader refuses them: a missing end marker, a damaged or huge ancillary part.

Each function gives repaired bytes and a clause that says what was passed over, or None where pixels are missing.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = frozenset({b"IHDR", b"PLTE", b"IDAT", b"tRNS", b"eXIf"})
"""Chunks that decide pixels: all critical ones, transparency and orientation."""


def salvage(content: bytes) -> tuple[bytes, str] | None:
    """Repaired bytes and what was wrong, for a file whose pixels are all there."""
    if content.startswith(PNG_SIGNATURE):
        return _png(content)
    if content.startswith(b"\xff\xd8\xff"):
        return _jpeg(content)
    return None


def _png(content: bytes) -> tuple[bytes, str] | None:
    """Critical chunks, transparency and orientation, each whole; None where an image chunk is damaged or missing."""
    kept, place, has_pixels = [PNG_SIGNATURE], len(PNG_SIGNATURE), False
    while place + 12 <= len(content):
        length = int.from_bytes(content[place : place + 4], "big")
        kind, end = content[place + 4 : place + 8], place + 12 + length
        if kind == b"IEND" or end > len(content):
            break
        if kind in _PNG_KEPT:
            chunk = content[place:end]
            if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
                return None
            kept.append(chunk)
            has_pixels = has_pixels or kind == b"IDAT"
        place = end
    else:
        if content[place + 4 : place + 8] not in (b"", b"IEND"):
            return None
    if content[place + 4 : place + 8] == b"IDAT" or not has_pixels:
        return None
    kept.append(b"\0\0\0\0IEND" + zlib.crc32(b"IEND").to_bytes(4, "big"))
    return b"".join(kept), "a part of the file that is no pixels is damaged or too large and was passed over"


def _jpeg(content: bytes) -> tuple[bytes, str] | None:
    """The file with an end marker, where the pixels do not depend on what follows its last byte.

    If image data were missing, the decoder would take filler bytes for it, and different filler gives different pixels.
    """
    whole = content + b"\xff\xd9"
    first, second = _pixels(whole), _pixels(content + b"\x55\xaa" * 64 + b"\xff\xd9")
    if first is None or second is None or not np.array_equal(first, second):
        return None
    return whole, "the end marker of the file is missing"


def _pixels(content: bytes) -> np.ndarray | None:
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
            return np.asarray(image)
    except (OSError, SyntaxError, ValueError):
        return None


def frame_count(count: Callable[[], int]) -> tuple[int, bool]:
    """How many frames an animation holds, and whether a later one is cut off; at least 1."""
    try:
        return max(1, count()), False
    except (OSError, SyntaxError, ValueError, EOFError, LookupError, zlib.error):
        return 1, True
