"""What the first bytes of a file say it is, and why a decoder refused it, in words."""

from __future__ import annotations

import re
from typing import Final

from PIL import Image, UnidentifiedImageError

from unlabeled.data.pixels import PIXEL_LIMIT, too_large

NUMPY: Final = b"\x93NUMPY"
TIFF: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
DICOM: Final = "DICOM files cannot be read: convert them to 16-bit TIFF or PNG"
LFS_POINTER: Final = "a pointer of git-lfs, not the picture itself: fetch the files with `git lfs pull`"


def reason(error: BaseException, content: bytes) -> str:
    """A clause that says why a decoder raised `error` over these bytes."""
    if isinstance(error, Image.DecompressionBombError):
        number = re.search(r"\((\d+) pixels\)", str(error))
        return too_large(int(number[1])) if number else f"it declares more than the {PIXEL_LIMIT:,} pixels allowed"
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    if content[128:132] == b"DICM":
        return DICOM
    kind = kind_of(content)
    if isinstance(error, UnidentifiedImageError):
        if kind in IMAGE_KINDS:
            return f"it is a damaged {kind} image"
        return (
            f"it is {kind}"
            if kind == LFS_POINTER
            else f"it is {kind}, not an image"
            if kind
            else "it is not an image of a format that can be read"
        )
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
    *((magic, "TIFF") for magic in TIFF),
    (b"8BPS", "PSD"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (NUMPY, "NumPy"),
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript document"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x00\x05\x16\x07", "a macOS companion file"),
    (b"version https://git-lfs", LFS_POINTER),
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
