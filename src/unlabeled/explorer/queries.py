"""What the pages of the explorer ask, answered from a run as plain values for JSON: never more than one page of anything."""

from __future__ import annotations

import ctypes
import hashlib
import io
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from unlabeled.data import tiff
from unlabeled.data.decode import DECODER_ERRORS, decode, pillow_warnings_ignored
from unlabeled.data.pixels import PIXEL_LIMIT, Undecodable, to_channels
from unlabeled.data.sources import Source
from unlabeled.errors import DataError, UnlabeledError
from unlabeled.explorer.map import Places
from unlabeled.explorer.order import ClusterOrder, MemberOrder, Order
from unlabeled.explorer.thumbnails import Picture, Pictures
from unlabeled.progress import counted
from unlabeled.report.page import printable
from unlabeled.runs.opened import OpenedRun
from unlabeled.training import health
from unlabeled.version import __version__

TYPICAL = 8
"""Members shown of a cluster in the list of all."""
NEIGHBORS = 24
ALIKE = 5
MOST_NAMES = 20_000
"""Names told at once; a person who wants more has clusters.csv."""
UPLOAD_PIXELS = 50_000_000
"""Pixels of an image that is searched for: a few kilobytes may declare enough to fill the memory."""


def declared_pixels(content: bytes) -> int:
    """Height × width that the header of an encoded image declares; 0 where nobody knows it, as of arrays."""
    with pillow_warnings_ignored:
        try:
            with Image.open(io.BytesIO(content)) as image:
                return image.height * image.width
        except Image.DecompressionBombError:
            return PIXEL_LIMIT
        except DECODER_ERRORS:
            return tiff.declared_pixels(content)


def give_memory_back() -> None:
    """Return freed memory to the system: the allocator would keep what one large picture took for ever."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class NotThere(DataError):
    """There is no image or cluster of this number, or no report."""


class Upload(Source):
    """One image that came from outside, in memory."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(Path(name), "upload", [name])
        self._content = content

    def read(self, index: int) -> bytes:
        """The bytes that came."""
        return self._content

    def fingerprint(self, index: int) -> tuple[int | str, ...]:
        """Digest of the bytes."""
        return (hashlib.blake2b(self._content, digest_size=16).hexdigest(),)


class Answers:
    """A run, opened for looking at. May be asked from several threads."""

    def __init__(self, run: OpenedRun) -> None:
        """Raises RunError where the run has not finished, DataError where its images are gone."""
        self.run = run
        self._catalogue = run.catalogue
        self._names = run.names
        self._unlike = self._catalogue.unlike()
        self.order = Order(self._catalogue)
        self.pictures = Pictures(run.record, self._names)
        self.places = Places(run, self.pictures)
        # Two searches at once would only take each other's cores.
        self._network = threading.Lock()

    def __len__(self) -> int:
        return len(self._names)

    def report(self) -> Picture:
        """The report of the run as it lies there now. Raises NotThere where it has none, or one that cannot be read."""
        path = self.run.folder.report
        try:
            return Picture(path.read_bytes(), "text/html; charset=utf-8")
        except OSError:
            raise NotThere("this run has no report yet: `unlabeled report RUN` writes it.") from None

    def about(self) -> dict[str, Any]:
        """The run in a few words and numbers."""
        run = self.run
        return {
            "title": printable(run.path.resolve().name),
            "subtitle": f"{run.config.method} on {counted(len(self), 'image')} from {printable(Path(run.record.data).name)}",
            "images": len(self),
            "clusters": int((self.order.sizes > 0).sum()),
            "unlike": int(self._unlike.sum()),
            "verdict": self._verdict(),
            "generator": f"unlabeled {__version__}",
        }

    def _verdict(self) -> str:
        epochs = [record for record in self.run.history if record["epoch"] > 0]
        return "not trained" if self.run.beginning and not epochs else health.diagnose(epochs).status

    def clusters(self, by: ClusterOrder, offset: int, limit: int) -> dict[str, Any]:
        """One page of the clusters, each with its most typical images."""
        numbers = self.order.clusters(by)
        shown = [
            self._cluster(int(number)) | {"typical": self.images(self.order.members(int(number))[:TYPICAL].tolist())}
            for number in numbers[offset : offset + limit]
        ]
        return {"total": len(numbers), "offset": offset, "clusters": shown}

    def cluster(self, number: int, by: MemberOrder, offset: int, limit: int) -> dict[str, Any]:
        """One page of the images of a cluster, and the clusters most like it. Raises NotThere."""
        if not 0 <= number < len(self.order.sizes):
            raise NotThere(
                f"there is no cluster {number}: clusters have the numbers 0 to {len(self.order.sizes) - 1:,}."
            )
        members = self.order.members(number, by)
        return {
            **self._cluster(number),
            "total": len(members),
            "offset": offset,
            "alike": [self._cluster(other) for other in self.order.alike(number, ALIKE)],
            "images": self.images(members[offset : offset + limit].tolist()),
        }

    def image(self, index: int, count: int = NEIGHBORS) -> dict[str, Any]:
        """One image and the images most similar to it. Raises NotThere."""
        self.require(index)
        found = self.order.nearest(self._catalogue.features[index], count, without=index)
        return self.images([index])[0] | {"neighbours": self._similar(found)}

    def find(self, text: str, offset: int, limit: int) -> dict[str, Any]:
        """One page of the images whose name holds `text` (in any case), before them the one with that number."""
        needle = text.strip().casefold()
        if not needle:
            raise DataError("there is nothing to look for: give a part of a name, or the number of an image.")
        found = [i for i, name in enumerate(self._names) if needle in name.casefold()]
        if needle.isascii() and needle.isdigit() and len(needle) < 10 and int(needle) < len(self):
            number = int(needle)
            found = [number, *(i for i in found if i != number)]
        return {"total": len(found), "offset": offset, "images": self.images(found[offset : offset + limit])}

    def names(self, packed: bytes) -> dict[str, Any]:
        """Names of the images whose numbers are uint32, little-endian, in `packed`; of very many the first. Raises NotThere."""
        if len(packed) % 4:
            raise DataError(f"numbers of images have four bytes each, got {len(packed):,} bytes.")
        rows = np.frombuffer(packed, "<u4")
        if len(rows):
            self.require(int(rows.max()))
        names = [printable(self._names[i]) for i in rows[:MOST_NAMES].tolist()]
        return {"total": len(rows), "names": names}

    def search(self, content: bytes, count: int = NEIGHBORS) -> dict[str, Any]:
        """The images most similar to an encoded one, and the cluster it would be in. Raises DataError."""
        name = "this file"
        pixels = declared_pixels(content)
        if pixels > UPLOAD_PIXELS:
            raise DataError(
                f"the image declares {pixels:,} pixels and a search takes at most {UPLOAD_PIXELS:,}: make it smaller."
            )
        try:
            with self._network:
                try:
                    to_channels(decode(content, name), self.run.record.channels)
                except Undecodable as error:
                    raise DataError(f"this file cannot be searched for: {error.reason}.") from error
                # No cache: the explorer writes nothing.
                store = replace(self.run.record, cache=None).open(Upload(content, name), title="reading the query")
                features = self.run.features_of(store)
                belongs = self._catalogue.assign(features)
        finally:
            store = None
            give_memory_back()
        return {
            "cluster": int(belongs.cluster[0]),
            "distance": float(belongs.distance[0]),
            "unlike": bool(belongs.novelty[0] > self._catalogue.novelty.threshold()),
            "neighbours": self._similar(self.order.nearest(features[0], count)),
        }

    def warm_up(self) -> None:
        """Load the network, so that the first search does not wait for it; what is wrong with it a search will say."""
        with self._network, suppress(UnlabeledError):
            self.run.backbone  # noqa: B018  (loaded when it is first asked for)

    def require(self, index: int) -> None:
        """Raises NotThere unless `index` is that of an image."""
        if not 0 <= index < len(self):
            raise NotThere(f"there is no image {index}: images have the numbers 0 to {len(self) - 1:,}.")

    def images(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """What is known of images, one dict each."""
        rows = torch.tensor(indices, dtype=torch.int64)
        columns = zip(
            indices,
            self._catalogue.clusters[rows].tolist(),
            self._catalogue.distances[rows].tolist(),
            self._unlike[rows].tolist(),
            strict=True,
        )
        return [
            {"index": i, "name": printable(self._names[i]), "cluster": cluster, "distance": distance, "unlike": unlike}
            for i, cluster, distance, unlike in columns
        ]

    def _cluster(self, number: int) -> dict[str, Any]:
        size, tightness = int(self.order.sizes[number]), float(self.order.tightness[number])
        return {"number": number, "size": size, "tightness": tightness}

    def _similar(self, found: list[tuple[int, float]]) -> list[dict[str, Any]]:
        shown = self.images([index for index, _ in found])
        return [one | {"similarity": similarity} for one, (_, similarity) in zip(shown, found, strict=True)]
