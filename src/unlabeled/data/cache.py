"""The folder of decoded images: what is in it, how it is emptied, and the bound on its size.

Images of one short side lie in one folder, `<short side>px/` (see `pixel_log`), and come and go together: the folder that
was used longest ago goes first. Removing one never harms a run. A program that is training keeps the pixels it has mapped,
and later ones are decoded again, to the same bits.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unlabeled.data.pixel_cache import IMAGE_LAYOUT, KEY_BYTES
from unlabeled.errors import ConfigError, DataError

LIMIT_VARIABLE = "UNLABELED_CACHE_LIMIT"
"""Environment variable with the largest size of the cache, such as 50GB; without it the disk is the limit."""
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_DAY = 86400.0


@dataclass(frozen=True)
class CachedSize:
    """Images of one short side."""

    short_side: int
    """Pixels."""
    bytes: int
    images: int
    """Records of images, those that are noted but not kept included."""
    last_used: float
    """Seconds since 1970."""
    path: Path


@dataclass(frozen=True)
class Cache:
    """What a cache folder holds, the most recently used first."""

    folder: Path
    sizes: tuple[CachedSize, ...]

    @property
    def bytes(self) -> int:
        """Size of everything in it."""
        return sum(one.bytes for one in self.sizes)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        sizes = [asdict(one) | {"path": str(one.path)} for one in self.sizes]
        return {"folder": str(self.folder), "bytes": self.bytes, "sizes": sizes}


def look(folder: Path) -> Cache:
    """What is in a cache folder; nothing where there is none.

    Raises:
        DataError: the folder cannot be listed.
    """
    found: list[CachedSize] = []
    try:
        entries = sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise DataError(f"the cache {folder} cannot be listed ({error.strerror}); name another with --cache.") from None
    for entry in entries:
        name = re.fullmatch(r"(\d+)px", entry.name)
        if name and entry.is_dir():
            found.append(_size_of(int(name[1]), entry))
    return Cache(folder, tuple(sorted(found, key=lambda one: -one.last_used)))


def _size_of(short_side: int, path: Path) -> CachedSize:
    total, used = 0, 0.0
    for file in path.iterdir():
        try:
            facts = file.stat()
        except OSError:
            continue  # another program removed it meanwhile
        total += facts.st_size
        used = max(used, facts.st_mtime)
    records = path / "images.bin"
    count = records.stat().st_size // (KEY_BYTES + IMAGE_LAYOUT.size + 4) if records.is_file() else 0
    return CachedSize(short_side, total, count, used, path)


def clear(folder: Path, *, older_than: float | None = None, down_to: int | None = None) -> list[CachedSize]:
    """Remove what was not used for `older_than` days, or the least recently used until `down_to` bytes are left, or all.

    Returns what was removed.

    Raises:
        DataError: the folder cannot be listed, or a file cannot be removed.
    """
    cache, now = look(folder), time.time()
    left, removed = cache.bytes, list[CachedSize]()
    for one in reversed(cache.sizes):
        is_old = older_than is None or now - one.last_used > older_than * _DAY
        is_too_much = down_to is None or left > down_to
        if is_old and is_too_much:
            try:
                shutil.rmtree(one.path)
            except OSError as error:
                raise DataError(f"{one.path} cannot be removed ({error.strerror}); remove it by hand.") from None
            left -= one.bytes
            removed.append(one)
    return removed


def make_room(folder: Path, keep: Path, needed: int = 0) -> int | None:
    """Hold the cache to its limit, with `needed` bytes to spare, by removing sizes other than `keep`, the oldest first.

    Returns the bytes that `keep` may have, None for no limit.

    Raises:
        ConfigError: `UNLABELED_CACHE_LIMIT` is no size.
    """
    text = os.environ.get(LIMIT_VARIABLE)
    if not text:
        return None
    limit = parse_size(text, LIMIT_VARIABLE)
    sizes = look(folder).sizes
    total = sum(one.bytes for one in sizes)
    for one in reversed(sizes):
        if total + needed <= limit:
            break
        if one.path != keep:
            shutil.rmtree(one.path, ignore_errors=True)
            total -= one.bytes
    others = sum(one.bytes for one in sizes if one.path != keep and one.path.exists())
    return max(limit - others, 0)


def parse_size(text: str, name: str) -> int:
    """Bytes of a size such as `500MB` or `50 GB` (powers of ten).

    Raises:
        ConfigError: it is none; `name` says what was asked for.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if found is None or found[2].upper() not in _UNITS:
        raise ConfigError(f"{name} must be a size such as 500MB or 50GB, got '{text}'.")
    return int(float(found[1]) * _UNITS[found[2].upper()])
