"""Images of a run: opened the same way when it is trained, resumed and asked about new pictures.

What the training fixed (channels, value range, kept size) is stored in RUN/data.json and applied to every later image, so a
feature means the same thing whenever it is computed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from unlabeled import progress
from unlabeled.config import Config, DataFacts
from unlabeled.data.augment import Views
from unlabeled.data.decode import decode
from unlabeled.data.display import display_of, from_record
from unlabeled.data.in_memory import IN_MEMORY, Images
from unlabeled.data.loading import Loader
from unlabeled.data.metadata import read_metadata
from unlabeled.data.pixels import Undecodable, ValueRange
from unlabeled.data.reading import ReadOptions
from unlabeled.data.sources import Source, open_source
from unlabeled.data.store import ImageStore, open_store
from unlabeled.distributed import all_gather_rows
from unlabeled.errors import ConfigError, DataError, RunError
from unlabeled.runs.folder import RunFolder

NO_IMAGES = "no images: imported weights"
"""Stands for the images of a run that has none of its own."""

PROBED = 32
"""Images looked at before a recipe decides; the whole set is read only once, into the store."""


@dataclass(frozen=True)
class DataRecord:
    """RUN/data.json: which images, and how pixels became numbers."""

    data: str
    """What the user named, as given; found again relative to where the command runs."""
    labels: str | None
    """Where labels for evaluation come from, or None."""
    count: int
    """Readable images: rows of the target table."""
    names_digest: str
    """Digest of their names in order: a resumed run must find the same images at the same index."""
    channels: int
    is_colour: bool
    value_range: dict[str, Any]
    """`low` and `high` per channel: what became 0 and 255, and the share of values beyond them."""
    store_size: int
    cache: str | None
    reading: dict[str, Any] = field(default_factory=dict[str, Any])
    """`frames` and `alpha` of `ReadOptions`; empty for the defaults."""
    batch: str | None = None
    """Where the batch of each image stands (plate, date, camera): `folder`, a column or a file; see `cluster.batches`."""
    metadata: str | None = None
    """A table with what else is known of the images, for the report and the explorer; see `data.metadata`."""
    display: dict[str, Any] = field(default_factory=dict[str, Any])
    """How images are shown to people, see `data.display`; empty in runs of 0.1.0."""

    @staticmethod
    def of(
        store: ImageStore,
        data: str,
        labels: str | None,
        store_size: int,
        cache: Path | None,
        batch: str | None = None,
        metadata: str | None = None,
    ) -> DataRecord:
        """The record of a store just opened for training."""
        return DataRecord(
            data,
            labels,
            len(store),
            digest(store.names),
            store.channels,
            store.is_colour,
            asdict(store.value_range),
            store_size,
            str(cache) if cache else None,
            store.reading,
            batch,
            metadata,
            asdict(store.display or display_of(store)),
        )

    @staticmethod
    def without_images(store_size: int, value_range: dict[str, Any], cache: Path | None) -> DataRecord:
        """The record of imported weights that were given no images: how those given to verbs are prepared."""
        return DataRecord(
            NO_IMAGES, None, 0, digest([]), 3, True, value_range, store_size, str(cache) if cache else None
        )

    @staticmethod
    def read(run: RunFolder) -> DataRecord:
        """Read RUN/data.json.

        Raises:
            RunError: it is missing or damaged.
        """
        values = run.read_json(run.data)
        names = {one.name for one in fields(DataRecord)}
        younger = {
            one.name for one in fields(DataRecord) if one.default_factory is not MISSING or one.default is not MISSING
        }
        is_whole = isinstance(values, dict) and names - younger <= set(values) <= names
        if not is_whole or not _is_value_range(values["value_range"]):
            raise RunError(
                f"{run.data} is damaged (it must hold {', '.join(sorted(names))}); put it back from a copy, or train again "
                "with `--if-exists replace`."
            )
        record = DataRecord(**values)
        record.options()  # complains where it names no way of reading
        if record.display:
            from_record(record.display)
        return record

    def options(self) -> ReadOptions:
        """How files were read. Raises ConfigError for unknown values."""
        try:
            return ReadOptions(**self.reading)
        except TypeError:
            raise ConfigError(
                f"reading in data.json has the keys {', '.join(self.reading)}; known are frames and alpha."
            ) from None

    def source(self) -> Source:
        """The images of the training.

        Raises:
            DataError: they are no longer where they were.
        """
        self.require()
        return open_source(self.data, self.options())

    def _require_images(self, data: str) -> None:
        if data == NO_IMAGES:
            raise DataError(
                "this run was imported without images: give DATA, or import the weights again with `--data DATA`."
            )
        if data == self.data:
            self.require()

    def require(self) -> None:
        """Raise DataError where nothing is at the place of the training images, and say how they are found again."""
        if self.data == IN_MEMORY:
            raise DataError(
                "the run was trained on images given in memory, which are gone: give DATA, or train on files to resume and report."
            )
        # An array of an archive is named FILE:NAME.
        if self.data != NO_IMAGES and not any(
            Path(place).exists() for place in (self.data, self.data.rsplit(":", 1)[0])
        ):
            seen = "" if Path(self.data).is_absolute() else f" from {Path.cwd()}"
            raise DataError(
                f"the images of the training are looked for in {self.data}{seen}, and nothing is there: run the command where you "
                'trained, put them back, or write their new place after "data" in data.json of the run.'
            )

    def source_of(self, data: Images) -> Source:
        """Other images, whose frames and alpha are read as those of the training. Raises DataError."""
        return open_source(data, self.options())

    def open(self, data: Images, title: str = "reading images") -> ImageStore:
        """New images, prepared exactly as the training images were.

        Raises:
            DataError: no readable image, or imported weights are asked for the images of their training.
        """
        if isinstance(data, (str, Path)):
            self._require_images(str(data))
        source = data if isinstance(data, Source) else open_source(data, self.options())
        low, high, clipped = (self.value_range[key] for key in ("low", "high", "share_clipped"))
        with progress.bar(title, len(source)) as update:
            store = open_store(
                source,
                short_side=self.store_size,
                cache=Path(self.cache) if self.cache else None,
                channels=self.channels,
                value_range=ValueRange(tuple(low), tuple(high), clipped),
                progress=update,
            )
        store.display = from_record(self.display) if self.display else None
        return store


def _is_value_range(value: Any) -> bool:
    return isinstance(value, dict) and {"low", "high", "share_clipped"} <= set(value)


def digest(names: Sequence[str]) -> str:
    """Short digest of names in order."""
    joined = "\0".join(names).encode(errors="surrogateescape")
    return hashlib.blake2b(joined, digest_size=12).hexdigest()


def probe(source: Source, device: Literal["cpu", "cuda"]) -> DataFacts:
    """What a recipe may know, from a few evenly spaced images.

    Raises:
        DataError: none of them can be read.
    """
    sizes: list[tuple[int, int, int]] = []
    reasons: list[str] = []
    for i in np.linspace(0, len(source) - 1, min(PROBED, len(source))).astype(int).tolist():
        try:
            height, width, channels = decode(source.read(i), source.names[i], source.options).shape
        except Undecodable as error:
            reasons.append(f"{source.names[i]}: {error.reason}")
            continue
        sizes.append((height, width, channels))
    if not sizes:
        # The doctor reads all of them; these few were only the first to fail.
        return DataFacts(len(source), 3, 1, 1, True, device)
    heights, widths, channels = zip(*sizes, strict=True)
    most = max(set(channels), key=channels.count)
    return DataFacts(len(source), most, int(np.median(heights)), int(np.median(widths)), most == 3, device)


def default_cache() -> Path | None:
    """Where decoded images are kept unless told otherwise: `UNLABELED_CACHE`, or the user's cache folder.

    None, with a note, where the user has no home folder: images are then kept in memory.
    """
    if folder := os.environ.get("UNLABELED_CACHE"):
        return Path(folder).expanduser()
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder) / "unlabeled"
    try:
        return Path.home() / ".cache" / "unlabeled"
    except RuntimeError:
        progress.say(
            "Note: there is no home folder, so decoded images are kept in memory; --cache names a folder for them."
        )
        return None


def place_of(data: Images) -> str:
    """What stands for these images in data.json: the path, or that they were in memory."""
    if isinstance(data, Source):
        return str(data.path)
    return str(Path(data).expanduser()) if isinstance(data, (str, Path)) else IN_MEMORY


def told_metadata(source: Source, table: str | Path) -> str:
    """Read a table of metadata, say its columns and what was odd; its path, as data.json keeps it.

    Raises:
        DataError: as `read_metadata`.
    """
    path = Path(table).expanduser()
    columns, notes = read_metadata(source, path)
    progress.say(f"Metadata: {', '.join(one.name for one in columns)}.")
    for sentence in notes.sentences():
        progress.say(f"Note: {sentence}")
    return str(path)


def resolved(place: str) -> str:
    """A place of images for comparison: the absolute path."""
    return place if place in (IN_MEMORY, NO_IMAGES) else str(Path(place).resolve())


def make_loader(store: ImageStore, config: Config, device: torch.device) -> Loader:
    """Batches of views of these images, as `config` describes them."""
    return Loader(store, Views.from_config(config, store.is_colour), device=device, seed=config.seed)


def same_on_every_rank(place: object, names: Sequence[str], contents: bytes = b"") -> None:
    """Refuse to go on where the processes of one run see different images at the same place.

    Raises:
        DataError: on every rank, so that none waits for the others.
    """
    own = hashlib.blake2b(digest(names).encode() + contents, digest_size=8).digest()
    facts = torch.tensor([[int.from_bytes(own, "little", signed=True), len(names)]])
    gathered = all_gather_rows(facts)
    if bool((gathered[:, 0] != gathered[0, 0]).any()):
        counts = ", ".join(f"{count:,}" for count in gathered[:, 1].tolist())
        raise DataError(
            f"the processes of this run find different images in {place} ({counts}: one number for each process; names and "
            "contents are compared too): give every machine the same files, then start again."
        )


def same_contents(store: ImageStore, kept: bytes, run: Path) -> None:
    """Refuse to go on with other pictures under the same names; `kept`: `ImageStore.contents` when the run began.

    Raises:
        DataError: the content of images changed.
    """
    if not kept or kept == store.contents or len(kept) != len(store.contents):
        return
    before, now = (np.frombuffer(part, np.uint64) for part in (kept, store.contents))
    changed = np.flatnonzero(before != now)
    shown = ", ".join(store.names[i] for i in changed[:3]) + (", …" if len(changed) > 3 else "")
    raise DataError(
        f"{progress.counted(len(changed), 'image')} of {store.source.path} changed since the run {run} began ({shown}); put them "
        "back as they were to resume, or train a new run with another --out."
    )


def same_images(store: ImageStore, record: DataRecord, run: Path) -> None:
    """Refuse to go on where an index would no longer mean the same image.

    Raises:
        DataError: images were added, removed or renamed since the run began.
    """
    if len(store) != record.count or digest(store.names) != record.names_digest:
        raise DataError(
            f"{record.data} now holds {len(store):,} readable images and the run {run} began with {record.count:,} (names compared "
            "too); put the folder back as it was to resume, or train a new run with another --out."
        )
