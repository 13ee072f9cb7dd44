"""Bring every image of a source into a pixel log, decoding only what is not there yet.

First all images are looked up, and what is missing is read, decoded, reduced and stored by a pool of threads. Images
that are not 8-bit are only noted in this pass. Then all images are known, so the number of channels is decided and one
range of values is taken from a sample of those that are not 8-bit, and the second pass scales and stores them.
"""

from __future__ import annotations

import errno
import hashlib
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from unlabeled.data.decode import Decoded, examine
from unlabeled.data.notes import Notes, countable
from unlabeled.data.pixel_cache import KEY_BYTES, PIXEL_TYPES, Image, PixelLog
from unlabeled.data.pixels import TURNED, Undecodable, ValueRange, scale_to_uint8, to_channels, value_range
from unlabeled.data.resize import reduce
from unlabeled.errors import DataError

if TYPE_CHECKING:
    from unlabeled.data.sources import Source

FORMAT_VERSION = 3
"""Part of every key: raised when the same content would give other pixels."""
FLUSH_IMAGES = 64
"""Images whose decoding a kill may waste."""
RANGE_IMAGES = 64
"""Evenly spaced images a range of values is taken from, where they are not 8-bit."""
RACY_SECONDS = 2.0
"""A file touched this shortly before it was read may change again within the same time stamp, so it is read anew."""
EIGHT_BITS = ValueRange((0.0,), (255.0,), 0.0)
"""The range of images that need no scaling."""


@dataclass
class Ingested:
    """What `fill` knows of a source."""

    images: dict[int, Image] = field(default_factory=dict[int, Image])
    """Readable images by position in the source."""
    skipped: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """Names of the others, with the reason."""
    channels: int = 0
    """Channels of all images; grey ones among colour ones are stored grey."""
    value_range: ValueRange = field(default_factory=lambda: EIGHT_BITS)
    """What was mapped to 0..255, where images are not 8-bit."""
    ranges: dict[str, ValueRange] = field(default_factory=dict[str, ValueRange])
    """The same for every pixel type that is not 8-bit."""
    contents: dict[int, bytes] = field(default_factory=dict[int, bytes])
    """Digest of the content of each image by position in the source."""
    notes: Notes = field(default_factory=Notes)
    """What was replaced, clipped or ignored in the pixels."""


@dataclass(frozen=True)
class Settings:
    """How pixels are prepared. `channels` and `value_range` come from the images where they are None."""

    short_side: int
    workers: int
    channels: int | None = None
    value_range: ValueRange | None = None


@dataclass(frozen=True)
class _Outcome:
    """What a thread made of one image: pixels, or only a note of its type, or a reason why it is not usable."""

    content: bytes = b""
    image: Image | None = None
    pixels: np.ndarray | None = None
    reason: str = ""


def fill(
    source: Source, log: PixelLog, settings: Settings, progress: Callable[[int, str], None], full: Callable[[int], str]
) -> Ingested:
    """All images of `source` are in `log` afterwards, or among the skipped.

    full: makes the sentence for a full disk of the bytes still needed. Raises DataError with it, OSError if the log
    cannot be written for another reason.
    """
    work = _Fill(source, log, settings, progress, full)
    work.first_pass()
    work.decide_channels()
    work.scale_wide_images()
    work.grey_colour_images()
    work.flush()
    work.count_notes()
    return work.found


class _Fill:
    def __init__(
        self,
        source: Source,
        log: PixelLog,
        settings: Settings,
        progress: Callable[[int, str], None],
        full: Callable[[int], str],
    ) -> None:
        self.found = Ingested()
        self._source, self._log, self._settings = source, log, settings
        self._progress, self._full = progress, full
        self._contents = self.found.contents
        self._begun = time.monotonic()
        self._done = self._decoded = self._stored = self._stored_bytes = self._unflushed = 0

    def first_pass(self) -> None:
        """Look every image up; decode, reduce and store what is missing. Images that are not 8-bit are only noted."""
        missing: list[int] = []
        for i in range(len(self._source)):
            content = self._content_by_stat(i)
            image = self._log.get(self._key(content)) if content else None
            if content and image:
                self._keep(i, content, image)
            else:
                missing.append(i)
        for i, outcome in _in_order(self._read, missing, self._settings.workers):
            if outcome.image is None:
                self._skip(i, outcome.reason)
            else:
                self._keep(i, outcome.content, self._store(self._key(outcome.content), outcome))

    def decide_channels(self) -> None:
        """RGB for grey and RGB together, else what most have; images that cannot be brought to that are skipped."""
        counts = Counter(image.channels for image in self.found.images.values())
        most = max(counts, key=lambda channels: (counts[channels], channels), default=0)
        channels = self._settings.channels or (3 if set(counts) == {1, 3} else most)
        self.found.channels = channels
        for i, image in list(self.found.images.items()):
            if image.channels != channels and {image.channels, channels} != {1, 3}:
                self._skip(i, other_channels(image.channels, channels))

    def scale_wide_images(self) -> None:
        """Store images that are not 8-bit, with one range of values for each pixel type.

        A range that was given is for the type most of them have, as it came from such a type when it was taken.
        """
        kinds = Counter(image.kind for image in self.found.images.values() if image.kind)
        channels, given = self.found.channels, self._settings.value_range
        # A range of 0 to 255 says that the images it came from were 8-bit: it knows nothing of others.
        if given is not None and (set(given.low), set(given.high)) == ({0.0}, {255.0}):
            given = None
        for place, kind in enumerate(sorted(kinds, key=lambda kind: (-kinds[kind], kind))):
            wide = [i for i, image in self.found.images.items() if image.kind == kind]
            values = given if given and place == 0 else self._range(wide)
            if place == 0:
                self.found.value_range = values
            self.found.ranges[PIXEL_TYPES[kind]] = values
            self.found.notes.add(scaling_note(PIXEL_TYPES[kind], values), count=len(wide))
            prepare = partial(_eight_bits, channels=channels, values=values)
            self._derive(wide, f"{channels} channels, {values.low} to {values.high}", prepare)

    def _range(self, positions: list[int]) -> ValueRange:
        rows = np.linspace(0, len(positions) - 1, min(len(positions), RANGE_IMAGES)).round().astype(int)
        sample = (self._decode_again(positions[row]) for row in np.unique(rows).tolist())
        return value_range(to_channels(pixels, self.found.channels) for pixels in sample if pixels is not None)

    def grey_colour_images(self) -> None:
        """Store colour images once more in grey, where one channel was asked for."""
        if self.found.channels == 1:
            colour = [i for i, image in self.found.images.items() if image.channels == 3]
            self._derive(colour, "grey", lambda pixels: to_channels(pixels, 1))

    def count_notes(self) -> None:
        """Count what was done to the images that are used; the log remembers it of those decoded earlier."""
        for i in sorted(self.found.images):
            for note in self._log.notes_of(self._key(self._contents[i])):
                if note != TURNED:
                    self.found.notes.add(countable(note, len(self._source)), self._source.names[i])

    def flush(self) -> None:
        """Make everything survive the end of the process."""
        with self._no_space():
            self._log.flush()
        self._unflushed = 0

    def _derive(self, positions: list[int], salt: str, prepare: Callable[[np.ndarray], np.ndarray]) -> None:
        """Replace images by what `prepare` makes of their decoded pixels, under keys of their own."""

        def work(i: int) -> _Outcome:
            try:
                decoded = self._examine(i, self._source.read(i))
                return self._reduced(self._contents[i], prepare(decoded.pixels), decoded.size)
            except Undecodable as error:
                return _Outcome(reason=error.reason)

        missing: list[int] = []
        for i in positions:
            image = self._log.get(self._key(self._contents[i], salt))
            if image:
                self.found.images[i] = image
            else:
                missing.append(i)
        for i, outcome in _in_order(work, missing, self._settings.workers):
            if outcome.image is None:
                self._skip(i, outcome.reason)
            else:
                self.found.images[i] = self._store(self._key(self._contents[i], salt), outcome)

    def _read(self, i: int) -> _Outcome:
        """In a thread: read, and decode if this content is new."""
        began = time.time_ns()
        stat_key = self._stat_key(i, began)
        try:
            data = self._source.read(i)
            content = _digest(data)
            if stat_key:
                self._log.note_content(stat_key, content)
            known = self._log.get(self._key(content))
            if known:
                return _Outcome(content, known)
            decoded = self._examine(i, data)
            kind = PIXEL_TYPES.index(decoded.pixels.dtype.name)
            if decoded.notes:
                self._log.note(self._key(content), decoded.notes)
            if kind:
                height, width, channels = decoded.pixels.shape
                return _Outcome(content, Image(0, height, width, channels, height, width, kind, 0))
            return self._reduced(content, decoded.pixels, decoded.size)
        except Undecodable as error:
            return _Outcome(reason=error.reason)

    def _examine(self, i: int, data: bytes | np.ndarray) -> Decoded:
        name, options = self._source.names[i], self._source.options
        return examine(data, name, short_side=self._settings.short_side, options=options)

    def _decode_again(self, i: int) -> np.ndarray | None:
        try:
            return self._examine(i, self._source.read(i)).pixels
        except Undecodable:
            return None

    def _reduced(self, content: bytes, pixels: np.ndarray, original: tuple[int, int]) -> _Outcome:
        pixels = reduce(pixels, self._settings.short_side)
        height, width, channels = pixels.shape
        return _Outcome(content, Image(0, height, width, channels, original[0], original[1], 0, 0), pixels)

    def _store(self, key: bytes, outcome: _Outcome) -> Image:
        image = self._log.get(key)
        if image is None:
            assert outcome.image is not None
            with self._no_space():
                image = self._log.put(key, outcome.image, outcome.pixels)
            self._stored += 1
            self._stored_bytes += image.size
            self._unflushed += 1
            if self._unflushed >= FLUSH_IMAGES:
                self.flush()
        return image

    @contextmanager
    def _no_space(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            left = len(self._source) - self._done
            each = self._stored_bytes / max(1, self._stored) or 3.0 * self._settings.short_side**2
            raise DataError(self._full(int(each * max(1, left)))) from None

    def _keep(self, i: int, content: bytes, image: Image) -> None:
        self.found.images[i] = image
        self._contents[i] = content
        self._advance()

    def _skip(self, i: int, reason: str) -> None:
        self.found.skipped.append((self._source.names[i], reason))
        if self.found.images.pop(i, None) is None:
            self._advance()

    def _advance(self) -> None:
        self._done += 1
        if self._done % 16 == 0 or self._done == len(self._source):
            rate = self._stored / max(1e-9, time.monotonic() - self._begun)
            self._progress(self._done, f"{rate:,.0f} images/s" if self._stored else "")

    def _key(self, content: bytes, salt: str = "") -> bytes:
        options = self._source.options.key
        name = f"{FORMAT_VERSION} {self._settings.short_side} {options} {salt}".encode()
        return hashlib.blake2b(content + name, digest_size=KEY_BYTES).digest()

    def _content_by_stat(self, i: int) -> bytes | None:
        key = self._stat_key(i, time.time_ns())
        return self._log.content_of(key) if key else None

    def _stat_key(self, i: int, now: int) -> bytes | None:
        """Digest of how the file looks from outside, None where that would prove nothing."""
        if self._source.kind == "array":
            return None  # reading a row costs no more than looking it up
        look = self._source.fingerprint(i)
        stamps = [part for part in look if isinstance(part, int) and part > 10**17]
        if not stamps or now - max(stamps) < RACY_SECONDS * 1e9:
            return None
        identity = (str(self._source.location(i) or self._source.path), look)
        return hashlib.blake2b(repr(identity).encode("utf-8", "surrogateescape"), digest_size=KEY_BYTES).digest()


def decode_again(source: Source, i: int, found: Ingested, short_side: int) -> np.ndarray:
    """The pixels of one image of `found`, uint8 H×W×C or H×W×1, as the log would hold them had there been room.

    Raises DataError if the file is no longer what it was.
    """
    name, known = source.names[i], found.images[i]
    try:
        pixels = examine(source.read(i), name, short_side=short_side, options=source.options).pixels
        kind = pixels.dtype.name
        if kind in found.ranges:
            pixels = _eight_bits(pixels, found.channels, found.ranges[kind])
        elif known.channels != pixels.shape[2]:
            pixels = to_channels(pixels, known.channels)
        pixels = reduce(pixels, short_side)
        same = pixels.shape == (known.height, known.width, known.channels)
        reason = "" if same else f"it is now {pixels.shape[0]} × {pixels.shape[1]} pixels"
    except Undecodable as error:
        reason, pixels = error.reason, np.empty(0, np.uint8)
    if reason:
        raise DataError(
            f"{name} changed after it was first read ({reason}), and the cache has no room to keep it: put it back as it was "
            "and resume, or give --cache a folder with room."
        )
    return pixels


def other_channels(have: int, wanted: int) -> str:
    """Why an image of `have` channels takes no part among those of `wanted`."""
    one = f"it has {have} channel{'s' if have > 1 else ''} and most images have {wanted}"
    return f"{one}: it can be read, and takes no part (train it with others of its kind)"


def scaling_note(kind: str, values: ValueRange) -> str:
    """How values of a pixel type become 8 bits."""
    name = "16-bit" if kind == "uint16" else "floating-point"
    each = (
        ", each channel by a range of its own within that"
        if len(set(zip(values.low, values.high, strict=True))) > 1
        else ""
    )
    return (
        f"{name} values are scaled to 8 bits from {min(values.low):.6g}..{max(values.high):.6g}{each}; "
        f"{100 * values.share_clipped:.2f} % of the sampled values lie outside and are clipped"
    )


def _eight_bits(pixels: np.ndarray, channels: int, values: ValueRange) -> np.ndarray:
    return scale_to_uint8(to_channels(pixels, channels), values)


def _digest(data: bytes | np.ndarray) -> bytes:
    if isinstance(data, bytes):
        return hashlib.blake2b(data, digest_size=KEY_BYTES).digest()
    digest = hashlib.blake2b(f"{data.dtype.str} {data.shape}".encode(), digest_size=KEY_BYTES)
    digest.update(data.tobytes())
    return digest.digest()


def _in_order(work: Callable[[int], _Outcome], items: list[int], workers: int) -> Iterator[tuple[int, _Outcome]]:
    """Outcomes in the order of `items`, made by threads that run at most a few items ahead."""
    if not items:
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        waiting: deque[tuple[int, Future[_Outcome]]] = deque()
        try:
            for item in items:
                waiting.append((item, pool.submit(work, item)))
                if len(waiting) >= 4 * workers:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()
