"""Formats whose depth or sign Pillow drops: PNM, PFM, SGI, JPEG 2000 and AVIF with more than 8 bits a channel.

Pillow gives 16-bit colour of these as 8 bits, without a word. PNM, color PFM and uncompressed SGI are plain arrays behind
a header and are read here; JPEG 2000 and AVIF go through imagecodecs (extra `nchannel`). Where neither can, the picture
is used with 8 bits and a note says so.
"""

from __future__ import annotations

import re
from typing import Any, Final

import numpy as np

from unlabeled.data.pixels import Undecodable, check_size

REDUCED: Final = "more than 8 bits a channel are read as 8 (install the extra nchannel to keep them)"
"""The note where depth is lost."""

_TOKEN: Final = re.compile(rb"(?:\s+|#[^\n\r]*[\n\r])*([^\s#]+)")
_JPEG_2000: Final = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
_SGI: Final = b"\x01\xda"


def read_deep(content: bytes, notes: list[str]) -> np.ndarray | None:
    """Pixels H×W×C, uint16 or float32, of a file that Pillow would reduce; None for every other file.

    Raises Undecodable where the pixels are cut short.
    """
    if content[:2] in (b"P2", b"P3", b"P5", b"P6"):
        return _pnm(content)
    if content[:2] == b"PF":
        return _pfm(content)
    if content[:2] == _SGI and len(content) > 512 and content[3] == 2:
        return _sgi(content, notes)
    if content.startswith(_JPEG_2000):
        return _with_imagecodecs(content, "jpeg2k_decode", notes) if _jpeg_2000_bits(content) > 8 else None
    if content[4:12] in (b"ftypavif", b"ftypavis") and _avif_bits(content) > 8:
        return _with_imagecodecs(content, "avif_decode", notes)
    return None


def _header(content: bytes, count: int) -> tuple[list[bytes], int]:
    """The first `count` words of a PNM header, comments left out, and where the last one ends; no words if cut short."""
    words, place = list[bytes](), 0
    for _ in range(count):
        found = _TOKEN.match(content, place)
        if found is None:
            return [], 0
        words.append(found[1])
        place = found.end()
    return words, place


def _pnm(content: bytes) -> np.ndarray | None:
    words, place = _header(content, 4)
    try:
        width, height, top = map(int, words[1:])
    except ValueError:
        return None  # Pillow says what is wrong with it
    if not 255 < top < 65536 or min(width, height) < 1:
        return None
    channels = 3 if words[0] in (b"P3", b"P6") else 1
    check_size(height, width, channels)
    wanted = height * width * channels
    if words[0] in (b"P2", b"P3"):
        values = np.array(content[place:].split()[:wanted], dtype=np.uint16)
    else:
        values = np.frombuffer(content, ">u2", min(wanted, (len(content) - place - 1) // 2), place + 1)
    if len(values) < wanted:
        raise Undecodable("the file is cut short")
    return values.reshape(height, width, channels).astype(np.uint16)


def _pfm(content: bytes) -> np.ndarray | None:
    words, place = _header(content, 4)
    try:
        width, height, scale = int(words[1]), int(words[2]), float(words[3])
    except (ValueError, IndexError):
        return None
    check_size(height, width, 3)
    wanted = height * width * 3
    order = "<f4" if scale < 0 else ">f4"
    values = np.frombuffer(content, order, min(wanted, (len(content) - place - 1) // 4), place + 1)
    if len(values) < wanted:
        raise Undecodable("the file is cut short")
    # The first row of the file is the lowest of the picture.
    return values.reshape(height, width, 3)[::-1].astype(np.float32)


def _sgi(content: bytes, notes: list[str]) -> np.ndarray | None:
    width, height, channels = np.frombuffer(content, ">u2", 3, 6).tolist()
    dimensions = int.from_bytes(content[4:6], "big")
    channels = channels if dimensions == 3 else 1
    height = height if dimensions > 1 else 1
    if content[2] != 0:
        notes.append(REDUCED)
        return None
    check_size(height, width, channels)
    wanted = height * width * channels
    values = np.frombuffer(content, ">u2", min(wanted, (len(content) - 512) // 2), 512)
    if len(values) < wanted:
        raise Undecodable("the file is cut short")
    planes = values.reshape(channels, height, width)[:, ::-1].astype(np.uint16)
    return planes.transpose(1, 2, 0)


def _jpeg_2000_bits(content: bytes) -> int:
    """Bits of the deepest component, from the SIZ marker of the codestream (ISO 15444-1, A.5.1)."""
    place = content.find(b"\xff\x4f\xff\x51")
    count = int.from_bytes(content[place + 40 : place + 42], "big")
    depths = content[place + 42 : place + 42 + 3 * count : 3]
    return max(((depth & 0x7F) + 1 for depth in depths), default=0)


def _avif_bits(content: bytes) -> int:
    """Bits a channel from the AV1 configuration box: `high_bitdepth` and `twelve_bit` of its third byte."""
    place = content.find(b"av1C")
    if place < 0 or place + 7 > len(content):
        return 8
    flags = content[place + 6]
    return (12 if flags & 0x20 else 10) if flags & 0x40 else 8


def _with_imagecodecs(content: bytes, decoder: str, notes: list[str]) -> np.ndarray | None:
    try:
        import imagecodecs

        decode: Any = getattr(imagecodecs, decoder)
        pixels = np.asarray(decode(content))
    except (ImportError, AttributeError):
        notes.append(REDUCED)
        return None
    except Exception as error:  # the codec's own exception class depends on its build
        raise Undecodable(f"it is a damaged image: {error}") from error
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2 and pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        notes.append("its alpha channel is left out")
        pixels = pixels[:, :, :-1]
    return pixels
