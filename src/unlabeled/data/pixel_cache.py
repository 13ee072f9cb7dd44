"""Where decoded pixels are kept: one growing file of raw uint8 pixels per short side, or the same in memory.

A cache folder holds `<short side>px/` with five files, all of them safe to delete:
- `pixels.bin`: uint8 pixels H×W×C, image after image, only ever appended to and memory-mapped for reading;
- `images.bin`: one record per image (key, offset, size, checksum of the pixels), each with its own checksum;
- `notes.jsonl`: what had to be done to images to decode them, by key;
- `files.bin`: which content a file had when it looked like this to `stat`: a shortcut that saves reading it again;
- `sealed.json`: what `stat` said of `pixels.bin` when it was last known to be whole.
Where there is no room for an image, nothing of it is kept, and it is decoded again whenever it is needed.
Keys are made from image content, so a folder serves any number of data sets, and no image can be taken for another. A
record is written after its pixels: a process may be killed anywhere and loses only the images of the last moment.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
import zlib
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np
import torch

KEY_BYTES = 16
NOT_KEPT = -1
"""The offset of an image for which there was no room."""
RESERVE_BYTES = 256 * 2**20
"""Room left free on the disk of a cache folder: a run has checkpoints to write, and others live there too."""
IMAGE_LAYOUT = struct.Struct("<q7I")
"""The fields of `Image` on disk."""
PIXEL_TYPES = ("uint8", "uint16", "float32")
"""`Image.kind` counts in this tuple. Only uint8 pixels are stored; of others it is noted that they must be scaled
first."""


class Image(NamedTuple):
    """Where the pixels of one image are (offset -1: nowhere), and what it was before it was stored."""

    offset: int
    height: int
    width: int
    channels: int
    original_height: int
    original_width: int
    kind: int
    """0 where pixels are stored; else the position in PIXEL_TYPES of a type that cannot be stored unscaled."""
    checksum: int

    @property
    def size(self) -> int:
        """Bytes of pixels."""
        return 0 if self.kind else self.height * self.width * self.channels


class PixelLog(Protocol):
    """Pixels by key."""

    def get(self, key: bytes) -> Image | None:
        """The image stored under this key, if it is there and whole."""
        ...

    def put(self, key: bytes, image: Image, pixels: np.ndarray | None) -> Image:
        """Append pixels (uint8 H×W×C) under this key if there is room; returns where they are. Raises OSError where
        writing fails.
        """
        ...

    def content_of(self, stat_key: bytes) -> bytes | None:
        """The content digest of a file that looked like this."""
        ...

    def note_content(self, stat_key: bytes, content: bytes) -> None:
        """Remember the content digest of a file that looks like this."""
        ...

    def note(self, key: bytes, notes: tuple[str, ...]) -> None:
        """Remember what had to be done to decode the image of this key."""
        ...

    def notes_of(self, key: bytes) -> tuple[str, ...]:
        """What had to be done, empty if nothing."""
        ...

    def flush(self) -> None:
        """Make what was put so far survive the end of this process."""
        ...

    def pixels(self) -> torch.Tensor:
        """All pixels, one uint8 row."""
        ...


class MemoryLog:
    """Pixels in memory, for data that is read once or that has nowhere to be kept."""

    def __init__(self, limit: int) -> None:
        self._images: dict[bytes, Image] = {}
        self._notes: dict[bytes, tuple[str, ...]] = {}
        self._buffer = np.empty(0, np.uint8)
        self._used = 0
        self._limit = limit

    def get(self, key: bytes) -> Image | None:
        """See `PixelLog`."""
        return self._images.get(key)

    def put(self, key: bytes, image: Image, pixels: np.ndarray | None) -> Image:
        """See `PixelLog`."""
        if pixels is not None:
            end = self._used + pixels.size
            if end > self._limit:
                return image._replace(offset=NOT_KEPT)
            if end > len(self._buffer):
                # Pages nobody touched cost nothing, and realloc moves large blocks without copying them.
                self._buffer.resize(max(end, min(2 * end, self._limit)), refcheck=False)
            self._buffer[self._used : end] = pixels.reshape(-1)
            image = image._replace(offset=self._used)
            self._used = end
        self._images[key] = image
        return image

    def content_of(self, stat_key: bytes) -> bytes | None:
        """Nothing is known before it is read."""
        return None

    def note_content(self, stat_key: bytes, content: bytes) -> None:
        """Nothing to remember: the log ends with the process."""

    def note(self, key: bytes, notes: tuple[str, ...]) -> None:
        """See `PixelLog`."""
        self._notes[key] = notes

    def notes_of(self, key: bytes) -> tuple[str, ...]:
        """See `PixelLog`."""
        return self._notes.get(key, ())

    def flush(self) -> None:
        """Nothing to do."""

    def pixels(self) -> torch.Tensor:
        """See `PixelLog`."""
        self._buffer.resize(self._used, refcheck=False)
        return torch.from_numpy(self._buffer)


class DiskLog:
    """Pixels in a folder that outlives the process; use it inside `disk_log`, which holds the lock."""

    def __init__(self, folder: Path, writable: bool, limit: int | None = None) -> None:
        """limit: bytes of pixels this folder may hold; the disk is the limit where not given."""
        self._folder = folder
        self._limit = limit
        self._pixels_path = folder / "pixels.bin"
        self._seal_path = folder / "sealed.json"
        self._writable = writable
        self._images = _Records(folder / "images.bin", IMAGE_LAYOUT.size, writable)
        self._contents = _Records(folder / "files.bin", KEY_BYTES, writable)
        self._notes = _Notes(folder / "notes.jsonl")
        if writable:
            self._pixels_path.touch()
        self._size = self._pixels_path.stat().st_size
        # Whatever wrote to the file since it was sealed may have damaged it: then every image is checked before it is
        # used.
        self._trusted = self._sealed()
        self._checked: set[bytes] = set()
        self._file: BinaryIO | None = None

    def get(self, key: bytes) -> Image | None:
        """See `PixelLog`."""
        packed = self._images.get(key)
        if packed is None:
            return None
        image = Image(*IMAGE_LAYOUT.unpack(packed))
        if image.kind or self._trusted or key in self._checked:
            return image if image.offset + image.size <= self._size else None
        with self._pixels_path.open("rb") as file:
            file.seek(image.offset)
            pixels = file.read(image.size)
        if len(pixels) != image.size or zlib.crc32(pixels) != image.checksum:
            return None
        self._checked.add(key)
        return image

    def put(self, key: bytes, image: Image, pixels: np.ndarray | None) -> Image:
        """See `PixelLog`."""
        if not self._writable:
            raise OSError(errno.EROFS, "opened for reading")
        if pixels is not None:
            is_full = self._limit is not None and self._size + pixels.size > self._limit
            if is_full or shutil.disk_usage(self._folder).free < RESERVE_BYTES + pixels.size:
                return image._replace(offset=NOT_KEPT)
            if self._file is None:
                self._file = self._pixels_path.open("ab")
            content = pixels.tobytes()
            self._file.write(content)
            image = image._replace(offset=self._size, checksum=zlib.crc32(content))
            self._size += len(content)
        self._checked.add(key)
        self._images.set(key, IMAGE_LAYOUT.pack(*image))
        return image

    def content_of(self, stat_key: bytes) -> bytes | None:
        """See `PixelLog`."""
        return self._contents.get(stat_key)

    def note_content(self, stat_key: bytes, content: bytes) -> None:
        """See `PixelLog`."""
        self._contents.set(stat_key, content)

    def note(self, key: bytes, notes: tuple[str, ...]) -> None:
        """See `PixelLog`."""
        self._notes.set(key, notes)

    def notes_of(self, key: bytes) -> tuple[str, ...]:
        """See `PixelLog`."""
        return self._notes.get(key)

    def flush(self) -> None:
        """See `PixelLog`: pixels first, then the records that point to them."""
        if not self._writable:
            return
        if self._file is not None:
            self._file.flush()
        # Before the records: an image that is found has its notes.
        self._notes.flush()
        self._images.flush()
        self._contents.flush()

    def seal(self) -> None:
        """Everything is on disk and whole: later readers may trust it as long as `stat` says the same of the file."""
        self.flush()
        if self._file is not None:
            os.fsync(self._file.fileno())
        if self._writable and not self._sealed():
            temporary = self._seal_path.with_suffix(f".{os.getpid()}")
            temporary.write_text(json.dumps(_stamp(self._pixels_path)))
            temporary.replace(self._seal_path)

    def pixels(self) -> torch.Tensor:
        """See `PixelLog`; mapped, not read."""
        if self._size == 0:
            return torch.empty(0, dtype=torch.uint8)
        return torch.from_file(str(self._pixels_path), shared=False, size=self._size, dtype=torch.uint8)

    def close(self) -> None:
        """Let go of the file; mapped pixels stay valid."""
        if self._file is not None:
            # A full disk was already reported when writing failed, and closing tries to write once more.
            with suppress(OSError):
                self._file.close()

    def _sealed(self) -> bool:
        try:
            return json.loads(self._seal_path.read_text()) == _stamp(self._pixels_path)
        except (OSError, ValueError):
            return False


def _stamp(path: Path) -> dict[str, int]:
    stat = path.stat()
    return {"size": stat.st_size, "modified_ns": stat.st_mtime_ns, "changed_ns": stat.st_ctime_ns}


@contextmanager
def disk_log(folder: Path, *, writable: bool = True, limit: int | None = None) -> Generator[DiskLog]:
    """The log in `folder`: for this process alone while inside if `writable` (others wait), else only for reading.

    A folder that cannot be written is opened for reading; raises OSError if it holds no log either.
    """
    lock = _open_lock(folder) if writable else None
    if lock is None:
        yield DiskLog(folder, writable=False)
        return
    with lock:
        _lock(lock)
        os.utime(folder / "lock")  # when it was last used
        log = DiskLog(folder, writable=True, limit=limit)
        try:
            yield log
        finally:
            log.close()


def _open_lock(folder: Path) -> BinaryIO | None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / "lock").open("ab")
    except OSError:
        return None


def _lock(file: BinaryIO) -> None:
    """Wait for the only lock on this file; the system frees it when the process ends, however it ends."""
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        return
    fcntl.flock(file, fcntl.LOCK_EX)


class _Notes:
    """Clauses by key in an append-only file of JSON lines; few images have any."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values: dict[bytes, tuple[str, ...]] = {}
        self._waiting: list[str] = []
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (FileNotFoundError, UnicodeDecodeError):
            return
        for line in lines:
            try:
                key, notes = json.loads(line)
                self._values[bytes.fromhex(key)] = tuple(map(str, notes))
            except (ValueError, TypeError):
                continue  # cut short by a kill, or damaged

    def get(self, key: bytes) -> tuple[str, ...]:
        return self._values.get(key, ())

    def set(self, key: bytes, notes: tuple[str, ...]) -> None:
        if self._values.get(key) != notes:
            self._values[key] = notes
            self._waiting.append(json.dumps([key.hex(), notes]) + "\n")

    def flush(self) -> None:
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            with self._path.open("a", encoding="utf-8") as file:
                file.write("".join(waiting))


class _Records:
    """A dictionary from keys to values of fixed length in an append-only file; the last record of a key counts."""

    def __init__(self, path: Path, length: int, writable: bool) -> None:
        self._path = path
        self._length = length
        self._values: dict[bytes, bytes] = {}
        self._waiting: list[bytes] = []
        self._load(writable)

    def _load(self, writable: bool) -> None:
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return
        step = KEY_BYTES + self._length + 4
        for start in range(0, len(content) - step + 1, step):
            record = content[start : start + step]
            if zlib.crc32(record[:-4]) == int.from_bytes(record[-4:], "little"):
                self._values[record[:KEY_BYTES]] = record[KEY_BYTES:-4]
        if writable and len(content) % step:
            # A record cut short by a kill would shift all that follow it.
            os.truncate(self._path, len(content) - len(content) % step)

    def get(self, key: bytes) -> bytes | None:
        return self._values.get(key)

    def set(self, key: bytes, value: bytes) -> None:
        self._values[key] = value
        record = key + value
        self._waiting.append(record + zlib.crc32(record).to_bytes(4, "little"))

    def flush(self) -> None:
        if self._waiting:
            with self._path.open("ab") as file:
                file.write(b"".join(self._waiting))
            self._waiting.clear()
