"""Every image decoded once, made small enough, and laid out so that training only has to slice.

Shapes: N images, h×w an image of the store, C channels. Images keep their own size and shape: the short side is at most
`short_side` (antialiased, never enlarged) and the long side at most four times that (a central crop of panoramas).
Pixels are uint8; those of 16 bits and floats are scaled to it with one range per type. A
store is keyed by the content of its images, so it can never be stale; see `pixel_log` for the files.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from unlabeled.config import DataFacts
from unlabeled.data.cache import make_room
from unlabeled.data.display import Display, display_of
from unlabeled.data.ingest import Ingested, Settings, decode_again, fill
from unlabeled.data.notes import Notes
from unlabeled.data.pixel_cache import NOT_KEPT, MemoryLog, PixelLog, disk_log
from unlabeled.data.pixels import is_colour
from unlabeled.distributed import broadcast_object, is_main
from unlabeled.errors import DataError
from unlabeled.progress import size

if TYPE_CHECKING:
    from unlabeled.data.pixels import ValueRange
    from unlabeled.data.sources import Source

CONTENT_BYTES = 8
"""Bytes that tell the contents of two images apart."""
STATISTICS_IMAGES = 4096
"""Images that channel means and deviations are taken over, evenly spaced, where there are more."""
MEMORY_SHARE = 0.8
"""Share of the memory available now that a store without a cache folder may take."""

Progress = Callable[[int, str], None]
"""Called with how many images are ready, and a note."""


class ImageStore:
    """The readable images of a source as uint8 pixels; made by `open_store`."""

    def __init__(self, found: Ingested, source: Source, short_side: int, pixels: torch.Tensor, location: str) -> None:
        kept = sorted(found.images)
        self.channels: int = found.channels
        """Channels of every image."""
        self.skipped: list[tuple[str, str]] = sorted(found.skipped)
        """Names of images left out, each with the reason."""
        self.reading: dict[str, str] = source.options.to_json() if source.options.key else {}
        """How files were read, where otherwise than by default."""
        self.notes: Notes = found.notes
        """What was replaced, clipped or ignored in the pixels."""
        if not kept:
            raise DataError(_nothing_readable(len(source), self.skipped))
        self.index_in_source: np.ndarray = np.asarray(kept, np.int64)
        """int64 [N]: position of each image in the source."""
        self.names: list[str] = [source.names[i] for i in kept]
        """Display name of each image."""
        self.value_range: ValueRange = found.value_range
        """What was mapped to 0..255: (0, 255) where the images are 8-bit."""
        self.location = location
        """Where the pixels are, for people."""
        self.contents: bytes = b"".join(found.contents[i][:CONTENT_BYTES] for i in kept)
        """`CONTENT_BYTES` of a digest of each image's content, in order."""
        images = [found.images[i] for i in kept]
        self.sizes: torch.Tensor = torch.tensor([(image.height, image.width) for image in images], dtype=torch.int64)
        """int64 [N, 2]: height and width in the store, pixels."""
        self.original_sizes: torch.Tensor = torch.tensor(
            [(image.original_height, image.original_width) for image in images], dtype=torch.int64
        )
        """int64 [N, 2]: height and width of the file, pixels."""
        self.source = source
        """Where the images come from."""
        self.display: Display | None = None
        """How they are shown to people, where a run has settled it."""
        self._found, self._short_side = found, short_side
        self._pixels = pixels
        self._offsets = np.asarray([image.offset for image in images], np.int64)
        self._stored_channels = np.asarray([image.channels for image in images], np.int64)
        self.uniform: torch.Tensor | None = self._as_one_tensor()
        """uint8 [N, h, w, C] where all images have one size (and fit into memory if they are not in a row), else
        None."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def num_decoded_again(self) -> int:
        """Images for which the cache had no room: they are decoded whenever they are needed."""
        return int((self._offsets == NOT_KEPT).sum())

    @property
    def is_colour(self) -> bool:
        """Whether the channels are red, green and blue."""
        return is_colour(self.channels)

    def pixels(self, i: int) -> torch.Tensor:
        """uint8 [h, w, C] of image i: a view of the store, not to be written to, or decoded anew where it has no room.

        Raises DataError if such an image is no longer what it was.
        """
        height, width = self.sizes[i].tolist()
        channels, offset = int(self._stored_channels[i]), int(self._offsets[i])
        if offset == NOT_KEPT:
            again = decode_again(self.source, int(self.index_in_source[i]), self._found, self._short_side)
            # Decoders may give read-only pixels, of which torch has no tensors.
            image = torch.from_numpy(again if again.flags.writeable else again.copy())
        else:
            image = self._pixels[offset : offset + height * width * channels].view(height, width, channels)
        return image if channels == self.channels else image.expand(height, width, self.channels)

    def shown(self, i: int) -> np.ndarray:
        """uint8 [h, w, 1 or 3] of image i as it is shown to people."""
        if self.display is None:
            self.display = display_of(self)
        return self.display.apply(self.pixels(i).numpy())

    def facts(self, device: Literal["cpu", "cuda"] = "cpu") -> DataFacts:
        """What a recipe may look at: count, channels and the median size of the files."""
        height, width = self.original_sizes.median(0).values.tolist()
        return DataFacts(len(self), self.channels, height, width, self.is_colour, device)

    def channel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel in [0, 1] over all pixels of up to 4,096 evenly spaced images.

        A channel that never changes has deviation 1, so that dividing by it does nothing.
        """
        chosen = np.unique(np.linspace(0, len(self) - 1, min(len(self), STATISTICS_IMAGES)).round().astype(int))
        total = torch.zeros(self.channels, dtype=torch.float64)
        squares, count = total.clone(), 0
        for i in chosen.tolist():
            values = self.pixels(i).reshape(-1, self.channels).float().div_(255)
            total += values.sum(0)
            squares += values.square_().sum(0)
            count += len(values)
        mean = total / count
        std = (squares / count - mean.square()).clamp(min=0).sqrt()
        std = torch.where(std < 1e-3, 1.0, std)
        return tuple(mean.tolist()), tuple(std.tolist())

    @property
    def has_one_size(self) -> bool:
        """Whether all images have one size and number of channels in the store, wherever their pixels are."""
        return bool((self.sizes == self.sizes[0]).all() and (self._stored_channels == self.channels).all())

    def _as_one_tensor(self) -> torch.Tensor | None:
        shape = (*self.sizes[0].tolist(), self.channels)
        count = int(np.prod(shape))
        if not self.has_one_size or self.num_decoded_again:
            return None
        if (np.diff(self._offsets) == count).all():
            start = int(self._offsets[0])
            return self._pixels[start : start + len(self) * count].view(len(self), *shape)
        if len(self) * count > available_memory() // 4:
            return None
        return torch.stack([self.pixels(i) for i in range(len(self))])


def open_store(
    source: Source,
    *,
    short_side: int,
    cache: Path | None,
    workers: int = 0,
    channels: int | None = None,
    value_range: ValueRange | None = None,
    progress: Progress | None = None,
) -> ImageStore:
    """The images of `source` as pixels, decoded where the cache folder does not have them yet.

    short_side: pixels the short side is reduced to at most. cache: folder for the pixels, None to keep them in memory.
    workers: decoding threads, 0 for one per core. channels, value_range: those of the images a network was trained on,
    so that new ones are prepared alike; from these images where None. progress: called with the number of images ready
    and a note. Several ranks: the first decodes, the others wait and then open the same files. Independent processes
    wait for each other. A folder that cannot be written is read if it is complete, else the pixels are kept in memory.
    Images that find no room on the disk or in memory are decoded again whenever they are needed.

    Raises DataError if no image is readable, or the disk is full.
    """
    settings = Settings(short_side, workers or available_cores(), channels, value_range)
    opening = _Opening(source, settings, progress or _silent)
    return opening.in_memory("no cache folder was given") if cache is None else opening.in_folder(Path(cache))


def available_cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int:
    """Bytes of memory that can be taken without pushing something else out."""
    try:
        with Path("/proc/meminfo").open() as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _silent(_done: int, _note: str) -> None:
    pass


class _Opening:
    """One call of `open_store`."""

    def __init__(self, source: Source, settings: Settings, progress: Progress) -> None:
        self._source, self._settings, self._progress = source, settings, progress

    def in_memory(self, why: str) -> ImageStore:
        log = MemoryLog(int(MEMORY_SHARE * available_memory()))
        found = fill(self._source, log, self._settings, self._progress, str)
        return self._store(found, log, f"in memory ({why})")

    def in_folder(self, cache: Path) -> ImageStore:
        """Rank 0 builds and says how it went, so that all ranks go the same way."""
        folder = cache / f"{self._settings.short_side}px"
        store: ImageStore | None = None
        failure: DataError | None = None
        unwritable = ""
        if is_main():
            try:
                store = self._from_disk(folder, writable=True)
            except OSError as error:
                unwritable = f"{cache} cannot be written: {error.strerror or error}"
            except DataError as error:
                failure = error
        sentence, unwritable = broadcast_object((str(failure or ""), unwritable))
        if sentence:
            raise failure or DataError(sentence)
        if unwritable:
            return self.in_memory(unwritable)
        return store or self._after_rank_0(folder)

    def _after_rank_0(self, folder: Path) -> ImageStore:
        try:
            return self._from_disk(folder, writable=False)
        except OSError:
            # Another machine with a folder of its own: the first process there builds, the others wait for its lock.
            return self._from_disk(folder, writable=True)

    def _from_disk(self, folder: Path, *, writable: bool) -> ImageStore:
        def full(needed: int) -> str:
            free = shutil.disk_usage(folder).free
            return (
                f"the disk is full: the images need about {size(needed)} ({needed:,} bytes) more in {folder} and "
                f"{size(free)} are free; make room, choose another folder with --cache, or take a short side below "
                f"{self._settings.short_side} pixels. What is decoded so far is kept."
            )

        limit = make_room(folder.parent, folder) if writable else None
        with disk_log(folder, writable=writable, limit=limit) as log:
            found = fill(self._source, log, self._settings, self._progress, full)
            log.seal()
            return self._store(found, log, str(folder))

    def _store(self, found: Ingested, log: PixelLog, location: str) -> ImageStore:
        return ImageStore(found, self._source, self._settings.short_side, log.pixels(), location)


def _nothing_readable(total: int, skipped: list[tuple[str, str]]) -> str:
    first = ""
    if skipped:
        name, reason = skipped[0]
        first = f" ({'the first, ' if total > 1 else ''}{name}: {reason})"
    none = "the only image cannot" if total == 1 else f"none of the {total:,} images can"
    return f"{none} be read{first}; `unlabeled check` lists every file with its problem."
